//! Reads the protocol's primitive types from a frame.
//!
//! Invariant: memory is taken only for what the frame can still hold and what its budget still allows, so a
//! message costs at most [`BUDGET_FACTOR`] times its bytes plus [`BUDGET_BASE`]. It never panics on any
//! input, and never copies strings or bytes: they are slices of the frame.

use bytes::Bytes;

use crate::messages::Message;
use crate::{ErrorCode, Payload, Str, Uuid};

/// Bytes of memory that decoding may take per byte of the frame.
pub const BUDGET_FACTOR: usize = 8;
/// Bytes of memory that decoding may take on top, so that small messages of many small items pass.
pub const BUDGET_BASE: usize = 64 * 1024;
/// The longest string of the protocol, in every version: old lengths are signed 16-bit numbers, and Kafka
/// holds compact ones to the same.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;
/// An unsigned varint of 32 bits has at most five bytes.
const VARINT_BYTES_MAX: u32 = 5;

/// Why a message was refused. The frame it came in is not to be trusted any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message goes on, the frame does not.
    #[error("{wanted} bytes wanted, {left} left in the frame")]
    Truncated {
        /// Bytes the next field takes.
        wanted: usize,
        /// Bytes the frame still has.
        left: usize,
    },
    /// A string, array or struct is null where the version has no null.
    #[error("null in a field that cannot be null")]
    UnexpectedNull,
    /// A length below -1.
    #[error("negative length {0}")]
    NegativeLength(i32),
    /// A string longer than Kafka has them.
    #[error("string of {0} bytes, at most {STRING_BYTES_MAX} are allowed")]
    StringTooLong(usize),
    /// More items than the rest of the frame can hold.
    #[error("{count} items announced, {left} bytes left in the frame")]
    CountTooLarge {
        /// Items announced.
        count: usize,
        /// Bytes the frame still has.
        left: usize,
    },
    /// The items would take more memory than a frame of this size is worth.
    #[error("decoding would take {wanted} bytes more, {left} are left of the budget")]
    OverBudget {
        /// Bytes of memory wanted.
        wanted: usize,
        /// Bytes of memory the budget still has.
        left: usize,
    },
    /// A string that is not UTF-8.
    #[error("string is not utf-8")]
    InvalidUtf8,
    /// A varint that does not end in time or does not fit.
    #[error("malformed varint")]
    InvalidVarint,
    /// A tagged field whose content is shorter or longer than its size.
    #[error("tagged field {tag} does not fill its size")]
    TagSize {
        /// The field's tag.
        tag: u32,
    },
    /// A version this message does not have.
    #[error("version {version} of {message} is not supported")]
    UnsupportedVersion {
        /// The message's name.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
}

/// A position in a frame, and what decoding it may still cost.
#[derive(Debug)]
pub struct Decoder {
    frame: Bytes,
    at: usize,
    budget: usize,
    flexible: bool,
}

type Result<T> = std::result::Result<T, DecodeError>;

impl Decoder {
    /// A decoder at the start of `frame`.
    pub fn new(frame: Bytes) -> Decoder {
        let budget = frame.len().saturating_mul(BUDGET_FACTOR).saturating_add(BUDGET_BASE);
        Decoder { frame, at: 0, budget, flexible: false }
    }

    /// Bytes not read yet.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.frame.len() - self.at
    }

    /// What has not been read yet, sharing the frame's memory.
    pub fn rest(&self) -> Bytes {
        self.frame.slice(self.at..)
    }

    /// Sets lengths and tags to the message's and version's kind.
    pub(crate) fn begin<M: Message>(&mut self, version: i16) -> Result<()> {
        if !M::VERSIONS.contains(&version) {
            return Err(DecodeError::UnsupportedVersion { message: M::NAME, version });
        }
        self.set_flexible(M::FLEXIBLE_FROM.is_some_and(|first| version >= first));
        Ok(())
    }

    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.frame[self.at..].first_chunk::<N>() {
            Some(bytes) => {
                let bytes = *bytes;
                self.at += N;
                Ok(bytes)
            }
            None => Err(self.truncated(N)),
        }
    }

    #[cold]
    fn truncated(&self, wanted: usize) -> DecodeError {
        DecodeError::Truncated { wanted, left: self.remaining() }
    }

    /// One byte; anything but zero is true.
    #[inline]
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.fixed::<1>()? != [0])
    }

    /// Big-endian, as all integers are.
    #[inline]
    pub fn int8(&mut self) -> Result<i8> {
        Ok(i8::from_be_bytes(self.fixed()?))
    }

    /// Two bytes, signed.
    #[inline]
    pub fn int16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.fixed()?))
    }

    /// Two bytes, unsigned.
    #[inline]
    pub fn uint16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.fixed()?))
    }

    /// Four bytes, signed.
    #[inline]
    pub fn int32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }

    /// Four bytes, unsigned.
    #[inline]
    pub fn uint32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.fixed()?))
    }

    /// Eight bytes, signed.
    #[inline]
    pub fn int64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }

    /// Eight bytes, IEEE 754.
    #[inline]
    pub fn float64(&mut self) -> Result<f64> {
        Ok(f64::from_be_bytes(self.fixed()?))
    }

    /// Sixteen bytes.
    #[inline]
    pub fn uuid(&mut self) -> Result<Uuid> {
        Ok(Uuid(self.fixed()?))
    }

    /// Two bytes.
    #[inline]
    pub fn error_code(&mut self) -> Result<ErrorCode> {
        Ok(ErrorCode(self.int16()?))
    }

    /// Seven bits a byte, the lowest first.
    #[inline]
    pub fn unsigned_varint(&mut self) -> Result<u32> {
        match self.frame.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u32::from(byte))
            }
            _ => self.long_unsigned_varint(),
        }
    }

    fn long_unsigned_varint(&mut self) -> Result<u32> {
        let mut value: u64 = 0;
        for place in 0..VARINT_BYTES_MAX {
            let [byte] = self.fixed::<1>()?;
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| DecodeError::InvalidVarint);
            }
        }
        Err(DecodeError::InvalidVarint)
    }

    /// A string that may not be null.
    #[inline]
    pub fn string(&mut self) -> Result<Str> {
        self.nullable_string()?.ok_or(DecodeError::UnexpectedNull)
    }

    /// A string or null.
    #[inline]
    pub fn nullable_string(&mut self) -> Result<Option<Str>> {
        let len = if self.flexible {
            match self.unsigned_varint()? {
                0 => return Ok(None),
                more => (more - 1) as usize,
            }
        } else {
            match self.int16()? {
                -1 => return Ok(None),
                len => usize::try_from(len).map_err(|_| DecodeError::NegativeLength(i32::from(len)))?,
            }
        };
        if len > STRING_BYTES_MAX {
            return Err(DecodeError::StringTooLong(len));
        }
        Ok(Some(Str::from_utf8(self.slice(len)?).ok_or(DecodeError::InvalidUtf8)?))
    }

    /// Bytes that may not be null, sharing the frame's memory.
    #[inline]
    pub fn bytes(&mut self) -> Result<Bytes> {
        self.nullable_bytes()?.ok_or(DecodeError::UnexpectedNull)
    }

    /// Bytes or null, sharing the frame's memory.
    #[inline]
    pub fn nullable_bytes(&mut self) -> Result<Option<Bytes>> {
        match self.long_length()? {
            None => Ok(None),
            Some(len) => self.slice(len).map(Some),
        }
    }

    /// Bytes that a sender may have deferred, or null; here they have arrived.
    #[inline]
    pub fn nullable_payload(&mut self) -> Result<Option<Payload>> {
        Ok(self.nullable_bytes()?.map(Payload::Here))
    }

    /// The length of bytes or of an array: four bytes, or a varint one higher; `None` is null.
    #[inline]
    fn long_length(&mut self) -> Result<Option<usize>> {
        if self.flexible {
            return Ok(self.unsigned_varint()?.checked_sub(1).map(|len| len as usize));
        }
        match self.int32()? {
            -1 => Ok(None),
            len => Ok(Some(usize::try_from(len).map_err(|_| DecodeError::NegativeLength(len))?)),
        }
    }

    #[inline]
    fn slice(&mut self, len: usize) -> Result<Bytes> {
        if len > self.remaining() {
            return Err(self.truncated(len));
        }
        let slice = self.frame.slice(self.at..self.at + len);
        self.at += len;
        Ok(slice)
    }

    /// An array that may not be null, of items that take at least `item_bytes_min` bytes each.
    #[inline]
    pub fn array<T>(
        &mut self,
        item_bytes_min: usize,
        item: impl FnMut(&mut Decoder) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.nullable_array(item_bytes_min, item)?.ok_or(DecodeError::UnexpectedNull)
    }

    /// An array or null, of items that take at least `item_bytes_min` bytes each.
    #[inline]
    pub fn nullable_array<T>(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Decoder) -> Result<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(count) = self.long_length()? else { return Ok(None) };
        let left = self.remaining();
        if count > left / item_bytes_min {
            return Err(DecodeError::CountTooLarge { count, left });
        }
        self.charge(count.saturating_mul(size_of::<T>()))?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(Some(items))
    }

    /// A struct or null.
    pub fn nullable_struct<T>(
        &mut self,
        read: impl FnOnce(&mut Decoder) -> Result<T>,
    ) -> Result<Option<Box<T>>> {
        if self.int8()? < 0 {
            return Ok(None);
        }
        self.charge(size_of::<T>())?;
        Ok(Some(Box::new(read(self)?)))
    }

    /// Takes memory from the budget before it is taken from the machine.
    #[inline]
    fn charge(&mut self, wanted: usize) -> Result<()> {
        match self.budget.checked_sub(wanted) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(DecodeError::OverBudget { wanted, left: self.budget }),
        }
    }

    /// The tagged fields at the end of a struct; nothing in a version that is not flexible.
    ///
    /// `known` reads the field of a tag it knows and answers true; what it does not know is skipped.
    #[inline]
    pub fn tagged_fields(&mut self, mut known: impl FnMut(&mut Decoder, u32) -> Result<bool>) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            if size > self.remaining() {
                return Err(self.truncated(size));
            }
            let end = self.at + size;
            if !known(self, tag)? {
                self.at = end;
            } else if self.at != end {
                return Err(DecodeError::TagSize { tag });
            }
        }
        Ok(())
    }

    /// Steps over tagged fields none of which is known.
    #[inline]
    pub fn skip_tagged_fields(&mut self) -> Result<()> {
        if self.flexible && self.frame.get(self.at) == Some(&0) {
            self.at += 1;
            return Ok(());
        }
        self.tagged_fields(|_, _| Ok(false))
    }
}
