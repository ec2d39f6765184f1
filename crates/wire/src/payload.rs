//! What stands in a message where record batches stand.
//! A broker answers a fetch with bytes that lie in files: it encodes their length, and whoever writes the frame puts the
//! bytes in. Invariant: a decoded message never holds a deferred payload.

use bytes::Bytes;

/// Bytes of a message, here or still elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The bytes.
    Here(Bytes),
    /// As many bytes, which the writer of the frame supplies (see [`crate::Chunk::Deferred`]).
    Deferred(usize),
}

impl Payload {
    /// Bytes on the wire, the length field aside.
    pub fn len(&self) -> usize {
        match self {
            Payload::Here(bytes) => bytes.len(),
            Payload::Deferred(len) => *len,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a message that came from the wire.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Payload::Here(bytes) => bytes,
            Payload::Deferred(len) => panic!("{len} deferred bytes in a message that was received"),
        }
    }
}

impl Default for Payload {
    fn default() -> Payload {
        Payload::Here(Bytes::new())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::Here(bytes)
    }
}
