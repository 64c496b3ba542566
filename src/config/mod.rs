//! What a gateway is told: typed settings, what they may be and where they come from.

mod duration;
mod load;
#[cfg(test)]
mod tests;
mod validate;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

pub use load::{ConfigError, load};

/// Every key with its default or, commented out, an example. The defaults have no other source.
pub const REFERENCE: &str = include_str!("reference.toml");

/// What `redis.url` says for a server that the gateway starts itself.
pub const EMBEDDED: &str = "embedded";

/// The settings, one field a section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listeners.
    pub server: Server,
    /// The store.
    pub redis: Redis,
    /// What proves a session.
    pub tokens: Tokens,
    /// How many there may be and for how long.
    pub sessions: Sessions,
    /// What answers from memory.
    pub check: Check,
    /// What browsers keep.
    pub cookie: Cookie,
    /// Who may begin sessions.
    pub login: Login,
    /// What a client may do before it has to wait.
    pub limits: Limits,
    /// Where addresses are.
    pub geoip: GeoIp,
    /// The clearing away of ended sessions.
    pub sweep: Sweep,
    /// What the gateway says about itself.
    pub log: Log,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where proxies, clients and browsers connect.
    pub listen: SocketAddr,
    /// Where metrics and probes are served.
    pub ops_listen: SocketAddr,
    /// Where Envoy connects with gRPC; none: nowhere.
    pub grpc_listen: Option<SocketAddr>,
    /// How browsers reach the gateway: http or https without path, query and user.
    pub public_url: Url,
    /// Whose forwarding headers are believed; a bare address became a network of one.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// How long requests under way may take to finish after a signal to stop.
    #[serde(with = "duration")]
    pub drain: Duration,
    /// Connections open at once.
    pub max_connections: usize,
}

/// `[redis]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// [`EMBEDDED`] or the server's address, perhaps with a password.
    #[serde(serialize_with = "redacted")]
    pub url: SecretString,
    /// The directory of the embedded server's data and, by default, of the keys.
    pub state_dir: PathBuf,
    /// The embedded server's program; none: `valkey-server`, then `redis-server`, from `PATH`.
    pub binary: Option<PathBuf>,
    /// Parts that the keyspace is divided into, a power of two.
    pub buckets: u16,
    /// Connections to the server.
    pub connections: usize,
    /// How long a command may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// When a revocation is acknowledged.
    pub durability: Durability,
    /// Replicas that must have it with [`Durability::Wait`], not zero.
    pub wait_replicas: u32,
    /// Certificates of authorities (PEM) that `rediss://` servers may be signed by, instead of the
    /// system's.
    pub ca_file: Option<PathBuf>,
}

/// `[tokens]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The claim `iss`; read it from [`Config::issuer`].
    pub issuer: Option<String>,
    /// The claim `aud`.
    pub audience: Vec<String>,
    /// How new tokens are signed.
    pub algorithm: SigningAlgorithm,
    /// Where the keys lie; read it from [`Config::keys_dir`].
    pub keys_dir: Option<PathBuf>,
    /// How long an access token is valid.
    #[serde(with = "duration")]
    pub access_ttl: Duration,
    /// How long a refresh token that was used may be sent again.
    #[serde(with = "duration")]
    pub grace: Duration,
}

/// `[sessions]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// Sessions that a user may have at once.
    pub limit: u32,
    /// The same for users with a role; of several the lowest counts.
    #[serde(default)]
    pub role_limits: Vec<RoleLimit>,
    /// What happens to one more that a person logs in for.
    pub on_limit: OnLogin,
    /// What happens to one more that a backend asks for.
    pub on_limit_service: OnLimit,
    /// Ends a session that is unused for this long.
    #[serde(with = "duration")]
    pub idle: Duration,
    /// Ends a session this long after it began.
    #[serde(with = "duration")]
    pub absolute: Duration,
    /// `idle` for remembered sessions.
    #[serde(with = "duration")]
    pub remembered_idle: Duration,
    /// `absolute` for remembered sessions.
    #[serde(with = "duration")]
    pub remembered_absolute: Duration,
    /// Whether a refresh counts as use.
    pub refresh_extends_idle: bool,
}

/// `[[sessions.role_limits]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleLimit {
    /// The role.
    pub role: String,
    /// Sessions that a user with it may have at once.
    pub limit: u32,
}

/// `[check]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// How long a gateway that no longer hears of revocations goes on answering.
    #[serde(with = "duration")]
    pub max_staleness: Duration,
    /// Verified tokens, and as many cookies, that are kept in memory.
    pub remembered_tokens: usize,
    /// Revocations that are kept one by one.
    pub max_revocations: usize,
    /// How often last-activity times are written to the store.
    #[serde(with = "duration")]
    pub activity_flush: Duration,
    /// Origins whose scripts may read why they were refused, as browsers write them.
    pub cors_origins: Vec<String>,
}

/// `[cookie]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cookie {
    /// Without the prefix that its attributes earn it.
    pub name: String,
    /// A domain that the gateway and the protected applications share; empty: the gateway alone.
    pub domain: String,
}

/// `[login]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The page that logs people in; navigation without a session is sent there.
    pub url: Option<Url>,
    /// Who may log in with a password; read again when it changes.
    pub users_file: Option<PathBuf>,
    /// Where the gateway's own login page sends people back to, beside itself.
    pub return_origins: Vec<Url>,
    /// Backends that may call the API; no two share a name or a key.
    #[serde(default)]
    pub service_keys: Vec<ServiceKey>,
}

/// `[[login.service_keys]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceKey {
    /// What logs and events call the backend.
    pub name: String,
    /// SHA-256 of the key.
    #[serde(with = "hex")]
    pub sha256: [u8; 32],
    /// What the backend may do, not empty.
    pub scopes: Vec<Scope>,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Refused credentials an address (IPv6: a /64) may send in a minute.
    pub failures_per_minute: u32,
    /// Requests to the API that are answered at once.
    pub requests_at_once: usize,
    /// Logins an account may try in a minute, from devices that are not known to be its user's.
    pub logins_per_account: u32,
    /// Logins that may be tried from an address (IPv6: a /64) in a minute.
    pub logins_per_address: u32,
    /// Logins that may be tried in a minute, over all gateways.
    pub logins_in_all: u32,
    /// The longest that failures make an account wait.
    #[serde(with = "duration")]
    pub longest_delay: Duration,
}

/// `[geoip]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeoIp {
    /// A `MaxMind` database of cities; it was there when the settings were loaded.
    pub database: Option<PathBuf>,
}

/// `[sweep]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// How often ended sessions are cleared away.
    #[serde(with = "duration")]
    pub interval: Duration,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Directives that `tracing_subscriber::EnvFilter` understands.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How access tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    /// Ed25519 (RFC 8037).
    EdDSA,
    /// ECDSA with P-256 and SHA-256 (RFC 7518 section 3.4).
    ES256,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3).
    RS256,
}

/// When a revocation is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// When the server has it.
    Async,
    /// When replicas have it; 202 instead of 204 when they do not say so in time.
    Wait,
}

/// What happens when a person who logs in has all the sessions that they may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLogin {
    /// They choose which session ends.
    Ask,
    /// The session that began first gives way.
    EvictOldest,
    /// The session that is unused for longest gives way.
    EvictIdle,
    /// They are refused.
    Reject,
}

/// What gives way when a user has all the sessions that `sessions.limit` allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLimit {
    /// The session that began first.
    EvictOldest,
    /// The session that is unused for longest.
    EvictIdle,
    /// The new one.
    Reject,
}

/// What a backend may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Begin sessions.
    #[serde(rename = "sessions:create")]
    SessionsCreate,
    /// End sessions.
    #[serde(rename = "sessions:revoke")]
    SessionsRevoke,
    /// Follow revocations.
    #[serde(rename = "feed:read")]
    FeedRead,
    /// Read what administrators read.
    #[serde(rename = "admin:read")]
    AdminRead,
    /// Do what administrators do.
    #[serde(rename = "admin:write")]
    AdminWrite,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Config {
    /// The settings as TOML that [`load`] reads again once `redis.url` is put back: that is
    /// `[redacted]` unless it is [`EMBEDDED`].
    #[expect(clippy::expect_used, reason = "no field serializes to what TOML lacks")]
    pub fn to_toml_redacted(&self) -> String {
        toml::to_string(self).expect("settings are TOML")
    }

    /// The claim `iss`.
    pub fn issuer(&self) -> String {
        match &self.tokens.issuer {
            Some(issuer) => issuer.clone(),
            None => self.server.public_url.as_str().trim_end_matches('/').to_owned(),
        }
    }

    /// The page that logs people in, if there is one: another application's, or the gateway's own.
    pub fn login_page(&self) -> Option<Url> {
        let own = || self.server.public_url.join("login").ok();
        self.login.url.clone().or_else(|| self.login.users_file.as_ref().and_then(|_| own()))
    }

    /// Where the keys lie.
    pub fn keys_dir(&self) -> PathBuf {
        match &self.tokens.keys_dir {
            Some(keys_dir) => keys_dir.clone(),
            None => self.redis.state_dir.join("keys"),
        }
    }
}

impl Redis {
    /// Whether the gateway starts the server itself.
    pub fn is_embedded(&self) -> bool {
        self.url.expose_secret() == EMBEDDED
    }
}

impl PartialEq for Redis {
    fn eq(&self, other: &Self) -> bool {
        // Debug has every field, present and future, but the secret.
        let plain = |redis: &Self| (redis.url.expose_secret().to_owned(), format!("{redis:?}"));
        plain(self) == plain(other)
    }
}

fn redacted<S: Serializer>(url: &SecretString, to: S) -> Result<S::Ok, S::Error> {
    let embedded = url.expose_secret() == EMBEDDED;
    to.serialize_str(if embedded { EMBEDDED } else { "[redacted]" })
}

fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse()).map_err(|_| {
            D::Error::custom(format_args!("{text:?} is neither an address nor a network"))
        })
    };
    Vec::<String>::deserialize(from)?.into_iter().map(network).collect()
}

mod hex {
    use super::{Deserialize as _, Deserializer, Serializer};
    use serde::de::Error as _;

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15].map(u32::from));
        let text: String = digits.filter_map(|digit| char::from_digit(digit, 16)).collect();
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            // Not quoted, for it may be the key itself.
            return Err(D::Error::custom("is not 64 hexadecimal digits"));
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(D::Error::custom)?;
        }
        Ok(hash)
    }
}
