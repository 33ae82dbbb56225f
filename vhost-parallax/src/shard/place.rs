//! Where a shard will be before it is: its inbox and the ends of its seams, made for all shards at once, so that each
//! knows the way to every other from the start.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use vdi_core::Result;
use vdi_core::engine::{self, Engine};
use vdi_core::executor::Executor;
use vdi_core::peers::{self, Job, Link, Peers};

use super::World;
use crate::vhost::{DataLink, DataPort, Event, data_link};

/// A shard's world, as jobs of other shards find it.
#[derive(Clone)]
pub(super) struct Here(pub(super) Rc<World>);

impl peers::World for Here {
    fn executor(&self) -> &Executor {
        &self.0.executor
    }
}

struct Waiting {
    jobs: VecDeque<Job<Here>>,
    /// Nobody will look any more.
    closed: bool,
}

/// What other shards want of this one. What bounds it is said in [`vdi_core::peers`].
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Event,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while it holds the inbox")
    }
    /// The next job, if there is one.
    pub(super) fn take(&self) -> Option<Job<Here>> {
        self.lock().jobs.pop_front()
    }
    /// The shard ends: those who wait for it hear so.
    pub(super) fn close(&self) {
        let left = {
            let mut waiting = self.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.jobs)
        };
        // Not under the lock: what is dropped rings others.
        drop(left);
    }
}

impl Link<Here> for Inbox {
    fn post(&self, job: Job<Here>) {
        let refused = {
            let mut waiting = self.lock();
            if waiting.closed {
                Some(job)
            } else {
                waiting.jobs.push_back(job);
                None
            }
        };
        drop(refused);
        self.wake.ring();
    }
    fn wake(&self) {
        self.wake.ring();
    }
}

/// The way to a shard's engine leads through its world.
struct ToEngine(Arc<Inbox>);

impl Link<Engine> for ToEngine {
    fn post(&self, job: Job<Engine>) {
        self.0.post(Box::new(move |here: &Here| job(&here.0.engine)));
    }
    fn wake(&self) {
        self.0.wake();
    }
}

/// A shard to be.
pub struct Place {
    /// All shards as their engines see each other from here.
    pub engines: engine::Peers,
    pub(super) worlds: Peers<Here>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) link: DataLink,
    pub(super) port: DataPort,
}

impl Place {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.engines.own()
    }
    /// Rings its thread.
    #[must_use]
    pub fn waker(&self) -> Event {
        self.link.waker()
    }
}

/// The places of `shards` shards, the home shard's first.
///
/// # Errors
/// Where the process has no descriptors left.
pub fn places(shards: u16) -> Result<Vec<Place>> {
    let mut inboxes = Vec::new();
    let mut seams = Vec::new();
    for _ in 0..shards {
        let (link, port) = data_link()?;
        let waiting = Mutex::new(Waiting { jobs: VecDeque::new(), closed: false });
        inboxes.push(Arc::new(Inbox { waiting, wake: link.waker() }));
        seams.push((link, port));
    }
    let to_worlds: Arc<[Arc<dyn Link<Here>>]> =
        inboxes.iter().map(|i| Arc::clone(i) as Arc<dyn Link<Here>>).collect();
    let to_engines: Arc<[Arc<dyn Link<Engine>>]> =
        inboxes.iter().map(|i| Arc::new(ToEngine(Arc::clone(i))) as Arc<dyn Link<Engine>>).collect();
    let place = |(own, (inbox, (link, port)))| Place {
        engines: Peers::new(own, Arc::clone(&to_engines)),
        worlds: Peers::new(own, Arc::clone(&to_worlds)),
        inbox,
        link,
        port,
    };
    Ok((0..shards).zip(inboxes.into_iter().zip(seams)).map(place).collect())
}
