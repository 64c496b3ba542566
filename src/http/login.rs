//! `/api/v1/login`: people log in.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::body::Body;
use super::caller::{ClientAddress, Credentials};
use super::problem::{FieldError, Problem};
use super::sessions::display_name;
use super::view::{SessionView, TokensView};
use crate::check::Identity;
use crate::login::password::PASSWORD_MAX;
use crate::login::{Attempt, Entered, LoginError, Mode, Resolution, Verdict};
use crate::model::id::USER_ID_MAX;
use crate::model::{EndCause, Revocation, SessionId, Timestamp};
use crate::state::Gateway;
use crate::store::StoreError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    username: String,
    password: SecretString,
    #[serde(default)]
    remember: bool,
    device_name: Option<String>,
    device: Option<String>,
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

/// How somebody comes in.
pub(super) enum Entrance {
    /// With a password.
    Password(Attempt),
    /// With a ticket, and a choice of what ends.
    Ticket(Resolution),
}

/// Lets somebody in. Their own session goes on; another that the browser had ends: it is about to forget
/// it, and nobody else shall have it, least of all whoever planted it there. Says how often they may still try.
pub(super) async fn enter(
    gateway: &Gateway,
    headers: &HeaderMap,
    entrance: Entrance,
    verdict: &mut Option<Verdict>,
) -> Result<Entered, LoginError> {
    let current = |mode| current(gateway, headers, mode);
    let entered = match entrance {
        Entrance::Password(mut attempt) => {
            let current = current(attempt.mode).await;
            attempt.current = current.map(|current| (current.user.clone(), current.session));
            if attempt.mode == Mode::Cookie {
                attempt.browser = Some(gateway.cookies.browser_of(headers)?);
            }
            if attempt.device.is_none() {
                attempt.device = gateway.cookies.device_of(headers);
            }
            let admitted = gateway.logins.admit(attempt).await?;
            *verdict = Some(admitted.verdict);
            gateway.logins.log_in(admitted).await?
        }
        Entrance::Ticket(mut resolution) => {
            resolution.browser = gateway.cookies.known_browser(headers);
            gateway.logins.resolve(resolution).await?
        }
    };
    gateway.evicted(&entered.begun.session.user, &entered.evicted);
    if entered.mode == Mode::Cookie
        && let Some(before) = current(Mode::Cookie).await
        && before.session != entered.begun.session.id
    {
        end(gateway, &before).await?;
    }
    Ok(entered)
}

/// The session that a client has already, in the form that it asks for.
async fn current(gateway: &Gateway, headers: &HeaderMap, mode: Mode) -> Option<Arc<Identity>> {
    let credentials = Credentials::read(headers, &gateway.cookies).ok()?;
    let credentials = match mode {
        Mode::Token => Credentials { cookie: None, ..credentials },
        Mode::Cookie => Credentials { bearer: None, ..credentials },
    };
    let (check, now) = (&gateway.check, Timestamp::now());
    credentials.authenticate(check, now, Instant::now(), false).await.0.ok()
}

async fn end(gateway: &Gateway, before: &Identity) -> Result<(), StoreError> {
    gateway.sessions.revoke(&before.user, before.session, EndCause::Logout).await?;
    gateway.ended(&before.user, Revocation::Session(before.session));
    Ok(())
}

/// Ends the session of a browser that logs out.
pub(super) async fn leave(gateway: &Gateway, headers: &HeaderMap) -> Result<(), StoreError> {
    match current(gateway, headers, Mode::Cookie).await {
        Some(before) => end(gateway, &before).await,
        None => Ok(()),
    }
}

/// Hands out what the client is to hold.
fn answer(
    gateway: &Gateway,
    headers: &HeaderMap,
    entered: Result<Entered, LoginError>,
) -> Result<Response, Problem> {
    match entered {
        Ok(entered) if entered.mode == Mode::Token => {
            let tokens = gateway.sessions.tokens(entered.begun)?;
            Ok(Json(TokensView::from(tokens).with_device(entered.device)).into_response())
        }
        Ok(entered) => {
            let session = &entered.begun.session;
            let session = SessionView::new(session, Some(session.id));
            let mut response = Json(json!({ "session": session })).into_response();
            response.headers_mut().extend(gateway.cookies.begin(&gateway.sessions, &entered));
            Ok(response)
        }
        Err(mut error) => {
            let browser = match &mut error {
                LoginError::Full { browser, .. } => browser.take(),
                _ => None,
            };
            let mut response = Problem::from(error).into_response();
            response.headers_mut().extend(gateway.cookies.bind(headers, browser.as_deref()));
            Ok(response)
        }
    }
}

/// What a client may still do (draft-ietf-httpapi-ratelimit-headers-10).
pub(super) fn limits(verdict: &Verdict) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let Verdict { policy, quota, window, left, reset, .. } = verdict;
    let all = [
        ("ratelimit-policy", format!("\"{policy}\";q={quota};w={window}")),
        ("ratelimit", format!("\"{policy}\";r={left};t={reset}")),
    ];
    all.into_iter().filter_map(|(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    })
}

pub(super) fn possible(gateway: &Gateway) -> Result<(), Problem> {
    if gateway.logins.are_possible() {
        return Ok(());
    }
    Err(Problem::not_found("nobody logs in here: login.users_file is not set"))
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
    possible(&gateway)?;
    let attempt = Attempt {
        username: request.username,
        password: request.password,
        address,
        user_agent: user_agent(&headers),
        device_name: request.device_name,
        remember: request.remember,
        mode: request.mode,
        browser: None,
        device: request.device,
        current: None,
    };
    let mut verdict = None;
    let entered = enter(&gateway, &headers, Entrance::Password(attempt), &mut verdict).await;
    let mut response = answer(&gateway, &headers, entered).unwrap_or_else(Problem::into_response);
    if let Some(verdict) = verdict {
        response.headers_mut().extend(limits(&verdict));
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    ticket: String,
    revoke: Vec<String>,
}

/// A person who was asked has chosen which sessions end.
pub(super) async fn resolve(
    State(gateway): App,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    Body(request): Body<Resolve>,
) -> Result<Response, Problem> {
    let with_cookie = headers.contains_key(header::COOKIE);
    gateway.cookies.refuse_foreign(&Method::POST, &headers, with_cookie)?;
    possible(&gateway)?;
    let revoke = request.revoke.iter().enumerate().map(|(i, id)| {
        id.parse::<SessionId>().map_err(|error| Problem::invalid(&format!("revoke[{i}]"), error))
    });
    let resolution = Resolution {
        ticket: request.ticket,
        revoke: revoke.collect::<Result<_, _>>()?,
        address,
        user_agent: user_agent(&headers),
        browser: None,
    };
    match enter(&gateway, &headers, Entrance::Ticket(resolution), &mut None).await {
        Err(error @ LoginError::Ticket) => Err(gateway.failures.answer(address, error.into())),
        entered => answer(&gateway, &headers, entered),
    }
}
