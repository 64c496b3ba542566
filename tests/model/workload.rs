//! Clients that use, refresh, end and steal sessions, by the dice of a seed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fastrand::Rng;
use gatehouse::model::Timestamp;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::history::{Action, NEVER, Op, Outcome, Refusal, Sid, Time, micros};
use super::house::{GATEWAYS, House};
use crate::harness::{CHROME, FIREFOX, SERVICE_KEY};

pub(crate) const CLIENTS: usize = 16;
pub(crate) const USERS: usize = 8;

/// How long a client waits for an answer; no gateway takes so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// A pair of tokens that was issued.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) user: usize,
    pub(crate) session: Sid,
    pub(crate) generation: u32,
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) expires: Time,
}

/// Clients mostly end sessions and hardly begin any.
pub(crate) const ENDING: u8 = 1;
/// Clients begin and end none, not even by a stolen token: what was lost has to come back by itself.
pub(crate) const HUSHED: u8 = 2;

/// What all clients know together: it is the attacker's dream.
#[derive(Default)]
pub(crate) struct Book {
    /// The text of each session's id.
    pub(crate) names: Vec<String>,
    pub(crate) tokens: Vec<Token>,
    known: HashMap<String, Sid>,
    /// By user, in the order in which they were heard of.
    sessions: Vec<Vec<Sid>>,
    /// By session, the token of the highest generation.
    newest: HashMap<Sid, usize>,
    requests: usize,
}

impl Book {
    pub(crate) fn sid(&mut self, name: &str) -> Sid {
        if let Some(sid) = self.known.get(name) {
            return *sid;
        }
        let sid = self.names.len();
        self.names.push(name.to_owned());
        self.known.insert(name.to_owned(), sid);
        sid
    }

    fn learn(&mut self, token: Token) {
        let sessions = &mut self.sessions[token.user];
        if !sessions.contains(&token.session) {
            sessions.push(token.session);
        }
        let (session, generation, index) = (token.session, token.generation, self.tokens.len());
        self.tokens.push(token);
        let newest = self.newest.entry(session).or_insert(index);
        if self.tokens[*newest].generation <= generation {
            *newest = index;
        }
    }
}

/// A run as its clients share it.
pub(crate) struct World {
    pub(crate) house: Arc<House>,
    start: Instant,
    /// Milliseconds of the wall clock at the start.
    pub(crate) epoch: u64,
    /// Begins the name of each user.
    pub(crate) prefix: String,
    pub(crate) book: Mutex<Book>,
    pub(crate) ops: Mutex<Vec<Op>>,
    pub(crate) mood: AtomicU8,
    /// Answers that nobody should give.
    pub(crate) surprises: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn new(house: Arc<House>, prefix: &str) -> Self {
        let book = Book { sessions: vec![Vec::new(); USERS], ..Book::default() };
        Self {
            house,
            start: Instant::now(),
            epoch: Timestamp::now().0,
            prefix: prefix.to_owned(),
            book: Mutex::new(book),
            ops: Mutex::default(),
            mood: AtomicU8::new(0),
            surprises: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Time {
        micros(self.start.elapsed())
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(crate) fn user(&self, user: usize) -> String {
        format!("{}{user}", self.prefix)
    }

    /// The user of that name, if it is one of this run.
    pub(crate) fn user_of(&self, name: &str) -> Option<usize> {
        let user = name.strip_prefix(&self.prefix)?.parse().ok()?;
        (user < USERS).then_some(user)
    }

    /// Asks a gateway whether a token is good, and says what it answered.
    pub(crate) async fn check(
        &self,
        client: usize,
        gateway: usize,
        token: &Token,
        strict: bool,
        patience: Duration,
    ) -> Op {
        let path = if strict { "/authz/auth-request?strict=1" } else { "/authz/auth-request" };
        let server = self.house.gateway(gateway);
        let request = server.get(path).bearer_auth(&token.access).timeout(patience);
        let call = self.now();
        let answer = request.send().await;
        let ret = self.now();
        let header = |response: &Response, name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        let outcome = match answer {
            Ok(response) if response.status() == 200 => {
                let user = header(&response, "remote-user").unwrap_or_default();
                let session = header(&response, "remote-session").unwrap_or_default();
                Outcome::Allowed {
                    user: self.user_of(&user).unwrap_or(USERS),
                    session: self.book().sid(&session),
                }
            }
            Ok(response) if response.status() == 401 => Outcome::Refused(Refusal::Invalid),
            Ok(response) if response.status() == 503 => Outcome::Unknown,
            Ok(response) => self.surprise("check", response.status().as_u16(), &Value::Null),
            Err(_) => Outcome::Unknown,
        };
        let (session, generation, expires) = (token.session, token.generation, token.expires);
        let action = Action::Check { session, generation, expires, strict };
        Op { client, gateway, user: token.user, call, ret, action, outcome }
    }

    fn surprise(&self, what: &str, status: u16, body: &Value) -> Outcome {
        self.surprises.lock().unwrap().push(format!("{what} was answered {status}: {body}"));
        Outcome::Unknown
    }
}

/// One client: takes what the dice say, one thing after the other.
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) number: usize,
    pub(crate) dice: Rng,
    /// A request whose answer was lost, to be sent again.
    unanswered: Option<(usize, usize)>,
}

impl Client {
    pub(crate) fn new(world: &Arc<World>, number: usize, seed: u64) -> Self {
        let dice = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        Self { world: Arc::clone(world), number, dice, unanswered: None }
    }

    pub(crate) async fn run(mut self, until: Time) {
        while self.world.now() < until {
            let pause = Duration::from_micros(self.dice.u64(2_000..60_000));
            tokio::time::sleep(pause).await;
            let op = self.step().await;
            self.world.ops.lock().unwrap().push(op);
        }
    }

    async fn step(&mut self) -> Op {
        let (gateway, user) = (self.dice.usize(..GATEWAYS), self.dice.usize(..USERS));
        // Some hang up before they can have an answer.
        let patience = match self.dice.u8(..20) {
            0 => Duration::from_micros(self.dice.u64(..4_000)),
            _ => PATIENCE,
        };
        let die = self.dice.u8(..100);
        let mood = self.world.mood.load(Ordering::Relaxed);
        let Some(token) = self.pick(user, die.is_multiple_of(7) && mood != HUSHED) else {
            return self.create(gateway, user, patience).await;
        };
        match (die, mood) {
            (0..38, _) => {
                let strict = die < 6;
                self.world.check(self.number, gateway, &token, strict, patience).await
            }
            (38..68, _) | (68..86, HUSHED) => self.refresh(gateway, &token, patience).await,
            (68..74, ENDING) | (76..83, _) => self.revoke(gateway, &token, patience).await,
            (68..76, _) => self.create(gateway, user, patience).await,
            (83..86, _) => self.revoke_all(gateway, &token, patience).await,
            (86..92, _) => self.list(gateway, user, patience).await,
            _ => {
                // Whatever was ever issued, tried again.
                let count = self.world.book().tokens.len();
                let token = self.world.book().tokens[self.dice.usize(..count)].clone();
                if self.dice.bool() && mood != HUSHED {
                    self.refresh(gateway, &token, patience).await
                } else {
                    self.world.check(self.number, gateway, &token, false, patience).await
                }
            }
        }
    }

    /// A token of one of the user's latest sessions: the newest, or an `old` one.
    fn pick(&mut self, user: usize, old: bool) -> Option<Token> {
        let book = self.world.book.lock().unwrap();
        let sessions = &book.sessions[user];
        let latest = &sessions[sessions.len().saturating_sub(4)..];
        let session = *self.dice.choice(latest)?;
        if !old {
            return book.tokens.get(book.newest[&session]).cloned();
        }
        let all: Vec<&Token> =
            book.tokens.iter().filter(|token| token.session == session).collect();
        self.dice.choice(all).cloned()
    }

    async fn create(&mut self, gateway: usize, user: usize, patience: Duration) -> Op {
        let (user, request) = match self.unanswered.take() {
            Some(before) if self.dice.u8(..4) > 0 => before,
            _ => {
                let mut book = self.world.book();
                book.requests += 1;
                (user, book.requests)
            }
        };
        let world = Arc::clone(&self.world);
        let server = world.house.gateway(gateway);
        let body = json!({
            "user_id": world.user(user),
            "user_agent": CHROME,
            "request_id": format!("{}-{request}", world.prefix),
        });
        let sent = server.post("/api/v1/sessions").bearer_auth(SERVICE_KEY).json(&body);
        let op = Call { client: self.number, gateway, user, action: Action::Create { request } };
        let op = op
            .send(&world, sent.timeout(patience), |status, body| match status {
                201 => {
                    let token = world.issued(user, body)?;
                    let session = token.session;
                    world.book().learn(token);
                    let created = body["session"]["created_at"].as_str()?;
                    let created = chrono::DateTime::parse_from_rfc3339(created).ok()?;
                    let created = u64::try_from(created.timestamp_millis()).ok()?;
                    Some(Outcome::Created { session, created })
                }
                409 if body["code"] == "conflict" => Some(Outcome::Conflict),
                _ => None,
            })
            .await;
        if op.outcome == Outcome::Unknown {
            self.unanswered = Some((user, request));
        }
        op
    }

    async fn refresh(&mut self, gateway: usize, token: &Token, patience: Duration) -> Op {
        let foreign = self.dice.u8(..20) == 0;
        let (world, user) = (Arc::clone(&self.world), token.user);
        let server = world.house.gateway(gateway);
        let sent = server
            .post("/api/v1/sessions/refresh")
            .header("user-agent", if foreign { FIREFOX } else { CHROME })
            .json(&json!({ "refresh_token": token.refresh }));
        let (session, generation) = (token.session, token.generation);
        let action = Action::Refresh { session, generation, foreign };
        Call { client: self.number, gateway, user, action }
            .send(&world, sent.timeout(patience), |status, body| match status {
                200 => {
                    let next = world.issued(user, body)?;
                    if next.session != session {
                        world.surprise("a refresh", status, body);
                    }
                    let (generation, token) = (next.generation, xxh3_64(next.refresh.as_bytes()));
                    let issued = claims(&next.access)?.1;
                    world.book().learn(next);
                    Some(Outcome::Granted { generation, token, issued })
                }
                401 => Some(Outcome::Refused(match body["code"].as_str()? {
                    "invalid_refresh_token" => Refusal::Invalid,
                    "refresh_token_reused" => Refusal::Reused,
                    "session_revoked" => Refusal::Revoked,
                    "session_expired" => Refusal::Expired,
                    _ => return None,
                })),
                _ => None,
            })
            .await
    }

    /// An administrator ends a session, or its user logs out.
    async fn revoke(&mut self, gateway: usize, token: &Token, patience: Duration) -> Op {
        let world = Arc::clone(&self.world);
        let server = world.house.gateway(gateway);
        let (user, session) = (token.user, token.session);
        let sent = if self.dice.bool() {
            server.post("/api/v1/logout").bearer_auth(&token.access)
        } else {
            let name = world.book().names[session].clone();
            let path = format!("/api/v1/admin/users/{}/sessions/{name}", world.user(user));
            server.request(Method::DELETE, &path).bearer_auth(SERVICE_KEY)
        };
        Call { client: self.number, gateway, user, action: Action::Revoke { session } }
            .send(&world, sent.timeout(patience), |status, _| match status {
                204 => Some(Outcome::Ended),
                401 => Some(Outcome::NotDone),
                404 => Some(Outcome::Missing),
                _ => None,
            })
            .await
    }

    /// All but the caller's, or all.
    async fn revoke_all(&mut self, gateway: usize, token: &Token, patience: Duration) -> Op {
        let world = Arc::clone(&self.world);
        let server = world.house.gateway(gateway);
        let user = token.user;
        let (sent, kept) = if self.dice.bool() {
            let own = server.post("/api/v1/users/sessions/revoke-all").bearer_auth(&token.access);
            (own.json(&json!({})), Some(token.session))
        } else {
            let path = format!("/api/v1/admin/users/{}/sessions/revoke-all", world.user(user));
            (server.post(&path).bearer_auth(SERVICE_KEY), None)
        };
        Call { client: self.number, gateway, user, action: Action::RevokeAll { kept } }
            .send(&world, sent.timeout(patience), |status, body| match status {
                200 => Some(Outcome::EndedAll(usize::try_from(body["revoked"].as_u64()?).ok()?)),
                401 => Some(Outcome::NotDone),
                _ => None,
            })
            .await
    }

    async fn list(&mut self, gateway: usize, user: usize, patience: Duration) -> Op {
        let world = Arc::clone(&self.world);
        let server = world.house.gateway(gateway);
        let path = format!("/api/v1/admin/users/{}/sessions", world.user(user));
        let sent = server.get(&path).bearer_auth(SERVICE_KEY);
        Call { client: self.number, gateway, user, action: Action::List }
            .send(&world, sent.timeout(patience), |status, body| {
                let sessions = body["sessions"].as_array().filter(|_| status == 200)?;
                let ids = sessions.iter().map(|session| session["id"].as_str());
                let ids: Vec<&str> = ids.collect::<Option<_>>()?;
                Some(Outcome::Listed(ids.iter().map(|id| world.book().sid(id)).collect()))
            })
            .await
    }
}

/// An operation about to be sent.
struct Call {
    client: usize,
    gateway: usize,
    user: usize,
    action: Action,
}

impl Call {
    /// Sends it. What `read` cannot make sense of is a surprise.
    async fn send(
        self,
        world: &World,
        request: RequestBuilder,
        read: impl FnOnce(u16, &Value) -> Option<Outcome>,
    ) -> Op {
        let Self { client, gateway, user, action } = self;
        let call = world.now();
        let answer = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, response.text().await?))
        };
        let answer = answer.await;
        let mut ret = world.now();
        let outcome = match answer {
            Ok((503, _)) => Outcome::Unknown,
            Ok((status, text)) => {
                let body = serde_json::from_str(&text).unwrap_or(Value::Null);
                let read = read(status, &body);
                read.unwrap_or_else(|| world.surprise(&format!("{action:?}"), status, &body))
            }
            Err(error) if error.is_connect() => Outcome::NotDone,
            Err(_) => Outcome::Unknown,
        };
        if outcome == Outcome::Unknown {
            ret = NEVER;
        }
        Op { client, gateway, user, call, ret, action, outcome }
    }
}

impl World {
    /// The tokens of an answer.
    fn issued(&self, user: usize, body: &Value) -> Option<Token> {
        let access = body["access_token"].as_str()?.to_owned();
        let payload = URL_SAFE_NO_PAD.decode(access.split('.').nth(1)?).ok()?;
        let payload: Value = serde_json::from_slice(&payload).ok()?;
        let expires = (payload["exp"].as_u64()? * 1000).saturating_sub(self.epoch) * 1000;
        let session = self.book().sid(body["session"]["id"].as_str()?);
        let generation = u32::try_from(payload["gen"].as_u64()?).ok()?;
        let refresh = body["refresh_token"].as_str()?.to_owned();
        Some(Token { user, session, generation, access, refresh, expires })
    }
}

/// Generation and time of issue of an access token, in milliseconds: its id is a `UUIDv7`.
fn claims(access: &str) -> Option<(u64, u64)> {
    let payload = URL_SAFE_NO_PAD.decode(access.split('.').nth(1)?).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    let id = payload["jti"].as_str()?.replace('-', "");
    Some((payload["gen"].as_u64()?, u64::from_str_radix(id.get(..12)?, 16).ok()?))
}

/// Asks three gateways at once about every token.
pub(crate) async fn check_all(world: &Arc<World>, tokens: &[Token]) -> Vec<Op> {
    use futures::{StreamExt as _, stream};
    let questions = tokens.iter().flat_map(|token| (0..GATEWAYS).map(move |i| (token, i)));
    stream::iter(questions)
        .map(|(token, gateway): (&Token, usize)| {
            world.check(CLIENTS, gateway, token, false, PATIENCE)
        })
        .buffer_unordered(8)
        .collect()
        .await
}
