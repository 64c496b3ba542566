//! The least that an axum application costs: one route, whose handler does nothing.

#![deny(unsafe_code)]

use axum::Router;
use axum::http::{HeaderName, HeaderValue};
use axum::response::AppendHeaders;
use axum::routing::any;
use axum::serve::ListenerExt as _;
use clap::Parser as _;
use compare::rival::{Allocator, Args, IDENTITY};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = Args::parse().bind().await?.tap_io(|stream| {
        // Fails on a connection that is gone already.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, Router::new().route("/authz/auth-request", any(answer))).await?;
    Ok(())
}

async fn answer() -> AppendHeaders<[(HeaderName, HeaderValue); 6]> {
    AppendHeaders(
        IDENTITY
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
    )
}
