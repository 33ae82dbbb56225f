//! For those who run many things on several threads: which are done, and panics as failures. Only here and beside its
//! users does the crate know of threads, and they are not the engine's.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::sabotage::{self, Bug};

/// Numbers given out in order that end in any order.
#[derive(Clone, Debug, Default)]
pub struct Front {
    started: u64,
    running: Vec<u64>,
}

impl Front {
    /// The first number given out is `first`.
    #[must_use]
    pub fn at(first: u64) -> Front {
        Front { started: first, running: Vec::new() }
    }
    /// All numbers below were given out.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started
    }
    /// The next number.
    pub fn start(&mut self) -> u64 {
        self.running.push(self.started);
        self.started += 1;
        self.started - 1
    }
    /// `number` has ended. Everything below the result has.
    pub fn end(&mut self, number: u64) -> u64 {
        self.running.retain(|n| *n != number);
        self.running.iter().copied().min().unwrap_or(self.started)
    }
}

thread_local! {
    static RUNNING: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Run `work` with `bug` on. A panic is a broken promise like any other: the error is its message. `name` is said on
/// stderr at every panic: one that comes while another unwinds ends the process.
pub fn guarded<T>(name: String, bug: Option<Bug>, work: impl FnOnce() -> T) -> Result<T, String> {
    print_name_at_panics();
    RUNNING.set(name);
    sabotage::switch_on(bug);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    sabotage::switch_on(None);
    RUNNING.take();
    outcome.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        format!("panic: {}", text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message"))
    })
}

fn print_name_at_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let name = RUNNING.with_borrow(Clone::clone);
            if !name.is_empty() {
                eprintln!("in {name}:");
            }
            hook(info);
        }));
    });
}
