//! `/api/v1/users/sessions`: people see and end their own sessions.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::App;
use super::body::Body;
use super::caller::{User, wants_fresh_login};
use super::problem::Problem;
use super::sessions::{display_name, ended};
use super::view::SessionView;
use crate::model::{EndCause, Revocation, SessionId};

#[derive(Serialize)]
pub(super) struct List {
    pub(super) sessions: Vec<SessionView>,
    pub(super) limit: u32,
}

#[derive(Serialize)]
pub(super) struct Revoked {
    pub(super) revoked: usize,
}

/// 200, or 202 for what is done but not yet as safe as the settings ask for.
pub(super) fn all_ended(revoked: usize, confirmed: bool) -> (StatusCode, Json<Revoked>) {
    let status = if confirmed { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(Revoked { revoked }))
}

/// A session id of the path. What is none names no session.
pub(super) fn session_id(text: &str) -> Result<SessionId, Problem> {
    text.parse().map_err(|_| no_such_session())
}

pub(super) fn no_such_session() -> Problem {
    Problem::not_found("there is no such session, or it has ended")
}

/// The caller's sessions, the last active first.
pub(super) async fn list(State(gateway): App, User(user): User) -> Result<Json<List>, Problem> {
    let sessions = gateway.sessions.list(&user.user).await?;
    let current = Some(user.session);
    let sessions = sessions.iter().map(|session| SessionView::new(session, current)).collect();
    Ok(Json(List { sessions, limit: gateway.sessions.limit(&user.roles()) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    device_name: Option<String>,
    is_remembered: Option<bool>,
}

/// Renames a session, or remembers its device or no longer.
pub(super) async fn update(
    State(gateway): App,
    User(user): User,
    Path(id): Path<String>,
    Body(request): Body<Update>,
) -> Result<Json<SessionView>, Problem> {
    let id = session_id(&id)?;
    let name = request.device_name.as_deref();
    if let Some(Err(message)) = name.map(display_name) {
        return Err(Problem::invalid("device_name", message));
    }
    let updated = gateway.sessions.update(&user.user, id, name, request.is_remembered).await?;
    let session = updated.ok_or_else(no_such_session)?;
    Ok(Json(SessionView::new(&session, Some(user.session))))
}

/// Ends one of the caller's sessions.
pub(super) async fn revoke(
    State(gateway): App,
    User(user): User,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = session_id(&id)?;
    if id != user.session {
        wants_fresh_login(&gateway, &user)?;
    }
    if !gateway.sessions.revoke(&user.user, id, EndCause::Revoked).await? {
        return Err(no_such_session());
    }
    Ok(ended(gateway.confirmed(&user.user, Revocation::Session(id)).await))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeAll {
    #[serde(default)]
    include_current: bool,
}

/// Ends all of the caller's sessions except the current one, or that too.
pub(super) async fn revoke_all(
    State(gateway): App,
    User(user): User,
    Body(request): Body<RevokeAll>,
) -> Result<(StatusCode, Json<Revoked>), Problem> {
    wants_fresh_login(&gateway, &user)?;
    let kept = (!request.include_current).then_some(user.session);
    let (revoked, said) = gateway.sessions.revoke_all(&user.user, kept, EndCause::Revoked).await?;
    Ok(all_ended(revoked, gateway.confirmed(&user.user, said).await))
}
