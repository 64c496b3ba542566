//! What an axum application does: tower-sessions in Redis, loaded on every request.
//!
//! As its documentation has it: a pool of six connections, expiry on inactivity. A session is saved
//! only when it was modified, so that a check is one GET and does not move the expiry.

#![deny(unsafe_code)]

use anyhow::Context as _;
use axum::Router;
use axum::extract::Json;
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use axum::routing::{any, post};
use axum::serve::ListenerExt as _;
use clap::Parser as _;
use compare::rival::{Allocator, Args};
use serde::{Deserialize, Serialize};
use time::Duration;
use tower_sessions::{Expiry, Session, SessionManagerLayer};
use tower_sessions_redis_store::RedisStore;
use tower_sessions_redis_store::fred::prelude::{ClientLike as _, Config, Pool};

const PERSON: &str = "person";

#[derive(Serialize, Deserialize)]
struct Person {
    user: String,
    roles: Vec<String>,
    email: String,
    name: String,
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let socket = args.redis.as_ref().context("--redis is needed")?;
    let config = Config::from_url(&format!("redis+unix://{}", socket.display()))?;
    let pool = Pool::new(config, None, None, None, 6)?;
    pool.init().await?;
    let sessions = SessionManagerLayer::new(RedisStore::new(pool))
        .with_secure(false)
        .with_expiry(Expiry::OnInactivity(Duration::hours(24)));
    let router = Router::new()
        .route("/login", post(login))
        .route("/authz/auth-request", any(check))
        .layer(sessions);
    let listener = args.bind().await?.tap_io(|stream| {
        // Fails on a connection that is gone already.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

async fn login(session: Session, Json(person): Json<Person>) -> StatusCode {
    match session.insert(PERSON, person).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn check(session: Session) -> Response {
    match session.get::<Person>(PERSON).await {
        Ok(Some(person)) => {
            let id = session.id().map(|id| id.to_string()).unwrap_or_default();
            AppendHeaders([
                ("remote-user", person.user),
                ("remote-groups", person.roles.join(",")),
                ("remote-email", person.email),
                ("remote-name", person.name),
                ("remote-session", id),
                (header::CACHE_CONTROL.as_str(), "no-store".to_owned()),
            ])
            .into_response()
        }
        Ok(None) => StatusCode::UNAUTHORIZED.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
