//! The cluster's map: brokers, topics, and who leads which partition.
//!
//! Pure: answers go in, questions are answered from what is there. A topic keeps the time it was learnt at and
//! is believed until it is too old or was found wrong; a leader's epoch never goes back (KIP-320).

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::messages::metadata::MetadataResponse;
use wire::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, Str, TopicPartition, Uuid};

use crate::environment::Address;

/// What is known of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) cluster_id: Option<Str>,
    pub(crate) controller: Option<BrokerId>,
    pub(crate) brokers: HashMap<BrokerId, Address>,
    topics: HashMap<Str, Known>,
    /// Since when no broker gives the map.
    missing_since: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    topic: Topic,
    learnt: Instant,
    /// Whether anybody asked since.
    is_used: Cell<bool>,
}

/// A topic as the brokers last described it.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) error: ErrorCode,
    /// In the order of their numbers.
    pub(crate) partitions: Vec<Partition>,
}

/// A partition as the brokers last described it.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) leader: Option<Leader>,
}

/// Who leads a partition, and since which election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    pub(crate) broker: BrokerId,
    pub(crate) epoch: LeaderEpoch,
}

impl Metadata {
    /// Takes in a broker's answer.
    pub(crate) fn update(&mut self, response: MetadataResponse, now: Instant) {
        self.missing_since = None;
        if let (Some(before), Some(after)) = (&self.cluster_id, &response.cluster_id)
            && before != after
        {
            tracing::warn!(%before, %after, "the brokers belong to another cluster by now");
        }
        self.cluster_id = response.cluster_id.or(self.cluster_id.take());
        self.controller = Some(BrokerId(response.controller_id)).filter(|id| id.0 >= 0);
        self.brokers = response
            .brokers
            .iter()
            .filter_map(|broker| Some((BrokerId(broker.node_id), address(&broker.host, broker.port)?)))
            .collect();
        for topic in response.topics {
            let Some(name) = topic.name else { continue };
            let before = self.topics.get(&name).map(|known| &known.topic);
            // A topic that was deleted and made anew starts its epochs again.
            let before = before.filter(|before| before.id == topic.topic_id);
            let mut partitions: Vec<Partition> = topic
                .partitions
                .into_iter()
                .map(|partition| {
                    let id = PartitionId(partition.partition_index);
                    let leader = Leader {
                        broker: BrokerId(partition.leader_id),
                        epoch: LeaderEpoch(partition.leader_epoch),
                    };
                    let newer = before
                        .and_then(|before| before.partition(id))
                        .and_then(|before| before.leader)
                        .filter(|before| before.epoch > leader.epoch && leader.epoch != LeaderEpoch::NONE);
                    Partition { id, leader: newer.or(Some(leader)).filter(|leader| leader.broker.0 >= 0) }
                })
                .collect();
            partitions.sort_by_key(|partition| partition.id);
            let topic = Topic { id: topic.topic_id, error: topic.error_code, partitions };
            match topic.error {
                // What does not exist is not worth remembering: it may be created at any moment.
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => self.topics.remove(&name),
                _ => self.topics.insert(name, Known { topic, learnt: now, is_used: Cell::new(false) }),
            };
        }
    }

    /// A coordinator's address comes with the answer that names it.
    pub(crate) fn learn_broker(&mut self, id: BrokerId, host: &str, port: i32) {
        if let Some(address) = address(host, port) {
            self.brokers.insert(id, address);
        }
    }

    /// The topic, unless what is known of it is too old to be believed.
    pub(crate) fn topic(&self, name: &str, age_max: Duration) -> Option<&Topic> {
        let known = self.topics.get(name)?;
        known.is_used.set(true);
        (known.learnt.elapsed() <= age_max).then_some(&known.topic)
    }

    /// The leader, however old the news.
    pub(crate) fn leader(&self, partition: &TopicPartition) -> Option<Leader> {
        let known = self.topics.get(&partition.topic)?;
        known.is_used.set(true);
        known.topic.partition(partition.partition)?.leader
    }

    /// A broker that does not lead the partition said who does (KIP-951); tells whether that was news.
    pub(crate) fn learn_leader(&mut self, partition: &TopicPartition, leader: Leader) -> bool {
        let Some(known) = self.topics.get_mut(&partition.topic) else { return false };
        let place = known.topic.partitions.binary_search_by_key(&partition.partition, |known| known.id);
        let Some(known) = place.ok().and_then(|at| known.topic.partitions.get_mut(at)) else { return false };
        let is_news = known.leader.is_none_or(|before| before.epoch < leader.epoch);
        if is_news {
            known.leader = Some(leader);
        }
        is_news
    }

    /// The topics in use whose news is this old.
    pub(crate) fn aged(&self, now: Instant, age: Duration) -> Vec<Str> {
        let is_due = |known: &Known| known.is_used.get() && known.learnt + age <= now;
        let due = self.topics.iter().filter(|(_, known)| is_due(known));
        let mut names: Vec<_> = due.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// No broker gave the map; since when that is so.
    pub(crate) fn missed(&mut self, now: Instant) -> Instant {
        *self.missing_since.get_or_insert(now)
    }

    /// Forgets the brokers, so that the bootstrap addresses are asked.
    pub(crate) fn forget_brokers(&mut self) {
        self.brokers.clear();
        self.controller = None;
        self.missing_since = None;
    }

    /// The topic's id and the partition's leader, however old the news.
    pub(crate) fn place(&self, partition: &TopicPartition) -> Option<(Uuid, Leader)> {
        let known = self.topics.get(&partition.topic)?;
        known.is_used.set(true);
        Some((known.topic.id, known.topic.partition(partition.partition)?.leader?))
    }

    /// The topic of this id.
    pub(crate) fn topic_name(&self, id: Uuid) -> Option<Str> {
        self.topics.iter().find(|(_, known)| known.topic.id == id).map(|(name, _)| name.clone())
    }

    /// What is known of the topic turned out to be wrong.
    pub(crate) fn forget(&mut self, topic: &str) {
        self.topics.remove(topic);
    }
}

impl Topic {
    pub(crate) fn partition(&self, id: PartitionId) -> Option<&Partition> {
        let at = self.partitions.binary_search_by_key(&id, |partition| partition.id).ok()?;
        self.partitions.get(at)
    }
}

fn address(host: &str, port: i32) -> Option<Address> {
    let port = u16::try_from(port).ok().filter(|&port| port != 0)?;
    Some(Address { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use wire::messages::metadata::{MetadataResponse, MetadataResponsePartition, MetadataResponseTopic};
    use wire::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, Str, TopicPartition, Uuid};

    use super::{Leader, Metadata};

    fn answer(id: u128, error_code: ErrorCode, leader_id: i32, leader_epoch: i32) -> MetadataResponse {
        let partition = MetadataResponsePartition { leader_id, leader_epoch, ..Default::default() };
        let topic = MetadataResponseTopic {
            name: Some(Str::from("t")),
            topic_id: Uuid::from_u128(id),
            error_code,
            partitions: vec![partition],
            ..Default::default()
        };
        MetadataResponse { topics: vec![topic], ..Default::default() }
    }

    fn leader(metadata: &Metadata) -> Option<(i32, i32)> {
        let partition = TopicPartition::new("t", PartitionId(0));
        metadata.leader(&partition).map(|leader| (leader.broker.0, leader.epoch.0))
    }

    #[test]
    fn a_leader_of_an_older_epoch_is_not_believed_unless_the_topic_is_another() {
        let mut metadata = Metadata::default();
        let now = Instant::now();
        metadata.update(answer(1, ErrorCode::NONE, 1, 5), now);
        metadata.update(answer(1, ErrorCode::NONE, 2, 4), now);
        assert_eq!(leader(&metadata), Some((1, 5)));
        metadata.update(answer(2, ErrorCode::NONE, 2, 0), now);
        assert_eq!(leader(&metadata), Some((2, 0)));
    }

    #[test]
    fn a_hint_counts_if_it_is_newer() {
        let mut metadata = Metadata::default();
        metadata.update(answer(1, ErrorCode::NONE, 1, 5), Instant::now());
        let mut hint = |broker, epoch, partition| {
            let leader = Leader { broker: BrokerId(broker), epoch: LeaderEpoch(epoch) };
            let is_news = metadata.learn_leader(&TopicPartition::new("t", PartitionId(partition)), leader);
            (is_news, super::tests::leader(&metadata))
        };
        assert_eq!(hint(2, 5, 0), (false, Some((1, 5))));
        assert_eq!(hint(2, 6, 0), (true, Some((2, 6))));
        assert_eq!(hint(2, 7, 9), (false, Some((2, 6))), "there is no such partition");
    }

    #[test]
    fn what_is_in_use_is_asked_for_before_it_is_too_old() {
        let mut metadata = Metadata::default();
        let (now, age) = (Instant::now(), Duration::from_secs(60));
        metadata.update(answer(1, ErrorCode::NONE, 1, 5), now);
        assert!(metadata.aged(now + age, age).is_empty(), "nobody asked for it");
        leader(&metadata);
        assert!(metadata.aged(now, age).is_empty());
        assert_eq!(metadata.aged(now + age, age), ["t"]);
        metadata.update(answer(1, ErrorCode::NONE, 1, 5), now + age);
        assert!(metadata.aged(now + 2 * age, age).is_empty());
    }

    #[test]
    fn a_topic_that_does_not_exist_is_asked_for_again() {
        let mut metadata = Metadata::default();
        let now = Instant::now();
        metadata.update(answer(1, ErrorCode::NONE, 1, 0), now);
        assert!(metadata.topic("t", Duration::from_secs(60)).is_some());
        metadata.update(answer(1, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1, -1), now);
        assert!(metadata.topic("t", Duration::from_secs(60)).is_none());
        assert_eq!(leader(&metadata), None);
    }
}
