//! What a log remembers of its producers: epoch, the last five batches, how far back the sequences before them
//! go, an open transaction. It is a function of the batches in the log and of nothing else, so that a restart, a
//! follower and the leader agree; recovery replays batches through `apply`, the same as appending does. `check`
//! decides and changes nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use wire::{Millis, Offset, ProducerEpoch, ProducerId};

use crate::{
    error::AppendError,
    header::{Header, sequence_plus},
    txn_index::AbortedTxn,
};

/// Batches remembered per producer: as many as an idempotent client keeps in flight.
pub(crate) const BATCHES_MAX: usize = 5;
/// Sequences wrap around at 2^31; up to half of that, one that lies behind is told from one that lies ahead.
const FORGOTTEN_MAX: i32 = 1 << 30;

/// A producer as DescribeProducers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: ProducerId,
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// The last sequence that it wrote, -1 when none is known.
    pub last_sequence: i32,
    /// The largest timestamp of its last batch.
    pub last_timestamp: Millis,
    /// The epoch of the transaction coordinator that last wrote a marker for it, -1 for none.
    pub coordinator_epoch: i32,
    /// Where its open transaction starts.
    pub txn_start: Option<Offset>,
}

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchMark {
    pub(crate) last_sequence: i32,
    pub(crate) last_offset: Offset,
    pub(crate) offset_delta: i32,
    pub(crate) timestamp: Millis,
}

impl BatchMark {
    pub(crate) fn base_offset(&self) -> Offset {
        self.last_offset.plus(-i64::from(self.offset_delta))
    }

    fn base_sequence(&self) -> i32 {
        sequence_plus(self.last_sequence, -self.offset_delta)
    }
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) epoch: ProducerEpoch,
    /// Oldest first.
    pub(crate) batches: VecDeque<BatchMark>,
    /// How many sequences that end right before the oldest of `batches` this epoch has written too, in batches
    /// that are remembered no more.
    pub(crate) forgotten: i32,
    pub(crate) last_timestamp: Millis,
    pub(crate) coordinator_epoch: i32,
    pub(crate) txn_start: Option<Offset>,
    /// Its last batch without sequences - a marker, mostly - where no batch with one tells of its epoch.
    pub(crate) unsequenced: Option<Offset>,
    /// When it was last heard of: by this process's clock, or by its timestamps after a restart.
    pub(crate) heard: Millis,
}

/// What a log knows of a batch that it has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// All of it.
    Remembered(BatchMark),
    /// That it lies before this offset.
    Before(Offset),
}

/// What an end-of-transaction marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) commit: bool,
    pub(crate) coordinator_epoch: i32,
}

/// The producers of one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producers {
    by_id: HashMap<ProducerId, Producer>,
    /// Open transactions by first offset.
    open: BTreeMap<Offset, ProducerId>,
    /// Ended transactions, first offset to marker, whose marker may still be above the high watermark.
    ended: BTreeMap<Offset, Offset>,
}

impl Producer {
    fn new() -> Producer {
        Producer {
            epoch: ProducerEpoch::NONE,
            batches: VecDeque::new(),
            forgotten: 0,
            last_timestamp: Millis(-1),
            coordinator_epoch: -1,
            txn_start: None,
            unsequenced: None,
            heard: Millis(-1),
        }
    }

    fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(-1, |batch| batch.last_sequence)
    }

    fn set_epoch(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
            self.forgotten = 0;
        }
    }

    /// The last offset of the batch that says most of it: the last with sequences, or the last there is.
    fn last_offset(&self) -> Option<Offset> {
        self.batches.back().map(|batch| batch.last_offset).or(self.unsequenced)
    }

    /// Takes its next batch, and keeps of the oldest one no more than that it was there.
    pub(crate) fn remember(&mut self, batch: BatchMark) {
        self.batches.push_back(batch);
        if self.batches.len() <= BATCHES_MAX {
            return;
        }
        let Some(oldest) = self.batches.pop_front() else { return };
        let is_followed = self.oldest_sequence() == Some(sequence_plus(oldest.last_sequence, 1));
        self.forgotten = if is_followed {
            self.forgotten.saturating_add(oldest.offset_delta).saturating_add(1).min(FORGOTTEN_MAX)
        } else {
            // It had expired where it was led, and began anew.
            0
        };
    }

    fn oldest_sequence(&self) -> Option<i32> {
        self.batches.front().map(BatchMark::base_sequence)
    }

    /// What was forgotten, as one batch that stands for all of it.
    pub(crate) fn forgotten(&self) -> Option<BatchMark> {
        let oldest = self.batches.front().filter(|_| self.forgotten > 0)?;
        Some(BatchMark {
            last_sequence: sequence_plus(oldest.base_sequence(), -1),
            last_offset: oldest.base_offset().plus(-1),
            offset_delta: self.forgotten - 1,
            timestamp: oldest.timestamp,
        })
    }

    /// What is known of a batch of this epoch that was written before.
    fn known(&self, header: &Header) -> Option<Known> {
        let (first, last) = (header.base_sequence, header.last_sequence());
        let same = |batch: &&BatchMark| batch.base_sequence() == first && batch.last_sequence == last;
        if let Some(batch) = self.batches.iter().find(same) {
            return Some(Known::Remembered(*batch));
        }
        let oldest = self.batches.front()?;
        // Counted backwards from the oldest: how far the batch lies behind, and how long it is.
        let behind = sequence_plus(oldest.base_sequence(), -1).wrapping_sub(last) & i32::MAX;
        let is_forgotten =
            i64::from(behind) + i64::from(header.last_offset_delta) < i64::from(self.forgotten);
        is_forgotten.then(|| Known::Before(oldest.base_offset()))
    }
}

impl Producers {
    /// What is known of the batch that `header` repeats, if it is a repetition.
    ///
    /// More than five batches of one producer can be in flight when a partition moves: those that the old leader
    /// has not answered, and those that the new one has. The former come again after the latter, and those that
    /// the new leader had from the old one are not out of order.
    pub(crate) fn known(&self, header: &Header) -> Option<Known> {
        let producer = self.by_id.get(&header.producer_id)?;
        (producer.epoch == header.producer_epoch && header.base_sequence >= 0)
            .then(|| producer.known(header))
            .flatten()
    }

    /// Whether a client's batch may follow: epoch not fenced, sequence contiguous. A producer that is not
    /// known may start anywhere, as Kafka has it: its state may have gone with its records.
    pub(crate) fn check(&self, header: &Header) -> Result<(), AppendError> {
        self.check_epoch(header)?;
        let Some(producer) = self.by_id.get(&header.producer_id) else { return Ok(()) };
        if producer.txn_start.is_some() && !header.is_transactional() {
            return Err(AppendError::InvalidTxnState(header.producer_id));
        }
        let expected = if header.producer_epoch > producer.epoch {
            if producer.epoch == ProducerEpoch::NONE { header.base_sequence } else { 0 }
        } else if producer.batches.is_empty() {
            // Known by a marker alone: its next batch starts over.
            0
        } else {
            sequence_plus(producer.last_sequence(), 1)
        };
        if header.base_sequence != expected {
            return Err(AppendError::OutOfOrderSequence {
                producer_id: header.producer_id,
                expected,
                found: header.base_sequence,
            });
        }
        Ok(())
    }

    /// Whether a batch of the broker's own may follow: only its epoch counts.
    pub(crate) fn check_epoch(&self, header: &Header) -> Result<(), AppendError> {
        match self.by_id.get(&header.producer_id) {
            Some(producer) if header.producer_epoch < producer.epoch => {
                Err(AppendError::InvalidProducerEpoch {
                    producer_id: header.producer_id,
                    current: producer.epoch,
                    found: header.producer_epoch,
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A producer's newest epoch.
    pub(crate) fn epoch_of(&self, id: ProducerId) -> Option<ProducerEpoch> {
        self.by_id.get(&id).map(|producer| producer.epoch)
    }

    /// The epoch in which a producer has a transaction open.
    pub(crate) fn open_transaction(&self, id: ProducerId) -> Option<ProducerEpoch> {
        let producer = self.by_id.get(&id)?;
        producer.txn_start.is_some().then_some(producer.epoch)
    }

    /// Whether a marker may be written.
    pub(crate) fn check_marker(&self, header: &Header, marker: Marker) -> Result<(), AppendError> {
        self.check_epoch(header)?;
        let Some(producer) = self.by_id.get(&header.producer_id) else { return Ok(()) };
        if marker.coordinator_epoch < producer.coordinator_epoch {
            return Err(AppendError::CoordinatorFenced(header.producer_id));
        }
        Ok(())
    }

    /// Takes a batch that is in the log, under the offsets that it has there. Answers the transaction that
    /// it aborted.
    pub(crate) fn apply(
        &mut self,
        header: &Header,
        marker: Option<Marker>,
        now: Millis,
    ) -> Option<AbortedTxn> {
        if !header.has_producer() {
            return None;
        }
        if header.is_control() {
            return self.apply_marker(header, marker?, now);
        }
        let producer = self.by_id.entry(header.producer_id).or_insert_with(Producer::new);
        producer.set_epoch(header.producer_epoch);
        producer.last_timestamp = header.max_timestamp;
        producer.heard = now.max(header.max_timestamp);
        if header.base_sequence >= 0 {
            producer.remember(BatchMark {
                last_sequence: header.last_sequence(),
                last_offset: header.last_offset(),
                offset_delta: header.last_offset_delta,
                timestamp: header.max_timestamp,
            });
        } else {
            producer.unsequenced = Some(header.last_offset());
        }
        if header.is_transactional() && producer.txn_start.is_none() {
            producer.txn_start = Some(header.base_offset);
            self.open.insert(header.base_offset, header.producer_id);
        }
        None
    }

    fn apply_marker(&mut self, header: &Header, marker: Marker, now: Millis) -> Option<AbortedTxn> {
        let producer = self.by_id.entry(header.producer_id).or_insert_with(Producer::new);
        producer.set_epoch(header.producer_epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.unsequenced = Some(header.last_offset());
        producer.last_timestamp = header.max_timestamp;
        producer.heard = now.max(header.max_timestamp);
        let first_offset = producer.txn_start.take()?;
        self.open.remove(&first_offset);
        self.ended.insert(first_offset, header.base_offset);
        let last_stable_offset = self.open.keys().next().copied().unwrap_or(header.next_offset());
        (!marker.commit).then_some(AbortedTxn {
            producer_id: header.producer_id,
            first_offset,
            last_offset: header.base_offset,
            last_stable_offset,
        })
    }

    /// The first offset whose fate readers of committed data must wait for, given the high watermark.
    pub(crate) fn last_stable_offset(&mut self, high_watermark: Offset) -> Offset {
        self.ended.retain(|_, marker| *marker >= high_watermark);
        let undecided = self.open.keys().next().copied().into_iter();
        undecided.chain(self.ended.keys().next().copied()).fold(high_watermark, Offset::min)
    }

    /// Whether there is a transaction whose fate readers of committed data may have to wait for.
    pub(crate) fn has_undecided(&self) -> bool {
        !self.open.is_empty() || !self.ended.is_empty()
    }

    /// Forgets producers that have been silent for `expiration_ms`, and the longest silent ones beyond
    /// `producers_max`. An open transaction keeps its producer.
    pub(crate) fn expire(&mut self, now: Millis, expiration_ms: i64, producers_max: usize) {
        self.by_id.retain(|_, producer| {
            producer.txn_start.is_some() || now.0.saturating_sub(producer.heard.0) < expiration_ms
        });
        let excess = self.by_id.len().saturating_sub(producers_max);
        if excess == 0 {
            return;
        }
        let mut silent: Vec<(Millis, ProducerId)> = self
            .by_id
            .iter()
            .filter(|(_, producer)| producer.txn_start.is_none())
            .map(|(id, producer)| (producer.heard, *id))
            .collect();
        silent.sort_unstable();
        for (_, id) in silent.into_iter().take(excess) {
            self.by_id.remove(&id);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn active(&self) -> Vec<ActiveProducer> {
        let view = |(id, producer): (&ProducerId, &Producer)| ActiveProducer {
            producer_id: *id,
            epoch: producer.epoch,
            last_sequence: producer.last_sequence(),
            last_timestamp: producer.last_timestamp,
            coordinator_epoch: producer.coordinator_epoch,
            txn_start: producer.txn_start,
        };
        self.by_id.iter().map(view).collect()
    }

    /// Where the batch ends that each producer is known by: what compaction keeps, empty if need be.
    pub(crate) fn last_offsets(&self) -> HashMap<ProducerId, Offset> {
        self.by_id.iter().filter_map(|(id, producer)| Some((*id, producer.last_offset()?))).collect()
    }

    /// By id, for snapshots.
    pub(crate) fn sorted(&self) -> Vec<(ProducerId, &Producer)> {
        let mut producers: Vec<_> = self.by_id.iter().map(|(id, producer)| (*id, producer)).collect();
        producers.sort_unstable_by_key(|(id, _)| *id);
        producers
    }

    /// Takes one entry of a snapshot; entries of one producer come oldest first.
    pub(crate) fn load(&mut self, id: ProducerId, loaded: Producer) {
        if let Some(start) = loaded.txn_start {
            self.open.insert(start, id);
        }
        match self.by_id.get_mut(&id) {
            Some(known) if known.epoch == loaded.epoch => {
                loaded.batches.iter().for_each(|batch| known.remember(*batch));
                let batches = std::mem::take(&mut known.batches);
                *known = Producer { batches, forgotten: known.forgotten, ..loaded };
            }
            _ => {
                self.by_id.insert(id, loaded);
            }
        }
    }
}
