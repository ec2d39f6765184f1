//! Dead letters (KIP-1191): what share groups give up goes to a topic, if they name one.
//!
//! Invariant: a record is archived when its dead letter is acknowledged by all replicas in sync, or after as many attempts as are
//! made, each bounded in time: a dead-letter topic that fails does not hold up the share-partition for good. A record that the
//! topic does not take is given up alone; where the topic cannot be written one record is, and twice as many with each further
//! attempt in vain: what is kept meanwhile may do. After a crash a record may have two dead letters; none is forgotten while the
//! topic can be written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use state::metadata::{ConfigResource, CreateTopic, Image, Mode, ResourceKind};
use state::share::partition::DeadLetters;
use storage::{Origin, ReadLimits};
use tokio::time::{sleep, timeout};
use wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::records::{BatchBuilder, BatchOptions, Batches, Header, Record};
use wire::{BrokerId, ErrorCode, Offset, PartitionId, Str};

use crate::blocking;
use crate::broker::Broker;
use crate::settings::TopicSettings;
use crate::settings::group::ShareGroupSettings;
use crate::share_partitions::Held;
use crate::waiting::ParkedProduce;

/// How often a dead letter is tried, as in Kafka. Where that was in vain the next ones are tried once each time, until some are
/// written: a topic that cannot be written slows the share-partition no more than that.
const ATTEMPTS_MAX: u32 = 5;
/// Between the first two attempts; twice as long between the next, and so on.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the leader of a dead-letter partition may take, and the controller.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Dead letters that are written together.
const RECORDS_MAX: i64 = 500;
/// Bytes that are read of the log at a time to copy records, the first batch aside.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that one batch may come to when it is unpacked.
const UNPACKED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a batch takes besides its records, and a record besides key, value and headers, at most.
const BATCH_OVERHEAD: usize = 61;
const RECORD_OVERHEAD: usize = 64;

/// Why a dead letter was not written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the group has no dead-letter topic any more")]
    NoTopic,
    #[error("{0}")]
    Misconfigured(String),
    /// Another attempt may do.
    #[error("{0}")]
    NotYet(String),
    #[error("topic {0} has just been created")]
    Created(Str),
    /// The records cannot be read, perhaps not for now.
    #[error("the records cannot be read: {0}")]
    Unreadable(String),
    /// These records are not taken; others may be.
    #[error("{0}")]
    Refused(String),
    /// Nor are these, for what they come to.
    #[error("{0}")]
    TooLarge(String),
}

impl Failure {
    fn may_pass(&self) -> bool {
        matches!(self, Failure::NotYet(_) | Failure::Created(_) | Failure::Unreadable(_))
    }
}

/// Takes what a share-partition gives up to the group's dead-letter topic, until there is nothing more.
pub(crate) async fn bury(held: Arc<Held>, broker: Arc<Broker>) {
    while let Some(mut letters) = held.next_dead_letters() {
        // That they are given up is written first: another leader would deliver them again, and bury them again.
        if held.written().await.is_err() {
            held.stop_burying();
            return;
        }
        letters.last = letters.last.min(letters.first.plus(RECORDS_MAX - 1));
        let in_vain = held.buried_in_vain();
        let attempts_max = if in_vain > 0 { 1 } else { ATTEMPTS_MAX };
        if in_vain > 0 {
            sleep(PAUSE).await;
        }
        let (mut last, written) = insist(&broker, &held, letters, attempts_max).await;
        if written.is_err() && (broker.is_stopping() || held.has_failed()) {
            // The next leader finds it as it was.
            return;
        }
        match &written {
            Ok(()) => held.set_buried_in_vain(0),
            // The others are kept for another attempt, and the longer it is in vain the fewer.
            Err(failure) if failure.may_pass() => {
                let given_up = (2 * in_vain).clamp(1, RECORDS_MAX);
                last = last.min(letters.first.plus(given_up - 1));
                held.set_buried_in_vain(given_up);
            }
            Err(_) => {}
        }
        let count = u64::try_from(last.since(letters.first) + 1).unwrap_or(0);
        match written {
            Ok(()) => broker.metrics.buried(count),
            Err(failure) => {
                let topic = broker.share_group_settings(&held.key.group).dead_letter_topic;
                tracing::warn!(
                    share_partition = %held.key, first = %letters.first, %last,
                    topic = topic.as_deref().unwrap_or_default(), %failure,
                    "records are given up without a dead letter"
                );
                broker.metrics.not_buried(count);
            }
        }
        if held.with(&broker, |machine| machine.buried(letters.first, last)).is_err() {
            return;
        }
        held.waiting.wake_fetches();
    }
    held.retire(&broker);
}

/// Writes dead letters, and again if need be. Says up to which record. Of several that are refused the first is tried alone, and
/// one that is too large, or cannot be read, without its key and value: a record that is to blame takes no other along.
async fn insist(
    broker: &Arc<Broker>,
    held: &Held,
    mut letters: DeadLetters,
    mut attempts_max: u32,
) -> (Offset, Result<(), Failure>) {
    let mut pause = PAUSE;
    let mut attempt = 1;
    let mut may_copy = true;
    loop {
        // The settings are looked at each time: whoever mends them need not wait.
        let mut settings = broker.share_group_settings(&held.key.group);
        settings.dead_letters_copied &= may_copy;
        let failure = match write(broker, held, &settings, &mut letters).await {
            Ok(()) => return (letters.last, Ok(())),
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Created(_)) {
            // What was in vain before need not be any more.
            attempts_max = ATTEMPTS_MAX;
        }
        let is_leaving = broker.is_stopping() || held.has_failed();
        let is_last = attempt == attempts_max || is_leaving;
        match failure {
            Failure::Refused(_) | Failure::TooLarge(_) if letters.first < letters.last => {
                letters.last = letters.first;
            }
            Failure::TooLarge(_) if settings.dead_letters_copied => may_copy = false,
            Failure::Unreadable(_) if is_last && settings.dead_letters_copied && !is_leaving => {
                may_copy = false;
            }
            failure if !failure.may_pass() || is_last => return (letters.last, Err(failure)),
            failure => {
                tracing::debug!(share_partition = %held.key, %failure, attempt, "dead letters are not written yet");
                sleep(pause).await;
                pause *= 2;
                attempt += 1;
            }
        }
    }
}

/// Writes as many dead letters as fit into a batch. What does not is taken out of `letters`: a failure is about the others.
async fn write(
    broker: &Arc<Broker>,
    held: &Held,
    settings: &ShareGroupSettings,
    letters: &mut DeadLetters,
) -> Result<(), Failure> {
    let name = settings.dead_letter_topic.as_ref().ok_or(Failure::NoTopic)?;
    let image = broker.metadata.image();
    let source = image.topic_by_id(held.key.topic).map(|topic| topic.name.clone());
    let source = source.unwrap_or_else(|| Str::from(held.key.topic.to_string()));
    check_name(broker, name, &source)?;
    if image.topic(name).is_none() {
        return Err(create(broker, name).await);
    }
    let topic_settings = settings_of(broker, &image, name);
    if !topic_settings.takes_dead_letters {
        return Err(Failure::Misconfigured(format!(
            "topic {name} does not take dead letters: errors.deadletterqueue.group.enable is false"
        )));
    }
    let bytes_max = topic_settings.message_bytes_max;
    let copied = match settings.dead_letters_copied {
        true => copies(held, *letters, bytes_max).await?,
        false => Copies { records: BTreeMap::new(), last: letters.last },
    };
    let (records, last) = batch(broker, held, &source, *letters, &copied, bytes_max);
    letters.last = last;
    produce(broker, &image, name, held.key.partition, records).await
}

fn check_name(broker: &Broker, name: &Str, source: &Str) -> Result<(), Failure> {
    let settings = broker.settings();
    let prefix = &settings.broker().share.dead_letter_topic_prefix;
    if name.starts_with("__") {
        return Err(Failure::Misconfigured(format!("dead-letter topic {name} begins with __")));
    }
    if !name.starts_with(prefix.as_str()) {
        return Err(Failure::Misconfigured(format!(
            "dead-letter topic {name} does not begin with {prefix:?} (errors.deadletterqueue.topic.name.prefix)"
        )));
    }
    if name == source {
        return Err(Failure::Misconfigured(format!("topic {name} is its own dead-letter topic")));
    }
    Ok(())
}

fn settings_of(broker: &Broker, image: &Image, topic: &Str) -> TopicSettings {
    let resource = ConfigResource { kind: ResourceKind::Topic, name: topic.clone() };
    broker.settings().topic(image.configs(&resource))
}

/// Creates the topic, if that is allowed; the next attempt finds it.
async fn create(broker: &Arc<Broker>, name: &Str) -> Failure {
    if !broker.settings().broker().share.dead_letter_topics_created {
        return Failure::Misconfigured(format!(
            "topic {name} does not exist, and errors.deadletterqueue.auto.create.topics.enable is false"
        ));
    }
    // The time of a dead letter is when it was written, whatever topics here do otherwise.
    let configs = [("errors.deadletterqueue.group.enable", "true"), ("message.timestamp.type", "CreateTime")];
    let controller = BrokerId(broker.controller_id());
    let refused = if controller == broker.node_id {
        let topic = CreateTopic {
            name: name.clone(),
            num_partitions: -1,
            replication_factor: -1,
            configs: configs.iter().map(|(key, value)| (Str::from(*key), Some(Str::from(*value)))).collect(),
            ..CreateTopic::default()
        };
        let unlimited = Arc::default();
        let created = broker.topics.create(broker, vec![topic], Mode::Apply, &unlimited);
        match timeout(ANSWER_MAX, created).await {
            Ok(Ok(answers)) => {
                answers.into_iter().find_map(|(_, answer)| answer.err()).map(|error| error.error_code())
            }
            Ok(Err(error)) => Some(error.error_code()),
            Err(_) => Some(ErrorCode::REQUEST_TIMED_OUT),
        }
    } else {
        let config = |(name, value): &(&'static str, &'static str)| CreatableTopicConfig {
            name: Str::from(*name),
            value: Some(Str::from(*value)),
        };
        let topic = CreatableTopic {
            name: name.clone(),
            num_partitions: -1,
            replication_factor: -1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let timeout_ms = i32::try_from(ANSWER_MAX.as_millis()).unwrap_or(i32::MAX);
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms, validate_only: false };
        let Some(address) = broker.metadata.quorum().peers().address_of(controller) else {
            return Failure::NotYet("there is no controller".to_owned());
        };
        match broker.dead_letter_peers.ask(controller, &address, request, ANSWER_MAX).await {
            Ok(answer) => answer.topics.first().map(|topic| topic.error_code).filter(|error| !error.is_ok()),
            Err(error) => return Failure::NotYet(format!("the controller does not answer: {error}")),
        }
    };
    match refused {
        // Another broker may have been faster.
        None | Some(ErrorCode::TOPIC_ALREADY_EXISTS) => Failure::Created(name.clone()),
        Some(error) => {
            let told = format!("topic {name} cannot be created: {error:?}");
            // Brokers that the topic needs may come back.
            match error.is_retriable() || error == ErrorCode::INVALID_REPLICATION_FACTOR {
                true => Failure::NotYet(told),
                false => Failure::Misconfigured(told),
            }
        }
    }
}

/// Records of the source, as far as they were read, and up to where that is.
struct Copies {
    records: BTreeMap<Offset, Copied>,
    last: Offset,
}

struct Copied {
    key: Option<Bytes>,
    value: Option<Bytes>,
}

impl Copied {
    /// By itself: the batch that it lay in, unpacked, can go.
    fn new(record: &Record) -> Self {
        let own = |bytes: &Option<Bytes>| bytes.as_deref().map(Bytes::copy_from_slice);
        Copied { key: own(&record.key), value: own(&record.value) }
    }

    fn len(&self) -> usize {
        [&self.key, &self.value].into_iter().flatten().map(Bytes::len).sum()
    }
}

/// The records themselves, as far as they are still there; what is read at a time goes out before more is. One at least, and no
/// more than a batch of so many bytes takes.
async fn copies(held: &Held, letters: DeadLetters, bytes_max: usize) -> Result<Copies, Failure> {
    let partition = Arc::clone(&held.partition);
    let upper = partition.high_watermark();
    let read = blocking::run(move || {
        let mut records = BTreeMap::new();
        let mut size = 0;
        let mut from = letters.first.max(partition.log.log_start());
        'reading: while records.is_empty() && from <= letters.last && from < upper {
            let limits = ReadLimits { bytes_max: READ_BYTES_MAX, upper, minimum_one: true };
            let slice = partition.read(from, limits).map_err(|error| error.to_string())?;
            let bytes = slice.read().map_err(|error| error.to_string())?;
            let before = from;
            for batch in Batches::new(bytes).map_while(Result::ok) {
                if from > letters.last {
                    break;
                }
                from = batch.header().last_offset().plus(1);
                if batch.header().attributes().is_control() {
                    continue;
                }
                for record in batch.records(UNPACKED_BYTES_MAX) {
                    let record = match record {
                        Ok(record) => record,
                        Err(error) => {
                            // What is missed goes without its key and value.
                            tracing::warn!(%error, last = %from.plus(-1), "a batch cannot be copied to dead letters");
                            break;
                        }
                    };
                    if record.offset >= letters.first && record.offset <= letters.last {
                        let copied = Copied::new(&record);
                        size += copied.len();
                        if size > bytes_max && !records.is_empty() {
                            from = record.offset;
                            break 'reading;
                        }
                        records.insert(record.offset, copied);
                    }
                }
            }
            if from <= before {
                break;
            }
        }
        let last = if records.is_empty() { letters.last } else { letters.last.min(from.plus(-1)) };
        Ok::<_, String>(Copies { records, last })
    });
    read.await.map_err(Failure::Unreadable)
}

/// As many dead letters as fit, one at least; and up to which record. One that is too large by itself goes without key and value.
fn batch(
    broker: &Broker,
    held: &Held,
    source: &Str,
    letters: DeadLetters,
    copies: &Copies,
    bytes_max: usize,
) -> (Bytes, Offset) {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    let mut offset = letters.first;
    let mut size = BATCH_OVERHEAD;
    while offset <= letters.last.min(copies.last) {
        let copy = copies.records.get(&offset);
        let mut key = copy.and_then(|copy| copy.key.as_deref());
        let mut value = copy.and_then(|copy| copy.value.as_deref());
        let headers = headers(held, source, letters, offset);
        let of_headers =
            headers.iter().map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len) + 8);
        size += RECORD_OVERHEAD + of_headers.sum::<usize>();
        let with_copy = size + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if with_copy > bytes_max && !batch.is_empty() {
            break;
        }
        if with_copy > bytes_max {
            (key, value) = (None, None);
        } else {
            size = with_copy;
        }
        batch.append(broker.clock.now(), key, value, &headers);
        offset = offset.plus(1);
    }
    (batch.build(), offset.plus(-1))
}

/// What a dead letter says of its record, in the words of Kafka.
fn headers(held: &Held, source: &Str, letters: DeadLetters, offset: Offset) -> Vec<Header> {
    let headers = [
        ("__dlq.errors.topic", source.to_string()),
        ("__dlq.errors.partition", held.key.partition.to_string()),
        ("__dlq.errors.offset", offset.to_string()),
        ("__dlq.errors.group", held.key.group.to_string()),
        ("__dlq.errors.delivery.count", letters.count.to_string()),
        ("__dlq.errors.message", letters.cause.message().to_owned()),
    ];
    let header =
        |(key, value): (&'static str, String)| Header { key: Str::from(key), value: Some(value.into()) };
    headers.into_iter().map(header).collect()
}

/// Has dead letters written, and waits until all replicas in sync have them. Those of one partition go to one partition.
async fn produce(
    broker: &Arc<Broker>,
    image: &Image,
    name: &Str,
    source: PartitionId,
    records: Bytes,
) -> Result<(), Failure> {
    let unknown = || Failure::NotYet(format!("topic {name} is being deleted"));
    let topic = image.topic(name).ok_or_else(unknown)?;
    let count = i32::try_from(topic.partition_count()).unwrap_or(i32::MAX).max(1);
    let index = PartitionId(source.0 % count);
    let leader = topic.partition(index).and_then(|partition| partition.leader);
    let leader = leader.ok_or_else(|| Failure::NotYet(format!("{name}-{index} has no leader")))?;
    let error = if leader == broker.node_id {
        append(broker, name, index, records).await
    } else {
        let partition = PartitionProduceData { index: index.0, records: Some(records) };
        let data =
            TopicProduceData { name: name.clone(), topic_id: topic.id, partition_data: vec![partition] };
        let timeout_ms = i32::try_from(ANSWER_MAX.as_millis()).unwrap_or(i32::MAX);
        let request = ProduceRequest { acks: -1, timeout_ms, topic_data: vec![data], ..Default::default() };
        let address = broker.metadata.quorum().peers().address_of(leader);
        let address = address.ok_or_else(|| Failure::NotYet(format!("broker {leader} is not known")))?;
        // Its answer, and the way there and back.
        match broker.dead_letter_peers.ask(leader, &address, request, ANSWER_MAX + PAUSE).await {
            Ok(answer) => {
                let mut parts = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
                parts.next().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |part| part.error_code)
            }
            Err(error) => {
                return Err(Failure::NotYet(format!(
                    "broker {leader}, which leads {name}-{index}, does not answer: {error}"
                )));
            }
        }
    };
    let told = format!("{name}-{index} does not take dead letters: {error:?}");
    match error {
        ErrorCode::NONE => Ok(()),
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => Err(Failure::TooLarge(told)),
        error if error.is_retriable() => Err(Failure::NotYet(told)),
        _ => Err(Failure::Refused(told)),
    }
}

/// The same where this broker leads the partition.
async fn append(broker: &Arc<Broker>, name: &Str, index: PartitionId, records: Bytes) -> ErrorCode {
    let partition = {
        let hosted = broker.partitions.load();
        hosted.topic(name).and_then(|topic| topic.partition(index).cloned())
    };
    let Some(partition) = partition else { return ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
    if broker.is_cut_off() {
        return ErrorCode::NOT_LEADER_OR_FOLLOWER;
    }
    if !partition.has_enough_in_sync() {
        return ErrorCode::NOT_ENOUGH_REPLICAS;
    }
    let led = match partition.append(records, broker.clock.now(), Origin::Client) {
        Ok(led) => led,
        Err(error) => return error.into(),
    };
    let parked = ParkedProduce::new(1);
    partition.park_produce(led.appended.last_offset.plus(1), led.leader_epoch, &parked, 0);
    let _ = timeout(ANSWER_MAX, parked.finished()).await;
    parked.outcome(0).unwrap_or(ErrorCode::REQUEST_TIMED_OUT)
}
