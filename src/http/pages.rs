//! `/login` and `/logout`: pages for people, which work without script.

use std::time::Instant;

use askama::Template;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use url::form_urlencoded;

use super::App;
use super::body::LIMIT;
use super::caller::{ClientAddress, Credentials};
use super::cookie::origin;
use super::login::{Entrance, enter, leave, possible, user_agent};
use super::problem::Problem;
use super::return_to::return_to;
use crate::login::{Attempt, Entered, LoginError, Mode, Resolution};
use crate::model::{Session, SessionId, Timestamp};
use crate::sessions::SessionError;
use crate::state::Gateway;

#[derive(Template, Default)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    user: Option<&'a str>,
    message: Option<&'a str>,
    username: &'a str,
    remember: bool,
    return_to: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "limit.html")]
struct LimitPage<'a> {
    ticket: Option<&'a str>,
    sessions: &'a [Session],
    return_to: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "logout.html")]
struct LogoutPage<'a> {
    user: Option<&'a str>,
}

/// The fields of a form, in order.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    fn get(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let kind = kind.unwrap_or_default().split(|byte| *byte == b';').next().unwrap_or_default();
        let form = kind.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded");
        let bytes =
            Bytes::from_request(request, state).await.map_err(|_| Problem::too_large(LIMIT))?;
        if !form && !bytes.is_empty() {
            return Err(Problem::invalid("Content-Type", "send a form"));
        }
        Ok(Self(form_urlencoded::parse(&bytes).into_owned().collect()))
    }
}

/// A page, with headers that let nothing else run in it or around it.
fn page(gateway: &Gateway, status: StatusCode, page: &impl Template) -> Response {
    let Ok(html) = page.render() else {
        return Problem::internal().into_response();
    };
    let mut response = (status, html).into_response();
    // Browsers also ask this of where an answer to the form redirects to.
    let mut forms = "'self'".to_owned();
    for url in &gateway.config.login.return_origins {
        forms += " ";
        forms += &origin(url);
    }
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action {forms}; frame-ancestors 'none'; \
         base-uri 'none'"
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Without the origin of a form nobody could tell it from another site's.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if gateway.config.server.public_url.scheme() == "https" {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    response
}

/// 303, so that nothing that was posted is posted again (RFC 9110 section 15.4.4).
fn redirect(to: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/login"));
    response.headers_mut().insert(header::LOCATION, to);
    response
}

/// Whose browser this is, as far as that can be known.
async fn visitor(gateway: &Gateway, headers: &HeaderMap) -> Option<String> {
    let credentials = Credentials::read(headers, &gateway.cookies).ok()?;
    credentials.cookie?;
    let (check, now) = (&gateway.check, Timestamp::now());
    let answer = credentials.authenticate(check, now, Instant::now(), false).await.0;
    answer.ok().map(|identity| identity.user.to_string())
}

#[derive(Deserialize)]
pub(super) struct Way {
    #[serde(default)]
    return_to: String,
}

/// The form.
pub(super) async fn login_form(
    State(gateway): App,
    headers: HeaderMap,
    Query(way): Query<Way>,
) -> Result<Response, Problem> {
    possible(&gateway)?;
    let user = visitor(&gateway, &headers).await;
    let back = return_to(&way.return_to, &gateway.config).map(String::from);
    let form =
        LoginPage { user: user.as_deref(), return_to: back.as_deref(), ..LoginPage::default() };
    Ok(page(&gateway, StatusCode::OK, &form))
}

/// The form, filled in.
pub(super) async fn login(
    State(gateway): App,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Problem> {
    possible(&gateway)?;
    let with_cookie = headers.contains_key(header::COOKIE);
    gateway.cookies.refuse_foreign(&Method::POST, &headers, with_cookie)?;
    let attempt = Attempt {
        username: form.get("username").to_owned(),
        password: form.get("password").into(),
        address,
        user_agent: user_agent(&headers),
        device_name: None,
        remember: !form.get("remember").is_empty(),
        mode: Mode::Cookie,
        browser: None,
        device: None,
        current: None,
    };
    let entered = enter(&gateway, &headers, Entrance::Password(attempt), &mut None).await;
    answer(&gateway, &headers, &form, entered)
}

/// What is to end was chosen.
pub(super) async fn resolve(
    State(gateway): App,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Problem> {
    possible(&gateway)?;
    gateway.cookies.refuse_foreign(&Method::POST, &headers, true)?;
    let ticket = form.get("ticket").to_owned();
    let revoke: Vec<SessionId> = form.all("revoke").filter_map(|id| id.parse().ok()).collect();
    let user_agent = user_agent(&headers);
    let resolution = Resolution { ticket, revoke, address, user_agent, browser: None };
    let entrance = Entrance::Ticket(resolution);
    answer(&gateway, &headers, &form, enter(&gateway, &headers, entrance, &mut None).await)
}

fn answer(
    gateway: &Gateway,
    headers: &HeaderMap,
    form: &Form,
    entered: Result<Entered, LoginError>,
) -> Result<Response, Problem> {
    let back = return_to(form.get("return_to"), &gateway.config).map(String::from);
    let return_to = back.as_deref();
    let error = match entered {
        Ok(entered) => {
            let mut response = redirect(return_to.unwrap_or("/login"));
            response.headers_mut().extend(gateway.cookies.begin(&gateway.sessions, &entered));
            return Ok(response);
        }
        Err(error) => error,
    };
    let again = |status, message, retry_after: Option<u64>| {
        let (username, remember) = (form.get("username"), !form.get("remember").is_empty());
        let form = LoginPage { user: None, message: Some(message), username, remember, return_to };
        let mut response = page(gateway, status, &form);
        let retry_after = retry_after.map(HeaderValue::from);
        response.headers_mut().extend(retry_after.map(|value| (header::RETRY_AFTER, value)));
        response
    };
    Ok(match error {
        LoginError::Full { sessions, ticket, browser } => {
            let limit = LimitPage { ticket: ticket.as_deref(), sessions: &sessions, return_to };
            let mut response = page(gateway, StatusCode::CONFLICT, &limit);
            response.headers_mut().extend(gateway.cookies.bind(headers, browser.as_deref()));
            response
        }
        LoginError::Credentials => {
            let message = "The user name or the password is wrong.";
            again(StatusCode::UNAUTHORIZED, message, None)
        }
        LoginError::Ticket => {
            let message = "That took too long, or was done before. Log in again.";
            again(StatusCode::UNAUTHORIZED, message, None)
        }
        LoginError::Limited(verdict) => {
            let message = format!(
                "Too many logins were tried. Wait {} s before you try again.",
                verdict.wait.max(1)
            );
            again(StatusCode::TOO_MANY_REQUESTS, &message, Some(verdict.wait.max(1)))
        }
        LoginError::Busy => {
            let message = "Too many people are logging in. Try again in a moment.";
            again(StatusCode::SERVICE_UNAVAILABLE, message, Some(1))
        }
        LoginError::Session(SessionError::Store(error)) => {
            tracing::warn!(%error, "the store did not answer");
            let message = "Logging in does not work at this moment. Try again soon.";
            again(StatusCode::SERVICE_UNAVAILABLE, message, Some(1))
        }
        LoginError::Session(error) => return Err(error.into()),
    })
}

/// Asks before logging somebody out: a link alone must not.
pub(super) async fn logout_form(State(gateway): App, headers: HeaderMap) -> Response {
    let user = visitor(&gateway, &headers).await;
    page(&gateway, StatusCode::OK, &LogoutPage { user: user.as_deref() })
}

/// Ends the browser's session, and takes the cookie away.
pub(super) async fn logout(State(gateway): App, headers: HeaderMap) -> Result<Response, Problem> {
    gateway.cookies.refuse_foreign(&Method::POST, &headers, true)?;
    leave(&gateway, &headers).await?;
    let mut response = redirect("/login");
    response.headers_mut().extend(gateway.cookies.end());
    Ok(response)
}

/// How the pages look.
pub(super) async fn style() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, include_str!("../../templates/login.css")).into_response()
}
