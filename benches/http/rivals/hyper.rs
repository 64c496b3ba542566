//! The least that HTTP costs in Rust: hyper on a socket, with an answer that is always the same.

#![deny(unsafe_code)]

use std::convert::Infallible;

use clap::Parser as _;
use compare::rival::{Allocator, Args, IDENTITY};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = Args::parse().bind().await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    response.headers_mut().extend(
        IDENTITY
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
    );
    Ok(response)
}
