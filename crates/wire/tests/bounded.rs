//! Whatever arrives is decoded or refused in memory that its size pays for, and without a panic.

mod support;

use bytes::Bytes;
use support::counting::{Counting, taken_by};
use wire::decoder::{BUDGET_BASE, BUDGET_FACTOR};
use wire::{ApiKey, DecodeError, Request, Response};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_million_damaged_frames_are_decoded_or_refused_within_the_bound() {
    let outcome = support::mutation::run(1_000_000, 1);
    println!("{outcome:?}");
    assert!(outcome.decoded > 10_000 && outcome.refused > 100_000, "{outcome:?}");
}

#[test]
fn a_count_beyond_the_frame_is_refused_before_memory_is_taken() {
    // Metadata v0: an array of i32::MAX topics in a frame of four bytes.
    let (refused, taken) =
        taken_by(|| Request::decode(ApiKey::Metadata, 0, Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff])));
    assert_eq!(refused, Err(DecodeError::CountTooLarge { count: i32::MAX as usize, left: 0 }));
    assert_eq!(taken.bytes, 0);
}

#[test]
fn many_tiny_items_are_refused_once_they_cost_more_than_the_frame_is_worth() {
    // DeleteGroups v2: one byte an empty name, 32 bytes each in memory.
    let len = 1 << 20;
    let mut frame = vec![0x81, 0x80, 0x40];
    frame.resize(3 + len, 1);
    frame.push(0);
    let frame = Bytes::from(frame);
    let (refused, taken) = taken_by(|| Request::decode(ApiKey::DeleteGroups, 2, frame.clone()));
    assert!(matches!(refused, Err(DecodeError::OverBudget { .. })), "{refused:?}");
    assert!(taken.bytes <= frame.len() * BUDGET_FACTOR + BUDGET_BASE);
}

#[test]
fn ordinary_messages_stay_far_below_the_bound() {
    // 5,000 groups with short names: what an operator's tool asks for in one go.
    let mut frame = vec![0, 0, 0x13, 0x88];
    for group in 0..5000 {
        let name = format!("group-{group:04}");
        frame.extend((name.len() as i16).to_be_bytes());
        frame.extend(name.bytes());
    }
    let decoded = Request::decode(ApiKey::DescribeGroups, 0, Bytes::from(frame));
    assert!(decoded.is_ok());
    // 3,000 topics of three letters, all of whose metadata is asked for.
    let mut frame = vec![0, 0, 0x0b, 0xb8];
    for topic in 0..3000 {
        frame.extend([0, 3]);
        frame.extend(format!("{topic:03x}").bytes().take(3));
    }
    let decoded = Request::decode(ApiKey::Metadata, 8, Bytes::from([&frame[..], &[1, 1, 1]].concat()));
    assert!(decoded.is_ok(), "{decoded:?}");
    assert!(Response::decode(ApiKey::Heartbeat, 0, Bytes::from_static(&[0, 0])).is_ok());
}
