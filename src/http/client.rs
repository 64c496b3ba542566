//! Who is at the other end, as far as trusted proxies say.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use axum::http::HeaderMap;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;

use super::problem::Problem;
use crate::telemetry::metrics;

/// Whether forwarding headers from this peer are believed.
pub(crate) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|network| network.contains(&peer))
}

/// The client's address: from the right of `X-Forwarded-For`, the first that is not a trusted
/// proxy. Everything left of it is the client's own invention.
pub(super) fn address(peer: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.ip().to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    let hops: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for hop in hops.iter().rev() {
        match hop.trim().parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break,
        }
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// Answers 429 to addresses whose credentials were refused too often. A good credential is never
/// refused because of bad ones from the same address.
pub struct Failures(DefaultKeyedRateLimiter<IpAddr>);

impl Failures {
    /// So many refusals a minute.
    pub fn per_minute(number: u32) -> Self {
        let number = NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self(RateLimiter::keyed(Quota::per_minute(number)))
    }

    /// A credential from `address` was refused: the answer that it deserves.
    pub(super) fn answer(&self, address: IpAddr, refusal: Problem) -> Problem {
        /// Addresses beyond this are forgotten early rather than kept for ever.
        const ADDRESSES: usize = 100_000;
        if self.0.len() > ADDRESSES {
            self.forget();
        }
        match self.0.check_key(&prefix(address)) {
            Ok(()) => {
                metrics::rate_limit("failures", true);
                refusal
            }
            Err(until) => {
                metrics::rate_limit("failures", false);
                Problem::rate_limited(
                    until.wait_time_from(DefaultClock::default().now()).as_secs() + 1,
                )
            }
        }
    }

    /// Drops the addresses that have been quiet.
    pub fn forget(&self) {
        self.0.retain_recent();
        self.0.shrink_to_fit();
    }
}

/// A subscriber of IPv6 holds a /64, so its addresses count as one.
fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
        address(SocketAddr::new(peer.parse().unwrap(), 1), &headers, &trusted).to_string()
    }

    #[test]
    fn a_stranger_is_who_connects() {
        assert_eq!(at("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        assert_eq!(at("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(at("::ffff:127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(at("127.0.0.1", &["198.51.100.1, 10.1.1.1", "10.2.2.2"]), "198.51.100.1");
    }

    #[test]
    fn what_the_client_wrote_itself_counts_for_nothing() {
        assert_eq!(at("127.0.0.1", &["1.1.1.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(at("127.0.0.1", &["127.0.0.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(at("127.0.0.1", &["garbage, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(at("127.0.0.1", &["198.51.100.1, garbage"]), "127.0.0.1");
    }

    #[test]
    fn addresses_of_one_subscriber_share_a_limit() {
        let failures = Failures::per_minute(2);
        let refuse = |ip: &str| {
            let refusal = failures.answer(ip.parse().unwrap(), Problem::unauthenticated(""));
            axum::response::IntoResponse::into_response(refusal).status().as_u16()
        };
        assert_eq!(refuse("2001:db8::1"), 401);
        assert_eq!(refuse("2001:db8::2"), 401);
        assert_eq!(refuse("2001:db8::3"), 429);
        assert_eq!(refuse("2001:db8:0:1::1"), 401);
    }
}
