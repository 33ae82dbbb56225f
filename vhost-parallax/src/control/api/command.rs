//! What the control thread asks of the data thread: one bounded channel, one answer per command.
//!
//! The fields of a command are validated; whoever executes it checks only what depends on the state of
//! the store. The data thread sleeps in `epoll`, so sending also wakes it, by a closure its owner gives
//! (an eventfd); the receiver drains the channel with [`CommandReceiver::next`] and never blocks.

use tokio::sync::{mpsc, oneshot};

use super::attach::AttachInfo;
use super::error::{Code, ErrorBody, Result};
use super::latency::LatencyReport;
use super::limits::{COMMAND_ROOM_TIMEOUT, COMMANDS_WAITING_MAX};
use super::name::{Label, VdiName};
use super::snapshot::{SnapshotInfo, SnapshotSelector};
use super::status::{CollectReport, Status};
use super::tree::Tree;
use super::vdi::VdiInfo;

/// Where the answer to a command goes.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<Result<T>>);

impl<T> Reply<T> {
    /// A reply and the end where its answer arrives.
    #[must_use]
    pub fn new() -> (Reply<T>, oneshot::Receiver<Result<T>>) {
        let (tx, rx) = oneshot::channel();
        (Reply(tx), rx)
    }
    /// Answer. Nobody listening any more is no error: the operation has been done all the same.
    pub fn answer<E: Into<ErrorBody>>(self, result: std::result::Result<T, E>) {
        let _gone = self.0.send(result.map_err(Into::into));
    }
}

/// One operation of the control socket.
#[derive(Debug)]
pub enum Command {
    /// Create a VDI; the same name with the same size once more is a success.
    Create {
        /// Its name.
        name: VdiName,
        /// Its size, bytes.
        size_bytes: u64,
        /// The new VDI.
        reply: Reply<VdiInfo>,
    },
    /// Delete a VDI. `busy` when attached, or when it has snapshots and `recursive` is not set.
    Delete {
        /// The VDI.
        vdi: VdiName,
        /// Its snapshots too.
        recursive: bool,
        /// Nothing.
        reply: Reply<()>,
    },
    /// All VDIs, by name.
    List {
        /// The VDIs.
        reply: Reply<Vec<VdiInfo>>,
    },
    /// One VDI.
    Show {
        /// The VDI.
        vdi: VdiName,
        /// All about it.
        reply: Reply<VdiInfo>,
    },
    /// Serve a VDI on its socket; durable before the answer. Once more with the same arguments is a
    /// success, with other arguments `busy`.
    Attach {
        /// The VDI.
        vdi: VdiName,
        /// Queues to offer.
        num_queues: u16,
        /// Let the front end only read.
        read_only: bool,
        /// The attachment.
        reply: Reply<AttachInfo>,
    },
    /// Stop serving a VDI. `busy` while a front end is connected and `force` is not set.
    Detach {
        /// The VDI.
        vdi: VdiName,
        /// Even while a front end is connected.
        force: bool,
        /// Nothing.
        reply: Reply<()>,
    },
    /// Take a snapshot; durable before the answer.
    Snapshot {
        /// The VDI.
        vdi: VdiName,
        /// Its label.
        label: Option<Label>,
        /// The snapshot.
        reply: Reply<SnapshotInfo>,
    },
    /// The snapshots of a VDI, oldest first.
    Snapshots {
        /// The VDI.
        vdi: VdiName,
        /// The snapshots.
        reply: Reply<Vec<SnapshotInfo>>,
    },
    /// Change the label of a snapshot; `None` takes it away.
    Label {
        /// The VDI.
        vdi: VdiName,
        /// The snapshot.
        snapshot: SnapshotSelector,
        /// Its new label.
        label: Option<Label>,
        /// The snapshot as it is now.
        reply: Reply<SnapshotInfo>,
    },
    /// Delete a snapshot.
    RemoveSnapshot {
        /// The VDI.
        vdi: VdiName,
        /// The snapshot.
        snapshot: SnapshotSelector,
        /// Nothing.
        reply: Reply<()>,
    },
    /// Clone a snapshot, or the present state (which is snapshotted first).
    Clone {
        /// The source.
        source: VdiName,
        /// Which of its snapshots.
        snapshot: Option<SnapshotSelector>,
        /// Name of the new VDI.
        name: VdiName,
        /// The new VDI.
        reply: Reply<VdiInfo>,
    },
    /// Return a VDI to a snapshot. The present state is snapshotted first; later snapshots stay. `busy`
    /// while a front end is connected.
    Rollback {
        /// The VDI.
        vdi: VdiName,
        /// The snapshot.
        snapshot: SnapshotSelector,
        /// The snapshot that keeps the state before.
        reply: Reply<SnapshotInfo>,
    },
    /// Change the size of a VDI; smaller only with `force`.
    Resize {
        /// The VDI.
        vdi: VdiName,
        /// Its new size, bytes.
        size_bytes: u64,
        /// Allow it to become smaller.
        force: bool,
        /// The VDI as it is now.
        reply: Reply<VdiInfo>,
    },
    /// The forest of VDIs and snapshots.
    Tree {
        /// The forest.
        reply: Reply<Tree>,
    },
    /// What the daemon says of itself.
    Status {
        /// All of it.
        reply: Reply<Status>,
    },
    /// How long things take, layer by layer.
    Latency {
        /// Begin to measure or end it, first.
        enable: Option<bool>,
        /// What was measured.
        reply: Reply<LatencyReport>,
    },
    /// Give back the blocks that no VDI or snapshot uses.
    Collect {
        /// Count only.
        dry_run: bool,
        /// What it found.
        reply: Reply<CollectReport>,
    },
    /// Bring everything acknowledged so far from the log to the store.
    Checkpoint {
        /// Nothing.
        reply: Reply<()>,
    },
}

/// The sending end: cheap to clone, wakes the data thread.
#[derive(Clone)]
pub struct CommandSender {
    queue: mpsc::Sender<Command>,
    wake: std::sync::Arc<dyn Fn() + Send + Sync>,
}

/// The data thread's end.
#[derive(Debug)]
pub struct CommandReceiver {
    queue: mpsc::Receiver<Command>,
}

/// The channel, for at most [`COMMANDS_WAITING_MAX`] waiting commands. `wake` is called after each
/// command is queued, from the control thread.
pub fn channel(wake: impl Fn() + Send + Sync + 'static) -> (CommandSender, CommandReceiver) {
    let (tx, rx) = mpsc::channel(COMMANDS_WAITING_MAX);
    (CommandSender { queue: tx, wake: std::sync::Arc::new(wake) }, CommandReceiver { queue: rx })
}

impl CommandSender {
    /// Send the command `make` builds around a reply, and wait for its answer.
    ///
    /// # Errors
    /// What the command answers; `unavailable` where the data thread is gone or takes no commands.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = Reply::new();
        match self.queue.send_timeout(make(reply), COMMAND_ROOM_TIMEOUT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(stopping()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(ErrorBody::new(
                    Code::Unavailable,
                    format!("{COMMANDS_WAITING_MAX} commands are already waiting for the data thread"),
                    "try again later; 'parallax status' and the daemon's log tell what it is busy with",
                ));
            }
        }
        (self.wake)();
        answer.await.unwrap_or_else(|_dropped| Err(stopping()))
    }
}

fn stopping() -> ErrorBody {
    ErrorBody::new(
        Code::Unavailable,
        "the daemon is stopping and did not finish this command",
        "start the daemon again and look whether the change was made before repeating it",
    )
}

impl CommandReceiver {
    /// The next waiting command. Never blocks.
    #[expect(clippy::should_implement_trait, reason = "None means nothing now, not the end")]
    pub fn next(&mut self) -> Option<Command> {
        self.queue.try_recv().ok()
    }
    /// The next command, waiting for it; `None` when no sender is left. For a thread that does nothing
    /// else.
    pub fn wait(&mut self) -> Option<Command> {
        self.queue.blocking_recv()
    }
}

impl std::fmt::Debug for CommandSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandSender").field("room", &self.queue.capacity()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    #[test]
    fn every_command_wakes_the_data_thread_and_gets_its_answer() {
        let wakes = Arc::new(AtomicU32::new(0));
        let seen = wakes.clone();
        let (tx, mut rx) = channel(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let data = std::thread::spawn(move || {
            while let Some(command) = rx.wait() {
                let Command::Checkpoint { reply } = command else { unreachable!("not asked") };
                reply.answer::<ErrorBody>(Ok(()));
            }
        });
        run(async { tx.ask(|reply| Command::Checkpoint { reply }).await }).unwrap();
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        drop(tx);
        data.join().unwrap();
    }

    #[test]
    fn a_data_thread_that_is_gone_or_drops_a_reply_is_an_error_not_a_hang() {
        let (tx, rx) = channel(|| {});
        drop(rx);
        let e = run(tx.ask(|reply| Command::Checkpoint { reply })).unwrap_err();
        assert_eq!(e.code, Code::Unavailable);
        let (tx, mut rx) = channel(|| {});
        let e = run(async {
            let asked = tx.ask(|reply| Command::Checkpoint { reply });
            let dropped = async { drop(rx.queue.recv().await) };
            tokio::join!(asked, dropped).0
        });
        assert_eq!(e.unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn a_full_channel_turns_commands_away_after_a_while() {
        let (tx, _rx) = channel(|| {});
        for _ in 0..COMMANDS_WAITING_MAX {
            tx.queue.try_send(Command::Checkpoint { reply: Reply::new().0 }).unwrap();
        }
        let e = run(tx.ask(|reply| Command::Checkpoint { reply })).unwrap_err();
        assert!(e.message.contains("already waiting"), "{}", e.message);
    }
}
