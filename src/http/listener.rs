//! Accepting connections: bounded in number, in the time a header may take, and in the time that
//! stopping may take.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// From accept to the end of the header.
const HEADER_TIME: Duration = Duration::from_secs(5);
const HEADER_BYTES: usize = 16 * 1024;

/// Serves connections until told to stop, then lets requests under way finish for a while.
pub async fn serve(
    listener: TcpListener,
    router: Router,
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
        if let Some(connection) = connection(stream, peer, router.clone()) {
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                let _ = connection.await;
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
    router: Router,
) -> Option<impl hyper_util::server::graceful::GracefulConnection<Error: Send> + Send> {
    stream.set_nodelay(true).ok()?;
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.map(axum::body::Body::new)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Without a timer hyper's limits do nothing.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(30));
    let io = TokioIo::new(stream);
    Some(builder.serve_connection(io, TowerToHyperService::new(service)).into_owned())
}

/// Binds a listener. The error names the address and the key that set it.
pub async fn bind(address: SocketAddr, key: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{key} = {address}: {error}")))
}
