//! Connections. Every default of the client that is unsafe for this use is set here, on purpose.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fred::prelude::*;
use fred::types::config::{ReconnectError, TlsConnector, UnresponsiveConfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::StoreError;
use super::connection::Connection;
use crate::config::{Durability, Redis};

/// What a gateway needs: connections for commands, and some of their own for what blocks.
pub(super) struct Clients {
    /// For commands.
    pub(super) commands: Vec<Arc<Connection>>,
    /// For reads of the feed: one that reads every bucket, or one a bucket where these live on
    /// different servers.
    pub(super) feeds: Vec<Arc<Connection>>,
    /// For what waits for replicas.
    pub(super) waiting: Option<Arc<Connection>>,
}

pub(super) fn connect(config: &Redis, url: &str) -> Result<Clients, StoreError> {
    let mut server = Config::from_url(url)?;
    if let (Some(tls), Some(file)) = (&mut server.tls, &config.ca_file) {
        tls.connector = trusting(file)?;
    }
    let feeds = if server.server.is_clustered() { config.buckets } else { 1 };
    let mut builder = builder(server);
    builder.with_performance_config(|performance| {
        // 0 would wait for ever.
        performance.default_command_timeout = config.timeout;
        performance.broadcast_channel_capacity = 4096;
    });
    let begin = |builder: &Builder| Connection::begin(builder.clone(), config.buckets);
    let commands = (0..config.connections).map(|_| begin(&builder)).collect::<Result<_, _>>()?;
    let waits = config.durability == Durability::Wait;
    let waiting = waits.then(|| begin(&builder)).transpose()?;
    builder.with_performance_config(|performance| {
        // A blocking read brings its own limit.
        performance.default_command_timeout = Duration::ZERO;
    });
    let feeds = (0..feeds).map(|_| begin(&builder)).collect::<Result<_, _>>()?;
    Ok(Clients { commands, feeds, waiting })
}

/// TLS with servers whose certificates these authorities have signed.
fn trusting(file: &Path) -> Result<TlsConnector, StoreError> {
    let unreadable = |problem: &dyn Display| {
        StoreError::Unsafe(format!("redis.ca_file: {}: {problem}", file.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"no certificate in it"));
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth().into())
}

fn builder(mut config: Config) -> Builder {
    // A gateway outlives a Redis that is not there yet.
    config.fail_fast = false;
    let mut builder = Builder::from_config(config);
    builder
        // 0 attempts: never give up. A finite number leaves a dead pool behind.
        .set_policy(ReconnectPolicy::new_exponential(0, 20, 1000, 2))
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(1);
            connection.internal_command_timeout = Duration::from_secs(1);
            connection.unresponsive = UnresponsiveConfig {
                max_timeout: Some(Duration::from_secs(3)),
                interval: Duration::from_millis(500),
            };
            // A script that may have run is not sent again behind the caller's back.
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = 10_000;
            connection.tcp.nodelay = Some(true);
            connection.tcp.user_timeout = Some(Duration::from_secs(3));
            connection.reconnect_errors = vec![
                ReconnectError::ClusterDown,
                ReconnectError::Loading,
                ReconnectError::MasterDown,
                ReconnectError::ReadOnly,
                // A primary that was cut off from its replicas has probably been replaced.
                ReconnectError::NoReplicas,
            ];
        });
    builder
}
