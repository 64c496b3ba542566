//! The parts of a check and of a refresh, one by one: `cargo bench`.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use gatehouse::config::SigningAlgorithm;
use gatehouse::model::{DeviceClass, Session, SessionId, Timestamp};
use gatehouse::token::access::AccessTokens;
use gatehouse::token::{Handle, KeyRing};
use serde_json::Map;

fn session(now: Timestamp) -> Session {
    Session {
        id: SessionId([7; 16]),
        user: "ann@example.com".parse().unwrap(),
        device_name: "Firefox on Linux".into(),
        device_class: DeviceClass::Desktop,
        ip: String::new(),
        user_agent: String::new(),
        location: None,
        created: now,
        last_active: now,
        expires: Timestamp(now.0 + 86_400_000),
        remembered: false,
        generation: 3,
        auth_time: now,
        auth_method: "pwd".into(),
        roles: vec!["staff".into()],
        claims: Map::new(),
    }
}

fn parts(criterion: &mut Criterion) {
    let now = Timestamp::now();
    let tokens = AccessTokens {
        issuer: "https://gate.example".into(),
        audience: vec!["api".into()],
        ttl: 900,
    };
    for algorithm in [SigningAlgorithm::EdDSA, SigningAlgorithm::ES256, SigningAlgorithm::RS256] {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyRing::open(dir.path(), algorithm).unwrap();
        let token = tokens.issue(&session(now), now, &keys).unwrap().0;
        let mut group = criterion.benchmark_group(format!("{algorithm:?}"));
        group.bench_function("sign", |b| b.iter(|| tokens.issue(&session(now), now, &keys)));
        group.bench_function("verify", |b| b.iter(|| tokens.verify(black_box(&token), now, &keys)));
        group.finish();
    }
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyRing::open(dir.path(), SigningAlgorithm::EdDSA).unwrap();
    let handle = Handle { bucket: 7, session: SessionId([7; 16]), generation: 3, seed: [9; 16] };
    let text = handle.encode(&keys);
    let mut group = criterion.benchmark_group("handle");
    group.bench_function("encode", |b| b.iter(|| black_box(handle).encode(&keys)));
    group.bench_function("decode", |b| b.iter(|| Handle::decode(black_box(&text), &keys)));
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
