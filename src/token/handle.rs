//! Opaque handles: the refresh token and the session cookie.
//!
//! `ghr_` or `ghs_` + base64url(version | key id | bucket | session id | generation | seed, sealed | MAC).
//!
//! The seed is 128 random bits that stand in the session's record. It travels sealed under a key
//! of the gateway, so that the store can compare it without ever holding a token, and so that
//! neither a dump of the store nor the key alone is enough to make one. A forgery costs one HMAC
//! and no command; a genuine token costs one script.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys::{HandleKey, KeyRing, Purpose};
use crate::model::SessionId;

const VERSION: u8 = 1;
const HEAD: usize = 1 + 4 + 1 + 16 + 4;
const SEED: usize = 16;
const MAC: usize = 32;
const LENGTH: usize = HEAD + SEED + MAC;

/// The random secret of a session, known to its record and sealed in its handles.
pub type Seed = [u8; SEED];

/// What a handle is for. One is never taken for the other: each has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleKind {
    /// The refresh token.
    Refresh,
    /// The session cookie.
    Cookie,
}

impl HandleKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Refresh => "ghr_",
            Self::Cookie => "ghs_",
        }
    }

    fn keys(self, key: &HandleKey) -> &Purpose {
        match self {
            Self::Refresh => &key.refresh,
            Self::Cookie => &key.cookie,
        }
    }
}

/// What a handle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// The bucket that its user lives in.
    pub bucket: u8,
    /// Its session.
    pub session: SessionId,
    /// How many times the session was refreshed before, plus one.
    pub generation: u32,
    /// The session's seed.
    pub seed: Seed,
}

/// Why a text is not a handle. Its reader learns no more than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Not of the form.
    #[error("not a handle")]
    Malformed,
    /// Of the form, but not made with a key that this gateway has.
    #[error("not a handle of this gateway")]
    Forged,
}

impl Handle {
    /// Writes the handle. The same one under the same key is the same text, so a reply that was
    /// lost can be given again.
    pub fn encode(&self, kind: HandleKind, keys: &KeyRing) -> String {
        let (key, purpose) = (keys.handle_key(), kind.keys(keys.handle_key()));
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&key.id);
        bytes[5] = self.bucket;
        bytes[6..22].copy_from_slice(&self.session.0);
        bytes[22..HEAD].copy_from_slice(&self.generation.to_be_bytes());
        let sealed = seal(purpose, &bytes[..HEAD], self.seed);
        bytes[HEAD..HEAD + SEED].copy_from_slice(&sealed);
        let mac = hmac::sign(&purpose.mac, &bytes[..HEAD + SEED]);
        bytes[HEAD + SEED..].copy_from_slice(mac.as_ref());
        format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a handle, after its MAC was compared in constant time.
    pub fn decode(kind: HandleKind, token: &str, keys: &KeyRing) -> Result<Self, HandleError> {
        let text = token.strip_prefix(kind.prefix()).ok_or(HandleError::Malformed)?;
        let mut bytes = [0; LENGTH];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(LENGTH) if bytes[0] == VERSION => {}
            _ => return Err(HandleError::Malformed),
        }
        let (signed, mac) = bytes.split_at(HEAD + SEED);
        let (head, sealed) = signed.split_at(HEAD);
        let key = keys.handle_key_by_id(&head[1..5]).ok_or(HandleError::Forged)?;
        let purpose = kind.keys(key);
        let expected = hmac::sign(&purpose.mac, signed);
        constant_time::verify_slices_are_equal(expected.as_ref(), mac)
            .map_err(|_| HandleError::Forged)?;
        Ok(Self {
            bucket: head[5],
            session: SessionId(array(&head[6..22])),
            generation: u32::from_be_bytes(array(&head[22..])),
            seed: seal(purpose, head, array(sealed)),
        })
    }
}

/// Seals a seed, or opens a sealed one: the key stream is a PRF of the head, which names the
/// session and the generation and so never repeats with another seed.
fn seal(purpose: &Purpose, head: &[u8], seed: Seed) -> Seed {
    let stream = hmac::sign(&purpose.seal, head);
    let mut out = seed;
    for (byte, mask) in out.iter_mut().zip(stream.as_ref()) {
        *byte ^= mask;
    }
    out
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::HandleKind::{Cookie, Refresh};
    use super::*;

    fn handle() -> Handle {
        Handle { bucket: 7, session: SessionId([1; 16]), generation: 3, seed: [9; 16] }
    }

    #[test]
    fn reads_back_and_is_the_same_every_time() {
        let keys = KeyRing::for_tests();
        let token = handle().encode(Refresh, &keys);
        assert_eq!(token, handle().encode(Refresh, &keys));
        assert_eq!(Handle::decode(Refresh, &token, &keys), Ok(handle()));
    }

    #[test]
    fn one_kind_is_never_the_other() {
        let keys = KeyRing::for_tests();
        let (token, cookie) = (handle().encode(Refresh, &keys), handle().encode(Cookie, &keys));
        assert_eq!(Handle::decode(Cookie, &cookie, &keys), Ok(handle()));
        assert_eq!(Handle::decode(Cookie, &token, &keys), Err(HandleError::Malformed));
        let renamed = format!("ghs_{}", &token[4..]);
        assert_eq!(Handle::decode(Cookie, &renamed, &keys), Err(HandleError::Forged));
        let renamed = format!("ghr_{}", &cookie[4..]);
        assert_eq!(Handle::decode(Refresh, &renamed, &keys), Err(HandleError::Forged));
    }

    #[test]
    fn does_not_show_the_seed() {
        let token = handle().encode(Refresh, &KeyRing::for_tests());
        let bytes = URL_SAFE_NO_PAD.decode(&token[4..]).unwrap();
        assert!(!bytes.windows(16).any(|window| window == [9; 16]));
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let keys = KeyRing::for_tests();
        let token = handle().encode(Refresh, &keys);
        let bytes = URL_SAFE_NO_PAD.decode(&token[4..]).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let forged = format!("ghr_{}", URL_SAFE_NO_PAD.encode(flipped));
            assert!(Handle::decode(Refresh, &forged, &keys).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_gateways_token_is_forged() {
        let token = handle().encode(Refresh, &KeyRing::for_tests());
        assert_eq!(
            Handle::decode(Refresh, &token, &KeyRing::for_tests()),
            Err(HandleError::Forged)
        );
    }

    #[test]
    fn other_texts_are_malformed() {
        let keys = KeyRing::for_tests();
        let token = handle().encode(Refresh, &keys);
        for text in [
            "",
            "ghr_",
            "ghs_AAAA",
            &token[4..],
            &format!("{token}="),
            &format!("{token}A"),
            "ghr_é",
        ] {
            assert_eq!(
                Handle::decode(Refresh, text, &keys),
                Err(HandleError::Malformed),
                "{text:?}"
            );
        }
    }
}
