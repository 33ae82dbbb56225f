//! A device's socket and the thread that serves it: one front end at a time, one after the other.
//!
//! `vhost`'s `handle_request` blocks until its message is complete and drops the descriptor we need for
//! config changes. So the thread looks first: it waits until the whole message has arrived (or the front
//! end took too long), and keeps a duplicate of the descriptor that request 21 carries.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::vhost::vhost_user::message::{FrontendReq, MAX_MSG_SIZE};
use ::vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use vdi_core::{Error, ErrorKind, Result};

use super::device::DeviceState;
use super::event::Event;
use super::seam::{DataLink, Message};
use super::session::Session;

const HEADER_BYTES: usize = 12;
/// A front end that has not finished its message by then is cut off.
const MESSAGE_WAIT: Duration = Duration::from_secs(5);
/// A front end that has said nothing for so long is not in the middle of a conversation: QEMU (7.2) takes
/// a config change that arrives while it waits for a reply for that reply.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How long a second front end waits for the first to hang up before it is refused.
const HANG_UP_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Longest path that fits `sun_path` with its terminating zero.
const PATH_BYTES_MAX: usize = 107;

/// A listening device.
pub struct Endpoint {
    path: PathBuf,
    stop: Event,
    stream: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketAccess {
    /// Group of the socket, if not the process's own.
    pub group: Option<u32>,
}

fn os(what: String, e: &std::io::Error) -> Error {
    Error::io(what, e.raw_os_error().unwrap_or(libc::EIO))
}

impl Endpoint {
    /// Listen at `path` (a stale socket there is replaced: the caller holds the run directory's lock)
    /// and serve `device` from a thread of its own.
    pub fn open(
        path: &Path,
        access: SocketAccess,
        device: Arc<DeviceState>,
        data: DataLink,
    ) -> Result<Endpoint> {
        let listener = listen(path, access)?;
        let stop = Event::new()?;
        let stream = Arc::new(Mutex::new(None));
        let server = Server { device, data, listener, stop: stop.clone(), stream: Arc::clone(&stream) };
        let name = format!("vdi-{}", server.device.name());
        let thread = std::thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || server.run())
            .map_err(|e| os("start a session thread".to_owned(), &e))?;
        Ok(Endpoint { path: path.to_owned(), stop, stream, thread: Some(thread) })
    }
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Close the socket and end the session, if there is one, at once. Does not wait: the data thread
    /// gets [`Message::Gone`] when everything is given up, and must be there to give it up.
    pub fn close(&self) {
        let _ = std::fs::remove_file(&self.path);
        self.stop.ring();
        if let Some(stream) = &*self.stream.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
    /// Wait for the thread, after [`Endpoint::close`]. Not from the data thread, unless `Gone` has come.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(path: &Path, access: SocketAccess) -> Result<UnixListener> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let shown = path.display();
    if path.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("socket path {shown} is longer than {PATH_BYTES_MAX} bytes"),
            "use a shorter run directory (--run-dir) or a shorter VDI name",
        ));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(os(format!("replace socket {shown}"), &e));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| os(format!("listen on socket {shown}"), &e))?;
    if access.group.is_some() {
        std::os::unix::fs::chown(path, None, access.group)
            .map_err(|e| os(format!("give socket {shown} to its group"), &e))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(|e| os(format!("set the mode of socket {shown}"), &e))?;
    listener.set_nonblocking(true).map_err(|e| os(format!("listen on socket {shown}"), &e))?;
    Ok(listener)
}

struct Server {
    device: Arc<DeviceState>,
    data: DataLink,
    listener: UnixListener,
    stop: Event,
    stream: Arc<Mutex<Option<UnixStream>>>,
}

/// What happened while waiting.
enum Happened {
    Readable,
    Stopped,
}

/// Why a session is over.
enum Ended {
    Stopped,
    Disconnected,
    Refused(String),
}

impl Server {
    fn run(self) {
        while let Happened::Readable = self.wait(None) {
            match self.listener.accept() {
                Ok((stream, _)) => self.serve(stream),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    // Out of descriptors, most likely: others may free some.
                    tracing::error!(vdi = self.device.name(), error = %e, "cannot accept a front end");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        let _ = self.data.tell(Message::Gone(self.device.id()));
    }
    fn serve(&self, stream: UnixStream) {
        let Ok(watched) = stream.try_clone() else { return };
        let Ok(kept) = stream.try_clone() else { return };
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        tracing::info!(vdi = self.device.name(), "front end connected");
        let session = Arc::new(Mutex::new(Session::new(Arc::clone(&self.device), self.data.clone())));
        let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&session));
        let ended = loop {
            if let Err(ended) = self.step(&watched, &session, &mut handler) {
                break ended;
            }
        };
        match ended {
            Ended::Refused(why) => {
                tracing::warn!(vdi = self.device.name(), reason = why, "front end cut off");
            }
            Ended::Disconnected | Ended::Stopped => {
                tracing::info!(vdi = self.device.name(), "front end gone");
            }
        }
        // The front end learns at once; what is in flight ends in its memory before the next one is heard.
        let _ = watched.shutdown(std::net::Shutdown::Both);
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = None;
        session.lock().unwrap_or_else(PoisonError::into_inner).end();
    }
    /// Wait for one whole message and handle it.
    fn step(
        &self,
        stream: &UnixStream,
        session: &Arc<Mutex<Session>>,
        handler: &mut BackendReqHandler<Mutex<Session>>,
    ) -> std::result::Result<(), Ended> {
        match self.wait(Some(stream)) {
            Happened::Stopped => return Err(Ended::Stopped),
            Happened::Readable => {}
        }
        let request = self.whole_message(stream)?;
        if request == FrontendReq::SET_BACKEND_REQ_FD as u32
            && let Some(fd) = peek_descriptor(stream)
        {
            session.lock().unwrap_or_else(PoisonError::into_inner).keep_back_channel(fd);
        }
        handler.handle_request().map_err(|e| match e {
            ProtocolError::Disconnected => Ended::Disconnected,
            e => Ended::Refused(format!("request {request}: {e}")),
        })
    }
    /// Wait for `stream` (or, without one, for a front end). While one is served, others are refused.
    fn wait(&self, stream: Option<&UnixStream>) -> Happened {
        let main = stream.map_or(self.listener.as_fd(), AsFd::as_fd);
        loop {
            let mut fds = [
                PollFd::new(&self.stop, PollFlags::IN),
                PollFd::from_borrowed_fd(main, PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            let config_due = stream.is_some() && self.device.config_is_due();
            match rustix::event::poll(&mut fds, config_due.then_some(&QUIET)) {
                Ok(0) => {
                    self.device.tell_config();
                    continue;
                }
                Ok(_) => {}
                Err(_) => continue,
            }
            let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
            if ready(&fds[0]) {
                return Happened::Stopped;
            }
            if ready(&fds[1]) {
                return Happened::Readable;
            }
            // A front end that reconnects hangs up first, but a child that it forks at that moment keeps its old
            // socket open until it runs its own program.
            let mut again =
                [PollFd::new(&self.stop, PollFlags::IN), PollFd::from_borrowed_fd(main, PollFlags::IN)];
            if ready(&fds[2]) && matches!(rustix::event::poll(&mut again, Some(&HANG_UP_WAIT)), Ok(0)) {
                let name = self.device.name();
                tracing::warn!(vdi = name, "a second front end was refused: the disk is in use");
                drop(self.listener.accept());
            }
        }
    }
    /// Wait until a whole message is there; returns its request number.
    fn whole_message(&self, stream: &UnixStream) -> std::result::Result<u32, Ended> {
        let start = Instant::now();
        let mut header = [0; HEADER_BYTES];
        loop {
            let n = rustix::net::recv(stream, &mut header[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            match n {
                Ok((_, 0)) => return Err(Ended::Disconnected),
                Ok((_, HEADER_BYTES)) => {
                    let size = u32::from_le_bytes(header[8..].try_into().expect("four bytes")) as usize;
                    if size > MAX_MSG_SIZE {
                        return Err(Ended::Refused(format!("a message of {size} bytes")));
                    }
                    let arrived = rustix::io::ioctl_fionread(stream).map_err(|_| Ended::Disconnected)?;
                    if arrived >= (HEADER_BYTES + size) as u64 {
                        return Ok(u32::from_le_bytes(header[..4].try_into().expect("four bytes")));
                    }
                }
                Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Ended::Disconnected),
            }
            if hung_up(stream) || start.elapsed() > MESSAGE_WAIT {
                return Err(Ended::Refused("an unfinished message".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    rustix::event::poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(gone)
}

/// A duplicate of the descriptor that the waiting message carries.
fn peek_descriptor(stream: &UnixStream) -> Option<OwnedFd> {
    let mut bytes = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}
