//! What honest clients see.

use gatehouse::config::SigningAlgorithm;
use gatehouse::model::{DeviceClass, Session, SessionId, Timestamp};
use gatehouse::token::KeyRing;
use gatehouse::token::access::AccessTokens;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stage::{self, Kind, Stage, request};
use crate::harness::{Answer, Tokens};

pub(super) const WEBSOCKET: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

pub(super) fn bearer(tokens: &Tokens) -> String {
    format!("Bearer {}", tokens.access)
}

pub(super) async fn lives_and_ends(kind: Kind) {
    let stage = Stage::set(kind, &[]).await;
    let gateway = stage.gateway();
    let body = json!({ "user_id": "ann", "roles": ["staff", "ops"], "claims": { "name": "Änn" } });
    let tokens = gateway.create(body).await.tokens();
    let credential = bearer(&tokens);
    let ann = ("Authorization", credential.as_str());

    let (reply, passed) = stage.get("/inbox?page=2", &[ann, ("X-Other", "kept")]).await;
    assert_eq!((reply.status, passed), (200, true), "{}", stage.said());
    assert!(reply.body.starts_with("GET /inbox?page=2 HTTP/1.1\r\n"), "{reply:?}");
    assert_eq!(reply.told("host"), ["app.example"]);
    assert_eq!(reply.told("remote-user"), ["ann"]);
    assert_eq!(reply.told("remote-groups"), ["staff,ops"]);
    assert_eq!(reply.told("remote-name"), ["Änn"]);
    assert_eq!(reply.told("remote-session"), [tokens.session.as_str()]);
    assert_eq!(reply.told("remote-email").concat(), "");
    assert_eq!(reply.told("x-other"), ["kept"]);
    let before = stage.echo.seen();
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        let body = [ann, ("Content-Length", "0")];
        assert_eq!(stage.send(&request(method, "/inbox", &body)).await.status, 200, "{method}");
    }
    assert_eq!(stage.echo.seen(), before + 5);
    for method in ["GET", "HEAD", "POST", "OPTIONS"] {
        let reply = stage.send(&request(method, "/inbox", &[("Content-Length", "0")])).await;
        assert_eq!(
            (reply.status, reply.header("www-authenticate")),
            (401, Some("Bearer")),
            "{method}"
        );
    }
    for (name, value) in [("Authorization", "Bearer nonsense"), ("Cookie", "gatehouse=nonsense")] {
        assert_eq!(stage.get("/inbox", &[(name, value)]).await.0.status, 401, "{name}");
    }

    // A page leads to the login page and a script does not.
    let page = request("GET", "/inbox?page=2", &[("Sec-Fetch-Mode", "navigate")]);
    let reply = stage.send(&page).await;
    let back = "http%3A%2F%2Fapp%2Eexample%2Finbox%3Fpage%3D2";
    let login = format!("https://login.example/?return_to={back}");
    assert!([302, 303].contains(&reply.status), "{reply:?}");
    assert_eq!(reply.header("location"), Some(login.as_str()), "{reply:?}");
    let script = request("GET", "/inbox?page=2", &[("Sec-Fetch-Mode", "cors")]);
    let reply = stage.send(&script).await;
    assert_eq!((reply.status, reply.header("location")), (401, None));

    websockets(&stage, ann).await;

    gateway.call(Method::POST, "/api/v1/logout", &tokens).await;
    assert_eq!(stage.get("/inbox", &[ann]).await.0.status, 401);
}

/// A script of another origin may read why it was refused, if its origin is one that was named.
pub(super) async fn scripts(kind: Kind) {
    let stage =
        Stage::set(kind, &["check.cors_origins=https://spa.example,https://b.example"]).await;
    let credential = bearer(&stage.gateway().login("ann").await);
    let ask = async |path: &str, origin: &str, credential: &str| {
        let from = [("Origin", origin), ("Sec-Fetch-Mode", "cors"), ("Authorization", credential)];
        stage.get(path, &from).await.0
    };
    for (path, credential, status) in
        [("/inbox", "Bearer nonsense", 401), ("/admin/", credential.as_str(), 403)]
    {
        let reply = ask(path, "https://spa.example", credential).await;
        assert_eq!(reply.status, status);
        for (name, value) in [
            ("access-control-allow-origin", "https://spa.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "WWW-Authenticate, Retry-After"),
            ("vary", "Origin"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name}: {reply:?}");
        }
        for origin in ["https://evil.example", "https://spa.example.evil.example", "null"] {
            let reply = ask(path, origin, credential).await;
            assert_eq!(reply.status, status);
            assert_eq!(reply.header("access-control-allow-origin"), None, "{origin}");
        }
    }
    let reply = ask("/inbox", "https://spa.example", &credential).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), None, "the application's to say");
}

/// The application gets a token that verifies by the published keys, and nobody else's.
pub(super) async fn signed(kind: Kind) {
    let stage = Stage::set(kind, &[]).await;
    let gateway = stage.gateway();
    let tokens = gateway.login("ann").await;
    let credential = bearer(&tokens);
    let ann = ("Authorization", credential.as_str());
    let forged = ("X-Gatehouse-Assertion", "forged");
    let (reply, _) = stage.get("/signed/", &[ann, forged]).await;
    let [assertion] = reply.told("x-gatehouse-assertion")[..] else { panic!("{reply:?}") };
    let (again, _) = stage.get("/signed/", &[ann]).await;
    assert_eq!(again.told("x-gatehouse-assertion"), [assertion], "signed once");

    let keys = Answer::of(gateway.get("/.well-known/jwks.json")).await.body;
    let keys: JwkSet = serde_json::from_value(keys).unwrap();
    let header = jsonwebtoken::decode_header(assertion).unwrap();
    assert_eq!(header.typ.as_deref(), Some("gatehouse-assertion+jwt"));
    let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    let verify = |audience: &str| {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&["http://127.0.0.1:8080"]);
        validation.set_audience(&[audience]);
        jsonwebtoken::decode::<Value>(assertion, &key, &validation).map(|token| token.claims)
    };
    let claims = verify("http://app.example").unwrap();
    assert_eq!(claims["sub"], "ann");
    assert_eq!(claims["sid"], tokens.session.as_str());
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
    assert!(verify("http://other.example").is_err());

    let stolen = format!("Bearer {assertion}");
    assert_eq!(stage.get("/inbox", &[("Authorization", &stolen)]).await.0.status, 401);
}

/// Checked when they are opened, as any request.
async fn websockets(stage: &Stage, ann: (&str, &str)) {
    let before = stage.echo.seen();
    let reply = stage.send(&request("GET", "/live", &WEBSOCKET)).await;
    assert_eq!((reply.status, stage.echo.seen()), (401, before));
    let mut stream = stage.connect().await;
    let open = request("GET", "/live", &[&WEBSOCKET[..], &[ann]].concat());
    stream.write_all(&open).await.unwrap();
    let reply = stage::read(&mut stream, false).await.unwrap();
    assert_eq!(reply.status, 101, "{}", stage.said());
    stream.write_all(b"hello").await.unwrap();
    let mut said = [0; 5];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
}

pub(super) async fn requirements(kind: Kind) {
    let stage = Stage::set(kind, &[]).await;
    let gateway = stage.gateway();
    let ann = gateway.create(json!({ "user_id": "ann", "roles": ["staff"] })).await.tokens();
    let root = gateway.create(json!({ "user_id": "root", "roles": ["admin"] })).await.tokens();
    let status = async |path: &str, tokens: &Tokens| {
        stage.get(path, &[("Authorization", &bearer(tokens))]).await.0.status
    };
    assert_eq!(status("/admin/", &ann).await, 403);
    assert_eq!(status("/admin/", &root).await, 200);
    assert_eq!(status("/admin/?role=staff&optional=1&max_age=9999", &ann).await, 403);
    assert_eq!(stage.get("/admin/", &[]).await.0.status, 401);
    let old = [("Authorization", logged_in_long_ago(&stage))];
    let old = old.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(stage.get("/inbox", &old).await.0.status, 200);
    let (reply, _) = stage.get("/admin/", &old).await;
    let too_old = r#"Bearer error="insufficient_user_authentication""#;
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some(too_old)));

    let (reply, passed) = stage.get("/optional/", &[]).await;
    assert_eq!((reply.status, passed), (200, true));
    assert_eq!(reply.told("remote-user").concat(), "");
    assert_eq!(stage.get("/?optional=1", &[]).await.0.status, 401, "the query is the client's");
    let (reply, _) = stage.get("/optional/", &[("Authorization", &bearer(&ann))]).await;
    // Over HTTP Envoy takes no such requirement: there the route is not checked.
    let known = if kind == Kind::EnvoyHttp { "" } else { "ann" };
    assert_eq!((reply.status, reply.told("remote-user").concat().as_str()), (200, known));

    preflights(&stage, &bearer(&ann)).await;

    // Gone without a word: memory cannot know.
    gateway.create(json!({ "user_id": "ann" })).await;
    stage.gatehouse.redis.cli(&["DEL", &format!("gh:{{08}}:session:{}", ann.session)]);
    assert_eq!(status("/", &ann).await, 200);
    assert_eq!(status("/strict/", &ann).await, 401);
}

/// The credential of an administrator who proved who they are eleven minutes ago.
fn logged_in_long_ago(stage: &Stage) -> String {
    let keys = KeyRing::open(&stage.gatehouse.dir.path().join("keys"), SigningAlgorithm::EdDSA);
    let now = Timestamp::now();
    let session = Session {
        id: SessionId([7; 16]),
        user: "root".parse().unwrap(),
        device_name: String::new(),
        device_class: DeviceClass::Other,
        ip: String::new(),
        user_agent: String::new(),
        location: None,
        created: now,
        last_active: now,
        expires: Timestamp(now.0 + 3_600_000),
        remembered: false,
        generation: 1,
        auth_time: Timestamp(now.0 - 660_000),
        auth_method: "pwd".into(),
        roles: vec!["admin".into()],
        claims: serde_json::Map::new(),
    };
    let tokens = AccessTokens {
        issuer: "http://127.0.0.1:8080".into(),
        audience: vec!["gatehouse".into()],
        ttl: 900,
    };
    format!("Bearer {}", tokens.issue(&session, now, &keys.unwrap()).unwrap().0)
}

async fn preflights(stage: &Stage, credential: &str) {
    let headers = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "PUT")];
    let before = stage.echo.seen();
    let page = [&headers[..], &[("Sec-Fetch-Mode", "navigate")]].concat();
    for headers in [&headers[..], &page] {
        let reply = stage.send(&request("OPTIONS", "/inbox", headers)).await;
        assert_eq!((reply.status, reply.header("location")), (401, None));
    }
    assert_eq!(stage.echo.seen(), before);
    let reply = stage.send(&request("OPTIONS", "/api/", &headers)).await;
    assert_eq!(reply.status, 200);
    if stage.kind == Kind::EnvoyHttp {
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
        assert_eq!(stage.echo.seen(), before, "Envoy answers it");
    } else {
        assert_eq!(reply.told("remote-user").concat(), "");
    }
    // What only looks like one is none.
    let get = stage.send(&request("GET", "/api/", &headers)).await;
    let forged = [&headers[..], &[("X-Forwarded-Method", "OPTIONS")]].concat();
    assert_eq!((get.status, stage.get("/api/", &forged).await.0.status), (401, 401));
    let incomplete = stage.send(&request("OPTIONS", "/api/", &headers[..1])).await;
    assert_eq!(incomplete.status, 401);
    let known = [("Authorization", credential)];
    assert_eq!(stage.send(&request("OPTIONS", "/api/", &known)).await.status, 200);
}
