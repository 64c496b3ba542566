//! The feed of revocations: where it ends, what it says, and the proof that it was read.

use std::time::Duration;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};

use super::reply::Reply;
use super::{Store, StoreError, keys, scripts};
use crate::model::{Revocation, Timestamp};

/// A place in the feed of one bucket: everything up to it has been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which bucket.
    pub bucket: u8,
    /// The number of the last revocation.
    pub seq: u64,
    /// The stream's id of it.
    pub id: String,
}

/// A revocation as the feed carries it.
#[derive(Debug)]
pub struct Entry {
    /// In which bucket.
    pub bucket: u8,
    /// Its number; they have no gaps.
    pub seq: u64,
    /// The stream's id of it.
    pub id: String,
    /// When it was made, by the bucket's clock: nothing that it speaks of was issued later.
    pub at: Timestamp,
    /// What it says.
    pub revocation: Revocation,
}

/// What a heartbeat proves.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// The number of the newest revocation.
    pub seq: u64,
    /// The server's clock.
    pub time: Timestamp,
}

/// How long a read of the feed waits for news.
const BLOCK: Duration = Duration::from_secs(1);

impl Store {
    /// Proves by a write what the newest revocation of a bucket is.
    pub async fn feed_heartbeat(&self, bucket: u8) -> Result<Beat, StoreError> {
        let values = self.run(&scripts::HEARTBEAT, bucket, Vec::new()).await?;
        let mut reply = Reply::new("feed_heartbeat", values);
        reply.text()?;
        Ok(Beat { seq: reply.number()?, time: reply.time()? })
    }

    /// Where the feed of a bucket ends.
    pub async fn feed_tail(&self, bucket: u8) -> Result<Position, StoreError> {
        let values = self.run(&scripts::TAIL, bucket, Vec::new()).await?;
        let mut reply = Reply::new("feed_tail", values);
        reply.text()?;
        Ok(Position { bucket, seq: reply.number()?, id: reply.text()? })
    }

    /// Every revocation of a bucket that still matters, with the time it was made. What is added
    /// meanwhile stands in the feed after a tail that was noted before.
    pub async fn feed_tombstones(
        &self,
        bucket: u8,
    ) -> Result<Vec<(Revocation, Timestamp)>, StoreError> {
        let mut cursor = "0".to_owned();
        let mut tombstones = Vec::new();
        loop {
            let command = CustomCommand::new("ZSCAN", ClusterHash::FirstKey, false);
            let args = vec![keys::index(bucket), cursor, "COUNT".into(), "1000".into()];
            let (next, page): (String, Vec<Value>) = self.pool.custom(command, args).await?;
            tombstones.extend(page.chunks_exact(2).filter_map(|pair| {
                let revocation = pair[0].as_str()?.parse().ok()?;
                Some((revocation, Timestamp(pair[1].as_str()?.parse().ok()?)))
            }));
            if next == "0" {
                return Ok(tombstones);
            }
            cursor = next;
        }
    }

    /// By how many readers the feed has to be followed; a bucket is read by the one of its number
    /// modulo this.
    pub fn feed_readers(&self) -> usize {
        self.feeds.len()
    }

    /// What came after some positions; waits up to a second for it. Only one task may be a reader.
    pub async fn feed_read(
        &self,
        reader: usize,
        after: &[Position],
    ) -> Result<Vec<Entry>, StoreError> {
        type Fields = std::collections::HashMap<String, String>;
        let streams: Vec<String> = after.iter().map(|at| keys::revoked(at.bucket)).collect();
        let ids: Vec<String> = after.iter().map(|at| at.id.clone()).collect();
        let block = u64::try_from(BLOCK.as_millis()).unwrap_or(1000);
        let options = Options { timeout: Some(BLOCK * 3), ..Options::default() };
        let news: std::collections::HashMap<String, Vec<(String, Fields)>> = self.feeds[reader]
            .with_options(&options)
            .xread_map(Some(1000), Some(block), streams.clone(), ids)
            .await?;
        let mut entries = Vec::new();
        for (stream, at) in streams.iter().zip(after) {
            for (id, fields) in news.get(stream).into_iter().flatten() {
                let field = |name: &str| fields.get(name);
                let problem = "an entry of the feed cannot be read";
                let unreadable = StoreError::Reply { script: "feed_read", problem };
                let (Some(seq), Some(time), Some(revocation)) = (
                    field("q").and_then(|text| text.parse().ok()),
                    field("t").and_then(|text| text.parse().ok()),
                    field("m").and_then(|text| text.parse().ok()),
                ) else {
                    return Err(unreadable);
                };
                let (bucket, id, at) = (at.bucket, id.clone(), Timestamp(time));
                entries.push(Entry { bucket, seq, id, at, revocation });
            }
        }
        Ok(entries)
    }
}
