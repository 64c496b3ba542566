//! What keeps others from guessing: a shield in this process, then limits that all gateways share.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::config;
use crate::store::limits::{Decision, Rule};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;

/// The time that the settings speak of, in seconds.
const WINDOW: u64 = 60;
/// What a failure from an address counts for.
const FAILURE: u32 = 3;

/// What was decided by which policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub policy: &'static str,
    /// Attempts that it allows in a window.
    pub quota: u32,
    /// The window, in seconds.
    pub window: u64,
    /// Attempts that are left.
    pub left: u64,
    /// Seconds until all of them are there again.
    pub reset: u64,
    /// Seconds until one is allowed.
    pub wait: u64,
}

/// Decides who may try.
pub(super) struct Limits {
    shield: Shield,
    store: Store,
    account: Rule,
    address: Rule,
    all: Rule,
}

impl Limits {
    pub(super) fn new(store: Store, settings: &config::Limits) -> Self {
        let longest = settings.longest_delay;
        let rule = |most: u32, price, rows| {
            let every = Duration::from_secs(WINDOW) / most;
            Rule { every: every.max(Duration::from_millis(1)), most, price, longest, rows }
        };
        Self {
            shield: Shield::new(settings.logins_per_address),
            store,
            account: rule(settings.logins_per_account, 1, true),
            address: rule(
                settings.logins_per_address,
                FAILURE.min(settings.logins_per_address),
                false,
            ),
            all: rule(settings.logins_in_all, 1, false),
        }
    }

    /// Whether somebody may try. A device that is known to be the user's has a lane of its own, which
    /// nobody else can fill. Who is refused by one policy is not counted by the next.
    pub(super) async fn decide(
        &self,
        username: &str,
        address: IpAddr,
        device: Option<&str>,
    ) -> Result<Result<Verdict, Verdict>, StoreError> {
        if let Some(device) = device {
            return self.ask("device", &of_device(device), &self.account).await;
        }
        if let Err(wait) = self.shield.check(address) {
            metrics::rate_limit("shield", false);
            let (quota, wait) = (self.address.most, seconds(wait));
            let policy = "address";
            let verdict = Verdict { policy, quota, window: WINDOW, left: 0, reset: wait, wait };
            return Ok(Err(verdict));
        }
        let refused = self.ask("address", &of_address(address), &self.address).await?;
        if refused.is_err() {
            return Ok(refused);
        }
        let account = self.ask("account", &of_account(username), &self.account).await?;
        if account.is_err() {
            return Ok(account);
        }
        let refused = self.ask("all", "all", &self.all).await?;
        Ok(if refused.is_err() { refused } else { account })
    }

    /// An attempt succeeded: it costs less, and ends the row of failures.
    pub(super) async fn forgive(
        &self,
        username: &str,
        address: IpAddr,
        device: Option<&str>,
    ) -> Result<(), StoreError> {
        if let Some(device) = device {
            return self.store.rate_forgive(&of_device(device), &self.account, 1).await;
        }
        let back = self.address.price - 1;
        if back > 0 {
            self.store.rate_forgive(&of_address(address), &self.address, back).await?;
        }
        self.store.rate_forgive(&of_account(username), &self.account, 1).await
    }

    async fn ask(
        &self,
        policy: &'static str,
        subject: &str,
        rule: &Rule,
    ) -> Result<Result<Verdict, Verdict>, StoreError> {
        let Decision { allowed, left, wait, reset } = self.store.rate_limit(subject, rule).await?;
        metrics::rate_limit(policy, allowed);
        let (wait, reset) = (seconds(wait), seconds(reset));
        let verdict = Verdict { policy, quota: rule.most, window: WINDOW, left, reset, wait };
        Ok(if allowed { Ok(verdict) } else { Err(verdict) })
    }
}

fn seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

fn of_device(device: &str) -> String {
    format!("device:{device}")
}

/// What was typed may be anything, and must not be read in the store.
fn of_account(username: &str) -> String {
    let digest = digest::digest(&digest::SHA256, username.as_bytes());
    format!("account:{}", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]))
}

fn of_address(address: IpAddr) -> String {
    format!("address:{}", prefix(address))
}

/// A subscriber of IPv6 holds a /64, so its addresses count as one.
fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Spares the store what one gateway can see by itself. It has a fixed number of places, which
/// addresses share by a hash that nobody outside knows: more of them make it stricter, never bigger.
struct Shield {
    places: Box<[DefaultDirectRateLimiter]>,
    choose: RandomState,
}

impl Shield {
    const PLACES: u16 = 16_384;

    fn new(per_minute: u32) -> Self {
        // The limit itself is kept in the store; here twice as many pass.
        let most = NonZeroU32::new(per_minute.saturating_mul(2)).unwrap_or(NonZeroU32::MIN);
        let place = |_| RateLimiter::direct(Quota::per_minute(most));
        Self { places: (0..Self::PLACES).map(place).collect(), choose: RandomState::new() }
    }

    fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let place = self.choose.hash_one(prefix(address)) % u64::from(Self::PLACES);
        let place = &self.places[usize::try_from(place).unwrap_or(0)];
        place.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shield_counts_subscribers_and_does_not_grow() {
        let shield = Shield::new(1);
        let check = |address: &str| shield.check(address.parse().unwrap()).is_ok();
        assert!(check("2001:db8::1") && check("2001:db8::2"));
        assert!(!check("2001:db8::3"), "the same subscriber");
        for i in 0..300_000 {
            let _ = shield.check(IpAddr::V6(Ipv6Addr::from_bits(i << 64)));
        }
        let passed = (300_000..310_000)
            .filter(|i| shield.check(IpAddr::V6(Ipv6Addr::from_bits(i << 64))).is_ok());
        assert_eq!(passed.count(), 0, "full is strict");
    }
}
