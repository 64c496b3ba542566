//! Gatehouse from outside: real gateways over real Redis servers, one module a story.
//!
//! Each test starts what it needs in a directory of its own and on ports that the system chose,
//! and ends it. `GATEHOUSE_TEST_REDIS` names another server to run instead of `redis-server`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod harness;

#[path = "../faults/mod.rs"]
mod faults;
#[path = "../model/mod.rs"]
mod model;

mod admin;
mod ask;
mod authz;
mod bad_input;
mod cookie;
mod devices;
mod embedded;
mod expiry;
mod ext_authz;
mod feed;
mod forged;
mod grpc;
mod limit;
mod login;
mod metadata;
mod outage;
mod page;
mod proxies;
mod refresh;
mod revoke;
mod secrets;
mod serve;
mod steady_state;
mod step_up;
mod throttle;
mod users;
