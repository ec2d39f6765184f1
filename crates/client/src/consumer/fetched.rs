//! Fetched bytes on their way to becoming records.
//!
//! Batches are decompressed one at a time, when their records are asked for: what waits is what came over the
//! wire. Control records and, for those who read committed, records of aborted transactions are left out, but
//! the position moves past them, so no reader waits at a gap.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use wire::messages::fetch::AbortedTransaction;
use wire::records::{Batch, BatchError, Batches};
use wire::{LeaderEpoch, Offset, ProducerId, TopicPartition};

use super::positions::Watermarks;
use crate::options::Isolation;
use crate::record::ConsumedRecord;

/// The most that one batch may decompress to. Brokers keep batches near `max.message.bytes`, 1 MiB by default.
const BATCH_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// What one fetch brought of one partition.
#[derive(Debug)]
pub(super) struct Fetched {
    batches: Batches,
    /// Where the next fetch goes on, if this one brought a whole batch.
    end: Option<Offset>,
    /// Of the last whole batch.
    leader_epoch: LeaderEpoch,
    bytes: usize,
    watermarks: Watermarks,
    /// Transactions that end in an abort, by the offset they begin at.
    aborted: VecDeque<AbortedTransaction>,
    /// Producers inside an aborted transaction at this point.
    aborting: HashSet<ProducerId>,
    isolation: Isolation,
}

/// A batch whose records were not looked at yet.
#[derive(Debug)]
pub(super) struct Packed {
    batch: Batch,
    /// Whether its records are not to be seen: control records, and those of aborted transactions.
    is_hidden: bool,
    pub(super) watermarks: Watermarks,
}

impl Fetched {
    pub(super) fn new(
        records: Bytes,
        watermarks: Watermarks,
        mut aborted: Vec<AbortedTransaction>,
        isolation: Isolation,
    ) -> Self {
        aborted.sort_by_key(|transaction| transaction.first_offset);
        let bytes = records.len();
        let batches = Batches::new(records);
        let last = batches.clone().map_while(Result::ok).last();
        Self {
            end: last.as_ref().map(|last| last.last_offset().plus(1)),
            leader_epoch: last.map_or(LeaderEpoch::NONE, |last| last.partition_leader_epoch()),
            batches,
            bytes,
            watermarks,
            aborted: aborted.into(),
            aborting: HashSet::new(),
            isolation,
        }
    }

    /// Behind the last whole batch, and the epoch of the leader that wrote it.
    pub(super) fn end(&self) -> Option<(Offset, LeaderEpoch)> {
        self.end.map(|end| (end, self.leader_epoch))
    }

    /// Why there is no whole batch in what came, if there is none.
    pub(super) fn problem(&self) -> Option<BatchError> {
        self.end.is_none().then(|| self.batches.clone().find_map(Result::err)).flatten()
    }

    /// What came over the wire.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next batch that reaches beyond `position`; `None` when all are done.
    pub(super) fn next(&mut self, position: Offset) -> Option<Result<Packed, BatchError>> {
        loop {
            let batch = match self.batches.next()? {
                Ok(batch) => batch,
                // A broker may cut the last batch off; it is fetched again.
                Err(BatchError::Truncated { .. }) => return None,
                Err(error) => return Some(Err(error)),
            };
            // The first batch may begin before the offset that was asked for, even end there.
            if batch.last_offset() < position {
                continue;
            }
            return Some(self.look_at(batch));
        }
    }

    fn look_at(&mut self, batch: Batch) -> Result<Packed, BatchError> {
        let is_aborted = self.isolation == Isolation::ReadCommitted && self.is_aborted(&batch)?;
        let is_hidden = is_aborted || batch.attributes().is_control();
        Ok(Packed { batch, is_hidden, watermarks: self.watermarks })
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
}

impl Packed {
    /// Of the first record the batch was written with, which may lie before the position.
    pub(super) fn base_offset(&self) -> Offset {
        self.batch.base_offset()
    }

    /// Where reading goes on behind the batch.
    pub(super) fn next(&self) -> Offset {
        self.batch.last_offset().plus(1)
    }

    pub(super) fn leader_epoch(&self) -> LeaderEpoch {
        self.batch.partition_leader_epoch()
    }

    /// Whether its records are not to be seen, whatever they are.
    pub(super) fn is_hidden(&self) -> bool {
        self.is_hidden
    }

    /// The records from `position` on that are to be seen. Takes as long as decompressing them does.
    pub(super) fn unpack(
        &self,
        partition: &TopicPartition,
        position: Offset,
    ) -> Result<Vec<ConsumedRecord>, BatchError> {
        self.batch.verify_crc()?;
        let mut records = Vec::new();
        if self.is_hidden {
            return Ok(records);
        }
        let batch = &self.batch;
        let attributes = batch.attributes();
        for record in batch.records(BATCH_BYTES_MAX) {
            let record = record?;
            if record.offset < position {
                continue;
            }
            records.push(ConsumedRecord {
                topic: partition.topic.clone(),
                partition: partition.partition,
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
        Ok(records)
    }
}

/// A control record's key is a version and a type; type 0 is an abort.
fn is_abort_marker(batch: &Batch) -> Result<bool, BatchError> {
    const MARKER_BYTES_MAX: usize = 64 * 1024;
    batch.verify_crc()?;
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

    use super::{Fetched, Watermarks};
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

    fn fetched(records: impl Into<Bytes>, isolation: Isolation) -> Fetched {
        let aborted = vec![AbortedTransaction { producer_id: 7, first_offset: 2 }];
        let ends = Offset(0);
        let watermarks = Watermarks { log_start: ends, last_stable: ends, high_watermark: ends };
        Fetched::new(records.into(), watermarks, aborted, isolation)
    }

    fn check(batches: &[Bytes], from: i64, isolation: Isolation, expected: Expect) {
        let partition = TopicPartition::new("t", PartitionId(0));
        let mut fetched = fetched(batches.concat(), isolation);
        let (mut position, mut shown) = (Offset(from), String::new());
        while let Some(packed) = fetched.next(position) {
            let packed = packed.unwrap();
            for record in packed.unpack(&partition, position).unwrap() {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                shown += &format!("{}:{value} ", record.offset);
            }
            position = packed.next();
        }
        assert_eq!(fetched.end().unwrap().0, position);
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
        let packed = fetched(damaged, Isolation::ReadCommitted).next(Offset(0)).unwrap().unwrap();
        let error = packed.unpack(&partition, Offset(0)).unwrap_err();
        assert!(error.to_string().starts_with("checksum is"));
    }
}
