use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use toml::{Table, Value};

use super::duration::Shown;
use super::load::KNOWN;
use super::*;

const HASH: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
const SECRET: &str = "hunter2";

struct Given {
    dir: TempDir,
    file: Option<PathBuf>,
    env: Vec<(String, String)>,
    overrides: Vec<(String, String)>,
}

fn given() -> Given {
    let dir = TempDir::new().unwrap();
    Given { dir, file: None, env: Vec::new(), overrides: Vec::new() }
}

impl Given {
    fn file(mut self, text: &str) -> Self {
        let path = self.write("gatehouse.toml", text);
        self.file = Some(path);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable that names a file with this text.
    fn env_file(self, name: &str, text: &str) -> Self {
        let path = self.write(name, text);
        self.env(name, path.to_str().unwrap())
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.overrides.push((key.to_owned(), value.to_owned()));
        self
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self) -> Result<Config, ConfigError> {
        load(self.file.as_deref(), self.env.clone(), &self.overrides)
    }

    #[track_caller]
    fn ok(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The problems, with the directory's name taken out.
    #[track_caller]
    fn refused(&self) -> String {
        let error = self.load().expect_err("it loads").to_string();
        error.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn service_keys() -> String {
    format!("[[login.service_keys]]\nname = 'shop'\nsha256 = '{HASH}'\nscopes = ['admin:read']\n")
}

#[test]
fn defaults() {
    let hour = 3600;
    let expected = Config {
        server: Server {
            listen: "127.0.0.1:8080".parse().unwrap(),
            ops_listen: "127.0.0.1:9090".parse().unwrap(),
            grpc_listen: None,
            public_url: "http://127.0.0.1:8080".parse().unwrap(),
            trusted_proxies: Vec::new(),
            drain: seconds(10),
            max_connections: 10_000,
        },
        redis: Redis {
            url: "embedded".into(),
            state_dir: ".gatehouse".into(),
            binary: None,
            buckets: 16,
            connections: 2,
            timeout: Duration::from_millis(250),
            durability: Durability::Async,
            wait_replicas: 1,
            ca_file: None,
        },
        tokens: Tokens {
            issuer: None,
            audience: vec!["gatehouse".to_owned()],
            algorithm: SigningAlgorithm::EdDSA,
            keys_dir: None,
            access_ttl: seconds(15 * 60),
            grace: seconds(20),
        },
        sessions: Sessions {
            limit: 15,
            role_limits: Vec::new(),
            on_limit: OnLogin::Ask,
            on_limit_service: OnLimit::EvictOldest,
            idle: seconds(24 * hour),
            absolute: seconds(7 * 24 * hour),
            remembered_idle: seconds(14 * 24 * hour),
            remembered_absolute: seconds(30 * 24 * hour),
            refresh_extends_idle: false,
        },
        check: Check {
            max_staleness: seconds(10),
            remembered_tokens: 100_000,
            max_revocations: 1_000_000,
            activity_flush: seconds(5),
            cors_origins: Vec::new(),
        },
        cookie: Cookie { name: "gatehouse".to_owned(), domain: String::new() },
        login: Login {
            users_file: None,
            return_origins: Vec::new(),
            url: None,
            service_keys: Vec::new(),
        },
        limits: Limits {
            failures_per_minute: 60,
            requests_at_once: 1024,
            logins_per_account: 10,
            logins_per_address: 30,
            logins_in_all: 600,
            longest_delay: seconds(15 * 60),
        },
        geoip: GeoIp { database: None },
        sweep: Sweep { interval: seconds(5) },
        log: Log { level: "info".to_owned(), format: LogFormat::Text },
    };
    assert_eq!(Config::default(), expected);
    assert_eq!(given().file(REFERENCE).ok(), expected);
    assert!(expected.redis.is_embedded());
}

fn paths(path: &str, table: &Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in table {
        let path = format!("{path}.{key}");
        match value.as_array().and_then(|items| items.first()).unwrap_or(value) {
            Value::Table(inner) => found.extend(paths(&path, inner)),
            _ => assert!(found.insert(path)),
        }
    }
    found
}

fn json_paths(path: &str, value: &serde_json::Value) -> BTreeSet<String> {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| json_paths(&format!("{path}.{key}"), value))
            .collect(),
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
            json_paths(path, &items[0])
        }
        _ => BTreeSet::from([path.to_owned()]),
    }
}

#[test]
fn reference_and_settings_have_the_same_keys() {
    // JSON, unlike TOML, shows what is not set.
    let limits = "[[sessions.role_limits]]\nrole = 'admin'\nlimit = 3\n";
    let config = given().file(&format!("{}{limits}", service_keys())).ok();
    let json = serde_json::to_value(config).unwrap();
    assert_eq!(paths("", &KNOWN), json_paths("", &json));
}

#[test]
fn examples_are_valid() {
    let mut known = KNOWN.clone();
    let given = given();
    let database = given.write("city.mmdb", "");
    known["geoip"]["database"] = database.to_str().unwrap().into();
    known["redis"]["ca_file"] = database.to_str().unwrap().into();
    known["cookie"]["domain"] = "".into();
    let config = given.file(&known.to_string()).ok();
    assert_eq!(config.issuer(), "https://login.example.com");
    assert_eq!(config.keys_dir(), Path::new("/etc/gatehouse/keys"));
    assert_eq!(config.login.service_keys[0].sha256[..2], [0x2c, 0x26]);
    let proxies: Vec<_> = config.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["127.0.0.0/8", "fd00::1/128"]);
}

#[test]
fn later_sources_win() {
    let given = given().set("server.drain", "1s");
    assert_eq!(given.ok().sessions.limit, 15);
    let given = given.file("[sessions]\nlimit = 16\nidle = '48h'");
    assert_eq!(given.ok().sessions.limit, 16);
    let given = given.env("GATEHOUSE__SESSIONS__LIMIT", "17");
    assert_eq!(given.ok().sessions.limit, 17);
    let given = given.set("sessions.limit", "18");
    assert_eq!(given.ok().sessions.limit, 18);
    let given = given.set("sessions.limit", "19");
    let config = given.ok();
    assert_eq!(config.sessions.limit, 19);
    assert_eq!((config.sessions.idle, config.server.drain), (seconds(48 * 3600), seconds(1)));
}

#[test]
fn text_takes_the_type_of_its_key() {
    let config = given()
        .env("GATEHOUSE__SESSIONS__REFRESH_EXTENDS_IDLE", "true")
        .env("GATEHOUSE__TOKENS__AUDIENCE", "shop, api")
        .env("GATEHOUSE__SERVER__TRUSTED_PROXIES", "")
        .env("GATEHOUSE__LOGIN__URL", "https://app.example.com/login?a=b,c")
        .env("GATEHOUSE__TOKENS__ISSUER", "17")
        .env("GATEHOUSE_PORT", "tcp://10.0.0.1:8080")
        .env("PATH", "/bin")
        .file("[server]\ntrusted_proxies = ['::1']")
        .ok();
    assert!(config.sessions.refresh_extends_idle);
    assert_eq!(config.tokens.audience, ["shop", "api"]);
    assert!(config.server.trusted_proxies.is_empty());
    assert_eq!(config.login.url.as_ref().unwrap().query(), Some("a=b,c"));
    assert_eq!(config.issuer(), "17");
}

#[test]
fn derived_values() {
    let config = given()
        .set("server.public_url", "https://sso.example.com/")
        .set("redis.state_dir", "/var/lib/gatehouse")
        .ok();
    assert_eq!(config.issuer(), "https://sso.example.com");
    assert_eq!(config.keys_dir(), Path::new("/var/lib/gatehouse/keys"));
}

#[test]
fn unknown_keys() {
    let file = "top = 1\n[servr]\nlisten = 1\n[server]\nlisen = 1\nfoo = 1\n\
        [[login.service_keys]]\nnam = 'shop'";
    let sections =
        "server, redis, tokens, sessions, check, cookie, login, limits, geoip, sweep, log; set in";
    let keys = "listen, ops_listen, grpc_listen, public_url, trusted_proxies, drain, max_connections; \
         set in";
    assert_eq!(
        given().file(file).refused(),
        format!(
            "top: unknown key; the sections are {sections} gatehouse.toml\n\
            servr: unknown key; the sections are {sections} gatehouse.toml\n\
            server.lisen: unknown key; did you mean `listen`?; set in gatehouse.toml\n\
            server.foo: unknown key; the keys are {keys} gatehouse.toml\n\
            login.service_keys[0].nam: unknown key; did you mean `name`?; set in gatehouse.toml"
        )
    );
    for (name, start) in [
        ("GATEHOUSE__SERVER__LISEN", "server.lisen: unknown key; did you mean `listen`?; set by"),
        ("GATEHOUSE__SERVER__FOO_FILE", "server.foo_file: unknown key; the keys are listen, "),
        ("GATEHOUSE__SERVR__LISTEN", "servr: unknown key; the sections are server, "),
        ("GATEHOUSE__SERVR", "servr: unknown key; the sections are server, "),
        ("GATEHOUSE__SERVER", "server: expects table, not string (for example: [server]); set by"),
        ("GATEHOUSE__LOGIN__SERVICE_KEYS__NAME", "login.service_keys.name: unknown key; "),
        ("GATEHOUSE__", ": unknown key; the sections are server, "),
    ] {
        let refused = given().env(name, "1").refused();
        assert!(refused.starts_with(start) && refused.ends_with(name), "{refused}");
    }
    assert_eq!(
        given().set("session.limit", "1").refused(),
        format!("session: unknown key; the sections are {sections}")
            .replace("set in", "set on the command line")
    );
}

#[test]
fn types() {
    for (section, keys) in KNOWN.iter() {
        for (key, known) in keys.as_table().unwrap() {
            let refused = given().file(&format!("{section}.{key} = 1979-05-27")).refused();
            let start = format!(
                "{section}.{key}: expects {}, not datetime (for example: {key} = ",
                known.type_str()
            );
            assert!(refused.starts_with(&start), "{refused}");
            assert!(refused.ends_with("; set in gatehouse.toml"), "{refused}");
        }
    }
    assert_eq!(
        given().file("sessions = 5\n[tokens]\naudience = ['a', 5]").refused(),
        "sessions: expects table, not integer (for example: [sessions]); set in gatehouse.toml\n\
        tokens.audience[1]: expects string, not integer (for example: audience = [\"gatehouse\"]); \
        set in gatehouse.toml"
    );
}

#[test]
fn unreadable_values() {
    for (key, value, what) in [
        ("server.listen", "localhost", "invalid socket address syntax"),
        ("server.ops_listen", "127.0.0.1", "invalid socket address syntax"),
        ("server.public_url", "sso", "relative URL without a base: \"sso\""),
        ("server.drain", "15 minutes ago", "\"15 minutes ago\" is not a duration"),
        ("server.max_connections", "many", "expects integer, not string"),
        ("server.max_connections", "-1", "-1 is out of range"),
        ("redis.buckets", "65536", "65536 is out of range"),
        ("redis.connections", "1.5", "expects integer, not string"),
        ("tokens.algorithm", "none", "unknown variant `none`, expected one of `EdDSA`, `ES256`"),
        ("tokens.access_ttl", "900", "\"900\" is not a duration"),
        ("sessions.on_limit_service", "ask", "unknown variant `ask`, expected one of `evict_old"),
        ("sessions.limit", "-1", "-1 is out of range"),
        ("sessions.refresh_extends_idle", "yes", "expects boolean, not string"),
        ("login.url", "/login", "relative URL without a base: \"/login\""),
        ("log.format", "xml", "unknown variant `xml`, expected `text` or `json`"),
    ] {
        let refused = given().set(key, value).refused();
        assert!(refused.starts_with(&format!("{key}: {what}")), "{refused}");
        let (_, name) = key.split_once('.').unwrap();
        assert!(refused.contains(&format!(" (for example: {name} = ")), "{refused}");
        assert!(refused.ends_with("; set on the command line"), "{refused}");
    }
    let proxies = "trusted_proxies = [\"127.0.0.0/8\", \"fd00::1\"]";
    for network in ["10.0.0.0/33", "proxy", ""] {
        assert_eq!(
            given().set("server.trusted_proxies", &format!("::1,{network}")).refused(),
            format!(
                "server.trusted_proxies: {network:?} is neither an address nor a network \
                (for example: {proxies}); set on the command line"
            )
        );
    }
}

#[test]
fn an_origin_is_written_as_browsers_write_it() {
    for fine in ["https://app.example.com", "http://127.0.0.1:3000,https://b.example"] {
        given().set("check.cors_origins", fine).ok();
    }
    for wrong in [
        "app.example.com",
        "https://a.example/",
        "https://A.example",
        "null",
        "*",
        "https://a.example:443",
        "ftp://a.example",
        "https://u@a.example",
    ] {
        let refused = given().set("check.cors_origins", wrong).refused();
        let what = format!("check.cors_origins: {wrong:?} is not written as browsers write");
        assert!(refused.starts_with(&what), "{refused}");
    }
}

#[test]
fn ranges() {
    for (key, fine, refused, range) in [
        ("server.drain", ["0s", "10m"], ["601s", "1h"], "0s to 10m"),
        ("server.max_connections", ["1", "1000000"], ["0", "1000001"], "1 to 1000000"),
        ("redis.buckets", ["1", "256"], ["0", "512"], "1 to 256"),
        ("redis.connections", ["1", "16"], ["0", "17"], "1 to 16"),
        ("redis.timeout", ["10ms", "2s"], ["9ms", "2001ms"], "10ms to 2s"),
        ("tokens.access_ttl", ["1s", "1h"], ["999ms", "3601s"], "1s to 1h"),
        ("tokens.grace", ["0s", "60s"], ["61s", "2m"], "0s to 1m"),
        ("sessions.limit", ["1", "100"], ["0", "101"], "1 to 100"),
        ("check.max_staleness", ["1s", "5m"], ["999ms", "301s"], "1s to 5m"),
        ("check.remembered_tokens", ["0", "10000000"], ["10000001", "99999999"], "0 to 10000000"),
        ("check.max_revocations", ["100", "10000000"], ["99", "10000001"], "100 to 10000000"),
        ("limits.requests_at_once", ["1", "100000"], ["0", "100001"], "1 to 100000"),
        ("check.activity_flush", ["100ms", "60s"], ["99ms", "61s"], "100ms to 1m"),
        ("limits.failures_per_minute", ["1", "100000"], ["0", "100001"], "1 to 100000"),
        ("limits.logins_per_account", ["1", "1000000"], ["0", "1000001"], "1 to 1000000"),
        ("limits.longest_delay", ["1s", "1h"], ["999ms", "3601s"], "1s to 1h"),
        ("sweep.interval", ["100ms", "10m"], ["99ms", "601s"], "100ms to 10m"),
    ] {
        for value in fine {
            given().set(key, value).ok();
        }
        let (section, name) = key.split_once('.').unwrap();
        let example = &KNOWN[section][name];
        for value in refused {
            let lines = given().set(key, value).refused();
            let first = lines.lines().next().unwrap();
            let start = format!("{key}: {} is out of range, {range}", shown(value));
            let end = format!(" (for example: {name} = {example}); set on the command line");
            assert_eq!(first, start + &end);
        }
    }
}

fn shown(value: &str) -> String {
    match humantime::parse_duration(value) {
        Ok(duration) if value != "0" => Shown(duration).to_string(),
        _ => value.to_owned(),
    }
}

#[test]
fn rules_of_one_key() {
    for (key, value, what) in [
        ("redis.buckets", "12", "12 is not a power of two"),
        ("tokens.issuer", "", "is empty"),
        ("tokens.audience", "", "is empty or holds an empty name"),
        ("tokens.audience", "a,,b", "is empty or holds an empty name"),
        ("server.public_url", "ftp://a", "is neither http nor https"),
        ("server.public_url", "http://a/b", "holds more than scheme, host and port"),
        ("server.public_url", "http://a?b", "holds more than scheme, host and port"),
        ("server.public_url", "http://a#b", "holds more than scheme, host and port"),
        ("server.public_url", "http://u@a", "holds a user name or a password"),
        ("cookie.name", "", "\"\" is not 1 to 32 letters"),
        ("cookie.name", "a=b", "\"a=b\" is not 1 to 32 letters"),
        ("cookie.domain", "example.com", "\"example.com\" is neither the host"),
        ("cookie.domain", "1", "\"1\" is neither the host"),
        ("login.return_origins", "https://a,https://b/c", "holds more than scheme"),
        ("login.url", "javascript:alert()", "is neither http nor https"),
        ("login.url", "http://:p@a/b?c", "holds a user name or a password"),
        ("geoip.database", "/", "/ is not a file"),
        ("geoip.database", "/nowhere", "/nowhere is not a file"),
        ("log.level", "inof", "\"inof\" is neither a level nor a list of directives"),
        ("log.level", "", "\"\" is neither a level nor a list of directives"),
        ("log.level", "info,gatehouse=loud", "\"info,gatehouse=loud\" is neither a level nor a "),
    ] {
        let refused = given().set(key, value).refused();
        assert!(
            refused.starts_with(&format!("{key}: {what}"))
                || refused.starts_with(&format!("{key}[1]: {what}")),
            "{refused}"
        );
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
    for level in ["off", "WARN", "info,gatehouse=debug", "info,hyper[span{a=1}]=trace"] {
        given().set("log.level", level).ok();
    }
}

#[test]
fn redis_urls() {
    for url in [
        "embedded",
        "redis://127.0.0.1",
        "rediss://user:p%40ss@redis.example.com:6380/1",
        "valkey://[::1]:6379",
        "valkeys://a",
        "redis+unix:///run/redis.sock",
        "redis-cluster://a:7000?node=b:7001",
        "rediss-cluster://a",
        "redis-sentinel://a:26379?sentinelServiceName=main",
        "rediss-sentinel://a",
    ] {
        given().set("redis.url", url).ok();
    }
    for url in
        ["", "[redacted]", "Embedded", "hunter2", "http://a", "redis:", "redis://", "redis+unix://"]
    {
        assert_eq!(
            given().set("redis.url", url).refused(),
            "redis.url: is neither \"embedded\" nor an address of one of redis, rediss, valkey, \
            valkeys, redis+unix, redis-cluster, rediss-cluster, redis-sentinel, rediss-sentinel \
            (for example: url = \"embedded\"); set on the command line"
        );
    }
}

#[test]
fn lifetimes_fit_together() {
    for (key, value, what) in [
        ("tokens.access_ttl", "30m", ""),
        ("sessions.idle", "14m", "tokens.access_ttl: 15m is longer than sessions.idle, 14m"),
        ("sessions.idle", "15m", ""),
        ("sessions.idle", "8d", "sessions.idle: 8d is longer than sessions.absolute, 7d"),
        ("sessions.idle", "7d", ""),
        (
            "sessions.remembered_idle",
            "23h",
            "sessions.idle: 1d is longer than sessions.remembered_",
        ),
        (
            "sessions.remembered_idle",
            "31d",
            "sessions.remembered_idle: 31d is longer than sessions.",
        ),
        (
            "sessions.absolute",
            "31d",
            "sessions.absolute: 31d is longer than sessions.remembered_abs",
        ),
        ("sessions.absolute", "30d", ""),
        (
            "sessions.remembered_absolute",
            "401d",
            "sessions.remembered_absolute: 401d is longer than",
        ),
        ("sessions.remembered_absolute", "400d", ""),
    ] {
        let loaded = given().set(key, value).load();
        let problem = loaded.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(problem.starts_with(what) && problem.is_empty() == what.is_empty(), "{problem}");
        assert!(problem.lines().count() <= 1, "{problem}");
    }
    let absolute = given()
        .set("sessions.absolute", "401d")
        .set("sessions.remembered_absolute", "401d")
        .refused();
    assert!(absolute.starts_with("sessions.absolute: 401d is longer than a cookie can live, 400d"));
}

#[test]
fn service_keys_are_checked() {
    let one = service_keys();
    let keys = given().file(&one).ok().login.service_keys;
    assert_eq!(
        (keys[0].name.as_str(), keys[0].scopes.as_slice()),
        ("shop", &[Scope::AdminRead][..])
    );
    for (from, to, what) in [
        ("'shop'", "'Shop'", "name: \"Shop\" is not 1 to 32 of a-z, 0-9 and -"),
        ("'shop'", "''", "name: \"\" is not 1 to 32 of a-z, 0-9 and -"),
        ("'shop'", "'a23456789012345678901234567890123'", "name: \"a2345678901234567890"),
        ("'admin:read'", "", "scopes: is empty"),
        (
            "'admin:read'",
            "'admin'",
            "scopes[0]: unknown variant `admin`, expected one of `sessions:",
        ),
        ("7ae'", "7a'", "sha256: is not 64 hexadecimal digits"),
        ("2c26", "+c26", "sha256: is not 64 hexadecimal digits"),
    ] {
        let refused = given().file(&one.replace(from, to)).refused();
        assert!(refused.starts_with(&format!("login.service_keys[0].{what}")), "{refused}");
        assert!(refused.ends_with("; set in gatehouse.toml"), "{refused}");
    }
    for missing in ["name", "sha256", "scopes"] {
        let file: String = one
            .lines()
            .filter(|line| !line.starts_with(missing))
            .fold(String::new(), |file, line| file + line + "\n");
        let refused = given().file(&file).refused();
        let start = format!("login.service_keys[0]: missing field `{missing}` (for example: serv");
        assert!(refused.starts_with(&start), "{refused}");
    }
    let twice = given().file(&(one.clone() + &one)).refused();
    assert!(twice.starts_with("login.service_keys[1].name: \"shop\" names two of them"), "{twice}");
    assert!(twice.contains("\nlogin.service_keys[1].sha256: stands in two of them"), "{twice}");
    for name in ["GATEHOUSE__LOGIN__SERVICE_KEYS", "GATEHOUSE__LOGIN__SERVICE_KEYS_FILE"] {
        assert_eq!(
            given().file(&one).env_file(name, "").env(name, "/dev/null").refused(),
            format!("login.service_keys: can be set in a file only; set by {name}")
        );
    }
}

#[test]
fn all_problems_at_once() {
    let given = given()
        .file("[sessions]\nlimit = 200\n[log]\nlevel = 'loud'")
        .env("GATEHOUSE__REDIS__BUCKETS", "3")
        .set("tokens.grace", "2m");
    assert_eq!(
        given.refused(),
        "redis.buckets: 3 is not a power of two (for example: buckets = 16); \
        set by GATEHOUSE__REDIS__BUCKETS\n\
        tokens.grace: 2m is out of range, 0s to 1m (for example: grace = \"20s\"); \
        set on the command line\n\
        sessions.limit: 200 is out of range, 1 to 100 (for example: limit = 15); \
        set in gatehouse.toml\n\
        log.level: \"loud\" is neither a level nor a list of directives \
        (for example: level = \"info\"); set in gatehouse.toml"
    );
    let given = given.set("log.levl", "info").set("sessions.limit", "x");
    assert_eq!(
        given.refused(),
        "log.levl: unknown key; did you mean `level`?; set on the command line\n\
        sessions.limit: expects integer, not string (for example: limit = 15); \
        set on the command line"
    );
}

#[test]
fn values_from_files() {
    for (text, value) in [
        ("redis://:hunter2@a\n", "redis://:hunter2@a"),
        ("redis://:hunter2@a\r\n", "redis://:hunter2@a"),
        ("redis://:hunter2@a", "redis://:hunter2@a"),
    ] {
        let config = given().env_file("GATEHOUSE__REDIS__URL_FILE", text).ok();
        assert_eq!(config.redis.url.expose_secret(), value);
    }
    assert_eq!(given().env_file("GATEHOUSE__TOKENS__ISSUER_FILE", "a\n\n").ok().issuer(), "a\n");
    assert_eq!(given().env_file("GATEHOUSE__SESSIONS__LIMIT_FILE", "3\n").ok().sessions.limit, 3);
    assert_eq!(
        given()
            .env("GATEHOUSE__REDIS__URL", "embedded")
            .env_file("GATEHOUSE__REDIS__URL_FILE", "embedded")
            .refused(),
        "redis.url: GATEHOUSE__REDIS__URL and GATEHOUSE__REDIS__URL_FILE are both set"
    );
    assert_eq!(
        given().env("GATEHOUSE__REDIS__URL_FILE", "redis://:hunter2@a").refused(),
        "redis.url: the file that GATEHOUSE__REDIS__URL_FILE names: \
        No such file or directory (os error 2)"
    );
}

#[test]
fn unreadable_files() {
    let mut missing = given();
    missing.file = Some(missing.dir.path().join("none.toml"));
    assert_eq!(missing.refused(), "none.toml: No such file or directory (os error 2)");
    assert_eq!(
        given().file("# é\n[sessions]\nlimit = = 5\n").refused(),
        "gatehouse.toml:3:9: extra `=`, expected nothing"
    );
    let refused = given().file("[redis]\n'é' = 1; url = 'redis://:hunter2@a'\n").refused();
    assert!(refused.starts_with("gatehouse.toml:2:14: "), "{refused}");
    assert!(!refused.contains(SECRET), "{refused}");
    let refused = given().file("[redis]\nurl = 'hunter2'\nurl = 'hunter2'\n").refused();
    assert_eq!(refused, "gatehouse.toml:3:1: duplicate key");
}

#[test]
fn redacted_settings_load_again() {
    let plain = Config::default();
    assert!(plain.to_toml_redacted().contains("\nurl = \"embedded\"\n"));
    assert_eq!(given().file(&plain.to_toml_redacted()).ok(), plain);

    let url = "redis://:hunter2@a";
    let config = given()
        .file(&service_keys())
        .set("redis.url", url)
        .set("login.url", "https://app.example.com/login")
        .set("server.trusted_proxies", "10.0.0.0/8,::1")
        .set("redis.timeout", "11500us")
        .set("tokens.algorithm", "RS256")
        .set("sessions.on_limit_service", "evict_idle")
        .set("sessions.remembered_absolute", "400d")
        .ok();
    let redacted = config.to_toml_redacted();
    assert!(!redacted.contains(SECRET), "{redacted}");
    assert!(!format!("{config:?} {config:#?}").contains(SECRET));
    assert!(redacted.contains("\nurl = \"[redacted]\"\n"), "{redacted}");
    let again = given().file(&redacted).set("redis.url", url).ok();
    assert_eq!(again, config);
    let other = given().file(&redacted).set("redis.url", "redis://a").ok();
    assert_ne!(other, config);
}

#[test]
fn problems_hold_no_secrets() {
    let key = format!("[[login.service_keys]]\nname = 'a'\nsha256 = '{SECRET}'\nscopes = []");
    for given in [
        given().set("redis.url", SECRET),
        given().set("redis.url", "http://:hunter2@a"),
        given().env_file("GATEHOUSE__REDIS__URL_FILE", SECRET),
        given().env("GATEHOUSE__REDIS__URL_FILE", SECRET),
        given().file("[redis]\nurl = ['hunter2']"),
        given().file("[redis]\nurl = { password = 'hunter2' }"),
        given().file("[redis]\nurl = 'redis://:hunter2@a"),
        given().file(&key),
        given().set("server.public_url", "http://:hunter2@a/b"),
    ] {
        let error = given.load().expect_err("it loads");
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
    }
}

proptest! {
    #[test]
    fn shown_durations_are_read_again(nanos in prop_oneof![0..10_u64.pow(18), 0..2000_u64]) {
        for unit in [1, 1000, 1_000_000, 1_000_000_000, 3_600_000_000_000] {
            let duration = Duration::from_nanos(nanos / unit * unit);
            let shown = Shown(duration).to_string();
            prop_assert_eq!(humantime::parse_duration(&shown).unwrap(), duration, "{}", shown);
        }
    }
}
