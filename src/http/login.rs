//! `/api/v1/login`: people log in.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::body::Body;
use super::caller::ClientAddress;
use super::cookie::cookie;
use super::problem::{FieldError, Problem};
use super::sessions::display_name;
use super::view::{SessionView, TokensView};
use crate::login::Attempt;
use crate::login::password::PASSWORD_MAX;
use crate::model::id::USER_ID_MAX;
use crate::model::{EndCause, Timestamp};
use crate::sessions::Begun;
use crate::state::Gateway;

/// What the client is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// An access token and a refresh token.
    #[default]
    Token,
    /// The session cookie.
    Cookie,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    username: String,
    password: SecretString,
    #[serde(default)]
    remember: bool,
    device_name: Option<String>,
    #[serde(default)]
    mode: Mode,
}

/// The `User-Agent`, without what a record could not hold.
pub(super) fn user_agent(headers: &HeaderMap) -> String {
    const MAX: usize = 512;
    let text = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let text = text.unwrap_or_default();
    text[..text.floor_char_boundary(MAX)].chars().filter(|c| !c.is_control()).collect()
}

impl Login {
    /// Names every field that is wrong.
    fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        let mut length = |field: &str, length: usize, most: usize| {
            if !(1..=most).contains(&length) {
                let message = format!("must be 1 to {most} bytes long");
                errors.push(FieldError { field: field.to_owned(), message });
            }
        };
        length("username", self.username.len(), USER_ID_MAX);
        length("password", self.password.expose_secret().len(), PASSWORD_MAX);
        if let Some(Err(message)) = self.device_name.as_deref().map(display_name) {
            let field = "device_name".to_owned();
            errors.push(FieldError { field, message: message.to_owned() });
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
    }
}

/// A person logs in with a password.
pub(super) async fn login(
    State(gateway): App,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    Body(request): Body<Login>,
) -> Result<Response, Problem> {
    request.check()?;
    let with_cookie = headers.contains_key(header::COOKIE);
    gateway.cookies.refuse_foreign(&Method::POST, &headers, with_cookie)?;
    if !gateway.logins.are_possible() {
        return Err(Problem::not_found("nobody logs in here: login.users_file is not set"));
    }
    let attempt = Attempt {
        username: request.username,
        password: request.password,
        address,
        user_agent: user_agent(&headers),
        device_name: request.device_name,
        remember: request.remember,
    };
    let (begun, evicted) = gateway.logins.log_in(attempt).await?;
    gateway.ended(&evicted);
    answer(&gateway, &headers, request.mode, begun).await
}

/// Hands out what the client is to hold.
async fn answer(
    gateway: &Gateway,
    headers: &HeaderMap,
    mode: Mode,
    begun: Begun,
) -> Result<Response, Problem> {
    match mode {
        Mode::Cookie => {
            replace(gateway, headers).await?;
            let cookie = gateway.sessions.cookie(&begun);
            let cookie = gateway.cookies.begin(&begun.session, &cookie);
            let session = SessionView::new(&begun.session, Some(begun.session.id));
            let mut response = Json(json!({ "session": session })).into_response();
            response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
            Ok(response)
        }
        Mode::Token => {
            let tokens = gateway.sessions.tokens(begun)?;
            Ok(Json(TokensView::from(tokens)).into_response())
        }
    }
}

/// The browser is about to forget the session that it had: nobody else shall have it, least of all
/// whoever planted it there.
async fn replace(gateway: &Gateway, headers: &HeaderMap) -> Result<(), Problem> {
    let Ok(Some(cookie)) = cookie(headers, &gateway.cookies.session) else {
        return Ok(());
    };
    let (check, now) = (&gateway.check, Timestamp::now());
    if let Ok(before) = check.authenticate_cookie(cookie, now, Instant::now(), false).await.0 {
        gateway.sessions.revoke(&before.user, before.session, EndCause::Logout).await?;
        gateway.ended(&[before.session]);
    }
    Ok(())
}
