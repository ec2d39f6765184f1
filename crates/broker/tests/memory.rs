//! What others do must not take the broker's memory. Each story measures the memory of this whole process, so they are told
//! one after the other, and nothing else is.

mod support;

use std::io::Write;

use parking_lot::Mutex;
use support::{TestBroker, TestClient, batch_of, connect, header, read_frame};
use wire::messages::alter_client_quotas::{AlterClientQuotasRequest, EntityData, EntryData, OpData};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use wire::{ApiKey, Decoder, ErrorCode, Frame, Message, Request, ResponseHeader};

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

/// A client sends as fast as it can; its quota has the broker read it slower.
#[test]
fn a_burst_over_a_quota_waits_in_the_sockets_and_loses_nothing() {
    const BATCHES: usize = 400;
    const BATCH_BYTES: usize = 64 * 1024;
    let _alone = MEASURED.lock();
    // Nearly nothing may be saved up, so that most of the burst is over the quota.
    let broker = TestBroker::start(&["quota.window.num=2"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let op = OpData { key: "producer_byte_rate".into(), value: 8e6, remove: false };
    let entity = EntityData { entity_type: "client-id".into(), entity_name: Some("bad".into()) };
    let entries = vec![EntryData { entity: vec![entity], ops: vec![op] }];
    let altered = client.ask(AlterClientQuotasRequest { entries, validate_only: false });
    assert_eq!(altered.entries[0].error_code, ErrorCode::NONE);

    let data =
        PartitionProduceData { index: 0, records: Some(batch_of(&[(1_700_000_000_000, &[7; BATCH_BYTES])])) };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    let produce =
        ProduceRequest { acks: -1, timeout_ms: 60_000, topic_data: vec![topic], ..Default::default() };
    let frame = Frame::request(&header(ApiKey::Produce, 12), &Request::Produce(produce)).to_bytes();
    let before = support::resident_bytes();
    let mut reader = connect(&broker);
    let mut writer = reader.try_clone().unwrap();
    let sender = std::thread::spawn(move || (0..BATCHES).for_each(|_| writer.write_all(&frame).unwrap()));
    let (mut offsets, mut held_back, mut grown) = (Vec::new(), 0, 0);
    for _ in 0..BATCHES {
        let mut reply = Decoder::new(read_frame(&mut reader).expect("every request is answered"));
        ResponseHeader::decode(&mut reply, ApiKey::Produce, 12).unwrap();
        let answer = ProduceResponse::decode(&mut reply, 12).unwrap();
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!(partition.error_code, ErrorCode::NONE);
        offsets.push(partition.base_offset);
        held_back += usize::from(answer.throttle_time_ms > 0);
        grown = grown.max(support::resident_bytes().saturating_sub(before));
    }
    sender.join().unwrap();
    assert!(offsets.iter().copied().eq(0..BATCHES as i64), "each batch is there once, and in order");
    assert!(held_back > 0);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes for a burst of {}", BATCHES * BATCH_BYTES);
}

#[test]
fn large_requests_that_never_end_take_no_more_than_their_budget() {
    const SENT: usize = 2 * 1024 * 1024;
    let _alone = MEASURED.lock();
    let broker = TestBroker::start(&["queued.max.request.bytes=16777216"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let before = support::resident_bytes();
    let mut sockets: Vec<_> = (0..100)
        .map(|_| {
            let mut socket = connect(&broker);
            socket.write_all(&(8 * 1024 * 1024_i32).to_be_bytes()).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let mut unsent = vec![SENT; sockets.len()];
    // As much as the sockets take: the broker has stopped reading most of them.
    for _ in 0..20 {
        for (socket, unsent) in sockets.iter_mut().zip(&mut unsent) {
            while let Ok(sent @ 1..) = socket.write(&vec![0; *unsent]) {
                *unsent -= sent;
            }
        }
        // Small requests are answered meanwhile.
        client.api_versions();
    }
    let grown = support::resident_bytes().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes for {} half requests", sockets.len());
    drop(sockets);
    client.append("t", 0, batch_of(&[(1_700_000_000_000, &[7; 500 * 1024])]));
}
