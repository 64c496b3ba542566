//! `/api/v1/admin`: administrators see and end the sessions of others.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::App;
use super::caller::Admin;
use super::problem::Problem;
use super::sessions::ended;
use super::users::{List, Revoked, all_ended, no_such_session, session_id};
use super::view::SessionView;
use crate::config::Scope;
use crate::model::{EndCause, Revocation, UserId};

const READ: &[Scope] = &[Scope::AdminRead, Scope::AdminWrite];
const REVOKE: &[Scope] = &[Scope::SessionsRevoke, Scope::AdminWrite];

fn user_id(text: &str) -> Result<UserId, Problem> {
    text.parse().map_err(|error| Problem::invalid("user_id", error))
}

/// The sessions of a user.
pub(super) async fn list(
    State(gateway): App,
    admin: Admin,
    Path(user): Path<String>,
) -> Result<Json<List>, Problem> {
    admin.may(READ, false)?;
    let sessions = gateway.sessions.list(&user_id(&user)?).await?;
    let roles = sessions.first().map(|newest| newest.roles.clone()).unwrap_or_default();
    let sessions = sessions.iter().map(|session| SessionView::new(session, None)).collect();
    Ok(Json(List { sessions, limit: gateway.sessions.limit(&roles) }))
}

/// Ends a session of a user.
pub(super) async fn revoke(
    State(gateway): App,
    admin: Admin,
    Path((user, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    admin.may(REVOKE, true)?;
    let (user, id) = (user_id(&user)?, session_id(&id)?);
    if !gateway.sessions.revoke(&user, id, EndCause::Admin).await? {
        return Err(no_such_session());
    }
    Ok(ended(gateway.confirmed(&user, Revocation::Session(id)).await))
}

/// Ends all sessions of a user.
pub(super) async fn revoke_all(
    State(gateway): App,
    admin: Admin,
    Path(user): Path<String>,
) -> Result<(StatusCode, Json<Revoked>), Problem> {
    admin.may(REVOKE, true)?;
    let user = user_id(&user)?;
    let (revoked, said) = gateway.sessions.revoke_all(&user, None, EndCause::Admin).await?;
    Ok(all_ended(revoked, gateway.confirmed(&user, said).await))
}

/// Everything that was issued before now is dead, everywhere.
pub(super) async fn revoke_everything(
    State(gateway): App,
    admin: Admin,
) -> Result<StatusCode, Problem> {
    admin.may(&[Scope::AdminWrite], true)?;
    let said = gateway.sessions.revoke_everything().await?;
    tracing::warn!("everything was revoked");
    Ok(ended(gateway.everything_confirmed(said).await))
}
