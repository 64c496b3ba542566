//! A hash for what is as good as random already.

use std::hash::{BuildHasherDefault, Hasher};

/// Looks at the last 16 bytes only: of a token the end of its signature, of a session id all. Nobody
/// can choose them: only genuine tokens and ids are ever kept.
pub(super) type RandomHash = BuildHasherDefault<RandomHasher>;

#[derive(Default)]
pub(super) struct RandomHasher(u64);

impl Hasher for RandomHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(tail) = bytes.last_chunk::<16>() {
            let wide =
                u128::from_le_bytes(*tail).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            // The upper half has seen the bits of both.
            self.0 ^= (wide >> 64) as u64;
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
