//! The example configurations under the real proxies: the same stories and the same attacks for each.

mod attacks;
mod caddy;
mod echo;
mod envoy;
mod haproxy;
mod nginx;
mod outage;
mod session;
mod stage;
mod traefik;

/// What every proxy has to stand.
macro_rules! stories {
    ($kind:expr) => {
        #[tokio::test]
        async fn a_session_lives_and_ends() {
            crate::proxies::session::lives_and_ends($kind).await;
        }

        #[tokio::test]
        async fn a_path_requires_what_its_configuration_says() {
            crate::proxies::session::requirements($kind).await;
        }

        #[tokio::test]
        async fn a_script_of_another_origin_reads_why_it_was_refused() {
            crate::proxies::session::scripts($kind).await;
        }

        #[tokio::test]
        async fn an_application_can_verify_whom_a_request_is_from() {
            crate::proxies::session::signed($kind).await;
        }

        #[tokio::test]
        async fn a_client_cannot_name_itself_or_its_request() {
            crate::proxies::attacks::names($kind).await;
        }

        #[tokio::test]
        async fn what_is_malformed_is_refused() {
            crate::proxies::attacks::malformed($kind).await;
        }

        #[tokio::test]
        async fn without_a_gateway_nobody_passes() {
            crate::proxies::outage::gateway($kind).await;
        }

        #[tokio::test]
        async fn what_cannot_be_known_is_no_yes() {
            crate::proxies::outage::store($kind).await;
        }
    };
}
use stories;
