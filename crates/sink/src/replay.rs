//! Dead letters read again: to list them, to count them against the log, and to send them back to where they came from.
//!
//! A letter belongs to a sink by the name of the line in its headers, so that sinks may share a topic. Sending back is exactly once: each
//! transaction carries the position behind what it sends, in a group of its own, and whoever begins takes the transactional id
//! over before it reads that position.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{
    Admin, Cluster, ConsumedRecord, Consumer, ConsumerGroupMetadata, Environment, Error, GroupOffsets,
    Isolation, OffsetSpec, Options, Producer, ProducerRecord, Records, Start,
};
use wire::{Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::letters::{HEADER_PREFIX, names};
use crate::run::RunError;
use crate::settings::{Line, Settings};

/// How often it is looked whether what is left is nothing that anybody gets to see.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For a consumer or producer to end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A letter that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The line that it was no row for.
    pub line: Line,
    /// Where its record came from.
    pub partition: TopicPartition,
    /// The record's offset there.
    pub offset: Offset,
    /// The topic's id at that time, if it is told.
    pub topic_id: Option<Uuid>,
    /// What was wrong with it.
    pub message: String,
    /// As it is in the topic of dead letters.
    pub record: ConsumedRecord,
}

impl DeadLetter {
    /// A letter of this line, if the record is one.
    fn read(record: &ConsumedRecord, settings: &Settings, line: Line) -> Option<Self> {
        // The last one of a name: the record may be a letter of a letter.
        let told = |name: &str| {
            let named = |key: &str| key.strip_prefix(HEADER_PREFIX) == Some(name);
            let header = record.headers.iter().rev().find(|header| named(&header.key))?;
            std::str::from_utf8(header.value.as_deref()?).ok()
        };
        if told(names::CONNECTOR_NAME)? != settings.line_name(line).as_str() {
            return None;
        }
        let partition = PartitionId(told(names::PARTITION)?.parse().ok()?);
        Some(Self {
            line,
            partition: TopicPartition::new(Str::copy_from(told(names::TOPIC)?), partition),
            offset: Offset(told(names::OFFSET)?.parse().ok()?),
            topic_id: told(names::TOPIC_ID).and_then(|id| id.parse().ok()),
            message: told(names::EXCEPTION_MESSAGE).unwrap_or_default().to_owned(),
            record: record.clone(),
        })
    }

    /// The record as it was.
    fn back(&self) -> ProducerRecord {
        let headers = self.record.headers.iter().filter(|header| !header.key.starts_with(HEADER_PREFIX));
        ProducerRecord {
            topic: self.partition.topic.clone(),
            partition: Some(self.partition.partition),
            key: self.record.key.clone(),
            value: self.record.value.clone(),
            headers: headers.cloned().collect(),
            timestamp: Some(self.record.timestamp).filter(|time| time.0 >= 0),
        }
    }
}

/// Which dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that are in the topic.
    All,
    /// Those that were not sent back yet.
    Waiting,
}

/// What was sent back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Letters that are where they came from again.
    pub sent: u64,
    /// Records in the topic of dead letters that are not this sink's letters, and were passed.
    pub passed: u64,
}

/// The letters of a sink, line by line, and partition by partition of their topic. Empty without [`Settings::dead_letters`].
pub async fn dead_letters(
    settings: &Settings,
    cluster: &Cluster,
    which: Which,
) -> Result<Vec<DeadLetter>, RunError> {
    let mut letters = Vec::new();
    // Those of one line are sent back.
    let lines_max = if which == Which::Waiting { 1 } else { usize::MAX };
    for (line, _) in settings.tables().into_iter().take(lines_max) {
        each(settings, line, cluster, which, |letter| letters.push(letter)).await?;
    }
    Ok(letters)
}

/// Shows every letter of a line.
pub(crate) async fn each(
    settings: &Settings,
    line: Line,
    cluster: &Cluster,
    which: Which,
    mut look: impl FnMut(DeadLetter),
) -> Result<(), RunError> {
    let Some(dead_letters) = &settings.dead_letters else { return Ok(()) };
    let begins = match which {
        Which::All => BTreeMap::new(),
        Which::Waiting => {
            let group = Str::copy_from(&settings.replay_group(line));
            sent_back(Admin::new(cluster.clone()).group_offsets(&group).await?)
        }
    };
    let partitions = partitions(cluster, &dead_letters.topic).await?;
    let spans = spans(cluster, &partitions, begins).await?;
    let mut reader = Reader::new(cluster, spans)?;
    while let Some(records) = reader.next().await? {
        records.iter().filter_map(|record| DeadLetter::read(record, settings, line)).for_each(&mut look);
        reader.done(records);
    }
    reader.close().await;
    Ok(())
}

/// Sends every letter that waits back to the partition it came from, without the headers that made it one. Each is sent once,
/// whatever is stopped when. Where two lines have letters they are those of the first: both have one of each record.
pub async fn replay(
    settings: &Settings,
    mut options: Options,
    environment: Arc<dyn Environment>,
) -> Result<Replayed, RunError> {
    let Some(dead_letters) = &settings.dead_letters else { return Ok(Replayed::default()) };
    let Some(&(line, _)) = settings.tables().first() else { return Ok(Replayed::default()) };
    // The group that keeps up to where letters were sent back, and the transactional id of whoever does.
    let name = settings.replay_group(line);
    // What a transaction may still take back is neither a letter nor a position.
    options.isolation_level = Isolation::ReadCommitted;
    options.group_id = Some(name.clone());
    // Its positions move with the transactions alone. A commit of the reader's, on its way when it was dropped, would set them back.
    options.enable_auto_commit = false;
    let cluster = Cluster::new(options.clone(), Arc::clone(&environment))?;
    options.transactional_id = Some(name.clone());
    let producer = Producer::new(Cluster::new(options, environment)?)?;
    producer.init_transactions().await?;
    let partitions = partitions(&cluster, &dead_letters.topic).await?;
    // Not before nobody else moves the positions any more.
    let group = Str::copy_from(&name);
    let begins = sent_back(Admin::new(cluster.clone()).stable_group_offsets(&group).await?);
    let spans = spans(&cluster, &partitions, begins).await?;
    let mut reader = Reader::new(&cluster, spans)?;
    let group = ConsumerGroupMetadata::of_group(group);
    let mut replayed = Replayed::default();
    while let Some(records) = reader.next().await? {
        let transaction = producer.begin().await?;
        let (mut sent, mut passed) = (0, 0);
        for record in records.iter() {
            match DeadLetter::read(record, settings, line) {
                Some(letter) => {
                    // The commit waits for it, and fails if it does.
                    drop(transaction.enqueue(letter.back()).await?);
                    sent += 1;
                }
                None => passed += 1,
            }
        }
        let position = (records.partition().clone(), records.next_offset());
        transaction.send_offsets([position], &group).await?;
        transaction.commit().await?;
        replayed.sent += sent;
        replayed.passed += passed;
        reader.done(records);
    }
    reader.close().await;
    if let Err(error) = producer.close(CLOSE_MAX).await {
        tracing::debug!(%error, "the producer did not end in order");
    }
    Ok(replayed)
}

/// Up to where letters were sent back, also where nobody did for longer than a group's offsets are kept.
fn sent_back(offsets: GroupOffsets) -> BTreeMap<TopicPartition, Offset> {
    let expired = offsets.expired.into_iter().map(|(partition, expired)| (partition, expired.offset));
    let committed = offsets.committed.into_iter().map(|(partition, committed)| (partition, committed.offset));
    // What is committed by now is newer.
    expired.chain(committed).collect()
}

/// What is to be read of a partition: from where, up to where.
type Spans = BTreeMap<TopicPartition, (Offset, Offset)>;

async fn partitions(cluster: &Cluster, topic: &Str) -> Result<Vec<TopicPartition>, Error> {
    let described = Admin::new(cluster.clone()).describe_topics(std::slice::from_ref(topic)).await?;
    let mut partitions = Vec::new();
    for (_, described) in described {
        partitions
            .extend(described?.partitions.iter().map(|part| TopicPartition::new(topic.clone(), part.id)));
    }
    Ok(partitions)
}

/// From where reading stood, or else the beginning, to the end of what is there now.
async fn spans(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    mut begins: BTreeMap<TopicPartition, Offset>,
) -> Result<Spans, RunError> {
    let admin = Admin::new(cluster.clone());
    let of = |spec| partitions.iter().map(|partition| (partition.clone(), spec)).collect::<Vec<_>>();
    let starts = admin.list_offsets(&of(OffsetSpec::Earliest), Isolation::ReadCommitted).await?;
    let ends = admin.list_offsets(&of(OffsetSpec::Latest), Isolation::ReadCommitted).await?;
    let mut spans = Spans::new();
    for ((partition, start), (_, end)) in starts.into_iter().zip(ends) {
        let (start, end) = (start?.offset.unwrap_or(Offset(0)), end?.offset.unwrap_or(Offset(0)));
        let begin = begins.remove(&partition).unwrap_or(start);
        if begin > end {
            return Err(RunError::LettersGone { partition, position: begin, end });
        }
        if begin < start {
            tracing::warn!(%partition, position = %begin, %start, "dead letters were removed before they were sent back");
        }
        spans.insert(partition, (begin.max(start), end));
    }
    Ok(spans)
}

/// Reads spans to their ends.
struct Reader {
    consumer: Consumer,
    /// Where reading stands, and up to where it goes.
    left: Spans,
}

impl Reader {
    fn new(cluster: &Cluster, mut spans: Spans) -> Result<Self, Error> {
        spans.retain(|_, (begin, end)| begin < end);
        let consumer = Consumer::new(cluster.clone());
        let begin = |(partition, (begin, _)): (&TopicPartition, &(Offset, Offset))| {
            (partition.clone(), Some(Start::Offset(*begin)))
        };
        consumer.assign(spans.iter().map(begin))?;
        Ok(Self { consumer, left: spans })
    }

    /// The next records, none of them behind their span's end.
    async fn next(&mut self) -> Result<Option<Records>, Error> {
        loop {
            let Self { consumer, left } = self;
            left.retain(|partition, (begin, end)| {
                begin < end && consumer.position(partition).is_none_or(|position| position < *end)
            });
            if left.is_empty() {
                return Ok(None);
            }
            let records = tokio::select! {
                records = consumer.next() => records,
                // What nobody gets to see is passed without a word.
                () = tokio::time::sleep(LOOK_EVERY) => continue,
            };
            match records {
                None => return Ok(None),
                Some(Err(error)) => return Err(error),
                Some(Ok(records)) => match left.get(records.partition()) {
                    Some((_, end)) if records[0].offset < *end => return Ok(Some(records)),
                    _ => records.done(),
                },
            }
        }
    }

    fn done(&mut self, records: Records) {
        if let Some((begin, _)) = self.left.get_mut(records.partition()) {
            *begin = records.next_offset();
        }
        records.done();
    }

    async fn close(self) {
        if let Err(error) = self.consumer.close(CLOSE_MAX).await {
            tracing::debug!(%error, "the consumer did not end in order");
        }
    }
}

#[cfg(test)]
mod tests {
    use client::{CommittedOffset, ExpiredOffset};
    use wire::{LeaderEpoch, Millis};

    use super::*;

    #[test]
    fn letters_are_not_sent_back_again_when_the_position_has_expired() {
        let partition = |number| TopicPartition::new("dead", PartitionId(number));
        let expired = ExpiredOffset { offset: Offset(7), expired_at: Millis(1) };
        let committed =
            CommittedOffset { offset: Offset(9), leader_epoch: LeaderEpoch::NONE, metadata: None };
        let offsets = GroupOffsets {
            committed: [(partition(1), committed)].into(),
            expired: [(partition(0), expired), (partition(1), expired)].into(),
            ..GroupOffsets::default()
        };
        let expected = BTreeMap::from([(partition(0), Offset(7)), (partition(1), Offset(9))]);
        assert_eq!(sent_back(offsets), expected);
    }
}
