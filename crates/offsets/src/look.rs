//! What the brokers say of partitions, for the stored positions to be compared with.

use std::collections::BTreeMap;

use client::{Admin, Cluster, Error, Isolation, OffsetSpec, ResourceKind};
use wire::{LeaderEpoch, Offset, Str, TopicPartition};

use crate::continuity::Log;
use crate::key::Key;
use crate::store::{Position, Stored};

/// Some partitions as they are.
#[derive(Default)]
pub(crate) struct Looked {
    starts: BTreeMap<TopicPartition, Result<Offset, Error>>,
    ends: BTreeMap<TopicPartition, Result<Offset, Error>>,
    /// Where the leader epochs of the stored positions end.
    epoch_ends: BTreeMap<TopicPartition, Result<(LeaderEpoch, Offset), Error>>,
    copies: BTreeMap<TopicPartition, Offset>,
}

/// Looks at partitions, and at where the stored positions are in them.
pub(crate) async fn look(
    cluster: &Cluster,
    group: Option<&str>,
    partitions: &[(TopicPartition, Option<Position>)],
) -> Result<Looked, Error> {
    let admin = Admin::new(cluster.clone());
    let mut looked = Looked::default();
    for (spec, ends) in [(OffsetSpec::Earliest, &mut looked.starts), (OffsetSpec::Latest, &mut looked.ends)] {
        let asked: Vec<_> = partitions.iter().map(|(partition, _)| (partition.clone(), spec)).collect();
        for (partition, listed) in admin.list_offsets(&asked, Isolation::ReadUncommitted).await? {
            ends.insert(partition, listed.map(|listed| listed.offset.unwrap_or(Offset::ZERO)));
        }
    }
    looked.epoch_ends = epoch_ends(cluster, partitions).await?;
    if let Some(group) = group {
        let offsets = admin.group_offsets(&Str::copy_from(group)).await?;
        looked.copies = offsets.committed.into_iter().map(|(of, committed)| (of, committed.offset)).collect();
    }
    Ok(looked)
}

/// Where the logs stop being what the positions are positions in.
async fn epoch_ends(
    cluster: &Cluster,
    partitions: &[(TopicPartition, Option<Position>)],
) -> Result<BTreeMap<TopicPartition, Result<(LeaderEpoch, Offset), Error>>, Error> {
    let known = |(partition, position): &(TopicPartition, Option<Position>)| {
        let position = position.filter(|position| position.leader_epoch != LeaderEpoch::NONE)?;
        Some((partition.clone(), position))
    };
    let positions: BTreeMap<_, _> = partitions.iter().filter_map(known).collect();
    let mut ends = BTreeMap::new();
    if positions.is_empty() {
        return Ok(ends);
    }
    let asked: Vec<_> =
        positions.iter().map(|(partition, position)| (partition.clone(), position.leader_epoch)).collect();
    let told = match Admin::new(cluster.clone()).epoch_ends(&asked).await {
        Ok(told) => told,
        // The broker is too old to know epochs.
        Err(Error::Unsupported { .. }) => return Ok(ends),
        Err(error) => return Err(error),
    };
    for (partition, told) in told {
        let Some(position) = positions.get(&partition) else { continue };
        let end = match told {
            Ok(Some((epoch, end))) if epoch < position.leader_epoch && position.next <= end => {
                // Compaction removes the last records of an epoch, and a replica made since has never seen it.
                let is_explained = is_compacted(cluster, &partition.topic).await?;
                Ok((if is_explained { position.leader_epoch } else { epoch }, end))
            }
            Ok(Some(end)) => Ok(end),
            Ok(None) => Ok((LeaderEpoch::NONE, Offset(-1))),
            Err(error) => Err(error),
        };
        ends.insert(partition, end);
    }
    Ok(ends)
}

/// Whether batches of the topic may be missing.
pub(crate) async fn is_compacted(cluster: &Cluster, topic: &Str) -> Result<bool, Error> {
    let settings = Admin::new(cluster.clone()).describe_configs(ResourceKind::Topic, topic).await?;
    let policy = settings.iter().find(|setting| &*setting.name == "cleanup.policy");
    Ok(policy.and_then(|policy| policy.value.as_deref()).is_some_and(|value| value.contains("compact")))
}

impl Looked {
    /// One of them, as it concerns a position.
    pub(crate) fn log(&self, key: &Key, stored: Option<&Stored>) -> Result<Log, Error> {
        let partition = &key.partition;
        let of = |ends: &BTreeMap<TopicPartition, Result<Offset, Error>>| match ends.get(partition) {
            Some(end) => end.clone(),
            None => Err(Error::UnknownTopic(partition.topic.to_string())),
        };
        let (start, end) = (of(&self.starts)?, of(&self.ends)?);
        // A log without records tells nothing of its past.
        let epoch_end = self.epoch_ends.get(partition).filter(|_| start < end).cloned().transpose()?;
        let copy = self.copies.get(partition).copied();
        let over = stored.and_then(|stored| stored.over);
        let copy = copy.filter(|copy| over.is_none_or(|over| *copy > over));
        Ok(Log { topic_id: key.topic_id, start, end, epoch_end, copy })
    }

    /// The position's copy with the group coordinator, whatever it says.
    pub(crate) fn copy(&self, partition: &TopicPartition) -> Option<Offset> {
        self.copies.get(partition).copied()
    }
}
