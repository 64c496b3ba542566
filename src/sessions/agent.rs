//! What a `User-Agent` says, by the rules of uap-core.
//!
//! There are more than a thousand rules, each a regular expression, and compiled they take some
//! 80 MB. Their literals are searched for first, all in one pass, and a rule is compiled when it is
//! first needed: what people use is recognised by a few dozen of them.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use regex_filtered::mapper::{self, Mapper};
use regex_filtered::model::Model;
use ua_parser::{Regexes, device, os, user_agent};

/// Names a browser, a system and a device; empty or `None` where no rule fits.
#[derive(Default)]
pub(super) struct Agent {
    pub(super) browser: Option<String>,
    pub(super) os: String,
    pub(super) device: String,
    pub(super) brand: String,
}

/// The rules of one kind, in the order in which they are tried.
struct Rules<E> {
    literals: AhoCorasick,
    candidates: Mapper,
    extractors: Vec<Lazy<E>>,
}

/// `None` cannot happen: the rules are compiled in, and a test builds every one.
type Lazy<E> = LazyLock<Option<E>, Box<dyn FnOnce() -> Option<E> + Send>>;

impl<E: 'static> Rules<E> {
    /// Of rules, each with its expression and what to make of it. A literal has at least so many
    /// characters.
    fn new<P: Send + 'static>(
        least: usize,
        parsers: Vec<P>,
        expression: impl Fn(&P) -> (&str, bool),
        build: fn(P) -> Option<E>,
    ) -> Option<Self> {
        let mut candidates = mapper::Builder::new(least);
        let mut extractors: Vec<Lazy<E>> = Vec::with_capacity(parsers.len());
        for parser in parsers {
            let (text, ignore_case) = expression(&parser);
            let mut syntax = regex_syntax::ParserBuilder::new();
            let hir = syntax.case_insensitive(ignore_case).build().parse(text).ok()?;
            candidates.push(Model::new(&hir).ok()?);
            extractors.push(LazyLock::new(Box::new(move || build(parser))));
        }
        let (candidates, literals) = candidates.build();
        let literals = AhoCorasick::builder().ascii_case_insensitive(true).build(literals).ok()?;
        Some(Self { literals, candidates, extractors })
    }

    /// What the first rule that fits says.
    fn first<'a, V>(
        &'a self,
        user_agent: &'a str,
        extract: impl Fn(&'a E, &'a str) -> Option<V>,
    ) -> Option<V> {
        let found = self.literals.find_overlapping_iter(user_agent);
        let found = found.map(|literal| literal.pattern().as_usize());
        let candidates = self.candidates.atom_to_re(found);
        candidates.into_iter().find_map(|rule| extract(self.extractors[rule].as_ref()?, user_agent))
    }
}

struct Parser {
    browsers: Rules<user_agent::Extractor<'static>>,
    systems: Rules<os::Extractor<'static>>,
    devices: Rules<device::Extractor<'static>>,
}

static PARSER: LazyLock<Option<Parser>> = LazyLock::new(|| {
    let rules = include_str!("../../data/uap-core/regexes.json");
    let rules: Regexes<'static> = serde_json::from_str(rules).ok()?;
    Some(Parser {
        browsers: Rules::new(
            3,
            rules.user_agent_parsers,
            |rule| (&rule.regex, false),
            |rule| user_agent::Builder::new().push(rule).ok()?.build().ok(),
        )?,
        systems: Rules::new(
            3,
            rules.os_parsers,
            |rule| (&rule.regex, false),
            |rule| os::Builder::new().push(rule).ok()?.build().ok(),
        )?,
        devices: Rules::new(
            2,
            rules.device_parsers,
            |rule| (&rule.regex, rule.regex_flag == Some(device::Flag::IgnoreCase)),
            |rule| device::Builder::new().push(rule).ok()?.build().ok(),
        )?,
    })
});

/// Reads the rules, which takes a moment, so that no request has to.
pub(super) fn warm() {
    LazyLock::force(&PARSER);
}

/// What the rules say.
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a path to the method would ask for a text that lives for ever"
)]
pub(super) fn parse(user_agent: &str) -> Agent {
    let Some(parser) = &*PARSER else {
        return Agent::default();
    };
    let browser = parser.browsers.first(user_agent, |rule, text| rule.extract(text));
    let os = parser.systems.first(user_agent, |rule, text| rule.extract(text));
    let device = parser.devices.first(user_agent, |rule, text| rule.extract(text));
    Agent {
        browser: browser.map(|browser| browser.family.into_owned()),
        os: os.map(|os| os.os.into_owned()).unwrap_or_default(),
        brand: device.as_ref().and_then(|device| device.brand.clone()).unwrap_or_default().into(),
        device: device.map(|device| device.device.into_owned()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_built() {
        let parser = PARSER.as_ref().unwrap();
        assert!(parser.browsers.extractors.iter().all(|rule| rule.is_some()));
        assert!(parser.systems.extractors.iter().all(|rule| rule.is_some()));
        assert!(parser.devices.extractors.iter().all(|rule| rule.is_some()));
    }

    #[test]
    fn the_search_for_literals_loses_no_rule() {
        let rules = include_str!("../../data/uap-core/regexes.json");
        let rules: Regexes<'static> = serde_json::from_str(rules).unwrap();
        let all: ua_parser::Extractor<'static> = rules.try_into().unwrap();
        for user_agent in [
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
            "Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (Linux; Android 9; AFTWMST22) AppleWebKit/537.36 (KHTML, like Gecko) Silk/110.1 like Chrome/110.0 Safari/537.36",
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "curl/8.5.0",
            "python-requests/2.32.0",
            "okhttp/4.12.0",
            "",
        ] {
            let (browser, os, device) = all.extract(user_agent);
            let agent = parse(user_agent);
            assert_eq!(agent.browser, browser.map(|b| b.family.into_owned()), "{user_agent}");
            assert_eq!(agent.os, os.map(|os| os.os.into_owned()).unwrap_or_default());
            let device = device.unwrap_or_default();
            assert_eq!(
                (&*agent.device, &*agent.brand),
                (&*device.device, device.brand.as_deref().unwrap_or_default())
            );
        }
    }
}
