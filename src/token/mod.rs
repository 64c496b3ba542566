//! Tokens: what proves a session. Pure, except for reading key files.

pub mod access;
pub mod assertion;
pub mod handle;
pub mod keys;
pub mod sealed;

pub use access::{AccessClaims, AccessError};
pub use handle::{Handle, HandleError};
pub use keys::{KeyError, KeyRing};
