//! Access tokens: JWTs of RFC 9068.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::keys::{KeyError, KeyRing};
use crate::model::{Session, SessionId, Timestamp, UserId};

/// How far clocks may be apart, in seconds.
pub const LEEWAY: u64 = 5;

/// The longest life that `tokens.access_ttl` can be set to, in seconds.
pub const TTL_MAX: u64 = 3600;

/// Members of the payload that a login cannot supply, because they are ours or registered
/// (RFC 7519 section 4.1, RFC 9068 section 2.2).
pub const RESERVED_CLAIMS: [&str; 16] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "gen",
    "auth_time",
    "amr",
    "acr",
    "roles",
    "client_id",
    "scope",
    "cnf",
];

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// Who issued it.
    pub iss: String,
    /// The user.
    pub sub: UserId,
    /// Whom it is for.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// When it expires, in seconds.
    pub exp: u64,
    /// When it was issued, in seconds.
    pub iat: u64,
    /// Names this token: a `UUIDv7`, which carries the millisecond of issue.
    pub jti: Uuid,
    /// The session.
    pub sid: SessionId,
    /// The generation of the refresh token that it was issued beside.
    #[serde(rename = "gen")]
    pub generation: u32,
    /// When the user last proved who they are, in seconds.
    pub auth_time: u64,
    /// How (RFC 8176).
    pub amr: Vec<String>,
    /// What the user may do.
    pub roles: Vec<String>,
    /// What the login supplied.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl AccessClaims {
    /// When it was issued, to the millisecond, by the store's clock.
    pub fn issued(&self) -> Timestamp {
        let millis = self.jti.get_timestamp().map(|time| {
            let (seconds, nanos) = time.to_unix();
            seconds * 1000 + u64::from(nanos / 1_000_000)
        });
        Timestamp(millis.unwrap_or(self.iat * 1000))
    }
}

/// A text or a list of texts (RFC 7519 section 4.1.3).
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// Why a text is not an access token that is good now. A client is told no more than "invalid".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Not three parts of base64url, or not the payload of an access token.
    #[error("malformed")]
    Malformed,
    /// The header is none that a key of ours writes: another algorithm, type, key, or `crit`.
    #[error("unknown header")]
    Header,
    /// The signature does not fit.
    #[error("bad signature")]
    Signature,
    /// Another issuer, or not for us.
    #[error("wrong issuer or audience")]
    Recipient,
    /// Expired, or from the future.
    #[error("expired")]
    Expired,
}

/// Issues and verifies access tokens for one issuer and audience.
#[derive(Debug, Clone)]
pub struct AccessTokens {
    /// `iss`.
    pub issuer: String,
    /// `aud`: all are written, one is enough.
    pub audience: Vec<String>,
    /// How long a token lives, in seconds, if its session does.
    pub ttl: u64,
}

impl AccessTokens {
    /// Signs a token for a session. Returns it with its life in seconds, which ends with the
    /// session's.
    pub fn issue(
        &self,
        session: &Session,
        issued: Timestamp,
        keys: &KeyRing,
    ) -> Result<(String, u64), KeyError> {
        let iat = issued.seconds();
        let exp = (iat + self.ttl).min(session.expires.seconds());
        let nanos = u32::try_from(issued.0 % 1000).unwrap_or(0) * 1_000_000;
        let claims = AccessClaims {
            iss: self.issuer.clone(),
            sub: session.user.clone(),
            aud: self.audience.clone(),
            exp,
            iat,
            jti: Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, iat, nanos)),
            sid: session.id,
            generation: session.generation,
            auth_time: session.auth_time.seconds(),
            amr: vec![session.auth_method.clone()],
            roles: session.roles.clone(),
            extra: session.claims.clone(),
        };
        let key = keys.signing_key();
        let payload =
            serde_json::to_vec(&claims).map_err(|_| KeyError::Crypto("claims do not serialize"))?;
        let mut token = format!("{}.{}", key.header(), URL_SAFE_NO_PAD.encode(payload));
        let signature = key.sign(token.as_bytes())?;
        token.push('.');
        token.push_str(&signature);
        Ok((token, exp.saturating_sub(iat)))
    }

    /// Verifies a token (RFC 7519 section 7.2, RFC 8725).
    ///
    /// The header must be, to the byte, one that a key of ours writes: that settles algorithm,
    /// type, key id and `crit` without interpreting anything an attacker wrote.
    pub fn verify(
        &self,
        token: &str,
        now: Timestamp,
        keys: &KeyRing,
    ) -> Result<AccessClaims, AccessError> {
        let (message, signature) = token.rsplit_once('.').ok_or(AccessError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(AccessError::Malformed)?;
        let key = keys.by_header(header).ok_or(AccessError::Header)?;
        if !key.verifies(signature, message.as_bytes()) {
            return Err(AccessError::Signature);
        }
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| AccessError::Malformed)?;
        let claims: AccessClaims = serde_json::from_slice::<UniqueMembers>(&payload)
            .and_then(|members| serde_json::from_value(Value::Object(members.0)))
            .map_err(|_| AccessError::Malformed)?;
        if claims.iss != self.issuer || !claims.aud.iter().any(|aud| self.audience.contains(aud)) {
            return Err(AccessError::Recipient);
        }
        let now = now.seconds();
        if claims.exp.saturating_add(LEEWAY) <= now
            || claims.iat > now + LEEWAY
            || claims.exp > now + TTL_MAX + LEEWAY
        {
            return Err(AccessError::Expired);
        }
        Ok(claims)
    }
}

/// A JSON object that names no member twice (RFC 8725 section 2.4 tells why).
struct UniqueMembers(Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Map<String, Value>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("duplicate member"));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::DeviceClass;

    const NOW: Timestamp = Timestamp(1_795_521_038_123);

    fn tokens() -> AccessTokens {
        AccessTokens {
            issuer: "https://gate.example".into(),
            audience: vec!["api".into(), "web".into()],
            ttl: 900,
        }
    }

    fn session() -> Session {
        Session {
            id: SessionId([3; 16]),
            user: "ann".parse().unwrap(),
            device_name: "Firefox on Linux".into(),
            device_class: DeviceClass::Desktop,
            ip: String::new(),
            user_agent: String::new(),
            location: None,
            created: NOW,
            last_active: NOW,
            expires: Timestamp(NOW.0 + 86_400_000),
            remembered: false,
            generation: 1,
            auth_time: NOW,
            auth_method: "pwd".into(),
            roles: vec!["admin".into()],
            claims: Map::from_iter([("email".into(), json!("ann@example.com"))]),
        }
    }

    /// A token with a payload of our choice under a genuine key.
    fn signed(keys: &KeyRing, payload: &str) -> String {
        let message =
            format!("{}.{}", keys.signing_key().header(), URL_SAFE_NO_PAD.encode(payload));
        let signature = keys.signing_key().sign(message.as_bytes()).unwrap();
        format!("{message}.{signature}")
    }

    fn payload(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut members = Map::from_iter([
            ("iss".to_owned(), json!("https://gate.example")),
            ("sub".to_owned(), json!("ann")),
            ("aud".to_owned(), json!(["api"])),
            ("exp".to_owned(), json!(NOW.seconds() + 900)),
            ("iat".to_owned(), json!(NOW.seconds())),
            ("jti".to_owned(), json!("01a1d5b1-ab3b-7000-8000-000000000000")),
            ("sid".to_owned(), json!(SessionId([3; 16]))),
            ("gen".to_owned(), json!(1)),
            ("auth_time".to_owned(), json!(NOW.seconds())),
            ("amr".to_owned(), json!(["pwd"])),
            ("roles".to_owned(), json!([])),
        ]);
        change(&mut members);
        Value::Object(members).to_string()
    }

    #[test]
    fn what_is_issued_verifies() {
        let keys = KeyRing::for_tests();
        let (token, life) = tokens().issue(&session(), NOW, &keys).unwrap();
        let claims = tokens().verify(&token, NOW, &keys).unwrap();
        assert_eq!(life, 900);
        assert_eq!(claims.sid, session().id);
        assert_eq!(claims.issued(), NOW, "to the millisecond");
        assert_eq!(claims.extra["email"], "ann@example.com");
    }

    #[test]
    fn a_token_does_not_outlive_its_session() {
        let keys = KeyRing::for_tests();
        let session = Session { expires: Timestamp(NOW.0 + 60_000), ..session() };
        assert_eq!(tokens().issue(&session, NOW, &keys).unwrap().1, 60);
    }

    #[test]
    fn expiry_is_exact_to_the_leeway() {
        let keys = KeyRing::for_tests();
        let token = tokens().issue(&session(), NOW, &keys).unwrap().0;
        let at = |seconds: u64| tokens().verify(&token, Timestamp(seconds * 1000), &keys).err();
        let exp = NOW.seconds() + 900;
        assert_eq!(at(exp + LEEWAY - 1), None);
        assert_eq!(at(exp + LEEWAY), Some(AccessError::Expired));
        assert_eq!(at(NOW.seconds() - LEEWAY), None);
        assert_eq!(at(NOW.seconds() - LEEWAY - 1), Some(AccessError::Expired), "from the future");
    }

    #[test]
    fn the_payload_of_these_tests_is_good() {
        let keys = KeyRing::for_tests();
        assert!(tokens().verify(&signed(&keys, &payload(|_| {})), NOW, &keys).is_ok());
    }

    #[test]
    fn a_genuine_signature_does_not_excuse_a_bad_payload() {
        let keys = KeyRing::for_tests();
        let mut cases = vec![payload(|_| {}).replacen('{', r#"{"sub":"bob","#, 1)];
        for (name, bad) in [
            ("exp", json!("1795521938")),
            ("exp", json!(1_795_521_938.5)),
            ("exp", json!(-1)),
            ("exp", json!([1_795_521_938])),
            ("exp", json!(null)),
            ("exp", json!(u64::MAX / 2)),
            ("exp", json!(NOW.seconds() - 6)),
            ("iat", json!("now")),
            ("iat", json!(NOW.seconds() + 60)),
            ("iss", json!("https://gate.example.evil")),
            ("aud", json!("other")),
            ("aud", json!(["other"])),
            ("aud", json!([])),
            ("sid", json!("short")),
            ("sub", json!("a:b")),
            ("gen", json!(-1)),
        ] {
            cases.push(payload(|members| {
                members.insert(name.into(), bad);
            }));
        }
        for name in ["iss", "sub", "aud", "exp", "iat", "jti", "sid", "gen"] {
            cases.push(payload(|members| {
                members.remove(name);
            }));
        }
        cases.push(payload(|_| {}).replace("1795521938", "1e400"));
        for case in cases {
            assert!(tokens().verify(&signed(&keys, &case), NOW, &keys).is_err(), "{case}");
        }
    }

    #[test]
    fn a_header_that_we_do_not_write_is_refused() {
        let keys = KeyRing::for_tests();
        let token = tokens().issue(&session(), NOW, &keys).unwrap().0;
        let rest = token.split_once('.').unwrap().1;
        let kid = &keys.signing_key().kid;
        for header in [
            json!({"typ": "at+jwt", "alg": "none", "kid": kid}),
            json!({"typ": "at+jwt", "alg": "HS256", "kid": kid}),
            json!({"typ": "JWT", "alg": "EdDSA", "kid": kid}),
            json!({"typ": "at+jwt", "alg": "EdDSA", "kid": "../../dev/null"}),
            json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid, "crit": ["x"]}),
            json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid, "jku": "http://127.0.0.1/"}),
            json!({"typ": "at+jwt", "alg": "EdDSA"}),
        ] {
            let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()));
            assert_eq!(tokens().verify(&forged, NOW, &keys), Err(AccessError::Header), "{header}");
        }
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let keys = KeyRing::for_tests();
        let token = tokens().issue(&session(), NOW, &keys).unwrap().0;
        for at in 0..token.len() {
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let forged = String::from_utf8(bytes).unwrap();
                assert!(tokens().verify(&forged, NOW, &keys).is_err(), "byte {at} bit {bit}");
            }
        }
        for forged in
            [format!("{token}="), format!("{token}."), format!("{token}.AAAA"), token[1..].into()]
        {
            assert!(tokens().verify(&forged, NOW, &keys).is_err(), "{forged}");
        }
    }
}
