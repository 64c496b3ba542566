//! Connections. Every default of the client that is unsafe for this use is set here, on purpose.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fred::prelude::*;
use fred::types::config::{ReconnectError, Server, ServerConfig, TlsConnector, UnresponsiveConfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::StoreError;
use super::connection::{Connection, Links};
use crate::config::{Durability, Redis};

/// How connections are made.
pub(super) struct Plan {
    server: Config,
    connections: usize,
    timeout: Duration,
    waits: bool,
}

impl Plan {
    pub(super) fn new(config: &Redis, url: &str) -> Result<Self, StoreError> {
        let mut server = Config::from_url(url)?;
        if let (Some(tls), Some(file)) = (&mut server.tls, &config.ca_file) {
            tls.connector = trusting(file)?;
        }
        Ok(Self {
            server,
            connections: config.connections,
            timeout: config.timeout,
            waits: config.durability == Durability::Wait,
        })
    }

    /// The members that a Cluster is found by; `None` when it is none.
    pub(super) fn seeds(&self) -> Option<Vec<Server>> {
        match &self.server.server {
            ServerConfig::Clustered { hosts, .. } => Some(hosts.clone()),
            _ => None,
        }
    }

    /// The member of the Cluster that calls itself so.
    pub(super) fn member(&self, host: &str, port: u16) -> Server {
        let name = self.server.tls.is_some().then(|| host.to_owned());
        Server::new_with_tls(host, port, name)
    }

    /// What a gateway needs of a member, or of whatever server the plan is for.
    pub(super) fn links(&self, member: Option<Server>) -> Result<Links, StoreError> {
        let builder = self.builder(member.as_ref(), self.timeout);
        let begin = || Connection::begin(builder.clone());
        let commands = (0..self.connections).map(|_| begin()).collect::<Result<_, _>>()?;
        let waiting = self.waits.then(begin).transpose()?;
        Ok(Links::new(member, commands, waiting))
    }

    /// A connection for blocking reads, which bring a limit of their own.
    pub(super) fn reader(&self, member: Option<&Server>) -> Result<Arc<Connection>, StoreError> {
        Connection::begin(self.builder(member, Duration::ZERO))
    }

    fn builder(&self, member: Option<&Server>, timeout: Duration) -> Builder {
        let mut config = self.server.clone();
        if let Some(member) = member {
            config.server = ServerConfig::Centralized { server: member.clone() };
        }
        let mut builder = builder(config);
        builder.with_performance_config(|performance| {
            // 0 waits for ever.
            performance.default_command_timeout = timeout;
            performance.broadcast_channel_capacity = 4096;
        });
        builder
    }
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
                ReconnectError::Loading,
                ReconnectError::MasterDown,
                ReconnectError::ReadOnly,
                // A primary that was cut off from its replicas has probably been replaced.
                ReconnectError::NoReplicas,
            ];
        });
    builder
}
