//! What can be done with sessions in the store: a function a script, of the same name.

use std::time::Duration;

use aws_lc_rs::digest::{self, Digest};
use fred::prelude::*;

pub use super::reply::Record;
use super::reply::{Fields, Reply};
use super::{Store, StoreError, keys, millis, scripts};
use crate::config::OnLimit;
use crate::model::{EndCause, Location, Revocation, Session, SessionId, Timestamp, UserId};
use crate::token::handle::Seed;

fn policy(on_limit: OnLimit) -> &'static str {
    match on_limit {
        OnLimit::EvictOldest => "evict_oldest",
        OnLimit::EvictIdle => "evict_idle",
        OnLimit::Reject => "reject",
    }
}

/// Limits of a new session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many sessions the user may have.
    pub sessions: u32,
    /// What happens at the limit.
    pub on_limit: OnLimit,
    /// Life without activity.
    pub idle: Duration,
    /// Life in any case.
    pub absolute: Duration,
}

/// What a record says of the login that began it, beyond what its user is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The mark of the password.
    pub mark: Option<String>,
    /// The device, when it is remembered.
    pub device: Option<String>,
    /// What its user chose to end for it.
    pub choice: Option<Choice>,
}

/// Sessions that end for a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Counts once.
    pub ticket: String,
    /// Which. Those that have ended meanwhile do no harm.
    pub ends: Vec<SessionId>,
}

/// How a create went.
pub enum Created {
    /// It began.
    New {
        /// When tokens for it are issued.
        issued: Timestamp,
        /// With the times that the store decided.
        session: Session,
        /// What ended to make room.
        evicted: Vec<SessionId>,
    },
    /// The same request came before; this is what it made.
    Replayed {
        /// When tokens for it are issued.
        issued: Timestamp,
        /// As it is stored.
        record: Record,
    },
    /// The same id was used before, for something else or too long ago.
    Conflict,
    /// The user has as many as they may: these.
    Limit(Vec<Session>),
    /// The ticket was used before.
    Spent,
}

/// A refresh that was granted.
pub struct Granted {
    /// When the tokens are issued.
    pub issued: Timestamp,
    /// With the generation to hand out.
    pub record: Record,
    /// Why.
    pub how: Grant,
}

/// Why a refresh was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The current generation was presented.
    Rotated,
    /// The previous one, within the grace window.
    Concurrent,
    /// The previous one, while nobody has used its successor.
    LostReply,
    /// A generation that the store had lost.
    RolledForward,
}

/// Why a refresh was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such session, and none that ended lately.
    Unknown,
    /// Genuine, but not of this session as it is now.
    Forged,
    /// The session has expired.
    Expired,
    /// It was ended.
    Revoked,
    /// A used token was presented again. The session is dead.
    Reused,
    /// The previous token came from another client than the one that rotated it.
    ForeignDevice,
}

/// One session's activity since the last batch.
#[derive(Debug, Clone)]
pub struct Activity {
    /// Which.
    pub session: SessionId,
    /// How long ago it was last seen.
    pub age: Duration,
    /// The newest generation seen in use.
    pub generation: u32,
    /// Where from, if that changed.
    pub place: Option<(String, Option<Location>)>,
}

/// The outcome of a batch of the sweeper.
#[derive(Debug, Clone, Copy)]
pub struct Swept {
    /// Sessions cleared away.
    pub ended: u64,
    /// Another batch is waiting.
    pub more: bool,
    /// Live sessions left in the bucket.
    pub active: u64,
}

/// A name for a text, of the form that takes least in the store.
fn short(digest: &Digest) -> i64 {
    digest.as_ref().first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

impl Store {
    /// Starts a session. When it is repeatable, its id names the request too, and the same id again is
    /// the same answer; otherwise the id must be a new one.
    pub async fn session_create(
        &self,
        mut session: Session,
        seed: Seed,
        family: u64,
        limits: Limits,
        repeatable: bool,
        origin: &Origin,
    ) -> Result<Created, StoreError> {
        /// For how long a request can be repeated.
        const REPLAY_MS: i64 = 600_000;
        /// For how long a used ticket is remembered: longer than it is good for.
        const TICKET_MS: i64 = 600_000;
        let bucket = self.bucket_of(&session.user);
        let (country, city) = match &session.location {
            Some(place) => (place.country.as_str(), place.city.as_deref().unwrap_or_default()),
            None => ("", ""),
        };
        let agent = match session.user_agent.as_str() {
            "" => String::new(),
            text => short(&digest::digest(&digest::SHA256, text.as_bytes())).to_string(),
        };
        #[cfg(feature = "mutations")]
        let limits = self.limits_seen_before(&session.user, limits).await?;
        let policy = match &origin.choice {
            Some(Choice { ticket, ends }) => {
                let ends: Vec<String> = ends.iter().map(ToString::to_string).collect();
                format!("resolve:{ticket}:{TICKET_MS}:{}", ends.join(","))
            }
            None => policy(limits.on_limit).to_owned(),
        };
        let mut args: Vec<Value> = vec![
            session.id.to_string().into(),
            session.user.as_str().into(),
            i64::from(limits.sessions).into(),
            policy.into(),
            millis(limits.idle).into(),
            millis(limits.absolute).into(),
            (if repeatable { REPLAY_MS } else { 0 }).into(),
            agent.into(),
            session.user_agent.as_str().into(),
            country.into(),
            session.device_class.code().to_string().into(),
        ];
        let mut field = |name: &str, value: Value| args.extend([name.into(), value]);
        field("s", Value::Bytes(seed.to_vec().into()));
        field("f", family.cast_signed().into());
        field("n", session.device_name.as_str().into());
        field("w", session.auth_method.as_str().into());
        if let Some(mark) = &origin.mark {
            field("k", mark.as_str().into());
        }
        if let Some(device) = &origin.device {
            field("z", device.as_str().into());
        }
        if session.remembered {
            field("m", "1".into());
        }
        if !session.roles.is_empty() {
            field("o", session.roles.join(" ").into());
        }
        if !session.ip.is_empty() {
            field("p", session.ip.as_str().into());
        }
        if !city.is_empty() {
            field("l", city.into());
        }
        if !session.claims.is_empty() {
            field("e", serde_json::Value::Object(session.claims.clone()).to_string().into());
        }
        let mut reply = self.run(&scripts::CREATE, bucket, args).await?;
        let outcome = reply.text()?;
        let sid = reply.session_id()?;
        let user = reply.text()?;
        reply.must_echo(sid == session.id && user == session.user.as_str())?;
        match outcome.as_str() {
            "created" => {
                let issued = reply.time()?;
                (session.created, session.last_active, session.auth_time) =
                    (issued, issued, issued);
                session.expires = reply.time()?;
                reply.time()?;
                let evicted = reply.list()?.session_ids()?;
                Ok(Created::New { issued, session, evicted })
            }
            "replayed" => {
                let issued = reply.time()?;
                let expires = reply.time()?;
                let record = reply.session(sid, expires, session.user_agent)?;
                Ok(Created::Replayed { issued, record })
            }
            "conflict" => Ok(Created::Conflict),
            "spent" => Ok(Created::Spent),
            "limit" => Ok(Created::Limit(sessions(reply, &session.user)?)),
            _ => Err(reply.problem("an unknown outcome")),
        }
    }

    /// Exchanges a generation of a refresh token for the next.
    #[expect(clippy::too_many_arguments, reason = "the arguments of one script, in its order")]
    pub async fn session_rotate(
        &self,
        bucket: u8,
        sid: SessionId,
        generation: u32,
        seed: Seed,
        grace: Duration,
        family: u64,
        counts_as_activity: bool,
    ) -> Result<Result<Granted, Refused>, StoreError> {
        /// How long a successor that nobody has seen is given again.
        const UNSEEN_MS: i64 = 24 * 3_600_000;
        let args: Vec<Value> = vec![
            sid.to_string().into(),
            i64::from(generation).into(),
            Value::Bytes(seed.to_vec().into()),
            millis(grace).into(),
            UNSEEN_MS.into(),
            family.cast_signed().into(),
            i64::from(counts_as_activity).into(),
        ];
        #[cfg(feature = "mutations")]
        self.write_what_was_read(bucket, sid).await?;
        // Beside the script and not in it, because a script has to take every field into its hands.
        // Neither order matters: what a rotation changes of the record, it also replies.
        let (key, links) = (keys::session(bucket, sid), self.topology.links(bucket));
        let (mut reply, fields) =
            tokio::try_join!(self.run(&scripts::ROTATE, bucket, args), async {
                Ok(links.next().client().hgetall::<Fields, _>(key).await?)
            })?;
        let outcome = reply.text()?;
        let echoed = reply.session_id()?;
        reply.must_echo(echoed == sid)?;
        let user = reply.text()?;
        let how = match outcome.as_str() {
            "rotated" => Grant::Rotated,
            "concurrent" => Grant::Concurrent,
            "lost_reply" => Grant::LostReply,
            "rolled_forward" => Grant::RolledForward,
            "unknown" => return Ok(Err(Refused::Unknown)),
            "forged" => return Ok(Err(Refused::Forged)),
            "expired" | "ended:expired" => return Ok(Err(Refused::Expired)),
            "reused" | "ended:reused" => return Ok(Err(Refused::Reused)),
            "foreign_device" => return Ok(Err(Refused::ForeignDevice)),
            other if other.starts_with("ended:") => return Ok(Err(Refused::Revoked)),
            _ => return Err(reply.problem("an unknown outcome")),
        };
        let issued = reply.time()?;
        let expires = reply.time()?;
        let granted = reply.number()?;
        if fields.is_empty() {
            // It was ended a moment ago.
            return Ok(Err(Refused::Revoked));
        }
        let mut record = Record::read(&fields, sid, expires, String::new())
            .ok_or_else(|| reply.problem("an incomplete session record"))?;
        reply.must_echo(record.session.user.as_str() == user)?;
        record.session.generation =
            granted.try_into().map_err(|_| reply.problem("a generation out of range"))?;
        Ok(Ok(Granted { issued, record, how }))
    }

    /// Whose a session is, if it is live at this moment.
    pub async fn session_live(
        &self,
        bucket: u8,
        sid: SessionId,
    ) -> Result<Option<UserId>, StoreError> {
        let args = vec![sid.to_string().into()];
        let mut reply = self.run(&scripts::LIVE, bucket, args).await?;
        let outcome = reply.text()?;
        let echoed = reply.session_id()?;
        reply.must_echo(echoed == sid)?;
        if outcome != "live" {
            return Ok(None);
        }
        let user = reply.text()?.parse().map_err(|_| reply.problem("a user id was expected"))?;
        Ok(Some(user))
    }

    /// The live sessions of a user, the last active first.
    pub async fn session_list(&self, user: &UserId) -> Result<Vec<Session>, StoreError> {
        let args = vec![user.as_str().into()];
        let mut reply = self.run(&scripts::LIST, self.bucket_of(user), args).await?;
        reply.must_be("listed")?;
        let echoed = reply.text()?;
        reply.must_echo(echoed == user.as_str())?;
        sessions(reply, user)
    }

    /// Changes what the owner may change. `None` when the session is not theirs or not live.
    pub async fn session_update(
        &self,
        owner: &UserId,
        sid: SessionId,
        device_name: Option<&str>,
        remembered: Option<(bool, Duration)>,
    ) -> Result<Option<Record>, StoreError> {
        let (flag, idle) = match remembered {
            Some((remembered, idle)) => (if remembered { "1" } else { "0" }, millis(idle)),
            None => ("", 0),
        };
        let args: Vec<Value> = vec![
            sid.to_string().into(),
            owner.as_str().into(),
            device_name.unwrap_or_default().into(),
            flag.into(),
            idle.into(),
        ];
        let mut reply = self.run(&scripts::UPDATE, self.bucket_of(owner), args).await?;
        let outcome = reply.text()?;
        let echoed = reply.session_id()?;
        let same = echoed == sid && reply.text()? == owner.as_str();
        reply.must_echo(same)?;
        if outcome != "live" {
            return Ok(None);
        }
        reply.time()?;
        let expires = reply.time()?;
        let agent = reply.text()?;
        let record = reply.session(sid, expires, agent)?;
        reply.must_echo(record.session.user == *owner)?;
        Ok(Some(record))
    }

    /// Records activity. At most 64 sessions of one bucket.
    pub async fn session_touch(&self, bucket: u8, batch: &[Activity]) -> Result<(), StoreError> {
        let mut args: Vec<Value> = Vec::with_capacity(batch.len() * 6);
        for activity in batch {
            let (ip, country, city) = match &activity.place {
                Some((ip, Some(place))) => {
                    (ip.as_str(), place.country.as_str(), place.city.as_deref().unwrap_or_default())
                }
                Some((ip, None)) => (ip.as_str(), "", ""),
                None => ("", "", ""),
            };
            args.extend([
                Value::from(activity.session.to_string()),
                millis(activity.age).into(),
                i64::from(activity.generation).into(),
                ip.into(),
                country.into(),
                city.into(),
            ]);
        }
        self.run(&scripts::TOUCH, bucket, args).await.map(drop)
    }

    /// Ends one session of a user. `false` when there is none, or it is not theirs.
    pub async fn session_revoke(
        &self,
        owner: &UserId,
        sid: SessionId,
        cause: EndCause,
    ) -> Result<bool, StoreError> {
        let args = vec![sid.to_string().into(), owner.as_str().into(), cause.as_str().into()];
        let mut reply = self.run(&scripts::REVOKE, self.bucket_of(owner), args).await?;
        let outcome = reply.text()?;
        let same = reply.session_id()? == sid && reply.text()? == owner.as_str();
        reply.must_echo(same)?;
        Ok(outcome == "ended")
    }

    /// Ends every session of a user, except for one that is live. Returns those that it ended, and what
    /// it said.
    pub async fn session_revoke_all(
        &self,
        user: &UserId,
        kept: Option<SessionId>,
        cause: EndCause,
    ) -> Result<(Vec<SessionId>, Revocation), StoreError> {
        let spared = kept.map_or_else(|| "-".to_owned(), |sid| sid.to_string());
        let args = vec![user.as_str().into(), spared.into(), cause.as_str().into()];
        let mut reply = self.run(&scripts::REVOKE_ALL, self.bucket_of(user), args).await?;
        reply.must_be("ended")?;
        let echoed = reply.text()?;
        reply.must_echo(echoed == user.as_str())?;
        let before = reply.time()?;
        let spared = reply.text()?;
        let kept = kept.filter(|kept| spared == kept.to_string());
        let revocation = Revocation::User { user: user.clone(), before, kept };
        Ok((reply.session_ids()?, revocation))
    }

    /// Everything in a bucket that was issued before now is dead. Returns what it said.
    pub async fn revoke_everything(&self, bucket: u8) -> Result<Revocation, StoreError> {
        let mut reply = self.run(&scripts::EVERYTHING, bucket, Vec::new()).await?;
        reply.must_be("ended")?;
        Ok(Revocation::Everything { before: reply.time()? })
    }

    /// Clears away a batch of what has ended.
    pub async fn session_sweep(&self, bucket: u8) -> Result<Swept, StoreError> {
        const BATCH: i64 = 200;
        let mut reply = self.run(&scripts::SWEEP, bucket, vec![BATCH.into()]).await?;
        reply.must_be("swept")?;
        Ok(Swept { ended: reply.number()?, more: reply.number()? == 1, active: reply.number()? })
    }
}

fn sessions(mut reply: Reply, user: &UserId) -> Result<Vec<Session>, StoreError> {
    let mut sessions = Vec::new();
    while let Some(mut entry) = reply.nested()? {
        let sid = entry.session_id()?;
        let expires = entry.time()?;
        let agent = entry.text()?;
        let session = entry.session(sid, expires, agent)?.session;
        entry.must_echo(session.user == *user)?;
        sessions.push(session);
    }
    sessions.sort_by_key(|session| std::cmp::Reverse(session.last_active));
    Ok(sessions)
}
