//! Bodies: JSON whose mistakes are named.

use axum::extract::{FromRequest, Request};
use axum::http::header;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The largest body, in bytes.
pub(super) const LIMIT: usize = 4096;

/// A JSON body. An empty one is an empty object, so that `curl -X POST` is enough where every
/// field is optional.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(
                |value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
            );
        let bytes =
            Bytes::from_request(request, state).await.map_err(|_| Problem::too_large(LIMIT))?;
        if bytes.is_empty() {
            return parse(b"{}");
        }
        match json.as_deref() {
            Some("application/json") => parse(&bytes),
            _ => Err(Problem::unsupported_media_type()),
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Body<T>, Problem> {
    // serde would also take a list, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::invalid("body", "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        let message = error.inner().to_string();
        // serde names what is missing or unknown in its message, not in the path.
        match message.split('`').nth(1) {
            Some(name) if message.starts_with("missing field") => {
                Problem::invalid(name, "is required")
            }
            Some(name) if message.starts_with("unknown field") => {
                Problem::invalid(name, "is not a field of this request")
            }
            _ => Problem::invalid(&field, message),
        }
    })?;
    json.end().map_err(|error| Problem::invalid("body", error))?;
    Ok(Body(value))
}
