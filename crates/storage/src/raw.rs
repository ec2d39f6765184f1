//! Walks the records of a decompressed batch without making anything: lengths, deltas, headers, and where key and
//! value lie. Used where only the shape matters (is the count true, is there a key) or where records are
//! copied as they are (compaction). Never trusts a length beyond the bytes that are there.

/// One record, borrowed from the batch's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Length prefix and all: what a copy keeps.
    pub(crate) whole: &'a [u8],
    /// From the offset delta on: what a copy with another timestamp delta keeps.
    pub(crate) after_timestamp: &'a [u8],
}

/// The payload does not hold what its header promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed record")]
pub(crate) struct Malformed;

/// Iterates over the records of a payload; after an error it ends.
pub(crate) struct RawRecords<'a> {
    rest: &'a [u8],
}

impl<'a> RawRecords<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> RawRecords<'a> {
        RawRecords { rest: payload }
    }
}

impl<'a> Iterator for RawRecords<'a> {
    type Item = Result<RawRecord<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest;
        let parsed = parse(start);
        self.rest = match &parsed {
            Ok(record) => &start[record.whole.len()..],
            Err(Malformed) => &[],
        };
        Some(parsed)
    }
}

fn parse(start: &[u8]) -> Result<RawRecord<'_>, Malformed> {
    let mut at = start;
    let length = usize::try_from(varint(&mut at)?).map_err(|_| Malformed)?;
    let prefix_bytes = start.len() - at.len();
    let mut body = at.get(..length).ok_or(Malformed)?;
    let whole = &start[..prefix_bytes + length];
    take(&mut body, 1)?; // attributes, unused so far
    let timestamp_delta = varlong(&mut body)?;
    let after_timestamp = body;
    let offset_delta = varint(&mut body)?;
    let key = nullable(&mut body)?;
    let value = nullable(&mut body)?;
    let headers = varint(&mut body)?;
    for _ in 0..u32::try_from(headers).map_err(|_| Malformed)? {
        nullable(&mut body)?.ok_or(Malformed)?;
        nullable(&mut body)?;
    }
    if !body.is_empty() {
        return Err(Malformed);
    }
    Ok(RawRecord { timestamp_delta, offset_delta, key, value, whole, after_timestamp })
}

fn nullable<'a>(at: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    match varint(at)? {
        -1 => Ok(None),
        length => take(at, usize::try_from(length).map_err(|_| Malformed)?).map(Some),
    }
}

fn take<'a>(at: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = at.split_at_checked(count).ok_or(Malformed)?;
    *at = rest;
    Ok(taken)
}

fn varint(at: &mut &[u8]) -> Result<i32, Malformed> {
    i32::try_from(varlong(at)?).map_err(|_| Malformed)
}

/// A zigzag variable-length number of at most ten bytes. Nearly all have one or two, and there are seven in a record.
#[inline(always)]
fn varlong(at: &mut &[u8]) -> Result<i64, Malformed> {
    match **at {
        [low @ 0..0x80, ref rest @ ..] => {
            *at = rest;
            Ok(unzigzag(u64::from(low)))
        }
        [low, high @ 0..0x80, ref rest @ ..] => {
            *at = rest;
            Ok(unzigzag(u64::from(low & 0x7f) | u64::from(high) << 7))
        }
        _ => long_varlong(at),
    }
}

#[inline(never)]
fn long_varlong(at: &mut &[u8]) -> Result<i64, Malformed> {
    let mut value = 0u64;
    for index in 0..10 {
        let byte = *at.get(index).ok_or(Malformed)?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *at = &at[index + 1..];
            return Ok(unzigzag(value));
        }
    }
    Err(Malformed)
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends `record` with another timestamp delta.
pub(crate) fn put_with_timestamp_delta(out: &mut Vec<u8>, record: &RawRecord<'_>, delta: i64) {
    let mut timestamp = Vec::with_capacity(10);
    put_varlong(&mut timestamp, delta);
    put_varlong(out, (1 + timestamp.len() + record.after_timestamp.len()) as i64);
    out.push(0);
    out.extend_from_slice(&timestamp);
    out.extend_from_slice(record.after_timestamp);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(timestamp_delta: i64, tail: &[u8]) -> Vec<u8> {
        let base = RawRecord {
            timestamp_delta,
            offset_delta: 0,
            key: None,
            value: None,
            whole: &[],
            after_timestamp: tail,
        };
        let mut out = Vec::new();
        put_with_timestamp_delta(&mut out, &base, timestamp_delta);
        out
    }

    #[test]
    fn a_record_is_found_where_it_lies() {
        // offset delta 3, key "k", null value, no headers
        let bytes = record(-700_000, &[6, 2, b'k', 1, 0]);
        let found: Vec<_> = RawRecords::new(&bytes).collect();
        let [Ok(found)] = found[..] else { panic!("one record: {found:?}") };
        assert_eq!((found.timestamp_delta, found.offset_delta), (-700_000, 3));
        assert_eq!((found.key, found.value), (Some(&b"k"[..]), None));
        assert_eq!(found.whole, &bytes[..]);
    }

    #[test]
    fn no_prefix_of_a_record_parses_and_no_length_is_believed() {
        let bytes = record(5, &[6, 2, b'k', 4, b'v', b'w', 0]);
        for cut in 1..bytes.len() {
            assert_eq!(RawRecords::new(&bytes[..cut]).next(), Some(Err(Malformed)), "{cut}");
        }
        for hostile in [&[0xff; 12][..], &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0], &[1], &[8, 0, 0, 0, 0xfe]] {
            assert_eq!(RawRecords::new(hostile).next(), Some(Err(Malformed)), "{hostile:?}");
        }
    }

    #[test]
    fn headers_are_walked_to_the_records_end() {
        // offset delta 0, key "k", value "v", then: one header "h" = null; the same with a byte too many; a header
        // without a key; two headers where there is one; fewer than none.
        let check = |headers: &[u8]| {
            let tail = [&[0, 2, b'k', 2, b'v'], headers].concat();
            RawRecords::new(&record(0, &tail)).all(|record| record.is_ok())
        };
        assert!(check(&[2, 2, b'h', 1]));
        assert!(!check(&[2, 2, b'h', 1, 0]));
        assert!(!check(&[2, 1, 1]));
        assert!(!check(&[4, 2, b'h', 1]));
        assert!(!check(&[1]));
    }
}
