//! Assertions: JWTs (RFC 7519) that tell one application whom a request is from, so that it need not
//! believe whatever reaches it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::keys::{KeyError, KeyRing};

/// How long an assertion is good, in seconds.
pub const TTL: u64 = 60;

/// The header `typ`: nothing that is sealed for another purpose is one, and one is good for no other.
pub const TYPE: &str = "gatehouse-assertion+jwt";

/// What an assertion says.
#[derive(Debug, Serialize)]
pub struct Assertion<'a> {
    /// Who says it.
    pub iss: &'a str,
    /// The origin that was asked, as browsers write it.
    pub aud: &'a str,
    /// The user.
    pub sub: &'a str,
    /// The session.
    pub sid: &'a str,
    /// What the user may do.
    pub roles: Vec<&'a str>,
    /// Empty when unknown.
    pub email: &'a str,
    /// Empty when unknown.
    pub name: &'a str,
    /// When the user last proved who they are, in seconds.
    pub auth_time: u64,
    /// When it was said, in seconds.
    pub iat: u64,
    /// Until when it is good, in seconds.
    pub exp: u64,
}

impl Assertion<'_> {
    /// Signs it with the key that signs access tokens.
    pub fn sign(&self, keys: &KeyRing) -> Result<String, KeyError> {
        let key = keys.signing_key();
        let header =
            format!(r#"{{"typ":"{TYPE}","alg":"{:?}","kid":"{}"}}"#, key.algorithm, key.kid);
        let payload =
            serde_json::to_vec(self).map_err(|_| KeyError::Crypto("claims do not serialize"))?;
        let mut token =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = key.sign(token.as_bytes())?;
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }
}
