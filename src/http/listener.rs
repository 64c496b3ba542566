//! Accepting connections: bounded in number, in the time a header may take, and in the time that
//! stopping may take.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Routes;

/// How often a connection is looked at. The header of its first request has to be there by then,
/// that of a later one by the second look.
const LOOK: Duration = Duration::from_secs(5);
/// Proxies keep idle connections for up to 90 s; the side that closes first should be theirs.
const IDLE_LOOKS: u32 = 24;
const HEADER_BYTES: usize = 16 * 1024;

/// Serves connections until told to stop, then lets requests under way finish for a while.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    max_connections: usize,
    drain: Duration,
    stop: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(max_connections));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Full: closing at once tells a proxy more than a connection that nobody reads.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        if stream.set_nodelay(true).is_ok() {
            let pulse = Arc::new(Pulse::default());
            let connection = connection(stream, peer, routes.clone(), Arc::clone(&pulse));
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = connection => {}
                    () = pulse.fail() => {}
                }
                drop(place);
            });
        }
    }
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests still ran when the time to drain was over");
    }
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Routes,
    pulse: Arc<Pulse>,
) -> impl GracefulConnection<Error: Send> + Send {
    let io = TokioIo::new(Watched { stream, pulse: Arc::clone(&pulse) });
    // A counter of the connection's own: that of the gateway is not touched for a request, so that
    // processors do not contend for it.
    let shared = Arc::new((routes, pulse));
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (routes, pulse) = &*shared;
            let _busy = pulse.asked(request.version());
            Ok::<_, Infallible>(routes.answer(peer, request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_buf_size(HEADER_BYTES)
        .writev(false)
        // `Pulse` does this for less than a timer a request.
        .header_read_timeout(None)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(30));
    builder.serve_connection(io, service).into_owned()
}

/// Whether a connection lives.
#[derive(Default)]
struct Pulse {
    /// Bytes, either way. Only the connection's own task adds to it, so that a load and a store do.
    moved: AtomicU64,
    /// Headers that were complete.
    asked: AtomicU64,
    /// Those that were answered, or given up by the client.
    answered: AtomicU64,
    /// Something came after the last answer that is not a whole header yet.
    unfinished: AtomicBool,
    /// HTTP/2 sends other things than headers, and has time limits of its own.
    http2: AtomicBool,
}

impl Pulse {
    fn moved(&self, bytes: usize) {
        self.moved.store(self.moved.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    fn read(&self, bytes: usize) {
        self.moved(bytes);
        self.unfinished.store(!self.is_busy() && bytes > 0, Ordering::Relaxed);
    }

    /// Busy until what this returns is dropped.
    fn asked(&self, version: Version) -> Busy<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.unfinished.store(false, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        Busy(self)
    }

    fn is_busy(&self) -> bool {
        self.asked.load(Ordering::Relaxed) != self.answered.load(Ordering::Relaxed)
    }

    /// Returns when the connection is to be closed: it sends a header too slowly, or nothing.
    async fn fail(&self) {
        let (mut slow, mut idle, mut last) = (None, 0, 0);
        let mut looks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        loop {
            looks.tick().await;
            let (asked, moved) =
                (self.asked.load(Ordering::Relaxed), self.moved.load(Ordering::Relaxed));
            let unfinished =
                self.unfinished.load(Ordering::Relaxed) && !self.http2.load(Ordering::Relaxed);
            idle = if moved == last && !self.is_busy() { idle + 1 } else { 0 };
            if asked == 0 || unfinished && slow == Some(asked) || idle == IDLE_LOOKS {
                return;
            }
            (slow, last) = (unfinished.then_some(asked), moved);
        }
    }
}

/// A request under way.
struct Busy<'a>(&'a Pulse);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream whose bytes are felt as a pulse.
struct Watched {
    stream: TcpStream,
    pulse: Arc<Pulse>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if result.is_ready() {
            self.pulse.read(buffer.filled().len() - before);
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = result {
            self.pulse.moved(written);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Binds a listener. The error names the address and the key that set it.
pub async fn bind(address: SocketAddr, key: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{key} = {address}: {error}")))
}
