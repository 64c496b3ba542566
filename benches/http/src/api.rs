//! Requests, as they are sent.

use serde_json::Value;

/// The question that nginx asks.
pub fn check(query: &str, token: &str, cookie: Option<&str>) -> String {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n"));
    format!(
        "GET /authz/auth-request{query} HTTP/1.1\r\n\
         Host: login.example\r\n\
         Authorization: Bearer {token}\r\n\
         X-Original-Method: GET\r\n\
         X-Original-URL: https://app.example/inbox?page=2\r\n\
         X-Forwarded-For: 203.0.113.9\r\n\
         {}\r\n",
        cookie.unwrap_or_default(),
    )
}

pub fn post(path: &str, key: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: login.example\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len(),
    )
}

/// What a client sends, which has no key and says what it is.
pub fn refresh(user_agent: &str, token: &str) -> String {
    let body = format!("{{\"refresh_token\":\"{token}\"}}");
    format!(
        "POST /api/v1/sessions/refresh HTTP/1.1\r\nHost: login.example\r\n\
         User-Agent: {user_agent}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len(),
    )
}

/// Ends a session, by the right of a backend.
pub fn revoke(key: &str, user: &str, session: &str) -> String {
    format!(
        "DELETE /api/v1/admin/users/{user}/sessions/{session} HTTP/1.1\r\n\
         Host: login.example\r\nAuthorization: Bearer {key}\r\n\r\n",
    )
}
