//! What is said to be dead, and the text in which the feed says it.

use std::fmt;
use std::str::FromStr;

use super::{SessionId, Timestamp, UserId};

/// A durable statement that something issued before is no longer good.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// One session.
    Session(SessionId),
    /// What was issued for one session up to a time. The session goes on.
    Credentials {
        /// Which.
        session: SessionId,
        /// The last instant that is covered.
        before: Timestamp,
    },
    /// Everything issued to a user up to a time, except for one session.
    User {
        /// Whose.
        user: UserId,
        /// The last instant that is covered.
        before: Timestamp,
        /// The session that goes on.
        kept: Option<SessionId>,
    },
    /// Everything of a bucket issued up to a time.
    Everything {
        /// The last instant that is covered.
        before: Timestamp,
    },
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(sid) => write!(f, "s:{sid}"),
            Self::Credentials { session, before } => write!(f, "c:{}:{session}", before.0),
            Self::User { user, before, kept: Some(kept) } => {
                write!(f, "u:{}:{kept}:{user}", before.0)
            }
            Self::User { user, before, kept: None } => write!(f, "u:{}:-:{user}", before.0),
            Self::Everything { before } => write!(f, "a:{}", before.0),
        }
    }
}

/// A text that states no revocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a revocation: {0:?}")]
pub struct NotARevocation(String);

impl FromStr for Revocation {
    type Err = NotARevocation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (kind, rest) = text.split_once(':')?;
            match kind {
                "s" => Some(Self::Session(rest.parse().ok()?)),
                "c" => {
                    let (before, session) = rest.split_once(':')?;
                    let before = Timestamp(before.parse().ok()?);
                    Some(Self::Credentials { session: session.parse().ok()?, before })
                }
                "u" => {
                    let mut parts = rest.splitn(3, ':');
                    let before = Timestamp(parts.next()?.parse().ok()?);
                    let kept = match parts.next()? {
                        "-" => None,
                        sid => Some(sid.parse().ok()?),
                    };
                    Some(Self::User { user: parts.next()?.parse().ok()?, before, kept })
                }
                "a" => Some(Self::Everything { before: Timestamp(rest.parse().ok()?) }),
                _ => None,
            }
        };
        parse().ok_or_else(|| NotARevocation(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_reads_back() {
        let sid = SessionId([7; 16]);
        let user: UserId = "ann@example.com".parse().unwrap();
        for revocation in [
            Revocation::Session(sid),
            Revocation::Credentials { session: sid, before: Timestamp(17) },
            Revocation::User { user: user.clone(), before: Timestamp(17), kept: Some(sid) },
            Revocation::User { user, before: Timestamp(17), kept: None },
            Revocation::Everything { before: Timestamp(1_795_521_038_123) },
        ] {
            assert_eq!(revocation.to_string().parse(), Ok(revocation));
        }
    }

    #[test]
    fn nonsense_is_not_a_revocation() {
        for text in
            ["", "s", "s:", "s:short", "c:1", "c:x:", "u:1:-", "u:x:-:ann", "a:", "a:-1", "z:1"]
        {
            assert!(text.parse::<Revocation>().is_err(), "{text:?}");
        }
    }
}
