//! What arrives broken, through a real socket: each row of the promise "bad input gets a clear error and harms
//! nobody" is a story here, with a well-behaved client beside it.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use support::{TestBroker, TestClient, Xorshift, batch_of, connect, header, read_frame};
use wire::compression::Compression;
use wire::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::{ApiKey, Decoder, ErrorCode, Frame, Request, Response};

/// Mutated requests sent through the live broker; `OTTLA_MUTATIONS` sets another number.
const MUTATIONS: u64 = 100_000;
fn produce(records: Option<Bytes>) -> ProduceRequest {
    let partition_data = vec![PartitionProduceData { index: 0, records }];
    let topic = TopicProduceData { name: "t".into(), partition_data, ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

fn batch(value: &[u8]) -> Bytes {
    batch_of(&[(1_700_000_000_000, value)])
}

#[test]
fn a_frame_over_the_limit_closes_its_connection() {
    let broker = TestBroker::start(&["socket.request.max.bytes=100000"]);
    for claimed in [100_001_i32, i32::MAX, -1, i32::MIN] {
        let mut socket = connect(&broker);
        socket.write_all(&claimed.to_be_bytes()).unwrap();
        assert_eq!(read_frame(&mut socket), None, "{claimed}");
    }
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_with_the_list() {
    let broker = TestBroker::start(&[]);
    let mut socket = connect(&broker);
    let mut frame =
        Frame::request(&header(ApiKey::ApiVersions, 3), &Request::ApiVersions(ApiVersionsRequest::default()))
            .to_bytes()
            .to_vec();
    frame[6..8].copy_from_slice(&99_i16.to_be_bytes());
    socket.write_all(&frame).unwrap();
    let mut reply = Decoder::new(read_frame(&mut socket).unwrap());
    assert_eq!(reply.int32().unwrap(), 7);
    let Ok(Response::ApiVersions(ApiVersionsResponse { error_code, api_keys, .. })) =
        Response::decode(ApiKey::ApiVersions, 0, reply.rest())
    else {
        panic!("not an answer in version 0")
    };
    assert_eq!(error_code, ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(api_keys.len(), ApiKey::ALL.iter().filter(|api| !api.is_private()).count());
}

#[test]
fn an_unknown_api_is_told_so() {
    let broker = TestBroker::start(&[]);
    for (api, version) in
        [(32_000_i16, 0_i16), (ApiKey::Fetch.code(), 3), (ApiKey::Fetch.code(), 99), (-1, -1)]
    {
        let mut socket = connect(&broker);
        let mut body = Vec::new();
        body.extend_from_slice(&api.to_be_bytes());
        body.extend_from_slice(&version.to_be_bytes());
        body.extend_from_slice(&7_i32.to_be_bytes());
        body.extend_from_slice(&(-1_i16).to_be_bytes());
        body.push(0);
        socket.write_all(&i32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
        socket.write_all(&body).unwrap();
        let mut reply = Decoder::new(read_frame(&mut socket).unwrap());
        assert_eq!(
            (reply.int32().unwrap(), reply.error_code().unwrap()),
            (7, ErrorCode::UNSUPPORTED_VERSION)
        );
    }
}

#[test]
fn bad_batches_are_refused_by_name_and_leave_nothing_behind() {
    let broker = TestBroker::start(&["message.max.bytes=10000"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let good = batch(b"good");
    let mutated = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        Some(Bytes::from(bytes))
    };
    let with_crc = |change: &dyn Fn(&mut Vec<u8>)| {
        mutated(&|bytes| {
            change(bytes);
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        })
    };
    let cases = [
        ("a wrong crc", mutated(&|b| b[30] ^= 1), ErrorCode::CORRUPT_MESSAGE),
        ("half a batch", mutated(&|b| b.truncate(40)), ErrorCode::CORRUPT_MESSAGE),
        ("a length past the end", mutated(&|b| b[8..12].fill(0x7f)), ErrorCode::CORRUPT_MESSAGE),
        ("format v0", mutated(&|b| b[16] = 0), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("format v1", mutated(&|b| b[16] = 1), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT),
        (
            "a lying record count",
            with_crc(&|b| b[57..61].copy_from_slice(&9_i32.to_be_bytes())),
            ErrorCode::INVALID_RECORD,
        ),
        ("a control batch", with_crc(&|b| b[22] |= 0x20), ErrorCode::INVALID_RECORD),
        // No transaction could end it, as long as there is no coordinator.
        ("a batch of a transaction", with_crc(&|b| b[22] |= 0x10), ErrorCode::INVALID_TXN_STATE),
        (
            "a header count without headers",
            with_crc(&|b| *b.last_mut().unwrap() = 2),
            ErrorCode::INVALID_RECORD,
        ),
        ("too large", Some(batch(&[7; 20_000])), ErrorCode::MESSAGE_TOO_LARGE),
        ("no records", None, ErrorCode::INVALID_RECORD),
    ];
    for (what, records, expected) in cases {
        assert_eq!(client.produce(produce(records)).0, expected, "{what}");
    }
    assert_eq!(
        client.produce(produce(Some(good.clone()))),
        (ErrorCode::NONE, 0),
        "nothing was appended before"
    );
}

/// A compressed batch under a right checksum, with `change`d header and payload.
fn compressed(codec: Compression, payload: &[u8], count: i32) -> Bytes {
    let mut batch = batch(b"").to_vec();
    batch.truncate(61);
    batch.extend_from_slice(&codec.compress(payload, None));
    let length = i32::try_from(batch.len()).unwrap() - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[22] |= codec.code() as u8;
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

#[test]
fn a_compressed_batch_is_opened_before_it_is_stored() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let one_record = &batch(b"value")[61..];
    let bomb = vec![0; 100 * 1024 * 1024];
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        for (what, payload, count, expected) in [
            ("what it says", one_record, 1, ErrorCode::NONE),
            ("a lying count", one_record, 5, ErrorCode::INVALID_RECORD),
            ("no records at all", &b"not a record"[..], 1, ErrorCode::INVALID_RECORD),
        ] {
            let (error, _) = client.produce(produce(Some(compressed(codec, payload, count))));
            assert_eq!(error, expected, "{codec:?}: {what}");
        }
    }
    for codec in [Compression::Gzip, Compression::Zstd] {
        let (error, _) = client.produce(produce(Some(compressed(codec, &bomb, 1))));
        assert_eq!(error, ErrorCode::MESSAGE_TOO_LARGE, "{codec:?}: a bomb");
    }
    let mut torn = compressed(Compression::Gzip, one_record, 1).to_vec();
    torn[65..].fill(0x55);
    let crc = crc32c::crc32c(&torn[21..]);
    torn[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(client.produce(produce(Some(torn.into()))).0, ErrorCode::INVALID_RECORD, "not gzip inside");
    // Only what could be opened is there, and readers get past it.
    assert_eq!(client.append("t", 0, batch(b"next")), 4);
    assert!(!client.fetch("t", 0, 0).unwrap().is_empty());
}

#[test]
fn a_partition_that_refuses_its_records_leaves_the_others_alone() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 3);
    let mut broken = batch(b"broken").to_vec();
    broken[30] ^= 1;
    let parts = [batch(b"first"), Bytes::from(broken), batch(b"third")];
    let partition_data =
        (0..).zip(parts).map(|(index, records)| PartitionProduceData { index, records: Some(records) });
    let topic =
        TopicProduceData { name: "t".into(), partition_data: partition_data.collect(), ..Default::default() };
    let request =
        ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() };
    let answers = client.ask_in(12, request).responses.remove(0).partition_responses;
    let told: Vec<_> = answers.iter().map(|answer| (answer.error_code, answer.base_offset)).collect();
    assert_eq!(told, [(ErrorCode::NONE, 0), (ErrorCode::CORRUPT_MESSAGE, -1), (ErrorCode::NONE, 0)]);
    assert!(!client.fetch("t", 2, 0).unwrap().is_empty());
    assert!(client.fetch("t", 1, 0).unwrap().is_empty());
}

#[test]
fn a_partition_named_a_thousand_times_is_fetched_once() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    client.append("t", 0, batch(&[7; 500_000]));
    client.append("t", 1, batch(&[7; 500_000]));
    let wanted = |partition| FetchPartition { partition, partition_max_bytes: 0, ..Default::default() };
    let partitions = (0..5_000).map(|at| wanted(at % 2)).collect();
    let topic = FetchTopic { topic: "t".into(), partitions, ..Default::default() };
    let fetch = FetchRequest { min_bytes: 1, max_bytes: 1, topics: vec![topic], ..Default::default() };
    let answer = client.ask_in(11, fetch).responses.remove(0).partitions;
    let lengths: Vec<_> = answers_in_kb(&answer);
    assert_eq!(lengths, [500, 0], "each once, and one batch in all, however little was allowed");
}

fn answers_in_kb(answer: &[PartitionData]) -> Vec<usize> {
    answer.iter().map(|part| part.records.as_ref().map_or(0, |records| records.len() / 1_000)).collect()
}

#[test]
fn what_was_asked_before_a_broken_frame_is_answered() {
    let broker = TestBroker::start(&[]);
    TestClient::connect(&broker).create_topic("t", 1);
    let good = Frame::request(&header(ApiKey::Produce, 12), &Request::Produce(produce(Some(batch(b"x")))));
    let mut socket = connect(&broker);
    let broken = [&good.to_bytes()[..], &[0, 0, 0, 12, 0, 0, 0, 12, 0, 0, 0, 9, 0, 9, 9, 9]].concat();
    socket.write_all(&broken).unwrap();
    assert!(read_frame(&mut socket).is_some(), "the records are stored, and that is said");
    assert_eq!(read_frame(&mut socket), None);

    let mut socket = connect(&broker);
    socket.write_all(&good.to_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_frame(&mut socket).is_some(), "a peer may send no more and still read");
}

#[test]
fn a_silent_connection_is_cut_and_its_neighbour_is_not() {
    let broker = TestBroker::start(&["connections.max.idle.ms=1000"]);
    let mut silent = connect(&broker);
    silent.write_all(&[0, 0]).unwrap();
    let mut neighbour = TestClient::connect(&broker);
    let closed = std::thread::spawn(move || read_frame(&mut silent).is_none());
    while !closed.is_finished() {
        neighbour.api_versions();
    }
    assert!(closed.join().unwrap());
    neighbour.api_versions();
}

#[test]
fn mutated_requests_harm_nobody() {
    let broker =
        Arc::new(TestBroker::start(&["auto.create.topics.enable=false", "offsets.topic.num.partitions=2"]));
    TestClient::connect(&broker).create_topic("t", 1);
    let mutations =
        std::env::var("OTTLA_MUTATIONS").map_or(MUTATIONS, |count| count.parse().expect("a number"));
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let neighbour = {
        let (broker, done, served) = (Arc::clone(&broker), Arc::clone(&done), Arc::clone(&served));
        std::thread::spawn(move || {
            let mut client = TestClient::connect(&broker);
            client.create_topic("neighbour", 1);
            while !done.load(Ordering::Relaxed) {
                client.produce_and_read_back("neighbour");
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let before = support::resident_bytes();
    let samples = support::sample_frames();
    let mut rng = Xorshift::new(0x0071a);
    let mut socket = connect(&broker);
    for _ in 0..mutations {
        let frame = support::mutate(&samples[rng.below(samples.len())], &mut rng);
        let is_sent = socket.write_all(&frame).is_ok();
        // A request that may wait (a join, a long poll) is not waited for: its connection is left instead.
        let answered = is_sent && support::is_answered_at_once(&frame) && read_frame(&mut socket).is_some();
        if !answered {
            socket = connect(&broker);
        }
    }
    done.store(true, Ordering::Relaxed);
    neighbour.join().expect("the neighbour was served throughout");
    assert!(served.load(Ordering::Relaxed) > 0);
    let grown = support::resident_bytes().saturating_sub(before);
    assert!(grown < 256 * 1024 * 1024, "{grown} bytes");
}
