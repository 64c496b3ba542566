//! What Envoy asks over gRPC, and what it is told to do.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::ext_authz::v3::pb::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpResponse,
    OkHttpResponse,
};
use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderMap, HeaderValue, SocketAddress, address,
};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Gatehouse, Gateway, eventually};

const LISTEN: &str = "server.grpc_listen=127.0.0.1:0";

async fn channel(gateway: &Gateway) -> Channel {
    Channel::from_shared(format!("http://{}", gateway.grpc)).unwrap().connect().await.unwrap()
}

/// A question as Envoy puts it.
#[derive(Clone)]
struct Question {
    http: HttpRequest,
    extensions: HashMap<String, String>,
}

impl Question {
    fn new(headers: &[(&str, &str)]) -> Self {
        let text = |text: &str| text.to_owned();
        let http = HttpRequest {
            method: text("GET"),
            scheme: text("https"),
            host: text("app.example"),
            path: text("/inbox?optional=1&page=2"),
            headers: headers.iter().map(|(name, value)| (text(name), text(value))).collect(),
            ..HttpRequest::default()
        };
        Self { http, extensions: HashMap::new() }
    }

    fn bearer(token: &str) -> Self {
        Self::new(&[("authorization", &format!("Bearer {token}"))])
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.http.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    fn require(mut self, name: &str, value: &str) -> Self {
        self.extensions.insert(name.to_owned(), value.to_owned());
        self
    }

    async fn ask(self, gateway: &Gateway) -> Result<CheckResponse, Status> {
        let address = SocketAddress { address: "203.0.113.7".into(), ..SocketAddress::default() };
        let address = Address { address: Some(address::Address::SocketAddress(address)) };
        let attributes = AttributeContext {
            source: Some(Peer { address: Some(address), ..Peer::default() }),
            request: Some(Request { http: Some(self.http), ..Request::default() }),
            context_extensions: self.extensions,
            ..AttributeContext::default()
        };
        let mut client = AuthorizationClient::new(channel(gateway).await);
        let answer = client.check(CheckRequest { attributes: Some(attributes) }).await?;
        Ok(answer.into_inner())
    }

    async fn allowed(self, gateway: &Gateway) -> OkHttpResponse {
        let answer = self.ask(gateway).await.unwrap();
        assert_eq!(answer.status.unwrap().code, i32::from(Code::Ok));
        match answer.http_response {
            Some(HttpResponse::OkResponse(allowed)) => allowed,
            other => panic!("{other:?}"),
        }
    }

    async fn denied(self, gateway: &Gateway) -> (i32, HashMap<String, String>) {
        let answer = self.ask(gateway).await.unwrap();
        assert_eq!(answer.status.unwrap().code, i32::from(Code::PermissionDenied));
        match answer.http_response {
            Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, .. })) => {
                (status.unwrap().code, read(&headers))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn read(headers: &[HeaderValueOption]) -> HashMap<String, String> {
    let headers = headers.iter().map(|option| option.header.clone().unwrap());
    headers.map(|header| (header.key, header.value)).collect()
}

#[tokio::test]
async fn a_live_session_has_its_identity_set_and_what_is_empty_removed() {
    let gatehouse = Gatehouse::with(1, &[LISTEN, "check.activity_flush=100ms"]).await;
    let gateway = gatehouse.gateway();
    let body = json!({ "user_id": "ann", "roles": ["staff"], "claims": { "name": "Änn" } });
    let tokens = gateway.create(body).await.tokens();
    let allowed =
        Question::bearer(&tokens.access).header("remote-email", "x").allowed(gateway).await;
    let set = HashMap::from(
        [("user", "ann"), ("groups", "staff"), ("name", "Änn"), ("session", &tokens.session)]
            .map(|(name, value)| (format!("remote-{name}"), value.to_owned())),
    );
    assert_eq!(read(&allowed.headers), set);
    assert!(allowed.headers.iter().all(|option| option.append_action == 2), "overwritten");
    assert_eq!(allowed.headers_to_remove, ["remote-email", "x-gatehouse-assertion"]);
    assert!(allowed.response_headers_to_add.is_empty());
    // Where a user is comes from what Envoy says, and only there.
    let sessions = "/api/v1/users/sessions";
    let known = || async {
        let list = gateway.call(reqwest::Method::GET, sessions, &tokens).await;
        list.body["sessions"][0]["ip_address"] == "203.0.113.7"
    };
    assert!(eventually(Duration::from_secs(10), known).await);
}

#[tokio::test]
async fn refusals_are_those_of_the_check_over_http() {
    let settings = [LISTEN, "login.url=https://login.example/"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let (status, headers) = Question::new(&[]).denied(gateway).await;
    assert_eq!((status, headers["www-authenticate"].as_str()), (401, "Bearer"));
    assert_eq!(headers["cache-control"], "no-store");
    let page = Question::new(&[("sec-fetch-mode", "navigate")]);
    let (status, headers) = page.denied(gateway).await;
    let back = "https%3A%2F%2Fapp%2Eexample%2Finbox%3Foptional%3D1%26page%3D2";
    assert_eq!(status, 302);
    assert_eq!(headers["location"], format!("https://login.example/?return_to={back}"));
    let twice = format!("{0},Bearer {0}", tokens.access);
    assert_eq!(Question::bearer(&twice).denied(gateway).await.0, 401, "two credentials");
    let hops = ["1.1.1.1"; 1000].join(", ");
    for (name, value) in [
        ("remote_user", "admin"),
        ("remote.user", "admin"),
        ("connection", "remote-user"),
        ("x-forwarded-for", hops.as_str()),
        ("x-gatehouse-require", "optional=1"),
        ("not a name", ""),
        ("x-nul", "\0"),
    ] {
        let question = Question::bearer(&tokens.access).header(name, value);
        assert_eq!(question.denied(gateway).await.0, 400, "{name}");
    }
    for change in [
        |http: &mut HttpRequest| http.host = "a@b".into(),
        |http: &mut HttpRequest| http.path = "*".into(),
        |http: &mut HttpRequest| http.scheme = String::new(),
    ] {
        let mut question = Question::bearer(&tokens.access);
        change(&mut question.http);
        assert_eq!(question.denied(gateway).await.0, 400);
    }
    let raw =
        HeaderValue { key: "remote_user".into(), raw_value: b"\xff".into(), ..Default::default() };
    let mut question = Question::bearer(&tokens.access);
    question.http.header_map = Some(HeaderMap { headers: vec![raw] });
    assert_eq!(question.denied(gateway).await.0, 400, "among raw headers");
}

#[tokio::test]
async fn a_route_requires_by_context_extensions() {
    let gatehouse = Gatehouse::with(1, &[LISTEN]).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.create(json!({ "user_id": "ann", "roles": ["staff"] })).await.tokens();
    let ann = || Question::bearer(&tokens.access);
    ann().require("role", "admin, staff").require("max_age", "600").allowed(gateway).await;
    assert_eq!(ann().require("role", "admin").denied(gateway).await.0, 403);
    assert_eq!(ann().require("rol", "staff").denied(gateway).await.0, 400);
    let header = ann().require("role", "staff").header("x-gatehouse-require", "role=admin");
    assert_eq!(header.denied(gateway).await.0, 403);
    let nobody = || Question::new(&[]).require("optional", "1");
    let allowed = nobody().header("remote-user", "root").allowed(gateway).await;
    assert_eq!((allowed.headers.len(), allowed.headers_to_remove.len()), (0, 6));
    gatehouse.redis.cli(&["DEL", &format!("gh:{{08}}:session:{}", tokens.session)]);
    ann().allowed(gateway).await;
    assert_eq!(ann().require("strict", "1").denied(gateway).await.0, 401);
}

#[tokio::test]
async fn what_cannot_be_known_is_a_503_and_a_stranger_gets_no_answer() {
    let settings = [LISTEN, "check.max_staleness=1s", "redis.timeout=100ms"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    Question::bearer(&tokens.access).allowed(gateway).await;
    gatehouse.redis.kill();
    let refused = || async {
        let answer = Question::bearer(&tokens.access).ask(gateway).await.unwrap();
        match answer.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => {
                assert_eq!(denied.status.unwrap().code, 503);
                assert!(read(&denied.headers).contains_key("retry-after"));
                true
            }
            _ => false,
        }
    };
    assert!(eventually(Duration::from_secs(5), refused).await);

    let gatehouse = Gatehouse::with(1, &[LISTEN, "server.trusted_proxies=10.0.0.0/8"]).await;
    let stranger = Question::new(&[]).ask(gatehouse.gateway()).await.unwrap_err();
    assert_eq!(stranger.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn health_follows_readiness_and_stopping_is_graceful() {
    let settings = [LISTEN, "check.max_staleness=1s"];
    let mut gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let health = HealthClient::new(channel(gateway).await);
    let serving = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.clone().check(request).await.unwrap().into_inner().status == 1
    };
    let name = "envoy.service.auth.v3.Authorization";
    let up = || async { serving("").await && serving(name).await };
    assert!(eventually(Duration::from_secs(5), up).await);
    gatehouse.redis.kill();
    let down = || async { !serving("").await && !serving(name).await };
    assert!(eventually(Duration::from_secs(5), down).await);
    gatehouse.redis.spawn();
    assert!(eventually(Duration::from_secs(10), up).await);

    gateway.process.signal("TERM");
    let process = &mut gatehouse.gateways[0].process.0;
    let mut ended = None;
    let stopped = eventually(Duration::from_secs(8), || {
        ended = process.try_wait().unwrap();
        let ended = ended.is_some();
        async move { ended }
    });
    assert!(stopped.await, "an idle connection does not hold it up");
    assert!(ended.unwrap().success());
}
