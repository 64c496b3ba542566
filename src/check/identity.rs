//! Who a verified credential speaks for, ready to be handed to a proxy.

use std::sync::atomic::AtomicU64;

use axum::http::HeaderValue;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::model::{Session, SessionId, Timestamp, UserId};
use crate::token::AccessClaims;

/// What a check answers, made once for a token.
#[derive(Debug)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// The generation of the refresh token that the credential came with.
    pub generation: u32,
    /// The user's bucket.
    pub bucket: u8,
    /// When the credential was issued, by the store's clock.
    pub issued: Timestamp,
    /// When it expires, in seconds.
    pub expires: u64,
    /// When the user last proved who they are, in seconds.
    pub auth_time: u64,
    /// Which key of the ring an access token is signed with.
    pub(super) key: usize,
    /// `Remote-User`, `-Groups`, `-Email`, `-Name`, `-Session`.
    pub headers: [HeaderValue; 5],
    /// When activity was last taken note of, in seconds.
    pub(super) noted: AtomicU64,
}

impl Identity {
    /// `None` when a claim cannot stand in a header, which no login of ours lets happen.
    pub fn new(claims: &AccessClaims, key: usize, bucket: u8) -> Option<Self> {
        let headers = headers(&claims.sub, &claims.roles, &claims.extra, claims.sid)?;
        Some(Self {
            user: claims.sub.clone(),
            session: claims.sid,
            generation: claims.generation,
            bucket,
            issued: claims.issued(),
            expires: claims.exp,
            auth_time: claims.auth_time,
            key,
            headers,
            noted: AtomicU64::new(0),
        })
    }

    /// What a session says at a moment of the store, to be believed for so many seconds.
    pub fn of_session(session: &Session, bucket: u8, loaded: Timestamp, for_: u64) -> Option<Self> {
        Some(Self {
            user: session.user.clone(),
            session: session.id,
            generation: session.generation,
            bucket,
            issued: loaded,
            expires: session.expires.seconds().min(loaded.seconds() + for_),
            auth_time: session.auth_time.seconds(),
            key: usize::MAX,
            headers: headers(&session.user, &session.roles, &session.claims, session.id)?,
            noted: AtomicU64::new(0),
        })
    }

    /// What the user may do.
    pub fn roles(&self) -> Vec<String> {
        let roles = String::from_utf8_lossy(self.headers[1].as_bytes());
        roles.split(',').filter(|role| !role.is_empty()).map(str::to_owned).collect()
    }

    /// Whether the user has a role.
    pub fn has_role(&self, role: &str) -> bool {
        // No role has a comma in its name.
        self.headers[1].as_bytes().split(|byte| *byte == b',').any(|has| has == role.as_bytes())
    }
}

/// `None` for what cannot stand in a header.
fn headers(
    user: &UserId,
    roles: &[String],
    claims: &Map<String, Value>,
    session: SessionId,
) -> Option<[HeaderValue; 5]> {
    let claim = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let session = session.to_string();
    let values = [user.as_str(), &roles.join(","), claim("email"), claim("name"), &session];
    // One piece of memory for all of them.
    let text = Bytes::from(values.concat());
    let mut headers = [const { HeaderValue::from_static("") }; 5];
    let mut end = 0;
    for (header, value) in headers.iter_mut().zip(values) {
        let start = end;
        end += value.len();
        *header = HeaderValue::from_maybe_shared(text.slice(start..end)).ok()?;
    }
    Some(headers)
}
