//! Where a command goes.

use std::sync::Arc;

use super::StoreError;
use super::client::Plan;
use super::cluster::Cluster;
use super::connection::{Connection, Links};

/// The servers.
#[derive(Clone)]
pub(super) enum Topology {
    /// One that has everything, perhaps by the word of Sentinels.
    One { links: Arc<Links>, reader: Arc<Connection> },
    /// Several that have some buckets each.
    Cluster(Arc<Cluster>),
}

impl Topology {
    pub(super) fn begin(plan: Plan, buckets: u16) -> Result<Self, StoreError> {
        match plan.seeds() {
            Some(seeds) => Ok(Self::Cluster(Cluster::begin(plan, seeds, buckets)?)),
            None => {
                Ok(Self::One { links: Arc::new(plan.links(None)?), reader: plan.reader(None)? })
            }
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The server that has a bucket.
    pub(super) fn links(&self, bucket: u8) -> Arc<Links> {
        match self {
            Self::One { links, .. } => Arc::clone(links),
            Self::Cluster(cluster) => cluster.owner(bucket),
        }
    }

    /// The server that has the key that all gateways share.
    pub(super) fn links_of_meta(&self) -> Arc<Links> {
        match self {
            Self::One { links, .. } => Arc::clone(links),
            Self::Cluster(cluster) => cluster.owner_of_meta(),
        }
    }

    /// Every server that has something, as soon as that is known.
    pub(super) fn servers(&self) -> Result<Vec<Arc<Links>>, StoreError> {
        match self {
            Self::One { links, .. } => Ok(vec![Arc::clone(links)]),
            Self::Cluster(cluster) => cluster.owners(),
        }
    }

    /// By how many readers the feed has to be followed: one reads every bucket, or one each.
    pub(super) fn readers(&self, buckets: u16) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Cluster(_) => buckets.into(),
        }
    }

    pub(super) fn reader(&self, reader: usize) -> Result<Arc<Connection>, StoreError> {
        match self {
            Self::One { reader, .. } => Ok(Arc::clone(reader)),
            Self::Cluster(cluster) => cluster.reader(reader),
        }
    }

    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        match self {
            Self::One { links, reader } => links.iter().chain([reader]).cloned().collect(),
            Self::Cluster(cluster) => cluster.connections(),
        }
    }

    /// A command on a bucket has failed. Whether another server was found that has it.
    pub(super) fn failed(&self, bucket: u8, error: &fred::error::Error) -> bool {
        let Self::Cluster(cluster) = self else {
            return false;
        };
        cluster.doubt();
        error.details().starts_with("MOVED ") && cluster.moved(bucket, error.details()).is_some()
    }
}
