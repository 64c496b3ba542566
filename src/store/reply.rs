//! Reading what scripts return.

use std::collections::HashMap;
use std::sync::Arc;

use fred::prelude::*;

use super::StoreError;
use super::connection::Connection;
use crate::model::{DeviceClass, Location, Session, SessionId, Timestamp};
use crate::token::handle::Seed;

/// The reply of a script, read from the front.
pub(super) struct Reply {
    script: &'static str,
    values: std::vec::IntoIter<Value>,
    /// Where it came from.
    connection: Arc<Connection>,
}

impl Reply {
    pub(super) fn new(
        script: &'static str,
        values: Vec<Value>,
        connection: Arc<Connection>,
    ) -> Self {
        Self { script, values: values.into_iter(), connection }
    }

    /// What is wrong with it. It may be the reply to another question, and then every later one on
    /// the connection is: that ends here.
    pub(super) fn problem(&self, problem: &'static str) -> StoreError {
        self.connection.distrust();
        StoreError::Reply { script: self.script, problem }
    }

    pub(super) fn next(&mut self) -> Result<Value, StoreError> {
        self.values.next().ok_or_else(|| self.problem("too short"))
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        self.next()?.as_string().ok_or_else(|| self.problem("a text was expected"))
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        self.next()?.as_u64().ok_or_else(|| self.problem("a number was expected"))
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StoreError> {
        self.number().map(Timestamp)
    }

    pub(super) fn session_id(&mut self) -> Result<SessionId, StoreError> {
        self.text()?.parse().map_err(|_| self.problem("a session id was expected"))
    }

    /// The next text, which has to be this one.
    pub(super) fn must_be(&mut self, text: &str) -> Result<(), StoreError> {
        if self.text()? == text { Ok(()) } else { Err(self.problem("it answers another question")) }
    }

    pub(super) fn list(&mut self) -> Result<Self, StoreError> {
        self.nested()?.ok_or_else(|| self.problem("too short"))
    }

    pub(super) fn nested(&mut self) -> Result<Option<Self>, StoreError> {
        match self.values.next() {
            Some(Value::Array(values)) => {
                Ok(Some(Self::new(self.script, values, Arc::clone(&self.connection))))
            }
            Some(_) => Err(self.problem("a list was expected")),
            None => Ok(None),
        }
    }

    pub(super) fn session_ids(self) -> Result<Vec<SessionId>, StoreError> {
        let ids = self.values.clone().map(|value| value.as_string()?.parse().ok()).collect();
        Option::ok_or_else(ids, || self.problem("a session id was expected"))
    }

    /// A reply that speaks of another session or user than the question did must never be used.
    pub(super) fn must_echo(&self, same: bool) -> Result<(), StoreError> {
        if same { Ok(()) } else { Err(self.problem("it speaks of another session or user")) }
    }

    /// A record, with what stands outside of it.
    pub(super) fn session(
        &mut self,
        id: SessionId,
        expires: Timestamp,
        user_agent: String,
    ) -> Result<Record, StoreError> {
        let mut flat = self.list()?.values;
        let mut fields = Fields::new();
        while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
            fields.insert(name.as_string().unwrap_or_default(), value);
        }
        Record::read(&fields, id, expires, user_agent)
            .ok_or_else(|| self.problem("an incomplete session record"))
    }
}

/// A hash of the store.
pub(super) type Fields = HashMap<String, Value>;

/// A session as it is stored.
pub struct Record {
    /// What it says.
    pub session: Session,
    /// What its handles are sealed around.
    pub seed: Seed,
}

impl Record {
    /// `None` when something is missing.
    pub(super) fn read(
        fields: &Fields,
        id: SessionId,
        expires: Timestamp,
        user_agent: String,
    ) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(Value::as_string);
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let country = text("y").filter(|country| !country.is_empty());
        let created = Timestamp(number("c")?);
        Some(Self {
            seed: fields.get("s")?.as_bytes()?.try_into().ok()?,
            session: Session {
                id,
                user: text("u")?.parse().ok()?,
                device_name: text("n")?,
                device_class: DeviceClass::from_code(text("d")?.chars().next()?)?,
                ip: text("p").unwrap_or_default(),
                user_agent,
                location: country.map(|country| Location {
                    city: text("l").filter(|city| !city.is_empty()),
                    country,
                }),
                created,
                last_active: number("a").map_or(created, Timestamp),
                expires,
                remembered: text("m").as_deref() == Some("1"),
                generation: number("g")?.try_into().ok()?,
                auth_time: number("t").map_or(created, Timestamp),
                auth_method: text("w")?,
                roles: text("o")
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect(),
                claims: match text("e") {
                    Some(json) => serde_json::from_str(&json).ok()?,
                    None => serde_json::Map::new(),
                },
            },
        })
    }
}
