//! The protocol's messages, generated from `schema/`: one module per API or record.
//!
//! Invariant: names, types, versions, nullability, tags and defaults are the schema's. Nothing here is written
//! by hand, and nothing interprets what a message says.

use std::ops::RangeInclusive;

use crate::{DecodeError, Decoder, Encoder};

/// A request, a response or a record: something with versions.
pub trait Message: Sized {
    /// Kafka's name.
    const NAME: &'static str;
    /// The versions there are, both ends included.
    const VERSIONS: RangeInclusive<i16>;
    /// The first version with compact lengths and tagged fields.
    const FLEXIBLE_FROM: Option<i16>;

    /// Reads one from the decoder's position; what follows it is left alone.
    fn decode(d: &mut Decoder, version: i16) -> Result<Self, DecodeError>;

    /// Writes it in `version`, which must be one of [`Message::VERSIONS`]. Fields that the version lacks are left
    /// out; null where the version has no null becomes empty.
    fn encode(&self, e: &mut Encoder, version: i16);
}

/// What the generated modules are written in terms of.
mod support {
    pub(super) use std::ops::RangeInclusive;

    pub(super) use bytes::Bytes;

    pub(super) use super::Message;
    pub(super) use crate::{DecodeError, Decoder, Encoder, ErrorCode, Payload, Str, Uuid};
}

#[allow(unused_imports, unused_variables, clippy::all)]
mod generated {
    use super::support;

    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

pub use generated::*;
