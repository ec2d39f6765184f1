//! Moving replicas: reassignments asked for a few at a time, and watched until they are done.
//!
//! The cluster copies by itself and goes on when nobody watches. A partition counts as moved when the
//! brokers' map shows exactly the replicas that were asked for: right after a change, not every broker lists
//! it as under way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use client::{Admin, Election, Error, PartitionInfo, Reassignment, ReplicationFactor, TopicInfo};
use tokio::time::Instant;
use wire::{BrokerId, ErrorCode, Str, TopicPartition};

use super::health::plural;
use super::progress::{Patience, Progress};
use super::{colon, of_controller};
use crate::failure::Failure;

/// Partitions that are under way at a time: each is copied over the network and to disk.
const BATCH: usize = 20;
/// Between two looks at how far they are.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long a partition may be neither under way nor moved: not every broker shows a change at once.
const UNSEEN_MAX: Duration = Duration::from_secs(15);

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) done: usize,
    /// Partitions that cannot be moved, and why.
    pub(super) failed: Vec<(TopicPartition, String)>,
    /// Partitions that are still under way, or were not begun, as patience was over.
    pub(super) left: usize,
}

/// Moves partitions to these replicas.
pub(super) async fn apply(
    admin: &Admin,
    wanted: Vec<(TopicPartition, Vec<BrokerId>)>,
    factor: ReplicationFactor,
    patience: Patience,
) -> Result<Moved, Failure> {
    let total = wanted.len();
    let progress = Progress::new();
    let mut moved = Moved::default();
    let mut waiting: VecDeque<_> = wanted.into();
    let mut under_way: BTreeMap<TopicPartition, (Vec<BrokerId>, Instant)> = BTreeMap::new();
    loop {
        let free = BATCH.saturating_sub(under_way.len()).min(waiting.len());
        let batch: Vec<_> = waiting.drain(..free).collect();
        if !batch.is_empty() {
            let request: Vec<_> = batch
                .iter()
                .map(|(partition, replicas)| Reassignment {
                    partition: partition.clone(),
                    replicas: Some(replicas.clone()),
                })
                .collect();
            let outcomes = admin.alter_reassignments(&request, factor).await.map_err(of_controller)?;
            let begun = Instant::now();
            under_way.extend(batch.into_iter().map(|(partition, replicas)| (partition, (replicas, begun))));
            for (partition, outcome) in outcomes {
                if let Err(error) = outcome {
                    under_way.remove(&partition);
                    moved.failed.push((partition, error.to_string()));
                }
            }
        }
        watch(admin, &mut under_way, &mut moved).await?;
        if under_way.is_empty() && waiting.is_empty() {
            return Ok(moved);
        }
        if patience.is_over() {
            moved.left = under_way.len() + waiting.len();
            return Ok(moved);
        }
        progress.show(format_args!("{} of {total} partitions moved{}", moved.done, patience.left()));
        if !under_way.is_empty() {
            patience.pause(LOOK_PAUSE).await;
        }
    }
}

/// Takes out what is done or will never be.
async fn watch(
    admin: &Admin,
    under_way: &mut BTreeMap<TopicPartition, (Vec<BrokerId>, Instant)>,
    moved: &mut Moved,
) -> Result<(), Failure> {
    if under_way.is_empty() {
        return Ok(());
    }
    let ongoing = admin.list_reassignments().await?;
    let mut names: Vec<Str> = under_way.keys().map(|partition| partition.topic.clone()).collect();
    names.dedup();
    let topics: BTreeMap<Str, Result<TopicInfo, Error>> =
        admin.describe_topics(&names).await?.into_iter().collect();
    under_way.retain(|partition, (wanted, seen)| {
        let topic = match topics.get(&partition.topic) {
            Some(Ok(topic)) => topic,
            Some(Err(error)) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                moved.failed.push((partition.clone(), "its topic was deleted".to_owned()));
                return false;
            }
            Some(Err(_)) | None => return true,
        };
        let is_it = |info: &&PartitionInfo| info.id == partition.partition;
        let is_ongoing = ongoing.iter().any(|ongoing| ongoing.partition == *partition);
        if is_ongoing {
            *seen = Instant::now();
        } else if topic.partitions.iter().find(is_it).is_some_and(|info| info.replicas == *wanted) {
            moved.done += 1;
            return false;
        } else if seen.elapsed() > UNSEEN_MAX {
            moved.failed.push((partition.clone(), "somebody cancelled or changed it".to_owned()));
            return false;
        }
        true
    });
    Ok(())
}

/// Has preferred leaders elected where they are not leading; says of how many partitions.
pub(super) async fn prefer_leaders(
    admin: &Admin,
    partitions: Option<&[TopicPartition]>,
) -> Result<usize, Failure> {
    let outcomes = admin.elect_leaders(Election::Preferred, partitions).await.map_err(of_controller)?;
    Ok(outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count())
}

impl Moved {
    /// Says what did not go well, and what helps.
    pub(super) fn report(&self) -> Result<(), Failure> {
        for (partition, reason) in &self.failed {
            eprintln!("{} was not moved: {reason}", colon(partition));
        }
        if self.left > 0 {
            let message = format!("{} not moved in time", plural(self.left, "partition"));
            let advice = "what was begun goes on by itself, see `ottla cluster reassign list`; run this again \
                          for the rest";
            return Err(Failure::failed(message).with_advice(advice));
        }
        match self.failed.len() {
            0 => Ok(()),
            failed => Err(Failure::failed(format!("{} not moved", plural(failed, "partition")))
                .with_advice("`ottla cluster health` tells what they lack")),
        }
    }
}
