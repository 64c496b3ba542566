//! What a proxy requires beyond a live session.

use axum::http::{HeaderMap, HeaderName};
use url::form_urlencoded;

/// Requirements of a proxy whose question leaves no room for a query of its own.
const REQUIRE: HeaderName = HeaderName::from_static("x-gatehouse-require");

/// What the proxy requires. It cannot be mistyped: an unknown name is refused, because a requirement
/// that is dropped would let somebody in.
#[derive(Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub(crate) struct Requirements<'a> {
    /// The query and the header, where they name roles: one of each is needed.
    roles: [Option<&'a str>; 2],
    pub(super) max_age: Option<u64>,
    pub(super) optional: bool,
    pub(super) strict: bool,
    pub(super) preflight: bool,
    pub(super) assert: bool,
}

impl<'a> Requirements<'a> {
    /// `query` is the proxy's own. The header counts from a trusted proxy, and only to tighten: it
    /// may be the client's. (An assertion neither tightens nor relaxes.)
    pub(crate) fn read(query: &'a str, trusted: bool, headers: &'a HeaderMap) -> Option<Self> {
        let mut required = Self::parse(query)?;
        let mut values = headers.get_all(REQUIRE).iter();
        if let Some(value) = values.next().filter(|_| trusted) {
            let more = Self::parse(value.to_str().ok()?)?;
            if values.next().is_some() || more.optional || more.preflight {
                return None;
            }
            required.roles[1] = more.roles[0];
            required.max_age = required.max_age.into_iter().chain(more.max_age).min();
            required.strict |= more.strict;
            required.assert |= more.assert;
            required.optional &= more.roles[0].is_none() && more.max_age.is_none();
        }
        Some(required)
    }

    fn parse(query: &'a str) -> Option<Self> {
        let mut requirements = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("role", role) if !role.is_empty() => requirements.roles[0] = Some(query),
                ("max_age", seconds) => requirements.max_age = Some(seconds.parse().ok()?),
                ("optional", "1") => requirements.optional = true,
                ("strict", "1") => requirements.strict = true,
                ("assert", "1") => requirements.assert = true,
                ("preflight", "allow") => requirements.preflight = true,
                ("optional" | "strict" | "assert", "0") | ("preflight", "deny") => {}
                _ => return None,
            }
        }
        Some(requirements)
    }

    /// Whether somebody has one of the roles that were asked for, if any were.
    pub(super) fn admit(&self, has_role: impl Fn(&str) -> bool) -> bool {
        self.roles.iter().flatten().all(|query| {
            let mut asked = form_urlencoded::parse(query.as_bytes());
            asked.any(|(name, value)| name == "role" && has_role(&value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_read() {
        let parsed = Requirements::parse("role=admin&role=o%70s&max_age=600&strict=1").unwrap();
        let admits = |role: &str| parsed.admit(|asked| asked == role);
        assert!(admits("admin") && admits("ops") && !admits("adm"));
        assert_eq!(parsed.max_age, Some(600));
        assert!(parsed.strict && !parsed.optional && !parsed.preflight);
        assert_eq!(Requirements::parse(""), Some(Requirements::default()));
        assert!(Requirements::default().admit(|_| false));
    }

    #[test]
    fn a_mistyped_requirement_is_refused_rather_than_dropped() {
        for query in
            ["rol=admin", "role=", "max_age=ten", "max_age=-1", "optional=yes", "preflight=no", "x"]
        {
            assert_eq!(Requirements::parse(query), None, "{query}");
        }
    }

    #[test]
    fn the_header_only_tightens() {
        let header = |text: &str| HeaderMap::from_iter([(REQUIRE, text.parse().unwrap())]);
        let headers = header("role=admin&max_age=60&strict=1");
        let both = Requirements::read("role=staff&max_age=30&optional=1", true, &headers).unwrap();
        assert!(both.admit(|_| true) && !both.admit(|role| role == "admin"));
        assert!(!both.admit(|role| role == "staff"), "one of each");
        assert_eq!(both.max_age, Some(30));
        assert!(both.strict && !both.optional && !both.assert);
        assert!(Requirements::read("", true, &header("assert=1")).unwrap().assert);
        let longer = header("max_age=900");
        assert_eq!(Requirements::read("max_age=30", true, &longer).unwrap().max_age, Some(30));
        for relaxing in ["optional=1", "preflight=allow", "rol=admin", "\u{e4}"] {
            assert_eq!(Requirements::read("", true, &header(relaxing)), None, "{relaxing}");
        }
        let mut twice = headers.clone();
        twice.append(REQUIRE, "max_age=900".parse().unwrap());
        assert_eq!(Requirements::read("", true, &twice), None);
        assert_eq!(Requirements::read("", false, &headers), Some(Requirements::default()));
    }
}
