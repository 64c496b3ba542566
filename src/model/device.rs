//! What a session runs on.

use std::str::FromStr;

/// What a `User-Agent` says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// "Chrome on Windows": 1 to 64 bytes without control characters.
    pub name: String,
    /// What kind of device.
    pub class: DeviceClass,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// A desktop or laptop computer.
    Desktop,
    /// A phone, or anything else that goes in a pocket.
    Mobile,
    /// A tablet.
    Tablet,
    /// A television, or a box that feeds one.
    Tv,
    /// A crawler or another program that says it is one.
    Bot,
    /// Anything else, and what cannot be told.
    Other,
}

impl DeviceClass {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Desktop, Self::Mobile, Self::Tablet, Self::Tv, Self::Bot, Self::Other];

    /// As it stands in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Mobile => "mobile",
            Self::Tablet => "tablet",
            Self::Tv => "tv",
            Self::Bot => "bot",
            Self::Other => "other",
        }
    }

    /// As it is stored.
    pub fn code(self) -> char {
        match self {
            Self::Desktop => 'd',
            Self::Mobile => 'm',
            Self::Tablet => 't',
            Self::Tv => 'v',
            Self::Bot => 'b',
            Self::Other => 'o',
        }
    }

    /// The kind stored as `code`.
    pub fn from_code(code: char) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.code() == code)
    }
}

/// A text that names no kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of device: expected desktop, mobile, tablet, tv, bot or other")]
pub struct NotADeviceClass;

impl FromStr for DeviceClass {
    type Err = NotADeviceClass;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(NotADeviceClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_reads_back() {
        for class in DeviceClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
            assert_eq!(DeviceClass::from_code(class.code()), Some(class));
        }
        assert_eq!("phone".parse::<DeviceClass>(), Err(NotADeviceClass));
        assert_eq!(DeviceClass::from_code('x'), None);
    }
}
