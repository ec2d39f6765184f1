//! Headers, and whole frames ready for a vectored write.
//!
//! Invariant: a frame starts with its own length and is complete. It never looks into a message's body.

use bytes::Bytes;

use crate::{ApiKey, DecodeError, Decoder, Encoder, Request, Response, Str};

/// What stands before every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API's code, known or not.
    pub api_key: i16,
    /// The version of the API, supported or not.
    pub api_version: i16,
    /// What the response repeats.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<Str>,
}

impl RequestHeader {
    /// Reads a header of the version that its API and version call for; the body follows.
    ///
    /// An API that is not in the table is read as if its header had no tagged fields: the request can be
    /// named in the refusal, and its body is of no use anyway.
    pub fn decode(d: &mut Decoder) -> Result<RequestHeader, DecodeError> {
        let (api_key, api_version) = (d.int16()?, d.int16()?);
        let correlation_id = d.int32()?;
        // The client id keeps its old length in flexible headers, so that any broker can read it.
        d.set_flexible(false);
        let client_id = d.nullable_string()?;
        let api = ApiKey::from_code(api_key);
        d.set_flexible(api.is_some_and(|api| api.request_header_version(api_version) == 2));
        d.skip_tagged_fields()?;
        Ok(RequestHeader { api_key, api_version, correlation_id, client_id })
    }

    fn encode(&self, e: &mut Encoder) {
        e.int16(self.api_key);
        e.int16(self.api_version);
        e.int32(self.correlation_id);
        e.set_flexible(false);
        e.nullable_string(&self.client_id);
        let api = ApiKey::from_code(self.api_key);
        e.set_flexible(api.is_some_and(|api| api.request_header_version(self.api_version) == 2));
        e.no_tagged_fields();
    }
}

/// What stands before every response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeader {
    /// The request's.
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of a response to `api` in `version`; the body follows.
    pub fn decode(d: &mut Decoder, api: ApiKey, version: i16) -> Result<ResponseHeader, DecodeError> {
        let correlation_id = d.int32()?;
        d.set_flexible(api.response_header_version(version) == 1);
        d.skip_tagged_fields()?;
        Ok(ResponseHeader { correlation_id })
    }
}

/// A piece of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// These bytes.
    Bytes(Bytes),
    /// As many bytes that whoever writes the frame supplies: those of the next [`crate::Payload::Deferred`].
    Deferred(usize),
}

impl Chunk {
    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        match self {
            Chunk::Bytes(bytes) => bytes.len(),
            Chunk::Deferred(len) => *len,
        }
    }

    /// Whether the piece has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes. Panics where they are deferred, which only a response to a fetch can be.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Chunk::Bytes(bytes) => bytes,
            Chunk::Deferred(len) => panic!("{len} bytes are deferred"),
        }
    }
}

/// A length, a header and a message, in pieces to be sent one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The pieces; large payloads are pieces of their own.
    pub chunks: Vec<Chunk>,
}

/// A message too long for the length field of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes; the protocol's length field ends at {max}", max = i32::MAX)]
pub struct FrameTooLong(usize);

impl Frame {
    /// The response to the request `correlation_id`.
    pub fn response(
        correlation_id: i32,
        api: ApiKey,
        version: i16,
        response: &Response,
    ) -> Result<Frame, FrameTooLong> {
        debug_assert_eq!(api, response.api());
        Frame::build(|e| {
            e.int32(correlation_id);
            e.set_flexible(api.response_header_version(version) == 1);
            e.no_tagged_fields();
            response.encode(e, version);
        })
    }

    /// A request; the header names its API and version. Panics where it is too long for a frame, which is its sender's
    /// to avoid.
    pub fn request(header: &RequestHeader, request: &Request) -> Frame {
        debug_assert_eq!(header.api_key, request.api().code());
        Frame::build(|e| {
            header.encode(e);
            request.encode(e, header.api_version);
        })
        .expect("a request fits a frame")
    }

    fn build(write: impl FnOnce(&mut Encoder)) -> Result<Frame, FrameTooLong> {
        let mut e = Encoder::new();
        e.int32(0);
        write(&mut e);
        let len = i32::try_from(e.len() - 4).map_err(|_| FrameTooLong(e.len() - 4))?;
        e.patch_int32(0, len);
        Ok(Frame { chunks: e.into_chunks() })
    }

    /// Bytes on the wire, the length prefix included.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Chunk::len).sum()
    }

    /// Never: a frame has at least its length prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame in one piece, length prefix included. Panics if part of it is deferred.
    pub fn to_bytes(&self) -> Bytes {
        match self.chunks.as_slice() {
            [only] => only.bytes().clone(),
            chunks => {
                let mut whole = Vec::with_capacity(self.len());
                chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk.bytes()));
                Bytes::from(whole)
            }
        }
    }
}
