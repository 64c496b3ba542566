//! How people log in: the password file, and what keeps others from guessing.

mod limits;
pub mod password;
mod ticket;
pub mod users;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::model::{EndCause, Session, SessionId, UserId};
use crate::sessions::{Begun, NewSession, SessionError, Sessions, Voucher};
use crate::store::accounts::{DISABLED, GONE};
use crate::store::sessions::{Choice, Origin};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;
use crate::token::sealed::Sealed;
use crate::token::{KeyError, KeyRing};
use limits::Limits;
pub use limits::Verdict;
use password::{Busy, Passwords};
use ticket::Ticket;
use users::{User, Users};

/// How often the password file is looked at. A change counts at the second look.
const LOOK: Duration = Duration::from_millis(50);

/// Somebody who wants to log in.
pub struct Attempt {
    /// Who they say they are.
    pub username: String,
    /// How they prove it.
    pub password: SecretString,
    /// Where they are.
    pub address: IpAddr,
    /// Their `User-Agent`; empty when unknown.
    pub user_agent: String,
    /// What to call the device; otherwise the user agent tells.
    pub device_name: Option<String>,
    /// They chose "remember this device".
    pub remember: bool,
    /// What the client is to hold.
    pub mode: Mode,
    /// What tells their browser from another, where it has to be the same until the end.
    pub browser: Option<String>,
    /// What their device was given when it was to be remembered.
    pub device: Option<String>,
    /// The session that they have, and whose it is.
    pub current: Option<(UserId, SessionId)>,
}

/// Somebody who may try.
pub struct Admitted {
    attempt: Attempt,
    /// The name of the device, which is known to be that of its user.
    known: Option<Device>,
    /// How often they may still try.
    pub verdict: Verdict,
}

/// A device that is remembered, or will be.
struct Device {
    id: String,
    /// What its user calls it.
    name: Option<String>,
}

/// Somebody who was asked which session is to end, and chose.
pub struct Resolution {
    /// Proves that they logged in before.
    pub ticket: String,
    /// What they chose.
    pub revoke: Vec<SessionId>,
    /// Where they are.
    pub address: IpAddr,
    /// Their `User-Agent`; empty when unknown.
    pub user_agent: String,
    /// What tells their browser from another.
    pub browser: Option<String>,
}

/// What a client is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// An access token and a refresh token.
    #[default]
    Token,
    /// The session cookie.
    Cookie,
}

/// Somebody who was let in.
pub struct Entered {
    /// Their session.
    pub begun: Begun,
    /// What the client is to hold.
    pub mode: Mode,
    /// What ended for it.
    pub evicted: Vec<SessionId>,
    /// What the device is to keep, when it is to be remembered.
    pub device: Option<String>,
}

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Nobody has this name and this password, or they may not log in.
    #[error("the user name or the password is wrong")]
    Credentials,
    /// They have tried too often.
    #[error("too many logins were tried")]
    Limited(Verdict),
    /// More passwords wait to be compared than may.
    #[error("too many logins at once")]
    Busy,
    /// The user has as many sessions as they may.
    #[error("the user has as many sessions as they may")]
    Full {
        /// These.
        sessions: Vec<Session>,
        /// With this and a choice of them they are let in, if they may choose.
        ticket: Option<String>,
        /// What their browser has to show then.
        browser: Option<String>,
    },
    /// The ticket is not good, or no longer.
    #[error("the ticket is not good, or no longer")]
    Ticket,
    /// The session could not begin.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<KeyError> for LoginError {
    fn from(error: KeyError) -> Self {
        Self::Session(error.into())
    }
}

impl From<StoreError> for LoginError {
    fn from(error: StoreError) -> Self {
        Self::Session(error.into())
    }
}

/// Logs people in.
pub struct Logins {
    users: Users,
    passwords: Passwords,
    limits: Limits,
    sessions: Arc<Sessions>,
    store: Store,
    keys: Arc<KeyRing>,
}

impl Logins {
    /// Logs in the people of a password file.
    pub fn new(
        users: Users,
        sessions: Arc<Sessions>,
        store: Store,
        keys: Arc<KeyRing>,
        settings: &config::Limits,
    ) -> Self {
        let limits = Limits::new(store.clone(), settings);
        Self { users, passwords: Passwords::start(), limits, sessions, store, keys }
    }

    /// Whether anybody can log in here.
    pub fn are_possible(&self) -> bool {
        self.users.exist()
    }

    /// Whether a user has a password here.
    pub fn know(&self, user: &UserId) -> bool {
        self.users.current().get(user).is_some()
    }

    /// Whether the password file bars a user.
    pub fn bars(&self, user: &UserId) -> bool {
        self.users.current().get(user).is_some_and(|user| user.disabled)
    }

    /// Whether somebody may try at this moment. Each attempt counts.
    pub async fn admit(&self, attempt: Attempt) -> Result<Admitted, LoginError> {
        let known = self.known_device(&attempt).await?;
        let device = known.as_ref().map(|device| &*device.id);
        match self.limits.decide(&attempt.username, attempt.address, device).await? {
            Ok(verdict) => Ok(Admitted { attempt, known, verdict }),
            Err(verdict) => {
                metrics::login_attempt("rate_limited");
                Err(LoginError::Limited(verdict))
            }
        }
    }

    /// The device of an attempt, if the user chose once that it be remembered.
    async fn known_device(&self, attempt: &Attempt) -> Result<Option<Device>, LoginError> {
        let id = attempt.device.as_deref();
        let id = id.and_then(|text| Sealed::Device.read::<String>(text, &self.keys));
        let (Some(id), Ok(user)) = (id, attempt.username.parse()) else {
            return Ok(None);
        };
        let name = self.store.device_name(&user, &id).await?;
        Ok(name.map(|name| Device { id, name: Some(name) }))
    }

    /// Begins a session for somebody who knows their password.
    pub async fn log_in(&self, admitted: Admitted) -> Result<Entered, LoginError> {
        count(self.check(admitted).await)
    }

    /// Begins the session of somebody who knew their password, in place of what they chose.
    pub async fn resolve(&self, resolution: Resolution) -> Result<Entered, LoginError> {
        count(self.exchange(resolution).await)
    }

    async fn check(&self, admitted: Admitted) -> Result<Entered, LoginError> {
        let Admitted { attempt, known, .. } = admitted;
        let Attempt { username, password, address, user_agent, remember, mode, browser, .. } =
            attempt;
        let user = self.authenticate(&username, password, known.is_some()).await?;
        let device = known.as_ref().map(|device| &*device.id);
        self.limits.forgive(&username, address, device).await?;
        let named = attempt.device_name.or_else(|| known.as_ref()?.name.clone());
        let device = match known {
            Some(known) => Some(known.id),
            None if remember => Some(random()?),
            None => None,
        };
        if let Some((_, sid)) = attempt.current.filter(|(current, _)| *current == user.name)
            && let Some(begun) = self.renew(&user, sid).await?
        {
            return self.enter(begun, mode, Vec::new(), device).await;
        }
        let new = new_session(&user, address, user_agent, named.clone(), remember, device.clone());
        match self.begin(&user, new).await {
            Ok((begun, evicted)) => self.enter(begun, mode, evicted, device).await,
            Err(LoginError::Session(SessionError::Limit(sessions))) => {
                let ticket =
                    Ticket::new(random()?, &user, mode, remember, named, browser.as_deref());
                let ticket = self.sessions.asks().then_some(ticket.with(device));
                let ticket = ticket.and_then(|ticket| Sealed::Ticket.write(&ticket, &self.keys));
                Err(LoginError::Full { sessions, ticket, browser })
            }
            Err(error) => Err(error),
        }
    }

    async fn exchange(&self, resolution: Resolution) -> Result<Entered, LoginError> {
        let Resolution { ticket: text, revoke, address, user_agent, browser } = resolution;
        let ticket: Ticket = Sealed::Ticket.read(&text, &self.keys).ok_or(LoginError::Ticket)?;
        let user = self.users.current().get(&ticket.user).cloned();
        let user = user.filter(|user| user.mark == ticket.mark && !user.disabled);
        let user = user.filter(|_| ticket.is_good(browser.as_deref())).ok_or(LoginError::Ticket)?;
        let Ticket { mode, remember, device_name, device, .. } = ticket;
        let mut new =
            new_session(&user, address, user_agent, device_name, remember, device.clone());
        new.origin.choice = Some(Choice { ticket: ticket.id, ends: revoke });
        match self.begin(&user, new).await {
            Ok((begun, evicted)) => self.enter(begun, mode, evicted, device).await,
            // Others may have taken the places meanwhile. The ticket was not used.
            Err(LoginError::Session(SessionError::Limit(sessions))) => {
                Err(LoginError::Full { sessions, ticket: Some(text), browser })
            }
            Err(LoginError::Session(SessionError::Spent)) => Err(LoginError::Ticket),
            Err(error) => Err(error),
        }
    }

    /// Remembers the device, where that was chosen.
    async fn enter(
        &self,
        begun: Begun,
        mode: Mode,
        evicted: Vec<SessionId>,
        device: Option<String>,
    ) -> Result<Entered, LoginError> {
        let mut kept = None;
        if let Some(device) = device {
            let session = &begun.session;
            self.store.device_seen(&session.user, &device, &session.device_name).await?;
            kept = Sealed::Device.write(&device, &self.keys);
        }
        Ok(Entered { begun, mode, evicted, device: kept })
    }

    /// Whose name and password these are. Somebody unknown costs the same as somebody known.
    async fn authenticate(
        &self,
        username: &str,
        password: SecretString,
        known: bool,
    ) -> Result<Arc<User>, LoginError> {
        let directory = self.users.current();
        let user = username.parse().ok().and_then(|name: UserId| directory.get(&name).cloned());
        let hash = match &user {
            Some(user) => Some(Arc::clone(&user.password)),
            None => self.users.stand_in(&directory, username),
        };
        let hash = hash.ok_or(LoginError::Credentials)?;
        let fits =
            self.passwords.fits(password, hash, known).await.map_err(|Busy| LoginError::Busy)?;
        user.filter(|user| fits && !user.disabled).ok_or(LoginError::Credentials)
    }

    /// The password file may change while a session begins. Whoever read the new one has ended what
    /// began before; what begins after that is ended here.
    async fn begin(
        &self,
        user: &User,
        new: NewSession,
    ) -> Result<(Begun, Vec<SessionId>), LoginError> {
        let (begun, evicted) = self.sessions.begin(new).await?;
        Ok((self.recheck(user, begun).await?, evicted))
    }

    /// Goes on with a session of the user, unless it has ended meanwhile.
    async fn renew(&self, user: &User, sid: SessionId) -> Result<Option<Begun>, LoginError> {
        match self.sessions.reauthenticate(&user.name, sid, "pwd", &user.mark).await? {
            Some(begun) => self.recheck(user, begun).await.map(Some),
            None => Ok(None),
        }
    }

    async fn recheck(&self, user: &User, begun: Begun) -> Result<Begun, LoginError> {
        let directory = self.users.current();
        let same = directory.get(&user.name).filter(|now| now.mark == user.mark && !now.disabled);
        if same.is_none() {
            self.sessions.revoke(&user.name, begun.session.id, EndCause::Admin).await?;
            return Err(LoginError::Credentials);
        }
        Ok(begun)
    }

    /// Follows the password file, until told to stop.
    pub async fn follow(&self, stop: CancellationToken) {
        if !self.users.exist() {
            return stop.cancelled().await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_up() => {}
        }
    }

    async fn keep_up(&self) {
        let mut timer = tokio::time::interval(LOOK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = HashMap::new();
        let mut behind = true;
        loop {
            timer.tick().await;
            behind |= self.users.reload_if_changed();
            if behind {
                match self.tell(&mut told).await {
                    Ok(()) => behind = false,
                    Err(error) => tracing::debug!(%error, "the password file's changes wait"),
                }
            }
        }
    }

    /// Tells the store what changed since it was told last: at the start everything, so that what
    /// changed while no gateway ran counts too.
    async fn tell(&self, told: &mut HashMap<UserId, String>) -> Result<(), StoreError> {
        let directory = self.users.current();
        let mut known: HashSet<UserId> = told.keys().cloned().collect();
        if told.is_empty() {
            known.extend(self.sessions.accounts().await?);
        }
        for user in directory.iter() {
            let mark = if user.disabled { DISABLED } else { &user.mark };
            known.remove(&user.name);
            if told.get(&user.name).is_none_or(|before| before != mark) {
                self.sessions.follow_account(&user.name, mark).await?;
                told.insert(user.name.clone(), mark.to_owned());
            }
        }
        for gone in known {
            self.sessions.follow_account(&gone, GONE).await?;
            told.remove(&gone);
        }
        Ok(())
    }
}

fn new_session(
    user: &User,
    address: IpAddr,
    user_agent: String,
    device_name: Option<String>,
    remember: bool,
    device: Option<String>,
) -> NewSession {
    NewSession {
        user: user.name.clone(),
        ip: Some(address),
        user_agent,
        device_name,
        remember,
        roles: user.roles.clone(),
        claims: user.claims.clone(),
        auth_method: "pwd".to_owned(),
        request: None,
        voucher: Voucher::Password,
        origin: Origin { mark: Some(user.mark.clone()), device, choice: None },
    }
}

fn count(result: Result<Entered, LoginError>) -> Result<Entered, LoginError> {
    metrics::login_attempt(match &result {
        Ok(_) => "success",
        Err(LoginError::Credentials) => "invalid_credentials",
        Err(LoginError::Ticket) => "invalid_ticket",
        Err(LoginError::Limited(_)) => "rate_limited",
        Err(LoginError::Busy) => "overloaded",
        Err(LoginError::Full { .. }) => "limit",
        Err(LoginError::Session(_)) => "unavailable",
    });
    result
}

/// 128 random bits, as text.
fn random() -> Result<String, KeyError> {
    let mut bits = [0; 16];
    rand::fill(&mut bits).map_err(|_| KeyError::Crypto("no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bits))
}
