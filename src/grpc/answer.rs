//! A decision in Envoy's words.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use envoy_types::ext_authz::v3::pb::{
    CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue as Header,
    HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse,
};
use envoy_types::pb::google::rpc;
use tonic::Code;

use crate::http::authz;

/// Turns the answer of a check over HTTP into what Envoy is to do: headers of ours are set in the
/// request to the backend, or, empty, removed from it; a refusal goes to the client as it is.
pub(super) fn of(decision: &Response<Body>) -> CheckResponse {
    let (code, response) = if decision.status() == StatusCode::OK {
        (Code::Ok, HttpResponse::OkResponse(allowed(decision)))
    } else {
        (Code::PermissionDenied, HttpResponse::DeniedResponse(denied(decision)))
    };
    CheckResponse {
        status: Some(rpc::Status { code: code.into(), ..rpc::Status::default() }),
        http_response: Some(response),
        ..CheckResponse::default()
    }
}

fn allowed(decision: &Response<Body>) -> OkHttpResponse {
    let headers = decision.headers();
    let cookies = headers.get_all(header::SET_COOKIE).iter();
    let mut response = OkHttpResponse {
        response_headers_to_add: cookies.map(|value| option(&header::SET_COOKIE, value)).collect(),
        ..OkHttpResponse::default()
    };
    for name in authz::ours() {
        match headers.get(name).filter(|value| !value.is_empty()) {
            Some(value) => response.headers.push(option(name, value)),
            None => response.headers_to_remove.push(name.as_str().to_owned()),
        }
    }
    response
}

fn denied(decision: &Response<Body>) -> DeniedHttpResponse {
    DeniedHttpResponse {
        status: Some(HttpStatus { code: decision.status().as_u16().into() }),
        headers: decision.headers().iter().map(|(name, value)| option(name, value)).collect(),
        ..DeniedHttpResponse::default()
    }
}

fn option(name: &HeaderName, value: &HeaderValue) -> HeaderValueOption {
    let action = match *name {
        header::SET_COOKIE => HeaderAppendAction::AppendIfExistsOrAdd,
        _ => HeaderAppendAction::OverwriteIfExistsOrAdd,
    };
    HeaderValueOption {
        header: Some(Header {
            key: name.as_str().to_owned(),
            // Not raw_value, of which Envoy takes no notice here. All of ours is UTF-8.
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            ..Header::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}
