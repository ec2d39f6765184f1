//! What decoding and encoding the hot messages costs: `cargo bench -p ottla-wire`.
//!
//! Goals: Produce with 10 partitions in at most 600 ns and 2 allocations, Fetch with 100 partitions in at most 3 us.

#![allow(missing_docs)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::compression::Compression;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::messages::fetch::{FetchResponse, FetchableTopicResponse, PartitionData};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::records::{Batch, BatchBuilder, BatchOptions};
use wire::{ApiKey, Encoder, Frame, Millis, Request, Response};

#[path = "../tests/support/counting.rs"]
#[allow(dead_code, unreachable_pub)]
mod counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

fn batch(compression: Compression, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for record in 0..records {
        let value: Vec<u8> = (0..100).map(|i| (record * 31 + i * i) as u8 & 63).collect();
        builder.append(Millis(record as i64), Some(b"key"), Some(&value), &[]);
    }
    builder.build()
}

fn produce(partitions: i32) -> Request {
    let records = batch(Compression::None, 10);
    let partition = |index| PartitionProduceData { index, records: Some(records.clone()) };
    Request::from(ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: "a-topic-of-usual-length".into(),
            partition_data: (0..partitions).map(partition).collect(),
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    })
}

fn fetch(partitions: i32) -> Request {
    let partition = |partition| FetchPartition {
        partition,
        fetch_offset: 1_000_000,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    Request::from(FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        topics: vec![FetchTopic {
            topic: "a-topic-of-usual-length".into(),
            partitions: (0..partitions).map(partition).collect(),
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    })
}

fn fetch_response(partitions: i32) -> Response {
    let records = batch(Compression::None, 100);
    let partition = |partition_index| PartitionData {
        partition_index,
        records: Some(records.clone().into()),
        aborted_transactions: None,
        ..PartitionData::default()
    };
    Response::from(FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "a-topic-of-usual-length".into(),
            partitions: (0..partitions).map(partition).collect(),
            ..FetchableTopicResponse::default()
        }],
        ..FetchResponse::default()
    })
}

fn bytes_of(request: &Request, version: i16) -> Bytes {
    let mut e = Encoder::new();
    request.encode(&mut e, version);
    // A clone turns the buffer into a shared one, as a connection's read buffer is.
    let bytes = e.into_bytes();
    black_box(bytes.clone());
    bytes
}

fn codec(c: &mut Criterion) {
    for (name, request, versions) in
        [("produce_10", produce(10), [3, 9, 12]), ("fetch_100", fetch(100), [4, 12, 17])]
    {
        for version in versions {
            let api = request.api();
            let bytes = bytes_of(&request, version);
            let (_, taken) = counting::taken_by(|| Request::decode(api, version, bytes.clone()).unwrap());
            println!("{name} v{version}: {} bytes, {} allocations", bytes.len(), taken.calls);
            c.bench_function(&format!("decode/{name}/v{version}"), |b| {
                b.iter(|| Request::decode(api, version, black_box(&bytes).clone()).unwrap())
            });
        }
    }
    let response = fetch_response(100);
    c.bench_function("encode/fetch_response_100/v12", |b| {
        b.iter(|| Frame::response(1, ApiKey::Fetch, 12, black_box(&response)))
    });
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("records");
    for compression in Compression::ALL {
        let batch = Batch::parse(&batch(compression, 1000)).unwrap();
        group.throughput(Throughput::Elements(1000));
        group.bench_function(format!("iterate_1000/{compression}"), |b| {
            b.iter(|| black_box(&batch).records(1 << 20).map(|record| record.unwrap().offset.0).sum::<i64>())
        });
    }
    let batch = batch(Compression::None, 1000);
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.bench_function("parse_and_verify_crc", |b| {
        b.iter(|| Batch::parse(black_box(&batch)).unwrap().verify_crc().unwrap())
    });
    group.finish();
}

criterion_group!(benches, codec, records);
criterion_main!(benches);
