//! Errors as they leave the house: RFC 9457.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::login::limits;
use super::view::SessionView;
use crate::login::{LoginError, Verdict};
use crate::model::Session;
use crate::sessions::SessionError;
use crate::store::StoreError;
use crate::store::sessions::Refused;
use crate::token::KeyError;

/// What went wrong, and with which field.
#[derive(Debug, Serialize)]
pub(super) struct FieldError {
    /// A path such as `claims.email`.
    pub(super) field: String,
    pub(super) message: String,
}

/// An answer of type `application/problem+json`.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    trace_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<Vec<SessionView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    #[serde(skip)]
    retry_after: Option<u64>,
    #[serde(skip)]
    verdict: Option<Verdict>,
    #[serde(skip)]
    challenge: bool,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: &str) -> Self {
        Self {
            kind: "about:blank",
            title,
            status: status.as_u16(),
            detail: detail.to_owned(),
            code,
            trace_id: uuid::Uuid::new_v4().simple().to_string(),
            errors: Vec::new(),
            sessions: None,
            ticket: None,
            retry_after: None,
            verdict: None,
            challenge: false,
        }
    }

    pub(super) fn invalid(field: &str, message: impl std::fmt::Display) -> Self {
        let errors = vec![FieldError { field: field.to_owned(), message: message.to_string() }];
        Self::invalid_fields(errors)
    }

    pub(super) fn invalid_fields(errors: Vec<FieldError>) -> Self {
        let (status, detail) = (StatusCode::BAD_REQUEST, "see errors for what to change");
        Self {
            errors,
            ..Self::new(status, "validation_failed", "The request is not valid", detail)
        }
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let detail = format!("a body may have at most {limit} bytes");
        let errors = vec![FieldError { field: "body".to_owned(), message: detail.clone() }];
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self { errors, ..Self::new(status, "validation_failed", "The body is too large", &detail) }
    }

    pub(super) fn too_slow(limit: Duration) -> Self {
        let detail = format!("the body has to arrive within {} s", limit.as_secs());
        let errors = vec![FieldError { field: "body".to_owned(), message: detail.clone() }];
        let status = StatusCode::REQUEST_TIMEOUT;
        Self { errors, ..Self::new(status, "validation_failed", "The body is too slow", &detail) }
    }

    pub(super) fn unsupported_media_type() -> Self {
        let detail = "send a body of type application/json";
        let errors =
            vec![FieldError { field: "Content-Type".to_owned(), message: detail.to_owned() }];
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self { errors, ..Self::new(status, "validation_failed", "Not JSON", detail) }
    }

    pub(super) fn unauthenticated(detail: &str) -> Self {
        let status = StatusCode::UNAUTHORIZED;
        let title = "Authentication is required";
        Self { challenge: true, ..Self::new(status, "authentication_required", title, detail) }
    }

    pub(super) fn step_up(detail: &str) -> Self {
        let status = StatusCode::UNAUTHORIZED;
        let title = "A recent login is required";
        Self { challenge: true, ..Self::new(status, "step_up_required", title, detail) }
    }

    pub(super) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "This is not allowed", detail)
    }

    pub(super) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this page does not answer to that method; see the Allow header";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "validation_failed", "Method not allowed", detail)
    }

    fn limit(sessions: &[Session]) -> Self {
        let detail = "the user has as many sessions as they may; end one of them first";
        let title = "Too many sessions";
        let sessions = sessions.iter().map(|session| SessionView::new(session, None));
        Self {
            sessions: Some(sessions.collect()),
            ..Self::new(StatusCode::CONFLICT, "session_limit_reached", title, detail)
        }
    }

    pub(super) fn rate_limited(retry_after: u64) -> Self {
        let detail = "too many credentials were refused; wait before trying again";
        let problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests", detail);
        Self { retry_after: Some(retry_after), ..problem }
    }

    pub(super) fn unavailable() -> Self {
        let detail = "the session store does not answer; nothing is known to have changed";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let title = "Try again in a moment";
        Self { retry_after: Some(1), ..Self::new(status, "store_unavailable", title, detail) }
    }

    pub(super) fn overloaded() -> Self {
        let detail = "more requests are under way than this gateway answers at once";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let title = "Try again in a moment";
        Self { retry_after: Some(1), ..Self::new(status, "overloaded", title, detail) }
    }

    /// A fault of ours. The trace id finds it in the logs.
    pub(super) fn internal() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let detail = "this is a fault of the gateway";
        let problem = Self::new(status, "internal", "Something went wrong", detail);
        tracing::error!(trace_id = problem.trace_id, "a request failed by a fault of the gateway");
        problem
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let problem = Self::unavailable();
        tracing::warn!(trace_id = problem.trace_id, %error, "the store did not answer");
        problem
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        tracing::error!(%error, "a credential could not be made");
        Self::internal()
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Credentials => Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_credentials",
                "The login was refused",
                "the user name or the password is wrong",
            ),
            LoginError::Ticket => {
                Self::unauthenticated("the ticket is not good, or no longer; log in again")
            }
            LoginError::Full { sessions, ticket, .. } => Self { ticket, ..Self::limit(&sessions) },
            LoginError::Limited(verdict) => {
                Self { verdict: Some(verdict), ..Self::rate_limited(verdict.wait.max(1)) }
            }
            LoginError::Busy => Self::overloaded(),
            LoginError::Session(error) => error.into(),
        }
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        let refused = |code: &'static str, detail: &str| {
            Self::new(StatusCode::UNAUTHORIZED, code, "The refresh token was refused", detail)
        };
        match error {
            SessionError::Store(error) => error.into(),
            SessionError::Key(error) => error.into(),
            SessionError::Limit(sessions) => Self::limit(&sessions),
            SessionError::Conflict | SessionError::Spent => {
                let title = "The request conflicts with an earlier one";
                Self::new(StatusCode::CONFLICT, "conflict", title, &error.to_string())
            }
            SessionError::Refused(why) => match why {
                Refused::Unknown | Refused::Forged => {
                    refused("invalid_refresh_token", "it is not a token of a live session")
                }
                Refused::ForeignDevice => refused(
                    "invalid_refresh_token",
                    "it was used by another client a moment ago; use the token that was issued then",
                ),
                Refused::Expired => refused("session_expired", "the session expired; log in again"),
                Refused::Revoked => {
                    refused("session_revoked", "the session was ended; log in again")
                }
                Refused::Reused => refused(
                    "refresh_token_reused",
                    "a token of this session was used twice, so the session was ended; log in again",
                ),
            },
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (retry_after, verdict) = (self.retry_after, self.verdict);
        let (challenge, step_up) = (self.challenge, self.code == "step_up_required");
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(verdict) = verdict {
            headers.extend(limits(&verdict));
        }
        if challenge {
            // RFC 9470 section 3 names the error of a login that is too old.
            let value = if step_up {
                r#"Bearer error="insufficient_user_authentication""#
            } else {
                "Bearer"
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        response
    }
}
