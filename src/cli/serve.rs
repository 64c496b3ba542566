//! `serve`: starts everything in order, and stops it in the reverse one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::check::Follower;
use crate::config::{Config, LogFormat};
use crate::grpc;
use crate::http::{self, listener};
use crate::login::users::Users;
use crate::sessions::device;
use crate::sessions::location::Locations;
use crate::state::{Gateway, retention};
use crate::store::embedded::{Embedded, EmbeddedOptions};
use crate::store::{Store, StoreError};
use crate::telemetry::{self, metrics};
use crate::token::KeyRing;

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    #[cfg(feature = "mutations")]
    crate::mutation::announce();
    telemetry::init_logs(&config.log.level, config.log.format == LogFormat::Json)
        .with_context(|| format!("log.level: {:?} is not understood", config.log.level))?;
    // Before the runtime: its thread has to outlive everything else.
    let embedded = if config.redis.is_embedded() {
        Some(Embedded::start(&EmbeddedOptions {
            state_dir: config.redis.state_dir.clone(),
            binary: config.redis.binary.clone(),
        })?)
    } else {
        None
    };
    let url = match &embedded {
        Some(embedded) => format!("redis+unix://{}", embedded.socket().display()),
        None => config.redis.url.expose_secret().to_owned(),
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(serve(config, &url)));
    if let Some(embedded) = embedded {
        embedded.stop();
    }
    result
}

async fn serve(config: Config, url: &str) -> anyhow::Result<()> {
    let metrics = metrics::install()?;
    let keys = Arc::new(KeyRing::open(&config.keys_dir(), config.tokens.algorithm)?);
    let locations = Arc::new(Locations::open(config.geoip.database.as_deref())?);
    let users = Users::open(config.login.users_file.as_deref())?;
    let retention = retention(&config);
    let store = Store::connect(&config.redis, url, retention)?;
    let public = listener::bind(config.server.listen, "server.listen").await?;
    let operations = listener::bind(config.server.ops_listen, "server.ops_listen").await?;
    let grpc = match config.server.grpc_listen {
        Some(address) => Some(listener::bind(address, "server.grpc_listen").await?),
        None => None,
    };
    let (gateway, writer) = Gateway::new(config, store.clone(), keys, locations, users, metrics);
    let server = &gateway.config.server;
    tracing::info!(
        listen = %public.local_addr()?,
        ops_listen = %operations.local_addr()?,
        grpc_listen = grpc.as_ref().map(TcpListener::local_addr).transpose()?.map(tracing::field::display),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );

    // Requests end first, then what they feed, then the operators' view of it.
    let (no_requests, no_work, no_view) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let requests = tokio::spawn(listener::serve(
        public,
        http::public(Arc::clone(&gateway)),
        server.max_connections,
        server.drain,
        no_requests.clone(),
    ));
    let grpc = grpc.map(|listener| {
        let (routes, health) = grpc::routes(Arc::clone(&gateway));
        let answered = listener::serve(
            listener,
            routes,
            server.max_connections,
            server.drain,
            no_requests.clone(),
        );
        let reported = until(no_requests.clone(), grpc::report(Arc::clone(&gateway), health));
        tokio::spawn(async { tokio::join!(answered, reported) })
    });
    let view = tokio::spawn(listener::serve(
        operations,
        http::operations(Arc::clone(&gateway)),
        64,
        Duration::from_secs(1),
        no_view.clone(),
    ));
    let mut work = JoinSet::new();
    work.spawn(writer.run(no_work.clone()));
    work.spawn(until(no_work.clone(), upkeep(Arc::clone(&gateway))));
    work.spawn(accounts(Arc::clone(&gateway), no_work.clone()));
    let follower = Follower {
        store: store.clone(),
        revocations: Arc::clone(&gateway.check.revocations),
        freshness: Arc::clone(&gateway.check.freshness),
        retention,
    };
    work.spawn(follower.run(no_work.clone()));
    std::thread::spawn(device::warm);

    let mut failed = None;
    let fatal = prepare(&gateway, &store, &no_work, &mut work);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        error = fatal => failed = Some(error),
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    tracing::info!("stopping");
    gateway.stopping();
    no_requests.cancel();
    let _ = requests.await;
    if let Some(grpc) = grpc {
        let _ = grpc.await;
    }
    no_work.cancel();
    while work.join_next().await.is_some() {}
    no_view.cancel();
    let _ = view.await;
    store.close().await;
    tracing::info!("stopped");
    failed.map_or(Ok(()), Err)
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Waits for a store that is fit, starts to sweep it, and then ends only when a part dies.
async fn prepare(
    gateway: &Arc<Gateway>,
    store: &Store,
    stop: &CancellationToken,
    work: &mut JoinSet<()>,
) -> anyhow::Error {
    loop {
        match tokio::time::timeout(Duration::from_secs(5), store.prepare()).await {
            Ok(Ok(())) => break,
            Ok(Err(error @ StoreError::Unsafe(_))) => return error.into(),
            Ok(Err(error)) => tracing::warn!(%error, "waiting for Redis"),
            Err(_) => tracing::warn!("waiting for Redis: no connection yet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    gateway.prepared();
    tracing::info!("connected to Redis");
    work.spawn(until(stop.clone(), sweep(Arc::clone(gateway))));
    match work.join_next().await {
        Some(Err(error)) => anyhow::anyhow!("a part of the gateway died: {error}"),
        _ => anyhow::anyhow!("a part of the gateway ended"),
    }
}

async fn accounts(gateway: Arc<Gateway>, stop: CancellationToken) {
    gateway.logins.follow(stop).await;
}

/// What has ended is cleared away by whichever gateway comes by.
async fn sweep(gateway: Arc<Gateway>) {
    let mut timer = tokio::time::interval(gateway.config.sweep.interval);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        if let Err(error) = gateway.sessions.sweep().await {
            tracing::debug!(%error, "sweeping");
        }
    }
}

/// What would grow or age otherwise.
async fn upkeep(gateway: Arc<Gateway>) {
    let mut timer = tokio::time::interval(Duration::from_secs(5));
    loop {
        timer.tick().await;
        gateway.metrics.run_upkeep();
        gateway.failures.forget();
        gateway.locations.reload_if_changed();
    }
}
