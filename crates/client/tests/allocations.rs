//! What a record costs on its way in: one that joins a batch takes nothing from the allocator but the batch's growth.

#[path = "../../wire/tests/support/counting.rs"]
#[allow(dead_code, unreachable_pub)]
mod counting;

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use client::{Address, BoxFuture, Cluster, Environment, Options, Producer, ProducerRecord, Socket};
use counting::{Counting, taken_by};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use wire::messages::api_versions::{ApiVersion, ApiVersionsResponse};
use wire::messages::metadata::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use wire::{ApiKey, Decoder, Frame, Millis, PartitionId, RequestHeader, Response, Str};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A broker that knows a topic and takes no records.
struct Stage;

impl Environment for Stage {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(theirs));
        Box::pin(async { Ok(Box::new(ours) as Box<dyn Socket>) })
    }

    fn now(&self) -> Millis {
        Millis(1_700_000_000_000)
    }

    fn random(&self) -> u64 {
        1
    }
}

async fn serve(mut socket: DuplexStream) -> io::Result<()> {
    loop {
        let length = socket.read_i32().await?;
        let mut frame = BytesMut::zeroed(usize::try_from(length).expect("a length"));
        socket.read_exact(&mut frame).await?;
        let header = RequestHeader::decode(&mut Decoder::new(frame.freeze())).expect("a header");
        let api = ApiKey::from_code(header.api_key).expect("an API");
        let response: Response = match api {
            ApiKey::ApiVersions => {
                let offered = |api: ApiKey| ApiVersion {
                    api_key: api.code(),
                    max_version: *api.versions().end(),
                    ..Default::default()
                };
                let api_keys = vec![offered(ApiKey::ApiVersions), offered(ApiKey::Metadata)];
                ApiVersionsResponse { api_keys, ..Default::default() }.into()
            }
            ApiKey::Metadata => {
                let broker =
                    MetadataResponseBroker { node_id: 1, host: "b".into(), port: 9092, ..Default::default() };
                let partition = MetadataResponsePartition { leader_id: 1, ..Default::default() };
                let name = Some(Str::from("t"));
                let topic = MetadataResponseTopic { name, partitions: vec![partition], ..Default::default() };
                MetadataResponse { brokers: vec![broker], topics: vec![topic], ..Default::default() }.into()
            }
            _ => return Ok(()),
        };
        let frame = Frame::response(header.correlation_id, api, header.api_version, &response);
        socket.write_all(&frame.expect("it is short").to_bytes()).await?;
    }
}

#[test]
fn a_record_that_joins_a_batch_allocates_nothing_of_its_own() {
    const RECORDS: usize = 1000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut options = Options::default();
        options.set("linger.ms", "20000").expect("a setting");
        let cluster = Cluster::new(options, Arc::new(Stage)).expect("the settings fit together");
        let producer = Producer::new(cluster).expect("the settings fit together");
        let record = || ProducerRecord {
            partition: Some(PartitionId(0)),
            key: Some(Bytes::from_static(b"key")),
            ..ProducerRecord::new("t", Bytes::from_static(&[b'v'; 100]))
        };
        drop(producer.enqueue(record()).await.expect("there is room"));
        let mut handles = Vec::with_capacity(RECORDS);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let ((), taken) = taken_by(|| {
            for _ in 0..RECORDS {
                // A task's budget, which a thousand records use up, is not what is measured.
                let mut enqueue = std::pin::pin!(tokio::task::unconstrained(producer.enqueue(record())));
                match Future::poll(enqueue.as_mut(), &mut context) {
                    std::task::Poll::Ready(handle) => handles.push(handle.expect("there is room")),
                    std::task::Poll::Pending => panic!("there is nothing to wait for"),
                }
            }
        });
        assert_eq!(handles.len(), RECORDS);
        // The batch grows; nothing else is taken.
        assert!(taken.calls <= 16, "{taken:?} for {RECORDS} records");
    });
}
