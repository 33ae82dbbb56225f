//! The threads of the shards besides the home shard.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use vdi_core::clock::{Clock, SystemClock};
use vdi_core::device::Opened;
use vdi_core::engine::{Engine, EngineOptions};
use vdi_core::executor::Executor;

use super::failed;
use super::logs::Logs;
use super::open::{OpenedHome, env, report_recovery};
use crate::control::api::error::Result;
use crate::shard::devices::Devices;
use crate::shard::{Place, Shard, ShardOptions, shard, staging};
use crate::vhost::Event;

/// The threads, while they open their logs.
pub(super) struct Starting {
    threads: Vec<JoinHandle<bool>>,
    opened: Receiver<Result<()>>,
}

/// The threads at work.
pub(super) struct Others(Vec<JoinHandle<bool>>);

/// What a thread is started with.
struct Start {
    place: Place,
    file: Opened,
    logs: Logs,
    engine_options: EngineOptions,
    options: ShardOptions,
}

/// Start a thread for each of `places`; each rings `home` when it has opened its engine, or failed.
pub(super) fn start(
    home: &mut OpenedHome,
    places: impl Iterator<Item = Place>,
    home_wake: &Event,
) -> Result<Starting> {
    let (report, opened) = channel();
    let mut threads = Vec::new();
    let files = std::mem::take(&mut home.files);
    for (place, file) in places.zip(files) {
        let number = place.number();
        let start = Start {
            file,
            logs: home.logs.clone(),
            engine_options: home.engine_options,
            options: home.options_of(number),
            place,
        };
        let (report, wake) = (report.clone(), home_wake.clone());
        let thread = std::thread::Builder::new()
            .name(format!("shard {number}"))
            .spawn(move || run(start, &report, &wake))
            .map_err(|e| failed("start the thread of a shard".to_owned(), &e))?;
        threads.push(thread);
    }
    Ok(Starting { threads, opened })
}

/// As [`Shard::run`].
fn run(start: Start, report: &Sender<Result<()>>, home_wake: &Event) -> bool {
    let say = |result| {
        // Nobody listens when another shard failed first: the daemon ends.
        let _ended = report.send(result);
        home_wake.ring();
    };
    let ended = catch_unwind(AssertUnwindSafe(|| match open(start) {
        Ok(shard) => {
            say(Ok(()));
            shard.run()
        }
        Err(e) => {
            say(Err(e));
            true
        }
    }));
    // A daemon with a part missing is worse than one that is started again.
    ended.unwrap_or_else(|_| std::process::abort())
}

fn open(start: Start) -> Result<Shard> {
    let Start { place, file, logs, engine_options, options } = start;
    let executor = Executor::new();
    let clock: Rc<dyn Clock> = Rc::new(SystemClock);
    let mut devices = Devices::new(executor.clone(), Rc::clone(&clock))?;
    let store = devices.adopt(file)?;
    let log = logs.open(&mut devices, &store, place.number())?;
    let staging = staging::open(&options.staging, log.info().len_bytes, engine_options.staging_bytes)?;
    let (env, peers) = (env(&executor, &clock, staging)?, place.engines.clone());
    let engine =
        devices.run(async move { Engine::open_shard(env, store, log, engine_options, peers).await })?;
    report_recovery(&engine, place.number());
    Ok(shard(place, engine, executor, clock, options)?)
}

impl Starting {
    /// Answer the questions of the others until all of them are open.
    ///
    /// # Errors
    /// What one of them could not open.
    pub(super) fn wait_until_open(self, home: &mut Shard) -> Result<Others> {
        let mut missing = self.threads.len();
        let mut problem = None;
        home.run_while(|| {
            while let Ok(opened) = self.opened.try_recv() {
                missing -= 1;
                problem = problem.take().or(opened.err());
            }
            missing > 0 && problem.is_none()
        });
        problem.map_or(Ok(Others(self.threads)), Err)
    }
}

impl Others {
    /// Wait until all have ended, as they were asked to; false when one of them left something staged.
    pub(super) fn join(self) -> bool {
        let ended: Vec<bool> = self.0.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
        ended.into_iter().all(|left| left)
    }
}
