//! What can be done with a session: begin, refresh, list, change, end. No HTTP, no Redis commands.

mod agent;
pub mod device;
pub mod location;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use futures::future::try_join_all;
use serde_json::{Map, Value};

use crate::config::{self, OnLimit, OnLogin};
use crate::model::{EndCause, Revocation, Session, SessionId, Timestamp, UserId};
use crate::store::accounts;
use crate::store::sessions::{Created, Grant, Granted, Limits, Origin, Record, Refused};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;
use crate::token::access::AccessTokens;
use crate::token::handle::{Handle, HandleKind, Seed};
use crate::token::{KeyError, KeyRing};
use location::Locations;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The store did not answer; it can be tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cryptography failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The user has as many sessions as they may: these.
    #[error("the user has as many sessions as they may")]
    Limit(Vec<Session>),
    /// The request id was used before.
    #[error("the request_id was used before; send a new one for each login")]
    Conflict,
    /// The ticket was used before.
    #[error("the ticket was used before")]
    Spent,
    /// The refresh token is not good, and why.
    #[error("the refresh token was refused")]
    Refused(Refused),
}

/// Who says that a user has authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voucher {
    /// A backend.
    Service,
    /// This gateway: the user knew their password.
    Password,
}

/// Somebody who was authenticated.
pub struct NewSession {
    /// Who.
    pub user: UserId,
    /// Where they are.
    pub ip: Option<IpAddr>,
    /// Their `User-Agent`; empty when unknown.
    pub user_agent: String,
    /// What to call the device; otherwise the user agent tells.
    pub device_name: Option<String>,
    /// They chose "remember this device".
    pub remember: bool,
    /// What they may do.
    pub roles: Vec<String>,
    /// What else goes into access tokens.
    pub claims: Map<String, Value>,
    /// How they were authenticated (RFC 8176).
    pub auth_method: String,
    /// Who asks, and their id of this request: the same id again is the same session.
    pub request: Option<(String, String)>,
    /// By whom they were authenticated.
    pub voucher: Voucher,
    /// What the record says of the login, beyond what the user is shown.
    pub origin: Origin,
}

/// A session to issue credentials for.
pub struct Begun {
    /// The session.
    pub session: Session,
    /// When what is issued for it is issued.
    pub issued: Timestamp,
    seed: Seed,
}

/// A pair of tokens and their session.
pub struct Tokens {
    /// The JWT.
    pub access: String,
    /// Its life in seconds.
    pub expires_in: u64,
    /// The handle for the next pair.
    pub refresh: String,
    /// Its life in seconds.
    pub refresh_expires_in: u64,
    /// Whose they are.
    pub session: Session,
}

/// The life of sessions, over a store.
pub struct Sessions {
    store: Store,
    keys: Arc<KeyRing>,
    tokens: AccessTokens,
    locations: Arc<Locations>,
    settings: config::Sessions,
    grace: Duration,
}

impl Sessions {
    /// Sessions in a store, with tokens of these keys.
    pub fn new(
        store: Store,
        keys: Arc<KeyRing>,
        tokens: AccessTokens,
        locations: Arc<Locations>,
        config: &config::Config,
    ) -> Self {
        let settings = config.sessions.clone();
        Self { store, keys, tokens, locations, settings, grace: config.tokens.grace }
    }

    /// Begins a session. Also returns what had to end for it.
    pub async fn begin(&self, new: NewSession) -> Result<(Begun, Vec<SessionId>), SessionError> {
        let id = self.new_id(&new)?;
        let mut seed = Seed::default();
        rand::fill(&mut seed).map_err(|_| KeyError::Crypto("no randomness"))?;
        let family = device::family(&new.user_agent);
        let device = device::describe(&new.user_agent);
        let (idle, absolute) = self.lifetimes(new.remember);
        let (on_limit, method) = match new.voucher {
            Voucher::Service => (self.settings.on_limit_service, "service"),
            Voucher::Password => (self.at_login(), "password"),
        };
        let limits = Limits { sessions: self.limit(&new.roles), on_limit, idle, absolute };
        let session = Session {
            id,
            user: new.user,
            device_name: new.device_name.unwrap_or(device.name),
            device_class: device.class,
            ip: new.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            user_agent: new.user_agent,
            location: new.ip.and_then(|ip| self.locations.locate(ip)),
            created: Timestamp::default(),
            last_active: Timestamp::default(),
            expires: Timestamp::default(),
            remembered: new.remember,
            generation: 1,
            auth_time: Timestamp::default(),
            auth_method: new.auth_method,
            roles: new.roles,
            claims: new.claims,
        };
        let repeatable = new.request.is_some();
        let ended = if new.origin.choice.is_some() { "revoked" } else { "evicted" };
        let created = self
            .store
            .session_create(session, seed, family, limits, repeatable, &new.origin)
            .await?;
        match created {
            Created::New { issued, session, evicted } => {
                metrics::session_created(method);
                metrics::sessions_ended(ended, evicted.len() as u64);
                Ok((Begun { session, issued, seed }, evicted))
            }
            Created::Replayed { issued, record: Record { session, seed } } => {
                Ok((Begun { session, issued, seed }, Vec::new()))
            }
            Created::Conflict => Err(SessionError::Conflict),
            Created::Limit(sessions) => Err(SessionError::Limit(sessions)),
            Created::Spent => Err(SessionError::Spent),
        }
    }

    /// Goes on with a session whose user proved again who they are: with new credentials, while all that
    /// was issued before is dead. `None` when it is not theirs or has ended.
    pub async fn reauthenticate(
        &self,
        user: &UserId,
        sid: SessionId,
        method: &str,
        mark: &str,
    ) -> Result<Option<Begun>, SessionError> {
        let mut seed = Seed::default();
        rand::fill(&mut seed).map_err(|_| KeyError::Crypto("no randomness"))?;
        let renewed = self.store.session_reauthenticate(user, sid, seed, method, mark).await?;
        Ok(renewed.map(|(issued, Record { session, seed })| Begun { session, issued, seed }))
    }

    /// The tokens of a session.
    pub fn tokens(&self, begun: Begun) -> Result<Tokens, KeyError> {
        self.issue(begun.session, begun.seed, begun.issued)
    }

    /// What the browser of a session keeps.
    pub fn cookie(&self, begun: &Begun) -> String {
        let handle = Handle {
            bucket: self.store.bucket_of(&begun.session.user),
            session: begun.session.id,
            generation: begun.session.generation,
            seed: begun.seed,
        };
        handle.encode(HandleKind::Cookie, &self.keys)
    }

    /// Exchanges a refresh token for the next pair.
    pub async fn refresh(&self, token: &str, user_agent: &str) -> Result<Tokens, SessionError> {
        let refused = |why: Refused| {
            metrics::refresh(match why {
                Refused::Unknown | Refused::Forged => "invalid",
                Refused::Expired => "expired",
                Refused::Revoked => "revoked",
                Refused::Reused => "stale",
                Refused::ForeignDevice => "foreign_device",
            });
            SessionError::Refused(why)
        };
        let handle = Handle::decode(HandleKind::Refresh, token, &self.keys)
            .map_err(|_| refused(Refused::Forged))?;
        let rotated = self
            .store
            .session_rotate(
                handle.bucket,
                handle.session,
                handle.generation,
                handle.seed,
                self.grace,
                device::family(user_agent),
                self.settings.refresh_extends_idle,
            )
            .await?;
        match rotated {
            Ok(Granted { issued, record, how }) => {
                metrics::refresh(match how {
                    Grant::Rotated => "rotated",
                    Grant::Concurrent => "concurrent",
                    Grant::LostReply => "lost_reply",
                    Grant::RolledForward => "rolled_forward",
                });
                Ok(self.issue(record.session, record.seed, issued)?)
            }
            Err(why) => Err(refused(why)),
        }
    }

    /// The live sessions of a user, the last active first.
    pub async fn list(&self, user: &UserId) -> Result<Vec<Session>, StoreError> {
        self.store.session_list(user).await
    }

    /// How many sessions a user with these roles may have.
    pub fn limit(&self, roles: &[String]) -> u32 {
        let theirs = self.settings.role_limits.iter().filter(|limit| roles.contains(&limit.role));
        theirs.map(|limit| limit.limit).min().unwrap_or(self.settings.limit)
    }

    /// What happens to one more that a person logs in for. Who is asked is refused first.
    fn at_login(&self) -> OnLimit {
        match self.settings.on_limit {
            OnLogin::Ask | OnLogin::Reject => OnLimit::Reject,
            OnLogin::EvictOldest => OnLimit::EvictOldest,
            OnLogin::EvictIdle => OnLimit::EvictIdle,
        }
    }

    /// Whether people are asked what is to end for one session more.
    pub fn asks(&self) -> bool {
        self.settings.on_limit == OnLogin::Ask
    }

    /// Makes the sessions of a user agree with the password file: `mark` is that of their password,
    /// [`DISABLED`](accounts::DISABLED) or [`GONE`](accounts::GONE).
    pub async fn follow_account(&self, user: &UserId, mark: &str) -> Result<(), StoreError> {
        let cause = if mark == accounts::DISABLED { "disabled" } else { "password_changed" };
        let ended = self.store.account_sync(user, mark, cause).await?;
        metrics::sessions_ended(cause, ended.len() as u64);
        Ok(())
    }

    /// Whom the password file has named.
    pub async fn accounts(&self) -> Result<Vec<UserId>, StoreError> {
        self.store.accounts().await
    }

    /// Changes a session of `owner`. `None` when it is not theirs.
    pub async fn update(
        &self,
        owner: &UserId,
        sid: SessionId,
        device_name: Option<&str>,
        remembered: Option<bool>,
    ) -> Result<Option<Session>, StoreError> {
        let remembered = remembered.map(|flag| (flag, self.lifetimes(flag).0));
        let record = self.store.session_update(owner, sid, device_name, remembered).await?;
        Ok(record.map(|record| record.session))
    }

    /// Ends a session of `owner`. `false` when it is not theirs.
    pub async fn revoke(
        &self,
        owner: &UserId,
        sid: SessionId,
        cause: EndCause,
    ) -> Result<bool, StoreError> {
        let ended = self.store.session_revoke(owner, sid, cause).await?;
        metrics::sessions_ended(cause.as_str(), u64::from(ended));
        Ok(ended)
    }

    /// Ends all sessions of a user, except for one. Returns how many there were, and what to call it.
    pub async fn revoke_all(
        &self,
        user: &UserId,
        kept: Option<SessionId>,
        cause: EndCause,
    ) -> Result<(usize, Revocation), StoreError> {
        let (ended, revocation) = self.store.session_revoke_all(user, kept, cause).await?;
        metrics::sessions_ended(cause.as_str(), ended.len() as u64);
        Ok((ended.len(), revocation))
    }

    /// Ends everything that began before now. Returns, by bucket, what to call it.
    pub async fn revoke_everything(&self) -> Result<Vec<Revocation>, StoreError> {
        let buckets = (0..self.store.buckets())
            .map(|bucket| self.store.revoke_everything(u8::try_from(bucket).unwrap_or(u8::MAX)));
        try_join_all(buckets).await
    }

    /// Clears away all that has ended by now, in every bucket.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let (mut ended, mut active) = (0, 0);
        for bucket in 0..self.store.buckets() {
            let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
            loop {
                let swept = self.store.session_sweep(bucket).await?;
                ended += swept.ended;
                if !swept.more {
                    active += swept.active;
                    break;
                }
            }
        }
        metrics::sessions_ended("expired", ended);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::sessions_active(active as f64);
        Ok(ended)
    }

    /// Idle and absolute.
    fn lifetimes(&self, remembered: bool) -> (Duration, Duration) {
        let settings = &self.settings;
        if remembered {
            (settings.remembered_idle, settings.remembered_absolute)
        } else {
            (settings.idle, settings.absolute)
        }
    }

    /// Random, or the same for the same request of the same backend for the same user.
    fn new_id(&self, new: &NewSession) -> Result<SessionId, KeyError> {
        let mut id = [0; 16];
        match &new.request {
            Some((service, request)) => {
                let mut context = hmac::Context::with_key(self.keys.request_key());
                for part in [service, new.user.as_str(), request] {
                    context.update(&(part.len() as u64).to_be_bytes());
                    context.update(part.as_bytes());
                }
                id.copy_from_slice(&context.sign().as_ref()[..16]);
            }
            None => rand::fill(&mut id).map_err(|_| KeyError::Crypto("no randomness"))?,
        }
        Ok(SessionId(id))
    }

    fn issue(&self, session: Session, seed: Seed, issued: Timestamp) -> Result<Tokens, KeyError> {
        let (access, expires_in) = self.tokens.issue(&session, issued, &self.keys)?;
        let handle = Handle {
            bucket: self.store.bucket_of(&session.user),
            session: session.id,
            generation: session.generation,
            seed,
        };
        Ok(Tokens {
            access,
            expires_in,
            refresh: handle.encode(HandleKind::Refresh, &self.keys),
            refresh_expires_in: session.expires.since(issued) / 1000,
            session,
        })
    }
}
