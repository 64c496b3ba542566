//! Gatehouse: a session gateway.
//!
//! An application logs people in and then has to know, on every request, whether that login is
//! still good. Gatehouse keeps sessions in Redis and answers a reverse proxy's question from
//! memory; a revocation reaches every gateway through a feed.
//!
//! The rooms, in the order in which a request passes them. A room uses those below it only.
//!
//! - [`cli`]: the commands; `serve` starts and stops everything.
//! - [`http`]: listeners, routes, the proxies' dialects, problem+json.
//! - [`grpc`]: Envoy's dialect over gRPC, which asks `http` for the decision.
//! - [`state`]: wires the parts together.
//! - [`check`]: the hot path: credential → verified identity → revoked? → answer.
//! - [`login`]: how people log in, and what keeps others from it.
//! - [`sessions`]: what can be done with a session. No HTTP, no Redis commands.
//! - [`store`]: the only room that knows Redis: connections, keys, scripts, the feed.
//! - [`token`]: access tokens, assertions, refresh handles, keys.
//! - [`model`]: sessions, ids, times. Pure.
//! - [`config`], [`telemetry`]: settings, logs and metrics.
//!
//! `lua/` holds what must be atomic: one script an operation.

pub mod check;
pub mod cli;
pub mod config;
pub mod grpc;
pub mod http;
pub mod login;
pub mod model;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod sessions;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod token;
