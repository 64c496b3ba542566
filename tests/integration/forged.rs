//! Tokens that are not ours, or not any more, or not quite.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Gatehouse};

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test]
async fn forged_access_tokens_open_nothing() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let [header, payload, signature] =
        tokens.access.split('.').collect::<Vec<_>>().try_into().unwrap();
    let jwks = Answer::of(gateway.get("/.well-known/jwks.json")).await.body;
    let kid = jwks["keys"][0]["kid"].as_str().unwrap();
    let mut forged = vec![
        String::new(),
        "nonsense".into(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}=.{payload}.{signature}"),
        format!("{}.{payload}.{signature}", &header[..header.len() - 1]),
        format!("{header}.{payload}.{}", &signature[..80]),
        tokens.refresh.clone(),
    ];
    for alg in ["none", "None", "nOnE", "", "HS256", "RS256", "ES256"] {
        let header = encode(&json!({ "typ": "at+jwt", "alg": alg, "kid": kid }));
        // HS256 under what everybody knows, the public key.
        let key = hmac(jwks["keys"][0]["x"].as_str().unwrap(), &format!("{header}.{payload}"));
        forged.extend([format!("{header}.{payload}."), format!("{header}.{payload}.{key}")]);
    }
    for header in [
        json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "unknown" }),
        json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "../../dev/null" }),
        json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "x".repeat(8000) }),
        json!({ "typ": "JWT", "alg": "EdDSA", "kid": kid }),
        json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": kid, "crit": ["exp"] }),
        json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": kid, "jwk": jwks["keys"][0] }),
    ] {
        forged.push(format!("{}.{payload}.{signature}", encode(&header)));
    }
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    for (name, value) in [
        ("sub", json!("root")),
        ("exp", json!("9")),
        ("exp", json!(-1)),
        ("roles", json!(["admin"])),
    ] {
        let mut claims = claims.clone();
        claims[name] = value;
        forged.push(format!("{header}.{}.{signature}", encode(&claims)));
    }
    for token in &forged {
        let request =
            gateway.get("/authz/auth-request").header("authorization", format!("Bearer {token}"));
        let status = Answer::of(request).await.status;
        assert!(status == 401 || (status == 431 && token.len() > 8000), "{status}: {token}");
    }
    // One bit, anywhere.
    for at in (0..tokens.access.len()).step_by(7) {
        let mut bytes = tokens.access.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(token) = String::from_utf8(bytes) else { continue };
        assert_eq!(gateway.check(&token).await, 401, "byte {at}");
    }
    assert_eq!(gateway.check(&tokens.access).await, 200, "and the genuine one does");
}

fn hmac(key: &str, message: &str) -> String {
    use aws_lc_rs::hmac;
    let key = URL_SAFE_NO_PAD.decode(key).unwrap();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), message.as_bytes());
    URL_SAFE_NO_PAD.encode(tag)
}

#[tokio::test]
async fn each_token_is_good_in_its_own_place_only() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    assert_eq!(gateway.check(&tokens.refresh).await, 401);
    assert_eq!(gateway.check("ghk_test").await, 401);
    assert_eq!(gateway.refresh(&tokens.access).await.code(), "invalid_refresh_token");
    let list = gateway.request(Method::GET, "/api/v1/users/sessions").bearer_auth(&tokens.refresh);
    assert_eq!(Answer::of(list).await.status, 401);
    let create = gateway.post("/api/v1/sessions").bearer_auth(&tokens.access);
    assert_eq!(Answer::of(create.json(&json!({ "user_id": "ann" }))).await.status, 401);
}

#[tokio::test]
async fn forged_refresh_tokens_cost_no_command() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let before = gatehouse.redis.calls("hgetall");
    for at in 4..tokens.refresh.len() {
        let mut bytes = tokens.refresh.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(bytes).unwrap();
        let answer = gateway.refresh(&forged).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_refresh_token"), "byte {at}");
    }
    assert_eq!(gatehouse.redis.calls("hgetall"), before);
    assert_eq!(gateway.refresh(&tokens.refresh).await.status, 200);
}

#[tokio::test]
async fn a_handle_of_a_session_that_was_begun_anew_is_no_good() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    // The key alone is not enough: the record holds another seed.
    gatehouse.redis.cli(&[
        "HSET",
        &format!("gh:{{08}}:session:{}", tokens.session),
        "s",
        "0123456789abcdef",
    ]);
    let answer = gateway.refresh(&tokens.refresh).await;
    assert_eq!(answer.code(), "invalid_refresh_token");
    assert_eq!(gateway.check(&tokens.access).await, 200, "and it is not called theft");
}
