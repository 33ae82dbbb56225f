//! Where an engine runs under a fuzzer: two devices in memory, a clock that moves when nothing else does, and a
//! bound on everything.

use std::cell::RefCell;
use std::rc::Rc;

use vdi_core::clock::{Clock, ManualClock};
use vdi_core::device::memory::Media;
use vdi_core::device::simulated::Random;
use vdi_core::device::{DeviceHandle, MemoryDevice};
use vdi_core::engine::{Engine, EngineOptions, Env};
use vdi_core::executor::Executor;

/// Turns of the wheel that one piece of work may take.
const TURNS_MAX: u64 = 20_000;

/// One process's life over two media.
pub struct Stage {
    /// The device of the store.
    pub store: DeviceHandle,
    /// The device of the log.
    pub log: DeviceHandle,
    executor: Executor,
    clock: ManualClock,
    entropy: Rc<RefCell<Random>>,
}

/// What was to be done is not over after [`TURNS_MAX`] turns, or waits for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stuck;

impl Stage {
    /// A stage over `store` and `log`, of these lengths in bytes. Equal `seed`s give equal identities.
    #[must_use]
    pub fn new(store: (&Media, u64), log: (&Media, u64), seed: u64) -> Stage {
        let device = |name: &str, (media, len): (&Media, u64)| {
            DeviceHandle::new(Box::new(MemoryDevice::new(name, len, media.clone())))
        };
        Stage {
            store: device("store", store),
            log: device("log", log),
            executor: Executor::new(),
            clock: ManualClock::default(),
            entropy: Rc::new(RefCell::new(Random::new(seed))),
        }
    }
    /// What an engine needs of its surroundings.
    #[must_use]
    pub fn env(&self) -> Env {
        let entropy = Rc::clone(&self.entropy);
        Env {
            executor: self.executor.clone(),
            clock: Rc::new(self.clock.clone()),
            entropy: Rc::new(move || entropy.borrow_mut().bits()),
            staging: vdi_core::log::StagingMemory::default(),
        }
    }
    /// Open the engine on the two devices.
    pub fn open(&self, options: EngineOptions) -> Result<vdi_core::Result<Engine>, Stuck> {
        self.run(None, Engine::open(self.env(), self.store.clone(), self.log.clone(), options))
    }
    /// Turn the wheel until `work` is over.
    pub fn run<T: 'static>(
        &self,
        engine: Option<&Engine>,
        work: impl Future<Output = T> + 'static,
    ) -> Result<T, Stuck> {
        let out = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&out);
        self.executor.spawn(async move {
            let value = work.await;
            *slot.borrow_mut() = Some(value);
        });
        for _ in 0..TURNS_MAX {
            self.executor.run_until_stalled();
            if let Some(value) = out.borrow_mut().take() {
                return Ok(value);
            }
            if self.store.poll() | self.log.poll() {
                continue;
            }
            if let Some(engine) = engine {
                engine.kick();
                if self.executor.run_until_stalled() > 0 {
                    continue;
                }
            }
            let Some(next_ns) = self.executor.next_timer_ns() else { return Err(Stuck) };
            self.clock.advance_ns(next_ns.saturating_sub(self.clock.now_ns()));
            self.executor.advance_to(self.clock.now_ns());
        }
        Err(Stuck)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Tasks hold the engine, and the engine the executor: nothing would ever be freed.
        self.executor.abandon_all();
    }
}
