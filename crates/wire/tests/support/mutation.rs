//! Damages frames in the ways that hurt decoders, and checks what decoding the damage costs.

use bytes::Bytes;
use wire::decoder::{BUDGET_BASE, BUDGET_FACTOR};
use wire::{ApiKey, Decoder, Request, RequestHeader, Response};

use super::counting::taken_by;
use super::random::Random;
use super::schema::{Kind, Schema};
use super::{sample, schemas};

/// Mutations that are made of one sample before the next is drawn.
const MUTATIONS_PER_SAMPLE: usize = 50;

/// What a run saw.
#[derive(Debug, Default)]
pub struct Outcome {
    pub decoded: u64,
    pub refused: u64,
    /// The most memory a frame took, as a share of what it may take.
    pub worst: f64,
}

/// Decodes `count` damaged requests and responses of every API and version, and panics at the first that takes
/// more memory than it may.
pub fn run(count: u64, seed: u64) -> Outcome {
    let schemas = schemas();
    let apis: Vec<(&Schema, ApiKey)> = schemas
        .iter()
        .filter_map(|schema| match schema.kind {
            Kind::Api { code, .. } => Some((schema, ApiKey::from_code(code).expect("a known api"))),
            Kind::Record { .. } => None,
        })
        .collect();
    let mut random = Random::new(seed);
    let mut outcome = Outcome::default();
    let mut done = 0;
    while done < count {
        let (schema, api) = apis[random.below(apis.len())];
        let versions = schema.versions;
        let version = versions.first + random.below((versions.last - versions.first + 1) as usize) as i16;
        let side = random.below(2);
        let whole = sample::message(schema, schema.messages()[side], version, &mut random);
        for _ in 0..MUTATIONS_PER_SAMPLE.min((count - done) as usize) {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(3) {
                mutate(&mut bytes, &mut random);
            }
            let frame = Bytes::from(bytes);
            let bound = frame.len() * BUDGET_FACTOR + BUDGET_BASE;
            let (decoded, taken) = taken_by(|| match side {
                0 => Request::decode(api, version, frame.clone()).is_ok(),
                _ => Response::decode(api, version, frame.clone()).is_ok(),
            });
            assert!(taken.bytes <= bound, "{api} v{version} took {} of {bound}: {frame:?}", taken.bytes);
            outcome.worst = outcome.worst.max(taken.bytes as f64 / bound as f64);
            let (_, header) = taken_by(|| RequestHeader::decode(&mut Decoder::new(frame)).is_ok());
            assert!(header.bytes <= BUDGET_BASE);
            if decoded {
                outcome.decoded += 1
            } else {
                outcome.refused += 1
            }
            done += 1;
        }
    }
    outcome
}

/// One wound.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
        return;
    }
    let at = random.below(bytes.len());
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        // A length of any size, where there may have been one.
        2 | 3 => {
            let length = [i32::MAX, i32::MIN, -2, 1 << 24, 1 << 16, 255][random.below(6)];
            for (byte, new) in bytes[at..].iter_mut().zip(length.to_be_bytes()) {
                *byte = new;
            }
        }
        4 => {
            for (byte, new) in bytes[at..].iter_mut().zip([0xff, 0xff, 0xff, 0xff, 0x0f]) {
                *byte = new;
            }
        }
        5 => bytes.truncate(at),
        6 => bytes.insert(at, random.next() as u8),
        _ => {
            let end = (at + 1 + random.below(64)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
    }
}
