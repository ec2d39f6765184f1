//! The codecs of record batches, with output that is bounded before it is made.
//!
//! Invariant: decompressing takes memory in proportion to what came in and never beyond the caller's limit.
//! It never trusts a size that the compressed data claims.

mod snappy;

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use zstd::zstd_safe;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Written in the framing of the Java client (xerial), read in that and raw.
    Snappy = 2,
    /// The LZ4 frame format, of independent 64 KiB blocks.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

/// Why compressed data was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The output would be larger than the caller allows.
    #[error("decompressed data would exceed {limit} bytes")]
    TooLarge {
        /// The caller's limit.
        limit: usize,
    },
    /// The data is not what the codec writes.
    #[error("{codec} data is corrupt: {reason}")]
    Corrupt {
        /// The codec.
        codec: Compression,
        /// What the codec says.
        reason: String,
    },
}

impl Compression {
    /// All of them, by ascending code.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// The code in a batch's attributes.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The codec of a code.
    pub fn from_code(code: i16) -> Option<Compression> {
        Compression::ALL.into_iter().find(|codec| codec.code() == code)
    }

    /// Kafka's name, as in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// Compresses, at the codec's default level if none is given; levels out of its bounds are clamped. LZ4 and
    /// snappy have one level here.
    pub fn compress(self, data: &[u8], level: Option<i32>) -> Vec<u8> {
        match self {
            Compression::None => data.to_vec(),
            Compression::Gzip => {
                let level = level.filter(|level| *level >= 0).map_or(6, |level| level.min(9)) as u32;
                let sink = Vec::with_capacity(data.len() / 2 + 64);
                let mut encoder = flate2::write::GzEncoder::new(sink, flate2::Compression::new(level));
                encoder.write_all(data).expect("memory does not fail");
                encoder.finish().expect("memory does not fail")
            }
            Compression::Snappy => snappy::compress(data),
            Compression::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                let sink = Vec::with_capacity(data.len() / 2 + 64);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, sink);
                encoder.write_all(data).expect("memory does not fail");
                encoder.finish().expect("memory does not fail")
            }
            Compression::Zstd => {
                let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                let level = level.clamp(zstd_safe::min_c_level(), zstd_safe::max_c_level());
                let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
                zstd_safe::compress(&mut out, data, level).expect("the output has room for the worst case");
                out
            }
        }
    }

    /// Decompresses to at most `limit` bytes.
    pub fn decompress(self, data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        let out = match self {
            Compression::None if data.len() > limit => return Err(DecompressError::TooLarge { limit }),
            Compression::None => data.to_vec(),
            Compression::Gzip => self.read_all(flate2::read::MultiGzDecoder::new(data), data.len(), limit)?,
            Compression::Snappy => snappy::decompress(data, limit)?,
            Compression::Lz4 => self.read_all(lz4_flex::frame::FrameDecoder::new(data), data.len(), limit)?,
            Compression::Zstd => decompress_zstd(data, limit)?,
        };
        assert!(out.len() <= limit);
        Ok(out)
    }

    /// Reads a streaming decoder to its end, or to one byte past the limit.
    fn read_all(self, from: impl Read, compressed: usize, limit: usize) -> Result<Vec<u8>, DecompressError> {
        let mut out = Vec::with_capacity(compressed.saturating_mul(2).min(limit));
        let stop = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        from.take(stop).read_to_end(&mut out).map_err(|error| self.corrupt(error))?;
        if out.len() > limit { Err(DecompressError::TooLarge { limit }) } else { Ok(out) }
    }

    fn corrupt(self, reason: impl ToString) -> DecompressError {
        DecompressError::Corrupt { codec: self, reason: reason.to_string() }
    }
}

/// A streaming decoder would take the window that the frame's first bytes claim, up to 128 MiB. Decompressing
/// into one buffer needs no window; its size is guessed and the guess multiplied until the output fits.
fn decompress_zstd(data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    const TOO_SMALL: usize =
        (zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();
    let mut capacity = data.len().saturating_mul(4).max(16 * 1024).min(limit);
    loop {
        let mut out = Vec::with_capacity(capacity);
        match zstd_safe::decompress(&mut out, data) {
            // The allocation may be larger than asked for, and so may the output.
            Ok(_) if out.len() <= limit => return Ok(out),
            Ok(_) => return Err(DecompressError::TooLarge { limit }),
            Err(TOO_SMALL) if capacity < limit => capacity = capacity.saturating_mul(4).min(limit),
            Err(TOO_SMALL) => return Err(DecompressError::TooLarge { limit }),
            Err(code) => return Err(Compression::Zstd.corrupt(zstd_safe::get_error_name(code))),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not the name of a codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {0:?}: none, gzip, snappy, lz4 or zstd is expected")]
pub struct UnknownCompression(pub String);

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Compression, UnknownCompression> {
        let known = Compression::ALL.into_iter().find(|codec| codec.name() == name);
        known.ok_or_else(|| UnknownCompression(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize) -> Vec<u8> {
        b"how much wood would a woodchuck chuck ".iter().copied().cycle().take(len).collect()
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for codec in Compression::ALL {
            for len in [0, 1, 100, 32 * 1024, 32 * 1024 + 1, 300_000] {
                for level in [None, Some(1), Some(9), Some(1000), Some(-5)] {
                    let data = text(len);
                    let packed = codec.compress(&data, level);
                    assert_eq!(codec.decompress(&packed, len), Ok(data), "{codec} {len} {level:?}");
                }
            }
        }
    }

    #[test]
    fn output_past_the_limit_is_refused() {
        for codec in Compression::ALL {
            let bomb = codec.compress(&vec![0; 10_000_000], None);
            for limit in [0, 1, 1000, 9_999_999] {
                assert_eq!(
                    codec.decompress(&bomb, limit),
                    Err(DecompressError::TooLarge { limit }),
                    "{codec}"
                );
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            for garbage in [&b"\x05garbage"[..], &[0xff; 40], &codec.compress(&text(1000), None)[..20]] {
                let refused = codec.decompress(garbage, 1 << 20);
                assert!(matches!(refused, Err(DecompressError::Corrupt { .. })), "{codec} {refused:?}");
            }
        }
    }

    #[test]
    fn snappy_is_read_raw_and_in_the_java_clients_framing() {
        let data = text(100_000);
        let raw = snap::raw::Encoder::new().compress_vec(&data).unwrap();
        assert_eq!(Compression::Snappy.decompress(&raw, data.len()), Ok(data.clone()));
        let framed = Compression::Snappy.compress(&data, None);
        assert_eq!(&framed[..16], b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    }
}
