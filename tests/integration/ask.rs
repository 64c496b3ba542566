//! At the limit people choose which session ends.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, CHROME, Gatehouse, Gateway, PASSWORD, Tokens, eventually, person};

async fn log_in(gateway: &Gateway) -> Answer {
    Answer::of(gateway.password("ann", PASSWORD)).await
}

async fn resolve(gateway: &Gateway, ticket: &str, revoke: &[&str]) -> Answer {
    let body = json!({ "ticket": ticket, "revoke": revoke });
    Answer::of(gateway.post("/api/v1/login/resolve").header("user-agent", CHROME).json(&body)).await
}

fn ticket(answer: &Answer) -> String {
    assert_eq!((answer.status, answer.code()), (409, "session_limit_reached"), "{answer:?}");
    answer.body["ticket"].as_str().unwrap().to_owned()
}

fn shown(answer: &Answer) -> BTreeSet<String> {
    let sessions = answer.body["sessions"].as_array().unwrap();
    sessions.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn live(gatehouse: &Gatehouse) -> u64 {
    gatehouse.redis.cli(&["ZCARD", "gh:{08}:user:ann"]).parse().unwrap()
}

#[tokio::test]
async fn ending_one_completes_the_login_once() {
    let gatehouse = Gatehouse::with(1, &["sessions.limit=2"]).await;
    let gateway = gatehouse.gateway();
    let (first, second) = (log_in(gateway).await.tokens(), log_in(gateway).await.tokens());
    let full = log_in(gateway).await;
    let ticket = ticket(&full);
    assert_eq!(shown(&full), BTreeSet::from([first.session.clone(), second.session.clone()]));
    let nothing = resolve(gateway, &ticket, &[]).await;
    assert_eq!(nothing.code(), "session_limit_reached", "and the ticket is still good");
    let stranger = gateway.login("bob").await;
    let theirs = resolve(gateway, &ticket, &[&stranger.session]).await;
    assert_eq!(theirs.code(), "session_limit_reached", "nobody else's counts");
    let third = resolve(gateway, &ticket, &[&first.session]).await;
    assert_eq!(third.status, 200);
    let third = third.tokens();
    assert_eq!(gateway.check(&third.access).await, 200);
    assert_eq!(gateway.check(&first.access).await, 401);
    assert_eq!(gateway.refresh(&first.refresh).await.code(), "session_revoked");
    for tokens in [&second, &stranger] {
        assert_eq!(gateway.check(&tokens.access).await, 200);
    }
    // Again, also with room: refused, and nothing begins or ends.
    gateway.call(Method::POST, "/api/v1/logout", &second).await;
    let again = resolve(gateway, &ticket, &[&third.session]).await;
    assert_eq!((again.status, again.code()), (401, "authentication_required"));
    assert_eq!(gateway.check(&third.access).await, 200);
    assert_eq!(live(&gatehouse), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_never_exceed_the_limit_and_losers_get_a_ticket() {
    let gatehouse = Gatehouse::with(2, &["sessions.limit=5"]).await;
    // Passwords wait in a queue that is bounded; who is turned away comes again.
    let patient = |i: usize| {
        let gateway = &gatehouse.gateways[i % 2];
        async move {
            loop {
                let answer = log_in(gateway).await;
                if answer.code() != "overloaded" {
                    return answer;
                }
            }
        }
    };
    let answers = join_all((0..100).map(patient)).await;
    let (begun, full): (Vec<_>, Vec<_>) = answers.into_iter().partition(|one| one.status == 200);
    assert_eq!((begun.len(), full.len(), live(&gatehouse)), (5, 95, 5));
    // Every loser now wants the same place.
    let victim = begun.into_iter().next().unwrap().tokens().session;
    let tickets: Vec<String> = full.iter().map(ticket).collect();
    let gateway = gatehouse.gateway();
    let chosen = [&*victim];
    let answers = join_all(tickets.iter().map(|ticket| resolve(gateway, ticket, &chosen))).await;
    let winners = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((winners, live(&gatehouse)), (1, 5));
    // And each of the others can still choose another.
    for (ticket, answer) in tickets.iter().zip(answers).take(10) {
        if answer.status == 200 {
            continue;
        }
        let next = shown(&answer);
        let next = next.iter().next().unwrap();
        let answer = resolve(gateway, ticket, &[next]).await;
        assert!([200, 409].contains(&answer.status), "{answer:?}");
        assert_eq!(live(&gatehouse), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ticket_shown_many_times_at_once_counts_once() {
    let gatehouse = Gatehouse::with(2, &["sessions.limit=3"]).await;
    let gateway = gatehouse.gateway();
    let all: Vec<Tokens> = [log_in(gateway).await, log_in(gateway).await, log_in(gateway).await]
        .map(Answer::tokens)
        .into();
    let ticket = ticket(&log_in(gateway).await);
    let chosen = [&*all[0].session, &*all[1].session];
    let uses = (0..20).map(|i| resolve(&gatehouse.gateways[i % 2], &ticket, &chosen));
    let answers = join_all(uses).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 401).count(), 19);
    assert_eq!(live(&gatehouse), 2);
}

#[tokio::test]
async fn what_happened_meanwhile_is_taken_into_account() {
    let gatehouse = Gatehouse::with(1, &["sessions.limit=2"]).await;
    let gateway = gatehouse.gateway();
    let (first, second) = (log_in(gateway).await.tokens(), log_in(gateway).await.tokens());
    // One ended by itself: nothing more has to.
    let early = ticket(&log_in(gateway).await);
    gateway.call(Method::POST, "/api/v1/logout", &first).await;
    let third = resolve(gateway, &early, &[&first.session]).await;
    assert_eq!(third.status, 200, "{third:?}");
    assert_eq!(gateway.check(&second.access).await, 200);
    // The password changed, or its user was disabled: the proof is none any more.
    let late = ticket(&log_in(gateway).await);
    gatehouse.write_users(&person("ann", "better horse", ""));
    let refused = || async { resolve(gateway, &late, &[&second.session]).await.status == 401 };
    assert!(eventually(Duration::from_secs(2), refused).await);
}

#[tokio::test]
async fn a_lower_limit_wants_more_to_end() {
    let mut gatehouse = Gatehouse::with(1, &["sessions.limit=3"]).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(log_in(gatehouse.gateway()).await.tokens());
    }
    let ticket = ticket(&log_in(gatehouse.gateway()).await);
    let file = gatehouse.dir.path().join("gatehouse.toml");
    let roles = "[[sessions.role_limits]]\nrole = 'staff'\nlimit = 2\n";
    let text = std::fs::read_to_string(&file).unwrap() + roles;
    std::fs::write(&file, text).unwrap();
    gatehouse.add_gateway().await;
    let gateway = &gatehouse.gateways[1];
    assert_eq!(resolve(gateway, &ticket, &[&all[0].session]).await.status, 409);
    assert_eq!(gateway.check(&all[0].access).await, 200, "nothing was done");
    let enough = resolve(gateway, &ticket, &[&all[0].session, &all[1].session]).await;
    assert_eq!(enough.status, 200);
    assert_eq!(live(&gatehouse), 2);
    let list = gateway.call(Method::GET, "/api/v1/users/sessions", &enough.tokens()).await;
    assert_eq!(list.body["limit"], 2, "by role");
}

#[tokio::test]
async fn a_ticket_for_a_browser_is_no_other_browsers() {
    let gatehouse = Gatehouse::with(1, &["sessions.limit=1"]).await;
    let gateway = gatehouse.gateway();
    let first = gateway.cookie("ann").await;
    let body = json!({ "username": "ann", "password": PASSWORD, "mode": "cookie" });
    let full = Answer::of(gateway.post("/api/v1/login").json(&body)).await;
    let (ticket, id) = (ticket(&full), shown(&full).into_iter().next().unwrap());
    let set = full.headers["set-cookie"].to_str().unwrap();
    assert!(set.starts_with("gatehouse-login=") && set.contains("; HttpOnly"), "{set}");
    let browser = set.split(';').next().unwrap().to_owned();
    let resolve = |cookie: Option<String>| {
        let body = json!({ "ticket": ticket, "revoke": [id] });
        let request = gateway.post("/api/v1/login/resolve").json(&body);
        let request = request.header("sec-fetch-site", "same-origin");
        Answer::of(match cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        })
    };
    assert_eq!(resolve(None).await.status, 401);
    assert_eq!(resolve(Some(format!("gatehouse-login={}", "A".repeat(22)))).await.status, 401);
    assert_eq!(gateway.check_cookie(&first).await, 200, "nothing was done");
    let second = resolve(Some(browser)).await;
    assert_eq!(second.status, 200);
    assert_eq!(gateway.check_cookie(&second.cookie()).await, 200);
    assert_eq!(gateway.check_cookie(&first).await, 401);
}

#[tokio::test]
async fn what_is_no_ticket_is_refused() {
    let gatehouse = Gatehouse::with(1, &["sessions.limit=1"]).await;
    let gateway = gatehouse.gateway();
    let tokens = log_in(gateway).await.tokens();
    let ticket = ticket(&log_in(gateway).await);
    for other in ["", "ght_", &ticket[..40], &format!("{ticket}A"), &tokens.refresh, &tokens.access]
    {
        assert_eq!(resolve(gateway, other, &[&tokens.session]).await.status, 401, "{other}");
    }
    let named = resolve(gateway, &ticket, &[&tokens.session, "x"]).await;
    assert_eq!(named.fields().into_iter().collect::<Vec<_>>(), ["revoke[1]"]);
    assert_eq!(gateway.check(&tokens.access).await, 200);
    assert_eq!(gateway.check(&ticket).await, 401);
}

#[tokio::test]
async fn other_policies_ask_nobody() {
    let gatehouse = Gatehouse::with(1, &["sessions.limit=1", "sessions.on_limit=reject"]).await;
    let first = log_in(gatehouse.gateway()).await.tokens();
    let full = log_in(gatehouse.gateway()).await;
    assert_eq!((full.status, &full.body["ticket"]), (409, &Value::Null));
    assert_eq!(gatehouse.gateway().check(&first.access).await, 200);
    let settings = ["sessions.limit=1", "sessions.on_limit=evict_oldest"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let first = log_in(gatehouse.gateway()).await.tokens();
    assert_eq!(log_in(gatehouse.gateway()).await.status, 200);
    assert_eq!(gatehouse.gateway().check(&first.access).await, 401);
}
