//! The shapes that leave the house.

use serde::Serialize;

use crate::model::{Session, SessionId, Timestamp};
use crate::sessions::Tokens;

/// A session, as its user sees it.
#[derive(Debug, Serialize)]
pub(super) struct SessionView {
    id: SessionId,
    device_name: String,
    device_class: &'static str,
    ip_address: Option<String>,
    user_agent: Option<String>,
    location: Option<String>,
    created_at: Timestamp,
    last_active: Timestamp,
    expires_at: Timestamp,
    is_current: bool,
    is_remembered: bool,
    auth_method: String,
}

impl SessionView {
    pub(super) fn new(session: &Session, current: Option<SessionId>) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            id: session.id,
            device_name: session.device_name.clone(),
            device_class: session.device_class.as_str(),
            ip_address: some(&session.ip),
            user_agent: some(&session.user_agent),
            location: session.location.as_ref().map(ToString::to_string),
            created_at: session.created,
            last_active: session.last_active,
            expires_at: session.expires,
            is_current: current == Some(session.id),
            is_remembered: session.remembered,
            auth_method: session.auth_method.clone(),
        }
    }
}

/// A pair of tokens (RFC 6749 section 5.1).
#[derive(Serialize)]
pub(super) struct TokensView {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    refresh_token: String,
    refresh_expires_in: u64,
    session: SessionView,
    /// What the device is to send with its next login, when it is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
}

impl TokensView {
    /// With what a remembered device keeps.
    pub(super) fn with_device(self, device: Option<String>) -> Self {
        Self { device, ..self }
    }
}

impl From<Tokens> for TokensView {
    fn from(tokens: Tokens) -> Self {
        Self {
            session: SessionView::new(&tokens.session, Some(tokens.session.id)),
            access_token: tokens.access,
            token_type: "Bearer",
            expires_in: tokens.expires_in,
            refresh_token: tokens.refresh,
            refresh_expires_in: tokens.refresh_expires_in,
            device: None,
        }
    }
}
