//! What others do must not take the broker's memory. Each story measures the memory of this whole process, so they are told
//! one after the other, and nothing else is.

mod support;

use std::io::Write;

use parking_lot::Mutex;
use support::{TestBroker, TestClient, batch_of, connect, header, read_frame};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::{ApiKey, Frame, Request};

static MEASURED: Mutex<()> = Mutex::new(());

#[test]
fn a_frame_that_claims_much_and_sends_little_takes_no_memory() {
    let _alone = MEASURED.lock();
    let broker = TestBroker::start(&[]);
    let before = support::resident_bytes();
    let sockets: Vec<_> = (0..200)
        .map(|_| {
            let mut socket = connect(&broker);
            socket.write_all(&(90 * 1024 * 1024_i32).to_be_bytes()).unwrap();
            socket.write_all(&[0; 100]).unwrap();
            socket
        })
        .collect();
    TestClient::connect(&broker).create_topic("t", 1);
    let grown = support::resident_bytes().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes for {} idle claims", sockets.len());
}

#[test]
fn readers_that_do_not_read_hold_no_memory() {
    const STORED: usize = 8 * 1024 * 1024;
    let _alone = MEASURED.lock();
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    for _ in 0..10 {
        client.append("t", 0, batch_of(&[(1_700_000_000_000, &[7; STORED / 10])]));
    }
    let wanted = FetchPartition { partition: 0, partition_max_bytes: i32::MAX, ..Default::default() };
    let topic = FetchTopic { topic: "t".into(), partitions: vec![wanted], ..Default::default() };
    let fetch = FetchRequest { min_bytes: 1, max_bytes: i32::MAX, topics: vec![topic], ..Default::default() };
    let frame = Frame::request(&header(ApiKey::Fetch, 12), &Request::Fetch(fetch)).to_bytes();
    let before = support::resident_bytes();
    let mut readers: Vec<_> = (0..100)
        .map(|_| {
            let mut socket = connect(&broker);
            socket.write_all(&frame).unwrap();
            // The answer has begun; no more of it is taken.
            assert_eq!(socket.peek(&mut [0; 4]).unwrap(), 4);
            socket
        })
        .collect();
    let grown = support::resident_bytes().saturating_sub(before);
    assert!(grown < 128 * 1024 * 1024, "{grown} bytes for {} readers of {STORED}", readers.len());
    for reader in &mut readers {
        assert!(read_frame(reader).unwrap().len() > STORED, "an answer goes on when its reader does");
    }
}
