//! `/authz/*`: what proxies ask about every request.
//!
//! 200 and identity headers for a live session; a body never. Whatever is not a proven yes is a
//! no, and what cannot be known is 503.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::App;
use super::caller::bearer;
use super::client::{address, is_trusted};
use crate::check::{Identity, Refusal};
use crate::model::Timestamp;
use crate::state::Gateway;
use crate::telemetry::metrics::{self, CheckResult, Source};

/// Always all of them, empty when there is nobody: what a client sent under these names is
/// overwritten.
const IDENTITY: [HeaderName; 5] = [
    HeaderName::from_static("remote-user"),
    HeaderName::from_static("remote-groups"),
    HeaderName::from_static("remote-email"),
    HeaderName::from_static("remote-name"),
    HeaderName::from_static("remote-session"),
];

/// What differs between the proxies.
struct Dialect {
    /// For a request that no honest proxy sends.
    refused: StatusCode,
    /// Whether the proxy hands a redirect on to the browser.
    redirects: bool,
}

/// nginx turns every status but 2xx, 401 and 403 into 500.
const AUTH_REQUEST: Dialect = Dialect { refused: StatusCode::FORBIDDEN, redirects: false };
const FORWARD_AUTH: Dialect = Dialect { refused: StatusCode::BAD_REQUEST, redirects: true };

/// What the proxy says of the request that it asks about.
#[derive(Default)]
struct Original {
    method: Option<String>,
    url: Option<Url>,
    /// The client's address, when a trusted proxy names it.
    client: Option<IpAddr>,
}

/// What the proxy requires beyond a live session. It cannot be mistyped: an unknown name is
/// refused, because a requirement that is dropped would let somebody in.
#[derive(Debug, Default, PartialEq)]
struct Requirements {
    roles: Vec<String>,
    max_age: Option<u64>,
    optional: bool,
    strict: bool,
    preflight: bool,
}

impl Requirements {
    fn parse(query: Option<&str>) -> Option<Self> {
        let mut requirements = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("role", role) if !role.is_empty() => requirements.roles.push(role.to_owned()),
                ("max_age", seconds) => requirements.max_age = Some(seconds.parse().ok()?),
                ("optional", "1") => requirements.optional = true,
                ("strict", "1") => requirements.strict = true,
                ("preflight", "allow") => requirements.preflight = true,
                ("optional" | "strict", "0") | ("preflight", "deny") => {}
                _ => return None,
            }
        }
        Some(requirements)
    }
}

/// The question of nginx's `auth_request`.
pub(super) async fn auth_request(
    State(gateway): App,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let text = |name: &str| single(&headers, name);
    let trusted = &gateway.config.server.trusted_proxies;
    let original = if is_trusted(peer.ip(), trusted) {
        text("x-original-url").map(Url::parse).transpose().map_err(drop).map(|url| Original {
            method: text("x-original-method").map(str::to_owned),
            url,
            client: forwarded_for(peer, &headers, trusted),
        })
    } else {
        Ok(Original::default())
    };
    answer(&gateway, &AUTH_REQUEST, original, query.as_deref(), &headers).await
}

/// The question of Traefik's `ForwardAuth`, Caddy's `forward_auth` and HAProxy. These always say
/// which request they ask about, so one that does not was tampered with.
pub(super) async fn forward_auth(
    State(gateway): App,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let text = |name: &str| single(&headers, name);
    let proxies = &gateway.config.server.trusted_proxies;
    let forwarded = || {
        let (method, proto) = (text("x-forwarded-method")?, text("x-forwarded-proto")?);
        let (host, uri) = (text("x-forwarded-host")?, text("x-forwarded-uri")?);
        let known = matches!(proto, "http" | "https" | "ws" | "wss") && uri.starts_with('/');
        let url = Url::parse(&format!("{proto}://{host}{uri}")).ok()?;
        let plain = url.username().is_empty() && url.password().is_none();
        (known && plain).then(|| Original {
            method: Some(method.to_owned()),
            url: Some(url),
            client: forwarded_for(peer, &headers, proxies),
        })
    };
    let trusted = is_trusted(peer.ip(), proxies);
    if !trusted {
        tracing::warn!(%peer, "a forward-auth check from outside server.trusted_proxies was refused");
    }
    let original = if trusted { forwarded().ok_or(()) } else { Err(()) };
    answer(&gateway, &FORWARD_AUTH, original, query.as_deref(), &headers).await
}

/// A proxy that names nobody would make every session come from the proxy itself.
fn forwarded_for(peer: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    headers.contains_key("x-forwarded-for").then(|| address(peer, headers, trusted))
}

/// The value of a header that is there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

async fn answer(
    gateway: &Arc<Gateway>,
    dialect: &Dialect,
    original: Result<Original, ()>,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Response {
    let start = Instant::now();
    let decision = match (original, Requirements::parse(query)) {
        (Ok(original), Some(requirements)) if !smuggles(headers) => {
            decide(gateway, dialect, &original, &requirements, headers).await
        }
        _ => Decision::of(CheckResult::Refused, status(dialect.refused)),
    };
    metrics::check(decision.result, decision.source, start.elapsed());
    let mut response = decision.response;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct Decision {
    result: CheckResult,
    source: Source,
    response: Response,
}

impl Decision {
    fn of(result: CheckResult, response: Response) -> Self {
        Self { result, source: Source::Memory, response }
    }
}

async fn decide(
    gateway: &Arc<Gateway>,
    dialect: &Dialect,
    original: &Original,
    requirements: &Requirements,
    headers: &HeaderMap,
) -> Decision {
    if requirements.preflight && is_preflight(original, headers) {
        return Decision::of(CheckResult::Anonymous, allowed(None));
    }
    let token = match bearer(headers) {
        Ok(Some(token)) => token,
        Ok(None) if requirements.optional => {
            return Decision::of(CheckResult::Anonymous, allowed(None));
        }
        Ok(None) => {
            return Decision::of(
                CheckResult::Missing,
                login(gateway, dialect, original, headers, "Bearer"),
            );
        }
        Err(()) => return Decision::of(CheckResult::Invalid, challenge(INVALID)),
    };
    let now = Timestamp::now();
    let (answer, source) = gateway.check.authenticate(token, now, requirements.strict).await;
    let (result, response) = match answer {
        Err(Refusal::Unknown) => (CheckResult::Unavailable, unavailable()),
        Err(refusal) => {
            let result = match refusal {
                Refusal::Revoked => CheckResult::Revoked,
                _ => CheckResult::Invalid,
            };
            (result, login(gateway, dialect, original, headers, INVALID))
        }
        Ok(identity) => {
            gateway.check.activities.note(&identity, now, || original.client);
            let has_role = |role: &String| identity.roles.contains(role);
            let too_old = |max_age| now.seconds() > identity.auth_time.saturating_add(max_age);
            if !requirements.roles.is_empty() && !requirements.roles.iter().any(has_role) {
                (CheckResult::Forbidden, status(StatusCode::FORBIDDEN))
            } else if requirements.max_age.is_some_and(too_old) {
                (CheckResult::TooOld, login(gateway, dialect, original, headers, TOO_OLD))
            } else {
                (CheckResult::Allowed, allowed(Some(&identity)))
            }
        }
    };
    Decision { result, source, response }
}

const INVALID: &str = r#"Bearer error="invalid_token""#;
/// RFC 9470 section 3.
const TOO_OLD: &str = r#"Bearer error="insufficient_user_authentication""#;

/// Whether the client tries to be taken for a header that we set: by a spelling that a backend
/// may read as the same, or by having the proxy drop ours.
fn smuggles(headers: &HeaderMap) -> bool {
    let ours = |name: &str| IDENTITY.iter().any(|identity| identity.as_str() == name);
    let alias = headers.keys().any(|name| {
        let name = name.as_str();
        name.contains(['_', '.']) && ours(&name.replace(['_', '.'], "-"))
    });
    alias
        || headers.get_all(header::CONNECTION).iter().any(|value| {
            let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            value.split(',').any(|name| ours(&name.trim().replace(['_', '.'], "-")))
        })
}

/// A real CORS preflight (Fetch standard, section 3.2.2). It carries no credential.
fn is_preflight(original: &Original, headers: &HeaderMap) -> bool {
    original.method.as_deref() == Some("OPTIONS")
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Exactly 200: Envoy accepts no other success.
fn allowed(identity: Option<&Identity>) -> Response {
    let mut response = StatusCode::OK.into_response();
    for (i, name) in IDENTITY.into_iter().enumerate() {
        let value = identity.map_or(HeaderValue::from_static(""), |who| who.headers[i].clone());
        response.headers_mut().insert(name, value);
    }
    response
}

fn status(status: StatusCode) -> Response {
    status.into_response()
}

fn challenge(value: &'static str) -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, value)]).into_response()
}

fn unavailable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response()
}

/// 401; with the address of the login page for nginx, or a redirect there for a page that a
/// person opens.
fn login(
    gateway: &Gateway,
    dialect: &Dialect,
    original: &Original,
    headers: &HeaderMap,
    why: &'static str,
) -> Response {
    let mut response = challenge(why);
    let (Some(page), Some(url)) = (&gateway.config.login.url, &original.url) else {
        return response;
    };
    let back = utf8_percent_encode(url.as_str(), NON_ALPHANUMERIC);
    let separator = if page.query().is_some() { '&' } else { '?' };
    let Ok(location) = HeaderValue::from_str(&format!("{page}{separator}return_to={back}")) else {
        return response;
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let navigation = match text("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => {
            text("accept").is_some_and(|accept| accept.contains("text/html"))
                && !headers.contains_key("x-requested-with")
        }
    };
    if !dialect.redirects {
        response.headers_mut().insert(header::LOCATION, location);
    } else if navigation {
        *response.status_mut() = match original.method.as_deref() {
            Some("GET" | "HEAD") => StatusCode::FOUND,
            _ => StatusCode::SEE_OTHER,
        };
        response.headers_mut().remove(header::WWW_AUTHENTICATE);
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_read() {
        let parsed = Requirements::parse(Some("role=admin&role=ops&max_age=600&strict=1")).unwrap();
        assert_eq!(parsed.roles, ["admin", "ops"]);
        assert_eq!(parsed.max_age, Some(600));
        assert!(parsed.strict && !parsed.optional && !parsed.preflight);
        assert_eq!(Requirements::parse(None), Some(Requirements::default()));
    }

    #[test]
    fn a_mistyped_requirement_is_refused_rather_than_dropped() {
        for query in
            ["rol=admin", "role=", "max_age=ten", "max_age=-1", "optional=yes", "preflight=no", "x"]
        {
            assert_eq!(Requirements::parse(Some(query)), None, "{query}");
        }
    }

    #[test]
    fn other_spellings_of_our_headers_are_seen() {
        let headers = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
        };
        assert!(smuggles(&headers("remote_user", "admin")));
        assert!(smuggles(&headers("Remote.User", "admin")));
        assert!(smuggles(&headers("connection", "close, Remote-User")));
        assert!(!smuggles(&headers("remote-user", "admin")), "the proxy overwrites it");
        assert!(!smuggles(&headers("x_other.header", "1")));
        assert!(!smuggles(&headers("connection", "keep-alive")));
    }
}
