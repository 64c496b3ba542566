//! What settings may be, beyond their types.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use super::duration::Shown;
use super::{Config, EMBEDDED, RoleLimit};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

const SCHEMES: &str = "redis, rediss, valkey, valkeys, redis+unix, redis-cluster, rediss-cluster, \
    redis-sentinel, rediss-sentinel";

/// A key's dotted name and its value.
macro_rules! at {
    ($config:ident.$section:ident.$key:ident) => {
        (concat!(stringify!($section), ".", stringify!($key)), &$config.$section.$key)
    };
}

/// Dotted keys and what is wrong with their values.
pub(super) fn problems(config: &Config) -> Vec<(String, String)> {
    let mut found = Found(Vec::new());
    server(config, &mut found);
    redis(config, &mut found);
    tokens(config, &mut found);
    sessions(config, &mut found);
    check(config, &mut found);
    cookie(config, &mut found);
    login(config, &mut found);
    found.range(at!(config.limits.failures_per_minute), 1..=100_000);
    found.range(at!(config.limits.requests_at_once), 1..=100_000);
    found.range(at!(config.limits.logins_per_account), 1..=1_000_000);
    found.range(at!(config.limits.logins_per_address), 1..=1_000_000);
    found.range(at!(config.limits.logins_in_all), 1..=1_000_000);
    found.time(at!(config.limits.longest_delay), SECOND..=60 * MINUTE);
    geoip(config, &mut found);
    found.time(at!(config.sweep.interval), SECOND / 10..=10 * MINUTE);
    log(config, &mut found);
    found.0
}

struct Found(Vec<(String, String)>);

impl Found {
    fn unless(&mut self, fine: bool, key: &str, what: impl Display) {
        if !fine {
            self.0.push((key.to_owned(), what.to_string()));
        }
    }

    fn range<T: PartialOrd + Display>(&mut self, (key, value): (&str, &T), may: RangeInclusive<T>) {
        let what = format_args!("{value} is out of range, {} to {}", may.start(), may.end());
        self.unless(may.contains(value), key, what);
    }

    fn time(&mut self, (key, value): (&str, &Duration), may: RangeInclusive<Duration>) {
        let (shortest, longest) = may.into_inner();
        self.range((key, &Shown(*value)), Shown(shortest)..=Shown(longest));
    }

    fn at_most(&mut self, (key, value): (&str, &Duration), (other, most): (&str, &Duration)) {
        let what = format_args!("{} is longer than {other}, {}", Shown(*value), Shown(*most));
        self.unless(value <= most, key, what);
    }

    /// Quotes nothing, for a password is one of the things that may be wrong.
    fn page(&mut self, key: &str, url: &Url) {
        self.unless(matches!(url.scheme(), "http" | "https"), key, "is neither http nor https");
        let user = !url.username().is_empty() || url.password().is_some();
        self.unless(!user, key, "holds a user name or a password");
    }
}

fn server(config: &Config, found: &mut Found) {
    let (key, url) = at!(config.server.public_url);
    found.page(key, url);
    let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    found.unless(bare, key, "holds more than scheme, host and port");
    found.time(at!(config.server.drain), Duration::ZERO..=10 * MINUTE);
    found.range(at!(config.server.max_connections), 1..=1_000_000);
}

fn redis(config: &Config, found: &mut Found) {
    let (key, url) = at!(config.redis.url);
    let known = |url: Url| {
        SCHEMES.split(", ").any(|scheme| scheme == url.scheme())
            && match url.scheme() {
                "redis+unix" => url.path().len() > 1,
                _ => url.host_str().is_some_and(|host| !host.is_empty()),
            }
    };
    let fine = config.redis.is_embedded() || Url::parse(url.expose_secret()).is_ok_and(known);
    let what = format_args!("is neither {EMBEDDED:?} nor an address of one of {SCHEMES}");
    found.unless(fine, key, what);
    found.range(at!(config.redis.buckets), 1..=256);
    let (key, buckets) = at!(config.redis.buckets);
    let what = format_args!("{buckets} is not a power of two");
    found.unless(buckets.is_power_of_two(), key, what);
    found.range(at!(config.redis.connections), 1..=16);
    found.time(at!(config.redis.timeout), SECOND / 100..=2 * SECOND);
    found.range(at!(config.redis.wait_replicas), 1..=16);
    if let (key, Some(path)) = at!(config.redis.ca_file) {
        found.unless(path.is_file(), key, format_args!("{} is not a file", path.display()));
    }
}

fn tokens(config: &Config, found: &mut Found) {
    let (key, issuer) = at!(config.tokens.issuer);
    found.unless(issuer.as_deref() != Some(""), key, "is empty");
    let (key, audience) = at!(config.tokens.audience);
    let named = !audience.is_empty() && audience.iter().all(|name| !name.is_empty());
    found.unless(named, key, "is empty or holds an empty name");
    found.time(at!(config.tokens.access_ttl), SECOND..=60 * MINUTE);
    found.time(at!(config.tokens.grace), Duration::ZERO..=MINUTE);
}

fn sessions(config: &Config, found: &mut Found) {
    let access_ttl = at!(config.tokens.access_ttl);
    let idle = at!(config.sessions.idle);
    let absolute = at!(config.sessions.absolute);
    let remembered_idle = at!(config.sessions.remembered_idle);
    let remembered_absolute = at!(config.sessions.remembered_absolute);
    // Browsers keep none for longer.
    let cookie = ("a cookie can live", &Duration::from_hours(400 * 24));
    found.range(at!(config.sessions.limit), 1..=100);
    let (path, limits) = at!(config.sessions.role_limits);
    for (index, RoleLimit { role, limit }) in limits.iter().enumerate() {
        found.unless(!role.is_empty(), &format!("{path}[{index}].role"), "is empty");
        found.range((&format!("{path}[{index}].limit"), limit), 1..=100);
    }
    found.at_most(access_ttl, idle);
    found.at_most(idle, absolute);
    found.at_most(idle, remembered_idle);
    found.at_most(absolute, remembered_absolute);
    found.at_most(remembered_idle, remembered_absolute);
    found.at_most(absolute, cookie);
    found.at_most(remembered_absolute, cookie);
}

fn check(config: &Config, found: &mut Found) {
    found.time(at!(config.check.max_staleness), SECOND..=5 * MINUTE);
    found.range(at!(config.check.remembered_tokens), 0..=10_000_000);
    found.range(at!(config.check.max_revocations), 100..=10_000_000);
    found.time(at!(config.check.activity_flush), SECOND / 10..=MINUTE);
    let (key, origins) = at!(config.check.cors_origins);
    for origin in origins {
        let exact = Url::parse(origin).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.origin().ascii_serialization() == *origin
        });
        let what = format_args!("{origin:?} is not written as browsers write an origin");
        found.unless(exact, key, what);
    }
}

fn cookie(config: &Config, found: &mut Found) {
    let (key, name) = at!(config.cookie.name);
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let fine = (1..=32).contains(&name.len()) && name.bytes().all(spelled);
    found.unless(fine, key, format_args!("{name:?} is not 1 to 32 letters, digits, - and _"));
    let (key, domain) = at!(config.cookie.domain);
    let host = config.server.public_url.host_str().unwrap_or_default();
    let over = host == domain || host.ends_with(&format!(".{domain}")) && domain.contains('.');
    let what =
        format_args!("{domain:?} is neither the host of server.public_url nor a parent of it");
    found.unless(domain.is_empty() || over, key, what);
}

fn login(config: &Config, found: &mut Found) {
    let (path, origins) = at!(config.login.return_origins);
    for (index, url) in origins.iter().enumerate() {
        let path = format!("{path}[{index}]");
        found.page(&path, url);
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        found.unless(bare, &path, "holds more than scheme, host and port");
    }
    if let (key, Some(url)) = at!(config.login.url) {
        found.page(key, url);
    }
    let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
    let (keys_path, keys) = at!(config.login.service_keys);
    for (index, key) in keys.iter().enumerate() {
        let path = |field: &str| format!("{keys_path}[{index}].{field}");
        let name = &key.name;
        let spelled = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let fine = (1..=32).contains(&name.len()) && name.bytes().all(spelled);
        let what = format_args!("{name:?} is not 1 to 32 of a-z, 0-9 and -");
        found.unless(fine, &path("name"), what);
        let what = format_args!("{name:?} names two of them");
        found.unless(names.insert(name), &path("name"), what);
        let first = hashes.insert(key.sha256);
        found.unless(first, &path("sha256"), "stands in two of them");
        found.unless(!key.scopes.is_empty(), &path("scopes"), "is empty");
    }
}

fn geoip(config: &Config, found: &mut Found) {
    if let (key, Some(path)) = at!(config.geoip.database) {
        let what = format_args!("{} is not a file", path.display());
        found.unless(path.is_file(), key, what);
    }
}

fn log(config: &Config, found: &mut Found) {
    let (key, level) = at!(config.log.level);
    // To EnvFilter a misspelt level is the name of a target, and everything else falls silent.
    let spelled = |part: &str| match part {
        "" => false,
        _ if part.contains(['=', '[', ']', '{', '}']) => true,
        _ => part.parse::<LevelFilter>().is_ok(),
    };
    let fine = level.split(',').all(spelled) && EnvFilter::try_new(level).is_ok();
    let what = format_args!("{level:?} is neither a level nor a list of directives");
    found.unless(fine, key, what);
}
