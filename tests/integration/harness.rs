//! A Redis, gateways over it, and a client: enough to tell a story in a few lines.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Belongs to the one service of every test, with all scopes.
pub(crate) const SERVICE_KEY: &str = "ghk_test";

pub(crate) const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 \
                          (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36";
pub(crate) const FIREFOX: &str =
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0";

/// Tries until it succeeds, or the time is over.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if attempt().await {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port of the loopback that nobody has at this moment.
pub(crate) fn free_port() -> u16 {
    // Below those that the system gives to outgoing connections, of which one could take it first.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = || {
        let next =
            std::process::id().wrapping_mul(101).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        u16::try_from(10_000 + next % 20_000).unwrap()
    };
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(ports).find(free).unwrap()
}

/// A child process that ends with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis server on a unix socket, with an append-only file.
pub(crate) struct Redis {
    pub(crate) dir: TempDir,
    process: Mutex<Option<Process>>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let redis = Self { dir: tempfile::tempdir().unwrap(), process: Mutex::new(None) };
        redis.spawn();
        redis
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("r.sock")
    }

    pub(crate) fn spawn(&self) {
        let program = std::env::var("GATEHOUSE_TEST_REDIS").unwrap_or("redis-server".into());
        let child = Command::new(program)
            .current_dir(self.dir.path())
            .args(["--port", "0", "--unixsocket", "r.sock", "--appendonly", "yes", "--save", ""])
            .args(["--rdbcompression", "no", "--maxmemory-policy", "noeviction"])
            .stdout(File::create(self.dir.path().join("log")).unwrap())
            .spawn()
            .expect("redis-server is installed (make test does that)");
        *self.process.lock().unwrap() = Some(Process(child));
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.try_cli(&["PING"]).as_deref() != Some("PONG") {
            assert!(Instant::now() < deadline, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&self) {
        self.process.lock().unwrap().take();
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.lock().unwrap().as_ref().unwrap().signal(signal);
    }

    pub(crate) fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args).unwrap_or_else(|| panic!("{args:?} failed"))
    }

    fn try_cli(&self, args: &[&str]) -> Option<String> {
        let output =
            Command::new("redis-cli").arg("-s").arg(self.socket()).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        self.cli(&["--scan", "--pattern", pattern]).lines().map(str::to_owned).collect()
    }

    /// Breaks the connections that wait for news of the feed: what was on its way to them is lost.
    pub(crate) fn cut_feed_readers(&self) {
        for line in self.cli(&["CLIENT", "LIST"]).lines().filter(|line| line.contains("cmd=xread"))
        {
            let id = line.strip_prefix("id=").unwrap().split(' ').next().unwrap();
            self.cli(&["CLIENT", "KILL", "ID", id]);
        }
    }

    /// How often each command ran, also inside scripts.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        self.cli(&["INFO", "commandstats"])
            .lines()
            .find_map(|line| {
                line.strip_prefix(&format!("cmdstat_{command}:calls="))?
                    .split(',')
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    }
}

/// The password of everybody in [`people`].
pub(crate) const PASSWORD: &str = "correct horse";

/// An entry of a password file; the hash costs next to nothing.
pub(crate) fn person(name: &str, password: &str, more: &str) -> String {
    use argon2::password_hash::PasswordHasher as _;
    let params = argon2::Params::new(8, 1, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash = argon2.hash_password(password.as_bytes()).unwrap();
    format!("[[users]]\nname = '{name}'\npassword = '{hash}'\n{more}\n")
}

/// Whom a test's password file names.
fn people() -> String {
    ["ann", "bob"].map(|name| person(name, PASSWORD, "roles = ['staff']")).concat()
        + &person("root", PASSWORD, "roles = ['admin']")
}

/// One gateway process.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) url: String,
    pub(crate) ops: String,
    /// Empty unless `server.grpc_listen` is set.
    pub(crate) grpc: String,
    client: Client,
}

impl Gateway {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// What nginx asks.
    pub(crate) async fn check(&self, access_token: &str) -> u16 {
        let request = self.get("/authz/auth-request").bearer_auth(access_token);
        request.send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn create(&self, body: Value) -> Answer {
        Answer::of(self.post("/api/v1/sessions").bearer_auth(SERVICE_KEY).json(&body)).await
    }

    /// A session of a user, with nothing special about it.
    pub(crate) async fn login(&self, user: &str) -> Tokens {
        self.create(json!({ "user_id": user, "user_agent": CHROME })).await.tokens()
    }

    pub(crate) async fn refresh(&self, refresh_token: &str) -> Answer {
        self.refresh_from(refresh_token, CHROME).await
    }

    pub(crate) async fn refresh_from(&self, refresh_token: &str, user_agent: &str) -> Answer {
        let request = self.post("/api/v1/sessions/refresh").header("user-agent", user_agent);
        Answer::of(request.json(&json!({ "refresh_token": refresh_token }))).await
    }

    /// A login with a password.
    pub(crate) fn password(&self, username: &str, password: &str) -> RequestBuilder {
        let body = json!({ "username": username, "password": password });
        self.post("/api/v1/login").header("user-agent", CHROME).json(&body)
    }

    /// A login with a password that asks for a cookie; as `name=value`.
    pub(crate) async fn cookie(&self, username: &str) -> String {
        let body = json!({ "username": username, "password": PASSWORD, "mode": "cookie" });
        let request = self.post("/api/v1/login").header("user-agent", CHROME);
        Answer::of(request.json(&body)).await.cookie()
    }

    /// What nginx asks about a browser.
    pub(crate) async fn check_cookie(&self, cookie: &str) -> u16 {
        let request = self.get("/authz/auth-request").header("cookie", cookie);
        request.send().await.unwrap().status().as_u16()
    }

    /// What a page of the gateway's own sends.
    pub(crate) async fn page(&self, method: Method, path: &str, cookie: &str) -> Answer {
        let request = self.request(method, path).header("cookie", cookie);
        Answer::of(request.header("sec-fetch-site", "same-origin")).await
    }

    /// A user's request to the API.
    pub(crate) async fn call(&self, method: Method, path: &str, tokens: &Tokens) -> Answer {
        Answer::of(self.request(method, path).bearer_auth(&tokens.access)).await
    }

    /// An administrator's, by service key.
    pub(crate) async fn admin(&self, method: Method, path: &str) -> Answer {
        Answer::of(self.request(method, path).bearer_auth(SERVICE_KEY)).await
    }

    pub(crate) async fn ready(&self) -> bool {
        match self.client.get(format!("{}/readyz", self.ops)).send().await {
            Ok(response) => response.status() == StatusCode::OK,
            Err(_) => false,
        }
    }

    pub(crate) async fn metrics(&self) -> String {
        let response = self.client.get(format!("{}/metrics", self.ops)).send().await.unwrap();
        response.text().await.unwrap()
    }

    /// The value of a counter with exactly these labels, zero when it is not there.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = self.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |text| text.parse().unwrap())
    }
}

/// A status and a body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        Self { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null) }
    }

    pub(crate) fn tokens(self) -> Tokens {
        let text = |name: &str| match self.body[name].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no {name} in {self:?}"),
        };
        let tokens = Tokens {
            access: text("access_token"),
            refresh: text("refresh_token"),
            session: self.body["session"]["id"].as_str().unwrap().to_owned(),
        };
        ISSUED.lock().unwrap().extend([tokens.access.clone(), tokens.refresh.clone()]);
        tokens
    }

    /// The session cookie that was set, as `name=value`.
    pub(crate) fn cookie(&self) -> String {
        let set = self.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
        let mut cookie = set.filter_map(|set| set.split(';').next());
        let cookie = cookie.rfind(|pair| pair.contains("gatehouse="));
        let cookie = cookie.unwrap_or_else(|| panic!("no cookie in {self:?}")).to_owned();
        ISSUED.lock().unwrap().insert(cookie.split_once('=').unwrap().1.to_owned());
        cookie
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The fields that a refusal names.
    pub(crate) fn fields(&self) -> BTreeSet<String> {
        let errors = self.body["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }
}

/// What a client holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) session: String,
}

/// Every token that was ever issued to these tests.
pub(crate) static ISSUED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A Redis and the gateways over it, which share their keys.
pub(crate) struct Gatehouse {
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) redis: Arc<Redis>,
    pub(crate) dir: TempDir,
    settings: Vec<String>,
}

impl Gatehouse {
    pub(crate) async fn start() -> Self {
        Self::with(1, &[]).await
    }

    /// So many gateways with these settings (`key=value`).
    pub(crate) async fn with(gateways: usize, settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[server]\nlisten = '127.0.0.1:0'\nops_listen = '127.0.0.1:0'\n\
             trusted_proxies = ['127.0.0.1']\n\
             [redis]\ntimeout = '2s'\n\
             [tokens]\nkeys_dir = '{0}/keys'\n\
             [limits]\nfailures_per_minute = 100000\n\
             logins_per_account = 100000\nlogins_per_address = 100000\nlogins_in_all = 100000\n\
             [login]\nusers_file = '{0}/users.toml'\n\
             [log]\nformat = 'json'\nlevel = 'info,gatehouse=trace'\n\
             [[login.service_keys]]\nname = 'test'\nsha256 = '{1}'\n\
             scopes = ['sessions:create', 'sessions:revoke', 'feed:read', 'admin:read', 'admin:write']\n\
             [[login.service_keys]]\nname = 'narrow'\nsha256 = '{2}'\nscopes = ['sessions:create']\n",
            dir.path().display(),
            sha256(SERVICE_KEY),
            sha256("ghk_narrow"),
        );
        fs::write(dir.path().join("users.toml"), people()).unwrap();
        File::create(dir.path().join("gatehouse.toml"))
            .unwrap()
            .write_all(config.as_bytes())
            .unwrap();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let redis = Arc::new(Redis::start());
        let mut gatehouse = Self { gateways: Vec::new(), redis, dir, settings };
        for _ in 0..gateways {
            gatehouse.add_gateway().await;
        }
        gatehouse
    }

    /// Another gateway over the same Redis.
    pub(crate) async fn add_gateway(&mut self) -> &Gateway {
        let redis = format!("redis.url=redis+unix://{}", self.redis.socket().display());
        let mut args = vec!["--set", &redis];
        args.extend(self.settings.iter().flat_map(|setting| ["--set", setting]));
        let log = self.dir.path().join(format!("gateway-{}.log", self.gateways.len()));
        let gateway = spawn(&self.dir.path().join("gatehouse.toml"), &args, &log).await;
        let up = eventually(Duration::from_secs(20), || gateway.ready()).await;
        assert!(up, "not ready: {}", fs::read_to_string(&log).unwrap());
        self.gateways.push(gateway);
        self.gateways.last().unwrap()
    }

    /// Replaces the password file, as a deployment would.
    pub(crate) fn write_users(&self, text: &str) {
        let draft = self.dir.path().join("users.new");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.dir.path().join("users.toml")).unwrap();
    }

    /// The first gateway.
    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateways[0]
    }
}

pub(crate) fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let write = |hex: String, byte: &u8| hex + &format!("{byte:02x}");
    digest.as_ref().iter().fold(String::new(), write)
}

/// A gateway process, as soon as it says where it listens.
pub(crate) async fn spawn(config: &Path, args: &[&str], log: &Path) -> Gateway {
    spawn_in(&[], config, args, log).await
}

/// The same in an environment.
pub(crate) async fn spawn_in(
    environment: &[(&str, &str)],
    config: &Path,
    args: &[&str],
    log: &Path,
) -> Gateway {
    let child = Command::new(env!("CARGO_BIN_EXE_gatehouse"))
        .arg("serve")
        .arg("--config")
        .arg(config)
        .args(args)
        .env_remove("RUST_LOG")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stderr(File::create(log).unwrap())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    let listening = loop {
        let text = fs::read_to_string(log).unwrap();
        let line = text.lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening").then_some(line)
        });
        if let Some(line) = line {
            break line;
        }
        let ended = process.0.try_wait().unwrap();
        assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    Gateway {
        process,
        url: format!("http://{}", listening["listen"].as_str().unwrap()),
        ops: format!("http://{}", listening["ops_listen"].as_str().unwrap()),
        grpc: listening["grpc_listen"].as_str().unwrap_or_default().to_owned(),
        client: Client::builder().timeout(Duration::from_secs(20)).build().unwrap(),
    }
}
