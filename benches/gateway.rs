//! A gateway in the benchmark's own process, without a listener, over a real Redis.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use gatehouse::check::Follower;
use gatehouse::config::{self, Scope, ServiceKey};
use gatehouse::http::{self, Routes};
use gatehouse::login::password;
use gatehouse::login::users::Users;
use gatehouse::sessions::location::Locations;
use gatehouse::state::{self, retention};
use gatehouse::store::Store;
use gatehouse::telemetry::metrics;
use gatehouse::token::KeyRing;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::redis::Redis;

const SERVICE_KEY: &str = "ghk_bench";
const PASSWORD: &str = "correct horse";
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
const AGENT: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like \
                     Gecko) Chrome/126.0.0.0 Safari/537.36";

pub(crate) struct Gateway {
    routes: Routes,
    store: Store,
}

impl Gateway {
    /// Proves once that it is current, and is content with that: nothing runs beside what is measured.
    pub(crate) async fn start(redis: &Redis, keys_dir: &Path) -> Self {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let overrides = [
            ("redis.buckets", "1"),
            ("redis.connections", "1"),
            ("redis.timeout", "2s"),
            ("check.max_staleness", "5m"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut config = config::load(None, std::iter::empty(), &overrides).unwrap();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SERVICE_KEY.as_bytes());
        config.login.service_keys.push(ServiceKey {
            name: "bench".to_owned(),
            sha256: hash.as_ref().try_into().unwrap(),
            scopes: vec![Scope::SessionsCreate],
        });
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        let retention = retention(&config);
        let keys = Arc::new(KeyRing::open(keys_dir, config.tokens.algorithm).unwrap());
        let store = Store::connect(&config.redis, &redis.url(), retention).unwrap();
        let locations = Arc::new(Locations::open(None).unwrap());
        store.prepare().await.unwrap();
        let users = keys_dir.join("users.toml");
        let hash = password::hash(PASSWORD.as_bytes()).unwrap();
        let ann = format!("[[users]]\nname = 'ann'\npassword = '{hash}'\nroles = ['staff']\n");
        std::fs::write(&users, ann).unwrap();
        let (gateway, _writer) = state::Gateway::new(
            config,
            store.clone(),
            keys,
            locations,
            Users::open(Some(&users)).unwrap(),
            metrics::install().unwrap(),
        );
        let (check, stop) = (&gateway.check, CancellationToken::new());
        let follower = Follower {
            store: store.clone(),
            revocations: Arc::clone(&check.revocations),
            freshness: Arc::clone(&check.freshness),
            retention,
        };
        let following = follower.run(stop.clone());
        let proved = async {
            while check.freshness.staleness(0, Instant::now()) == Duration::MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.cancel();
        };
        tokio::join!(following, proved);
        Self { routes: http::public(Arc::clone(&gateway)), store }
    }

    pub(crate) async fn stop(&self) {
        self.store.close().await;
    }

    /// Asks as nginx does.
    pub(crate) async fn check(&self, question: &Request<()>) -> StatusCode {
        let question = question.clone().map(|()| Body::empty());
        self.routes.answer(PEER, question).await.status()
    }

    pub(crate) async fn create(&self, user: &str) -> Tokens {
        let body = json!({
            "user_id": user, "ip": "203.0.113.9", "user_agent": AGENT, "roles": ["staff"],
            "claims": { "email": "ann@example.com", "name": "Ann" },
        });
        let request = Request::post("/api/v1/sessions")
            .header("authorization", format!("Bearer {SERVICE_KEY}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        Tokens::of(self.routes.answer(PEER, request).await).await
    }

    /// A browser's request that nginx asks about, with the cookie of a new session.
    pub(crate) async fn cookie_question(&self) -> Request<()> {
        let body = json!({ "username": "ann", "password": PASSWORD, "mode": "cookie" });
        let request = Request::post("/api/v1/login")
            .header("user-agent", AGENT)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = self.routes.answer(PEER, request).await;
        let set = response.headers()["set-cookie"].to_str().unwrap();
        let cookie = set.split(';').next().unwrap();
        question().header("cookie", cookie).body(()).unwrap()
    }

    pub(crate) async fn refresh(&self, tokens: &Tokens) -> Tokens {
        let request = Request::post("/api/v1/sessions/refresh")
            .header("user-agent", AGENT)
            .header("content-type", "application/json")
            .body(Body::from(json!({ "refresh_token": tokens.refresh }).to_string()))
            .unwrap();
        Tokens::of(self.routes.answer(PEER, request).await).await
    }
}

/// What an app holds.
pub(crate) struct Tokens {
    access: String,
    refresh: String,
}

impl Tokens {
    async fn of(response: Response) -> Self {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }

    /// A request that nginx asks about.
    pub(crate) fn question(&self) -> Request<()> {
        question().header("authorization", format!("Bearer {}", self.access)).body(()).unwrap()
    }
}

fn question() -> Builder {
    Request::get("/authz/auth-request")
        .header("host", "gatehouse")
        .header("x-original-method", "GET")
        .header("x-original-url", "https://app.example/inbox?page=2")
        .header("x-forwarded-for", "203.0.113.9")
}
