//! For operators only: is the process alive, is it of use, what does it measure.

use std::fmt::Write as _;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::App;
use crate::telemetry::metrics;

/// The process runs. Says nothing of Redis: restarting a gateway does not mend that.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Deserialize)]
pub(super) struct Verbose {
    verbose: Option<String>,
}

/// Requests may be sent here. `?verbose` names each part.
pub(super) async fn readyz(
    State(gateway): App,
    Query(query): Query<Verbose>,
) -> (StatusCode, String) {
    let parts = gateway.readiness();
    let ready = parts.iter().all(|(_, problem)| problem.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    for (part, problem) in &parts {
        if query.verbose.is_some() || problem.is_some() {
            let _ = writeln!(text, "{part}: {}", problem.as_deref().unwrap_or("ok"));
        }
    }
    if text.is_empty() {
        "ok\n".clone_into(&mut text);
    }
    (status, text)
}

/// Prometheus's text format.
pub(super) async fn scrape(State(gateway): App) -> String {
    gateway.process.collect();
    gateway.measure();
    let mut text = gateway.metrics.render();
    // Writing to a text does not fail.
    let _ = metrics::render_checks(&mut text);
    text
}
