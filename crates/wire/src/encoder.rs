//! Writes the protocol's primitive types, keeping large payloads out of the copy.
//!
//! Invariant: the frame is what was written, in order: small things in one growing buffer, large and deferred ones
//! spliced in where they belong. It never fails, and never copies a payload of [`SPLICE_BYTES_MIN`] or more.

use bytes::Bytes;

use crate::decoder::STRING_BYTES_MAX;
use crate::messages::Message;
use crate::{Chunk, ErrorCode, Payload, Uuid};

/// From this size on, bytes are passed on instead of copied: below it, a copy is cheaper than one more
/// element of a vectored write.
pub const SPLICE_BYTES_MIN: usize = 4096;

/// A frame in the making.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
    /// Payloads and the position in `buffer` each stands before.
    splices: Vec<(usize, Chunk)>,
    splices_len: usize,
    flexible: bool,
    /// Inside a tagged field, whose size is known only afterwards: everything is copied there.
    tag_depth: u32,
}

impl Encoder {
    /// An empty encoder.
    pub fn new() -> Encoder {
        Encoder::with_capacity(256)
    }

    /// An empty encoder with room for `bytes` beside the large payloads.
    pub fn with_capacity(bytes: usize) -> Encoder {
        Encoder { buffer: Vec::with_capacity(bytes), ..Encoder::default() }
    }

    /// Bytes written so far, large payloads included.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.splices_len
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written, in pieces to be sent one after the other.
    pub fn into_chunks(self) -> Vec<Chunk> {
        let buffer = Bytes::from(self.buffer);
        if self.splices.is_empty() {
            return vec![Chunk::Bytes(buffer)];
        }
        let mut chunks = Vec::with_capacity(2 * self.splices.len() + 1);
        let mut at = 0;
        for (position, payload) in self.splices {
            if at < position {
                chunks.push(Chunk::Bytes(buffer.slice(at..position)));
            }
            chunks.push(payload);
            at = position;
        }
        if at < buffer.len() {
            chunks.push(Chunk::Bytes(buffer.slice(at..)));
        }
        chunks
    }

    /// What was written, in one piece. Panics if part of it is deferred.
    pub fn into_bytes(self) -> Bytes {
        if self.splices.is_empty() {
            return Bytes::from(self.buffer);
        }
        let mut whole = Vec::with_capacity(self.len());
        for chunk in self.into_chunks() {
            whole.extend_from_slice(chunk.bytes());
        }
        Bytes::from(whole)
    }

    /// Sets lengths and tags to the message's and version's kind.
    pub(crate) fn begin<M: Message>(&mut self, version: i16) {
        assert!(M::VERSIONS.contains(&version), "{} has no version {version}", M::NAME);
        self.set_flexible(M::FLEXIBLE_FROM.is_some_and(|first| version >= first));
    }

    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// Overwrites four bytes of the buffer, before any payload: a length that was not known yet.
    pub(crate) fn patch_int32(&mut self, at: usize, value: i32) {
        assert!(self.splices.first().is_none_or(|(first, _)| at + 4 <= *first));
        self.buffer[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// One byte, zero or one.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.buffer.push(u8::from(value));
    }

    /// One byte.
    #[inline]
    pub fn int8(&mut self, value: i8) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    /// Two bytes, big-endian, as all integers are.
    #[inline]
    pub fn int16(&mut self, value: i16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    /// Two bytes, unsigned.
    #[inline]
    pub fn uint16(&mut self, value: u16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    /// Four bytes.
    #[inline]
    pub fn int32(&mut self, value: i32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    /// Four bytes, unsigned.
    #[inline]
    pub fn uint32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    #[inline]
    pub fn int64(&mut self, value: i64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes, IEEE 754.
    #[inline]
    pub fn float64(&mut self, value: f64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    /// Sixteen bytes.
    #[inline]
    pub fn uuid(&mut self, value: &Uuid) {
        self.buffer.extend_from_slice(&value.0);
    }

    /// Two bytes.
    #[inline]
    pub fn error_code(&mut self, value: ErrorCode) {
        self.int16(value.0);
    }

    /// Seven bits a byte, the lowest first.
    #[inline]
    pub fn unsigned_varint(&mut self, value: u32) {
        let mut left = value;
        while left >= 0x80 {
            self.buffer.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.buffer.push(left as u8);
    }

    /// A string, cut at [`STRING_BYTES_MAX`]. Strings from the wire are never longer; only what was composed
    /// from them (an error message that quotes its input) can be, and is better cut than refused.
    #[inline]
    pub fn string(&mut self, value: &str) {
        let value = cut(value);
        if self.flexible {
            self.unsigned_varint(compact(value.len()));
        } else {
            self.int16(value.len() as i16);
        }
        self.buffer.extend_from_slice(value.as_bytes());
    }

    /// A string or null.
    #[inline]
    pub fn nullable_string(&mut self, value: &Option<impl AsRef<str>>) {
        match value {
            Some(value) => self.string(value.as_ref()),
            None if self.flexible => self.unsigned_varint(0),
            None => self.int16(-1),
        }
    }

    /// Bytes with their length; large ones are not copied.
    #[inline]
    pub fn bytes(&mut self, value: &Bytes) {
        self.array_len(value.len());
        if value.len() < SPLICE_BYTES_MIN || self.tag_depth > 0 {
            self.buffer.extend_from_slice(value);
        } else {
            self.splice(Chunk::Bytes(value.clone()));
        }
    }

    fn splice(&mut self, chunk: Chunk) {
        self.splices_len += chunk.len();
        self.splices.push((self.buffer.len(), chunk));
    }

    /// Bytes with their length; of deferred ones the length alone. Not for tagged fields.
    #[inline]
    pub fn payload(&mut self, value: &Payload) {
        match value {
            Payload::Here(bytes) => self.bytes(bytes),
            Payload::Deferred(0) => self.bytes(&Bytes::new()),
            Payload::Deferred(len) => {
                assert!(self.tag_depth == 0, "deferred bytes in a tagged field");
                self.array_len(*len);
                self.splice(Chunk::Deferred(*len));
            }
        }
    }

    /// Bytes that may be deferred, or null.
    #[inline]
    pub fn nullable_payload(&mut self, value: &Option<Payload>) {
        match value {
            Some(value) => self.payload(value),
            None => self.null(),
        }
    }

    /// Bytes or null.
    #[inline]
    pub fn nullable_bytes(&mut self, value: &Option<Bytes>) {
        match value {
            Some(value) => self.bytes(value),
            None => self.null(),
        }
    }

    /// The length of bytes or of an array.
    #[inline]
    pub fn array_len(&mut self, len: usize) {
        if self.flexible {
            self.unsigned_varint(compact(len));
        } else {
            self.int32(i32::try_from(len).expect("a length beyond 31 bits"));
        }
    }

    /// Null in place of bytes or an array.
    #[inline]
    fn null(&mut self) {
        if self.flexible {
            self.unsigned_varint(0);
        } else {
            self.int32(-1);
        }
    }

    /// An array.
    #[inline]
    pub fn array<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Encoder, &T)) {
        self.array_len(items.len());
        for each in items {
            item(self, each);
        }
    }

    /// An array or null.
    #[inline]
    pub fn nullable_array<T>(&mut self, items: &Option<Vec<T>>, item: impl FnMut(&mut Encoder, &T)) {
        match items {
            Some(items) => self.array(items, item),
            None => self.null(),
        }
    }

    /// A struct or null.
    pub fn nullable_struct<T>(&mut self, value: &Option<Box<T>>, write: impl FnOnce(&mut Encoder, &T)) {
        match value {
            Some(value) => {
                self.int8(1);
                write(self, value);
            }
            None => self.int8(-1),
        }
    }

    /// How many tagged fields follow; nothing in a version that is not flexible.
    #[inline]
    pub fn tagged_field_count(&mut self, count: u32) {
        if self.flexible {
            self.unsigned_varint(count);
        } else {
            assert_eq!(count, 0, "a tagged field in a version without tags");
        }
    }

    /// The end of a struct that has no tagged fields to send.
    #[inline]
    pub fn no_tagged_fields(&mut self) {
        self.tagged_field_count(0);
    }

    /// One tagged field. Its size goes before it and is known after: one byte is kept free, which nearly
    /// always suffices, and the content moves up where it does not.
    pub fn tagged_field(&mut self, tag: u32, write: impl FnOnce(&mut Encoder)) {
        self.unsigned_varint(tag);
        let size_at = self.buffer.len();
        self.buffer.push(0);
        self.tag_depth += 1;
        write(self);
        self.tag_depth -= 1;
        let size = u32::try_from(self.buffer.len() - size_at - 1).expect("a tagged field beyond 32 bits");
        let extra = varint_len(size) - 1;
        if extra > 0 {
            let end = self.buffer.len();
            self.buffer.resize(end + extra, 0);
            self.buffer.copy_within(size_at + 1..end, size_at + 1 + extra);
        }
        let mut left = size;
        for place in 0..=extra {
            let more = if place < extra { 0x80 } else { 0 };
            self.buffer[size_at + place] = (left as u8 & 0x7f) | more;
            left >>= 7;
        }
    }
}

/// Compact lengths are one higher, so that zero can say null.
#[inline]
fn compact(len: usize) -> u32 {
    u32::try_from(len + 1).expect("a length beyond 32 bits")
}

#[inline]
fn cut(value: &str) -> &str {
    let mut end = value.len().min(STRING_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// Bytes an unsigned varint takes.
fn varint_len(value: u32) -> usize {
    (32 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_payload_is_passed_on_and_not_copied() {
        let payload = Bytes::from(vec![7; SPLICE_BYTES_MIN]);
        let mut e = Encoder::new();
        e.int16(1);
        e.bytes(&payload);
        e.bytes(&Bytes::from_static(b"small"));
        e.bytes(&payload);
        assert_eq!(e.len(), 2 + 4 + payload.len() + 4 + 5 + 4 + payload.len());
        let chunks = e.into_chunks();
        assert_eq!(chunks.iter().map(Chunk::len).collect::<Vec<_>>(), [6, 4096, 13, 4096]);
        assert_eq!(chunks[1].bytes().as_ptr(), payload.as_ptr());
    }

    #[test]
    fn deferred_bytes_leave_their_length_and_a_place() {
        let mut e = Encoder::new();
        e.int16(1);
        e.payload(&Payload::Deferred(5));
        e.payload(&Payload::Deferred(0));
        assert_eq!(e.len(), 2 + 4 + 5 + 4);
        let expected = [
            Chunk::Bytes(Bytes::from_static(&[0, 1, 0, 0, 0, 5])),
            Chunk::Deferred(5),
            Chunk::Bytes(Bytes::from_static(&[0, 0, 0, 0])),
        ];
        assert_eq!(e.into_chunks(), expected);
    }

    #[test]
    fn the_size_of_a_tagged_field_takes_the_bytes_it_needs() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let mut e = Encoder::new();
            e.set_flexible(true);
            e.tagged_field(3, |e| e.buffer.extend(std::iter::repeat_n(9, len)));
            let written = e.into_bytes();
            let mut expected = Encoder::new();
            expected.unsigned_varint(3);
            expected.unsigned_varint(len as u32);
            expected.buffer.extend(std::iter::repeat_n(9, len));
            assert_eq!(written, expected.into_bytes());
        }
    }
}
