//! What a proxy says of the request that it asks about, each in its own way.

use std::net::SocketAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use url::Url;

const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What Envoy puts in front of the path that a client asked for.
const EXT_AUTHZ: &str = "/authz/ext-authz";

/// More proxies in a row than anybody has.
const HOPS: usize = 50;

/// Which proxy asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// nginx, which turns every status but 2xx, 401 and 403 into 500.
    AuthRequest,
    /// Traefik's `ForwardAuth`, Caddy's `forward_auth` and HAProxy, which hand a redirect on to the
    /// browser. They always say which request they ask about, so one that does not was tampered with.
    ForwardAuth,
    /// Envoy over HTTP, whose question is the client's request without its body, below a prefix.
    ExtAuthz,
    /// Envoy over gRPC.
    Grpc,
}

impl Dialect {
    /// What is asked at a path.
    pub(in crate::http) fn of(path: &str) -> Option<Self> {
        match path {
            "/authz/auth-request" => Some(Self::AuthRequest),
            "/authz/forward-auth" => Some(Self::ForwardAuth),
            _ => path.strip_prefix(EXT_AUTHZ)?.starts_with('/').then_some(Self::ExtAuthz),
        }
    }

    /// For a request that no honest proxy sends.
    pub(super) fn refused(self) -> StatusCode {
        match self {
            Self::AuthRequest => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What the proxy says of the request that it asks about.
#[derive(Default)]
pub(crate) struct Original<'a> {
    /// As the client wrote it.
    pub(super) method: Option<&'a str>,
    /// Where to.
    pub(super) url: Option<OriginalUrl<'a>>,
    /// Who connected, where the client's address can be told from that; otherwise every session
    /// would seem to come from the proxy itself.
    pub(super) peer: Option<SocketAddr>,
}

/// An address of the web that a client asked the proxy for. Whether somebody is let in does not
/// depend on it, so no more of it is looked at than tells a real one from an attempt.
pub(super) struct OriginalUrl<'a> {
    pub(super) scheme: &'a str,
    pub(super) authority: &'a str,
    /// Path and query.
    pub(super) rest: &'a str,
}

impl<'a> OriginalUrl<'a> {
    /// `None` for what is no such address.
    fn new(scheme: &'a str, authority: &'a str, rest: &'a str) -> Option<Self> {
        let known = matches!(scheme, "http" | "https" | "ws" | "wss");
        let host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let plain = !authority.is_empty() && authority.bytes().all(host);
        let absolute = rest.is_empty() || rest.starts_with('/');
        let visible = rest.bytes().all(|byte| byte.is_ascii_graphic());
        (known && plain && absolute && visible).then_some(Self { scheme, authority, rest })
    }

    /// The origin that a backend knows itself by (RFC 6454 section 6.2).
    pub(super) fn origin(&self) -> Option<String> {
        // A websocket is opened at a page's origin.
        let scheme = if matches!(self.scheme, "https" | "wss") { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{}", self.authority)).ok()?;
        Some(url.origin().ascii_serialization())
    }

    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        let rest = rest.strip_prefix("//")?;
        let end = rest.bytes().position(|byte| b"/?#".contains(&byte)).unwrap_or(rest.len());
        Self::new(scheme, &rest[..end], &rest[end..])
    }
}

impl<'a> Original<'a> {
    /// `None` for what no honest proxy sends. `peer` is a trusted proxy; from others nothing counts.
    pub(super) fn read(
        dialect: Dialect,
        peer: Option<SocketAddr>,
        method: &'a Method,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Option<Self> {
        let Some(peer) = peer else {
            return (dialect == Dialect::AuthRequest).then(Self::default);
        };
        let text = |name: HeaderName| single(headers, name).ok();
        let (method, url) = match dialect {
            Dialect::AuthRequest => {
                let url = match text(ORIGINAL_URL)? {
                    Some(text) => Some(OriginalUrl::parse(text)?),
                    None => None,
                };
                (text(ORIGINAL_METHOD)?, url)
            }
            Dialect::ForwardAuth => {
                let method = text(FORWARDED_METHOD)??;
                let (scheme, host) = (text(FORWARDED_PROTO)??, text(FORWARDED_HOST)??);
                let uri = text(FORWARDED_URI)?.filter(|uri| uri.starts_with('/'))?;
                (Some(method), Some(OriginalUrl::new(scheme, host, uri)?))
            }
            Dialect::ExtAuthz | Dialect::Grpc => {
                let (asked, named) = (uri.authority().map(Authority::as_str), text(header::HOST)?);
                let host = match (asked, named) {
                    (Some(asked), Some(named)) => (asked == named).then_some(named)?,
                    (asked, named) => asked.or(named)?,
                };
                let rest = uri.path_and_query()?.as_str().strip_prefix(EXT_AUTHZ)?;
                // Without a scheme it is not known where the request came from.
                let url = match text(FORWARDED_PROTO)? {
                    Some(scheme) => Some(OriginalUrl::new(scheme, host, rest)?),
                    None => None,
                };
                (Some(method.as_str()), url)
            }
        };
        let hops = hops(headers);
        (hops <= HOPS).then_some(Self { method, url, peer: (hops > 0).then_some(peer) })
    }

    /// What Envoy says over gRPC: scheme, host, path with query, and who connected to it.
    pub(crate) fn of(
        method: &'a str,
        [scheme, host, path]: [&'a str; 3],
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let url = OriginalUrl::new(scheme, host, path)?;
        (hops(headers) <= HOPS).then_some(Self { method: Some(method), url: Some(url), peer })
    }
}

/// How many addresses the proxies name.
fn hops(headers: &HeaderMap) -> usize {
    let values = headers.get_all(FORWARDED_FOR).iter();
    values.map(|value| value.as_bytes().split(|byte| *byte == b',').count()).sum()
}

/// The value of a header that may be there once. An error when it is there twice, or holds what is
/// not visible ASCII.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ()> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(HeaderValue::to_str).transpose().map_err(|_| ())?;
    if values.next().is_none() { Ok(value) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_off_once() {
        let read = |uri: &str, headers: &[(&str, &str)]| {
            let (uri, headers) = (uri.parse::<Uri>().unwrap(), map(headers));
            let peer = "10.0.0.1:1".parse().ok();
            let original = Original::read(Dialect::ExtAuthz, peer, &Method::GET, &uri, &headers);
            original.map(|original| {
                let url = original.url.unwrap();
                format!("{}://{}{}", url.scheme, url.authority, url.rest)
            })
        };
        let https = ("x-forwarded-proto", "https");
        let host = ("host", "app.example");
        for (uri, rest) in [
            ("/authz/ext-authz/", "/"),
            ("/authz/ext-authz/inbox?page=2", "/inbox?page=2"),
            ("/authz/ext-authz//evil", "//evil"),
            ("/authz/ext-authz/authz/ext-authz/x", "/authz/ext-authz/x"),
            ("/authz/ext-authz/a%2fb?role=admin", "/a%2fb?role=admin"),
        ] {
            assert_eq!(read(uri, &[https, host]), Some(format!("https://app.example{rest}")));
        }
        let absolute = "http://other.example/authz/ext-authz/";
        assert_eq!(read(absolute, &[https, host]), None, "two hosts");
        assert_eq!(read("/authz/ext-authz/", &[https]), None, "no host");
        assert_eq!(read("/authz/ext-authz/", &[https, host, host]), None, "two hosts");
    }

    #[test]
    fn a_list_of_addresses_has_an_end() {
        let read = |hops: usize| {
            let headers = map(&[("x-forwarded-for", vec!["1.1.1.1"; hops].join(", ").as_str())]);
            let (peer, uri) = ("10.0.0.1:1".parse().ok(), Uri::default());
            let asked = Dialect::AuthRequest;
            Original::read(asked, peer, &Method::GET, &uri, &headers).map(|read| read.peer)
        };
        let peer = "10.0.0.1:1".parse().ok();
        assert_eq!((read(1), read(50), read(51)), (Some(peer), Some(peer), None));
        assert_eq!(hops(&HeaderMap::new()), 0);
    }

    #[test]
    fn what_is_not_visible_ascii_is_no_address() {
        for (scheme, authority, rest) in [
            ("javascript", "app.example", "/"),
            ("https", "a@b", "/"),
            ("https", "", "/"),
            ("https", "app.example", "inbox"),
            ("https", "app.example", "/\u{e4}"),
            ("https", "app.example", "/a b"),
        ] {
            assert!(OriginalUrl::new(scheme, authority, rest).is_none(), "{authority}{rest}");
        }
    }

    #[test]
    fn an_origin_is_written_in_one_way() {
        let origin = |scheme, authority| OriginalUrl::new(scheme, authority, "/")?.origin();
        assert_eq!(origin("https", "App.example:443").as_deref(), Some("https://app.example"));
        assert_eq!(origin("wss", "app.example").as_deref(), Some("https://app.example"));
        assert_eq!(origin("ws", "[::1]:81").as_deref(), Some("http://[::1]:81"));
        assert_eq!(origin("https", ":443"), None);
    }

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }
}
