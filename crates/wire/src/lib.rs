//! Kafka's wire protocol: bytes to types and back.
//!
//! Invariant: whatever the bytes are, decoding ends with a value or a typed error, in memory bounded by the
//! bytes themselves. This crate never does I/O, never reads a clock and never waits.
//!
//! In reading order: the primitive types, the decoder and the encoder over them, the messages generated from
//! `schema/`, the table of APIs, frames that join header and message, and the records that they carry.

mod str;
mod uuid;
mod ids;
mod error_code;
mod payload;
pub mod decoder;
pub mod encoder;
pub mod messages;
mod api;
mod frame;
pub mod compression;
pub mod records;

pub use self::str::Str;
pub use api::{ApiKey, ApiRequest, Request, Response};
pub use decoder::{DecodeError, Decoder};
pub use encoder::Encoder;
pub use error_code::ErrorCode;
pub use frame::{Chunk, Frame, FrameTooLong, RequestHeader, ResponseHeader};
pub use ids::{
    BrokerId, LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, TopicPartition,
};
pub use messages::Message;
pub use payload::Payload;
pub use uuid::{Uuid, UuidError};
