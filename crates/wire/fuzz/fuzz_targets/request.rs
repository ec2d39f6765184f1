//! A request of any API and version: the first byte picks the API, the second the version, the rest is the body.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wire::decoder::{BUDGET_BASE, BUDGET_FACTOR};
use wire::{ApiKey, DecodeError, Decoder, Encoder, Request, RequestHeader};

#[path = "../../tests/support/counting.rs"]
#[allow(dead_code)]
mod counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

fuzz_target!(|input: &[u8]| {
    let [api, version, body @ ..] = input else { return };
    let api = ApiKey::ALL[usize::from(*api) % ApiKey::ALL.len()];
    let versions = api.versions();
    let version = versions.start() + i16::from(*version) % (versions.end() - versions.start() + 1);
    let frame = Bytes::copy_from_slice(body);
    let _ = RequestHeader::decode(&mut Decoder::new(frame.clone()));
    let bound = frame.len() * BUDGET_FACTOR + BUDGET_BASE;
    let (decoded, taken) = counting::taken_by(|| Request::decode(api, version, frame));
    assert!(taken.bytes <= bound, "{api} v{version} took {} of {bound} bytes", taken.bytes);
    let Ok(request) = decoded else { return };
    let mut e = Encoder::new();
    request.encode(&mut e, version);
    match Request::decode(api, version, e.into_bytes()) {
        Ok(again) => assert_eq!(again, request),
        // Without the unknown tags that it came with, the frame is smaller and its budget, too.
        Err(error) => assert!(matches!(error, DecodeError::OverBudget { .. }), "{error}"),
    }
});
