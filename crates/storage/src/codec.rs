//! Payloads of batches, decompressed. Thin over `wire::compression`: what is added is the
//! bound that a log puts on what it unpacks, and that an uncompressed payload is never copied.

use std::borrow::Cow;

use wire::compression::{Compression, DecompressError};

use crate::header::Header;

/// What a producer's batch may decompress to, unless the topic takes larger messages than that.
pub(crate) const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;
/// What a stored batch may decompress to: it was within its topic's limit when it was written.
pub(crate) const STORED_BYTES_MAX: usize = 1 << 30;

/// Why a payload cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("compression codec {0}")]
    Unknown(i16),
    #[error("decompresses to more than {0} bytes")]
    TooLarge(usize),
    #[error(transparent)]
    Corrupt(DecompressError),
}

impl From<DecompressError> for CodecError {
    fn from(error: DecompressError) -> CodecError {
        match error {
            DecompressError::TooLarge { limit } => CodecError::TooLarge(limit),
            corrupt @ DecompressError::Corrupt { .. } => CodecError::Corrupt(corrupt),
        }
    }
}

/// The codec that a header names.
pub(crate) fn codec_of(header: &Header) -> Result<Compression, CodecError> {
    Compression::from_code(header.codec()).ok_or(CodecError::Unknown(header.codec()))
}

/// The records of a batch whose bytes behind the header are `body`, if they are at most `bytes_max`.
pub(crate) fn payload<'a>(
    header: &Header,
    body: &'a [u8],
    bytes_max: usize,
) -> Result<Cow<'a, [u8]>, CodecError> {
    match codec_of(header)? {
        Compression::None => Ok(Cow::Borrowed(body)),
        codec => Ok(Cow::Owned(codec.decompress(body, bytes_max)?)),
    }
}
