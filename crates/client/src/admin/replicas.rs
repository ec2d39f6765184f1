//! Where replicas are kept and which of them lead: reassignments (KIP-455) and elections (KIP-460).

use wire::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use wire::messages::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use wire::messages::list_partition_reassignments::ListPartitionReassignmentsRequest;
use wire::{BrokerId, PartitionId, Str, TopicPartition};

use super::{Admin, Outcomes, outcome};
use crate::error::Error;

/// Where a partition is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    /// The partition.
    pub partition: TopicPartition,
    /// Its replicas, the preferred leader first; none cancels what is under way.
    pub replicas: Option<Vec<BrokerId>>,
}

/// Whether a reassignment may give a partition more or fewer replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationFactor {
    /// As many as before.
    Kept,
    /// As many as are named.
    Free,
}

/// A reassignment that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OngoingReassignment {
    /// The partition.
    pub partition: TopicPartition,
    /// Its replicas now: those that are to stay, and those that go when the others are in sync.
    pub replicas: Vec<BrokerId>,
    /// Those that were not replicas before.
    pub adding: Vec<BrokerId>,
    /// Those that go.
    pub removing: Vec<BrokerId>,
}

/// Who is to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// The first of the replicas, if it is in sync.
    Preferred,
    /// Where nobody leads, any replica that is there, at the price of what it lacks.
    Unclean,
}

impl Admin {
    /// Has partitions kept elsewhere, or cancels that. It is done when they are no longer among
    /// [`Admin::list_reassignments`] and the brokers' map shows the replicas.
    pub async fn alter_reassignments(
        &self,
        reassignments: &[Reassignment],
        factor: ReplicationFactor,
    ) -> Result<Outcomes<TopicPartition, ()>, Error> {
        const DOING: &str = "reassigning replicas";
        let partition = |of: &Reassignment| ReassignablePartition {
            partition_index: of.partition.partition.0,
            replicas: of.replicas.as_ref().map(|ids| ids.iter().map(|id| id.0).collect()),
        };
        let topics = by_topic(reassignments, |of| &of.partition.topic, partition);
        let request = AlterPartitionReassignmentsRequest {
            timeout_ms: self.timeout_ms(),
            allow_replication_factor_change: factor == ReplicationFactor::Free,
            topics: topics
                .into_iter()
                .map(|(name, partitions)| ReassignableTopic { name, partitions })
                .collect(),
        };
        let response = self.ask_controller(DOING, request, |response| vec![response.error_code]).await?;
        outcome(response.error_code, DOING.to_owned(), response.error_message.as_ref(), ())?;
        let outcomes = response.responses.into_iter().flat_map(|topic| {
            let name = topic.name;
            topic.partitions.into_iter().map(move |answer| {
                let partition = TopicPartition::new(name.clone(), PartitionId(answer.partition_index));
                let doing = format!("reassigning the replicas of {partition}");
                let answer = outcome(answer.error_code, doing, answer.error_message.as_ref(), ());
                (partition, answer)
            })
        });
        Ok(outcomes.collect())
    }

    /// All reassignments that are under way, in the order of their partitions.
    pub async fn list_reassignments(&self) -> Result<Vec<OngoingReassignment>, Error> {
        const DOING: &str = "listing reassignments";
        let request = ListPartitionReassignmentsRequest { timeout_ms: self.timeout_ms(), topics: None };
        let response = self
            .cluster
            .retrying(DOING, || async {
                let response = self.cluster.call_any(request.clone()).await?;
                outcome(response.error_code, DOING.to_owned(), response.error_message.as_ref(), ())?;
                Ok(response)
            })
            .await?;
        let brokers = |ids: Vec<i32>| ids.into_iter().map(BrokerId).collect();
        let ongoing = response.topics.into_iter().flat_map(|topic| {
            let name = topic.name;
            topic.partitions.into_iter().map(move |ongoing| OngoingReassignment {
                partition: TopicPartition::new(name.clone(), PartitionId(ongoing.partition_index)),
                replicas: brokers(ongoing.replicas),
                adding: brokers(ongoing.adding_replicas),
                removing: brokers(ongoing.removing_replicas),
            })
        });
        let mut ongoing: Vec<_> = ongoing.collect();
        ongoing.sort_by(|left, right| left.partition.cmp(&right.partition));
        Ok(ongoing)
    }

    /// Has leaders elected of these partitions, or of all. Of all, only those are answered for whose leader
    /// changed or should have.
    pub async fn elect_leaders(
        &self,
        election: Election,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Outcomes<TopicPartition, ()>, Error> {
        const DOING: &str = "electing leaders";
        let topics = partitions.map(|partitions| {
            let topics = by_topic(partitions, |of| &of.topic, |of| of.partition.0);
            topics.into_iter().map(|(topic, partitions)| TopicPartitions { topic, partitions }).collect()
        });
        let request = ElectLeadersRequest {
            election_type: match election {
                Election::Preferred => 0,
                Election::Unclean => 1,
            },
            topic_partitions: topics,
            timeout_ms: self.timeout_ms(),
        };
        let response = self.ask_controller(DOING, request, |response| vec![response.error_code]).await?;
        outcome(response.error_code, DOING.to_owned(), None, ())?;
        let outcomes = response.replica_election_results.into_iter().flat_map(|topic| {
            let name = topic.topic;
            topic.partition_result.into_iter().map(move |answer| {
                let partition = TopicPartition::new(name.clone(), PartitionId(answer.partition_id));
                let doing = format!("electing a leader of {partition}");
                let answer = outcome(answer.error_code, doing, answer.error_message.as_ref(), ());
                (partition, answer)
            })
        });
        Ok(outcomes.collect())
    }
}

/// Neighbours of one topic as one entry.
fn by_topic<T, U>(things: &[T], topic: impl Fn(&T) -> &Str, part: impl Fn(&T) -> U) -> Vec<(Str, Vec<U>)> {
    let mut topics: Vec<(Str, Vec<U>)> = Vec::new();
    for thing in things {
        match topics.iter_mut().find(|(name, _)| name == topic(thing)) {
            Some((_, parts)) => parts.push(part(thing)),
            None => topics.push((topic(thing).clone(), vec![part(thing)])),
        }
    }
    topics
}
