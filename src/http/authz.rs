//! `/authz/*`: what proxies ask about every request.
//!
//! 200 and identity headers for a live session; a body never. Whatever is not a proven yes is a
//! no, and what cannot be known is 503. This is the hot path from bytes in to bytes out: it is
//! called straight from the listener, and it allocates nothing but the answer's headers.

use std::net::SocketAddr;
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Url, form_urlencoded};

use super::caller::Credentials;
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
const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const EMPTY: HeaderValue = HeaderValue::from_static("");

/// Which proxy asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// nginx, which turns every status but 2xx, 401 and 403 into 500.
    AuthRequest,
    /// Traefik's `ForwardAuth`, Caddy's `forward_auth` and HAProxy, which hand a redirect on to the
    /// browser. They always say which request they ask about, so one that does not was tampered with.
    ForwardAuth,
}

impl Dialect {
    /// What is asked at a path.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/authz/auth-request" => Some(Self::AuthRequest),
            "/authz/forward-auth" => Some(Self::ForwardAuth),
            _ => None,
        }
    }

    /// For a request that no honest proxy sends.
    fn refused(self) -> StatusCode {
        match self {
            Self::AuthRequest => StatusCode::FORBIDDEN,
            Self::ForwardAuth => StatusCode::BAD_REQUEST,
        }
    }
}

/// What the proxy says of the request that it asks about.
#[derive(Default)]
struct Original<'a> {
    method: Option<&'a str>,
    url: Option<OriginalUrl<'a>>,
    /// The proxy is one whose word counts.
    trusted: bool,
}

/// An address of the web that a client asked the proxy for. Whether somebody is let in does not
/// depend on it, so no more of it is looked at than tells a real one from an attempt.
struct OriginalUrl<'a> {
    scheme: &'a str,
    authority: &'a str,
    /// Path and query.
    rest: &'a str,
}

impl<'a> OriginalUrl<'a> {
    fn new(scheme: &'a str, authority: &'a str, rest: &'a str) -> Option<Self> {
        let known = matches!(scheme, "http" | "https" | "ws" | "wss");
        let host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let plain = !authority.is_empty() && authority.bytes().all(host);
        let absolute = rest.is_empty() || rest.starts_with('/');
        (known && plain && absolute).then_some(Self { scheme, authority, rest })
    }

    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        Self::new(scheme, &rest[..end], &rest[end..])
    }
}

impl<'a> Original<'a> {
    /// `None` for what no honest proxy sends. From others than trusted proxies nothing counts.
    fn read(dialect: Dialect, trusted: bool, headers: &'a HeaderMap) -> Option<Self> {
        let text = |name: HeaderName| single(headers, name);
        match dialect {
            Dialect::AuthRequest if !trusted => Some(Self::default()),
            Dialect::AuthRequest => {
                let url = match text(ORIGINAL_URL) {
                    Some(text) => Some(OriginalUrl::parse(text)?),
                    None => None,
                };
                Some(Self { method: text(ORIGINAL_METHOD), url, trusted })
            }
            Dialect::ForwardAuth if !trusted => None,
            Dialect::ForwardAuth => {
                let method = text(FORWARDED_METHOD)?;
                let (scheme, host) = (text(FORWARDED_PROTO)?, text(FORWARDED_HOST)?);
                let uri = text(FORWARDED_URI).filter(|uri| uri.starts_with('/'))?;
                let url = OriginalUrl::new(scheme, host, uri)?;
                Some(Self { method: Some(method), url: Some(url), trusted })
            }
        }
    }
}

/// What the proxy requires beyond a live session. It cannot be mistyped: an unknown name is
/// refused, because a requirement that is dropped would let somebody in.
#[derive(Debug, Default, PartialEq)]
struct Requirements<'a> {
    /// The query, when it names roles.
    roles: Option<&'a str>,
    max_age: Option<u64>,
    optional: bool,
    strict: bool,
    preflight: bool,
}

impl<'a> Requirements<'a> {
    fn parse(query: &'a str) -> Option<Self> {
        let mut requirements = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("role", role) if !role.is_empty() => requirements.roles = Some(query),
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

    /// Whether somebody has one of the roles that were asked for, if any were.
    fn admit(&self, has_role: impl Fn(&str) -> bool) -> bool {
        self.roles.is_none_or(|query| {
            let mut asked = form_urlencoded::parse(query.as_bytes());
            asked.any(|(name, value)| name == "role" && has_role(&value))
        })
    }
}

/// Answers a proxy's question.
pub(super) async fn answer(
    gateway: &Gateway,
    dialect: Dialect,
    peer: SocketAddr,
    query: &str,
    headers: &HeaderMap,
) -> Response {
    let start = Instant::now();
    let trusted = is_trusted(peer.ip(), &gateway.config.server.trusted_proxies);
    if !trusted && dialect == Dialect::ForwardAuth {
        tracing::warn!(%peer, "a forward-auth check from outside server.trusted_proxies was refused");
    }
    let original = Original::read(dialect, trusted, headers);
    let decision = match (original, Requirements::parse(query)) {
        (Some(original), Some(requirements)) if !smuggles(headers) => {
            let question = Question { gateway, dialect, peer, original, requirements, headers };
            question.decide(start).await
        }
        _ => Decision::of(CheckResult::Refused, status(dialect.refused())),
    };
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
    peer: SocketAddr,
    original: Original<'a>,
    requirements: Requirements<'a>,
    headers: &'a HeaderMap,
}

impl Question<'_> {
    async fn decide(&self, start: Instant) -> Decision {
        let Self { requirements, headers, .. } = self;
        if requirements.preflight && is_preflight(&self.original, headers) {
            return Decision::of(CheckResult::Anonymous, allowed(None));
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
                    // A proxy that names nobody would make every session come from the proxy itself.
                    let named = self.original.trusted && headers.contains_key("x-forwarded-for");
                    let proxies = &self.gateway.config.server.trusted_proxies;
                    named.then(|| address(self.peer, headers, proxies))
                });
                let too_old = |max_age| now.seconds() > identity.auth_time.saturating_add(max_age);
                if !requirements.admit(|role| identity.has_role(role)) {
                    (CheckResult::Forbidden, status(StatusCode::FORBIDDEN))
                } else if requirements.max_age.is_some_and(too_old) {
                    (CheckResult::TooOld, self.login(TOO_OLD))
                } else {
                    (CheckResult::Allowed, allowed(Some(&identity)))
                }
            }
        };
        Decision { result, source, response }
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

/// The value of a header that is there exactly once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a name may be read as one of ours by a backend, without being it.
fn is_alias(name: &str) -> bool {
    let same = |ours: &str| {
        let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || b == b'-' && b"_.".contains(&a);
        name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
    };
    name.contains(['_', '.']) && IDENTITY.iter().any(|ours| same(ours.as_str()))
}

/// Whether the client tries to be taken for a header that we set: by a spelling that a backend
/// may read as the same, or by having the proxy drop ours.
fn smuggles(headers: &HeaderMap) -> bool {
    let ours = |name: &str| IDENTITY.iter().any(|ours| ours.as_str().eq_ignore_ascii_case(name));
    let drops = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| std::str::from_utf8(name).is_ok_and(|name| ours(name) || is_alias(name)))
    };
    headers.keys().any(|name| is_alias(name.as_str()))
        || headers.get_all(header::CONNECTION).iter().any(drops)
}

/// A real CORS preflight (Fetch standard, section 3.2.2). It carries no credential.
fn is_preflight(original: &Original<'_>, headers: &HeaderMap) -> bool {
    original.method == Some("OPTIONS")
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Exactly 200: Envoy accepts no other success.
fn allowed(identity: Option<&Identity>) -> Response {
    let mut response = status(StatusCode::OK);
    let headers = response.headers_mut();
    for (i, name) in IDENTITY.into_iter().enumerate() {
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
    fn requirements_are_read() {
        let parsed = Requirements::parse("role=admin&role=o%70s&max_age=600&strict=1").unwrap();
        let admits = |role: &str| parsed.admit(|asked| asked == role);
        assert!(admits("admin") && admits("ops") && !admits("adm"));
        assert_eq!(parsed.max_age, Some(600));
        assert!(parsed.strict && !parsed.optional && !parsed.preflight);
        assert_eq!(Requirements::parse(""), Some(Requirements::default()));
        assert!(Requirements::default().admit(|_| false));
    }

    #[test]
    fn a_mistyped_requirement_is_refused_rather_than_dropped() {
        for query in
            ["rol=admin", "role=", "max_age=ten", "max_age=-1", "optional=yes", "preflight=no", "x"]
        {
            assert_eq!(Requirements::parse(query), None, "{query}");
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
        assert!(smuggles(&headers("connection", "REMOTE_user ,close")));
        assert!(!smuggles(&headers("remote-user", "admin")), "the proxy overwrites it");
        assert!(!smuggles(&headers("x_other.header", "1")));
        assert!(!smuggles(&headers("connection", "keep-alive")));
    }
}
