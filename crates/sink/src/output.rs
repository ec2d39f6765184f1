//! The output of the near-real-time line: that it can take what is read, and that nothing of a new partition is in it already.

use client::{Admin, Cluster, Error, ExpiredOffset, Isolation, OffsetSpec};
use wire::{ErrorCode, Offset, Str, TopicPartition, Uuid};

use crate::key::Key;
use crate::log_reader::LogReader;
use crate::origin;
use crate::run::RunError;
use crate::settings::IfRemoved;

/// The topic that is written to.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) topic: Str,
    pub(crate) id: Uuid,
    partitions: usize,
}

impl Output {
    /// Looks it up.
    pub(crate) async fn describe(cluster: &Cluster, topic: &Str) -> Result<Self, RunError> {
        let described = Admin::new(cluster.clone()).describe_topics(std::slice::from_ref(topic)).await?;
        let described = described.into_iter().next().map(|(_, described)| described);
        match described {
            Some(Ok(described)) if described.id == Uuid::ZERO => {
                Err(RunError::NoTopicId { topic: topic.clone() })
            }
            Some(Ok(described)) => {
                Ok(Self { topic: topic.clone(), id: described.id, partitions: described.partitions.len() })
            }
            Some(Err(error)) if error.code() != Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                Err(error.into())
            }
            Some(Err(_)) | None => {
                let problem = format!(
                    "is not there: `ottla topic create {topic} -p N` with at least as many partitions as the input makes it"
                );
                Err(RunError::Output { topic: topic.clone(), problem })
            }
        }
    }

    /// Whether there is a partition for each of the input.
    pub(crate) fn check_partitions<'a>(
        &self,
        inputs: impl Iterator<Item = &'a TopicPartition>,
    ) -> Result<(), RunError> {
        let missing = |input: &&TopicPartition| {
            usize::try_from(input.partition.0).is_ok_and(|number| number >= self.partitions)
        };
        let Some(input) = inputs.max_by_key(|input| input.partition).filter(missing) else { return Ok(()) };
        let problem = format!(
            "has {} partitions, and a record goes to the partition with the number of its own: {input} needs {} of them",
            self.partitions,
            input.partition.0 + 1
        );
        Err(RunError::Output { topic: self.topic.clone(), problem })
    }

    /// The partition that records of this one go to.
    pub(crate) fn partition_for(&self, input: &TopicPartition) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), input.partition)
    }

    /// Where a partition begins.
    pub(crate) async fn start(cluster: &Cluster, partition: &TopicPartition) -> Result<Offset, RunError> {
        end(cluster, partition, OffsetSpec::Earliest).await
    }

    /// Up to where a partition is written, be it committed or not: those who read what is committed get there once every transaction
    /// that is open by now has ended.
    pub(crate) async fn written_end(
        cluster: &Cluster,
        partition: &TopicPartition,
    ) -> Result<Offset, RunError> {
        end(cluster, partition, OffsetSpec::Latest).await
    }
}

async fn end(cluster: &Cluster, partition: &TopicPartition, spec: OffsetSpec) -> Result<Offset, RunError> {
    let asked = [(partition.clone(), spec)];
    let listed = Admin::new(cluster.clone()).list_offsets(&asked, Isolation::ReadUncommitted).await?;
    let listed = listed.into_iter().next().map(|(_, listed)| listed).transpose()?;
    let none = || Error::Protocol {
        doing: format!("asking for the ends of {partition}"),
        problem: "it has none".to_owned(),
    };
    Ok(listed.and_then(|listed| listed.offset).ok_or_else(none)?)
}

/// A cluster in whose logs only what is committed is seen.
pub(crate) fn committed_only(cluster: &Cluster) -> Result<Cluster, RunError> {
    let mut options = cluster.options().clone();
    options.isolation_level = Isolation::ReadCommitted;
    options.group_id = None;
    Ok(cluster.with_options(options)?)
}

/// Whether a line may begin in a partition that it has no position in. Offsets of a group are forgotten with its topic, by their age
/// and by hand: what is in the output tells that the line was there.
pub(crate) async fn check_new(
    cluster: &Cluster,
    output: &Output,
    if_removed: IfRemoved,
    key: &Key,
    expired: Option<&ExpiredOffset>,
) -> Result<(), RunError> {
    let lost = |problem| Err(RunError::Committed { key: Box::new(key.clone()), problem });
    if let Some(expired) = expired {
        return lost(format!("has expired; it was {}", expired.offset));
    }
    let partition = output.partition_for(&key.partition);
    let start = Output::start(cluster, &partition).await?;
    // A transaction of somebody else's that is open holds back what the line has committed behind its beginning: it is waited for.
    let end = Output::written_end(cluster, &partition).await?;
    let mut reader = LogReader::new(&committed_only(cluster)?, &partition, start)?;
    let mut found = None;
    while found.is_none()
        && let Some(records) = reader.next(end).await?
    {
        found = records
            .iter()
            .filter_map(|record| origin::of(&record.headers, &key.line))
            .find(|(input, ..)| *input == key.partition)
            .map(|(_, offset, _)| offset);
        records.done();
    }
    reader.close().await;
    match found {
        None if start > Offset::ZERO && if_removed == IfRemoved::Stop => lost(format!(
            "is gone or never was, and {partition} begins at {start} by now: what the line wrote may have been removed from it, and \
             would come again; if it never wrote there, or that is wanted, if_removed = \"begin\" in [nearline] lets it begin"
        )),
        None => Ok(()),
        Some(offset) => lost(format!(
            "is gone, and {partition} holds what was at offset {offset}: the topic was deleted and created again, or the group was \
             deleted or has expired; to begin anew, give the sink another name"
        )),
    }
}
