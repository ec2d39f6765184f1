//! Creating, growing and deleting topics: what is allowed, and which records make it so.
//!
//! Topics of one request are decided one after the other on a scratch image, so that the second sees the first. A refused
//! topic does not keep the others. Partition ids of a topic are always 0 up to their number.

use std::collections::{BTreeMap, BTreeSet};

use wire::messages::config_record::ConfigRecord;
use wire::messages::create_topics::CreatableTopic;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::remove_topic_record::RemoveTopicRecord;
use wire::messages::topic_record::TopicRecord;
use wire::{BrokerId, PartitionId, Str, Uuid};

use super::configs::{ConfigResource, ConfigRules};
use super::names::{check_topic_name, collision_key};
use super::{Decision, Image, MetadataRecord, Mode, Refusal};

/// Partitions that one request may create, so that the records of a request fit one append.
const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

/// The name of the log of the metadata itself.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateTopic {
    /// Its name.
    pub name: Str,
    /// Number of partitions, or -1 for the default or when `assignments` says it.
    pub num_partitions: i32,
    /// Replicas of each partition, or -1 likewise.
    pub replication_factor: i16,
    /// Replicas of each partition, if the user chose them.
    pub assignments: Vec<(PartitionId, Vec<BrokerId>)>,
    /// Settings. A value of `None` is refused.
    pub configs: Vec<(Str, Option<Str>)>,
}

impl From<&CreatableTopic> for CreateTopic {
    fn from(topic: &CreatableTopic) -> Self {
        let assignments = topic.assignments.iter().map(|assignment| {
            let replicas = assignment.broker_ids.iter().copied().map(BrokerId).collect();
            (PartitionId(assignment.partition_index), replicas)
        });
        CreateTopic {
            name: topic.name.clone(),
            num_partitions: topic.num_partitions,
            replication_factor: topic.replication_factor,
            assignments: assignments.collect(),
            configs: topic.configs.iter().map(|config| (config.name.clone(), config.value.clone())).collect(),
        }
    }
}

/// What -1 stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicDefaults {
    /// `num.partitions`
    pub num_partitions: i32,
    /// `default.replication.factor`
    pub replication_factor: i16,
}

/// A topic that will exist once the records are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id.
    pub id: Uuid,
    /// Number of partitions.
    pub num_partitions: i32,
    /// Replicas of each.
    pub replication_factor: i16,
}

/// A topic to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePartitions {
    /// The topic.
    pub name: Str,
    /// Number of partitions that it shall have.
    pub count: i32,
    /// Replicas of the new ones, if the user chose them.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// A topic to delete, named in the one way or the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeleteTopic {
    /// By name.
    Name(Str),
    /// By id.
    Id(Uuid),
}

/// A topic that will be gone once the records are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its name.
    pub name: Str,
    /// Its id.
    pub id: Uuid,
}

/// One answer per topic that was named, in the order of the request.
type PerTopic<K, T> = Vec<(K, Result<T, Refusal>)>;

impl Image {
    /// Decides a CreateTopics request. `ids` makes topic ids, `placement_start` says where round robin starts.
    pub fn create_topics(
        &self,
        topics: &[CreateTopic],
        mode: Mode,
        defaults: TopicDefaults,
        rules: &dyn ConfigRules,
        placement_start: usize,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Decision<PerTopic<Str, CreatedTopic>> {
        let mut request = Request::new(self, mode, placement_start);
        let reply = once_each(
            topics,
            |topic| topic.name.clone(),
            |topic| request.create_topic(topic, defaults, rules, ids),
        );
        request.decided(reply)
    }

    /// Decides a CreatePartitions request.
    pub fn create_partitions(
        &self,
        topics: &[CreatePartitions],
        mode: Mode,
        placement_start: usize,
    ) -> Decision<PerTopic<Str, ()>> {
        let mut request = Request::new(self, mode, placement_start);
        let reply = once_each(topics, |topic| topic.name.clone(), |topic| request.create_partitions(topic));
        request.decided(reply)
    }

    /// Decides a DeleteTopics request.
    pub fn delete_topics(&self, topics: &[DeleteTopic]) -> Decision<PerTopic<DeleteTopic, DeletedTopic>> {
        let mut request = Request::new(self, Mode::Apply, 0);
        let reply = once_each(topics, DeleteTopic::clone, |topic| request.delete_topic(topic));
        request.decided(reply)
    }
}

/// Decides each topic once; one that is named twice is refused, since it is not clear which was meant.
fn once_each<C, K: Ord + Clone, T>(
    commands: &[C],
    key_of: impl Fn(&C) -> K,
    mut decide: impl FnMut(&C) -> Result<T, Refusal>,
) -> PerTopic<K, T> {
    let mut times: BTreeMap<K, usize> = BTreeMap::new();
    for command in commands {
        *times.entry(key_of(command)).or_default() += 1;
    }
    let mut answered = BTreeSet::new();
    let mut reply = Vec::with_capacity(times.len());
    for command in commands {
        let key = key_of(command);
        if times[&key] == 1 {
            reply.push((key, decide(command)));
        } else if answered.insert(key.clone()) {
            reply.push((key, Err(Refusal::InvalidRequest("Duplicate topic name.".to_owned()))));
        }
    }
    reply
}

/// The image as the topics decided so far leave it, and their records.
struct Request {
    image: Image,
    records: Vec<MetadataRecord>,
    mode: Mode,
    placement_start: usize,
    partitions_left: usize,
}

impl Request {
    fn new(image: &Image, mode: Mode, placement_start: usize) -> Self {
        let (image, records) = (image.clone(), Vec::new());
        Request { image, records, mode, placement_start, partitions_left: PARTITIONS_PER_REQUEST_MAX }
    }

    fn decided<R>(self, reply: R) -> Decision<R> {
        match self.mode {
            Mode::Apply => Decision { records: self.records, reply },
            Mode::ValidateOnly => Decision { records: Vec::new(), reply },
        }
    }

    fn push(&mut self, record: MetadataRecord) {
        self.image.apply(&record);
        self.records.push(record);
    }

    fn create_topic(
        &mut self,
        topic: &CreateTopic,
        defaults: TopicDefaults,
        rules: &dyn ConfigRules,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Result<CreatedTopic, Refusal> {
        self.check_new_name(&topic.name)?;
        let resource = ConfigResource::topic(Str::copy_from(&topic.name));
        let configs = creation_configs(topic)?;
        rules.check(&resource, &configs).map_err(Refusal::InvalidConfig)?;
        let partitions = self.new_partitions(topic, defaults)?;

        let id = ids();
        assert!(!id.is_zero(), "zero stands for no topic");
        let name = topic.name.clone();
        self.push(MetadataRecord::Topic(TopicRecord { name, topic_id: id }));
        for (key, value) in configs {
            self.push(config_record(&resource, key, Some(value)));
        }
        let created = CreatedTopic {
            id,
            num_partitions: partitions.len() as i32,
            replication_factor: partitions[0].len() as i16,
        };
        for (index, replicas) in partitions.iter().enumerate() {
            self.push_partition(id, PartitionId(index as i32), replicas);
        }
        Ok(created)
    }

    fn check_new_name(&self, name: &Str) -> Result<(), Refusal> {
        check_topic_name(name)?;
        if &**name == METADATA_TOPIC {
            let why = format!("Creation of internal topic {METADATA_TOPIC} is prohibited.");
            return Err(Refusal::InvalidRequest(why));
        }
        if self.image.topic(name).is_some() {
            return Err(Refusal::TopicExists(name.clone()));
        }
        match collision_key(name).and_then(|key| self.image.collisions.get(&key)) {
            Some(existing) => Err(Refusal::NameCollision { name: name.clone(), existing: existing.clone() }),
            None => Ok(()),
        }
    }

    /// Replicas of each partition, at least one of each.
    fn new_partitions(
        &mut self,
        topic: &CreateTopic,
        defaults: TopicDefaults,
    ) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        if !topic.assignments.is_empty() {
            return self.assigned_partitions(topic);
        }
        let or_default = |value: i32, default: i32| if value == -1 { default } else { value };
        let count = or_default(topic.num_partitions, defaults.num_partitions);
        let factor = match topic.replication_factor {
            -1 => defaults.replication_factor,
            factor => factor,
        };
        if factor <= 0 {
            let why = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(Refusal::InvalidReplicationFactor(why.to_owned()));
        }
        if count <= 0 {
            let why = "Number of partitions was set to an invalid non-positive value.";
            return Err(Refusal::InvalidPartitions(why.to_owned()));
        }
        let count = self.take_partitions(count as usize)?;
        self.image.place(count, factor, self.placement_start)
    }

    fn assigned_partitions(&mut self, topic: &CreateTopic) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let not_default = |what: &str| {
            let why = format!("A manual partition assignment was specified, but {what} was not set to -1.");
            Err(Refusal::InvalidRequest(why))
        };
        if topic.replication_factor != -1 {
            return not_default("replication factor");
        }
        if topic.num_partitions != -1 {
            return not_default("numPartitions");
        }
        self.take_partitions(topic.assignments.len())?;
        let mut by_id = BTreeMap::new();
        let mut factor = None;
        for (id, replicas) in &topic.assignments {
            self.image.check_assignment(replicas, factor)?;
            self.check_leadable(*id, replicas)?;
            factor = Some(replicas.len());
            if by_id.insert(*id, replicas.clone()).is_some() {
                let why = format!("Found multiple manual partition assignments for partition {id}");
                return Err(Refusal::InvalidAssignment(why));
            }
        }
        if by_id.keys().enumerate().any(|(index, id)| id.0 != index as i32) {
            let why = "partitions should be a consecutive 0-based integer sequence";
            return Err(Refusal::InvalidAssignment(why.to_owned()));
        }
        Ok(by_id.into_values().collect())
    }

    fn create_partitions(&mut self, command: &CreatePartitions) -> Result<(), Refusal> {
        let topic = self.image.topic(&command.name).ok_or(Refusal::UnknownTopic)?;
        let (id, before, factor) = (topic.id, topic.partition_count(), topic.replication_factor());
        let count = usize::try_from(command.count).unwrap_or(0);
        if count == before {
            return Err(Refusal::InvalidPartitions(format!("Topic already has {before} partition(s).")));
        }
        if count < before {
            return Err(Refusal::InvalidPartitions(format!(
                "The topic {} currently has {before} partition(s); {} would not be an increase.",
                command.name, command.count
            )));
        }
        let additional = self.take_partitions(count - before)?;
        let placed = match &command.assignments {
            Some(assignments) if assignments.len() != additional => {
                return Err(Refusal::InvalidAssignment(format!(
                    "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                    assignments.len()
                )));
            }
            Some(assignments) => {
                for (index, replicas) in assignments.iter().enumerate() {
                    self.image.check_assignment(replicas, Some(factor))?;
                    self.check_leadable(PartitionId((before + index) as i32), replicas)?;
                }
                assignments.clone()
            }
            None => self.image.place(additional, factor as i16, self.placement_start.wrapping_add(before))?,
        };
        for (index, replicas) in placed.iter().enumerate() {
            self.push_partition(id, PartitionId((before + index) as i32), replicas);
        }
        Ok(())
    }

    fn delete_topic(&mut self, command: &DeleteTopic) -> Result<DeletedTopic, Refusal> {
        let topic = match command {
            DeleteTopic::Name(name) => self.image.topic(name).ok_or(Refusal::UnknownTopic)?,
            DeleteTopic::Id(id) => self.image.topic_by_id(*id).ok_or(Refusal::UnknownTopicId)?,
        };
        let deleted = DeletedTopic { name: topic.name.clone(), id: topic.id };
        self.push(MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: deleted.id }));
        Ok(deleted)
    }

    fn take_partitions(&mut self, count: usize) -> Result<usize, Refusal> {
        match self.partitions_left.checked_sub(count) {
            Some(left) => {
                self.partitions_left = left;
                Ok(count)
            }
            None => Err(Refusal::TooManyPartitions { partitions: count, max: PARTITIONS_PER_REQUEST_MAX }),
        }
    }

    fn check_leadable(&self, id: PartitionId, replicas: &[BrokerId]) -> Result<(), Refusal> {
        if self.active(replicas).next().is_some() { Ok(()) } else { Err(Refusal::NoLiveReplica(id)) }
    }

    fn active<'a>(&'a self, replicas: &'a [BrokerId]) -> impl Iterator<Item = BrokerId> + 'a {
        replicas.iter().copied().filter(|id| self.image.broker(*id).is_some_and(|broker| broker.is_active()))
    }

    fn push_partition(&mut self, topic_id: Uuid, id: PartitionId, replicas: &[BrokerId]) {
        let isr: Vec<i32> = self.active(replicas).map(|id| id.0).collect();
        assert!(!isr.is_empty(), "a new partition can be led");
        self.push(MetadataRecord::Partition(PartitionRecord {
            partition_id: id.0,
            topic_id,
            replicas: replicas.iter().map(|id| id.0).collect(),
            leader: isr[0],
            isr,
            leader_epoch: 0,
            partition_epoch: 0,
            ..Default::default()
        }));
    }
}

fn creation_configs(topic: &CreateTopic) -> Result<BTreeMap<Str, Str>, Refusal> {
    let nulls: Vec<&str> =
        topic.configs.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| &**key).collect();
    if !nulls.is_empty() {
        let why = format!("Null value not supported for topic configs: {}", nulls.join(","));
        return Err(Refusal::InvalidConfig(why));
    }
    Ok(topic.configs.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect())
}

/// The record that sets a key of a resource, or with `None` unsets it.
pub(super) fn config_record(resource: &ConfigResource, key: Str, value: Option<Str>) -> MetadataRecord {
    let record = ConfigRecord {
        resource_type: resource.kind.code(),
        resource_name: resource.name.clone(),
        name: key,
        value,
    };
    MetadataRecord::Config(resource.clone(), record)
}
