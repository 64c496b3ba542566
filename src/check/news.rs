//! The newest revocations in the order in which they became known, for those who follow them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::{Revocation, Timestamp};

/// How many are kept. Who is further behind than that has to assume that anything was revoked.
const KEPT: usize = 10_000;

/// What was told, and who waits for more.
pub struct News {
    told: Mutex<Told>,
    /// How many were ever told.
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Told {
    newest: VecDeque<(Revocation, Timestamp)>,
    count: u64,
    /// The newest time of those that are no longer kept.
    dropped: Timestamp,
}

/// Not everything that was asked for is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Missed;

impl News {
    pub(super) fn new() -> Self {
        Self { told: Mutex::default(), count: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was revoked at a time of the store.
    pub(super) fn tell(&self, revocation: &Revocation, at: Timestamp) {
        let mut told = self.lock();
        if told.newest.len() == KEPT
            && let Some((_, oldest)) = told.newest.pop_front()
        {
            told.dropped = told.dropped.max(oldest);
        }
        told.newest.push_back((revocation.clone(), at));
        told.count += 1;
        self.count.send_replace(told.count);
    }

    /// How many were ever told: a place to read on from.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// Tells when there is more.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// How many follow.
    pub fn followers(&self) -> usize {
        self.count.receiver_count()
    }

    /// What was told after a place.
    pub fn after(&self, count: u64) -> Result<Vec<Revocation>, Missed> {
        let told = self.lock();
        let new = usize::try_from(told.count.saturating_sub(count)).unwrap_or(usize::MAX);
        let first = told.newest.len().checked_sub(new).ok_or(Missed)?;
        Ok(told.newest.range(first..).map(|(revocation, _)| revocation.clone()).collect())
    }

    /// What was revoked at a time or later.
    pub fn since(&self, time: Timestamp) -> Result<Vec<Revocation>, Missed> {
        let told = self.lock();
        if time <= told.dropped {
            return Err(Missed);
        }
        let new = told.newest.iter().filter(|(_, at)| *at >= time);
        Ok(new.map(|(revocation, _)| revocation.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(number: u64) -> Revocation {
        Revocation::Everything { before: Timestamp(number) }
    }

    #[test]
    fn what_is_new_is_read_once_and_by_time() {
        let news = News::new();
        news.tell(&revocation(1), Timestamp(100));
        let place = news.count();
        assert_eq!(news.after(place), Ok(vec![]));
        news.tell(&revocation(2), Timestamp(90));
        news.tell(&revocation(3), Timestamp(110));
        assert_eq!(news.after(place), Ok(vec![revocation(2), revocation(3)]));
        assert_eq!(news.since(Timestamp(100)), Ok(vec![revocation(1), revocation(3)]));
        assert!(news.since(Timestamp(111)).unwrap().is_empty());
    }

    #[test]
    fn who_is_too_far_behind_is_told_so() {
        let news = News::new();
        for number in 1..=10_001 {
            news.tell(&revocation(number), Timestamp(number));
        }
        assert_eq!(news.after(0), Err(Missed));
        assert_eq!(news.after(1).unwrap().len(), 10_000);
        assert_eq!(news.since(Timestamp(1)), Err(Missed));
        assert_eq!(news.since(Timestamp(2)).unwrap().len(), 10_000);
    }
}
