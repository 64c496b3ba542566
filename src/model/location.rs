//! Where an address is.

use std::fmt;

/// As far as a location database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// In English: at most 64 bytes without control characters.
    pub city: Option<String>,
    /// ISO 3166-1 alpha-2, in capitals.
    pub country: String,
}

/// "London, GB", or "GB" when the city is unknown.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(city) = &self.city {
            write!(f, "{city}, ")?;
        }
        f.write_str(&self.country)
    }
}
