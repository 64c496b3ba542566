//! The feed of revocations: where it ends, what it says, and the proof that it was read.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};

use super::reply::Reply;
use super::{Store, StoreError, keys, scripts};
use crate::model::{Revocation, Timestamp};

/// The id of an entry in a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryId {
    millis: u64,
    counter: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.counter)
    }
}

/// A text that is no id of an entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an entry")]
pub struct NotAnEntryId;

impl FromStr for EntryId {
    type Err = NotAnEntryId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (millis, counter) = text.split_once('-').ok_or(NotAnEntryId)?;
        let number = |text: &str| text.parse().map_err(|_| NotAnEntryId);
        Ok(Self { millis: number(millis)?, counter: number(counter)? })
    }
}

/// One revocation in the history of a bucket. Two histories that parted at a failover have marks of
/// the same number, and different ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Its number; they have no gaps.
    pub seq: u64,
    /// The stream's id of it.
    pub id: EntryId,
}

/// A place in the feed of one bucket: everything up to it has been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which bucket.
    pub bucket: u8,
    /// The last revocation.
    pub mark: Mark,
}

/// A revocation as the feed carries it.
#[derive(Debug)]
pub struct Entry {
    /// In which bucket.
    pub bucket: u8,
    /// Where in the history.
    pub mark: Mark,
    /// What the entry before it is called.
    pub previous: EntryId,
    /// When it was made, by the bucket's clock: nothing that it speaks of was issued later.
    pub at: Timestamp,
    /// What it says.
    pub revocation: Revocation,
}

/// What a heartbeat proves.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// The newest revocation.
    pub newest: Mark,
    /// The server's clock.
    pub time: Timestamp,
}

/// Of an entry.
type Fields = HashMap<String, String>;

/// How many revocations are asserted at once.
const ASSERTED: usize = 64;

/// How long a read of the feed waits for news.
const BLOCK: Duration = Duration::from_secs(1);

impl Store {
    /// Proves by a write what the newest revocation of a bucket is.
    pub async fn feed_heartbeat(&self, bucket: u8) -> Result<Beat, StoreError> {
        /// An earlier heartbeat's reply, or another bucket's, proves nothing.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let args = vec![i64::try_from(number).unwrap_or_default().into()];
        let mut reply = self.run(&scripts::HEARTBEAT, bucket, args).await?;
        reply.must_be("beat")?;
        let echoed = reply.number()?;
        reply.must_echo(echoed == number)?;
        Ok(Beat { newest: mark(&mut reply)?, time: reply.time()? })
    }

    /// Where the feed of a bucket ends.
    pub async fn feed_tail(&self, bucket: u8) -> Result<Position, StoreError> {
        let mut reply = self.run(&scripts::TAIL, bucket, Vec::new()).await?;
        reply.must_be("tail")?;
        reply.must_be(&keys::feed(bucket))?;
        Ok(Position { bucket, mark: mark(&mut reply)? })
    }

    /// Every revocation of a bucket that still matters, with the time it was made. What is added
    /// meanwhile stands in the feed after a tail that was noted before.
    pub async fn feed_tombstones(
        &self,
        bucket: u8,
    ) -> Result<Vec<(Revocation, Timestamp)>, StoreError> {
        let client = self.topology.links(bucket).next().client();
        let mut cursor = "0".to_owned();
        let mut tombstones = Vec::new();
        loop {
            let command = CustomCommand::new("ZSCAN", ClusterHash::FirstKey, false);
            let args = vec![keys::index(bucket), cursor, "COUNT".into(), "1000".into()];
            let (next, page): (String, Vec<Value>) = client.custom(command, args).await?;
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

    /// States revocations of a bucket again, each unless the bucket knows it. How many it did not
    /// know: a failover had lost them.
    pub async fn feed_assert(
        &self,
        bucket: u8,
        revocations: &[Revocation],
    ) -> Result<u64, StoreError> {
        let mut lost = 0;
        for batch in revocations.chunks(ASSERTED) {
            let args = batch.iter().map(|revocation| revocation.to_string().into()).collect();
            let mut reply = self.run(&scripts::ASSERT, bucket, args).await?;
            reply.must_be("asserted")?;
            lost += reply.number()?;
        }
        Ok(lost)
    }

    /// By how many readers the feed has to be followed; a bucket is read by the one of its number
    /// modulo this.
    pub fn feed_readers(&self) -> usize {
        self.topology.readers(self.buckets)
    }

    /// Connects a reader anew, to whichever server has its buckets now: one that was cut off from
    /// the others goes on answering reads.
    pub async fn feed_reconnect(&self, reader: usize) -> Result<(), StoreError> {
        self.topology.reader(reader)?.replace().await
    }

    /// What came after some positions; waits up to a second for it. Only one task may be a reader.
    pub async fn feed_read(
        &self,
        reader: usize,
        after: &[Position],
    ) -> Result<Vec<Entry>, StoreError> {
        let streams: Vec<String> = after.iter().map(|at| keys::revoked(at.bucket)).collect();
        let ids: Vec<String> = after.iter().map(|at| at.mark.id.to_string()).collect();
        let block = u64::try_from(BLOCK.as_millis()).unwrap_or(1000);
        let options = Options { timeout: Some(BLOCK * 3 / 2), ..Options::default() };
        let connection = self.topology.reader(reader)?;
        let news: Result<HashMap<String, Vec<(String, Fields)>>, _> = connection
            .client()
            .with_options(&options)
            .xread_map(Some(1000), Some(block), streams.clone(), ids)
            .await;
        if let Some(first) = after.first() {
            connection.note(news.is_ok());
            if let Err(error) = &news {
                self.topology.failed(first.bucket, error);
            }
        }
        let news = news?;
        let mut entries = Vec::new();
        for (stream, at) in streams.iter().zip(after) {
            for (id, fields) in news.get(stream).into_iter().flatten() {
                entries.push(entry(at.bucket, id, fields).ok_or(StoreError::Reply {
                    script: "feed_read",
                    problem: "an entry of the feed cannot be read",
                })?);
            }
        }
        Ok(entries)
    }
}

fn mark(reply: &mut Reply) -> Result<Mark, StoreError> {
    let seq = reply.number()?;
    let id = reply.text()?.parse().map_err(|_| reply.problem("the id of an entry was expected"))?;
    Ok(Mark { seq, id })
}

fn entry(bucket: u8, id: &str, fields: &Fields) -> Option<Entry> {
    Some(Entry {
        bucket,
        mark: Mark { seq: fields.get("q")?.parse().ok()?, id: id.parse().ok()? },
        previous: fields.get("p")?.parse().ok()?,
        at: Timestamp(fields.get("t")?.parse().ok()?),
        revocation: fields.get("m")?.parse().ok()?,
    })
}
