//! Makes batches, record by record.
//!
//! Invariant: what it builds, [`Batch::parse`](super::Batch::parse) and `verify_crc` accept. It never reorders
//! records or headers and never drops one.

use bytes::Bytes;

use super::header::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, CONTROL, CRC_AT, DELETE_HORIZON, FORMAT, FORMAT_AT,
    HEADER_BYTES, LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_PREFIX_BYTES, LOG_APPEND_TIME,
    MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, RECORD_COUNT_AT, TRANSACTIONAL,
};
use super::record::{Header, RawRecord};
use super::{TimestampType, varint};
use crate::compression::Compression;
use crate::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId};

/// What a batch says about all of its records. The default is a producer's: offsets from zero, no epoch, no
/// producer id, create time, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchOptions {
    /// The offset that record offsets are relative to.
    pub base_offset: Offset,
    /// The leader that appends; a producer does not know it.
    pub leader_epoch: LeaderEpoch,
    /// How the records are packed.
    pub compression: Compression,
    /// How hard; the codec's default if none.
    pub compression_level: Option<i32>,
    /// Who set the timestamps.
    pub timestamp_type: TimestampType,
    /// The idempotent producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of the record at the base offset, or -1.
    pub base_sequence: i32,
    /// Whether the records belong to a transaction.
    pub is_transactional: bool,
    /// Whether the records are markers.
    pub is_control: bool,
    /// From when on the batch's tombstones may go; takes the place of the base timestamp.
    pub delete_horizon: Option<Millis>,
    /// The last offset, where it is past that of the last record: compaction keeps a batch's span.
    pub last_offset: Option<Offset>,
    /// The max timestamp, where it is not that of the records: with log append time, or in a batch left empty.
    pub max_timestamp: Option<Millis>,
}

impl Default for BatchOptions {
    fn default() -> BatchOptions {
        BatchOptions {
            base_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            compression: Compression::None,
            compression_level: None,
            timestamp_type: TimestampType::CreateTime,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            is_transactional: false,
            is_control: false,
            delete_horizon: None,
            last_offset: None,
            max_timestamp: None,
        }
    }
}

/// A batch in the making.
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records, uncompressed.
    buffer: Vec<u8>,
    count: i32,
    base_timestamp: Millis,
    max_timestamp: Option<Millis>,
    last_delta: i32,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(options: BatchOptions) -> BatchBuilder {
        BatchBuilder {
            base_timestamp: options.delete_horizon.unwrap_or(Millis(0)),
            options,
            buffer: vec![0; HEADER_BYTES],
            count: 0,
            max_timestamp: None,
            last_delta: -1,
        }
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no records yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, were it not compressed.
    pub fn size(&self) -> usize {
        self.buffer.len()
    }

    /// The offset that the next record gets from [`BatchBuilder::append`].
    pub fn next_offset(&self) -> Offset {
        self.options.base_offset.plus(i64::from(self.last_delta) + 1)
    }

    /// Adds a record at the next offset.
    pub fn append(
        &mut self,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        self.append_at(self.next_offset(), timestamp, key, value, headers);
    }

    /// Adds a record at an offset past all so far, leaving a gap if need be.
    pub fn append_at(
        &mut self,
        offset: Offset,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        let size =
            |header: &Header| bytes_len(Some(header.key.as_bytes())) + bytes_len(header.value.as_deref());
        let count = headers.len() as i64;
        let bytes = varint::len(count) + headers.iter().map(size).sum::<usize>();
        self.put(offset, timestamp, 0, key, value, bytes, |buffer| {
            varint::put_i64(buffer, count);
            for header in headers {
                put_bytes(buffer, Some(header.key.as_bytes()));
                put_bytes(buffer, header.value.as_deref());
            }
        });
    }

    /// Adds a record as another batch has it, at an offset past all so far.
    pub fn append_raw(&mut self, offset: Offset, timestamp: Millis, record: &RawRecord) {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let headers = &record.headers;
        self.put(offset, timestamp, record.attributes, key, value, headers.len(), |buffer| {
            buffer.extend_from_slice(headers);
        });
    }

    /// Numbers the batch, as an idempotent producer does when it sends it.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) {
        self.options.producer_id = id;
        self.options.producer_epoch = epoch;
        self.options.base_sequence = base_sequence;
    }

    #[expect(clippy::too_many_arguments, reason = "they are the parts of a record, in their order")]
    fn put(
        &mut self,
        offset: Offset,
        timestamp: Millis,
        attributes: i8,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers_bytes: usize,
        put_headers: impl FnOnce(&mut Vec<u8>),
    ) {
        let delta = i32::try_from(offset.since(self.options.base_offset)).expect("an offset near the base");
        assert!(delta > self.last_delta, "offsets of a batch increase");
        if self.count == 0 && self.options.delete_horizon.is_none() {
            self.base_timestamp = timestamp;
        }
        // Wrapping is undone by the reader's equal and opposite wrap, and timestamps so far apart are not times.
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_timestamp.0);
        let body = 1
            + varint::len(timestamp_delta)
            + varint::len(i64::from(delta))
            + bytes_len(key)
            + bytes_len(value)
            + headers_bytes;
        self.make_room(varint::len(body as i64) + body);
        varint::put_i64(&mut self.buffer, body as i64);
        let start = self.buffer.len();
        self.buffer.push(attributes as u8);
        varint::put_i64(&mut self.buffer, timestamp_delta);
        varint::put_i64(&mut self.buffer, i64::from(delta));
        put_bytes(&mut self.buffer, key);
        put_bytes(&mut self.buffer, value);
        put_headers(&mut self.buffer);
        assert_eq!(self.buffer.len() - start, body);
        self.max_timestamp = self.max_timestamp.max(Some(timestamp));
        self.last_delta = delta;
        self.count += 1;
    }

    /// Doubles while it is small, and grows by half then: of thousands of open batches doubling would leave a third empty.
    fn make_room(&mut self, bytes: usize) {
        const SMALL: usize = 4096;
        let capacity = self.buffer.capacity();
        if capacity - self.buffer.len() < bytes {
            let more = if capacity < SMALL { capacity } else { capacity / 2 };
            self.buffer.reserve_exact(bytes.max(more));
        }
    }

    /// The batch. One without records is possible only if its options name the last offset.
    pub fn build(self) -> Bytes {
        let BatchBuilder { options, mut buffer, count, base_timestamp, max_timestamp, last_delta } = self;
        let last_offset_delta = match options.last_offset {
            Some(last) => {
                i32::try_from(last.since(options.base_offset)).expect("a last offset near the base")
            }
            None => last_delta,
        };
        assert!(last_offset_delta >= last_delta.max(0), "a batch spans at least its records");
        if options.compression != Compression::None {
            let packed = options.compression.compress(&buffer[HEADER_BYTES..], options.compression_level);
            buffer.truncate(HEADER_BYTES);
            buffer.extend_from_slice(&packed);
        }
        let mut attributes = options.compression.code();
        let flags = [
            (options.timestamp_type == TimestampType::LogAppendTime, LOG_APPEND_TIME),
            (options.is_transactional, TRANSACTIONAL),
            (options.is_control, CONTROL),
            (options.delete_horizon.is_some(), DELETE_HORIZON),
        ];
        for (_, bit) in flags.into_iter().filter(|(set, _)| *set) {
            attributes |= bit;
        }
        let length = i32::try_from(buffer.len() - LENGTH_PREFIX_BYTES).expect("a batch of less than 2 GiB");
        let max_timestamp = options.max_timestamp.or(max_timestamp).unwrap_or(Millis(-1));
        let mut set = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, &options.base_offset.0.to_be_bytes());
        set(8, &length.to_be_bytes());
        set(LEADER_EPOCH_AT, &options.leader_epoch.0.to_be_bytes());
        set(FORMAT_AT, &FORMAT.to_be_bytes());
        set(ATTRIBUTES_AT, &attributes.to_be_bytes());
        set(LAST_OFFSET_DELTA_AT, &last_offset_delta.to_be_bytes());
        set(BASE_TIMESTAMP_AT, &base_timestamp.0.to_be_bytes());
        set(MAX_TIMESTAMP_AT, &max_timestamp.0.to_be_bytes());
        set(PRODUCER_ID_AT, &options.producer_id.0.to_be_bytes());
        set(PRODUCER_EPOCH_AT, &options.producer_epoch.0.to_be_bytes());
        set(BASE_SEQUENCE_AT, &options.base_sequence.to_be_bytes());
        set(RECORD_COUNT_AT, &count.to_be_bytes());
        let crc = crc32c::crc32c(&buffer[ATTRIBUTES_AT..]);
        buffer[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(buffer)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put_i64(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => varint::put_i64(out, -1),
    }
}

fn bytes_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::len(bytes.len() as i64) + bytes.len())
}
