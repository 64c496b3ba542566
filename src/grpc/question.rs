//! What Envoy says of the request that it asks about.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use envoy_types::ext_authz::v3::CheckRequestExt as _;
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use url::form_urlencoded::Serializer;

use crate::http::authz::Original;

/// A check request, as the check over HTTP would have it.
#[derive(Default)]
pub(super) struct Question {
    /// The client's headers.
    pub(super) headers: HeaderMap,
    /// The requirements, as a query.
    pub(super) query: String,
    http: HttpRequest,
    /// The client, as far as Envoy knows.
    client: Option<SocketAddr>,
    /// A header is none.
    malformed: bool,
}

impl Question {
    /// Takes a request apart.
    pub(super) fn of(request: CheckRequest) -> Self {
        let client = request.get_client_address().and_then(|text| text.parse::<IpAddr>().ok());
        let Some(attributes) = request.attributes else {
            return Self::default();
        };
        let mut http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let headers = headers(&mut http);
        Self {
            malformed: headers.is_none(),
            headers: headers.unwrap_or_default(),
            query: query(&attributes.context_extensions),
            client: client.map(|ip| SocketAddr::new(ip, 0)),
            http,
        }
    }

    /// `None` for what Envoy does not send.
    pub(super) fn original(&self) -> Option<Original<'_>> {
        let HttpRequest { method, scheme, host, path, .. } = &self.http;
        let original = Original::of(method, [scheme, host, path], self.client, &self.headers);
        original.filter(|_| !self.malformed)
    }
}

/// One by one where Envoy sends them so (`encode_raw_headers`), otherwise with those of the same
/// name joined by commas. Two credentials joined are none that is good.
fn headers(http: &mut HttpRequest) -> Option<HeaderMap> {
    let raw = http.header_map.take().unwrap_or_default().headers.into_iter().map(|header| {
        let value =
            if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
        (header.key, value)
    });
    let joined = std::mem::take(&mut http.headers);
    let joined = joined.into_iter().map(|(name, value)| (name, value.into_bytes()));
    let mut headers = HeaderMap::with_capacity(raw.len() + joined.len());
    // Those of HTTP/2 (`:path`) stand in fields of their own.
    for (name, value) in raw.chain(joined).filter(|(name, _)| !name.starts_with(':')) {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(Bytes::from(value)).ok()?);
    }
    Some(headers)
}

/// The requirements of a route: `context_extensions`, with roles by comma.
fn query(extensions: &HashMap<String, String>) -> String {
    let mut query = Serializer::new(String::new());
    for (name, value) in extensions {
        match name.as_str() {
            "role" => query.extend_pairs(value.split(',').map(|role| ("role", role.trim()))),
            _ => query.append_pair(name, value),
        };
    }
    query.finish()
}

#[cfg(test)]
mod tests {
    #[test]
    fn extensions_become_requirements() {
        let query = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            super::query(&pairs.collect())
        };
        assert_eq!(query(&[]), "");
        assert_eq!(
            query(&[("role", "admin, ops&optional=1")]),
            "role=admin&role=ops%26optional%3D1"
        );
        assert_eq!(query(&[("role", "")]), "role=", "which is refused");
        assert_eq!(query(&[("max_age", "600")]), "max_age=600");
    }
}
