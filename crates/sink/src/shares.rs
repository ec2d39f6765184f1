//! Which partitions this instance has: what the line's consumer group hands out, told to the one task that reads and writes.
//!
//! The group only divides the work. That nobody else writes a partition is for the fence of the store to see to, and in the
//! near-real-time line for the group's coordinator and the transactions: a member that is none any more commits nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{Assigned, Begin, BoxFuture, Error, Offsets};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::TopicPartition;

/// What has become of partitions. Whoever does not answer because it ends makes nobody wait.
#[derive(Debug)]
pub(crate) enum Share {
    /// They are this instance's: where does it begin in them?
    Assigned(Vec<TopicPartition>, oneshot::Sender<BTreeMap<TopicPartition, Begin>>),
    /// They are given up in order: somebody else gets them once this is answered.
    Revoked(Vec<TopicPartition>, oneshot::Sender<()>),
    /// They are gone, and may be somebody else's already.
    Lost(Vec<TopicPartition>),
}

/// The group's side.
pub(crate) struct Shares {
    told: mpsc::UnboundedSender<Share>,
    losses: Losses,
}

/// How often partitions were lost. It moves before what was lost can be assigned again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Losses(Arc<AtomicU64>);

impl Losses {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Shares {
    /// What is told comes in order; there are never more of them than the group has said.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Share>, Losses) {
        let (told, shares) = mpsc::unbounded_channel();
        let losses = Losses::default();
        (Self { told, losses: losses.clone() }, shares, losses)
    }
}

impl Offsets for Shares {
    fn load<'a>(&'a self, assigned: &'a [Assigned]) -> BoxFuture<'a, Vec<Result<Option<Begin>, Error>>> {
        Box::pin(async move {
            let partitions = assigned.iter().map(|assigned| assigned.partition.clone()).collect();
            let (reply, begins) = oneshot::channel();
            let asked = Instant::now();
            // If the line has ended, nothing is read.
            let _ = self.told.send(Share::Assigned(partitions, reply));
            let begins = begins.await.unwrap_or_default();
            // What was not to be had is asked for again while it is assigned.
            let begin = |assigned: &Assigned| match begins.get(&assigned.partition) {
                Some(begin) => Ok(Some(*begin)),
                None => Err(Error::Timeout {
                    doing: format!("taking hold of {}", assigned.partition),
                    after: asked.elapsed(),
                    last: None,
                }),
            };
            assigned.iter().map(begin).collect()
        })
    }

    fn revoked<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (reply, answered) = oneshot::channel();
            let _ = self.told.send(Share::Revoked(partitions.to_vec(), reply));
            let _ = answered.await;
        })
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        self.losses.0.fetch_add(1, Ordering::SeqCst);
        let _ = self.told.send(Share::Lost(partitions.to_vec()));
    }
}
