//! What happened, as clients saw it: operations with the time of the call and of the answer, and
//! the faults that were made meanwhile, all on one clock.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

/// Microseconds since the run began.
pub(crate) type Time = u64;

/// Never.
pub(crate) const NEVER: Time = Time::MAX;

pub(crate) fn micros(duration: Duration) -> Time {
    Time::try_from(duration.as_micros()).unwrap_or(NEVER)
}

/// A session, by the order in which clients heard of it.
pub(crate) type Sid = usize;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// A session; the same request again is the same session.
    Create { request: usize },
    /// The next pair for a generation of a refresh token. `foreign` clients have another user agent.
    Refresh { session: Sid, generation: u32, foreign: bool },
    /// The end of a session.
    Revoke { session: Sid },
    /// The end of all sessions, except for one.
    RevokeAll { kept: Option<Sid> },
    /// Whether an access token is good; `expires` is what it says of itself.
    Check { session: Sid, generation: u32, expires: Time, strict: bool },
    /// The user's live sessions.
    List,
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not, or no longer, a credential.
    Invalid,
    /// A used token was presented.
    Reused,
    /// The session was ended.
    Revoked,
    /// The session has expired.
    Expired,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// A session began at this millisecond of the store's clock.
    Created { session: Sid, created: u64 },
    /// The next generation; `token` names the text of the refresh token, `issued` is the store's time.
    Granted { generation: u32, token: u64, issued: u64 },
    /// It was ended, now or before.
    Ended,
    /// So many were ended.
    EndedAll(usize),
    /// These are live.
    Listed(Vec<Sid>),
    /// A live session of this user.
    Allowed { user: usize, session: Sid },
    /// No.
    Refused(Refusal),
    /// There is no such session.
    Missing,
    /// The request was used before.
    Conflict,
    /// Nothing was sent, or it was refused before it could change anything.
    NotDone,
    /// Nobody can say: no answer, or 503.
    Unknown,
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Op {
    pub(crate) client: usize,
    pub(crate) gateway: usize,
    pub(crate) user: usize,
    pub(crate) call: Time,
    /// [`NEVER`] for an unknown outcome of what may still happen.
    pub(crate) ret: Time,
    pub(crate) action: Action,
    pub(crate) outcome: Outcome,
}

impl Op {
    /// The session that it speaks of.
    pub(crate) fn session(&self) -> Option<Sid> {
        match (&self.action, &self.outcome) {
            (
                Action::Refresh { session, .. }
                | Action::Revoke { session }
                | Action::Check { session, .. },
                _,
            )
            | (Action::Create { .. }, Outcome::Created { session, .. }) => Some(*session),
            _ => None,
        }
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, ret) = (millis(self.call), millis(self.ret));
        write!(f, "{call:>9} … {ret:>9} ms  gateway {} client {:>2}  ", self.gateway, self.client)?;
        match &self.action {
            Action::Create { request } => write!(f, "create (request {request})")?,
            Action::Refresh { session, generation, foreign } => {
                let who = if *foreign { " by another client" } else { "" };
                write!(f, "refresh s{session} generation {generation}{who}")?;
            }
            Action::Revoke { session } => write!(f, "revoke s{session}")?,
            Action::RevokeAll { kept: Some(kept) } => write!(f, "revoke all but s{kept}")?,
            Action::RevokeAll { kept: None } => write!(f, "revoke all")?,
            Action::Check { session, generation, expires, strict } => {
                let how = if *strict { "strict check" } else { "check" };
                write!(f, "{how} s{session} generation {generation} (to {})", millis(*expires))?;
            }
            Action::List => write!(f, "list")?,
        }
        match &self.outcome {
            Outcome::Created { session, created } => write!(f, " → s{session}, at {created}"),
            Outcome::Granted { generation, .. } => write!(f, " → generation {generation}"),
            Outcome::Listed(sessions) => write!(f, " → {sessions:?}"),
            Outcome::Allowed { user, session } => write!(f, " → allowed, user {user} s{session}"),
            Outcome::Refused(why) => write!(f, " → refused: {why:?}"),
            other => write!(f, " → {other:?}"),
        }
    }
}

fn millis(time: Time) -> String {
    match time {
        NEVER => "?".to_owned(),
        // Tenths of a millisecond are enough.
        _ => format!("{}.{}", time / 1000, time % 1000 / 100),
    }
}

/// A fault, from the moment it was made until it was undone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    pub(crate) from: Time,
    pub(crate) to: Time,
    pub(crate) what: String,
    /// Who cannot learn anything from the store meanwhile.
    pub(crate) outage: Outage,
}

/// Whom a fault keeps from the store altogether.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    Nobody,
    Gateway(usize),
    Everybody,
}

/// What ended a session, and what began one, in the order in which the store did it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) user: usize,
    pub(crate) session: Sid,
    /// When, by the store.
    pub(crate) at: Time,
    /// `None`: it began.
    pub(crate) ended: Option<String>,
}

/// What was left when everything had come to rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rest {
    /// The store's own record of beginnings and ends.
    pub(crate) events: Vec<Event>,
    /// By user: the sessions that the store counts.
    pub(crate) live: BTreeMap<usize, Vec<Sid>>,
    /// The sessions that have a record.
    pub(crate) records: Vec<Sid>,
    /// Sequence numbers by bucket, in the order in which they were read.
    pub(crate) sequences: Vec<(Time, BTreeMap<String, u64>)>,
    /// Gateways that did not become ready in time, and what they said.
    pub(crate) not_ready: Vec<String>,
    /// Checks of every token that had not expired, on every gateway.
    pub(crate) checks: Vec<Op>,
}

/// What the gateways were set to. Times are microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise {
    /// Sessions of a user.
    pub(crate) limit: usize,
    /// From a revocation's answer until all refuse, when nothing is wrong.
    pub(crate) healthy: Time,
    /// The same, whatever is wrong: `check.max_staleness`.
    pub(crate) staleness: Time,
    /// `tokens.grace`.
    pub(crate) grace: Time,
    /// How long a token is accepted after it expired: the leeway, and how far clocks are apart.
    pub(crate) leeway: Time,
    /// `sessions.absolute`.
    pub(crate) absolute: Time,
    /// For this long after a fault things may not be as usual yet.
    pub(crate) recovery: Time,
    /// Sessions do not expire during the run.
    pub(crate) long_lived: bool,
    /// A failover lost writes: revocations are back this long after it.
    pub(crate) reasserted: Option<Time>,
}

/// Everything about one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct History {
    pub(crate) promise: Promise,
    /// By call.
    pub(crate) ops: Vec<Op>,
    pub(crate) faults: Vec<Span>,
    /// When and for how long the machine did not let us run.
    pub(crate) stalls: Vec<(Time, Time)>,
    /// Milliseconds of the store's clock at which the run began.
    pub(crate) epoch: u64,
    pub(crate) names: Vec<String>,
    pub(crate) rest: Rest,
}

impl History {
    /// How long a revocation that was acknowledged at `from` may stay unseen at `to`.
    pub(crate) fn bound(&self, from: Time, to: Time) -> Time {
        let promise = &self.promise;
        if !self.calm(from, to) {
            return promise.staleness;
        }
        let stalled = self.stalls.iter().filter(|(at, _)| (from..to).contains(at));
        (promise.healthy + stalled.map(|(_, length)| length).sum::<Time>()).min(promise.staleness)
    }

    /// Whether no fault was made, and none was too recent, between two times.
    pub(crate) fn calm(&self, from: Time, to: Time) -> bool {
        let recovery = self.promise.recovery;
        self.faults.iter().all(|span| to < span.from || span.to.saturating_add(recovery) < from)
    }

    /// A moment of the store's clock, in milliseconds, on ours.
    pub(crate) fn stores(&self, millis: u64) -> Time {
        millis.saturating_sub(self.epoch) * 1000
    }

    /// Operations about a session, and those about all of its user's.
    pub(crate) fn about(&self, user: usize, session: Option<Sid>) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(move |op| {
            op.user == user
                && match (op.session(), session) {
                    (Some(of), Some(session)) => of == session,
                    _ => true,
                }
        })
    }

    /// When a failover that lost writes was over, and revocations were to be back.
    pub(crate) fn failover(&self) -> Option<(Time, Time)> {
        let reasserted = self.promise.reasserted?;
        let span = self.faults.iter().find(|span| span.what.starts_with("failover"))?;
        Some((span.from, span.to + reasserted))
    }
}
