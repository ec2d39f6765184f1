//! Whether a producer's batches may enter a log, and what of their headers has to change. Every record is walked,
//! compressed or not: a batch that readers cannot open would stop each of them for good
//! (docs/decisions/001-every-record-is-walked.md). Nothing here knows the log's state, so it runs outside of the log's
//! lock.

use bytes::Bytes;
use wire::Millis;

use crate::{
    codec::{self, CodecError},
    config::{CompressionType, LogConfig, TimestampType},
    error::AppendError,
    header::{ASSIGNED_BYTES, HEADER_BYTES, Header, HeaderError, crc_matches, seal, stamp_append_time},
    producers::Marker,
    raw::RawRecords,
};

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A producer: everything is checked.
    Client,
    /// The broker itself, for its own topics and for transaction markers: sequences and timestamps are not.
    Coordinator,
}

/// A batch that may be written once its offsets are known.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) header: Header,
    /// The bytes to write first: what the log assigns, or the whole header when more of it changed.
    pub(crate) front: [u8; HEADER_BYTES],
    pub(crate) front_len: usize,
    /// The bytes to write after them.
    pub(crate) rest: Bytes,
    /// For control batches that end a transaction.
    pub(crate) marker: Option<Marker>,
}

impl Checked {
    /// The part of the front that offsets are written into.
    pub(crate) fn assigned(&mut self) -> &mut [u8; ASSIGNED_BYTES] {
        let (assigned, _) =
            self.front.split_first_chunk_mut().unwrap_or_else(|| unreachable!("61 is more than 16"));
        assigned
    }
}

/// Checks every batch of a produce request for one partition.
pub(crate) fn check(
    records: &Bytes,
    origin: Origin,
    now: Millis,
    config: &LogConfig,
) -> Result<Vec<Checked>, AppendError> {
    let mut checked = Vec::with_capacity(1);
    let mut rest = records.clone();
    while !rest.is_empty() {
        let header = Header::parse(&rest).map_err(refuse_header)?;
        let size = usize::try_from(header.size).unwrap_or(usize::MAX);
        if size > rest.len() {
            return Err(AppendError::Corrupt(format!("{} of {size} bytes", rest.len())));
        }
        // A group's record is as large as its members make it; refused, the group could never be stored again.
        if origin == Origin::Client && size > config.max_message_bytes as usize {
            return Err(AppendError::TooLarge { size, size_max: config.max_message_bytes as usize });
        }
        if origin == Origin::Client && !checked.is_empty() {
            return Err(invalid("a produce request holds exactly one batch per partition"));
        }
        checked.push(check_batch(header, rest.split_to(size), origin, now, config)?);
    }
    if checked.is_empty() {
        return Err(invalid("a produce request holds exactly one batch per partition"));
    }
    Ok(checked)
}

fn invalid(reason: &'static str) -> AppendError {
    AppendError::InvalidRecord { records: Vec::new(), reason }
}

pub(crate) fn refuse_header(error: HeaderError) -> AppendError {
    match error {
        HeaderError::Magic(magic @ 0..=1) => AppendError::UnsupportedFormat(magic),
        HeaderError::Delta(_) | HeaderError::Count(_) => {
            invalid("record count and last offset delta disagree")
        }
        other => AppendError::Corrupt(other.to_string()),
    }
}

fn refuse_payload(error: CodecError) -> AppendError {
    match error {
        CodecError::Unknown(_) => invalid("unknown compression codec"),
        CodecError::TooLarge(size_max) => AppendError::TooLarge { size: size_max + 1, size_max },
        // Under a right checksum it is what the producer made: sent again, it would be no better.
        CodecError::Corrupt(_) => invalid("the compressed records cannot be decompressed"),
    }
}

fn check_batch(
    mut header: Header,
    batch: Bytes,
    origin: Origin,
    now: Millis,
    config: &LogConfig,
) -> Result<Checked, AppendError> {
    if !crc_matches(&batch) {
        return Err(AppendError::Corrupt("checksum".into()));
    }
    if header.record_count == 0 || header.record_count - 1 != header.last_offset_delta {
        return Err(invalid("record count and last offset delta disagree"));
    }
    if origin == Origin::Client {
        check_client_header(&header, now)?;
    }
    let codec_now = codec::codec_of(&header).map_err(refuse_payload)?;
    let target = match config.compression_type {
        CompressionType::Codec { codec, level } if codec != codec_now && !header.is_control() => {
            Some((codec, level))
        }
        _ => None,
    };
    let body = batch.slice(HEADER_BYTES..);
    let keys_needed = config.cleanup.compact && origin == Origin::Client;
    let bytes_max = codec::DECOMPRESSED_BYTES_MAX.max(4 * config.max_message_bytes as usize);

    let mut front = [0; HEADER_BYTES];
    front.copy_from_slice(&batch[..HEADER_BYTES]);
    let mut front_changed = false;
    let mut new_body = None;
    let mut marker = None;
    let payload = codec::payload(&header, &body, bytes_max).map_err(refuse_payload)?;
    let inside = inspect(&header, &payload, keys_needed)?;
    if inside.max_timestamp != header.max_timestamp && !header.is_log_append_time() {
        header.max_timestamp = inside.max_timestamp;
        front[35..43].copy_from_slice(&header.max_timestamp.0.to_be_bytes());
        front_changed = true;
    }
    if header.is_control() {
        marker = parse_marker(&payload);
    }
    if let Some((codec, level)) = target {
        new_body = Some(Bytes::from(codec.compress(&payload, level)));
        header.attributes = header.attributes & !7 | codec.code() as u16;
        front_changed = true;
    }
    if origin == Origin::Client && config.message_timestamp_type == TimestampType::CreateTime {
        check_timestamps(&inside, &header, &payload, now, config)?;
    }
    if let Some(body) = &new_body {
        let size = HEADER_BYTES + body.len();
        if size > config.max_message_bytes as usize {
            return Err(AppendError::TooLarge { size, size_max: config.max_message_bytes as usize });
        }
        header.size = size as u64;
        front[8..12].copy_from_slice(&(size as i32 - 12).to_be_bytes());
        front[21..23].copy_from_slice(&header.attributes.to_be_bytes());
    }
    let body = new_body.unwrap_or(body);
    if config.message_timestamp_type == TimestampType::LogAppendTime && !header.is_control() {
        stamp_append_time(&mut front, &body, now);
        header.max_timestamp = now;
        front_changed = true;
    } else if front_changed {
        seal(&mut front, &body);
    }
    Ok(if front_changed {
        Checked { header, front, front_len: HEADER_BYTES, rest: body, marker }
    } else {
        Checked { header, front, front_len: ASSIGNED_BYTES, rest: batch.slice(ASSIGNED_BYTES..), marker }
    })
}

fn check_client_header(header: &Header, now: Millis) -> Result<(), AppendError> {
    if header.is_control() {
        return Err(invalid("a producer may not write control records"));
    }
    if header.is_log_append_time() {
        return Err(AppendError::InvalidTimestamp {
            records: Vec::new(),
            timestamp: header.max_timestamp,
            now,
        });
    }
    if header.has_producer() && (header.producer_epoch.0 < 0 || header.base_sequence < 0) {
        return Err(invalid("a batch with a producer id needs an epoch and a sequence"));
    }
    if header.is_transactional() && !header.has_producer() {
        return Err(invalid("a transactional batch needs a producer id"));
    }
    Ok(())
}

fn check_timestamps(
    inside: &Inside,
    header: &Header,
    payload: &[u8],
    now: Millis,
    config: &LogConfig,
) -> Result<(), AppendError> {
    // -1 says that there is none.
    let is_refused = |timestamp: Millis| timestamp.0 != -1 && config.refuses_timestamp(timestamp, now);
    let Some(timestamp) = [inside.min_timestamp, inside.max_timestamp].into_iter().find(|at| is_refused(*at))
    else {
        return Ok(());
    };
    let deltas = RawRecords::new(payload).flatten().map(|record| record.timestamp_delta);
    let at = |delta: i64| Millis(header.base_timestamp.0.saturating_add(delta));
    let refused = (0..).zip(deltas).filter(|(_, delta)| is_refused(at(*delta)));
    Err(AppendError::InvalidTimestamp { records: refused.map(|(index, _)| index).collect(), timestamp, now })
}

struct Inside {
    /// The smallest of those that there are; -1 where no record has one.
    min_timestamp: Millis,
    max_timestamp: Millis,
}

/// Walks the records: their number and offsets must be what the header says, and keys must be there where
/// they are needed. Of those without one all are named: their producer may send the others again.
fn inspect(header: &Header, payload: &[u8], keys_needed: bool) -> Result<Inside, AppendError> {
    let mut count = 0i32;
    let (mut min_delta, mut max_delta) = (i64::MAX, i64::MIN);
    // A record with this delta has no timestamp.
    let mut keyless = Vec::new();
    let none_delta = (-1i64).saturating_sub(header.base_timestamp.0);
    for record in RawRecords::new(payload) {
        let refuse = |reason| AppendError::InvalidRecord { records: vec![count], reason };
        let record = record.map_err(|_| refuse("malformed record"))?;
        if count == header.record_count || record.offset_delta != count {
            return Err(refuse("record count and offsets disagree with the header"));
        }
        if keys_needed && record.key.is_none() {
            keyless.push(count);
        }
        max_delta = max_delta.max(record.timestamp_delta);
        if record.timestamp_delta != none_delta {
            min_delta = min_delta.min(record.timestamp_delta);
        }
        count += 1;
    }
    if count != header.record_count {
        return Err(invalid("fewer records than the header counts"));
    }
    if !keyless.is_empty() {
        let reason = "a compacted topic takes no record without key";
        return Err(AppendError::InvalidRecord { records: keyless, reason });
    }
    let at = |delta: i64| Millis(header.base_timestamp.0.saturating_add(delta));
    let min_timestamp = if min_delta == i64::MAX { Millis(-1) } else { at(min_delta) };
    Ok(Inside { min_timestamp, max_timestamp: at(max_delta) })
}

/// What the first record of a control batch says, if it ends a transaction.
pub(crate) fn parse_marker(payload: &[u8]) -> Option<Marker> {
    let record = RawRecords::new(payload).next()?.ok()?;
    let key = record.key?.first_chunk::<4>()?;
    let commit = match i16::from_be_bytes([key[2], key[3]]) {
        0 => false,
        1 => true,
        _ => return None,
    };
    let coordinator_epoch = record.value.and_then(|value| {
        let bytes = value.get(2..6)?.first_chunk()?;
        Some(i32::from_be_bytes(*bytes))
    });
    Some(Marker { commit, coordinator_epoch: coordinator_epoch.unwrap_or(-1) })
}
