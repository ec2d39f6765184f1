//! Changes of topics and of settings: decided by the metadata, then carried out on the disk and in the table.
//!
//! Invariant: changes run one at a time and to their end, also when the client that asked is gone, so that metadata,
//! logs and table agree whenever nobody holds the lock. What the metadata says is durable before a log is touched; a
//! topic whose logs cannot be opened is taken back. Requests about existing topics never wait here.

use std::sync::Arc;
use std::time::Duration;

use state::metadata::{
    AlterConfigs, ConfigResource, CreatePartitions, CreateTopic, CreatedTopic, DeleteTopic, DeletedTopic,
    Image, Mode, Refusal, ReplaceConfigs, ResourceKind, TopicDefaults,
};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;
use wire::{ErrorCode, PartitionId, Str, TopicPartition, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::coordinator::OFFSETS_TOPIC;
use crate::descriptors::NoDescriptors;
use crate::metadata::CommitError;
use crate::partition::Partition;
use crate::settings::Settings;

/// Why a change did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TopicError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the metadata log cannot be written: {0}")]
    Commit(Arc<CommitError>),
    #[error("the topic's logs cannot be opened: {0}")]
    Open(String),
    #[error(transparent)]
    NoDescriptors(#[from] NoDescriptors),
    #[error("{0} belongs to the broker: it is made and kept by the broker alone")]
    Internal(Str),
    #[error("topic deletion is disabled (delete.topic.enable=false)")]
    DeletionDisabled,
    #[error("the change takes longer than the {} ms that the request allows; it goes on", .0.as_millis())]
    TimedOut(Duration),
}

impl TopicError {
    /// What a client is told.
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            TopicError::Refused(refusal) => ErrorCode::from(refusal),
            TopicError::Commit(_) | TopicError::Open(_) => ErrorCode::KAFKA_STORAGE_ERROR,
            TopicError::NoDescriptors(_) => ErrorCode::POLICY_VIOLATION,
            TopicError::Internal(_) => ErrorCode::INVALID_REQUEST,
            TopicError::DeletionDisabled => ErrorCode::TOPIC_DELETION_DISABLED,
            TopicError::TimedOut(_) => ErrorCode::REQUEST_TIMED_OUT,
        }
    }

    /// What a client is told in words.
    pub(crate) fn message(&self) -> Option<Str> {
        Some(Str::from(self.to_string()))
    }
}

impl From<CommitError> for TopicError {
    fn from(error: CommitError) -> Self {
        TopicError::Commit(Arc::new(error))
    }
}

/// One answer per item, in the order of the request; the outer error stands for all of them.
type PerItem<K, T> = Result<Vec<(K, Result<T, TopicError>)>, TopicError>;

/// Runs changes one at a time.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    changing: Mutex<()>,
}

impl Topics {
    /// Creates topics that a client asks for. A validated topic is answered as if it had been created.
    pub(crate) async fn create(
        &self,
        broker: &Arc<Broker>,
        topics: Vec<CreateTopic>,
        mode: Mode,
    ) -> PerItem<Str, CreatedTopic> {
        let (internal, topics): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| broker.is_internal_topic(&topic.name));
        let mut answers = to_the_end(broker, move |broker| create(broker, topics, mode)).await?;
        answers.extend(internal.into_iter().map(|topic| {
            let refused = TopicError::Internal(topic.name.clone());
            (topic.name, Err(refused))
        }));
        Ok(answers)
    }

    /// Creates topics because a client named them, with the broker's defaults. One that came to exist meanwhile is
    /// fine.
    pub(crate) async fn create_auto(
        &self,
        broker: &Arc<Broker>,
        names: Vec<Str>,
    ) -> PerItem<Str, CreatedTopic> {
        let topics = names.into_iter().map(|name| CreateTopic {
            name,
            num_partitions: -1,
            replication_factor: -1,
            ..CreateTopic::default()
        });
        self.create(broker, topics.collect(), Mode::Apply).await
    }

    /// Makes one of the broker's own topics if it is not there.
    pub(crate) async fn ensure_internal(
        &self,
        broker: &Arc<Broker>,
        name: &'static str,
    ) -> Result<(), TopicError> {
        assert!(name == OFFSETS_TOPIC, "the only topic that the broker writes");
        if broker.partitions.load().topic(name).is_some() {
            return Ok(());
        }
        let topic = offsets_topic(&broker.settings());
        let answers = to_the_end(broker, move |broker| create(broker, vec![topic], Mode::Apply)).await?;
        match answers.into_iter().next() {
            Some((_, Err(TopicError::Refused(Refusal::TopicExists(_))))) | None => Ok(()),
            Some((_, answer)) => answer.map(|_created| ()),
        }
    }

    /// Deletes topics, their logs, and the offsets that groups committed for them.
    pub(crate) async fn delete(
        &self,
        broker: &Arc<Broker>,
        topics: Vec<DeleteTopic>,
    ) -> PerItem<DeleteTopic, DeletedTopic> {
        if !broker.settings().broker().topics.delete_enabled {
            return Err(TopicError::DeletionDisabled);
        }
        let image = broker.metadata.image();
        let is_internal = |topic: &DeleteTopic| match topic {
            DeleteTopic::Name(name) => broker.is_internal_topic(name),
            DeleteTopic::Id(id) => {
                image.topic_by_id(*id).is_some_and(|topic| broker.is_internal_topic(&topic.name))
            }
        };
        let (internal, topics): (Vec<_>, Vec<_>) = topics.into_iter().partition(is_internal);
        let mut answers = to_the_end(broker, move |broker| delete(broker, topics)).await?;
        let refused = TopicError::Internal(Str::from(OFFSETS_TOPIC));
        answers.extend(internal.into_iter().map(|topic| (topic, Err(refused.clone()))));
        Ok(answers)
    }

    /// Gives topics more partitions.
    pub(crate) async fn add_partitions(
        &self,
        broker: &Arc<Broker>,
        topics: Vec<CreatePartitions>,
        mode: Mode,
    ) -> PerItem<Str, ()> {
        // Groups live in a partition by their name's hash: with another count nobody would find them.
        let (internal, topics): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| broker.is_internal_topic(&topic.name));
        let mut answers = to_the_end(broker, move |broker| add_partitions(broker, topics, mode)).await?;
        answers.extend(internal.into_iter().map(|topic| {
            let refused = TopicError::Internal(topic.name.clone());
            (topic.name, Err(refused))
        }));
        Ok(answers)
    }

    /// Changes single settings of topics and brokers. One answer per resource, in the order of the request.
    pub(crate) async fn alter_configs(
        &self,
        broker: &Arc<Broker>,
        changes: Vec<AlterConfigs>,
        mode: Mode,
    ) -> Result<Vec<Result<(), Refusal>>, TopicError> {
        let resources = changes.iter().map(|change| change.resource.clone()).collect();
        to_the_end(broker, move |broker| async move {
            let settings = Arc::clone(&broker.settings());
            let decide = |image: &Image| image.alter_configs(&changes, mode, &*settings);
            let answers = broker.metadata.commit(broker.clock.now(), decide).await?;
            apply_configs(&broker, resources).await;
            Ok(answers)
        })
        .await
    }

    /// Replaces all settings of topics and brokers, likewise.
    pub(crate) async fn replace_configs(
        &self,
        broker: &Arc<Broker>,
        changes: Vec<ReplaceConfigs>,
        mode: Mode,
    ) -> Result<Vec<Result<(), Refusal>>, TopicError> {
        let resources = changes.iter().map(|change| change.resource.clone()).collect();
        to_the_end(broker, move |broker| async move {
            let settings = Arc::clone(&broker.settings());
            let decide = |image: &Image| image.replace_configs(&changes, mode, &*settings);
            let answers = broker.metadata.commit(broker.clock.now(), decide).await?;
            apply_configs(&broker, resources).await;
            Ok(answers)
        })
        .await
    }
}

/// Waits for a change as long as its client does: `timeout_ms` from when the request came, or `request.timeout.ms` where
/// the client names no time.
pub(crate) async fn within<Answer>(
    broker: &Broker,
    context: &RequestContext,
    timeout_ms: i32,
    change: impl Future<Output = Result<Answer, TopicError>>,
) -> Result<Answer, TopicError> {
    let wait = match u64::try_from(timeout_ms) {
        Ok(0) | Err(_) => broker.settings().broker().network.request_timeout,
        Ok(ms) => Duration::from_millis(ms),
    };
    timeout_at(context.received + wait, change).await.unwrap_or(Err(TopicError::TimedOut(wait)))
}

/// Runs a change on a task of its own: a client that hangs up half-way drops its request, not the change.
async fn to_the_end<Answer, Change>(
    broker: &Arc<Broker>,
    change: impl FnOnce(Arc<Broker>) -> Change + Send + 'static,
) -> Answer
where
    Answer: Send + 'static,
    Change: Future<Output = Answer> + Send,
{
    let broker = Arc::clone(broker);
    let task = tokio::spawn(async move {
        let _one_at_a_time = broker.topics.changing.lock().await;
        change(Arc::clone(&broker)).await
    });
    task.await.expect("a change of topics does not panic")
}

async fn create(broker: Arc<Broker>, topics: Vec<CreateTopic>, mode: Mode) -> PerItem<Str, CreatedTopic> {
    let settings = Arc::clone(&broker.settings());
    let defaults = TopicDefaults {
        num_partitions: settings.broker().topics.partitions,
        replication_factor: settings.broker().topics.replication_factor,
    };
    let placement_start = rand::random::<u32>() as usize;
    let decide = |image: &Image| {
        image.create_topics(&topics, mode, defaults, &*settings, placement_start, &mut fresh_topic_id)
    };
    let decided = broker.metadata.commit(broker.clock.now(), decide).await?;
    let mut answers = Vec::with_capacity(decided.len());
    for (name, created) in decided {
        let answer = match (created, mode) {
            (Ok(created), Mode::Apply) => {
                open_or_take_back(&broker, &name, created.id).await.map(|()| created)
            }
            (Ok(created), Mode::ValidateOnly) => Ok(created),
            (Err(refusal), _) => Err(TopicError::from(refusal)),
        };
        answers.push((name, answer));
    }
    Ok(answers)
}

/// A topic that exists and cannot be written to helps nobody: its creator is told why, and may try again.
async fn open_or_take_back(broker: &Arc<Broker>, name: &Str, id: Uuid) -> Result<(), TopicError> {
    let count = broker.metadata.image().topic_by_id(id).map_or(0, |topic| topic.partition_count());
    let opened = match broker.descriptors.check(count) {
        Ok(()) => open_partitions(broker, name, PartitionId(0)).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = &opened {
        tracing::error!(topic = %name, %error, "a new topic's logs cannot be opened; the topic is taken back");
        let commands = [DeleteTopic::Id(id)];
        let taken_back =
            broker.metadata.commit(broker.clock.now(), |image| image.delete_topics(&commands)).await;
        if let Err(error) = taken_back {
            tracing::error!(topic = %name, %error, "a topic without logs could not be taken back");
        }
        // Logs of it that could be opened belong to no topic now, and must not become the next one's.
        let logs: Vec<_> = partition_names(name, count).collect();
        let deleter = Arc::clone(broker);
        spawn_blocking(move || delete_logs(&deleter, &logs)).await.expect("deleting logs does not panic");
    }
    opened
}

/// The names of a topic's first `count` partitions.
fn partition_names(topic: &Str, count: usize) -> impl Iterator<Item = TopicPartition> {
    let topic = topic.clone();
    let count = i32::try_from(count).expect("a topic's partitions fit an i32");
    (0..count).map(move |id| TopicPartition { topic: topic.clone(), partition: PartitionId(id) })
}

/// Opens a topic's logs from partition `first` on and puts them into the table.
async fn open_partitions(broker: &Arc<Broker>, topic: &Str, first: PartitionId) -> Result<(), TopicError> {
    let (opener, topic) = (Arc::clone(broker), topic.clone());
    let opened = spawn_blocking(move || {
        let image = opener.metadata.image();
        let topic = image.topic(&topic).expect("changes of topics run one at a time");
        let here = topic
            .partitions()
            .filter(|(id, partition)| *id >= first && partition.replicas.contains(&opener.node_id));
        let opened = here.map(|(id, partition)| {
            let name = TopicPartition { topic: topic.name.clone(), partition: id };
            opener.open_partition(&image, name, topic.id, partition.leader_epoch)
        });
        opened.collect::<Result<Vec<_>, _>>().map_err(|error| TopicError::Open(error.to_string()))
    });
    let opened = opened.await.expect("opening logs does not panic")?;
    broker.partitions.insert(opened);
    Ok(())
}

async fn delete(broker: Arc<Broker>, topics: Vec<DeleteTopic>) -> PerItem<DeleteTopic, DeletedTopic> {
    let decide = |image: &Image| image.delete_topics(&topics);
    let before = broker.metadata.image();
    let decided = broker.metadata.commit(broker.clock.now(), decide).await?;
    let deleted: Vec<Str> =
        decided.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.name.clone())).collect();
    let gone = deleted.iter().filter_map(|name| broker.partitions.remove_topic(name));
    let served: Vec<Arc<Partition>> =
        gone.flat_map(|topic| topic.partitions().cloned().collect::<Vec<_>>()).collect();
    // Partitions that could not be opened are not served, and have files all the same.
    let counts = deleted.iter().filter_map(|name| Some((name, before.topic(name)?.partition_count())));
    let logs: Vec<_> = counts.flat_map(|(name, count)| partition_names(name, count)).collect();
    let deleter = Arc::clone(&broker);
    spawn_blocking(move || delete_logs(&deleter, &logs)).await.expect("deleting logs does not panic");
    for partition in served {
        partition.waiting.fail(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    if !deleted.is_empty() {
        broker.groups.topics_deleted(&deleted);
    }
    Ok(decided.into_iter().map(|(topic, answer)| (topic, answer.map_err(TopicError::from))).collect())
}

/// Closes and removes logs that the table no longer has. Blocks.
fn delete_logs(broker: &Broker, partitions: &[TopicPartition]) {
    for partition in partitions {
        if let Err(error) = broker.data_dir.delete_log(partition) {
            // The topic is gone all the same: the next start finds a log of no topic and sets it aside.
            tracing::error!(%partition, %error, "a deleted topic's files could not be removed");
        }
    }
}

async fn add_partitions(broker: Arc<Broker>, topics: Vec<CreatePartitions>, mode: Mode) -> PerItem<Str, ()> {
    let before = broker.metadata.image();
    let added = topics.iter().map(|topic| {
        let count = before.topic(&topic.name).map_or(0, |known| known.partition_count());
        usize::try_from(topic.count).unwrap_or(0).saturating_sub(count)
    });
    broker.descriptors.check(added.fold(0, usize::saturating_add))?;
    let placement_start = rand::random::<u32>() as usize;
    let decide = |image: &Image| image.create_partitions(&topics, mode, placement_start);
    let decided = broker.metadata.commit(broker.clock.now(), decide).await?;
    let mut answers = Vec::with_capacity(decided.len());
    for (name, added) in decided {
        let answer = match (added, mode) {
            (Ok(()), Mode::Apply) => {
                let count = before.topic(&name).map_or(0, |topic| topic.partition_count());
                let first = i32::try_from(count).expect("a topic's partitions fit an i32");
                open_partitions(&broker, &name, PartitionId(first)).await
            }
            (Ok(()), Mode::ValidateOnly) => Ok(()),
            (Err(refusal), _) => Err(TopicError::from(refusal)),
        };
        answers.push((name, answer));
    }
    Ok(answers)
}

/// Makes the running broker follow settings that may have changed. Setting a log's settings to what they are does
/// nothing.
async fn apply_configs(broker: &Arc<Broker>, resources: Vec<ConfigResource>) {
    let broker = Arc::clone(broker);
    let applied = spawn_blocking(move || {
        let image = broker.metadata.image();
        let hosted = broker.partitions.load_full();
        if resources.iter().any(|resource| resource.kind == ResourceKind::Broker) {
            broker.apply_dynamic_settings();
            // Every topic inherits from the broker's settings.
            for topic in hosted.topics() {
                update_logs(&broker, &image, topic);
            }
            return;
        }
        let changed = resources.iter().filter(|resource| resource.kind == ResourceKind::Topic);
        for topic in changed.filter_map(|resource| hosted.topic(&resource.name)) {
            update_logs(&broker, &image, topic);
        }
    });
    applied.await.expect("changing settings does not panic");
}

fn update_logs(broker: &Broker, image: &Image, topic: &crate::partitions::HostedTopic) {
    let config = broker.log_config(image, &topic.name);
    for partition in topic.partitions() {
        partition.log.update_config(config.clone());
    }
}

fn offsets_topic(settings: &Settings) -> CreateTopic {
    let groups = &settings.broker().groups;
    let configs = settings.offsets_topic_configs();
    CreateTopic {
        name: Str::from(OFFSETS_TOPIC),
        num_partitions: groups.offsets_topic_partitions,
        // Kafka asks for three replicas and so for three brokers; a lone broker's groups cannot wait for them.
        replication_factor: -1,
        configs: configs.into_iter().map(|(key, value)| (key, Some(value))).collect(),
        ..CreateTopic::default()
    }
}

/// A random id (RFC 9562, version 4), as Kafka makes them: none starts with `-` in its text form, because people pass
/// ids on command lines.
fn fresh_topic_id() -> Uuid {
    loop {
        let mut bytes: [u8; 16] = rand::random();
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let id = Uuid(bytes);
        if !id.to_string().starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_topic_ids_are_random_uuids_that_no_tool_takes_for_an_option() {
        for _ in 0..1_000 {
            let Uuid(bytes) = fresh_topic_id();
            assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (4, 2));
            assert!(!Uuid(bytes).to_string().starts_with('-'));
        }
    }
}
