//! The control socket: HTTP/1.1 with JSON over a Unix socket, in a thread of its own.
//!
//! Owns the socket, who may use it, and how much a client may ask for at once. Every operation goes to
//! the data thread as a [`Command`](super::api::command::Command); this thread never touches a disk.
//!
//! Invariants:
//! - A peer's credentials are checked before a byte it sent is parsed.
//! - Every connection ends: head, body and answer have deadlines, and connections, heads, bodies and
//!   waiting commands have bounds (`api::limits`).
//! - Every answer that is not a success has the one error shape. (Bytes that are not HTTP at all get
//!   hyper's bare 400.)

pub mod access;
mod answer;
mod connection;
mod extract;
#[cfg(any(test, feature = "map-responder"))]
pub mod map_responder;
mod router;
mod routes;
mod socket;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::api::command::CommandSender;
use super::api::error::{Code, ErrorBody, Result};
use super::api::limits::{BODY_TIMEOUT, CONNECTIONS_MAX, HEAD_TIMEOUT, WRITE_TIMEOUT};
use access::Access;

pub use router::openapi_json;

/// What is still being answered when the server is told to stop gets this long.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Where to listen, and for whom.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The socket. What is there is replaced, so the caller holds the lock of the run directory.
    pub socket: PathBuf,
    /// Who may ask.
    pub access: Access,
    /// How long clients may take.
    pub deadlines: Deadlines,
}

/// How long a client may take for each part of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// For a request head, from the opening of the connection or the end of the last answer.
    pub head: Duration,
    /// For a request body, from the end of its head.
    pub body: Duration,
    /// For taking some bytes of an answer.
    pub write: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { head: HEAD_TIMEOUT, body: BODY_TIMEOUT, write: WRITE_TIMEOUT }
    }
}

/// The running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl Server {
    /// Listen on the socket and serve it from a new thread. When this returns, clients can connect.
    ///
    /// # Errors
    /// Where the socket cannot be made or the thread not started.
    pub fn start(config: ServerConfig, commands: CommandSender) -> Result<Server> {
        Prepared::new(config)?.serve(commands)
    }

    /// Stop taking connections, finish what is being answered (2 s at most), remove the socket.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // The socket goes first: a client then sees "not running" rather than a reset.
        let _may_be_gone = std::fs::remove_file(&self.socket);
        let _already_ended = self.stop.send(true);
        if thread.join().is_err() {
            tracing::error!("the control thread had panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A server that nobody can find yet: what can be wrong with its socket was.
pub struct Prepared {
    config: ServerConfig,
    draft: socket::Draft,
}

impl Prepared {
    /// Make the socket.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn new(config: ServerConfig) -> Result<Prepared> {
        let draft = socket::Draft::make(&config.socket, &config.access)?;
        Ok(Prepared { config, draft })
    }
    /// Serve it from a new thread. When this returns, clients can connect.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn serve(self, commands: CommandSender) -> Result<Server> {
        let Prepared { config, draft } = self;
        let failed = |e: std::io::Error| {
            ErrorBody::new(
                Code::Io,
                format!("starting the control thread: {e}"),
                "check the limits of the process (ulimit -u, -n)",
            )
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let socket = config.socket.clone();
        let listener = draft.show()?;
        let serve = move || runtime.block_on(accept_loop(listener, config, commands, stopped));
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve).map_err(failed)?;
        Ok(Server { stop, thread: Some(thread), socket })
    }
}

async fn accept_loop(
    listener: std::os::unix::net::UnixListener,
    config: ServerConfig,
    commands: CommandSender,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("control socket: {e}"),
    };
    let service = router::service(commands, config.deadlines.body);
    let shared = connection::Shared { service, deadlines: config.deadlines, stopped: stopped.clone() };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = room.clone().try_acquire_owned().ok();
                let refusal = refusal(&stream, &config.access, place.is_some());
                connections.spawn(connection::run(stream, refusal, shared.clone(), place));
            }
            // Out of descriptors, most likely: those in use will be given back.
            Err(e) => {
                tracing::warn!("control socket: accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    let _cut_off = tokio::time::timeout(STOP_TIMEOUT, finish).await;
}

/// Why this peer is not served, from its credentials alone.
fn refusal(stream: &tokio::net::UnixStream, access: &Access, has_place: bool) -> Option<ErrorBody> {
    let denied = match stream.peer_cred() {
        Ok(peer) => access.refuses(peer.uid(), peer.gid(), peer.pid()),
        Err(e) => Some(ErrorBody::new(
            Code::Denied,
            format!("the credentials of the caller cannot be read: {e}"),
            "connect from the same host and user namespace",
        )),
    };
    denied.or_else(|| {
        (!has_place).then(|| {
            ErrorBody::new(
                Code::Unavailable,
                format!("{CONNECTIONS_MAX} clients are connected already"),
                "close idle connections or try again in a few seconds",
            )
        })
    })
}
