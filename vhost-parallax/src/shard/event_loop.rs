//! The loop itself: turns, polling, sleeping, and the end.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use vdi_core::executor::Tokens;
use vdi_core::{Error, Result};

use super::attached_file::Attachment;
use super::front::Front;
use super::place::{Here, Inbox};
use super::polling::Polling;
use super::serve::Rings;
use super::{LAST_CHECKPOINT_NS, LAST_REQUESTS_NS, Stop, World};
use crate::control::api::command::CommandReceiver;
use crate::vhost::DataPort;

/// Epoll token of the counter that other threads ring.
const WAKE_TOKEN: u64 = u64::MAX;
/// Epoll token of the engine's devices.
const ENGINE_TOKEN: u64 = u64::MAX - 1;
/// A loop that never sleeps still looks at its descriptors every so many turns.
const TURNS_PER_LOOK: u32 = 16;
const EVENTS_MAX: usize = 64;
/// How often a shard looks whether its staging memory can still be found, ns.
const STAGING_LOOK_NS: u64 = 10_000_000_000;
/// A sleep without a timer ends at the latest after this, ms: belt and braces, not needed by anything.
const SLEEP_MS_MAX: u64 = 3_600_000;

/// What only the home shard is told: commands, and when to end.
pub(super) struct Orders {
    pub(super) front: Rc<Front>,
    pub(super) commands: CommandReceiver,
    pub(super) stop: Stop,
}

/// The loop and what it owns.
pub struct Shard {
    world: Rc<World>,
    port: DataPort,
    inbox: Arc<Inbox>,
    orders: Option<Orders>,
    epoll: RawFd,
    rings: Rings,
    polling: Polling,
    turns: u32,
    ending: bool,
}

fn failed(what: &str, e: &std::io::Error) -> Error {
    Error::io(what, e.raw_os_error().unwrap_or(libc::EIO))
}

impl Shard {
    pub(super) fn new(
        world: Rc<World>,
        port: DataPort,
        inbox: Arc<Inbox>,
        orders: Option<Orders>,
    ) -> Result<Shard> {
        let epoll = epoll::create(true).map_err(|e| failed("epoll", &e))?;
        let watch = |fd: RawFd, token: u64| {
            let event = epoll::Event::new(epoll::Events::EPOLLIN, token);
            epoll::ctl(epoll, epoll::ControlOptions::EPOLL_CTL_ADD, fd, event)
                .map_err(|e| failed("wait for events", &e))
        };
        watch(port.wake_fd().as_raw_fd(), WAKE_TOKEN)?;
        for fd in world.engine.fds() {
            watch(fd, ENGINE_TOKEN)?;
        }
        if world.options.staging.exists() {
            world.executor.spawn(Rc::clone(&world).watch_staging());
        }
        let rings = Rings::new(Rc::clone(&world), epoll);
        let polling = Polling::default();
        Ok(Shard { world, port, inbox, orders, epoll, rings, polling, turns: 0, ending: false })
    }
    /// Serve again what was attached before, and what the configuration wants attached. What cannot be is
    /// reported and left out; it stays in `attached.json`.
    pub fn restore(&mut self, wanted: Vec<Attachment>) {
        let Some(front) = self.orders.as_ref().map(|o| Rc::clone(&o.front)) else { return };
        self.run_one(front.restore(wanted));
    }
    /// Run until `work` has ended, and everything else meanwhile.
    pub fn run_one<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> T {
        let done = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&done);
        self.world.executor.spawn(async move {
            let value = work.await;
            *slot.borrow_mut() = Some(value);
        });
        loop {
            self.round();
            if let Some(value) = done.borrow_mut().take() {
                return value;
            }
        }
    }
    /// Run while `busy` says so; whoever changes that wakes this thread.
    pub fn run_while(&mut self, mut busy: impl FnMut() -> bool) {
        while busy() {
            self.round();
        }
    }
    /// Run until someone asks for the end; false when acknowledged writes are in the staging memory only.
    pub fn run(mut self) -> bool {
        while !self.world.over.get() {
            self.round();
        }
        !self.world.left_behind.get()
    }
    /// One turn, and a sleep when it found nothing.
    fn round(&mut self) {
        if let Some(orders) = self.orders.as_ref().filter(|o| o.stop.is_asked())
            && !std::mem::replace(&mut self.ending, true)
        {
            let front = Rc::clone(&orders.front);
            self.world.executor.spawn(async move { front.end().await });
        }
        if self.turn() {
            self.polling.busy();
        } else if !self.polling.goes_on(self.world.clock.now_ns()) && !self.rings.rearm() {
            self.sleep();
        }
    }
    /// True if anything happened.
    fn turn(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS_PER_LOOK) {
            self.look(0);
        }
        let world = &self.world;
        let now_ns = world.clock.now_ns();
        world.executor.advance_to(now_ns);
        let mut any = self.rings.take_requests();
        any |= world.engine.poll();
        any |= world.executor.run_until_stalled() > 0;
        if world.engine.kick() {
            world.executor.run_until_stalled();
        }
        // What tasks and log have just submitted is on its way before anything else is done.
        any |= world.engine.poll();
        any |= self.rings.finish_requests(now_ns);
        any
    }
    fn sleep(&mut self) {
        let next = [self.world.executor.next_timer_ns(), self.rings.next_ns()];
        let now_ns = self.world.clock.now_ns();
        let wait_ms = match next.into_iter().flatten().min() {
            Some(at) => at.saturating_sub(now_ns).div_ceil(1_000_000).min(SLEEP_MS_MAX),
            None => SLEEP_MS_MAX,
        };
        if self.look(wait_ms as i32) {
            self.polling.slept(self.world.clock.now_ns() - now_ns);
        }
    }
    /// Wait for events and act on them; true if there were any.
    fn look(&mut self, wait_ms: i32) -> bool {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0); EVENTS_MAX];
        // An interrupted wait is a short wait.
        let n = epoll::wait(self.epoll, wait_ms, &mut events).unwrap_or(0);
        for event in &events[..n] {
            match event.data {
                WAKE_TOKEN => self.messages(),
                // The next turn polls the engine.
                ENGINE_TOKEN => {}
                ring => self.rings.kicked(ring as usize),
            }
        }
        n > 0
    }
    fn messages(&mut self) {
        self.port.wake_fd().clear();
        while let Some(message) = self.port.take() {
            self.rings.act(message);
        }
        let here = Here(Rc::clone(&self.world));
        while let Some(job) = self.inbox.take() {
            job(&here);
        }
        let Some(Orders { front, commands, .. }) = &mut self.orders else { return };
        while let Some(command) = commands.next() {
            self.world.executor.spawn(Rc::clone(front).run(command));
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.inbox.close();
        let _ = epoll::close(self.epoll);
    }
}

impl World {
    /// A run directory that is removed under the daemon, as a user's is when that user logs out, takes the staging memory along:
    /// the next daemon could not find it.
    async fn watch_staging(self: Rc<Self>) {
        let path = &self.options.staging;
        while path.exists() {
            self.executor.sleep(STAGING_LOOK_NS).await;
        }
        if self.over.get() || self.leaving.get() {
            return;
        }
        match self.engine.leave_staging().await {
            Ok(()) => tracing::warn!(
                "{} is gone: writes are acknowledged when they are on the log's device from now on",
                path.display()
            ),
            Err(e) => tracing::error!(error = %e, hint = e.hint(), "{} is gone", path.display()),
        }
    }
    /// The end of a shard that others do not need.
    pub(super) async fn end(&self) {
        self.finish().await;
        self.over.set(true);
    }
    /// Bring the log to the store while guests go on, then let them go. The next daemon finds the same attachments,
    /// and replays whatever did not fit into the time.
    pub(super) async fn finish(&self) {
        tracing::info!("stopping: checkpoint");
        self.leaving.set(true);
        let engine = self.engine.clone();
        let left = within(self, LAST_REQUESTS_NS, self.started(async move { engine.leave_staging().await }));
        match left.await {
            // Nobody needs the file any more; the memory is there for as long as this daemon has it.
            Some(Ok(())) => drop(std::fs::remove_file(&self.options.staging)),
            Some(Err(e)) => {
                self.left_behind.set(true);
                tracing::error!(error = %e, hint = e.hint(), "not everything reached the log's device");
            }
            None => {
                self.left_behind.set(true);
                tracing::error!("the log's device is slow: the next start needs this run directory");
            }
        }
        let engine = self.engine.clone();
        match within(self, LAST_CHECKPOINT_NS, self.started(async move { engine.checkpoint().await })).await {
            Some(Ok(())) => {}
            Some(Err(e)) => tracing::warn!(error = %e, hint = e.hint(), "the last checkpoint failed"),
            None => tracing::warn!("the last checkpoint took too long; the next start replays the log"),
        }
        let disks: Vec<_> = self.disks.borrow().values().cloned().collect();
        for disk in &disks {
            if let Some(endpoint) = &*disk.endpoint.borrow() {
                endpoint.close();
            }
        }
        let all_gone = async {
            for disk in &disks {
                disk.wait_until_gone().await;
            }
        };
        if within(self, LAST_REQUESTS_NS, all_gone).await.is_none() {
            tracing::warn!("requests are still in flight; the next daemon takes them up");
        } else {
            let engine = self.engine.clone();
            let closed = within(self, LAST_REQUESTS_NS, self.started(async move { engine.close().await }));
            match closed.await {
                Some(Ok(())) => {}
                Some(Err(e)) => tracing::warn!(error = %e, hint = e.hint(), "closing the store failed"),
                None => tracing::warn!("closing the store took too long; the next start replays the log"),
            }
        }
    }
    /// `work` as a task, which goes on when nobody waits for it any more: a checkpoint is never dropped half way.
    fn started<T: 'static, W: Future<Output = T> + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = T> + use<T, W> {
        let tokens: Tokens<T> = Tokens::default();
        let (token, ended) = tokens.issue();
        self.executor.spawn(async move { tokens.complete(token, work.await) });
        ended
    }
}

/// The result of `work`, unless it takes longer than `limit_ns`.
async fn within<T>(world: &World, limit_ns: u64, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut timer = std::pin::pin!(world.executor.sleep(limit_ns));
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(value) = work.as_mut().poll(cx) {
            return std::task::Poll::Ready(Some(value));
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}
