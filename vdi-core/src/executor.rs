//! A single-threaded task set: spawn futures, run them until none can go on, wake them from device
//! completions and timers. The shard's loop and the simulator drive the same `run_until_stalled`.
//!
//! It owns no I/O and no clock: callers say what time it is. Tasks run in the order in which they
//! were woken, so a run with the same inputs is the same run.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct ReadyQueue(Mutex<VecDeque<usize>>);

impl ReadyQueue {
    fn push(&self, id: usize) {
        self.0.lock().expect("no task panics while it holds the queue").push_back(id);
    }
    fn pop(&self) -> Option<usize> {
        self.0.lock().expect("no task panics while it holds the queue").pop_front()
    }
}

struct TaskWaker {
    id: usize,
    ready: Arc<ReadyQueue>,
    queued: std::sync::atomic::AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        Wake::wake_by_ref(&self);
    }
    fn wake_by_ref(self: &Arc<Self>) {
        use std::sync::atomic::Ordering::AcqRel;
        if !self.queued.swap(true, AcqRel) {
            self.ready.push(self.id);
        }
    }
}

struct TaskSlot {
    task: Option<Task>,
    waker: Arc<TaskWaker>,
}

#[derive(Default)]
struct Inner {
    tasks: RefCell<Slab<TaskSlot>>,
    ready: Arc<ReadyQueue>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timer_ids: Cell<u64>,
    now_ns: Cell<u64>,
}

/// Handle on the task set; clones share it.
#[derive(Clone, Default)]
pub struct Executor(Rc<Inner>);

impl Executor {
    /// An empty task set at time zero.
    #[must_use]
    pub fn new() -> Executor {
        Executor::default()
    }
    /// Add a task; it first runs in the next [`Executor::run_until_stalled`].
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let waker = Arc::new(TaskWaker {
            id: entry.key(),
            ready: Arc::clone(&self.0.ready),
            queued: std::sync::atomic::AtomicBool::new(false),
        });
        entry.insert(TaskSlot { task: Some(Box::pin(future)), waker: Arc::clone(&waker) });
        waker.wake();
    }
    /// Run woken tasks until none is left; returns how many polls that took. Tasks that [`yield_now`] go on
    /// with the next call: whoever drives the set looks after devices and guests in between.
    pub fn run_until_stalled(&self) -> usize {
        let mut polls = 0;
        let yielded = YIELDED.with(|y| std::mem::take(&mut *y.borrow_mut()));
        for waker in yielded {
            waker.wake();
        }
        while let Some(id) = self.0.ready.pop() {
            polls += self.poll_task(id);
        }
        polls
    }
    fn poll_task(&self, id: usize) -> usize {
        let (mut task, task_waker) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(slot) = tasks.get_mut(id) else { return 0 };
            let Some(task) = slot.task.take() else { return 0 };
            (task, Arc::clone(&slot.waker))
        };
        task_waker.queued.store(false, std::sync::atomic::Ordering::Release);
        let waker = Waker::from(Arc::clone(&task_waker));
        match task.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => {
                // A stale wake-up must not find a later task under this id: mark it queued for ever.
                task_waker.queued.store(true, std::sync::atomic::Ordering::Release);
                let slot = self.0.tasks.borrow_mut().remove(id);
                drop(slot);
            }
            Poll::Pending => {
                if let Some(slot) = self.0.tasks.borrow_mut().get_mut(id) {
                    slot.task = Some(task);
                }
            }
        }
        1
    }
    /// True when no task is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0.tasks.borrow().is_empty()
    }
    /// Number of tasks that have not finished.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.0.tasks.borrow().len()
    }
    /// Drop every task, finished or not (a simulated crash).
    pub fn abandon_all(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        while self.0.ready.pop().is_some() {}
        self.0.timers.borrow_mut().clear();
    }
    /// Tell the time and wake every sleeper whose moment has come.
    pub fn advance_to(&self, now_ns: u64) {
        self.0.now_ns.set(self.0.now_ns.get().max(now_ns));
        loop {
            let due = {
                let timers = self.0.timers.borrow();
                timers.first_key_value().filter(|(k, _)| k.0 <= now_ns).map(|(k, _)| *k)
            };
            let Some(key) = due else { break };
            let waker = self.0.timers.borrow_mut().remove(&key);
            if let Some(w) = waker {
                w.wake();
            }
        }
    }
    /// When the next sleeper wakes, in ns of the injected clock.
    #[must_use]
    pub fn next_timer_ns(&self) -> Option<u64> {
        self.0.timers.borrow().first_key_value().map(|(k, _)| k.0)
    }
    /// The time last told with [`Executor::advance_to`].
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.now_ns.get()
    }
    /// Sleep until the injected clock shows `deadline_ns`.
    pub fn sleep_until(&self, deadline_ns: u64) -> Sleep {
        Sleep { executor: self.clone(), deadline_ns, key: None }
    }
    /// Sleep for `ns` from the time last told.
    pub fn sleep(&self, ns: u64) -> Sleep {
        self.sleep_until(self.now_ns().saturating_add(ns))
    }
}

thread_local! {
    /// Tasks of this thread that gave way until their driver comes round again.
    static YIELDED: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Give way to devices and guests: the task goes on with the next [`Executor::run_until_stalled`]. Long
/// work that never waits calls this at least every 200 us.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        YIELDED.with(|y| y.borrow_mut().push(cx.waker().clone()));
        Poll::Pending
    })
}

/// True when a task of this thread gave way: its driver must not sleep.
#[must_use]
pub fn has_yielded() -> bool {
    YIELDED.with(|y| !y.borrow().is_empty())
}

/// Future of [`Executor::sleep`].
pub struct Sleep {
    executor: Executor,
    deadline_ns: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let inner = Rc::clone(&self.executor.0);
        if inner.now_ns.get() >= self.deadline_ns {
            return Poll::Ready(());
        }
        let deadline_ns = self.deadline_ns;
        let key = *self.key.get_or_insert_with(|| {
            inner.timer_ids.set(inner.timer_ids.get() + 1);
            (deadline_ns, inner.timer_ids.get())
        });
        inner.timers.borrow_mut().insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.executor.0.timers.borrow_mut().remove(&key);
        }
    }
}

/// Names one operation in flight; never reused while the operation is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

enum TokenState<T> {
    Waiting(Option<Waker>),
    Done(T),
    /// Its future was dropped; the result is thrown away when it comes.
    Abandoned,
}

struct TokensInner<T>(RefCell<Slab<TokenState<T>>>);

/// Operations in flight, each with a future for its result. Bounded by whoever issues.
pub struct Tokens<T>(Rc<TokensInner<T>>);

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Tokens(Rc::new(TokensInner(RefCell::new(Slab::new()))))
    }
}

impl<T> Tokens<T> {
    /// A new token and the future of its result.
    #[must_use]
    pub fn issue(&self) -> (Token, Pending<T>) {
        let key = self.0.0.borrow_mut().insert(TokenState::Waiting(None));
        (Token(key as u64), Pending { tokens: Rc::clone(&self.0), key: Some(key) })
    }
    /// Deliver the result of `token`. Panics for a token that is not in flight.
    pub fn complete(&self, token: Token, value: T) {
        let mut slab = self.0.0.borrow_mut();
        let key = usize::try_from(token.0).expect("tokens are slab keys");
        let old = std::mem::replace(&mut slab[key], TokenState::Abandoned);
        match old {
            TokenState::Waiting(waker) => {
                slab[key] = TokenState::Done(value);
                drop(slab);
                if let Some(w) = waker {
                    w.wake();
                }
            }
            TokenState::Abandoned => {
                slab.remove(key);
                drop(slab);
                drop(value);
            }
            TokenState::Done(_) => panic!("token {token:?} completed twice"),
        }
    }
    /// Operations in flight or not yet collected.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.0.borrow().len()
    }
}

/// Future of one operation. Dropping it does not stop the operation.
pub struct Pending<T> {
    tokens: Rc<TokensInner<T>>,
    key: Option<usize>,
}

impl<T> Future for Pending<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let key = self.key.expect("polled after completion");
        let tokens = Rc::clone(&self.tokens);
        let mut slab = tokens.0.borrow_mut();
        if let TokenState::Waiting(waker) = &mut slab[key] {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.key = None;
        match slab.remove(key) {
            TokenState::Done(value) => Poll::Ready(value),
            _ => unreachable!("an abandoned token has no future"),
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut slab = self.tokens.0.borrow_mut();
        if matches!(slab[key], TokenState::Done(_)) {
            let done = slab.remove(key);
            drop(slab);
            drop(done);
        } else {
            slab[key] = TokenState::Abandoned;
        }
    }
}

/// Wakes every waiter at each [`Signal::notify`]; waiters look again at whatever they wait for. Bounded by its waiters: each has
/// one entry, gone when its future is.
#[derive(Clone, Default)]
pub struct Signal(Rc<RefCell<Notices>>);

#[derive(Default)]
struct Notices {
    given: u64,
    waiting: Slab<Waker>,
}

impl Signal {
    /// Wake all waiters.
    pub fn notify(&self) {
        let waiting = {
            let mut notices = self.0.borrow_mut();
            notices.given += 1;
            std::mem::take(&mut notices.waiting)
        };
        for (_, waker) in waiting {
            waker.wake();
        }
    }
    /// Resolves at the first [`Signal::notify`] after this call.
    #[must_use]
    pub fn wait(&self) -> Notice {
        Notice { signal: self.clone(), given: self.0.borrow().given, key: None }
    }
}

/// The next notice of a [`Signal`].
pub struct Notice {
    signal: Signal,
    /// Notices given before.
    given: u64,
    /// Where this waits, once polled.
    key: Option<usize>,
}

impl Future for Notice {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let signal = self.signal.clone();
        let mut notices = signal.0.borrow_mut();
        if notices.given != self.given {
            return Poll::Ready(());
        }
        match self.key {
            Some(key) => notices.waiting[key].clone_from(cx.waker()),
            None => self.key = Some(notices.waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        let mut notices = self.signal.0.borrow_mut();
        let own = self.key.filter(|_| notices.given == self.given);
        let waker = own.map(|key| notices.waiting.remove(key));
        drop(notices);
        drop(waker);
    }
}

/// A lock that tasks wait for in turn: who lets go of it hands it to the one that has waited longest.
#[derive(Clone, Default)]
pub struct TaskLock(Rc<RefCell<LockState>>);

#[derive(Default)]
struct LockState {
    held: bool,
    waiting: VecDeque<Rc<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// It is the waiter's, who may not have noticed yet.
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl TaskLock {
    /// Wait for the lock.
    pub async fn lock(&self) -> TaskGuard {
        if let Some(guard) = self.try_lock() {
            return guard;
        }
        let waiting = Rc::new(Waiting::default());
        self.0.borrow_mut().waiting.push_back(Rc::clone(&waiting));
        let turn = Turn { lock: self.clone(), waiting };
        std::future::poll_fn(|cx| {
            if turn.waiting.granted.get() {
                return Poll::Ready(());
            }
            *turn.waiting.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        turn.waiting.granted.set(false);
        TaskGuard(self.clone())
    }
    /// Take the lock if it is free.
    #[must_use]
    pub fn try_lock(&self) -> Option<TaskGuard> {
        let free = !std::mem::replace(&mut self.0.borrow_mut().held, true);
        free.then(|| TaskGuard(self.clone()))
    }
    fn pass_on(&self) {
        let next = {
            let mut state = self.0.borrow_mut();
            let next = state.waiting.pop_front();
            state.held = next.is_some();
            next
        };
        if let Some(waiting) = next {
            waiting.granted.set(true);
            let waker = waiting.waker.borrow_mut().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// A place in the queue for a [`TaskLock`]; given up when dropped.
struct Turn {
    lock: TaskLock,
    waiting: Rc<Waiting>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.waiting.granted.get() {
            return self.lock.pass_on();
        }
        self.lock.0.borrow_mut().waiting.retain(|w| !Rc::ptr_eq(w, &self.waiting));
    }
}

/// Holds a [`TaskLock`].
pub struct TaskGuard(TaskLock);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// A future of `T` on the heap, bound to one thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Run `futures` side by side and collect their results in order.
pub async fn join_all<T>(futures: Vec<LocalFuture<'_, T>>) -> Vec<T> {
    let mut slots: Vec<_> = futures.into_iter().map(|f| (Some(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, out) in &mut slots {
            if let Some(f) = future {
                match f.as_mut().poll(cx) {
                    Poll::Ready(v) => {
                        *out = Some(v);
                        *future = None;
                    }
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    slots.into_iter().map(|(_, v)| v.expect("every future finished")).collect()
}

/// Run `future` to its end on a fresh task set, calling `poll` (which delivers completions) whenever
/// no task can go on. For tools that do one thing; gives up with a panic when `poll` says that nothing
/// more will come.
pub fn block_on<T: 'static>(
    executor: &Executor,
    future: impl Future<Output = T> + 'static,
    mut poll: impl FnMut() -> bool,
) -> T {
    let out = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&out);
    executor.spawn(async move {
        let value = future.await;
        *slot.borrow_mut() = Some(value);
    });
    loop {
        executor.run_until_stalled();
        if let Some(value) = out.borrow_mut().take() {
            return value;
        }
        assert!(
            poll() || has_yielded() || out.borrow().is_some(),
            "the task waits for something that will never come"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_in_wake_order_and_tokens_deliver() {
        let ex = Executor::new();
        let tokens: Tokens<u32> = Tokens::default();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (t1, p1) = tokens.issue();
        let (t2, p2) = tokens.issue();
        for (name, p) in [("a", p1), ("b", p2)] {
            let seen = Rc::clone(&seen);
            ex.spawn(async move {
                let v = p.await;
                seen.borrow_mut().push((name, v));
            });
        }
        ex.run_until_stalled();
        tokens.complete(t2, 2);
        tokens.complete(t1, 1);
        ex.run_until_stalled();
        assert_eq!(*seen.borrow(), [("b", 2), ("a", 1)]);
        assert!(ex.is_idle());
        assert_eq!(tokens.in_flight(), 0);
    }

    #[test]
    fn dropping_a_future_keeps_its_token_until_completion() {
        let tokens: Tokens<u32> = Tokens::default();
        let (t, p) = tokens.issue();
        drop(p);
        assert_eq!(tokens.in_flight(), 1);
        tokens.complete(t, 1);
        assert_eq!(tokens.in_flight(), 0);
    }

    #[test]
    fn sleepers_wake_in_order_of_deadline() {
        let ex = Executor::new();
        let seen = Rc::new(RefCell::new(Vec::new()));
        for ns in [30, 10, 20] {
            let (ex2, seen) = (ex.clone(), Rc::clone(&seen));
            ex.spawn(async move {
                ex2.sleep(ns).await;
                seen.borrow_mut().push(ns);
            });
        }
        ex.run_until_stalled();
        assert_eq!(ex.next_timer_ns(), Some(10));
        ex.advance_to(25);
        ex.run_until_stalled();
        assert_eq!(*seen.borrow(), [10, 20]);
        ex.advance_to(30);
        ex.run_until_stalled();
        assert_eq!(*seen.borrow(), [10, 20, 30]);
    }

    #[test]
    fn who_no_longer_waits_for_a_signal_leaves_nothing_behind() {
        let (ex, signal) = (Executor::new(), Signal::default());
        let waiting = |signal: &Signal| signal.0.borrow().waiting.len();
        for _ in 0..100 {
            let signal = signal.clone();
            ex.spawn(async move {
                let mut notice = std::pin::pin!(signal.wait());
                std::future::poll_fn(|cx| {
                    assert!(notice.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
            });
            ex.run_until_stalled();
        }
        assert_eq!(waiting(&signal), 0);
        let woken = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let (notice, woken) = (signal.wait(), Rc::clone(&woken));
            ex.spawn(async move {
                notice.await;
                woken.set(woken.get() + 1);
            });
        }
        ex.run_until_stalled();
        assert_eq!((waiting(&signal), woken.get()), (3, 0));
        signal.notify();
        ex.run_until_stalled();
        assert_eq!((waiting(&signal), woken.get()), (0, 3));
    }

    #[test]
    fn a_task_lock_is_held_by_one_at_a_time() {
        let ex = Executor::new();
        let lock = TaskLock::default();
        let inside = Rc::new(Cell::new(0));
        let done = Rc::new(Cell::new(0));
        for _ in 0..5 {
            let (lock, inside, done) = (lock.clone(), inside.clone(), done.clone());
            ex.spawn(async move {
                let _guard = lock.lock().await;
                inside.set(inside.get() + 1);
                assert_eq!(inside.get(), 1);
                yield_now().await;
                inside.set(inside.get() - 1);
                done.set(done.get() + 1);
            });
        }
        ex.run_until_stalled();
        while has_yielded() {
            ex.run_until_stalled();
        }
        assert_eq!(done.get(), 5);
    }
    #[test]
    fn a_task_lock_goes_to_who_has_waited_longest_and_not_to_who_asks_again() {
        let ex = Executor::new();
        let lock = TaskLock::default();
        let order = Rc::new(RefCell::new(Vec::new()));
        let task = |name, times| {
            let (lock, order) = (lock.clone(), Rc::clone(&order));
            async move {
                for _ in 0..times {
                    let _guard = lock.lock().await;
                    order.borrow_mut().push(name);
                    yield_now().await;
                }
            }
        };
        ex.spawn(task("greedy", 4));
        ex.spawn(task("first", 1));
        ex.run_until_stalled();
        // Gives up its place while it waits.
        let mut gone = Box::pin(task("gone", 1));
        assert!(gone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(gone);
        ex.spawn(task("second", 1));
        while has_yielded() {
            ex.run_until_stalled();
        }
        assert_eq!(*order.borrow(), ["greedy", "first", "second", "greedy", "greedy", "greedy"]);
        assert!(lock.try_lock().is_some());
    }
}
