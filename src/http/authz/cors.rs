//! Refusals that scripts of other origins may read (Fetch standard, section 3.2).

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

/// Lets a script of one of `origins` see why it was refused. Without this a browser tells it no more
/// than that something failed. What the application answers is the application's to show.
pub(super) fn permit(origins: &[String], headers: &HeaderMap, refusal: &mut Response) {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return;
    };
    if !origins.iter().any(|ours| ours.as_bytes() == origin.as_bytes()) {
        return;
    }
    let headers = refusal.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    let yes = HeaderValue::from_static("true");
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    let why = HeaderValue::from_static("WWW-Authenticate, Retry-After");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, why);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}
