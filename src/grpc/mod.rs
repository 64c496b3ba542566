//! Envoy's `ext_authz` over gRPC (`envoy.service.auth.v3`): the same decision as over HTTP, which
//! Envoy, Istio and Envoy Gateway carry out header by header.

mod answer;
mod question;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse,
};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::http::Routes;
use crate::http::authz::{self, Dialect, Requirements};
use crate::http::is_trusted;
use crate::state::Gateway;
use question::Question;

/// A question holds the header of a request, which Envoy limits to 60 KiB, and is not asked for a body.
const QUESTION_BYTES: usize = 128 * 1024;

struct Checks(Arc<Gateway>);

#[tonic::async_trait]
impl Authorization for Checks {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let Self(gateway) = self;
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let trusted = &gateway.config.server.trusted_proxies;
        if !peer.is_some_and(|peer| is_trusted(peer.ip(), trusted)) {
            tracing::warn!(?peer, "a check from outside server.trusted_proxies was refused");
            return Err(Status::permission_denied("ask from one of server.trusted_proxies"));
        }
        let question = Question::of(request.into_inner());
        let requirements = Requirements::read(&question.query, true, &question.headers);
        let (dialect, original) = (Dialect::Grpc, question.original());
        let decision =
            authz::decide(gateway, dialect, original, requirements, &question.headers).await;
        Ok(Response::new(answer::of(&decision)))
    }
}

/// What the listener for gRPC answers with, and who is told how the gateway is.
pub fn routes(gateway: Arc<Gateway>) -> (Routes, HealthReporter) {
    let checks =
        AuthorizationServer::new(Checks(gateway)).max_decoding_message_size(QUESTION_BYTES);
    let (reporter, health) = tonic_health::server::health_reporter();
    let services = tonic::service::Routes::new(checks).add_service(health);
    (Routes::of(services.into_axum_router()), reporter)
}

/// Answers health checks (`grpc.health.v1`) as `/readyz` does.
pub async fn report(gateway: Arc<Gateway>, health: HealthReporter) {
    let mut timer = tokio::time::interval(Duration::from_millis(500));
    loop {
        timer.tick().await;
        let ready = gateway.readiness().iter().all(|(_, problem)| problem.is_none());
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", "envoy.service.auth.v3.Authorization"] {
            health.set_service_status(service, status).await;
        }
    }
}
