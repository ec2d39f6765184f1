//! Committing what the application is done with, and giving partitions up in order.
//!
//! Commits take turns, and each looks at what is done when its turn comes, so that none moves an offset back. It
//! speaks as whoever the group takes this consumer for at that moment; what it was told to commit for an assignment that is
//! lost is not there any more to be committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::{Instant, sleep_until, timeout_at};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::{ErrorCode, Offset, PartitionId, Str, TopicPartition};

use super::offsets::Offsets;
use super::shared::{Identity, Shared, Uncommitted};
use crate::backoff::{exponential, jittered};
use crate::cluster::{Cluster, Lane};
use crate::error::{Error, ErrorKind};

/// What a commit came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// What moved, and to where: the offset to read next.
    pub offsets: BTreeMap<TopicPartition, Offset>,
    /// How many acknowledgements came too late since the last commit: their partition was lost or given up, or their
    /// records were handed out again. Whoever reads the partition now gets the records again.
    pub void: BTreeMap<TopicPartition, u64>,
    /// Partitions that were given up while some of their records were still in hand.
    pub in_hand: Vec<TopicPartition>,
}

/// Commits for a consumer.
#[derive(Clone)]
pub(super) struct Committer {
    shared: Arc<Shared>,
    cluster: Cluster,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, cluster: Cluster) -> Self {
        Self { shared, cluster, turn: Arc::default() }
    }

    /// Commits what is done of these partitions, which are being given up, or what is done by now of all, trying until the
    /// deadline.
    pub(super) async fn commit(
        &self,
        of: Option<&BTreeSet<TopicPartition>>,
        deadline: Instant,
    ) -> Result<Committed, Error> {
        let options = self.cluster.options();
        let Some(group) = options.group_id.as_deref().map(Str::copy_from) else {
            return Err(Error::Option {
                key: "group.id".to_owned(),
                value: String::new(),
                allowed: "a name, to commit offsets".to_owned(),
            });
        };
        let doing = format!("committing offsets of group {group}");
        let begun = Instant::now();
        let late = |last: Option<Error>| Error::Timeout {
            doing: doing.clone(),
            after: begun.elapsed(),
            last: last.map(Box::new),
        };
        let _turn = timeout_at(deadline, self.turn.lock()).await.map_err(|_| late(None))?;
        let mut committed = Committed::default();
        let mut failures = 0;
        loop {
            let (uncommitted, identity) = {
                let state = self.shared.lock();
                (state.uncommitted(of), state.identity.clone())
            };
            if uncommitted.is_empty() {
                return Ok(committed);
            }
            let asking = self.commit_once(&group, &doing, identity.as_ref(), &uncommitted, &mut committed);
            let Err(error) = timeout_at(deadline, asking).await.map_err(|_| late(None))? else {
                match of {
                    // What is handed out still is done with meanwhile, too, and nothing follows.
                    Some(_) => continue,
                    None => return Ok(committed),
                }
            };
            if !self.may_help(&error, identity.as_ref()) {
                return Err(error);
            }
            let pause = exponential(options.retry_backoff, options.retry_backoff_max, failures);
            let next = Instant::now() + jittered(pause, self.cluster.environment().random());
            failures += 1;
            if next >= deadline {
                return Err(late(Some(error)));
            }
            sleep_until(next).await;
        }
    }

    /// Whether to try again after this.
    fn may_help(&self, error: &Error, identity: Option<&Identity>) -> bool {
        let is_another = || self.shared.lock().identity.as_ref() != identity;
        match error.code() {
            Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => false,
            Some(ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::STALE_MEMBER_EPOCH) => true,
            Some(
                ErrorCode::ILLEGAL_GENERATION | ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH,
            ) => is_another() || identity.is_some_and(|identity| !identity.is_settled),
            _ => error.kind() == ErrorKind::Retriable,
        }
    }

    async fn commit_once(
        &self,
        group: &Str,
        doing: &str,
        identity: Option<&Identity>,
        uncommitted: &[Uncommitted],
        committed: &mut Committed,
    ) -> Result<(), Error> {
        let mut topics: BTreeMap<Str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for prefix in uncommitted {
            let partition = &prefix.partition;
            topics.entry(partition.topic.clone()).or_default().push(OffsetCommitRequestPartition {
                partition_index: partition.partition.0,
                committed_offset: prefix.handled.next.0,
                committed_leader_epoch: prefix.handled.leader_epoch.0,
                committed_metadata: Some(Str::default()),
            });
        }
        let topics = topics.into_iter().map(|(name, partitions)| OffsetCommitRequestTopic {
            name,
            partitions,
            ..Default::default()
        });
        let instance_id = self.cluster.options().group_instance_id.as_deref().map(Str::copy_from);
        let request = OffsetCommitRequest {
            group_id: group.clone(),
            generation_id_or_member_epoch: identity.map_or(-1, |identity| identity.epoch),
            member_id: identity.map_or_else(Str::default, |identity| identity.member_id.clone()),
            group_instance_id: identity.and(instance_id),
            topics: topics.collect(),
            ..Default::default()
        };
        let response = self.cluster.call_coordinator(group, Lane::Requests, request).await?;
        let mut refused = None;
        let mut accepted = BTreeSet::new();
        for topic in response.topics {
            for answer in topic.partitions {
                let id = PartitionId(answer.partition_index);
                let partition = TopicPartition::new(topic.name.clone(), id);
                match answer.error_code {
                    ErrorCode::NONE => {
                        accepted.insert(partition);
                    }
                    code => refused = refused.or(Some((code, partition))),
                }
            }
        }
        let mut state = self.shared.lock();
        for prefix in uncommitted.iter().filter(|prefix| accepted.contains(&prefix.partition)) {
            state.committed(prefix);
            committed.offsets.insert(prefix.partition.clone(), prefix.handled.next);
        }
        drop(state);
        match refused {
            None if accepted.len() == uncommitted.len() => Ok(()),
            None => Err(Error::Protocol {
                doing: doing.to_owned(),
                problem: "it leaves partitions out that were asked about".to_owned(),
            }),
            Some((code, partition)) => {
                if matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
                    self.cluster.forget_coordinator(group);
                }
                Err(Error::kafka(code, format!("{doing} ({partition})"), None))
            }
        }
    }

    /// Gives partitions up in order: waits for what is in hand, commits what is done, and tells the store. Nothing is handed
    /// out of them any more when this begins.
    pub(super) async fn release(
        &self,
        offsets: &dyn Offsets,
        partitions: BTreeSet<TopicPartition>,
        within: Within,
    ) -> Result<Committed, Error> {
        self.shared.hands_empty(&partitions, within.hands).await;
        let in_hand = self.shared.lock().in_hand(&partitions);
        for partition in &in_hand {
            tracing::warn!(%partition, "given up while records are in hand: they will be read again");
        }
        let options = self.cluster.options();
        let committed = match options.enable_auto_commit && options.group_id.is_some() {
            true => self.commit(Some(&partitions), within.end).await,
            false => Ok(Committed::default()),
        };
        let names: Vec<_> = partitions.into_iter().collect();
        if !names.is_empty() && timeout_at(within.end, offsets.revoked(&names)).await.is_err() {
            tracing::warn!("the store of offsets did not let go of its partitions in time");
        }
        Ok(Committed { in_hand, ..committed? })
    }
}

/// How long giving up may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Within {
    /// What is in hand is waited for until then.
    pub(super) hands: Instant,
    /// All is over by then.
    pub(super) end: Instant,
}
