//! How people log in: the password file, and what keeps others from guessing.

pub mod password;
pub mod users;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::model::{EndCause, SessionId, UserId};
use crate::sessions::{Begun, NewSession, SessionError, Sessions, Voucher};
use crate::store::StoreError;
use crate::store::accounts::{DISABLED, GONE};
use crate::store::sessions::Origin;
use crate::telemetry::metrics;
use password::{Busy, Passwords};
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
}

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Nobody has this name and this password, or they may not log in.
    #[error("the user name or the password is wrong")]
    Credentials,
    /// More passwords wait to be compared than may.
    #[error("too many logins at once")]
    Busy,
    /// The session could not begin.
    #[error(transparent)]
    Session(#[from] SessionError),
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
    sessions: Arc<Sessions>,
}

impl Logins {
    /// Logs in the people of a password file.
    pub fn new(users: Users, sessions: Arc<Sessions>) -> Self {
        Self { users, passwords: Passwords::start(), sessions }
    }

    /// Whether anybody can log in here.
    pub fn are_possible(&self) -> bool {
        self.users.exist()
    }

    /// Whether the password file bars a user.
    pub fn bars(&self, user: &UserId) -> bool {
        self.users.current().get(user).is_some_and(|user| user.disabled)
    }

    /// Begins a session for somebody who knows their password. Also returns what had to end for it.
    pub async fn log_in(&self, attempt: Attempt) -> Result<(Begun, Vec<SessionId>), LoginError> {
        let result = self.admit(attempt).await;
        metrics::login_attempt(match &result {
            Ok(_) => "success",
            Err(LoginError::Credentials) => "invalid_credentials",
            Err(LoginError::Busy) => "overloaded",
            Err(LoginError::Session(SessionError::Limit(_))) => "limit",
            Err(LoginError::Session(_)) => "unavailable",
        });
        result
    }

    async fn admit(&self, attempt: Attempt) -> Result<(Begun, Vec<SessionId>), LoginError> {
        let user = self.authenticate(&attempt.username, attempt.password).await?;
        let new = NewSession {
            user: user.name.clone(),
            ip: Some(attempt.address),
            user_agent: attempt.user_agent,
            device_name: attempt.device_name,
            remember: attempt.remember,
            roles: user.roles.clone(),
            claims: user.claims.clone(),
            auth_method: "pwd".to_owned(),
            request: None,
            voucher: Voucher::Password,
            origin: Origin { mark: Some(user.mark.clone()) },
        };
        self.begin(&user, new).await
    }

    /// Whose name and password these are. Somebody unknown costs the same as somebody known.
    async fn authenticate(
        &self,
        username: &str,
        password: SecretString,
    ) -> Result<Arc<User>, LoginError> {
        let directory = self.users.current();
        let user = username.parse().ok().and_then(|name: UserId| directory.get(&name).cloned());
        let hash = match &user {
            Some(user) => Some(Arc::clone(&user.password)),
            None => self.users.stand_in(&directory, username),
        };
        let hash = hash.ok_or(LoginError::Credentials)?;
        let fits =
            self.passwords.fits(password, hash, false).await.map_err(|Busy| LoginError::Busy)?;
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
        let directory = self.users.current();
        let same = directory.get(&user.name).filter(|now| now.mark == user.mark && !now.disabled);
        if same.is_none() {
            self.sessions.revoke(&user.name, begun.session.id, EndCause::Admin).await?;
            return Err(LoginError::Credentials);
        }
        Ok((begun, evicted))
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
