//! What compaction keeps of a batch. A batch that keeps all its records is copied as it is; one that loses some
//! is built again around the ones that stay, byte for byte, under the same offsets; one that loses all of them
//! disappears, unless a producer's sequence or the end of the round is only known from it. What an aborted transaction wrote
//! goes, and the marker of a transaction goes when nothing of it is left and `delete.retention.ms` has passed since.
//! Pure: batches in, bytes out.

use std::collections::{HashMap, HashSet};

use wire::{Millis, Offset, ProducerId, compression::Compression};

use crate::{
    codec,
    header::{HEADER_BYTES, Header, seal},
    log::record_timestamp,
    offset_map::OffsetMap,
    raw::{RawRecord, RawRecords, put_with_timestamp_delta},
    txn_index::AbortedTxn,
    validate::parse_marker,
};

const CODEC_BITS: u16 = 7;
const DELETE_HORIZON_BIT: u16 = 1 << 6;

/// What a round of cleaning knows.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    pub(crate) transactions: Transactions<'a>,
    pub(crate) map: &'a OffsetMap,
    /// Offsets below are in the map; the others stay.
    pub(crate) map_end: Offset,
    /// Nothing at or above is cleaned; the batch that ends here stays, if only as a header.
    pub(crate) round_end: Offset,
    pub(crate) producers: &'a HashMap<ProducerId, Offset>,
    pub(crate) now: Millis,
    pub(crate) delete_retention_ms: i64,
}

/// Records seen and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) read: u64,
    pub(crate) kept: u64,
}

/// The transactions that a walk over a log's batches, in order, has come across.
#[derive(Debug)]
pub(crate) struct Transactions<'a> {
    /// Aborted ones that the walk has not reached, by first offset.
    ahead: &'a [AbortedTxn],
    /// The marker of each producer's last aborted transaction that it has.
    aborted: HashMap<ProducerId, Offset>,
    /// Who has written something since the last marker.
    begun: HashSet<ProducerId>,
}

impl<'a> Transactions<'a> {
    /// Before a walk; `aborted` ascends by first offset.
    pub(crate) fn new(aborted: &'a [AbortedTxn]) -> Transactions<'a> {
        assert!(aborted.is_sorted_by_key(|txn| txn.first_offset));
        Transactions { ahead: aborted, aborted: HashMap::new(), begun: HashSet::new() }
    }

    /// Takes the next batch. Answers whether an aborted transaction wrote it.
    pub(crate) fn meet(&mut self, header: &Header) -> bool {
        while let Some((next, ahead)) = self.ahead.split_first() {
            if next.first_offset > header.last_offset() {
                break;
            }
            self.aborted.insert(next.producer_id, next.last_offset);
            self.ahead = ahead;
        }
        if !header.is_transactional() || header.is_control() {
            return false;
        }
        self.begun.insert(header.producer_id);
        self.aborted.get(&header.producer_id).is_some_and(|marker| header.last_offset() < *marker)
    }
}

impl Filter<'_> {
    /// Appends to `out` what stays of `batch`, the next one of the log.
    pub(crate) fn pass(&mut self, header: &Header, batch: &[u8], out: &mut Vec<u8>) -> Counts {
        let aborted = self.transactions.meet(header);
        if header.record_count == 0 {
            if self.stays_empty(header) {
                out.extend_from_slice(batch);
            }
            return Counts::default();
        }
        let opened = codec::payload(header, &batch[HEADER_BYTES..], codec::STORED_BYTES_MAX);
        let all: Option<(Vec<RawRecord<'_>>, Compression)> = opened.as_ref().ok().and_then(|payload| {
            let records = RawRecords::new(payload).collect::<Result<_, _>>().ok()?;
            Some((records, codec::codec_of(header).ok()?))
        });
        let Some((all, codec)) = all else {
            // Who wrote it and how is not known, so nothing of it is taken.
            out.extend_from_slice(batch);
            return Counts::default();
        };
        if header.is_control() {
            let is_marker = opened.as_ref().is_ok_and(|payload| parse_marker(payload).is_some());
            if !is_marker || self.stays_whole(header) {
                out.extend_from_slice(batch);
            } else if !header.has_delete_horizon() {
                out.extend_from_slice(&rebuilt(header, batch, &all, Some(self.horizon()), codec));
            } else if self.now < header.base_timestamp {
                out.extend_from_slice(batch);
            }
            return Counts::default();
        }
        let mut kept: Vec<RawRecord<'_>> = Vec::new();
        let mut counts = Counts::default();
        for record in all {
            counts.read += 1;
            if !aborted && self.keeps(header, &record) {
                kept.push(record);
            }
        }
        counts.kept = kept.len() as u64;
        let wants_horizon = !header.has_delete_horizon() && kept.iter().any(|record| record.value.is_none());
        if kept.is_empty() {
            if self.stays_empty(header) {
                out.extend_from_slice(&empty(header, batch));
            }
        } else if counts.kept == counts.read && !wants_horizon {
            out.extend_from_slice(batch);
        } else {
            let horizon = wants_horizon.then(|| self.horizon());
            out.extend_from_slice(&rebuilt(header, batch, &kept, horizon, codec));
        }
        counts
    }

    /// Whether a marker is needed: for what is left of its transaction, were it an empty batch, or for its producer.
    fn stays_whole(&mut self, header: &Header) -> bool {
        let had_data = self.transactions.begun.remove(&header.producer_id);
        had_data || header.last_offset() >= self.map_end || self.stays_empty(header)
    }

    /// From when on what is on its way out may go (KIP-534).
    fn horizon(&self) -> Millis {
        Millis(self.now.0.saturating_add(self.delete_retention_ms))
    }

    fn keeps(&self, header: &Header, record: &RawRecord<'_>) -> bool {
        let offset = header.base_offset.plus(i64::from(record.offset_delta));
        if offset >= self.map_end {
            return true;
        }
        let Some(key) = record.key else { return false };
        if self.map.supersedes(key, offset) {
            return false;
        }
        // With a delete horizon the base timestamp is the time from which tombstones may go (KIP-534).
        record.value.is_some() || !header.has_delete_horizon() || self.now < header.base_timestamp
    }

    fn stays_empty(&self, header: &Header) -> bool {
        let last_of_producer =
            header.has_producer() && self.producers.get(&header.producer_id) == Some(&header.last_offset());
        last_of_producer || header.next_offset() == self.round_end
    }
}

/// The header of a batch that has lost its records.
fn empty(header: &Header, batch: &[u8]) -> Vec<u8> {
    let mut front = front_of(batch);
    put_size(&mut front, HEADER_BYTES);
    put_attributes(&mut front, header.attributes & !CODEC_BITS & !DELETE_HORIZON_BIT);
    front[27..35].copy_from_slice(&header.max_timestamp.0.to_be_bytes());
    front[57..61].copy_from_slice(&0i32.to_be_bytes());
    seal(&mut front, &[]);
    front.to_vec()
}

/// A batch of the records that stay. Base offset, last offset delta and sequences remain, so that offsets and
/// producers are none the wiser.
fn rebuilt(
    header: &Header,
    batch: &[u8],
    kept: &[RawRecord<'_>],
    horizon: Option<Millis>,
    codec: Compression,
) -> Vec<u8> {
    let mut payload = Vec::with_capacity(kept.iter().map(|record| record.whole.len() + 10).sum());
    let mut max_timestamp = Millis(i64::MIN);
    for record in kept {
        let timestamp = Millis(header.base_timestamp.0.saturating_add(record.timestamp_delta));
        max_timestamp = max_timestamp.max(record_timestamp(header, record.timestamp_delta));
        match horizon {
            None => payload.extend_from_slice(record.whole),
            Some(horizon) => {
                put_with_timestamp_delta(&mut payload, record, timestamp.0.saturating_sub(horizon.0));
            }
        }
    }
    let body = match codec {
        Compression::None => payload,
        codec => codec.compress(&payload, None),
    };
    let mut front = front_of(batch);
    put_size(&mut front, HEADER_BYTES + body.len());
    if let Some(horizon) = horizon {
        put_attributes(&mut front, header.attributes | DELETE_HORIZON_BIT);
        front[27..35].copy_from_slice(&horizon.0.to_be_bytes());
    }
    front[35..43].copy_from_slice(&max_timestamp.0.to_be_bytes());
    front[57..61].copy_from_slice(&(kept.len() as i32).to_be_bytes());
    seal(&mut front, &body);
    let mut out = front.to_vec();
    out.extend_from_slice(&body);
    out
}

fn front_of(batch: &[u8]) -> [u8; HEADER_BYTES] {
    let mut front = [0; HEADER_BYTES];
    front.copy_from_slice(&batch[..HEADER_BYTES]);
    front
}

fn put_size(front: &mut [u8; HEADER_BYTES], size: usize) {
    front[8..12].copy_from_slice(&(size as i32 - 12).to_be_bytes());
}

fn put_attributes(front: &mut [u8; HEADER_BYTES], attributes: u16) {
    front[21..23].copy_from_slice(&attributes.to_be_bytes());
}
