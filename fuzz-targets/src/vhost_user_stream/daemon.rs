//! A whole daemon in this process, with two disks attached, on devices in memory. The thread that makes it is its data
//! thread.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use vdi_core::clock::{Clock, SystemClock};
use vdi_core::engine::{Engine, Env};
use vdi_core::executor::{Executor, block_on};
use vhost_parallax::control::api::VdiName;
use vhost_parallax::control::api::run_dir::RunDir;
use vhost_parallax::shard::attached_file::Attachment;
use vhost_parallax::shard::{Ends, Shard, ShardOptions, home_shard, places};
use vhost_parallax::vhost::{Event, SocketAccess};

use super::watch::Rounds;
use crate::disks::{NEIGHBOUR, VILLAIN, options, two_disks};

/// The daemon.
pub struct Daemon {
    shard: Shard,
    ends: Ends,
    executor: Executor,
    wake: Event,
    /// Sockets of both disks.
    sockets: [PathBuf; 2],
    _dir: TempDir,
}

/// Rings the daemon when the work on the other thread is over, however it ends.
struct Over {
    flag: Arc<AtomicBool>,
    wake: Event,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::SeqCst);
        self.wake.ring();
    }
}

impl Daemon {
    /// Start it; both sockets take connections.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Daemon {
        let dir = tempfile::Builder::new().prefix("plx-fuzz-").tempdir().expect("a temporary directory");
        let chosen = RunDir::choose(Some(dir.path().to_owned()), |_| None, false);
        let run_dir = chosen.expect("an absolute path is a run directory");
        std::fs::create_dir(run_dir.vdi_dir()).expect("a directory for the sockets");
        let place = places(1).expect("an event counter").pop().expect("one shard has one place");
        let (executor, wake) = (Executor::new(), place.waker());
        let engine = open(&executor, place.engines.clone());
        let options = ShardOptions {
            run_dir: run_dir.clone(),
            access: SocketAccess::default(),
            reorder_seed: None,
            null_disks: false,
            store_url: String::new(),
            log_path: String::new(),
            staging: PathBuf::new(),
            cache_bytes: 0,
        };
        let clock: Rc<dyn Clock> = Rc::new(SystemClock);
        let made = home_shard(place, engine, executor.clone(), clock, options);
        let (mut shard, ends) = made.expect("a shard starts");
        let attachment = |vdi: &str| Attachment { vdi: vdi.to_owned(), num_queues: 2, read_only: false };
        shard.restore(vec![attachment(VILLAIN), attachment(NEIGHBOUR)]);
        let sockets = [VILLAIN, NEIGHBOUR].map(|name| {
            let name = VdiName::parse(name).expect("a sound name");
            run_dir.vdi_socket(&name).expect("a short path")
        });
        Daemon { shard, ends, executor, wake, sockets, _dir: dir }
    }
    /// Serve while `work` goes on in another thread, with the sockets of both disks; then end in good order.
    ///
    /// # Panics
    /// When the work does.
    pub fn serve(self, work: impl FnOnce(&[PathBuf; 2], &Rounds) + Send + 'static) {
        let Daemon { mut shard, ends, executor, wake, sockets, _dir } = self;
        let flag = Arc::new(AtomicBool::new(false));
        let over = Over { flag: Arc::clone(&flag), wake };
        let rounds = Rounds::default();
        let seen = rounds.clone();
        let thread = std::thread::spawn(move || {
            let _rings_at_the_end = over;
            work(&sockets, &seen);
        });
        shard.run_while(|| {
            rounds.count();
            !flag.load(Ordering::SeqCst)
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        ends.stop.ask();
        shard.run();
        // Tasks hold the engine, and the engine the executor.
        executor.abandon_all();
    }
}

fn open(executor: &Executor, peers: vdi_core::engine::Peers) -> Engine {
    let stage = two_disks().stage(1);
    let clock: Rc<dyn Clock> = Rc::new(SystemClock);
    executor.advance_to(clock.now_ns());
    let env = Env { executor: executor.clone(), clock, ..stage.env() };
    let (store, log) = (stage.store.clone(), stage.log.clone());
    let (s, l) = (store.clone(), log.clone());
    let opened =
        block_on(executor, Engine::open_home(env, s, l, options(), peers), move || store.poll() | log.poll());
    opened.expect("a sound image opens")
}
