//! The parts of a check and of a refresh, one by one: `cargo bench --bench parts`.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod gateway;
mod redis;

use std::cell::RefCell;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use gatehouse::check::{Identity, Revocations};
use gatehouse::config::SigningAlgorithm;
use gatehouse::model::{DeviceClass, Revocation, Session, SessionId, Timestamp};
use gatehouse::sessions::device;
use gatehouse::token::access::AccessTokens;
use gatehouse::token::handle::HandleKind::Refresh;
use gatehouse::token::{Handle, KeyRing};
use gateway::Gateway;
use redis::Redis;
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

fn access_tokens() -> AccessTokens {
    AccessTokens { issuer: "https://gate.example".into(), audience: vec!["api".into()], ttl: 900 }
}

/// Signing and verifying (RFC 8037, RFC 7518).
fn signatures(criterion: &mut Criterion) {
    let (now, tokens) = (Timestamp::now(), access_tokens());
    for algorithm in [SigningAlgorithm::EdDSA, SigningAlgorithm::ES256, SigningAlgorithm::RS256] {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyRing::open(dir.path(), algorithm).unwrap();
        let token = tokens.issue(&session(now), now, &keys).unwrap().0;
        let mut group = criterion.benchmark_group(format!("{algorithm:?}"));
        group.bench_function("sign", |b| b.iter(|| tokens.issue(&session(now), now, &keys)));
        group.bench_function("verify", |b| b.iter(|| tokens.verify(black_box(&token), now, &keys)));
        group.finish();
    }
}

/// Refresh tokens: a MAC and a seal each way.
fn handles(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyRing::open(dir.path(), SigningAlgorithm::EdDSA).unwrap();
    let handle = Handle { bucket: 7, session: SessionId([7; 16]), generation: 3, seed: [9; 16] };
    let text = handle.encode(Refresh, &keys);
    let mut group = criterion.benchmark_group("handle");
    group.bench_function("encode", |b| b.iter(|| black_box(handle).encode(Refresh, &keys)));
    group.bench_function("decode", |b| b.iter(|| Handle::decode(Refresh, black_box(&text), &keys)));
    group.finish();
}

/// Looking somebody up who was not revoked, among so many who were.
fn revocations(criterion: &mut Criterion) {
    let (now, tokens) = (Timestamp::now(), access_tokens());
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyRing::open(dir.path(), SigningAlgorithm::EdDSA).unwrap();
    let token = tokens.issue(&session(now), now, &keys).unwrap().0;
    let identity = Identity::new(&tokens.verify(&token, now, &keys).unwrap(), 0, 3).unwrap();
    let mut group = criterion.benchmark_group("revoked?");
    for held in [0_u32, 1_000, 1_000_000] {
        let set = Revocations::new(16, 2_000_000);
        for i in 0..held {
            let sid = SessionId(uuid::Uuid::new_v4().into_bytes());
            set.learn(u8::try_from(i % 16).unwrap(), &Revocation::Session(sid), now);
        }
        group.bench_function(format!("among {held}"), |b| {
            b.iter(|| assert!(!set.cover(black_box(&identity))));
        });
    }
    group.finish();
}

/// Whole answers, from a parsed request on; a refresh and a create with their round trip to Redis.
fn answers(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let gateway = runtime.block_on(Gateway::start(&redis, dir.path()));
    let tokens = runtime.block_on(gateway.create("ann"));
    let question = tokens.question();
    let mut group = criterion.benchmark_group("answer");
    group.bench_function("check, remembered", |b| {
        b.iter(|| runtime.block_on(gateway.check(black_box(&question))));
    });
    let cookie = runtime.block_on(gateway.cookie_question());
    group.bench_function("check of a cookie, remembered", |b| {
        b.iter(|| runtime.block_on(gateway.check(black_box(&cookie))));
    });
    let tokens = RefCell::new(tokens);
    group.bench_function("refresh", |b| {
        b.iter(|| {
            let next = runtime.block_on(gateway.refresh(&tokens.borrow()));
            tokens.replace(next);
        });
    });
    group.bench_function("create, at the limit", |b| {
        b.iter(|| runtime.block_on(gateway.create("ann")));
    });
    group.finish();
    runtime.block_on(gateway.stop());
}

/// Naming the device of a new session.
fn devices(criterion: &mut Criterion) {
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0";
    criterion.bench_function("device", |b| b.iter(|| device::describe(black_box(agent))));
}

criterion_group!(benches, signatures, handles, revocations, answers, devices);
criterion_main!(benches);
