//! Listeners and routes. The whole map is [`public`] and [`operations`].

mod admin;
mod authz;
mod body;
mod caller;
mod client;
pub mod listener;
mod ops;
mod problem;
mod sessions;
mod users;
mod view;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, delete, get, patch, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::state::Gateway;
use crate::telemetry::metrics;
pub use client::Failures;
use problem::Problem;

/// What proxies, clients and backends reach.
pub fn public(gateway: Arc<Gateway>) -> Router {
    let checks = Router::new()
        .route("/authz/auth-request", any(authz::auth_request))
        .route("/authz/forward-auth", any(authz::forward_auth));
    let api = Router::new()
        .route("/api/v1/sessions", post(sessions::create))
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
        .layer(middleware::from_fn(observe));
    checks
        .merge(api)
        .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
        .with_state(gateway)
}

/// What only operators reach.
pub fn operations(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/livez", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .with_state(gateway)
}

/// Counts a request, and keeps every answer out of caches.
async fn observe(request: Request, next: Next) -> Response {
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
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    metrics::http_request(route, method, response.status().as_u16(), start.elapsed());
    response
}

type App = State<Arc<Gateway>>;
