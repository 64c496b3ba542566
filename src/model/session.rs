//! A session and why it ended.

use serde_json::{Map, Value};

use super::{DeviceClass, Location, SessionId, Timestamp, UserId};

/// One login on one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Names it for its whole life.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// "Firefox on Linux", or what its owner calls it.
    pub device_name: String,
    /// What kind of device.
    pub device_class: DeviceClass,
    /// Where it was last active from, as text; empty when unknown.
    pub ip: String,
    /// The `User-Agent` it was created with; empty when unknown.
    pub user_agent: String,
    /// Where that address is, when a database says so.
    pub location: Option<Location>,
    /// When the user logged in.
    pub created: Timestamp,
    /// When the user last did something.
    pub last_active: Timestamp,
    /// When it ends if nothing happens until then.
    pub expires: Timestamp,
    /// The user chose "remember this device".
    pub remembered: bool,
    /// The generation of its refresh token.
    pub generation: u32,
    /// When the user last proved who they are.
    pub auth_time: Timestamp,
    /// How: an RFC 8176 value such as `pwd`.
    pub auth_method: String,
    /// What the user may do.
    pub roles: Vec<String>,
    /// What the login added to the access token.
    pub claims: Map<String, Value>,
}

/// Why a session ended. A closed set: it labels metrics and names refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// Its user logged out.
    Logout,
    /// Its user ended it from another session.
    Revoked,
    /// An administrator or a backend ended it.
    Admin,
}

impl EndCause {
    /// As it stands in counters, events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Revoked => "revoked",
            Self::Admin => "admin",
        }
    }
}
