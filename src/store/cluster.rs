//! Which member of a Cluster has which bucket.
//!
//! The client's own way loses all members when it loses one: it takes no command until it is
//! connected to every primary that it knows of, the dead one included. A bucket is one slot, so to
//! follow it is little: each member gets connections of its own, and a command goes to whoever has
//! its bucket.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use fred::prelude::*;
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand};
use fred::util::redis_keyslot;
use futures::future::join_all;
use tokio::sync::Notify;

use super::client::Plan;
use super::connection::{Connection, Links};
use super::{StoreError, keys};

/// How often the members are asked who has what, without a reason.
const ROUTINE: Duration = Duration::from_secs(5);
/// And how often at most, with one.
const PAUSE: Duration = Duration::from_millis(100);

/// A range of slots, its primary, and those that may follow it.
type Range = (u16, u16, Vec<Server>);

/// The members, and what they have.
pub(super) struct Cluster {
    plan: Plan,
    seeds: Vec<String>,
    members: Mutex<BTreeMap<String, Arc<Links>>>,
    /// By bucket; the last one is of the key that all gateways share.
    owners: Box<[ArcSwap<Links>]>,
    slots: Box<[u16]>,
    readers: Box<[ArcSwap<Reader>]>,
    doubt: Notify,
    /// The members have told who has what, once at least.
    surveyed: AtomicBool,
}

/// The reader of one bucket's feed.
struct Reader {
    member: Option<Server>,
    connection: Arc<Connection>,
}

impl Cluster {
    /// Knows nothing but some members, and finds out the rest in the background.
    pub(super) fn begin(
        plan: Plan,
        seeds: Vec<Server>,
        buckets: u16,
    ) -> Result<Arc<Self>, StoreError> {
        let mut members = BTreeMap::new();
        for seed in seeds {
            members.insert(seed.to_string(), Arc::new(plan.links(Some(seed))?));
        }
        let Some(first) = members.values().next().cloned() else {
            return Err(StoreError::Unsafe("redis.url: names no member of the Cluster".to_owned()));
        };
        let feeds = (0..buckets).map(|bucket| keys::feed(u8::try_from(bucket).unwrap_or(u8::MAX)));
        let keys: Vec<String> = feeds.chain([keys::META.to_owned()]).collect();
        let reader = |_| {
            let connection = plan.reader(first.member.as_ref())?;
            Ok(ArcSwap::from_pointee(Reader { member: first.member.clone(), connection }))
        };
        let cluster = Arc::new(Self {
            readers: (0..buckets).map(reader).collect::<Result<_, StoreError>>()?,
            owners: keys.iter().map(|_| ArcSwap::new(Arc::clone(&first))).collect(),
            slots: keys.iter().map(|key| redis_keyslot(key.as_bytes())).collect(),
            seeds: members.keys().cloned().collect(),
            members: Mutex::new(members),
            plan,
            doubt: Notify::new(),
            surveyed: AtomicBool::new(false),
        });
        tokio::spawn(Self::follow(Arc::downgrade(&cluster)));
        Ok(cluster)
    }

    /// Who has a bucket.
    pub(super) fn owner(&self, bucket: u8) -> Arc<Links> {
        self.owners[usize::from(bucket)].load_full()
    }

    /// Everybody who has something, as soon as that is known.
    pub(super) fn owners(&self) -> Result<Vec<Arc<Links>>, StoreError> {
        if !self.surveyed.load(Ordering::Acquire) {
            return Err(StoreError::unavailable("who has which bucket is not known yet"));
        }
        let mut owners: Vec<_> = self.owners.iter().map(ArcSwap::load_full).collect();
        owners.sort_by_key(|links| Arc::as_ptr(links).addr());
        owners.dedup_by(|one, other| Arc::ptr_eq(one, other));
        Ok(owners)
    }

    /// Who has the key that all gateways share.
    pub(super) fn owner_of_meta(&self) -> Arc<Links> {
        self.owners[self.owners.len() - 1].load_full()
    }

    /// The connection that reads the feed of a bucket where it is now.
    pub(super) fn reader(&self, bucket: usize) -> Result<Arc<Connection>, StoreError> {
        let reader = self.readers[bucket].load();
        let owner = self.owners[bucket].load();
        if reader.member == owner.member {
            return Ok(Arc::clone(&reader.connection));
        }
        let connection = self.plan.reader(owner.member.as_ref())?;
        let new = Reader { member: owner.member.clone(), connection: Arc::clone(&connection) };
        self.readers[bucket].store(Arc::new(new));
        Ok(connection)
    }

    /// Every connection there is.
    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        let mut all: Vec<_> =
            self.members().values().flat_map(|links| links.iter().cloned()).collect();
        all.extend(self.readers.iter().map(|reader| Arc::clone(&reader.load().connection)));
        all
    }

    /// Something has failed that would not have failed where it belongs.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    fn members(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Links>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member has said who has a bucket: `MOVED 3999 127.0.0.1:6381`.
    pub(super) fn moved(&self, bucket: u8, error: &str) -> Option<()> {
        let (host, port) = error.split(' ').nth(2)?.rsplit_once(':')?;
        let asked = self.owner(bucket);
        let host = match (host, &asked.member) {
            ("", Some(member)) => member.host.to_string(),
            _ => host.to_owned(),
        };
        let links = self.member(&self.plan.member(&host, port.parse().ok()?)).ok()?;
        self.owners[usize::from(bucket)].store(links);
        self.doubt();
        Some(())
    }

    fn member(&self, member: &Server) -> Result<Arc<Links>, StoreError> {
        let mut members = self.members();
        if let Some(links) = members.get(&member.to_string()) {
            return Ok(Arc::clone(links));
        }
        tracing::info!(%member, "another member of the Cluster");
        let links = Arc::new(self.plan.links(Some(member.clone()))?);
        members.insert(member.to_string(), Arc::clone(&links));
        Ok(links)
    }

    /// Finds out who has what: now and then, and soon after something went wrong.
    async fn follow(cluster: Weak<Self>) {
        while let Some(cluster) = cluster.upgrade() {
            if let Err(error) = cluster.survey().await {
                tracing::debug!(%error, "who has which bucket is not known");
            }
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(ROUTINE, cluster.doubt.notified()).await;
        }
    }

    /// Asks every member, and believes the most: one that was cut off from the others is wrong.
    async fn survey(&self) -> Result<(), StoreError> {
        let asked: Vec<Arc<Links>> = self.members().values().cloned().collect();
        let answers = join_all(asked.iter().map(|links| self.ask(links))).await;
        let answers: Vec<Vec<Range>> = answers.into_iter().flatten().collect();
        if answers.is_empty() {
            return Err(StoreError::unavailable("no member of the Cluster answers"));
        }
        for (owner, slot) in self.owners.iter().zip(&self.slots) {
            let mut votes: BTreeMap<String, (usize, &Server)> = BTreeMap::new();
            for (first, last, servers) in answers.iter().flatten() {
                if (first..=last).contains(&slot)
                    && let Some(primary) = servers.first()
                {
                    votes.entry(primary.to_string()).or_insert((0, primary)).0 += 1;
                }
            }
            if let Some((_, primary)) = votes.into_values().max_by_key(|(votes, _)| *votes) {
                let links = self.member(primary)?;
                if !Arc::ptr_eq(&links, &owner.load()) {
                    owner.store(links);
                }
            }
        }
        self.surveyed.store(true, Ordering::Release);
        let named: Vec<&Server> =
            answers.iter().flatten().flat_map(|(_, _, servers)| servers).collect();
        for server in &named {
            self.member(server)?;
        }
        let named: Vec<String> = named.into_iter().map(ToString::to_string).collect();
        // A seed may be a name that leads to the next members, when all of these are gone.
        self.members().retain(|member, _| self.seeds.contains(member) || named.contains(member));
        Ok(())
    }

    async fn ask(&self, links: &Links) -> Option<Vec<Range>> {
        let options = Options { timeout: Some(Duration::from_millis(250)), ..Options::default() };
        let command = CustomCommand::new("CLUSTER", ClusterHash::Random, false);
        let client = links.next().client().with_options(&options);
        let reply: Value = client.custom(command, vec!["SLOTS"]).await.ok()?;
        let ranges = reply.into_array().into_iter().map(|range| {
            let mut range = range.into_array().into_iter();
            let mut slot = || u16::try_from(range.next()?.as_u64()?).ok();
            let (first, last) = (slot()?, slot()?);
            let servers = range.map(|server| {
                let server = server.into_array();
                let host = server.first()?.as_string().unwrap_or_default();
                let port = u16::try_from(server.get(1)?.as_u64()?).ok()?;
                // A member that does not know its own address is where it was asked.
                let host = match (host.as_str(), &links.member) {
                    ("" | "?", Some(asked)) => asked.host.to_string(),
                    _ => host,
                };
                Some(self.plan.member(&host, port))
            });
            Some((first, last, servers.collect::<Option<_>>()?))
        });
        ranges.collect()
    }
}
