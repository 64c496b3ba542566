//! No token that was ever issued stands in Redis or in a log.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;

use crate::harness::{Gatehouse, SERVICE_KEY};

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Every file under a directory, with its name.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_none_or(|kind| kind != "sock") {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn neither_a_dump_nor_a_log_holds_a_token() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for i in 0..20 {
        let gateway = &gatehouse.gateways[i % 2];
        let mut tokens = gateway.login(&format!("user-{}", i % 5)).await;
        for _ in 0..3 {
            let next = gateway.refresh(&tokens.refresh).await.tokens();
            gateway.check(&tokens.access).await;
            let signature = tokens.access.rsplit('.').next().unwrap();
            let handle = URL_SAFE_NO_PAD.decode(&tokens.refresh[4..]).unwrap();
            let mac = &handle[handle.len() - 32..];
            secrets.extend([
                tokens.access.clone().into_bytes(),
                signature.into(),
                URL_SAFE_NO_PAD.decode(signature).unwrap(),
                tokens.refresh[4..].into(),
                mac.to_vec(),
                URL_SAFE_NO_PAD.encode(mac).into_bytes(),
                // The sealed seed, which only the key opens.
                handle[handle.len() - 48..handle.len() - 32].to_vec(),
            ]);
            tokens = next;
        }
        // Refusals are logged too.
        gateway.refresh(&format!("{}x", tokens.refresh)).await;
        gateway.check(&format!("{}x", tokens.access)).await;
        if i % 4 == 0 {
            gateway.call(Method::POST, "/api/v1/logout", &tokens).await;
        }
    }
    secrets.push(SERVICE_KEY.into());
    gatehouse.redis.cli(&["SAVE"]);
    let mut searched = 0;
    let mut all = files(gatehouse.redis.dir.path());
    all.extend(files(gatehouse.dir.path()));
    for (name, content) in all {
        searched += usize::from([".rdb", ".log", ".aof"].iter().any(|kind| name.contains(kind)));
        for secret in &secrets {
            assert!(!contains(&content, secret), "{name} holds a secret");
        }
    }
    assert!(searched >= 4, "a dump, an append-only file and two logs: {searched}");
    let rdb = fs::read(gatehouse.redis.dir.path().join("dump.rdb")).unwrap();
    assert!(contains(&rdb, b"Chrome on Windows"), "the dump can be read");
}
