//! One connection: refused, or served until its client is done, slow, or the server stops.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Sleep;

use super::Deadlines;
use crate::control::api::error::ErrorBody;
use crate::control::api::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

/// A refused client may finish sending for this long, so that it gets to read the answer.
const LINGER: Duration = Duration::from_secs(1);
/// ... and this many bytes, which nobody looks at.
const LINGER_BYTES_MAX: u64 = 64 << 10;

/// What all connections share.
#[derive(Clone)]
pub struct Shared {
    /// Behind every connection.
    pub service: Router,
    /// How long clients may take.
    pub deadlines: Deadlines,
    /// Becomes true when the server stops.
    pub stopped: watch::Receiver<bool>,
}

/// Serve, or refuse, one connection. `_place` is its share of the bound on connections.
pub async fn run(
    stream: UnixStream,
    refusal: Option<ErrorBody>,
    shared: Shared,
    _place: Option<OwnedSemaphorePermit>,
) {
    match refusal {
        Some(error) => refuse(stream, &error).await,
        None => serve(stream, shared).await,
    }
}

async fn serve(stream: UnixStream, Shared { service, deadlines, mut stopped }: Shared) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(deadlines.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let io = TokioIo::new(Deadlined { stream, write: deadlines.write, blocked: None });
    let mut connection = std::pin::pin!(http.serve_connection(io, TowerToHyperService::new(service)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_to_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("control connection: {e}");
    }
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    let _sender_gone = stopped.wait_for(|stop| *stop).await;
}

/// Answer without reading the request.
async fn refuse(mut stream: UnixStream, error: &ErrorBody) {
    let body = serde_json::to_string(error).expect("an error body is strings");
    let status = error.code.http_status();
    let answer = format!(
        "HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _gone_or_slow = tokio::time::timeout(LINGER, exchange).await;
}

/// A stream whose writes fail once the peer has taken nothing for `write`.
struct Deadlined {
    stream: UnixStream,
    write: Duration,
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Deadlined {
    fn or_late<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.blocked = None;
            return wrote;
        }
        let write = self.write;
        let timer = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(write)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Deadlined {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deadlined {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.or_late(cx, wrote)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.or_late(cx, flushed)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
