//! Redis behind TLS, and with no more rights than are needed.

use std::fs;

use reqwest::Method;

use super::Lab;
use super::servers::{Server, cli};

/// What docs/redis.md says a gateway needs.
fn documented_rights() -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ACL SETUSER gatehouse "));
    line.expect("docs/redis.md has the line").split(' ').map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough_and_the_password_is_needed() {
    let server = Server::start(&[]).await;
    let rights = documented_rights();
    let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
    let made = server.cli(&[&["ACL", "SETUSER", "gatehouse"], &rights[..]].concat());
    assert_eq!(made, "OK");
    server.cli(&["ACL", "SETUSER", "default", "-@all"]);
    let log = || cli(server.port, &["--user", "gatehouse", "--pass", "a-long-secret", "PING"]);
    assert!(log().contains("PONG"));
    let url = format!("redis://gatehouse:a-long-secret@127.0.0.1:{}", server.port);
    let lab = Lab::over(url, 2, &["redis.durability=wait", "sweep.interval=200ms"]).await;
    let gateway = &lab.gateways[0];
    for i in 0..17 {
        gateway.login(&format!("user-{}", i % 2)).await;
    }
    let tokens = gateway.login("ann").await;
    let tokens = gateway.refresh(&tokens.refresh).await.tokens();
    assert_eq!(gateway.check(&tokens.access).await, 200);
    let list = gateway.call(Method::GET, "/api/v1/users/sessions", &tokens).await;
    assert_eq!(list.status, 200);
    let path = format!("/api/v1/users/sessions/{}", tokens.session);
    let renamed = gateway.request(Method::PATCH, &path).bearer_auth(&tokens.access);
    let renamed =
        renamed.json(&serde_json::json!({ "device_name": "laptop" })).send().await.unwrap();
    assert_eq!(renamed.status(), 200);
    let all = gateway.call(Method::POST, "/api/v1/users/sessions/revoke-all", &tokens).await;
    assert!(matches!(all.status, 200 | 202), "{all:?}");
    let everything = gateway.admin(Method::POST, "/api/v1/admin/revoke-everything").await;
    assert!(matches!(everything.status, 202 | 204), "{everything:?}");
    lab.refused_everywhere(&tokens.access).await;
    let metrics = gateway.metrics().await;
    let denied: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("gatehouse_redis_errors")).collect();
    assert!(denied.is_empty(), "{denied:?}");
}

/// An authority and a server's certificate of its making, as files.
fn certificates(dir: &std::path::Path) {
    let params = |name: &str| rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let mut authority = params("Test authority");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (authority_key, key) =
        (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let server = params("localhost").signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("ca.pem"), certificate.pem()).unwrap();
    fs::write(dir.join("server.pem"), server.pem()).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_by_the_authority_that_signed_it() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let tls = crate::harness::free_port();
    let _server = Server::start(&[
        "--tls-port",
        &tls.to_string(),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let url = format!("rediss://localhost:{tls}");
    let trusted = format!("redis.ca_file={}", file("ca.pem"));
    let lab = Lab::over(url.clone(), 1, &[&trusted]).await;
    let tokens = lab.gateways[0].login("ann").await;
    assert_eq!(lab.gateways[0].call(Method::POST, "/api/v1/logout", &tokens).await.status, 204);
    lab.refused_everywhere(&tokens.access).await;
    // The system's authorities have not signed it.
    let log = lab.house.dir.path().join("distrustful.log");
    let config = lab.house.dir.path().join("gatehouse.toml");
    let distrustful =
        crate::harness::spawn(&config, &["--set", &format!("redis.url={url}")], &log).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(!distrustful.ready().await);
}
