//! The variable-length integers inside records: zigzag, seven bits a byte, the lowest first.
//!
//! Invariant: what is written is as short as can be; what is read may be longer than needed but fits. It never
//! reads past the slice it is given.

/// Bytes a 64-bit varint takes at most.
const BYTES_MAX: usize = 10;

/// Takes a varint off the front of `bytes`; none if it does not end in time.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let mut value: u64 = 0;
    for place in 0..BYTES_MAX {
        let byte = *bytes.get(place)?;
        // The tenth byte has room for the 64th bit and nothing else.
        if place == BYTES_MAX - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            *bytes = &bytes[place + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Like [`take_i64`], for what must fit into 32 bits.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    i32::try_from(take_i64(bytes)?).ok()
}

/// Appends a varint.
#[inline]
pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    let mut left = zigzag(value);
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// Bytes that [`put_i64`] takes for `value`.
pub(super) fn len(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros()).div_ceil(7) as usize
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_has_the_length_foretold() {
        for value in [0, -1, 1, 63, 64, -64, -65, 8191, 8192, i32::MAX as i64, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_i64(&mut out, value);
            assert_eq!(out.len(), len(value), "{value}");
            let mut rest = &out[..];
            assert_eq!(take_i64(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn one_that_does_not_end_or_fit_is_refused() {
        assert_eq!(take_i64(&mut &[0x80; 9][..]), None);
        assert_eq!(take_i64(&mut &[0xff; 11][..]), None);
        assert_eq!(take_i64(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), None);
        assert_eq!(take_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x7f][..]), None);
    }
}
