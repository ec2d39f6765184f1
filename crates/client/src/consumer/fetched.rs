//! Fetched bytes on their way to becoming records.
//!
//! Batches are decompressed one at a time, when their records are asked for: what waits is what came over the
//! wire. Control records and, for those who read committed, records of aborted transactions are left out, but
//! the position moves past them, so no reader waits at a gap.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use wire::messages::fetch::AbortedTransaction;
use wire::records::{Batch, BatchError, Batches};
use wire::{Offset, ProducerId, TopicPartition};

use crate::error::Error;
use crate::options::Isolation;
use crate::record::ConsumedRecord;

/// The most that one batch may decompress to. Brokers keep batches near `max.message.bytes`, 1 MiB by default.
const BATCH_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// What one fetch brought of one partition.
pub(super) struct Fetched {
    partition: TopicPartition,
    batches: Batches,
    /// Transactions that end in an abort, by the offset they begin at.
    aborted: VecDeque<AbortedTransaction>,
    /// Producers inside an aborted transaction at this point.
    aborting: HashSet<ProducerId>,
    isolation: Isolation,
}

/// The records of a batch, and where reading goes on behind it.
pub(super) struct Unpacked {
    pub(super) records: Vec<ConsumedRecord>,
    pub(super) next: Offset,
}

impl Fetched {
    pub(super) fn new(
        partition: TopicPartition,
        records: Bytes,
        mut aborted: Vec<AbortedTransaction>,
        isolation: Isolation,
    ) -> Self {
        aborted.sort_by_key(|transaction| transaction.first_offset);
        Self {
            partition,
            batches: Batches::new(records),
            aborted: aborted.into(),
            aborting: HashSet::new(),
            isolation,
        }
    }

    pub(super) fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The next batch's records from `position` on; `None` when all are done.
    pub(super) fn next(&mut self, position: Offset) -> Option<Result<Unpacked, Error>> {
        loop {
            let batch = match self.batches.next()? {
                Ok(batch) => batch,
                // A broker may cut the last batch off; it is fetched again.
                Err(BatchError::Truncated { .. }) => return None,
                Err(error) => return Some(Err(self.corrupt(position, &error))),
            };
            // The first batch may begin before the offset that was asked for, even end there.
            if batch.last_offset() < position {
                continue;
            }
            return Some(self.unpack(&batch, position).map_err(|error| self.corrupt(position, &error)));
        }
    }

    fn unpack(&mut self, batch: &Batch, position: Offset) -> Result<Unpacked, BatchError> {
        let next = batch.last_offset().plus(1);
        batch.verify_crc()?;
        if self.isolation == Isolation::ReadCommitted && self.is_aborted(batch)? {
            return Ok(Unpacked { records: Vec::new(), next });
        }
        let attributes = batch.attributes();
        if attributes.is_control() {
            return Ok(Unpacked { records: Vec::new(), next });
        }
        let mut records = Vec::new();
        for record in batch.records(BATCH_BYTES_MAX) {
            let record = record?;
            if record.offset < position {
                continue;
            }
            records.push(ConsumedRecord {
                topic: self.partition.topic.clone(),
                partition: self.partition.partition,
                offset: record.offset,
                leader_epoch: batch.partition_leader_epoch(),
                timestamp: record.timestamp,
                timestamp_type: attributes.timestamp_type(),
                key: record.key,
                value: record.value,
                headers: record.headers,
                compression: attributes.compression(),
                is_transactional: attributes.is_transactional(),
                producer_id: batch.producer_id(),
                producer_epoch: batch.producer_epoch(),
            });
        }
        Ok(Unpacked { records, next })
    }

    fn is_aborted(&mut self, batch: &Batch) -> Result<bool, BatchError> {
        while self.aborted.front().is_some_and(|first| first.first_offset <= batch.last_offset().0) {
            let begun = self.aborted.pop_front().map(|begun| ProducerId(begun.producer_id));
            self.aborting.extend(begun);
        }
        if batch.attributes().is_control() && is_abort_marker(batch)? {
            self.aborting.remove(&batch.producer_id());
        }
        Ok(batch.attributes().is_transactional()
            && !batch.attributes().is_control()
            && self.aborting.contains(&batch.producer_id()))
    }

    fn corrupt(&self, position: Offset, error: &BatchError) -> Error {
        Error::CorruptRecords {
            partition: self.partition.to_string(),
            offset: position.0,
            problem: error.to_string(),
        }
    }
}

/// A control record's key is a version and a type; type 0 is an abort.
fn is_abort_marker(batch: &Batch) -> Result<bool, BatchError> {
    const MARKER_BYTES_MAX: usize = 64 * 1024;
    let Some(marker) = batch.records(MARKER_BYTES_MAX).next().transpose()? else { return Ok(false) };
    Ok(marker.key.is_some_and(|key| key.get(2..4) == Some(&[0, 0])))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use expect_test::{Expect, expect};
    use wire::messages::fetch::AbortedTransaction;
    use wire::records::{BatchBuilder, BatchOptions};
    use wire::{Millis, Offset, PartitionId, ProducerEpoch, ProducerId, TopicPartition};

    use super::Fetched;
    use crate::options::Isolation;

    fn batch(base: i64, producer: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: Offset(base),
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            base_sequence: 0,
            is_transactional: producer >= 0,
            ..Default::default()
        });
        values.iter().for_each(|value| builder.append(Millis(1), None, Some(value.as_bytes()), &[]));
        builder.build()
    }

    fn marker(base: i64, producer: i64, kind: u8) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: Offset(base),
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            is_transactional: true,
            is_control: true,
            ..Default::default()
        });
        builder.append(Millis(1), Some(&[0, 0, 0, kind]), Some(&[0; 6]), &[]);
        builder.build()
    }

    fn check(batches: &[Bytes], from: i64, isolation: Isolation, expected: Expect) {
        let aborted = vec![AbortedTransaction { producer_id: 7, first_offset: 2 }];
        let partition = TopicPartition::new("t", PartitionId(0));
        let mut fetched = Fetched::new(partition, Bytes::from(batches.concat()), aborted, isolation);
        let (mut position, mut shown) = (Offset(from), String::new());
        while let Some(outcome) = fetched.next(position) {
            match outcome {
                Ok(unpacked) => {
                    for record in unpacked.records {
                        let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                        shown += &format!("{}:{value} ", record.offset);
                    }
                    position = unpacked.next;
                }
                Err(error) => shown += &format!("{error} "),
            }
        }
        expected.assert_eq(&format!("{shown}then {position}"));
    }

    fn history() -> Vec<Bytes> {
        vec![
            batch(0, -1, &["a", "b"]),
            batch(2, 7, &["aborted"]),
            batch(3, 8, &["committed"]),
            marker(4, 7, 0),
            batch(5, 7, &["next"]),
            marker(6, 8, 1),
            marker(7, 7, 1),
        ]
    }

    #[test]
    fn aborted_records_are_left_out_for_those_who_read_committed() {
        check(&history(), 0, Isolation::ReadCommitted, expect!["0:a 1:b 3:committed 5:next then 8"]);
        check(
            &history(),
            0,
            Isolation::ReadUncommitted,
            expect!["0:a 1:b 2:aborted 3:committed 5:next then 8"],
        );
    }

    #[test]
    fn reading_begins_in_the_middle_of_a_batch_and_a_cut_off_batch_is_left() {
        let mut batches = vec![batch(0, -1, &["a", "b", "c"]), batch(3, -1, &["d"])];
        batches[1].truncate(65);
        check(&batches, 1, Isolation::ReadCommitted, expect!["1:b 2:c then 3"]);
    }

    #[test]
    fn damage_is_reported_and_not_read() {
        let mut damaged = batch(0, -1, &["abcdef"]).to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        let partition = TopicPartition::new("t", PartitionId(0));
        let mut fetched = Fetched::new(partition, damaged.into(), Vec::new(), Isolation::ReadCommitted);
        let error = fetched.next(Offset(0)).unwrap().map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("the records of t-0 at offset 0 are damaged: checksum is"));
    }
}
