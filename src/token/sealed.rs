//! What the gateway writes for itself and others keep: readable, and good only as it was written.
//!
//! prefix + base64url(key id | MAC | content). Each purpose has a key of its own.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys::{HandleKey, KeyRing};

const HEAD: usize = 4 + 32;

/// What a text is for. One is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// A login that waits until a session is chosen to end.
    Ticket,
    /// The name of a device.
    Device,
}

impl Sealed {
    fn prefix(self) -> &'static str {
        match self {
            Self::Ticket => "ght_",
            Self::Device => "ghd_",
        }
    }

    fn key(self, key: &HandleKey) -> &hmac::Key {
        match self {
            Self::Ticket => &key.ticket,
            Self::Device => &key.device,
        }
    }

    /// Writes a text. `None` when the content has no form as JSON.
    pub fn write<T: Serialize>(self, content: &T, keys: &KeyRing) -> Option<String> {
        let key = keys.handle_key();
        let content = serde_json::to_vec(content).ok()?;
        let mac = hmac::sign(self.key(key), &content);
        let bytes = [&key.id, mac.as_ref(), &content].concat();
        Some(format!("{}{}", self.prefix(), URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads a text, after its MAC was compared in constant time.
    pub fn read<T: DeserializeOwned>(self, text: &str, keys: &KeyRing) -> Option<T> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(self.prefix())?).ok()?;
        let (head, content) = bytes.split_at_checked(HEAD)?;
        let key = keys.handle_key_by_id(&head[..4])?;
        let expected = hmac::sign(self.key(key), content);
        constant_time::verify_slices_are_equal(expected.as_ref(), &head[4..]).ok()?;
        serde_json::from_slice(content).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_and_nothing_else_does() {
        let keys = KeyRing::for_tests();
        let text = Sealed::Ticket.write(&("ann", 17), &keys).unwrap();
        let read = |text: &str| Sealed::Ticket.read::<(String, u32)>(text, &keys);
        assert_eq!(read(&text), Some(("ann".to_owned(), 17)));
        let bytes = URL_SAFE_NO_PAD.decode(&text[4..]).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&format!("ght_{}", URL_SAFE_NO_PAD.encode(flipped))), None, "{bit}");
        }
        for other in ["", "ght_", "ght_AAAA", &text[4..], &format!("{text}A")] {
            assert_eq!(read(other), None, "{other:?}");
        }
        assert_eq!(Sealed::Ticket.read::<(String, u32)>(&text, &KeyRing::for_tests()), None);
    }
}
