//! A login that waits: the password was right, and the user chooses which session ends for it.

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Mode;
use super::users::User;
use crate::model::{Timestamp, UserId};

/// How long the user may take to choose, in seconds.
const LIFE: u64 = 5 * 60;

/// What was proved, and what for. The store sees to it that it counts once.
#[derive(Serialize, Deserialize)]
pub(super) struct Ticket {
    /// Names it in the store.
    pub(super) id: String,
    pub(super) user: UserId,
    /// Of the password that was right.
    pub(super) mark: String,
    pub(super) mode: Mode,
    pub(super) remember: bool,
    pub(super) device_name: Option<String>,
    /// Which device is to be remembered.
    pub(super) device: Option<String>,
    /// A hash of what the browser has to show.
    browser: Option<String>,
    /// In seconds.
    until: u64,
}

impl Ticket {
    pub(super) fn new(
        id: String,
        user: &User,
        mode: Mode,
        remember: bool,
        device_name: Option<String>,
        browser: Option<&str>,
    ) -> Self {
        Self {
            id,
            user: user.name.clone(),
            mark: user.mark.clone(),
            mode,
            remember,
            device_name,
            device: None,
            browser: browser.map(hash),
            until: Timestamp::now().seconds() + LIFE,
        }
    }

    pub(super) fn with(self, device: Option<String>) -> Self {
        Self { device, ..self }
    }

    /// Whether it is not too old, and shown by the browser that it was made for.
    pub(super) fn is_good(&self, browser: Option<&str>) -> bool {
        let same = match (&self.browser, browser.map(hash)) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => {
                constant_time::verify_slices_are_equal(ours.as_bytes(), theirs.as_bytes()).is_ok()
            }
            (Some(_), None) => false,
        };
        same && Timestamp::now().seconds() < self.until
    }
}

fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}
