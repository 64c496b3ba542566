//! The example configuration under a real nginx.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Gatehouse, Process, eventually, free_port};

/// `examples/nginx/nginx.conf`, with other ports.
struct Nginx {
    _process: Process,
    dir: TempDir,
    url: String,
    client: Client,
}

impl Nginx {
    async fn start(gatehouse: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (front, back) = (free_port(), free_port());
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/nginx/nginx.conf");
        let config = fs::read_to_string(example)
            .unwrap()
            .replace("127.0.0.1:8080", gatehouse.strip_prefix("http://").unwrap())
            .replace("127.0.0.1:8000", &format!("127.0.0.1:{front}"))
            .replace("127.0.0.1:8001", &format!("127.0.0.1:{back}"));
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let child = Command::new("nginx")
            .args(["-p", ".", "-c", "nginx.conf", "-g", "daemon off; master_process off;"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stderr(File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .expect("nginx is installed (make test does that)");
        let nginx = Self {
            _process: Process(child),
            dir,
            url: format!("http://127.0.0.1:{front}"),
            client: Client::new(),
        };
        let up = || async { nginx.client.get(&nginx.url).send().await.is_ok() };
        assert!(eventually(Duration::from_secs(10), up).await, "{}", nginx.errors());
        nginx
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    async fn get(
        &self,
        path: &str,
        access_token: Option<&str>,
        headers: &[(&str, &str)],
    ) -> (u16, String) {
        let mut request = self.client.get(format!("{}{path}", self.url));
        if let Some(token) = access_token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

#[tokio::test]
async fn a_sessions_life_behind_nginx() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let nginx = Nginx::start(&gateway.url).await;
    let tokens = gateway.create(json!({ "user_id": "ann", "roles": ["staff"] })).await.tokens();

    let (status, body) = nginx.get("/page", Some(&tokens.access), &[]).await;
    assert_eq!(status, 200);
    assert_eq!(body, format!("Hello ann. groups=staff session={}\n", tokens.session));
    assert_eq!(nginx.get("/page", None, &[]).await.0, 401);
    assert_eq!(nginx.get("/page", Some("nonsense"), &[]).await.0, 401);
    assert_eq!(nginx.get("/admin/", Some(&tokens.access), &[]).await.0, 403);

    let refreshed = gateway.refresh_from(&tokens.refresh, "").await.tokens();
    assert_eq!(nginx.get("/page", Some(&refreshed.access), &[]).await.0, 200);
    gateway.call(Method::POST, "/api/v1/logout", &refreshed).await;
    assert_eq!(nginx.get("/page", Some(&refreshed.access), &[]).await.0, 401);
    assert_eq!(nginx.get("/page", Some(&tokens.access), &[]).await.0, 401);

    let admin = gateway.create(json!({ "user_id": "root", "roles": ["admin"] })).await.tokens();
    assert_eq!(nginx.get("/admin/", Some(&admin.access), &[]).await.0, 200);
    assert!(nginx.errors().is_empty(), "{}", nginx.errors());
}

#[tokio::test]
async fn a_client_cannot_name_itself() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let nginx = Nginx::start(&gateway.url).await;
    let tokens = gateway.login("ann").await;
    let spoofed = [("Remote-User", "root"), ("Remote_User", "root"), ("Remote-Groups", "admin")];
    let (status, body) = nginx.get("/page", Some(&tokens.access), &spoofed).await;
    assert_eq!((status, body), (200, format!("Hello ann. groups= session={}\n", tokens.session)));
    assert_eq!(nginx.get("/page", None, &spoofed).await.0, 401);
    let original = [("X-Original-URL", "http://127.0.0.1/authz"), ("X-Original-Method", "OPTIONS")];
    assert_eq!(nginx.get("/page", None, &original).await.0, 401);
    for path in ["/gatehouse", "/gatehouse-admin"] {
        assert_eq!(nginx.get(path, Some(&tokens.access), &[]).await.0, 404, "{path} is internal");
    }
}

#[tokio::test]
async fn what_cannot_be_known_is_never_let_in() {
    let gatehouse = Gatehouse::with(1, &["check.max_staleness=1s", "redis.timeout=100ms"]).await;
    let gateway = gatehouse.gateway();
    let nginx = Nginx::start(&gateway.url).await;
    let tokens = gateway.login("ann").await;
    assert_eq!(nginx.get("/page", Some(&tokens.access), &[]).await.0, 200);
    gatehouse.redis.kill();
    // nginx makes 500 of every answer that is neither yes nor no.
    let refused = || async { nginx.get("/page", Some(&tokens.access), &[]).await.0 == 500 };
    assert!(eventually(Duration::from_secs(5), refused).await);
}
