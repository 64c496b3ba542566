//! Reading what scripts return.

use std::collections::HashMap;

use fred::prelude::*;

use super::StoreError;
use crate::model::{DeviceClass, Location, Session, SessionId, Timestamp};
use crate::token::handle::Seed;

/// The reply of a script, read from the front.
pub(super) struct Reply {
    script: &'static str,
    values: std::vec::IntoIter<Value>,
}

impl Reply {
    pub(super) fn new(script: &'static str, values: Vec<Value>) -> Self {
        Self { script, values: values.into_iter() }
    }

    pub(super) fn problem(&self, problem: &'static str) -> StoreError {
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

    pub(super) fn list(&mut self) -> Result<Vec<Value>, StoreError> {
        match self.next()? {
            Value::Array(values) => Ok(values),
            _ => Err(self.problem("a list was expected")),
        }
    }

    pub(super) fn nested(&mut self) -> Result<Option<Self>, StoreError> {
        match self.values.next() {
            Some(Value::Array(values)) => Ok(Some(Self::new(self.script, values))),
            Some(_) => Err(self.problem("a list was expected")),
            None => Ok(None),
        }
    }

    pub(super) fn session_ids(self) -> Result<Vec<SessionId>, StoreError> {
        let script = self.script;
        self.values
            .map(|value| {
                value
                    .as_string()
                    .and_then(|text| text.parse().ok())
                    .ok_or(StoreError::Reply { script, problem: "a session id was expected" })
            })
            .collect()
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
        let mut flat = self.list()?.into_iter();
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
