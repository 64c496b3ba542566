//! `/authz/*`: what proxies ask about every request.
//!
//! 200 and identity headers for a live session; a body never. Whatever is not a proven yes is a
//! no, and what cannot be known is 503. This is the hot path from bytes in to bytes out: it is
//! called straight from the listener, and it allocates nothing but the answer's headers.

mod cors;
mod original;
mod requirements;

use std::net::SocketAddr;
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use memchr::memchr2;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::caller::Credentials;
use super::client::{address, is_trusted};
use crate::check::{Identity, Refusal};
use crate::model::Timestamp;
use crate::state::Gateway;
use crate::telemetry::metrics::{self, CheckResult, Source};
use original::OriginalUrl;
pub(crate) use original::{Dialect, Original};
pub(crate) use requirements::Requirements;

/// Always all of them, empty when there is nobody: what a client sent under these names is
/// overwritten.
static IDENTITY: [HeaderName; 5] = [
    HeaderName::from_static("remote-user"),
    HeaderName::from_static("remote-groups"),
    HeaderName::from_static("remote-email"),
    HeaderName::from_static("remote-name"),
    HeaderName::from_static("remote-session"),
];
/// For applications that verify for themselves whom a request is from; there when it was asked for.
static ASSERTION: HeaderName = HeaderName::from_static("x-gatehouse-assertion");
const EMPTY: HeaderValue = HeaderValue::from_static("");

/// Answers a proxy's question.
pub(super) async fn answer(
    gateway: &Gateway,
    dialect: Dialect,
    peer: SocketAddr,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Response {
    let trusted = is_trusted(peer.ip(), &gateway.config.server.trusted_proxies);
    if !trusted && dialect != Dialect::AuthRequest {
        tracing::warn!(%peer, "a check from outside server.trusted_proxies was refused");
    }
    let original = Original::read(dialect, trusted.then_some(peer), method, uri, headers);
    let query = match dialect {
        // The client's.
        Dialect::ExtAuthz => None,
        _ => uri.query(),
    };
    let requirements = Requirements::read(query.unwrap_or_default(), trusted, headers);
    decide(gateway, dialect, original, requirements, headers).await
}

/// Decides about a request, whichever proxy asks. `None` stands for what no honest proxy sends.
pub(crate) async fn decide(
    gateway: &Gateway,
    dialect: Dialect,
    original: Option<Original<'_>>,
    requirements: Option<Requirements<'_>>,
    headers: &HeaderMap,
) -> Response {
    let start = Instant::now();
    let assert = requirements.as_ref().is_some_and(|required| required.assert);
    let mut decision = match (original, requirements) {
        (Some(original), Some(requirements)) if !smuggles(headers) => {
            let question = Question { gateway, dialect, original, requirements, headers };
            question.decide(start).await
        }
        _ => Decision::of(CheckResult::Refused, status(dialect.refused())),
    };
    if decision.response.status() != StatusCode::OK {
        cors::permit(&gateway.config.check.cors_origins, headers, &mut decision.response);
    } else if assert {
        decision.response.headers_mut().entry(&ASSERTION).or_insert(EMPTY);
    }
    metrics::check(decision.result, decision.source, start.elapsed());
    decision.response
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

struct Question<'a> {
    gateway: &'a Gateway,
    dialect: Dialect,
    original: Original<'a>,
    requirements: Requirements<'a>,
    headers: &'a HeaderMap,
}

impl Question<'_> {
    async fn decide(&self, start: Instant) -> Decision {
        let Self { requirements, headers, .. } = self;
        if is_preflight(&self.original, headers) {
            return if requirements.preflight || requirements.optional {
                Decision::of(CheckResult::Anonymous, allowed(None))
            } else {
                Decision::of(CheckResult::Missing, challenge("Bearer"))
            };
        }
        let credentials = match Credentials::read(headers, &self.gateway.cookies) {
            Ok(credentials) if !credentials.are_missing() => credentials,
            Ok(_) if requirements.optional => {
                return Decision::of(CheckResult::Anonymous, allowed(None));
            }
            Ok(_) => return Decision::of(CheckResult::Missing, self.login("Bearer")),
            Err(()) => return Decision::of(CheckResult::Invalid, challenge(INVALID)),
        };
        let (check, now) = (&self.gateway.check, Timestamp::now());
        let (answer, source) =
            credentials.authenticate(check, now, start, requirements.strict).await;
        let why = if credentials.bearer.is_some() { INVALID } else { "Bearer" };
        let (result, response) = match answer {
            Err(Refusal::Unknown) => (CheckResult::Unavailable, unavailable()),
            // A browser goes on sending the cookie of a session that has ended: that is nobody.
            Err(Refusal::Revoked) if requirements.optional && credentials.bearer.is_none() => {
                (CheckResult::Anonymous, allowed(None))
            }
            Err(Refusal::Revoked) => (CheckResult::Revoked, self.login(why)),
            Err(Refusal::Invalid) => (CheckResult::Invalid, self.login(why)),
            Ok(identity) => {
                check.activities.note(&identity, now, || {
                    let proxies = &self.gateway.config.server.trusted_proxies;
                    self.original.peer.map(|peer| address(peer, headers, proxies))
                });
                let too_old = |max_age| now.seconds() > identity.auth_time.saturating_add(max_age);
                if !requirements.admit(|role| identity.has_role(role)) {
                    (CheckResult::Forbidden, status(StatusCode::FORBIDDEN))
                } else if requirements.max_age.is_some_and(too_old) {
                    (CheckResult::TooOld, self.login(TOO_OLD))
                } else if requirements.assert {
                    self.asserted(&identity, now)
                } else {
                    (CheckResult::Allowed, allowed(Some(&identity)))
                }
            }
        };
        Decision { result, source, response }
    }

    /// Whom the request is from, also in a form that the application can verify. It is meant for one
    /// origin, so the proxy has to say which was asked.
    fn asserted(&self, identity: &Identity, now: Timestamp) -> (CheckResult, Response) {
        let Some(origin) = self.original.url.as_ref().and_then(OriginalUrl::origin) else {
            return (CheckResult::Refused, status(self.dialect.refused()));
        };
        match self.gateway.check.assertions.assert(identity, origin, now) {
            Ok(assertion) => {
                let mut response = allowed(Some(identity));
                response.headers_mut().insert(&ASSERTION, assertion);
                (CheckResult::Allowed, response)
            }
            Err(error) => {
                tracing::error!(%error, "an assertion could not be made");
                (CheckResult::Unavailable, unavailable())
            }
        }
    }

    /// 401; with the address of the login page for nginx, or a redirect there for a page that a
    /// person opens.
    fn login(&self, why: &'static str) -> Response {
        let mut response = challenge(why);
        let Some(location) = self.login_page() else {
            return response;
        };
        let headers = self.headers;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let navigation = match text("sec-fetch-mode") {
            Some(mode) => mode == "navigate",
            None => {
                text("accept").is_some_and(|accept| accept.contains("text/html"))
                    && !headers.contains_key("x-requested-with")
            }
        };
        if self.dialect == Dialect::AuthRequest {
            response.headers_mut().insert(header::LOCATION, location);
        } else if navigation {
            *response.status_mut() = match self.original.method {
                Some("GET" | "HEAD") => StatusCode::FOUND,
                _ => StatusCode::SEE_OTHER,
            };
            response.headers_mut().remove(header::WWW_AUTHENTICATE);
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }

    /// Where people log in, with the way back to the page that was asked for.
    fn login_page(&self) -> Option<HeaderValue> {
        let page = self.gateway.config.login_page()?;
        let OriginalUrl { scheme, authority, rest } = self.original.url.as_ref()?;
        let back = Url::parse(&format!("{scheme}://{authority}{rest}")).ok()?;
        let back = utf8_percent_encode(back.as_str(), NON_ALPHANUMERIC);
        let separator = if page.query().is_some() { '&' } else { '?' };
        HeaderValue::from_str(&format!("{page}{separator}return_to={back}")).ok()
    }
}

const INVALID: &str = r#"Bearer error="invalid_token""#;
/// RFC 9470 section 3.
const TOO_OLD: &str = r#"Bearer error="insufficient_user_authentication""#;

/// Whether a name may be read as one of ours by a backend, without being it.
fn is_alias(name: &str) -> bool {
    let same = |ours: &str| {
        let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || b == b'-' && b"_.".contains(&a);
        name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
    };
    memchr2(b'_', b'.', name.as_bytes()).is_some() && ours().any(|ours| same(ours.as_str()))
}

/// The headers of a request to a backend that are ours alone to set.
pub(crate) fn ours() -> impl Iterator<Item = &'static HeaderName> {
    IDENTITY.iter().chain([&ASSERTION])
}

/// Whether the client tries to be taken for a header that we set: by a spelling that a backend
/// may read as the same, or by having the proxy drop ours.
fn smuggles(headers: &HeaderMap) -> bool {
    let is_ours = |name: &str| ours().any(|ours| ours.as_str().eq_ignore_ascii_case(name));
    let drops = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names
            .any(|name| std::str::from_utf8(name).is_ok_and(|name| is_ours(name) || is_alias(name)))
    };
    headers.keys().any(|name| is_alias(name.as_str()))
        || headers.get_all(header::CONNECTION).iter().any(drops)
}

/// A real CORS preflight (Fetch standard, section 3.2.2). It carries no credential, so it is answered
/// without looking for one, and a browser follows no redirect from it.
fn is_preflight(original: &Original<'_>, headers: &HeaderMap) -> bool {
    original.method == Some("OPTIONS")
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Exactly 200: Envoy accepts no other success.
fn allowed(identity: Option<&Identity>) -> Response {
    let mut response = status(StatusCode::OK);
    let headers = response.headers_mut();
    for (i, name) in IDENTITY.iter().enumerate() {
        headers.insert(name, identity.map_or(EMPTY, |who| who.headers[i].clone()));
    }
    response
}

/// No answer of a check is ever stored.
fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().reserve(IDENTITY.len() + 1);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn challenge(why: &'static str) -> Response {
    let mut response = status(StatusCode::UNAUTHORIZED);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(why));
    response
}

fn unavailable() -> Response {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_of_our_headers_are_seen() {
        let headers = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
        };
        assert!(smuggles(&headers("remote_user", "admin")));
        assert!(smuggles(&headers("Remote.User", "admin")));
        assert!(smuggles(&headers("connection", "close, Remote-User")));
        assert!(smuggles(&headers("connection", "REMOTE_user ,close")));
        assert!(!smuggles(&headers("remote-user", "admin")), "the proxy overwrites it");
        assert!(!smuggles(&headers("x_other.header", "1")));
        assert!(!smuggles(&headers("connection", "keep-alive")));
    }
}
