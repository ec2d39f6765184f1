//! The table of APIs: which there are, in which versions, and the closed enums of their messages.
//!
//! Invariant: an API is in the table with its whole range or not at all; the rows are generated from `schema/`.
//! It never says who may call an API: that is the broker's table.

use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::messages::{self, Message};
use crate::{DecodeError, Decoder, Encoder};

include!(concat!(env!("OUT_DIR"), "/api.rs"));

/// A request that knows its API and what answers it.
pub trait ApiRequest: Message + Into<Request> {
    /// The API.
    const API: ApiKey;
    /// What answers it.
    type Response: Message + Into<Response>;
}

impl ApiKey {
    /// Kafka's number.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// Whether the API is for brokers among themselves: never told to clients, and Kafka knows nothing of it.
    pub const fn is_private(self) -> bool {
        self.code() > 10_000
    }

    /// The version of the request header: 2 where it has tagged fields.
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// The version of the response header: 1 where it has tagged fields.
    ///
    /// ApiVersions is always answered with version 0 (KIP-511): a client must find the error code before it
    /// knows whether the server understood its version.
    pub fn response_header_version(self, version: i16) -> i16 {
        if self != ApiKey::ApiVersions && self.is_flexible(version) { 1 } else { 0 }
    }

    fn is_flexible(self, version: i16) -> bool {
        self.flexible_from().is_some_and(|first| version >= first)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Request {
    /// Reads a request's body. Bytes after it are ignored, as Kafka ignores them.
    pub fn decode(api: ApiKey, version: i16, body: Bytes) -> Result<Request, DecodeError> {
        Request::decode_from(api, version, &mut Decoder::new(body))
    }
}

impl Response {
    /// Reads a response's body. Bytes after it are ignored, as Kafka ignores them.
    pub fn decode(api: ApiKey, version: i16, body: Bytes) -> Result<Response, DecodeError> {
        Response::decode_from(api, version, &mut Decoder::new(body))
    }
}
