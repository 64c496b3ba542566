//! What clients try.

use serde_json::json;

use super::session::bearer;
use super::stage::{CLIENT, Kind, Reply, Stage, get};
use crate::harness::{Tokens, eventually};
use std::time::Duration;

/// Each a request with these headers beside the credential.
const NAMES: &[&[(&str, &str)]] = &[
    &[("Remote-User", "root")],
    &[("rEmOtE-uSeR", "root")],
    &[("Remote-User", "root"), ("Remote-User", "admin")],
    &[("Remote-User", "")],
    &[("remote_user", "root")],
    &[("REMOTE_USER", "root")],
    &[("Remote_User", "root"), ("Remote-User", "root")],
    &[("Remote.User", "root")],
    &[("Remote-Groups", "admin")],
    &[("remote_groups", "admin")],
    &[("Remote-Email", "root@example.com")],
    &[("Remote.Email", "root@example.com")],
    &[("Remote-Name", "Root"), ("remote_name", "Root")],
    &[("Remote-Session", "AAAAAAAAAAAAAAAAAAAAAA")],
    &[("X-Gatehouse-Assertion", "x")],
    &[("X_Gatehouse_Assertion", "x"), ("X-Gatehouse.Assertion", "x")],
    &[("Connection", "close, Remote-User")],
    &[("Connection", "close, remote-user, Remote-Groups"), ("Remote-User", "root")],
    &[("Connection", "close"), ("Connection", "REMOTE-USER")],
    &[("Connection", "close, Remote_User"), ("Remote_User", "root")],
];

/// What a proxy says of a request, said by a client.
const FORWARDED: &[(&str, &str)] = &[
    ("X-Forwarded-For", "198.51.100.66"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "ws"),
    ("X-Forwarded-Uri", "/optional/"),
    ("X-Forwarded-Method", "OPTIONS"),
    ("X-Forwarded-Port", "1"),
    ("X-Forwarded-Prefix", "/optional"),
    ("Forwarded", "for=198.51.100.66;host=evil.example"),
    ("X-Real-Ip", "198.51.100.66"),
    ("X-Original-Url", "http://evil.example/optional/"),
    ("X-Original-Method", "OPTIONS"),
    ("X-Original-Uri", "/optional/"),
    ("X-Rewrite-Url", "/optional/"),
    ("X-Envoy-Original-Path", "/optional/"),
];

pub(super) async fn names(kind: Kind) {
    let stage = Stage::set(kind, &[]).await;
    let body = json!({ "user_id": "ann", "roles": ["staff"] });
    let tokens = stage.gateway().create(body).await.tokens();
    let credential = bearer(&tokens);
    let ann = ("Authorization", credential.as_str());
    for attack in NAMES {
        let known = [&[ann], *attack].concat();
        judge(&stage, stage.get("/inbox", &known).await, Some(&tokens), attack);
        judge(&stage, stage.get("/optional/", attack).await, None, attack);
        let (reply, passed) = stage.get("/inbox", attack).await;
        assert!((400..500).contains(&reply.status) && !passed, "{attack:?}: {reply:?}");
    }

    // All of them together, and none changes who is let in, where a login leads, or where from.
    let page = [("Sec-Fetch-Mode", "navigate")];
    let (plain, _) = stage.get("/inbox", &page).await;
    for attack in FORWARDED.iter().map(std::slice::from_ref).chain([FORWARDED]) {
        let (reply, passed) = stage.get("/inbox", &[&page, attack].concat()).await;
        assert_eq!((reply.status, passed), (plain.status, false), "{attack:?}");
        assert_eq!(reply.header("location"), plain.header("location"), "{attack:?}");
        assert_eq!(stage.get("/admin/", &[&[ann], attack].concat()).await.0.status, 403);
        judge(&stage, stage.get("/inbox", &[&[ann], attack].concat()).await, Some(&tokens), attack);
    }
    let known = || async {
        let path = "/api/v1/users/sessions";
        let list = stage.gateway().call(reqwest::Method::GET, path, &tokens).await;
        assert_ne!(list.body["sessions"][0]["ip_address"], "198.51.100.66");
        list.body["sessions"][0]["ip_address"] == CLIENT
    };
    assert!(eventually(Duration::from_secs(5), known).await);

    // Requirements of the client's own bind the client, if anybody.
    for own in ["optional=1", "preflight=allow", "max_age=9999999", "role=staff"] {
        let own = ("X-Gatehouse-Require", own);
        let (reply, passed) = stage.get("/inbox", &[own]).await;
        assert!([400, 401, 403].contains(&reply.status) && !passed, "{own:?}: {reply:?}");
        let (reply, passed) = stage.get("/admin/", &[ann, own]).await;
        assert!([400, 403].contains(&reply.status) && !passed, "{own:?}: {reply:?}");
    }
}

/// The application was told of the right person alone, or of nothing.
fn judge(
    stage: &Stage,
    (reply, passed): (Reply, bool),
    tokens: Option<&Tokens>,
    attack: &[(&str, &str)],
) {
    if reply.status != 200 {
        assert!((400..500).contains(&reply.status) && !passed, "{attack:?}: {reply:?}");
        return;
    }
    let hidden = reply.told("connection").concat().to_lowercase().contains("remote");
    assert!(!hidden, "{attack:?}: the next proxy would drop what ours said: {reply:?}");
    let session = tokens.map_or("", |tokens| &tokens.session);
    let (user, groups) = if tokens.is_some() { ("ann", "staff") } else { ("", "") };
    for (name, value) in [
        ("remote-user", user),
        ("remote-groups", groups),
        ("remote-email", ""),
        ("remote-name", ""),
        ("remote-session", session),
        ("x-gatehouse-assertion", ""),
    ] {
        let told = reply.told(name);
        let right = told == [value] || value.is_empty() && told.is_empty();
        assert!(right, "{attack:?}: {name} is {told:?} behind {:?}", stage.kind);
    }
}

pub(super) async fn malformed(kind: Kind) {
    let stage = Stage::set(kind, &[]).await;
    let body = json!({ "user_id": "ann", "roles": ["staff"] });
    let tokens = stage.gateway().create(body).await.tokens();
    let credential = bearer(&tokens);
    let with = |head: &[u8], value: &[u8]| {
        let head = [b"GET /inbox HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n", head];
        let credential = ["\r\nAuthorization: ", &credential, "\r\n\r\n"].concat();
        [&head.concat(), value, credential.as_bytes()].concat()
    };
    let target = |target: &[u8]| {
        let end = format!(
            " HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\nAuthorization: {credential}\r\n\r\n"
        );
        [b"GET ", target, end.as_bytes()].concat()
    };
    let large = vec![b'x'; 64 * 1024];
    for (what, bytes) in [
        ("64 KiB in a header", with(b"X-Large: ", &large)),
        ("64 KiB of a cookie", with(b"Cookie: gatehouse=", &large)),
        ("64 KiB of a path", target(&[b"/", large.as_slice()].concat())),
        ("a NUL in a header", with(b"X-Nul: ", b"a\0b")),
        ("a NUL in a name", with(b"X-N\0l: ", b"a")),
        ("a NUL in a path", target(b"/a\0b")),
        ("two credentials", with(format!("Authorization: {credential}").as_bytes(), b"")),
        ("a credential that is not text", with(b"Authorization: Bearer ", b"\xff\xfe")),
        ("two hosts", with(b"Host: ", b"other.example")),
    ] {
        let before = stage.echo.seen();
        let reply = stage.send(&bytes).await;
        let refused = (400..500).contains(&reply.status) && stage.echo.seen() == before;
        assert!(refused, "{what}: {reply:?}");
    }

    // The target's host counts (RFC 9112 section 3.2.2) for Gatehouse and the application alike, where
    // it is not refused.
    let other =
        "GET http://other.example/inbox HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n";
    let reply = stage.send(format!("{other}Authorization: {credential}\r\n\r\n").as_bytes()).await;
    if matches!(kind, Kind::Traefik | Kind::Caddy) {
        assert_eq!(reply.told("host"), ["other.example"]);
        let page = format!("{other}Sec-Fetch-Mode: navigate\r\n\r\n");
        let reply = stage.send(page.as_bytes()).await;
        assert!(reply.header("location").unwrap().ends_with("other%2Eexample%2Finbox"));
    } else {
        assert!((400..500).contains(&reply.status), "{reply:?}");
    }

    // Refused, or of no effect.
    for (what, bytes) in [
        ("64 KiB of addresses", with(b"X-Forwarded-For: ", &b"1.1.1.1, ".repeat(7282))),
        ("1,000 addresses", with(b"X-Forwarded-For: ", &b"1.1.1.1, ".repeat(1000))),
        ("a path that is not ASCII", target(b"/\xff\xfe")),
        ("a header that is not ASCII", with(b"X-Forwarded-Host: ", b"\xff\xfe")),
        ("an original URL that is not ASCII", with(b"X-Original-Url: ", b"http://a/\xff")),
    ] {
        let before = stage.echo.seen();
        let reply = stage.send(&bytes).await;
        let passed = stage.echo.seen() > before;
        judge(&stage, (reply, passed), Some(&tokens), &[(what, "")]);
    }

    assert_eq!(stage.send(&get("/inbox", &[("Authorization", &credential)])).await.status, 200);
}
