//! Names a device by the `User-Agent` it sends.

use xxhash_rust::xxh3::xxh3_64;

use super::agent::{self, Agent};
use crate::model::{Device, DeviceClass};

/// The longest name, in bytes.
pub const NAME_MAX: usize = 64;

/// No browser comes near; what is longer only costs time.
const USER_AGENT_MAX: usize = 512;

/// Prepares what [`describe`] needs, so that no request has to.
pub fn warm() {
    agent::warm();
}

/// What a `User-Agent` says of the device.
pub fn describe(user_agent: &str) -> Device {
    let user_agent = cut(user_agent, USER_AGENT_MAX);
    let Agent { browser, os, device, brand } = agent::parse(user_agent);
    let browser = browser.map(|browser| plain(&browser)).unwrap_or_default();

    let place = match (device.trim(), os.trim()) {
        ("Spider", _) | ("", "Other") => "",
        ("Mac", _) | ("", "Mac OS X") => "macOS",
        ("" | "iOS-Device", os) => os,
        // A model that nobody knows, or none at all.
        (_, os) if brand.starts_with("Generic") && !os.is_empty() => os,
        (device, _) => device,
    };
    let name = match (&*browser, place) {
        ("" | "Other", only) | (only, "") => only.to_owned(),
        (browser, place) if browser == place => browser.to_owned(),
        (browser, place) => format!("{browser} on {place}"),
    };
    let mut name = tidy(&name, NAME_MAX);
    if name.is_empty() {
        name.push_str("Unknown device");
    }
    Device { name, class: class(user_agent, &os, &device) }
}

/// A number that stays the same when a browser or a system is updated; 0 for no `User-Agent`.
pub fn family(user_agent: &str) -> u64 {
    let version = |c: &char| c.is_ascii_digit() || matches!(c, '.' | '_');
    match cut(user_agent, USER_AGENT_MAX) {
        "" => 0,
        text => xxh3_64(text.chars().filter(|c| !version(c)).collect::<String>().as_bytes()),
    }
}

/// `text` without control characters, in at most `max` bytes.
pub(super) fn tidy(text: &str, max: usize) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    cut(text.trim(), max).trim_end().to_owned()
}

fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// "Chrome" for "Chrome Mobile iOS": where it runs is said by the device.
fn plain(family: &str) -> String {
    let family = family.strip_suffix(" UI/WKWebView").unwrap_or(family);
    let words: Vec<_> =
        family.split(' ').filter(|word| !matches!(*word, "Mobile" | "iOS" | "WebView")).collect();
    words.join(" ")
}

fn class(user_agent: &str, os: &str, device: &str) -> DeviceClass {
    let says = |words: &[&str]| words.iter().any(|word| user_agent.contains(word));
    match (device, os) {
        ("Spider", _) => DeviceClass::Bot,
        ("iPad", _) => DeviceClass::Tablet,
        (_, "iOS") => DeviceClass::Mobile,
        (_, "Windows" | "Mac OS X") => DeviceClass::Desktop,
        (_, "tvOS" | "ATV OS X" | "Chromecast" | "Roku" | "Web0S") => DeviceClass::Tv,
        _ if says(&["Mobi"]) => DeviceClass::Mobile,
        // Amazon's Fire TV says its model only, which begins with AFT.
        _ if says(&["TV", "BRAVIA", "; AFT"]) => DeviceClass::Tv,
        // Browsers on phones say "Mobile". What is no browser says it nowhere.
        (_, "Android") if says(&["Mozilla/"]) => DeviceClass::Tablet,
        (_, "Android") => DeviceClass::Mobile,
        (_, "Linux" | "Chrome OS") => DeviceClass::Desktop,
        _ if says(&["X11"]) => DeviceClass::Desktop,
        _ => DeviceClass::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use DeviceClass::{Bot, Desktop, Mobile, Other, Tablet, Tv};

    #[rustfmt::skip]
    const USER_AGENTS: &[(DeviceClass, &str, &str)] = &[
        (Desktop, "Chrome on Windows", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
        (Desktop, "Edge on macOS", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.2592.87"),
        (Desktop, "Safari on macOS", "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15"),
        (Desktop, "Firefox on Linux", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        (Desktop, "Firefox on Ubuntu", "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        (Desktop, "Chrome on Chrome OS", "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
        (Desktop, "IE on Windows", "Mozilla/5.0 (Windows NT 10.0; Trident/7.0; rv:11.0) like Gecko"),
        (Mobile, "Safari on iPhone", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"),
        (Mobile, "Chrome on iPhone", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0.6478.153 Mobile/15E148 Safari/604.1"),
        (Mobile, "Safari on iPhone", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"),
        (Mobile, "MyApp on iOS", "MyApp/3.1 CFNetwork/1496.0.7 Darwin/23.5.0"),
        (Mobile, "Chrome on Pixel 8", "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.6478.122 Mobile Safari/537.36"),
        (Mobile, "Chrome on Android", "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36"),
        (Mobile, "Chrome on Samsung SM-S911B", "Mozilla/5.0 (Linux; Android 14; SM-S911B Build/UP1A.231005.007; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/126.0.6478.122 Mobile Safari/537.36"),
        (Mobile, "Firefox on Android", "Mozilla/5.0 (Android 14; Mobile; rv:128.0) Gecko/128.0 Firefox/128.0"),
        (Mobile, "Android on Pixel 7", "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 7 Build/UP1A.231005.007)"),
        (Mobile, "Firefox on Nokia 2720", "Mozilla/5.0 (Mobile; Nokia 2720 Flip; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5.2"),
        (Mobile, "Edge on Lumia 950", "Mozilla/5.0 (Windows Phone 10.0; Android 6.0.1; Microsoft; Lumia 950) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/52.0.2743.116 Mobile Safari/537.36 Edge/15.15063"),
        (Tablet, "Safari on iPad", "Mozilla/5.0 (iPad; CPU OS 12_5_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.2 Mobile/15E148 Safari/604.1"),
        (Tablet, "Chrome on Android", "Mozilla/5.0 (Linux; Android 13; SM-X710) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
        (Tablet, "Amazon Silk on Kindle", "Mozilla/5.0 (Linux; Android 9; KFTRWI) AppleWebKit/537.36 (KHTML, like Gecko) Silk/126.2.4 like Chrome/126.0.6478.122 Safari/537.36"),
        (Tablet, "Firefox on Android", "Mozilla/5.0 (Android 13; Tablet; rv:128.0) Gecko/128.0 Firefox/128.0"),
        (Tv, "Amazon Silk on Kindle", "Mozilla/5.0 (Linux; Android 9; AFTKA) AppleWebKit/537.36 (KHTML, like Gecko) Silk/112.4.1 like Chrome/112.0.5615.213 Safari/537.36"),
        (Tv, "Samsung Internet on Samsung SMART-TV", "Mozilla/5.0 (SMART-TV; Linux; Tizen 6.5) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/4.0 Chrome/85.0.4183.93 TV Safari/537.36"),
        (Tv, "Chrome on LG Web0S SmartTV", "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.128 Safari/537.36 WebAppManager"),
        (Tv, "AppleTV", "AppleTV11,1/11.1"),
        (Tv, "Roku", "Roku/DVP-12.5 (12.5.0.4178)"),
        (Bot, "Googlebot", "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.6478.126 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
        (Bot, "bingbot", "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"),
        (Other, "Safari on PlayStation 5", "Mozilla/5.0 (PlayStation; PlayStation 5/6.50) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.0 Safari/605.1.15"),
        (Other, "curl", "curl/8.7.1"),
        (Other, "Go-http-client", "Go-http-client/1.1"),
        (Other, "Unknown device", "Mozilla/5.0"),
        (Other, "Unknown device", "hello"),
        (Other, "Unknown device", ""),
    ];

    #[test]
    fn devices_are_named() {
        for &(class, name, user_agent) in USER_AGENTS {
            let name = name.to_owned();
            assert_eq!(describe(user_agent), Device { name, class }, "{user_agent}");
        }
    }

    #[test]
    fn a_long_name_is_cut() {
        let name = describe(&format!("{} CFNetwork/1 Darwin/1", "ä".repeat(100) + "/1")).name;
        assert_eq!(name, "ä".repeat(NAME_MAX / 2));
    }

    #[test]
    fn what_follows_the_first_512_bytes_is_not_read() {
        let padding = "ä".repeat(USER_AGENT_MAX / 2);
        assert_eq!(describe(&format!("{padding}curl/8.7.1")).name, "Unknown device");
        assert_eq!(family(&format!("{padding}a")), family(&format!("{padding}b")));
    }

    #[test]
    fn an_update_keeps_the_family() {
        let user_agent = |os, version| {
            format!(
                "Mozilla/5.0 (iPhone; CPU iPhone OS {os} like Mac OS X) Version/{version} Safari"
            )
        };
        assert_eq!(family(&user_agent("17_5", "17.5")), family(&user_agent("18_0_1", "18.0")));
        assert_ne!(family("Firefox/128.0"), family("Chrome/128.0"));
        assert_eq!(family(""), 0);
        assert_ne!(family("1.0"), 0);
    }

    proptest! {
        #[test]
        fn names_keep_their_bounds(
            // Pieces of what browsers send reach further into the patterns than noise does.
            words in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(USER_AGENTS).prop_map(|(_, _, text)| text.to_owned()),
                    prop::sample::select(USER_AGENTS.iter()
                        .flat_map(|(_, _, text)| text.split([' ', '/']))
                        .collect::<Vec<_>>())
                        .prop_map(str::to_owned),
                    any::<String>(),
                ],
                0..12,
            ),
            separator in prop::sample::select(&[" ", "/", "; ", ""][..]),
        ) {
            let user_agent = words.join(separator);
            let name = describe(&user_agent).name;
            prop_assert!((1..=NAME_MAX).contains(&name.len()), "{name:?}");
            prop_assert!(!name.contains(char::is_control), "{name:?}");
            family(&user_agent);
        }
    }
}
