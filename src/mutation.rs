//! Faults on purpose, at most one at a time, to prove that the model check finds each of them.
//!
//! Only with the feature `mutations`, which no build for others has. `GATEHOUSE_MUTATION` names the
//! fault, `GATEHOUSE_CLOCK_OFFSET_MS` makes this process's clock wrong.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

#[cfg(not(debug_assertions))]
compile_error!("the feature `mutations` breaks Gatehouse on purpose and is for its tests only");

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// m1: the limit is looked at before the script runs, not in it.
    Limit,
    /// m2: a rotation writes the record that it read a moment before.
    Rotation,
    /// m3: a revocation does not enter the stream.
    Feed,
    /// m4: a reader goes on from where it was, whatever is missing there.
    Cursor,
    /// m5: after a failover nothing is asserted again.
    Reassert,
    /// m6: a store that does not answer is a yes.
    FailOpen,
    /// m7: the time is the gateway's, not the store's.
    Time,
    /// m8: within the grace window each caller gets a successor of its own.
    Grace,
    /// m9: a heartbeat reads and does not write.
    Heartbeat,
}

const NAMES: [(&str, Mutation); 9] = [
    ("m1", Mutation::Limit),
    ("m2", Mutation::Rotation),
    ("m3", Mutation::Feed),
    ("m4", Mutation::Cursor),
    ("m5", Mutation::Reassert),
    ("m6", Mutation::FailOpen),
    ("m7", Mutation::Time),
    ("m8", Mutation::Grace),
    ("m9", Mutation::Heartbeat),
];

static ACTIVE: LazyLock<Option<Mutation>> = LazyLock::new(|| {
    let name = env::var("GATEHOUSE_MUTATION").ok().filter(|name| !name.is_empty())?;
    let found = NAMES.iter().find(|(known, _)| *known == name);
    assert!(found.is_some(), "GATEHOUSE_MUTATION={name}: there are m1 to m9");
    found.map(|(_, mutation)| *mutation)
});

static CLOCK_OFFSET_MS: LazyLock<i64> = LazyLock::new(|| {
    let text = env::var("GATEHOUSE_CLOCK_OFFSET_MS").unwrap_or_default();
    text.parse().unwrap_or(0)
});

/// How long it takes from a read to the write that should have been one with it.
pub const BETWEEN: Duration = Duration::from_millis(5);

/// Whether this is what is broken.
pub fn is(mutation: Mutation) -> bool {
    *ACTIVE == Some(mutation)
}

/// Tells everybody what they are running.
pub fn announce() {
    eprintln!("gatehouse: built to break, for tests only: {:?}", *ACTIVE);
}

/// The wall clock of this process, as wrong as it is meant to be.
pub fn clock(millis: u64) -> u64 {
    millis.saturating_add_signed(*CLOCK_OFFSET_MS)
}

/// A script as it is sent.
///
/// # Panics
/// When the script no longer has the text that is to be replaced.
pub fn script(name: &str, source: String) -> String {
    let Some(mutation) = *ACTIVE else {
        return source;
    };
    let everywhere = "";
    let changes: &[(&str, &str, &str)] = match mutation {
        Mutation::Feed => &[(
            "session_revoke",
            "redis.call('XADD', key('revoked'),",
            "string.format('%.0f-0', now,",
        )],
        Mutation::Time => &[(
            everywhere,
            "redis.call('TIME')",
            "{ math.floor(KEYS[2] / 1000), KEYS[2] % 1000 * 1000 }",
        )],
        Mutation::Grace => &[(
            "session_rotate",
            "return { outcome, sid, user, issued, expiry, current }",
            "redis.call('HSET', session, 'g', current + 1)\n    \
             return { outcome, sid, user, issued, expiry, current + 1 }",
        )],
        Mutation::Heartbeat => &[
            ("feed_heartbeat", "redis.call('HSET', feed, 'beat', now)", ""),
            ("feed_heartbeat", "flags=allow-oom", "flags=no-writes"),
        ],
        _ => &[],
    };
    changes.iter().filter(|(which, ..)| name.starts_with(which)).fold(
        source,
        |source, (_, from, to)| {
            assert!(source.contains(from), "{name} has no {from:?}");
            source.replacen(from, to, 1)
        },
    )
}

/// What a script is called with, beside its bucket's key: this gateway's time, if that counts.
pub fn keys(feed: String) -> Vec<String> {
    let mut keys = vec![feed];
    if is(Mutation::Time) {
        keys.push(crate::model::Timestamp::now().0.to_string());
    }
    keys
}
