//! A small blocking client of the control socket: one connection per request.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::group;

/// Largest answer taken, bytes: a tree of a million snapshots fits.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The daemon behind a control socket.
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client of the daemon at `socket`. Nothing is sent yet.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn new(socket: PathBuf) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| {
            ErrorBody::new(
                Code::Io,
                format!("cannot start: {e}"),
                "check the limits of the process (ulimit -n)",
            )
        })?;
        Ok(Client { socket, runtime })
    }
    /// GET `path` (below `/api/v1`).
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        self.call(Method::GET, path, &())
    }
    /// POST `body` to `path`.
    pub fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A> {
        self.call(Method::POST, path, body)
    }
    /// PATCH `path` with `body`.
    pub fn patch<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A> {
        self.call(Method::PATCH, path, body)
    }
    /// DELETE `path`.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.call(Method::DELETE, path, &())
    }

    fn call<A: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> Result<A> {
        let body = if method == Method::GET || method == Method::DELETE {
            Vec::new()
        } else {
            serde_json::to_vec(body).expect("requests are strings and numbers")
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("host", "parallax")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("paths are made of valid names");
        let (status, answer) = self.runtime.block_on(self.exchange(request))?;
        if (200..300).contains(&status) {
            let answer: &[u8] = if answer.is_empty() { b"null" } else { &answer };
            return serde_json::from_slice(answer).map_err(|e| self.foreign(status, &e));
        }
        Err(serde_json::from_slice::<ErrorBody>(&answer).unwrap_or_else(|e| self.foreign(status, &e)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| unreachable(&self.socket, &e))?;
        let broke = |e: &dyn std::fmt::Display| {
            ErrorBody::new(
                Code::Unavailable,
                format!("the connection to the daemon broke: {e}"),
                "look whether the daemon runs, and whether the change was made, before repeating it",
            )
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| broke(&e))?;
        let driver = tokio::spawn(connection);
        let response: Response<_> = sender.send_request(request).await.map_err(|e| broke(&e))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        driver.abort();
        Ok((status, body.map_err(|e| broke(&e))?.to_bytes()))
    }

    fn foreign(&self, status: u16, e: &serde_json::Error) -> ErrorBody {
        ErrorBody::new(
            Code::Unsupported,
            format!("what {} answered (status {status}) is not understood: {e}", self.socket.display()),
            "use the 'parallax' that came with the running daemon",
        )
    }
}

/// Why nobody answers at `socket`.
fn unreachable(socket: &Path, e: &std::io::Error) -> ErrorBody {
    let message = format!("no daemon answers at {}: {e}", socket.display());
    if e.kind() == std::io::ErrorKind::PermissionDenied {
        return ErrorBody::new(Code::Denied, message, who_may(socket));
    }
    let hint = "start it with 'vhost-parallax --store URL', or name its run directory with --run-dir";
    ErrorBody::new(Code::Unavailable, message, hint)
}

/// Who could connect, from the first thing on the way to the socket that is closed to others.
fn who_may(socket: &Path) -> String {
    let mut way: Vec<&Path> = socket.ancestors().collect();
    way.reverse();
    let closed = way.into_iter().filter_map(|p| Some((p, std::fs::metadata(p).ok()?))).find(|(p, m)| {
        let others_need = if *p == socket { 0o002 } else { 0o001 };
        m.mode() & others_need == 0
    });
    let Some((place, meta)) = closed else { return "run as root".to_owned() };
    let group_needs = if place == socket { 0o020 } else { 0o010 };
    if meta.mode() & group_needs == 0 {
        return format!("run as root or as user {}, to whom {} belongs", meta.uid(), place.display());
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let name =
        group::find(&groups, &meta.gid().to_string()).map_or_else(|| meta.gid().to_string(), |(_, n)| n);
    format!("run as root, or join the group '{name}' ('usermod -aG {name} USER', then log in again)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_denied_client_learns_which_group_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = dir.path().join("control.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let with_mode = |mode| {
            std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(mode)).unwrap();
            unreachable(&socket, &std::io::ErrorKind::PermissionDenied.into())
        };
        let e = with_mode(0o660);
        assert_eq!(e.code, Code::Denied);
        assert!(e.hint.contains("join the group '"), "{}", e.hint);
        let e = with_mode(0o600);
        assert!(e.hint.contains("run as root or as user"), "{}", e.hint);
    }

    #[test]
    fn a_missing_daemon_is_named_with_its_socket() {
        let client = Client::new(PathBuf::from("/nonexistent/control.sock")).unwrap();
        let e = client.get::<()>("/status").unwrap_err();
        assert_eq!(e.code, Code::Unavailable);
        assert!(e.message.contains("/nonexistent/control.sock"), "{}", e.message);
        assert!(e.hint.contains("--run-dir"), "{}", e.hint);
    }
}
