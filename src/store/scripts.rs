//! The scripts of `lua/`: joined with what they share, sent by hash, and sent whole when the
//! server does not have them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use fred::bytes_utils::Str;
use fred::prelude::*;

use super::connection::Connection;
use super::reply::Reply;
use super::{Store, StoreError, keys};
use crate::telemetry::metrics;

/// A Lua script.
pub(super) struct Script {
    /// Its file, and the label of its metrics.
    pub(super) name: &'static str,
    plain: Text,
    clustered: Text,
}

/// As it is sent.
struct Text {
    source: Str,
    sha: Str,
}

impl Text {
    fn new(source: String) -> Self {
        let sha = fred::util::sha1_hash(&source);
        Self { source: source.into(), sha: sha.into() }
    }
}

impl Script {
    fn new(name: &'static str, flags: &str, shared: &[&str], body: &str) -> Self {
        let text = |first: &str| {
            let source = format!("#!lua flags={flags}\n{first}{}\n{body}", shared.concat());
            #[cfg(feature = "mutations")]
            let source = crate::mutation::script(name, source);
            Text::new(source)
        };
        Self { name, plain: text(""), clustered: text(SETTLED) }
    }
}

const SETTLED: &str = include_str!("../../lua/lib/settled.lua");
const BUCKET: &str = include_str!("../../lua/lib/bucket.lua");
const RECORD: &str = include_str!("../../lua/lib/record.lua");
const FEED: &str = include_str!("../../lua/lib/feed.lua");
const SESSION: &str = include_str!("../../lua/lib/session.lua");
const DESCRIBE: &str = include_str!("../../lua/lib/describe.lua");

macro_rules! script {
    ($constant:ident, $name:literal, $flags:literal, [$($shared:ident),*]) => {
        pub(super) static $constant: LazyLock<Script> = LazyLock::new(|| {
            let body = include_str!(concat!("../../lua/", $name, ".lua"));
            Script::new($name, $flags, &[$($shared),*], body)
        });
    };
}

// `allow-oom`: what ends or proves something must work when memory is full. A script with neither
// flag is refused by a full server before its first line, so it never stops half way. A script with
// `no-writes` is answered even by a server that others have taken the place of, with what was.
script!(CREATE, "session_create", "", [BUCKET, RECORD, FEED, SESSION, DESCRIBE]);
script!(ROTATE, "session_rotate", "allow-oom", [BUCKET, RECORD, FEED, SESSION]);
script!(LIVE, "session_live", "allow-oom", [BUCKET, RECORD, SESSION]);
script!(LOAD, "session_load", "allow-oom", [BUCKET, RECORD, SESSION]);
script!(LIST, "session_list", "allow-oom", [BUCKET, RECORD, SESSION, DESCRIBE]);
script!(UPDATE, "session_update", "", [BUCKET, RECORD, SESSION, DESCRIBE]);
script!(REAUTHENTICATE, "session_reauthenticate", "", [BUCKET, RECORD, FEED, SESSION, DESCRIBE]);
script!(TOUCH, "session_touch", "", [BUCKET, RECORD, SESSION]);
script!(REVOKE, "session_revoke", "allow-oom", [BUCKET, RECORD, FEED, SESSION]);
script!(REVOKE_ALL, "session_revoke_all", "allow-oom", [BUCKET, RECORD, FEED, SESSION]);
script!(LIMIT, "rate_limit", "", [BUCKET]);
script!(DEVICE, "device_seen", "", [BUCKET]);
script!(ACCOUNT, "account_sync", "allow-oom", [BUCKET, RECORD, FEED, SESSION]);
script!(EVERYTHING, "revoke_everything", "allow-oom", [BUCKET, RECORD, FEED]);
script!(SWEEP, "session_sweep", "allow-oom", [BUCKET, RECORD, SESSION]);
script!(HEARTBEAT, "feed_heartbeat", "allow-oom", [BUCKET]);
script!(ASSERT, "feed_assert", "allow-oom", [BUCKET, RECORD, FEED, SESSION]);
script!(CONFIRM, "feed_confirm", "allow-oom", [BUCKET]);
script!(TAIL, "feed_tail", "no-writes", [BUCKET]);

/// So many commands in a row fail in a bucket before the next ones are refused unsent.
const FAILURES: u32 = 5;

impl Store {
    /// Runs a script in a bucket. While its server does not answer, only heartbeats still ask.
    pub(super) async fn run(
        &self,
        script: &Script,
        bucket: u8,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        let failures = &self.failures[usize::from(bucket)];
        if failures.load(Ordering::Relaxed) >= FAILURES && script.name != HEARTBEAT.name {
            return Err(StoreError::unavailable("it has not answered lately"));
        }
        let result = self.run_where_it_is(script, bucket, arguments).await;
        match &result {
            Err(StoreError::Unavailable(_)) => {
                failures.fetch_add(1, Ordering::Relaxed);
            }
            _ => failures.store(0, Ordering::Relaxed),
        }
        result
    }

    /// A member of a Cluster that does not have the bucket has not run anything, and says who has it.
    async fn run_where_it_is(
        &self,
        script: &Script,
        bucket: u8,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        let links = self.topology.links(bucket);
        let result = self.run_on(links.next(), script, bucket, arguments.clone()).await;
        let moved = match &result {
            Err(StoreError::Unavailable(error)) => self.topology.failed(bucket, error),
            _ => false,
        };
        if !moved {
            return result;
        }
        let links = self.topology.links(bucket);
        self.run_on(links.next(), script, bucket, arguments).await
    }

    /// Runs a script on a connection. `NOSCRIPT` means that nothing ran, so sending it whole is safe.
    pub(super) async fn run_on(
        &self,
        connection: &Arc<Connection>,
        script: &Script,
        bucket: u8,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        let start = Instant::now();
        let retention = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        let mut args = Vec::with_capacity(arguments.len() + 1);
        args.push(Value::from(retention));
        args.extend(arguments);
        let (key, client) = (keys::feed(bucket), connection.client());
        let text = if self.topology.is_cluster() { &script.clustered } else { &script.plain };
        #[cfg(feature = "mutations")]
        let key = crate::mutation::keys(key);
        let mut result: Result<Value, Error> =
            client.evalsha(text.sha.clone(), key.clone(), args.clone()).await;
        if matches!(&result, Err(error) if error.details().starts_with("NOSCRIPT")) {
            result = client.eval(text.source.clone(), key, args).await;
        }
        connection.note(result.is_ok());
        metrics::redis_command(script.name, start.elapsed(), result.is_ok());
        match result? {
            Value::Array(values) => Ok(Reply::new(script.name, values, Arc::clone(connection))),
            _ => Err(StoreError::Reply { script: script.name, problem: "not a list" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_says_what_it_takes_and_gives() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/lua");
        let scripts = [
            &CREATE,
            &ROTATE,
            &LIVE,
            &LOAD,
            &LIST,
            &UPDATE,
            &REAUTHENTICATE,
            &TOUCH,
            &REVOKE,
            &REVOKE_ALL,
            &LIMIT,
            &DEVICE,
            &ACCOUNT,
            &EVERYTHING,
            &SWEEP,
            &HEARTBEAT,
            &ASSERT,
            &CONFIRM,
            &TAIL,
        ];
        let files = std::fs::read_dir(dir).unwrap().filter(|entry| {
            entry.as_ref().unwrap().path().extension().is_some_and(|found| found == "lua")
        });
        assert_eq!(files.count(), scripts.len(), "every file of lua/ is a script here");
        for script in scripts {
            let text = std::fs::read_to_string(format!("{dir}/{}.lua", script.name)).unwrap();
            assert!(text.starts_with(&format!("-- {}: ", script.name)), "{}", script.name);
            for part in ["\n-- KEYS   1 feed", "\n-- ARGV   1 retention ms", "\n-- Reply  {"] {
                assert!(text.contains(part), "{} lacks {part:?}", script.name);
            }
        }
    }
}
