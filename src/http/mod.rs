//! Listeners and routes. The whole map is [`public`] and [`operations`].

mod admin;
pub(crate) mod authz;
mod body;
mod caller;
mod client;
mod cookie;
pub mod listener;
mod login;
mod ops;
mod pages;
mod problem;
mod return_to;
mod revocations;
mod sessions;
mod users;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, State};
use axum::http::{HeaderValue, Method, Request, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, patch, post};
use axum::{BoxError, Router};
use bytes::Bytes;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;

use crate::state::Gateway;
use crate::telemetry::metrics;
pub use client::Failures;
pub(crate) use client::is_trusted;
pub use cookie::Cookies;
use problem::Problem;

/// What a listener answers with.
#[derive(Clone)]
pub struct Routes {
    /// Answers checks, where there are any, without a router.
    checks: Option<Arc<Gateway>>,
    others: Router,
}

impl Routes {
    /// Routes without checks over HTTP.
    pub(crate) fn of(others: Router) -> Self {
        Self { checks: None, others }
    }

    /// Answers a request from `peer`.
    pub async fn answer<B>(&self, peer: SocketAddr, request: Request<B>) -> Response
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        if let Some(gateway) = &self.checks
            && let Some(dialect) = authz::Dialect::of(request.uri().path())
        {
            let (method, uri) = (request.method(), request.uri());
            return authz::answer(gateway, dialect, peer, method, uri, request.headers()).await;
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let Ok(response) = self.others.clone().oneshot(request).await;
        response
    }
}

/// What proxies, clients and backends reach.
pub fn public(gateway: Arc<Gateway>) -> Routes {
    let others = Router::new()
        .route("/login", get(pages::login_form).post(pages::login))
        .route("/login/resolve", post(pages::resolve))
        .route("/logout", get(pages::logout_form).post(pages::logout))
        .route("/login.css", get(pages::style))
        .route("/api/v1/login", post(login::login))
        .route("/api/v1/login/resolve", post(login::resolve))
        .route("/api/v1/sessions", post(sessions::create))
        .route("/api/v1/sessions/revocations", get(revocations::follow))
        .route("/api/v1/sessions/refresh", post(sessions::refresh))
        .route("/api/v1/logout", post(sessions::logout))
        .route("/api/v1/users/sessions", get(users::list))
        .route("/api/v1/users/sessions/revoke-all", post(users::revoke_all))
        .route("/api/v1/users/sessions/{id}", patch(users::update).delete(users::revoke))
        .route("/api/v1/admin/users/{user}/sessions", get(admin::list))
        .route("/api/v1/admin/users/{user}/sessions/revoke-all", post(admin::revoke_all))
        .route("/api/v1/admin/users/{user}/sessions/{id}", delete(admin::revoke))
        .route("/api/v1/admin/revoke-everything", post(admin::revoke_everything))
        .route("/.well-known/jwks.json", get(sessions::jwks))
        .fallback(|| async { Problem::not_found("there is no such page") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(body::LIMIT))
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), observe))
        .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
        .with_state(Arc::clone(&gateway));
    Routes { checks: Some(gateway), others }
}

/// What only operators reach.
pub fn operations(gateway: Arc<Gateway>) -> Routes {
    let others = Router::new()
        .route("/livez", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::scrape))
        .with_state(gateway);
    Routes::of(others)
}

/// From the end of a request's header to its answer. Redis has its own, shorter time limit, so it is
/// the body that is slow.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How many of the places a request has to leave to what matters more: what administrators look at
/// is given up first, then new logins; whoever refreshes or ends a session may take the last one.
fn percent_kept_free(route: &str, method: &str) -> usize {
    match (method, route) {
        ("GET", route) if route.starts_with("/api/v1/admin/") => 50,
        ("POST", "/api/v1/sessions" | "/api/v1/login" | "/api/v1/login/resolve" | "/login") => 25,
        _ => 0,
    }
}

/// Counts a request, refuses one too many or too slow, and keeps every answer out of caches.
async fn observe(State(gateway): App, request: Request<Body>, next: Next) -> Response {
    let start = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let places = gateway.config.limits.requests_at_once;
    let free = gateway.places.available_permits();
    let mut response = match gateway.places.try_acquire() {
        Ok(_place) if free > places * percent_kept_free(&route, method) / 100 => {
            match tokio::time::timeout(REQUEST_TIME, next.run(request)).await {
                Ok(response) => response,
                Err(_) => Problem::too_slow(REQUEST_TIME).into_response(),
            }
        }
        _ => Problem::overloaded().into_response(),
    };
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    metrics::http_request(route, method, response.status().as_u16(), start.elapsed());
    response
}

type App = State<Arc<Gateway>>;
