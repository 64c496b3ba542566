//! Revocations as backends follow them.

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::harness::{Answer, Gatehouse, Gateway, SERVICE_KEY, eventually};

const FEED: &str = "/api/v1/sessions/revocations";

/// An open stream, and what came of it.
struct Feed {
    response: Response,
    text: String,
    /// The id that came last.
    last: String,
}

/// A name and its data.
type Event = (String, Value);

fn request(gateway: &Gateway, last: Option<&str>) -> RequestBuilder {
    let request = gateway.get(FEED).bearer_auth(SERVICE_KEY);
    last.into_iter().fold(request, |request, last| request.header("last-event-id", last))
}

impl Feed {
    async fn open(gateway: &Gateway, last: Option<&str>) -> Self {
        let response = request(gateway, last).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut feed = Self { response, text: String::new(), last: String::new() };
        if last.is_none() {
            assert_eq!(feed.block().await.unwrap(), None, "only an id to begin with");
            assert!(!feed.last.is_empty());
        }
        feed
    }

    /// The next block; an event unless it has no data. Nothing at the end.
    async fn block(&mut self) -> Option<Option<Event>> {
        let block = loop {
            if let Some(end) = self.text.find("\n\n") {
                break self.text.drain(..end + 2).collect::<String>();
            }
            let chunk = self.response.chunk().await.ok()??;
            self.text += std::str::from_utf8(&chunk).unwrap();
        };
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned)
        };
        self.last = field("id").unwrap();
        let data = field("data").map(|data| serde_json::from_str(&data).unwrap());
        Some(data.map(|data| (field("event").unwrap(), data)))
    }

    /// Waits for something to be revoked.
    async fn sees(&mut self, what: impl Fn(&Value) -> bool) {
        let seen = async {
            loop {
                match self.block().await.expect("the feed goes on") {
                    Some((name, data)) if name == "revoked" && what(&data) => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), seen).await.expect("within a second");
    }
}

#[tokio::test]
async fn each_kind_of_revocation_arrives_within_a_second_everywhere() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [here, there] = &gatehouse.gateways[..] else { unreachable!() };
    let (mut near, mut far) = (Feed::open(here, None).await, Feed::open(there, None).await);
    let ann = here.login("ann").await;
    here.call(Method::POST, "/api/v1/logout", &ann).await;
    let session = |data: &Value| data["session"] == ann.session.as_str();
    near.sees(session).await;
    far.sees(session).await;

    let kept = here.login("bob").await;
    here.login("bob").await;
    here.call(Method::POST, "/api/v1/users/sessions/revoke-all", &kept).await;
    let others = |data: &Value| data["user"] == "bob" && data["except"] == kept.session.as_str();
    near.sees(|data| others(data) && data["before"].as_str().unwrap().ends_with('Z')).await;
    far.sees(others).await;

    here.admin(Method::POST, "/api/v1/admin/revoke-everything").await;
    near.sees(|data| data["everything"] == true && data["before"].is_string()).await;
    far.sees(|data| data["everything"] == true).await;
}

#[tokio::test]
async fn a_backend_reads_on_where_it_was_at_any_gateway() {
    let mut gatehouse = Gatehouse::with(2, &[]).await;
    let feed = Feed::open(gatehouse.gateway(), None).await;
    let mut last = feed.last.clone();
    drop(feed);
    for user in ["ann", "bob"] {
        let gone = gatehouse.gateways[1].login(user).await;
        gatehouse.gateways[1].call(Method::POST, "/api/v1/logout", &gone).await;
        let mut feed = Feed::open(&gatehouse.gateways[0], Some(&last)).await;
        feed.sees(|data| data["session"] == gone.session.as_str()).await;
        last = feed.last;
    }
    // Also at one that was not there when it happened.
    let gone = gatehouse.gateways[1].login("carol").await;
    gatehouse.gateways[1].call(Method::POST, "/api/v1/logout", &gone).await;
    let new = gatehouse.add_gateway().await;
    Feed::open(new, Some(&last)).await.sees(|data| data["session"] == gone.session.as_str()).await;

    let mut old = Feed::open(new, Some("1000")).await;
    assert_eq!(old.block().await, Some(Some(("missed".to_owned(), json!({})))));
    let wrong = Answer::of(request(new, Some("yesterday"))).await;
    assert_eq!((wrong.status, wrong.code()), (400, "validation_failed"));
    assert!(wrong.fields().contains("Last-Event-ID"));
}

#[tokio::test]
async fn only_a_backend_with_the_scope_follows() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    assert_eq!(Answer::of(gateway.get(FEED)).await.status, 401);
    let narrow = Answer::of(gateway.get(FEED).bearer_auth("ghk_narrow")).await;
    assert_eq!((narrow.status, narrow.code()), (403, "forbidden"));
    let ann = gateway.login("ann").await;
    assert_eq!(Answer::of(gateway.get(FEED).bearer_auth(&ann.access)).await.status, 401);
}

#[tokio::test]
async fn followers_are_bounded_and_do_not_hold_up_a_stop() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let mut feeds = Vec::new();
    for _ in 0..100 {
        feeds.push(Feed::open(gateway, None).await);
    }
    let refused = Answer::of(request(gateway, None)).await;
    assert_eq!((refused.status, refused.code()), (503, "overloaded"));
    feeds.pop();
    let again = || async { request(gateway, None).send().await.unwrap().status() == 200 };
    assert!(eventually(Duration::from_secs(5), again).await);

    let start = Instant::now();
    gateway.process.signal("TERM");
    while feeds[0].block().await.is_some() {}
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_gateway_that_does_not_know_lets_nobody_follow() {
    let gatehouse = Gatehouse::with(1, &["check.max_staleness=1s"]).await;
    let gateway = gatehouse.gateway();
    let mut feed = Feed::open(gateway, None).await;
    gatehouse.redis.kill();
    let ended = async { while feed.block().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the backend asks another");
    let refused = Answer::of(request(gateway, None)).await;
    assert_eq!((refused.status, refused.code()), (503, "store_unavailable"));
}
