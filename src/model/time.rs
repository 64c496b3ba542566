//! Points in time.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};

/// Milliseconds since the Unix epoch. What concerns a session comes from the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This process's wall clock. Lifetimes are the store's to decide; see [`Timestamp`].
    #[expect(clippy::disallowed_methods, reason = "this is what the others are to use instead")]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        #[cfg(feature = "mutations")]
        let millis = crate::mutation::clock(millis);
        Self(millis)
    }

    /// Whole seconds since the Unix epoch: an RFC 7519 `NumericDate`.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// In UTC to the minute, for people.
    pub fn minutes(self) -> String {
        let time = i64::try_from(self.0).ok().and_then(DateTime::from_timestamp_millis);
        time.unwrap_or_default().format("%Y-%m-%d %H:%M").to_string()
    }

    /// Milliseconds from `earlier` until this; zero when it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// RFC 3339 in UTC with milliseconds.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        i64::try_from(self.0)
            .ok()
            .and_then(DateTime::from_timestamp_millis)
            .unwrap_or_default()
            .to_rfc3339_opts(SecondsFormat::Millis, true)
            .serialize(serializer)
    }
}
