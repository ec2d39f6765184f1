//! A client of one connection that asks one thing at a time, in the version that it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use wire::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::records::{BatchBuilder, BatchOptions};
use wire::{ApiRequest, Decoder, ErrorCode, Frame, Message, Millis, RequestHeader, ResponseHeader};

use super::TestBroker;

/// An answer that takes longer counts as none.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// The last version of Produce and Fetch that names topics.
const BY_NAME_VERSION_MAX: i16 = 12;

/// A connection to the broker.
pub struct TestClient {
    socket: TcpStream,
    correlation_id: i32,
    /// The correlation id of the last request that has its answer.
    answered: i32,
    client_id: &'static str,
}

impl TestClient {
    /// Connects.
    pub fn connect(broker: &TestBroker) -> TestClient {
        TestClient::connect_to(broker.addr())
    }

    /// Connects to an address.
    pub fn connect_to(address: SocketAddr) -> TestClient {
        let socket = TcpStream::connect(address).expect("the broker listens");
        socket.set_read_timeout(Some(REPLY_MAX)).expect("a timeout can be set");
        socket.set_nodelay(true).expect("the socket is a TCP socket");
        TestClient { socket, correlation_id: 0, answered: 0, client_id: "test" }
    }

    /// Connects as a client of this id.
    pub fn connect_as(broker: &TestBroker, client_id: &'static str) -> TestClient {
        TestClient { client_id, ..TestClient::connect(broker) }
    }

    /// Its connection.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Asks in the newest version there is.
    pub fn ask<R: ApiRequest>(&mut self, request: R) -> R::Response {
        self.ask_in(*R::VERSIONS.end(), request)
    }

    /// Asks in `version`.
    pub fn ask_in<R: ApiRequest>(&mut self, version: i16, request: R) -> R::Response {
        self.send_in(version, request);
        self.receive_in::<R>(version)
    }

    /// Sends a request whose answer is received later, in its turn.
    pub fn send_in<R: ApiRequest>(&mut self, version: i16, request: R) {
        self.correlation_id += 1;
        let header = RequestHeader {
            api_key: R::API.code(),
            api_version: version,
            correlation_id: self.correlation_id,
            client_id: Some(self.client_id.into()),
        };
        let frame = Frame::request(&header, &request.into());
        self.socket.write_all(&frame.to_bytes()).expect("the broker reads");
    }

    /// The answer to the oldest request that has none.
    pub fn receive_in<R: ApiRequest>(&mut self, version: i16) -> R::Response {
        let mut reply = Decoder::new(self.read_frame());
        let answered = ResponseHeader::decode(&mut reply, R::API, version).expect("a header is readable");
        self.answered += 1;
        assert_eq!(answered.correlation_id, self.answered);
        R::Response::decode(&mut reply, version).expect("an answer is readable")
    }

    fn read_frame(&mut self) -> Bytes {
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).expect("the broker answers");
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        self.socket.read_exact(&mut frame).expect("the broker finishes its answer");
        Bytes::from(frame)
    }

    /// What the broker speaks.
    pub fn api_versions(&mut self) -> ApiVersionsResponse {
        let request =
            ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() };
        self.ask(request)
    }

    /// Creates a topic that must not be there yet.
    pub fn create_topic(&mut self, name: &'static str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]);
    }

    /// The same with settings of its own.
    pub fn create_topic_with(
        &mut self,
        name: &'static str,
        partitions: i32,
        configs: &[(&'static str, &'static str)],
    ) {
        let answer = self.ask(create_topics(name, partitions, configs)).topics.remove(0);
        assert_eq!((answer.error_code, answer.error_message), (ErrorCode::NONE, None));
    }

    /// What a topic's creation comes to.
    pub fn try_create_topic(&mut self, name: &'static str, partitions: i32) -> ErrorCode {
        self.ask(create_topics(name, partitions, &[])).topics.remove(0).error_code
    }

    /// Produces to one partition and returns its error and base offset.
    pub fn produce(&mut self, request: ProduceRequest) -> (ErrorCode, i64) {
        let mut answer = self.ask_in(BY_NAME_VERSION_MAX, request);
        let partition = answer.responses.remove(0).partition_responses.remove(0);
        (partition.error_code, partition.base_offset)
    }

    /// Produces a batch to a partition and returns its base offset.
    pub fn append(&mut self, topic: &'static str, partition: i32, records: Bytes) -> i64 {
        let (error, base_offset) = self.try_append(topic, partition, records);
        assert_eq!(error, ErrorCode::NONE);
        base_offset
    }

    /// Produces a batch to a partition.
    pub fn try_append(&mut self, topic: &'static str, partition: i32, records: Bytes) -> (ErrorCode, i64) {
        let data = PartitionProduceData { index: partition, records: Some(records) };
        let topic = TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() };
        let request =
            ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() };
        self.produce(request)
    }

    /// Reads one answer's worth of a partition from an offset on; what is read may be empty.
    pub fn fetch(
        &mut self,
        topic: &'static str,
        partition: i32,
        fetch_offset: i64,
    ) -> Result<Bytes, ErrorCode> {
        let wanted = FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: 1024 * 1024,
            ..Default::default()
        };
        let topic = FetchTopic { topic: topic.into(), partitions: vec![wanted], ..Default::default() };
        let request = FetchRequest {
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: 1024 * 1024,
            topics: vec![topic],
            ..Default::default()
        };
        let mut answer = self.ask_in(BY_NAME_VERSION_MAX, request);
        let partition = answer.responses.remove(0).partitions.remove(0);
        if partition.error_code.is_ok() {
            Ok(partition.records.unwrap_or_default().into_bytes())
        } else {
            Err(partition.error_code)
        }
    }

    /// Produces one record to partition 0 and finds it where it was said to be.
    pub fn produce_and_read_back(&mut self, topic: &'static str) {
        let records = batch_of(&[(1_700_000_000_000, b"read me back")]);
        let offset = self.append(topic, 0, records.clone());
        let read = self.fetch(topic, 0, offset).expect("an acknowledged offset is readable");
        // Behind the base offset and the leader epoch, which the broker sets, a batch comes back as it was sent.
        assert_eq!(read[..8], offset.to_be_bytes());
        assert_eq!(read[16..], records[16..]);
    }
}

fn create_topics(
    name: &'static str,
    partitions: i32,
    configs: &[(&'static str, &'static str)],
) -> CreateTopicsRequest {
    let configs = configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig { name: (*name).into(), value: Some((*value).into()) });
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: 1,
        configs: configs.collect(),
        ..Default::default()
    };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() }
}

/// A batch of values with their timestamps.
pub fn batch_of(records: &[(i64, &[u8])]) -> Bytes {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    for (timestamp, value) in records {
        batch.append(Millis(*timestamp), None, Some(value), &[]);
    }
    batch.build()
}
