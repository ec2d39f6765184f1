//! The cleaner's map from key to the newest offset of that key. Keys are kept as 128-bit hashes, as Kafka keeps
//! them, so memory is bounded by the number of keys and not by their length. When it is full it says so; the
//! cleaner then cleans up to there.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use siphasher::sip128::{Hasher128, SipHasher13};
use wire::Offset;

/// What one entry takes, with the table's slack.
const ENTRY_BYTES: usize = 48;

#[derive(Debug)]
pub(crate) struct OffsetMap {
    offsets: HashMap<u128, Offset, BuildHasherDefault<FirstBytes>>,
    entries_max: usize,
}

/// Takes the digest for its own hash: it is spread already.
#[derive(Debug, Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }
}

fn digest(key: &[u8]) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write(key);
    hasher.finish128().as_u128()
}

impl OffsetMap {
    /// A map that takes at most about `bytes_max`; it starts small.
    pub(crate) fn new(bytes_max: usize) -> OffsetMap {
        OffsetMap { offsets: HashMap::default(), entries_max: (bytes_max / ENTRY_BYTES).max(1) }
    }

    /// Whether `count` more keys may not fit.
    pub(crate) fn is_full_for(&self, count: usize) -> bool {
        self.offsets.len() + count > self.entries_max
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(crate) fn put(&mut self, key: &[u8], offset: Offset) {
        self.offsets.insert(digest(key), offset);
    }

    /// Whether a newer record of this key than `offset` is known.
    pub(crate) fn supersedes(&self, key: &[u8], offset: Offset) -> bool {
        self.offsets.get(&digest(key)).is_some_and(|latest| *latest > offset)
    }
}
