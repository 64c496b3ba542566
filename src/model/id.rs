//! Ids of sessions and users.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Names one session for its whole life: 128 bits, written as 22 characters of base64url.
///
/// It is not a secret. What proves possession is the MAC of a handle or the signature of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// The id as a number, which is what the revocation set is keyed by.
    pub fn as_u128(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a session id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a session id: expected 22 characters of base64url")]
pub struct NotASessionId;

impl FromStr for SessionId {
    type Err = NotASessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 16];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut id) {
            Ok(16) => Ok(Self(id)),
            _ => Err(NotASessionId),
        }
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The longest user id, in bytes.
pub const USER_ID_MAX: usize = 128;

/// Names a user, as the application knows them.
///
/// 1 to 128 visible ASCII characters without `{ } : * " \ , ; < >`, so that it can stand in a
/// key and in an HTTP header as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a text is not a user id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAUserId {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More than [`USER_ID_MAX`] bytes.
    #[error("must be at most {USER_ID_MAX} bytes long")]
    TooLong,
    /// A character that cannot stand in a key or a header.
    #[error(
        "may hold letters, digits and visible ASCII except {{ }} : * \" \\ , ; < > (found {0:?})"
    )]
    Character(char),
}

impl FromStr for UserId {
    type Err = NotAUserId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(NotAUserId::Empty);
        }
        if text.len() > USER_ID_MAX {
            return Err(NotAUserId::TooLong);
        }
        let refused = |c: &char| !c.is_ascii_graphic() || r#"{}:*"\,;<>"#.contains(*c);
        match text.chars().find(refused) {
            Some(c) => Err(NotAUserId::Character(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_survives_the_way_through_text() {
        let id = SessionId([0xfe; 16]);
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn session_id_has_one_spelling() {
        let text = SessionId([0; 16]).to_string();
        for wrong in ["", "AAAA", &text[1..], &format!("{text}="), &format!("{text}A")] {
            assert_eq!(wrong.parse::<SessionId>(), Err(NotASessionId), "{wrong:?}");
        }
        // The last character carries four bits that must be zero.
        assert_eq!(format!("{}B", &text[..21]).parse::<SessionId>(), Err(NotASessionId));
    }

    #[test]
    fn user_ids_of_common_shapes_are_taken() {
        for id in
            ["ann", "ann@example.com", "auth0|5f7c8ec7", "a+b=c/d~", "0b1c-11ee", "ann.o'neil"]
        {
            assert_eq!(id.parse::<UserId>().map(|id| id.to_string()), Ok(id.to_owned()));
        }
    }

    #[test]
    fn user_ids_that_could_hurt_are_refused() {
        for id in ["a{b", "a}b", "a:b", "a*", "a\0b", "a b", "a\r\nb", "ä", "a,b", "\u{202e}a"] {
            assert!(matches!(id.parse::<UserId>(), Err(NotAUserId::Character(_))), "{id:?}");
        }
        assert_eq!("".parse::<UserId>(), Err(NotAUserId::Empty));
        assert_eq!("a".repeat(129).parse::<UserId>(), Err(NotAUserId::TooLong));
    }
}
