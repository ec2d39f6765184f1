//! Snappy in the two shapes that Kafka clients send.
//!
//! The Java client wraps raw blocks in a framing of its own (xerial's `SnappyOutputStream`): eight bytes of
//! magic, two versions, then blocks of at most 32 KiB, each behind its length. Other clients send one raw
//! block. Invariant: both are read, the first is written. It never reserves what a block claims to hold
//! without asking whether snappy could have packed so much into it.

use super::{Compression, DecompressError};

const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Magic, version, oldest compatible version.
const HEADER_LEN: usize = 16;
const VERSION: u32 = 1;
const BLOCK_LEN: usize = 32 * 1024;
/// A copy of 64 bytes takes three, one of 11 takes two: no block expands by more than this.
const EXPANSION_MAX: usize = 22;

pub(super) fn compress(data: &[u8]) -> Vec<u8> {
    let blocks = data.len().div_ceil(BLOCK_LEN);
    let room = HEADER_LEN + blocks * (4 + snap::raw::max_compress_len(BLOCK_LEN.min(data.len())));
    let mut out = Vec::with_capacity(room);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in data.chunks(BLOCK_LEN) {
        let len_at = out.len();
        let start = len_at + 4;
        out.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let len = encoder.compress(block, &mut out[start..]).expect("the output has room for the worst case");
        out.truncate(start + len);
        out[len_at..start].copy_from_slice(&(len as u32).to_be_bytes());
    }
    out
}

pub(super) fn decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    if !data.starts_with(MAGIC) {
        append_block(&mut out, data, limit)?;
        return Ok(out);
    }
    let mut rest = data.get(HEADER_LEN..).ok_or_else(|| corrupt("the stream's header is cut off"))?;
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let block = after.get(..len).ok_or_else(|| corrupt("a block is cut off"))?;
        append_block(&mut out, block, limit)?;
        rest = &after[len..];
    }
    if rest.is_empty() { Ok(out) } else { Err(corrupt("the length of a block is cut off")) }
}

fn append_block(out: &mut Vec<u8>, block: &[u8], limit: usize) -> Result<(), DecompressError> {
    let len = snap::raw::decompress_len(block).map_err(corrupt)?;
    if len > block.len().saturating_mul(EXPANSION_MAX) {
        return Err(corrupt("a block claims more than it can hold"));
    }
    let start = out.len();
    if len > limit - start {
        return Err(DecompressError::TooLarge { limit });
    }
    out.resize(start + len, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(corrupt)?;
    out.truncate(start + written);
    Ok(())
}

fn corrupt(reason: impl ToString) -> DecompressError {
    Compression::Snappy.corrupt(reason)
}
