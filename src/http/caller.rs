//! Who calls the API: a user with a session, or a backend with a key.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::{constant_time, digest};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::client;
use super::cookie::{self, Cookies};
use super::problem::Problem;
use crate::check::{Check, Identity, Refusal};
use crate::config::{Scope, ServiceKey};
use crate::model::Timestamp;
use crate::state::Gateway;
use crate::telemetry::metrics::Source;

/// The credential of an `Authorization: Bearer` header (RFC 6750 section 2.1). Two of them are
/// none: nobody can say which one counts.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, ()> {
    const SCHEME: &[u8] = b"bearer ";
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match value.as_bytes().split_at_checked(SCHEME.len()) {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case(SCHEME)
                && !token.is_empty()
                && values.next().is_none() =>
        {
            Ok(Some(token))
        }
        _ => Err(()),
    }
}

/// The address of the client, from trusted proxies only.
pub(super) struct ClientAddress(pub(super) IpAddr);

impl FromRequestParts<Arc<Gateway>> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
    ) -> Result<Self, Problem> {
        let ConnectInfo(peer) = ConnectInfo::<SocketAddr>::from_request_parts(parts, gateway)
            .await
            .map_err(|_| Problem::internal())?;
        let trusted = &gateway.config.server.trusted_proxies;
        Ok(Self(client::address(peer, &parts.headers, trusted)))
    }
}

/// What a request proves a session with.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    /// An access token.
    pub(super) bearer: Option<&'a [u8]>,
    /// A session cookie.
    pub(super) cookie: Option<&'a [u8]>,
}

impl<'a> Credentials<'a> {
    /// What stands in the header, unless nobody can say what counts.
    pub(super) fn read(headers: &'a HeaderMap, cookies: &Cookies) -> Result<Self, ()> {
        Ok(Self { bearer: bearer(headers)?, cookie: cookie::cookie(headers, &cookies.session)? })
    }

    /// There is none.
    pub(super) fn are_missing(&self) -> bool {
        self.bearer.is_none() && self.cookie.is_none()
    }

    /// Whose they are, if the session is live. Two credentials of different people are nobody's.
    pub(super) async fn authenticate(
        self,
        check: &Check,
        now: Timestamp,
        instant: Instant,
        strict: bool,
    ) -> (Result<Arc<Identity>, Refusal>, Source) {
        let (Some(token), Some(cookie)) = (self.bearer, self.cookie) else {
            return if let Some(token) = self.bearer {
                check.authenticate(token, now, instant, strict).await
            } else {
                let cookie = self.cookie.unwrap_or_default();
                check.authenticate_cookie(cookie, now, instant, strict).await
            };
        };
        let (answer, source) = check.authenticate(token, now, instant, strict).await;
        let Ok(identity) = answer else {
            return (answer, source);
        };
        let (other, source) = check.authenticate_cookie(cookie, now, instant, strict).await;
        let answer = match other {
            Ok(other) if other.user != identity.user => Err(Refusal::Invalid),
            Err(refusal @ (Refusal::Invalid | Refusal::Unknown)) => Err(refusal),
            // A browser goes on sending the cookie of a session that has ended.
            Ok(_) | Err(Refusal::Revoked) => Ok(identity),
        };
        (answer, source)
    }
}

/// A user, by an access token or the cookie of a live session.
pub(super) struct User(pub(super) Arc<Identity>);

impl FromRequestParts<Arc<Gateway>> for User {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
    ) -> Result<Self, Problem> {
        let ClientAddress(address) = ClientAddress::from_request_parts(parts, gateway).await?;
        let credentials = Credentials::read(&parts.headers, &gateway.cookies).map_err(|()| {
            Problem::unauthenticated("the Authorization header or the cookie is malformed")
        })?;
        if credentials.are_missing() {
            return Err(Problem::unauthenticated(
                "send an access token: Authorization: Bearer …, or the session cookie",
            ));
        }
        if credentials.bearer.is_none() {
            gateway.cookies.refuse_foreign(&parts.method, &parts.headers, true)?;
        }
        let (check, now) = (&gateway.check, Timestamp::now());
        match credentials.authenticate(check, now, Instant::now(), false).await.0 {
            Ok(identity) => Ok(Self(identity)),
            Err(Refusal::Unknown) => Err(Problem::unavailable()),
            Err(Refusal::Invalid | Refusal::Revoked) => {
                let refusal = Problem::unauthenticated("the credential is not valid, or no longer");
                Err(gateway.failures.answer(address, refusal))
            }
        }
    }
}

/// Ending sessions of one's own other devices wants a fresh login from whoever can give one here: a
/// stolen session alone must not throw its owner out (OWASP ASVS 7.5.2).
pub(super) fn wants_fresh_login(gateway: &Gateway, user: &Identity) -> Result<(), Problem> {
    const RECENT: u64 = 5 * 60;
    if gateway.logins.know(&user.user) && Timestamp::now().seconds() > user.auth_time + RECENT {
        return Err(Problem::step_up("this needs a login within the last 5 minutes"));
    }
    Ok(())
}

/// A backend, by its service key.
pub(super) struct Service(pub(super) ServiceKey);

impl Service {
    /// Refuses a backend without one of these scopes.
    pub(super) fn may(&self, scopes: &[Scope]) -> Result<(), Problem> {
        if self.0.scopes.iter().any(|scope| scopes.contains(scope)) {
            return Ok(());
        }
        let names: Vec<String> = scopes
            .iter()
            .filter_map(|scope| serde_json::to_value(scope).ok()?.as_str().map(str::to_owned))
            .collect();
        let detail = format!("the service key needs the scope {}", names.join(" or "));
        Err(Problem::forbidden(&detail))
    }

    fn find(token: &[u8], keys: &[ServiceKey]) -> Option<Self> {
        let hash = digest::digest(&digest::SHA256, token);
        keys.iter()
            .find(|key| constant_time::verify_slices_are_equal(&key.sha256, hash.as_ref()).is_ok())
            .map(|key| Self(key.clone()))
    }
}

impl FromRequestParts<Arc<Gateway>> for Service {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
    ) -> Result<Self, Problem> {
        let ClientAddress(address) = ClientAddress::from_request_parts(parts, gateway).await?;
        let keys = &gateway.config.login.service_keys;
        match bearer(&parts.headers) {
            Ok(Some(token)) => Self::find(token, keys).ok_or_else(|| {
                let refusal = Problem::unauthenticated("the service key is not known");
                gateway.failures.answer(address, refusal)
            }),
            _ => Err(Problem::unauthenticated("send a service key: Authorization: Bearer …")),
        }
    }
}

/// An administrator: a backend with a scope for it, or a user with the role `admin`.
pub(super) enum Admin {
    Service(Service),
    User(Arc<Identity>),
}

impl Admin {
    /// Refuses who may not do this: a backend without one of the scopes, or, for a change, a
    /// user whose login is 15 minutes old.
    pub(super) fn may(&self, scopes: &[Scope], changes: bool) -> Result<(), Problem> {
        const RECENT: u64 = 15 * 60;
        match self {
            Self::Service(service) => service.may(scopes),
            Self::User(user) if !user.has_role("admin") => {
                Err(Problem::forbidden("this needs the role admin"))
            }
            Self::User(user) if changes && Timestamp::now().seconds() > user.auth_time + RECENT => {
                Err(Problem::step_up("this needs a login within the last 15 minutes"))
            }
            Self::User(_) => Ok(()),
        }
    }
}

impl FromRequestParts<Arc<Gateway>> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
    ) -> Result<Self, Problem> {
        if let Ok(Some(token)) = bearer(&parts.headers)
            && let Some(service) = Service::find(token, &gateway.config.login.service_keys)
        {
            return Ok(Self::Service(service));
        }
        User::from_request_parts(parts, gateway).await.map(|User(user)| Self::User(user))
    }
}
