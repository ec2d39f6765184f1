//! Dead letters: records that are no rows, as they are sent to a topic of their own, each once.
//!
//! A letter is the record as it was, with headers behind its own that say where it came from and what was wrong, under the names that
//! Kafka Connect's sinks give them (`DeadLetterQueueReporter`). The letters of a range are one transaction, and so is the position
//! that says so: whoever repeats the range reads the position and knows. Nothing here decides which records are letters.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{
    Admin, BoxFuture, Cluster, ConsumedRecord, Consumer, ConsumerGroupMetadata, Environment, Error, Header,
    Isolation, Options, Producer, ProducerRecord,
};
use tokio::sync::Mutex;
use wire::{Millis, Offset, Str, TopicPartition};

use crate::columns::Unconvertible;
use crate::key::Key;

/// What every header begins with that a letter has besides its record's.
pub const HEADER_PREFIX: &str = "__connect.errors.";

/// The headers' names behind it, in the order in which they come.
pub(crate) mod names {
    pub(crate) const TOPIC: &str = "topic";
    pub(crate) const PARTITION: &str = "partition";
    pub(crate) const OFFSET: &str = "offset";
    pub(crate) const CONNECTOR_NAME: &str = "connector.name";
    pub(crate) const TASK_ID: &str = "task.id";
    pub(crate) const STAGE: &str = "stage";
    pub(crate) const CLASS_NAME: &str = "class.name";
    pub(crate) const EXCEPTION_CLASS_NAME: &str = "exception.class.name";
    pub(crate) const EXCEPTION_MESSAGE: &str = "exception.message";
    pub(crate) const EXCEPTION_STACKTRACE: &str = "exception.stacktrace";
    /// Kafka Connect has none like it: a topic that was made anew is told apart by it.
    pub(crate) const TOPIC_ID: &str = "topic.id";
}

/// What Kafka Connect calls the step that a record fails in, and the exception that its converters throw.
const STAGE: &str = "VALUE_CONVERTER";
const EXCEPTION: &str = "org.apache.kafka.connect.errors.DataException";

/// A problem's text is cut there: some quote the value.
const PROBLEM_LEN_MAX: usize = 1000;

/// For a producer to end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A record that is no row, on its way to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The record's offset.
    pub offset: Offset,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its timestamp, if it has one.
    pub timestamp: Option<Millis>,
    /// Its headers, and the letter's behind them.
    pub headers: Vec<Header>,
}

impl Letter {
    /// The same for ever for one record, one line and one problem. Copies, so that it does not hold what was fetched with it.
    pub(crate) fn new(key: &Key, record: &ConsumedRecord, problem: &Unconvertible) -> Self {
        let copied = |bytes: &Option<Bytes>| bytes.as_deref().map(Bytes::copy_from_slice);
        let message = message(problem);
        let trace = format!("{EXCEPTION}: {message}\n\tat {} at offset {}", key.partition, record.offset);
        let told = [
            (names::TOPIC, key.partition.topic.to_string()),
            (names::PARTITION, key.partition.partition.to_string()),
            (names::OFFSET, record.offset.to_string()),
            (names::CONNECTOR_NAME, key.line.to_string()),
            (names::TASK_ID, "0".to_owned()),
            (names::STAGE, STAGE.to_owned()),
            (names::CLASS_NAME, "ottla.sink".to_owned()),
            (names::EXCEPTION_CLASS_NAME, EXCEPTION.to_owned()),
            (names::EXCEPTION_MESSAGE, message),
            (names::EXCEPTION_STACKTRACE, trace),
            (names::TOPIC_ID, key.topic_id.to_string()),
        ];
        let own = record
            .headers
            .iter()
            .map(|header| Header { key: Str::copy_from(&header.key), value: copied(&header.value) });
        let told = told.into_iter().map(|(name, value)| Header {
            key: Str::copy_from(&format!("{HEADER_PREFIX}{name}")),
            value: Some(value.into()),
        });
        Self {
            offset: record.offset,
            key: copied(&record.key),
            value: copied(&record.value),
            timestamp: Some(record.timestamp).filter(|time| time.0 >= 0),
            headers: own.chain(told).collect(),
        }
    }

    /// What it takes in memory, about.
    pub(crate) fn size(&self) -> usize {
        let of = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|header| header.key.len() + of(&header.value));
        of(&self.key) + of(&self.value) + headers.sum::<usize>()
    }

    fn record(&self, topic: &Str) -> ProducerRecord {
        ProducerRecord {
            topic: topic.clone(),
            partition: None,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: self.headers.clone(),
            timestamp: self.timestamp,
        }
    }
}

/// A problem in one line, with its field, of a bounded length.
fn message(Unconvertible { field, problem }: &Unconvertible) -> String {
    let cut = problem.char_indices().nth(PROBLEM_LEN_MAX);
    let problem = cut.map_or_else(|| problem.clone(), |(at, _)| format!("{}…", &problem[..at]));
    match field {
        Some(field) => format!("field {field:?}: {problem}"),
        None => problem,
    }
}

/// Sends the dead letters of one partition.
pub trait Letters: Send + Sync + 'static {
    /// Takes the sending over: whoever had it sends nothing any more, and what it left open is ended before this returns. Tells up
    /// to where letters were sent, which then changes by this holder alone.
    fn hold(&self) -> BoxFuture<'_, Result<Option<Offset>, Error>>;

    /// Sends letters and moves the position to `next`, all of it or nothing. Comes after [`Letters::hold`].
    fn send<'a>(&'a self, letters: &'a [Letter], next: Offset) -> BoxFuture<'a, Result<(), Error>>;
}

/// Letters into a topic of the same cluster, by transactions.
pub(crate) struct TopicLetters {
    topic: Str,
    /// Keeps the position.
    group: Str,
    partition: TopicPartition,
    /// With a transactional id of the partition's own.
    cluster: Cluster,
    producer: Mutex<Option<Producer>>,
}

impl TopicLetters {
    pub(crate) fn new(
        topic: Str,
        group: &str,
        key: &Key,
        mut options: Options,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, Error> {
        options.transactional_id = Some(format!("{}-{}", key.line, key.partition));
        options.group_id = Some(group.to_owned());
        // What a transaction may still take back is no position.
        options.isolation_level = Isolation::ReadCommitted;
        Ok(Self {
            topic,
            group: Str::copy_from(group),
            partition: key.partition.clone(),
            cluster: Cluster::new(options, environment)?,
            producer: Mutex::new(None),
        })
    }

    async fn position(&self) -> Result<Option<Offset>, Error> {
        let consumer = Consumer::new(self.cluster.clone());
        let mut committed = consumer.committed(std::slice::from_ref(&self.partition)).await?;
        if let Some(position) = committed.remove(&self.partition).flatten() {
            return Ok(Some(position));
        }
        // A line that was away for longer than a group's offsets are kept.
        let offsets = Admin::new(self.cluster.clone()).group_offsets(&self.group).await?;
        Ok(offsets.expired.get(&self.partition).map(|expired| expired.offset))
    }
}

impl Letters for TopicLetters {
    fn hold(&self) -> BoxFuture<'_, Result<Option<Offset>, Error>> {
        Box::pin(async move {
            // A producer of its own each time: letters are rare, and an idle id is forgotten by its coordinator.
            let producer = Producer::new(self.cluster.clone())?;
            producer.init_transactions().await?;
            *self.producer.lock().await = Some(producer);
            self.position().await
        })
    }

    fn send<'a>(&'a self, letters: &'a [Letter], next: Offset) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let held = self.producer.lock().await.take();
            let none = Error::State { doing: "sending dead letters", problem: "they are not held" };
            let producer = held.ok_or(none)?;
            let transaction = producer.begin().await?;
            for letter in letters {
                // The commit waits for it, and fails if it does.
                drop(transaction.enqueue(letter.record(&self.topic)).await?);
            }
            let group = ConsumerGroupMetadata::of_group(self.group.clone());
            transaction.send_offsets([(self.partition.clone(), next)], &group).await?;
            transaction.commit().await?;
            if let Err(error) = producer.close(CLOSE_MAX).await {
                tracing::debug!(%error, "a producer of dead letters did not end in order");
            }
            Ok(())
        })
    }
}
