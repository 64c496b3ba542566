//! The cut-offs of a user.

use crate::model::{SessionId, Timestamp};

/// Everything issued to a user up to a time is dead, except for one session.
#[derive(Clone, Copy)]
pub(super) struct CutOff {
    pub(super) bucket: u8,
    pub(super) before: Timestamp,
    pub(super) kept: Option<SessionId>,
    /// Somebody said it so; otherwise it stands for several that were, and says more than they did.
    pub(super) stated: bool,
}

impl CutOff {
    fn covers(&self, session: SessionId, issued: Timestamp) -> bool {
        issued <= self.before && self.kept != Some(session)
    }

    fn includes(&self, other: &Self) -> bool {
        self.before >= other.before && (self.kept.is_none() || self.kept == other.kept)
    }
}

/// The cut-offs of one user: what one of them keeps, another may still cover.
#[derive(Clone)]
pub(super) struct CutOffs(pub(super) Vec<CutOff>);

impl CutOffs {
    pub(super) fn cover(&self, session: SessionId, issued: Timestamp) -> bool {
        self.0.iter().any(|cut| cut.covers(session, issued))
    }

    pub(super) fn include(&self, other: &CutOff) -> bool {
        self.0.iter().any(|cut| cut.includes(other))
    }

    pub(super) fn newest(&self) -> Timestamp {
        self.0.iter().map(|cut| cut.before).max().unwrap_or_default()
    }

    /// With one more. Past a handful the two oldest become one that keeps nothing.
    pub(super) fn with(&self, new: CutOff) -> Self {
        const HANDFUL: usize = 8;
        if self.include(&new) {
            return self.clone();
        }
        let mut cuts: Vec<CutOff> =
            self.0.iter().filter(|cut| !new.includes(cut)).copied().collect();
        cuts.push(new);
        if cuts.len() > HANDFUL {
            cuts.sort_by_key(|cut| cut.before);
            cuts.remove(0);
            (cuts[0].kept, cuts[0].stated) = (None, false);
        }
        Self(cuts)
    }
}
