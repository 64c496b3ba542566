//! `/api/v1/sessions`, `/api/v1/logout`: tokens begin, are renewed, and end.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::App;
use super::body::Body;
use super::caller::{ClientAddress, Service, User};
use super::problem::{FieldError, Problem};
use super::view::TokensView;
use crate::config::Scope;
use crate::model::{EndCause, Revocation};
use crate::sessions::{NewSession, SessionError, Voucher};
use crate::store::sessions::{Origin, Refused};
use crate::token::access::RESERVED_CLAIMS;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    user_id: String,
    ip: Option<String>,
    user_agent: Option<String>,
    #[serde(default)]
    remember: bool,
    device_name: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    claims: Map<String, Value>,
    auth_method: Option<String>,
    request_id: Option<String>,
}

/// A name for people: any script, no control or direction characters.
pub(super) fn display_name(text: &str) -> Result<(), &'static str> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.len() {
        _ if text.trim().is_empty() => Err("must not be empty"),
        65.. => Err("must be at most 64 bytes long"),
        _ if text.chars().any(hidden) => Err("must not hold control or direction characters"),
        _ => Ok(()),
    }
}

fn is_word(text: &str, max: usize, extra: &str) -> bool {
    (1..=max).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

impl Create {
    /// Names every field that is wrong.
    fn checked(self, service: String) -> Result<NewSession, Problem> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, message: String| {
            errors.push(FieldError { field: field.to_owned(), message });
        };
        let user = self.user_id.parse().map_err(|e| wrong("user_id", format!("{e}"))).ok();
        let ip = self.ip.map(|text| {
            text.parse::<IpAddr>().map_err(|_| wrong("ip", "is not an IP address".into())).ok()
        });
        let user_agent = self.user_agent.unwrap_or_default();
        if user_agent.len() > 512 {
            wrong("user_agent", "must be at most 512 bytes long".into());
        } else if user_agent.chars().any(char::is_control) {
            wrong("user_agent", "must not hold control characters".into());
        }
        if let Some(Err(message)) = self.device_name.as_deref().map(display_name) {
            wrong("device_name", message.into());
        }
        if self.roles.len() > 32 {
            wrong("roles", "may hold at most 32 roles".into());
        }
        for (i, role) in self.roles.iter().enumerate() {
            if !is_word(role, 64, "-_.:/") {
                let message = "must be 1 to 64 letters, digits or - _ . : /";
                wrong(&format!("roles[{i}]"), message.into());
            }
        }
        let auth_method = self.auth_method.unwrap_or_else(|| "pwd".to_owned());
        if !is_word(&auth_method, 32, "-_") {
            wrong("auth_method", "must be 1 to 32 letters, digits, - or _ (RFC 8176)".into());
        }
        if let Some(id) = &self.request_id
            && (id.is_empty() || id.len() > 128 || id.chars().any(char::is_control))
        {
            wrong("request_id", "must be 1 to 128 bytes without control characters".into());
        }
        if serde_json::to_string(&self.claims).map_or(usize::MAX, |json| json.len()) > 1024 {
            wrong("claims", "must be at most 1024 bytes as JSON".into());
        }
        for (name, value) in &self.claims {
            let field = format!("claims.{}", name.escape_debug());
            if RESERVED_CLAIMS.contains(&name.as_str()) {
                wrong(&field, "is set by the gateway".into());
            } else if name.is_empty() || name.chars().any(char::is_control) {
                wrong(&field, "is not a name".into());
            } else if ["email", "name"].contains(&name.as_str())
                && value.as_str().is_none_or(|text| text.chars().any(char::is_control))
            {
                wrong(&field, "must be a text without control characters".into());
            }
        }
        match user {
            Some(user) if errors.is_empty() => Ok(NewSession {
                user,
                ip: ip.flatten(),
                user_agent,
                device_name: self.device_name,
                remember: self.remember,
                roles: self.roles,
                claims: self.claims,
                auth_method,
                request: self.request_id.map(|id| (service, id)),
                voucher: Voucher::Service,
                origin: Origin::default(),
            }),
            _ => Err(Problem::invalid_fields(errors)),
        }
    }
}

/// A backend says that a user has authenticated.
pub(super) async fn create(
    State(gateway): App,
    service: Service,
    Body(request): Body<Create>,
) -> Result<Response, Problem> {
    service.may(&[Scope::SessionsCreate])?;
    let new = request.checked(service.0.name)?;
    let user = new.user.clone();
    let barred = || Problem::forbidden("the password file has disabled this user");
    if gateway.logins.bars(&user) {
        return Err(barred());
    }
    let (begun, evicted) = gateway.sessions.begin(new).await?;
    gateway.evicted(&user, &evicted);
    // They may have been disabled meanwhile, and what they had then was ended before this began.
    if gateway.logins.bars(&user) {
        gateway.sessions.revoke(&user, begun.session.id, EndCause::Admin).await?;
        gateway.ended(&user, Revocation::Session(begun.session.id));
        return Err(barred());
    }
    let tokens = gateway.sessions.tokens(begun)?;
    Ok((StatusCode::CREATED, Json(TokensView::from(tokens))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    refresh_token: String,
}

/// A client exchanges its refresh token.
pub(super) async fn refresh(
    State(gateway): App,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    Body(request): Body<Refresh>,
) -> Result<Json<TokensView>, Problem> {
    if request.refresh_token.is_empty() {
        return Err(Problem::invalid("refresh_token", "must not be empty"));
    }
    let user_agent =
        headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match gateway.sessions.refresh(&request.refresh_token, user_agent).await {
        Ok(tokens) if gateway.knows_the_end_of(&tokens.session) => {
            Err(SessionError::Refused(Refused::Revoked).into())
        }
        Ok(tokens) => Ok(Json(tokens.into())),
        Err(error @ SessionError::Refused(_)) => {
            Err(gateway.failures.answer(address, error.into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// 204, or 202 for what is done but not yet as safe as the settings ask for.
pub(super) fn ended(confirmed: bool) -> StatusCode {
    if confirmed { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED }
}

/// The caller's session ends.
pub(super) async fn logout(
    State(gateway): App,
    User(user): User,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    gateway.sessions.revoke(&user.user, user.session, EndCause::Logout).await?;
    let confirmed = gateway.confirmed(&user.user, Revocation::Session(user.session)).await;
    let mut response = ended(confirmed).into_response();
    if headers.contains_key(header::COOKIE) {
        response.headers_mut().extend(gateway.cookies.end());
    }
    Ok(response)
}

/// The public keys (RFC 7517), for backends that verify tokens themselves.
pub(super) async fn jwks(State(gateway): App) -> Response {
    let cache = (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    ([cache], Json(gateway.check.keys.jwks())).into_response()
}
