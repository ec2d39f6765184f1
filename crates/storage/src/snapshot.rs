//! Kafka's producer snapshot, version 1: the producers of a log as they were at the offset in the file's name.
//! Where Kafka writes one entry per producer, up to six are written here, oldest first: one that stands for all
//! batches of its epoch that are remembered no more, and those that are, so that a restart still recognises every batch in
//! flight. Kafka's loader keeps the last one and is none the wiser. A file
//! whose checksum or shape is wrong is no snapshot, and an older one is used.

use std::collections::VecDeque;

use wire::{Millis, Offset, ProducerEpoch, ProducerId};

use crate::producers::{BatchMark, Producer, Producers};

const VERSION: i16 = 1;
const PREFIX_BYTES: usize = 10;
const ENTRY_BYTES: usize = 46;
/// Where the checksummed part starts.
const CRC_START: usize = 6;

/// The file's content.
pub(crate) fn encode(producers: &Producers) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + ENTRY_BYTES * producers.len());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    let mut count = 0u32;
    let mut put = |id: ProducerId, producer: &Producer, batch: Option<&BatchMark>, timestamp: Millis| {
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&producer.epoch.0.to_be_bytes());
        out.extend_from_slice(&batch.map_or(-1, |batch| batch.last_sequence).to_be_bytes());
        out.extend_from_slice(&batch.map_or(-1, |batch| batch.last_offset.0).to_be_bytes());
        out.extend_from_slice(&batch.map_or(0, |batch| batch.offset_delta).to_be_bytes());
        out.extend_from_slice(&timestamp.0.to_be_bytes());
        out.extend_from_slice(&producer.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&producer.txn_start.map_or(-1, |start| start.0).to_be_bytes());
        count += 1;
    };
    for (id, producer) in producers.sorted() {
        let older = producer.batches.len().saturating_sub(1);
        for batch in producer.forgotten().iter().chain(producer.batches.iter().take(older)) {
            put(id, producer, Some(batch), batch.timestamp);
        }
        let unsequenced = producer.unsequenced.map(|last_offset| BatchMark {
            last_sequence: -1,
            last_offset,
            offset_delta: 0,
            timestamp: producer.last_timestamp,
        });
        put(id, producer, producer.batches.back().or(unsequenced.as_ref()), producer.last_timestamp);
    }
    out[CRC_START..PREFIX_BYTES].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&out[CRC_START..]);
    out[2..CRC_START].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a file's content; `None` when it is not a whole snapshot. Producers count as heard of at `now`: their
/// own timestamps may be of any age.
pub(crate) fn decode(content: &[u8], now: Millis) -> Option<Producers> {
    let (version, rest) = content.split_first_chunk::<2>()?;
    let (crc, checked) = rest.split_first_chunk::<4>()?;
    if i16::from_be_bytes(*version) != VERSION || u32::from_be_bytes(*crc) != crc32c::crc32c(checked) {
        return None;
    }
    let (count, entries) = checked.split_first_chunk::<4>()?;
    if u64::from(u32::from_be_bytes(*count)) * ENTRY_BYTES as u64 != entries.len() as u64 {
        return None;
    }
    let mut producers = Producers::default();
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let long = |at: usize| entry[at..].first_chunk().map_or(0, |field| i64::from_be_bytes(*field));
        let int = |at: usize| entry[at..].first_chunk().map_or(0, |field| i32::from_be_bytes(*field));
        let last_offset = Offset(long(14));
        let timestamp = Millis(long(26));
        let batch = BatchMark { last_sequence: int(10), last_offset, offset_delta: int(22), timestamp };
        if batch.offset_delta < 0 {
            return None;
        }
        let has_offset = last_offset.0 >= 0;
        let has_sequence = has_offset && batch.last_sequence >= 0;
        let batches = if has_sequence { VecDeque::from([batch]) } else { VecDeque::new() };
        let loaded = Producer {
            epoch: ProducerEpoch(i16::from_be_bytes([entry[8], entry[9]])),
            batches,
            forgotten: 0,
            last_timestamp: timestamp,
            coordinator_epoch: int(34),
            txn_start: Some(Offset(long(38))).filter(|start| start.0 >= 0),
            unsequenced: (has_offset && !has_sequence).then_some(last_offset),
            heard: now.max(timestamp),
        };
        producers.load(ProducerId(long(0)), loaded);
    }
    Some(producers)
}
