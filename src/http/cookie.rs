//! Cookies: reading the one that counts, and setting it (RFC 6265).

use aws_lc_rs::rand;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;

use super::problem::Problem;
use crate::config::Config;
use crate::login::Entered;
use crate::sessions::Sessions;
use crate::token::KeyError;

/// How browsers keep sessions.
pub struct Cookies {
    /// The session cookie's name, with the prefix that its attributes earn it.
    pub(super) session: String,
    /// Where a browser shows that it is the one that began to log in.
    login: String,
    /// Where it shows which device it is.
    device: String,
    attributes: String,
    /// For the session cookie only.
    domain: String,
    /// How long browsers keep the cookie of a remembered session, in seconds. How long it is good for
    /// is decided elsewhere.
    remembered: u64,
    /// Scheme, host and port, as browsers write them in `Origin`.
    origin: String,
}

impl Cookies {
    /// Cookies for `server.public_url`.
    pub fn new(config: &Config) -> Self {
        let (url, domain) = (&config.server.public_url, &config.cookie.domain);
        let secure = url.scheme() == "https";
        let prefix = match (secure, domain.is_empty()) {
            (true, true) => "__Host-",
            (true, false) => "__Secure-",
            (false, _) => "",
        };
        let mut attributes = "; Path=/; HttpOnly; SameSite=Lax".to_owned();
        if secure {
            attributes += "; Secure";
        }
        let domain = match domain.as_str() {
            "" => String::new(),
            domain => format!("; Domain={domain}"),
        };
        let session = format!("{prefix}{}", config.cookie.name);
        // The others are for the gateway alone, whoever shares the session.
        let own = if secure { "__Host-" } else { "" };
        let own = |what: &str| format!("{own}{}-{what}", config.cookie.name);
        let remembered = config.sessions.remembered_absolute.as_secs();
        let (login, device) = (own("login"), own("device"));
        Self { session, login, device, attributes, domain, remembered, origin: origin(url) }
    }

    /// Sets the session cookie, which outlives the browser when the session is remembered, and that of
    /// a remembered device.
    pub(super) fn begin(
        &self,
        sessions: &Sessions,
        entered: &Entered,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        /// Browsers keep none for longer than 400 days.
        const LONGEST: u64 = 400 * 86_400;
        let begun = &entered.begun;
        let life = begun.session.remembered.then_some(self.remembered);
        let session = self.set(&self.session, &sessions.cookie(begun), life);
        let device = entered.device.as_ref();
        let device = device.and_then(|device| self.set(&self.device, device, Some(LONGEST)));
        [device, session].into_iter().flatten()
    }

    /// What a browser was given when its device was to be remembered.
    pub(super) fn device_of(&self, headers: &HeaderMap) -> Option<String> {
        let value = cookie(headers, &self.device).ok()??;
        std::str::from_utf8(value).ok().map(str::to_owned)
    }

    /// What a browser that logs in shows again later; a new one, if it has none.
    pub(super) fn browser_of(&self, headers: &HeaderMap) -> Result<String, KeyError> {
        if let Some(known) = self.known_browser(headers) {
            return Ok(known);
        }
        let mut secret = [0; 16];
        rand::fill(&mut secret).map_err(|_| KeyError::Crypto("no randomness"))?;
        Ok(URL_SAFE_NO_PAD.encode(secret))
    }

    /// What a browser shows that began to log in before.
    pub(super) fn known_browser(&self, headers: &HeaderMap) -> Option<String> {
        let value = cookie(headers, &self.login).ok()??;
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 22)?;
        Some(text.to_owned())
    }

    /// Gives a browser what it is to show, unless it has that.
    pub(super) fn bind(
        &self,
        headers: &HeaderMap,
        browser: Option<&str>,
    ) -> Option<(HeaderName, HeaderValue)> {
        let browser = browser.filter(|new| self.known_browser(headers).as_deref() != Some(*new))?;
        self.set(&self.login, browser, Some(600))
    }

    /// Takes the session cookie away.
    pub(super) fn end(&self) -> Option<(HeaderName, HeaderValue)> {
        self.set(&self.session, "", Some(0))
    }

    fn set(&self, name: &str, value: &str, life: Option<u64>) -> Option<(HeaderName, HeaderValue)> {
        let life = life.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
        let domain = if name == self.session { self.domain.as_str() } else { "" };
        let value = format!("{name}={value}{}{domain}{life}", self.attributes);
        let value = HeaderValue::from_str(&value);
        value.ok().map(|value| (header::SET_COOKIE, value))
    }

    /// Refuses a request that another site made a browser send. One that changes nothing passes; so
    /// does one without a cookie from what is no browser.
    pub(super) fn refuse_foreign(
        &self,
        method: &Method,
        headers: &HeaderMap,
        with_cookie: bool,
    ) -> Result<(), Problem> {
        if method.is_safe() {
            return Ok(());
        }
        let site: Vec<&[u8]> =
            headers.get_all("sec-fetch-site").iter().map(HeaderValue::as_bytes).collect();
        let origin: Vec<&[u8]> =
            headers.get_all(header::ORIGIN).iter().map(HeaderValue::as_bytes).collect();
        let ours = match (&site[..], &origin[..]) {
            ([b"same-origin" | b"none"], _) => true,
            ([], [origin]) => *origin == self.origin.as_bytes(),
            ([], []) => !with_cookie,
            _ => false,
        };
        if ours {
            return Ok(());
        }
        Err(Problem::forbidden(
            "a cookie counts for requests of this site's own pages: Sec-Fetch-Site or Origin says \
             otherwise, or both are missing",
        ))
    }
}

/// Scheme, host and port, the port only when it is not the scheme's own.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The value of the one cookie with a name, byte for byte. Two of them are none: nobody can say which
/// one counts.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, ()> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii_start();
            let value = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            if let Some(value) = value
                && found.replace(value).is_some()
            {
                return Err(());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(url: &str, domain: &str) -> Cookies {
        let mut config = Config::default();
        config.server.public_url = url.parse().unwrap();
        config.cookie.domain = domain.to_owned();
        Cookies::new(&config)
    }

    #[test]
    fn the_name_says_what_the_attributes_are() {
        let set = |cookies: Cookies| cookies.set(&cookies.session, "v", None).unwrap().1;
        assert_eq!(
            set(cookies("https://login.example.com", "")),
            "__Host-gatehouse=v; Path=/; HttpOnly; SameSite=Lax; Secure"
        );
        assert_eq!(
            set(cookies("https://login.example.com", "example.com")),
            "__Secure-gatehouse=v; Path=/; HttpOnly; SameSite=Lax; Secure; Domain=example.com"
        );
        assert_eq!(
            set(cookies("http://127.0.0.1:8080", "")),
            "gatehouse=v; Path=/; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn the_name_has_to_be_exact_and_there_once() {
        let read = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("cookie", HeaderValue::from_bytes(value).unwrap());
            }
            cookie(&headers, "__Host-g").map(|found| found.map(<[u8]>::to_vec))
        };
        assert_eq!(read(&[b"a=1; __Host-g=x; b=2"]), Ok(Some(b"x".to_vec())));
        assert_eq!(read(&[b"__Host-g=\"x\""]), Ok(Some(b"\"x\"".to_vec())), "quotes are its own");
        for other in [
            &b""[..],
            b"__host-g=x",
            b"__Host-g2=x",
            b"\xe2\x80\x80__Host-g=x",
            b"__Host-g",
            b"a=__Host-g=x",
            b"=__Host-g=x",
            b"__Host-g =x",
        ] {
            assert_eq!(read(&[other]), Ok(None), "{other:?}");
        }
        assert_eq!(read(&[b"__Host-g=x; __Host-g=x"]), Err(()));
        assert_eq!(read(&[b"__Host-g=x", b"__Host-g=y"]), Err(()));
    }

    #[test]
    fn only_this_site_may_change_something() {
        let cookies = cookies("https://login.example.com:443", "");
        let passes = |method: Method, site: &str, origin: &str, with_cookie: bool| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("sec-fetch-site", site), ("origin", origin)] {
                if !value.is_empty() {
                    headers.append(name, value.parse().unwrap());
                }
            }
            cookies.refuse_foreign(&method, &headers, with_cookie).is_ok()
        };
        assert!(passes(Method::GET, "cross-site", "https://evil.example", true));
        for (site, origin) in [
            ("same-origin", "https://login.example.com"),
            ("none", ""),
            ("", "https://login.example.com"),
        ] {
            assert!(passes(Method::POST, site, origin, true), "{site} {origin}");
        }
        for (site, origin) in [
            ("cross-site", "https://evil.example"),
            ("same-site", "https://app.example.com"),
            ("cross-site", "https://login.example.com"),
            ("", "https://app.example.com"),
            ("", "http://login.example.com"),
            ("", "https://login.example.com:444"),
            ("", "null"),
        ] {
            assert!(!passes(Method::POST, site, origin, true), "{site} {origin}");
            assert!(!passes(Method::DELETE, site, origin, false), "{site} {origin}");
        }
        assert!(!passes(Method::POST, "", "", true));
        assert!(passes(Method::POST, "", "", false), "no browser, and no cookie");
    }
}
