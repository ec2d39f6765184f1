//! Transactions in one partition: what begins one here, and what ends it.
//!
//! Invariant: no transaction begins without the coordinator's word, given since the last marker or counted by its epoch; both the
//! check and the append happen under the lock that markers are written under (decision 030).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use state::txn::{Producer, Protocol};
use storage::Origin;
use wire::messages::end_txn_marker::EndTxnMarker;
use wire::records::{BatchBuilder, BatchOptions};
use wire::{Encoder, Message, Millis};

use super::{Led, NotAppended, Partition};

/// Version of the value of an end-of-transaction marker.
const MARKER_VERSION: i16 = 0;

/// What the coordinator's word, that a partition belongs to a transaction, counts by (KIP-890).
pub(crate) enum Verification {
    /// Its epoch: a marker that comes in between has a newer one, and what comes after it is refused.
    Epoch,
    /// No marker in between.
    Numbered(Numbered),
}

/// The number of a question, which stands in its partition for as long as this lives or a batch is appended by it.
pub(crate) struct Numbered {
    partition: Arc<Partition>,
    producer: Producer,
    number: u64,
}

impl Drop for Numbered {
    fn drop(&mut self) {
        let mut verifying = self.partition.verifying.lock();
        if verifying.get(&self.producer) == Some(&self.number) {
            verifying.remove(&self.producer);
        }
    }
}

/// The end of a producer's transaction, as it is written into a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marker {
    pub(crate) producer: Producer,
    pub(crate) commit: bool,
    pub(crate) coordinator_epoch: i32,
    pub(crate) protocol: Protocol,
}

impl Partition {
    /// Whether a batch of the producer's transaction would be its first one here: the coordinator has to be asked first.
    pub(crate) fn begins_transaction(&self, producer: Producer) -> bool {
        self.log.open_transaction(producer.id) != Some(producer.epoch)
    }

    /// The coordinator is about to be asked whether the partition belongs to the producer's transaction.
    pub(crate) fn begin_verification(
        self: &Arc<Self>,
        producer: Producer,
        protocol: Protocol,
    ) -> Verification {
        match protocol {
            Protocol::First => {
                let number = self.verification_next.fetch_add(1, Ordering::Relaxed);
                self.verifying.lock().insert(producer, number);
                Verification::Numbered(Numbered { partition: Arc::clone(self), producer, number })
            }
            // The marker of the last transaction may come while the next one begins.
            Protocol::Second => Verification::Epoch,
        }
    }

    /// Appends a batch of a producer's transaction. The first one begins the transaction here, and needs the coordinator's
    /// word, given since the last marker: without, nobody would ever end it.
    pub(crate) fn append_in_transaction(
        self: &Arc<Self>,
        records: Bytes,
        now: Millis,
        producer: Producer,
        verification: Option<&Verification>,
    ) -> Result<Led, NotAppended> {
        let mut verifying = self.verifying.lock();
        self.check_begin(&mut verifying, producer, verification)?;
        self.append(records, now, Origin::Client)
    }

    /// The same for records of a coordinator's own, which appends them before any marker is written.
    pub(crate) fn check_transaction(
        &self,
        producer: Producer,
        verification: Option<&Verification>,
    ) -> Result<(), NotAppended> {
        self.check_begin(&mut self.verifying.lock(), producer, verification)?;
        match self.log.producer_epoch(producer.id) {
            Some(newest) if newest > producer.epoch => Err(NotAppended::Fenced),
            Some(_) | None => Ok(()),
        }
    }

    fn check_begin(
        &self,
        verifying: &mut HashMap<Producer, u64>,
        producer: Producer,
        verification: Option<&Verification>,
    ) -> Result<(), NotAppended> {
        if !self.begins_transaction(producer) {
            return Ok(());
        }
        let stands = match verification {
            Some(Verification::Epoch) => true,
            Some(Verification::Numbered(asked)) => verifying.remove(&producer) == Some(asked.number),
            None => false,
        };
        if stands { Ok(()) } else { Err(NotAppended::NotInTransaction) }
    }

    /// Ends a producer's transaction here. With epochs of their own, a marker that comes late cannot end the next one.
    pub(crate) fn append_marker(self: &Arc<Self>, marker: Marker, now: Millis) -> Result<Led, NotAppended> {
        let mut verifying = self.verifying.lock();
        verifying.retain(|producer, _| producer.id != marker.producer.id);
        let open = self.log.open_transaction(marker.producer.id);
        if marker.protocol == Protocol::Second && open.is_some_and(|open| open >= marker.producer.epoch) {
            return Err(NotAppended::LateMarker);
        }
        self.append(marker.batch(now), now, Origin::Coordinator)
    }
}

impl Marker {
    /// The control batch: one record whose key is its version and type, and whose value names the coordinator's epoch.
    fn batch(self, now: Millis) -> Bytes {
        let mut batch = BatchBuilder::new(BatchOptions {
            producer_id: self.producer.id,
            producer_epoch: self.producer.epoch,
            is_transactional: true,
            is_control: true,
            ..BatchOptions::default()
        });
        let key = [0, 0, 0, u8::from(self.commit)];
        let mut value = Encoder::new();
        value.int16(MARKER_VERSION);
        EndTxnMarker { coordinator_epoch: self.coordinator_epoch }.encode(&mut value, MARKER_VERSION);
        batch.append(now, Some(&key), Some(&value.into_bytes()), &[]);
        batch.build()
    }
}
