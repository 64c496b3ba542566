//! The way back after a login: only to where people are meant to go.

use url::Url;

use super::cookie::origin;
use crate::config::Config;

/// The longest way back that is remembered, in bytes.
const MAX: usize = 2048;

/// Where `text` leads, if that is the gateway's own origin or one that was allowed. The origin has to
/// stand there as it is written, not only be what a parser makes of it: parsers differ, and a browser
/// has one of its own.
pub(super) fn return_to(text: &str, config: &Config) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= MAX)?;
    let theirs = origin(&url);
    let rest = text.strip_prefix(&theirs)?;
    let whole = rest.is_empty() || rest.starts_with(['/', '?', '#']);
    let plain = !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\');
    let mut allowed = [&config.server.public_url].into_iter().chain(&config.login.return_origins);
    (whole && plain && allowed.any(|ours| origin(ours) == theirs)).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(text: &str) -> Option<String> {
        let mut config = Config::default();
        config.server.public_url = "https://login.good.com".parse().unwrap();
        config.login.return_origins =
            vec!["https://good.com".parse().unwrap(), "http://127.0.0.1:8000".parse().unwrap()];
        return_to(text, &config).map(String::from)
    }

    #[test]
    fn allowed_origins_are_returned_to() {
        for text in [
            "https://good.com/",
            "https://good.com/inbox?page=2&next=https://evil.example#top",
            "https://login.good.com/account/sessions",
            "http://127.0.0.1:8000/",
            "https://good.com/%2f%2fevil.example",
        ] {
            assert_eq!(way(text).as_deref(), Some(text));
        }
        assert_eq!(way("https://good.com").as_deref(), Some("https://good.com/"));
    }

    #[test]
    fn everything_else_is_not() {
        for text in [
            "",
            "/",
            "/inbox",
            "//evil",
            "/\\evil",
            "/\t/evil",
            "\\/\\/evil",
            "https:evil",
            "https:good.com",
            "https:/good.com",
            "https:\\\\good.com",
            "///evil",
            "%2f%2fevil",
            "/%09/evil",
            "https://good.com.evil",
            "https://good.com@evil",
            "https://evil@good.com",
            "https://evil#.good.com",
            "https://evil\\.good.com",
            "https://good\u{3002}com",
            "https://good.com:444/",
            "https://good.com:443/",
            "https://GOOD.com/",
            "http://good.com/",
            "https://sub.good.com/",
            "https://good.com./",
            "ftp://good.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://good.com/\r\nSet-Cookie: a=b",
            "https://good.com/ x",
            " https://good.com/",
            "https://good.com\\@evil/",
            "blob:https://good.com/x",
        ] {
            assert_eq!(way(text), None, "{text:?}");
        }
        assert_eq!(way(&format!("https://good.com/{}", "a".repeat(MAX))), None);
    }
}
