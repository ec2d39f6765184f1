//! What compaction keeps of a batch. A batch that keeps all its records is copied as it is; one that loses some
//! is built again around the ones that stay, byte for byte, under the same offsets; one that loses all of them
//! disappears, unless a producer's sequence or the end of the round is only known from it. Pure: batches in,
//! bytes out.

use std::collections::HashMap;

use wire::{Millis, Offset, ProducerId, compression::Compression};

use crate::{
    codec,
    header::{HEADER_BYTES, Header, seal},
    log::record_timestamp,
    offset_map::OffsetMap,
    raw::{RawRecord, RawRecords, put_with_timestamp_delta},
    txn_index::AbortedTxn,
};

const CODEC_BITS: u16 = 7;
const DELETE_HORIZON_BIT: u16 = 1 << 6;

/// What a round of cleaning knows.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    pub(crate) map: &'a OffsetMap,
    /// Offsets below are in the map; the others stay.
    pub(crate) map_end: Offset,
    /// Nothing at or above is cleaned; the batch that ends here stays, if only as a header.
    pub(crate) round_end: Offset,
    pub(crate) producers: &'a HashMap<ProducerId, Offset>,
    pub(crate) aborted: &'a [AbortedTxn],
    pub(crate) now: Millis,
    pub(crate) delete_retention_ms: i64,
}

/// Records seen and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) read: u64,
    pub(crate) kept: u64,
}

/// Whether a batch belongs to an aborted transaction.
pub(crate) fn is_aborted(header: &Header, aborted: &[AbortedTxn]) -> bool {
    header.is_transactional()
        && !header.is_control()
        && aborted.iter().any(|txn| {
            txn.producer_id == header.producer_id
                && txn.first_offset <= header.base_offset
                && header.last_offset() < txn.last_offset
        })
}

impl Filter<'_> {
    /// Appends to `out` what stays of `batch`.
    pub(crate) fn pass(&self, header: &Header, batch: &[u8], out: &mut Vec<u8>) -> Counts {
        // Markers stay as long as the log does: what they end may still be in front of a reader.
        if header.is_control() || header.record_count == 0 && self.stays_empty(header) {
            out.extend_from_slice(batch);
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
        let aborted = is_aborted(header, self.aborted);
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
            let horizon = wants_horizon.then(|| Millis(self.now.0.saturating_add(self.delete_retention_ms)));
            out.extend_from_slice(&rebuilt(header, batch, &kept, horizon, codec));
        }
        counts
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
