//! Assertions for applications, signed once and handed out for half of their life.

use std::sync::Arc;

use axum::http::HeaderValue;
use quick_cache::sync::Cache;

use super::Identity;
use crate::model::{SessionId, Timestamp};
use crate::token::assertion::{Assertion, TTL};
use crate::token::{KeyError, KeyRing};

/// Of so many credentials and origins the last assertion is kept.
const KEPT: usize = 10_000;

/// What it was signed for: session, generation and time of the credential, and the origin.
type Key = (SessionId, u32, u64, String);

/// Says to applications whom requests are from.
pub struct Assertions {
    issuer: String,
    keys: Arc<KeyRing>,
    signed: Cache<Key, (u64, HeaderValue)>,
}

impl Assertions {
    pub(super) fn new(issuer: String, keys: Arc<KeyRing>) -> Self {
        Self { issuer, keys, signed: Cache::new(KEPT) }
    }

    /// An assertion for an origin (RFC 6454 section 6.2) that is good for at least half a minute, if
    /// the credential is.
    pub fn assert(
        &self,
        identity: &Identity,
        origin: String,
        now: Timestamp,
    ) -> Result<HeaderValue, KeyError> {
        let now = now.seconds();
        let key = (identity.session, identity.generation, identity.issued.0, origin);
        if let Some((signed, assertion)) = self.signed.get(&key)
            && (signed..signed + TTL / 2).contains(&now)
        {
            return Ok(assertion);
        }
        // Made of UTF-8.
        let text =
            identity.headers.each_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let [sub, roles, email, name, sid] = text.each_ref().map(AsRef::as_ref);
        let assertion = Assertion {
            iss: &self.issuer,
            aud: &key.3,
            sub,
            sid,
            roles: roles.split(',').filter(|role| !role.is_empty()).collect(),
            email,
            name,
            auth_time: identity.auth_time,
            iat: now,
            exp: (now + TTL).min(identity.expires),
        };
        let token = assertion.sign(&self.keys)?;
        let value =
            HeaderValue::try_from(token).map_err(|_| KeyError::Crypto("a token is a header"))?;
        self.signed.insert(key, (now, value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;
    use crate::token::access::{AccessTokens, LEEWAY};

    const NOW: u64 = 1_795_521_038;

    fn identity(generation: u32) -> Identity {
        let claims = json!({
            "iss": "https://gate.example", "sub": "ann", "aud": ["api"], "exp": NOW + 900,
            "iat": NOW, "jti": "01a1d5b1-ab3b-7000-8000-000000000000",
            "sid": SessionId([3; 16]), "gen": generation, "auth_time": NOW - 5, "amr": ["pwd"],
            "roles": ["staff", "ops"], "email": "ann@example.com",
        });
        Identity::new(&serde_json::from_value(claims).unwrap(), 0, 0).unwrap()
    }

    fn claims(assertion: &HeaderValue) -> Value {
        let payload = assertion.to_str().unwrap().split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    #[test]
    fn it_is_signed_once_in_half_its_life_for_each_origin() {
        let assertions =
            Assertions::new("https://gate.example".into(), Arc::new(KeyRing::for_tests()));
        let at = |generation: u32, origin: &str, seconds: u64| {
            let now = Timestamp(seconds * 1000);
            assertions.assert(&identity(generation), origin.to_owned(), now).unwrap()
        };
        let first = at(1, "https://app.example", NOW);
        let sid = SessionId([3; 16]).to_string();
        assert_eq!(
            claims(&first),
            json!({ "iss": "https://gate.example", "aud": "https://app.example", "sub": "ann",
                    "sid": sid, "roles": ["staff", "ops"], "email": "ann@example.com", "name": "",
                    "auth_time": NOW - 5, "iat": NOW, "exp": NOW + 60 })
        );
        assert_eq!(at(1, "https://app.example", NOW + 29), first);
        assert_ne!(at(1, "https://other.example", NOW), first);
        assert_ne!(at(1, "https://app.example", NOW + 30), first);
        assert_eq!(claims(&at(2, "https://app.example", NOW + 880))["exp"], NOW + 900);
    }

    #[test]
    fn it_is_no_access_token() {
        let keys = Arc::new(KeyRing::for_tests());
        let assertions = Assertions::new("https://gate.example".into(), Arc::clone(&keys));
        let now = Timestamp(NOW * 1000);
        let assertion = assertions.assert(&identity(1), "api".to_owned(), now).unwrap();
        let tokens = AccessTokens {
            issuer: "https://gate.example".into(),
            audience: vec!["api".into()],
            ttl: LEEWAY,
        };
        assert!(tokens.verify(assertion.to_str().unwrap(), now, &keys).is_err());
    }
}
