//! The shards of a host and how they reach each other. Each has a thread, an executor and a world of its own; what
//! one wants of another it posts there as work, and the answer wakes the task that asked. There is no lock and no
//! memory that two shards change, but for the queues.
//!
//! Jobs arrive in the order in which they were posted, so whoever hears of an extent from the home shard hears of it
//! before anyone can tell them of a block in it. Jobs waiting are bounded by what makes them: commands of the
//! administrator, extents of the store, and one message per checkpoint with freed blocks of other shards.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use crate::error::{Error, ErrorKind, Result};
use crate::executor::Executor;

/// What a shard is to the others: something with an executor, seen only on its own thread.
pub trait World: Clone + 'static {
    /// Runs the shard's tasks.
    fn executor(&self) -> &Executor;
}

/// Work for a shard, run on its thread.
pub type Job<W> = Box<dyn FnOnce(&W) + Send>;

/// The way to a shard.
pub trait Link<W>: Send + Sync {
    /// Run `job` on the shard's thread, after those posted before. Dropped unrun when the shard has ended.
    fn post(&self, job: Job<W>);
    /// Some task of the shard can go on: its loop must not sleep.
    fn wake(&self);
}

/// All shards of the host, as one of them sees them. The first is the home shard.
pub struct Peers<W> {
    own: u16,
    links: Arc<[Arc<dyn Link<W>>]>,
}

impl<W> Clone for Peers<W> {
    fn clone(&self) -> Peers<W> {
        Peers { own: self.own, links: Arc::clone(&self.links) }
    }
}

impl<W: World> Peers<W> {
    /// The shards behind `links`, seen from number `own`.
    #[must_use]
    pub fn new(own: u16, links: Arc<[Arc<dyn Link<W>>]>) -> Peers<W> {
        assert!(usize::from(own) < links.len());
        Peers { own, links }
    }
    /// The shard that looks.
    #[must_use]
    pub fn own(&self) -> u16 {
        self.own
    }
    /// The other shards.
    pub fn others(&self) -> impl Iterator<Item = u16> + use<W> {
        let own = self.own;
        (0..self.links.len() as u16).filter(move |n| *n != own)
    }
    /// Run `job` on shard `to`, if there is such a shard, and go on.
    pub fn tell(&self, to: u16, job: impl FnOnce(&W) + Send + 'static) {
        if let Some(link) = self.links.get(usize::from(to)) {
            link.post(Box::new(job));
        }
    }
    /// Run `work` as a task of shard `to` and wait for what it returns.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] when that shard has ended.
    pub async fn ask<T, F>(&self, to: u16, work: impl FnOnce(W) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let asker = Arc::clone(&self.links[usize::from(self.own)]);
        let question = Arc::new(Question { state: Mutex::new(State::Waiting(None)), asker });
        let answer = Answer(Arc::clone(&question));
        self.tell(to, move |world| {
            let there = world.clone();
            world.executor().spawn(async move {
                let value = work(there).await;
                answer.0.settle(State::Here(value));
            });
        });
        poll_fn(|cx| {
            let mut state = question.lock();
            match std::mem::replace(&mut *state, State::Gone) {
                State::Waiting(_) => {
                    *state = State::Waiting(Some(cx.waker().clone()));
                    Poll::Pending
                }
                State::Here(value) => Poll::Ready(Ok(value)),
                State::Gone => Poll::Ready(Err(Error::new(
                    ErrorKind::Poisoned,
                    format!("shard {to} has ended"),
                    "restart the daemon, which recovers",
                ))),
            }
        })
        .await
    }
}

enum State<T> {
    Waiting(Option<Waker>),
    Here(T),
    /// Nobody will answer.
    Gone,
}

struct Question<W, T> {
    state: Mutex<State<T>>,
    asker: Arc<dyn Link<W>>,
}

impl<W, T> Question<W, T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics while it holds the answer")
    }
    /// The first to settle it does.
    fn settle(&self, new: State<T>) {
        let waker = {
            let mut state = self.lock();
            match &mut *state {
                State::Waiting(waker) => {
                    let waker = waker.take();
                    *state = new;
                    waker
                }
                _ => return,
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        self.asker.wake();
    }
}

/// Settles the question when it is dropped without an answer.
struct Answer<W, T>(Arc<Question<W, T>>);

impl<W, T> Drop for Answer<W, T> {
    fn drop(&mut self) {
        self.0.settle(State::Gone);
    }
}
