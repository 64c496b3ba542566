//! `/api/v1/sessions/revocations`: revocations as they happen (server-sent events, HTML standard
//! section 9.2), so that backends close what they hold open.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use futures::Stream;
use futures::stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Interval, interval};

use super::App;
use super::caller::Service;
use super::problem::Problem;
use crate::check::Missed;
use crate::config::Scope;
use crate::model::{Revocation, Timestamp};
use crate::state::{Gateway, retention};

/// Backends that follow at once.
const FOLLOWERS: usize = 100;
/// How often it is looked whether the gateway is still of use.
const LOOK: Duration = Duration::from_secs(1);
/// Every so many looks something is sent, so that both sides know that the other is there.
const QUIET_LOOKS: u32 = 10;

/// Follows revocations from now on, or from the event that `Last-Event-ID` names.
pub(super) async fn follow(
    State(gateway): App,
    service: Service,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    service.may(&[Scope::FeedRead])?;
    let last = headers.get("last-event-id").map(|id| {
        let id = id.to_str().ok().and_then(|text| text.parse().ok()).map(Timestamp);
        id.ok_or_else(|| Problem::invalid("Last-Event-ID", "is not the id of an event"))
    });
    let last = last.transpose()?;
    let news = &gateway.check.revocations.news;
    if news.followers() >= FOLLOWERS {
        return Err(Problem::overloaded());
    }
    let more = news.follow();
    let follower = Follower::new(gateway, more, last).ok_or_else(Problem::unavailable)?;
    Ok(Sse::new(stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    })))
}

struct Follower {
    gateway: Arc<Gateway>,
    more: watch::Receiver<u64>,
    /// Up to where `ready` goes.
    read: u64,
    ready: VecDeque<Event>,
    looks: Interval,
    quiet: u32,
}

impl Follower {
    /// `None` when the gateway does not know itself.
    fn new(
        gateway: Arc<Gateway>,
        more: watch::Receiver<u64>,
        last: Option<Timestamp>,
    ) -> Option<Self> {
        let place = place(&gateway)?;
        let news = &gateway.check.revocations.news;
        // Noted first: what comes in between is sent twice rather than never.
        let read = news.count();
        let missed = last.map(|last| {
            if last.0 + u64::try_from(retention(&gateway.config).as_millis()).ok()? < place.0 {
                return None;
            }
            news.since(last).ok()
        });
        let ready = match missed {
            // Without a name and data it is no event, but its id is remembered.
            None => VecDeque::from([Event::default().id(place.0.to_string()).comment("following")]),
            Some(missed) => events(missed.ok_or(Missed), place),
        };
        Some(Self { gateway, more, read, ready, looks: interval(LOOK), quiet: 0 })
    }

    /// The next event, or nothing more when another gateway should be asked.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.quiet = 0;
                return Some(event);
            }
            tokio::select! {
                changed = self.more.changed() => changed.ok()?,
                _ = self.looks.tick() => self.quiet += 1,
            }
            let place = place(&self.gateway)?;
            let news = &self.gateway.check.revocations.news;
            let count = news.count();
            self.ready = events(news.after(self.read), place);
            self.read = count;
            if self.ready.is_empty() && self.quiet >= QUIET_LOOKS {
                self.ready.push_back(Event::default().id(place.0.to_string()).comment("quiet"));
            }
        }
    }
}

/// A time of the store up to which this gateway provably knows every revocation: the id of what is
/// sent from now on, because it is a place that every other gateway can read on from.
fn place(gateway: &Gateway) -> Option<Timestamp> {
    let check = &gateway.check;
    let staleness = check.freshness.worst();
    let fresh = staleness <= gateway.config.check.max_staleness && !gateway.is_stopping();
    let staleness = u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX);
    fresh.then(|| Timestamp(check.revocations.clock().0.saturating_sub(staleness)))
}

fn events(revocations: Result<Vec<Revocation>, Missed>, place: Timestamp) -> VecDeque<Event> {
    let event = |name: &str, data: serde_json::Value| {
        Event::default().id(place.0.to_string()).event(name).data(data.to_string())
    };
    match revocations {
        Ok(revocations) => {
            let data = revocations.into_iter().map(|revocation| match revocation {
                Revocation::Session(session) => json!({ "session": session }),
                Revocation::Credentials { session, before } => {
                    json!({ "session": session, "before": before })
                }
                Revocation::User { user, before, kept } => {
                    json!({ "user": user, "before": before, "except": kept })
                }
                Revocation::Everything { before } => {
                    json!({ "everything": true, "before": before })
                }
            });
            data.map(|data| event("revoked", data)).collect()
        }
        Err(Missed) => VecDeque::from([event("missed", json!({}))]),
    }
}
