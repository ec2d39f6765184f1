//! A cluster played by the tests, in virtual time: brokers that hold the leadership of partitions, count producers'
//! batches as Apache Kafka's do, and fail as they are told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use wire::messages::api_versions::{ApiVersion, ApiVersionsResponse, FinalizedFeatureKey};
use wire::messages::end_txn::EndTxnResponse;
use wire::messages::find_coordinator::{Coordinator, FindCoordinatorResponse};
use wire::messages::init_producer_id::InitProducerIdResponse;
use wire::messages::metadata::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use wire::messages::produce::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceRequest, ProduceResponse,
    TopicProduceResponse,
};
use wire::messages::txn_offset_commit::TxnOffsetCommitResponse;
use wire::records::{Batch, BatchHeader};
use wire::{ApiKey, Decoder, ErrorCode, Frame, Millis, Request, RequestHeader, Response, Uuid};

use super::Producer;
use crate::cluster::Cluster;
use crate::environment::{Address, BoxFuture, Environment, Socket};
use crate::options::Options;

/// Brokers listen on this port plus their id.
const PORT: u16 = 9000;
/// How long an answer takes.
const ROUND_TRIP: Duration = Duration::from_millis(2);
/// How long offsets take.
const OFFSETS: Duration = Duration::from_secs(1);

/// What becomes of a produce request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Served,
    /// It is carried out, and the connection breaks before the answer.
    AnswerLost,
    /// The connection breaks before it is carried out.
    Lost,
    /// It is carried out and never answered.
    Silence,
    /// It is carried out, and its answer cannot be read.
    Garbled,
    Refused(ErrorCode),
}

/// The cluster.
#[derive(Clone)]
pub(super) struct Stage {
    world: Arc<Mutex<World>>,
    dice: Arc<AtomicU64>,
}

type FateOf = Box<dyn FnMut(usize) -> Fate + Send>;

pub(super) struct World {
    brokers: BTreeMap<i32, Vec<AbortHandle>>,
    partitions: Vec<Partition>,
    /// The topic's, of which there is another one each time it is made anew.
    topic_id: u128,
    producer_ids: i64,
    /// How transactions ended: whether by a commit.
    pub(super) ended: Vec<bool>,
    fate: FateOf,
    pub(super) is_hinting: bool,
    is_garbling: bool,
    pub(super) batch_bytes_max: usize,
    /// What brokers answer to Metadata instead of the map.
    pub(super) metadata_error: ErrorCode,
    pub(super) cluster_id: &'static str,
    /// When which broker was dialled.
    pub(super) dialled: Vec<(Instant, i32)>,
    pub(super) metadata_requests: usize,
    pub(super) produces: usize,
}

struct Partition {
    leader: i32,
    epoch: i32,
    values: Vec<String>,
    producers: HashMap<i64, Counted>,
    codecs: Vec<i16>,
}

/// What a partition knows of a producer.
struct Counted {
    epoch: i16,
    next: i32,
    /// The first numbers of its last batches, and where they are.
    last: VecDeque<(i32, i64)>,
}

impl Stage {
    /// Brokers 1 to `brokers`; topic `t` has so many partitions, led by them in turn.
    pub(super) fn new(brokers: i32, partitions: i32) -> Self {
        let world = World {
            brokers: (1..=brokers).map(|id| (id, Vec::new())).collect(),
            partitions: Partition::fresh(partitions, brokers),
            topic_id: 1,
            producer_ids: 0,
            ended: Vec::new(),
            fate: Box::new(|_| Fate::Served),
            is_hinting: false,
            is_garbling: false,
            batch_bytes_max: usize::MAX,
            metadata_error: ErrorCode::NONE,
            cluster_id: "stage",
            dialled: Vec::new(),
            metadata_requests: 0,
            produces: 0,
        };
        Self { world: Arc::new(Mutex::new(world)), dice: Arc::default() }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The `n`th produce request, counted from 1, meets this.
    pub(super) fn fate(&self, fate: impl FnMut(usize) -> Fate + Send + 'static) {
        self.world().fate = Box::new(fate);
    }

    /// The broker ends: its connections break and nobody answers where it was.
    pub(super) fn kill(&self, id: i32) {
        let connections = self.world().brokers.remove(&id).unwrap_or_default();
        connections.iter().for_each(AbortHandle::abort);
    }

    pub(super) fn revive(&self, id: i32) {
        self.world().brokers.insert(id, Vec::new());
    }

    pub(super) fn elect(&self, partition: usize, leader: i32) {
        let mut world = self.world();
        world.partitions[partition].leader = leader;
        world.partitions[partition].epoch += 1;
    }

    /// The topic is deleted and made anew with so many partitions.
    pub(super) fn recreate(&self, partitions: i32) {
        let mut world = self.world();
        let brokers = world.brokers.len() as i32;
        world.partitions = Partition::fresh(partitions, brokers);
        world.topic_id += 1;
    }

    /// The broker forgets the producers, as after `producer.id.expiration.ms`.
    pub(super) fn forget_producers(&self, partition: usize) {
        self.world().partitions[partition].producers.clear();
    }

    /// The last values are gone, as when one is elected that did not have them, and the producers' with them.
    pub(super) fn truncate(&self, partition: usize, count: usize) {
        let partition = &mut self.world().partitions[partition];
        let kept = partition.values.len() - count;
        partition.values.truncate(kept);
        for counted in partition.producers.values_mut() {
            counted.next -= count as i32;
            counted.last.retain(|&(first, _)| first < counted.next);
        }
    }

    pub(super) fn values(&self, partition: usize) -> Vec<String> {
        self.world().partitions[partition].values.clone()
    }

    pub(super) fn codecs(&self, partition: usize) -> Vec<i16> {
        self.world().partitions[partition].codecs.clone()
    }

    pub(super) fn cluster(&self, settings: &[(&str, &str)]) -> Cluster {
        let mut options = Options::default();
        options.set("bootstrap.servers", "broker:9001").unwrap();
        settings.iter().for_each(|(key, value)| options.set(key, value).unwrap());
        Cluster::new(options, Arc::new(self.clone())).unwrap()
    }

    pub(super) fn producer(&self, settings: &[(&str, &str)]) -> Producer {
        Producer::new(self.cluster(settings)).unwrap()
    }
}

impl Environment for Stage {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let id = i32::from(address.port - PORT);
            let stage = self.clone();
            let mut world = self.world();
            world.dialled.push((Instant::now(), id));
            let connections = world.brokers.get_mut(&id).ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = tokio::io::duplex(1024 * 1024);
            let serving = tokio::spawn(async move {
                // The client hears of it by the end of the stream.
                drop(stage.serve(id, theirs).await);
            });
            connections.push(serving.abort_handle());
            Ok(Box::new(ours) as Box<dyn Socket>)
        })
    }

    fn now(&self) -> Millis {
        Millis(1_700_000_000_000)
    }

    fn random(&self) -> u64 {
        let thrown = self.dice.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (thrown ^ (thrown >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 7
    }
}

impl Stage {
    async fn serve(&self, id: i32, mut socket: DuplexStream) -> io::Result<()> {
        loop {
            let length = socket.read_i32().await? as usize;
            let mut frame = BytesMut::zeroed(length);
            socket.read_exact(&mut frame).await?;
            let mut decoder = Decoder::new(frame.freeze());
            let header = RequestHeader::decode(&mut decoder).unwrap();
            let api = ApiKey::from_code(header.api_key).unwrap();
            let request = Request::decode(api, header.api_version, decoder.rest()).unwrap();
            let Some(response) = self.answer(id, request).await else { return Ok(()) };
            let Some(response) = response else { std::future::pending().await };
            let frame = Frame::response(header.correlation_id, api, header.api_version, &response);
            let mut bytes = BytesMut::from(&*frame.unwrap().to_bytes());
            if std::mem::take(&mut self.world().is_garbling) {
                // Its length, the header, and the beginning of the rest.
                bytes.truncate(12);
                bytes[..4].copy_from_slice(&8_i32.to_be_bytes());
            }
            socket.write_all(&bytes).await?;
        }
    }

    /// The answer; the outer None breaks the connection, the inner one leaves it silent.
    async fn answer(&self, id: i32, request: Request) -> Option<Option<Response>> {
        let response = match request {
            Request::ApiVersions(_) => {
                let known = [
                    ApiKey::ApiVersions,
                    ApiKey::Metadata,
                    ApiKey::InitProducerId,
                    ApiKey::Produce,
                    ApiKey::FindCoordinator,
                    ApiKey::TxnOffsetCommit,
                    ApiKey::EndTxn,
                ];
                let feature = FinalizedFeatureKey {
                    name: "transaction.version".into(),
                    max_version_level: 2,
                    min_version_level: 2,
                };
                let offered = |api: ApiKey| ApiVersion {
                    api_key: api.code(),
                    min_version: *api.versions().start(),
                    max_version: *api.versions().end(),
                };
                ApiVersionsResponse {
                    api_keys: known.into_iter().map(offered).collect(),
                    finalized_features_epoch: 1,
                    finalized_features: vec![feature],
                    ..Default::default()
                }
                .into()
            }
            Request::Metadata(_) => self.metadata().into(),
            Request::InitProducerId(_) => {
                let mut world = self.world();
                world.producer_ids += 1;
                InitProducerIdResponse { producer_id: world.producer_ids, ..Default::default() }.into()
            }
            Request::FindCoordinator(request) => {
                let found = |key| Coordinator {
                    key,
                    node_id: 1,
                    host: "broker".into(),
                    port: i32::from(PORT) + 1,
                    ..Default::default()
                };
                FindCoordinatorResponse {
                    coordinators: request.coordinator_keys.into_iter().map(found).collect(),
                    ..Default::default()
                }
                .into()
            }
            Request::TxnOffsetCommit(_) => {
                tokio::time::sleep(OFFSETS).await;
                TxnOffsetCommitResponse::default().into()
            }
            Request::EndTxn(request) => {
                self.world().ended.push(request.committed);
                EndTxnResponse {
                    producer_id: request.producer_id,
                    producer_epoch: request.producer_epoch + 1,
                    ..Default::default()
                }
                .into()
            }
            Request::Produce(request) => {
                let fate = {
                    let mut world = self.world();
                    world.produces += 1;
                    let count = world.produces;
                    (world.fate)(count)
                };
                if fate == Fate::Lost {
                    return None;
                }
                let acks = request.acks;
                let response = self.world().produce(id, request, fate);
                tokio::time::sleep(ROUND_TRIP).await;
                match fate {
                    Fate::AnswerLost => return None,
                    Fate::Silence => return Some(None),
                    Fate::Garbled => {
                        self.world().is_garbling = true;
                        response.into()
                    }
                    _ if acks == 0 => unreachable!("no test asks a stage that way"),
                    _ => response.into(),
                }
            }
            other => unreachable!("a stage is not asked {other:?}"),
        };
        Some(Some(response))
    }

    fn metadata(&self) -> MetadataResponse {
        let mut world = self.world();
        world.metadata_requests += 1;
        let broker = |&node_id: &i32| MetadataResponseBroker {
            node_id,
            host: "broker".into(),
            port: i32::from(PORT) + node_id,
            ..Default::default()
        };
        let partition = |(index, partition): (usize, &Partition)| MetadataResponsePartition {
            partition_index: index as i32,
            leader_id: if world.brokers.contains_key(&partition.leader) { partition.leader } else { -1 },
            leader_epoch: partition.epoch,
            ..Default::default()
        };
        MetadataResponse {
            brokers: world.brokers.keys().map(broker).collect(),
            cluster_id: Some(world.cluster_id.into()),
            topics: vec![MetadataResponseTopic {
                name: Some("t".into()),
                topic_id: Uuid::from_u128(world.topic_id),
                partitions: world.partitions.iter().enumerate().map(partition).collect(),
                ..Default::default()
            }],
            error_code: world.metadata_error,
            ..Default::default()
        }
    }
}

impl World {
    fn produce(&mut self, id: i32, request: ProduceRequest, fate: Fate) -> ProduceResponse {
        let mut node_endpoints = Vec::new();
        let mut responses = Vec::new();
        for topic in request.topic_data {
            let mut partition_responses = Vec::new();
            for data in topic.partition_data {
                let mut answer =
                    PartitionProduceResponse { index: data.index, base_offset: -1, ..Default::default() };
                let Some(partition) = self.partitions.get_mut(data.index as usize) else {
                    answer.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
                    partition_responses.push(answer);
                    continue;
                };
                let records = data.records.unwrap();
                match fate {
                    Fate::Refused(code) => answer.error_code = code,
                    _ if records.len() > self.batch_bytes_max => {
                        answer.error_code = ErrorCode::MESSAGE_TOO_LARGE;
                    }
                    _ if partition.leader != id => {
                        answer.error_code = ErrorCode::NOT_LEADER_OR_FOLLOWER;
                        if self.is_hinting {
                            let (leader_id, leader_epoch) = (partition.leader, partition.epoch);
                            answer.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
                            node_endpoints.push(NodeEndpoint {
                                node_id: leader_id,
                                host: "broker".into(),
                                port: i32::from(PORT) + leader_id,
                                ..Default::default()
                            });
                        }
                    }
                    _ => match partition.append(Batch::parse(&records).unwrap()) {
                        Ok(base) => answer.base_offset = base,
                        Err(code) => answer.error_code = code,
                    },
                }
                partition_responses.push(answer);
            }
            responses.push(TopicProduceResponse {
                name: topic.name,
                partition_responses,
                ..Default::default()
            });
        }
        ProduceResponse { responses, node_endpoints, ..Default::default() }
    }
}

impl Partition {
    fn fresh(count: i32, brokers: i32) -> Vec<Partition> {
        let partition = |index| Partition {
            leader: index % brokers + 1,
            epoch: 1,
            values: Vec::new(),
            producers: HashMap::new(),
            codecs: Vec::new(),
        };
        (0..count).map(partition).collect()
    }

    /// Appends or recognises a batch. A producer that is not known may begin with any number.
    fn append(&mut self, batch: Batch) -> Result<i64, ErrorCode> {
        batch.verify_crc().unwrap();
        let header: &BatchHeader = batch.header();
        let base = self.values.len() as i64;
        let (id, epoch) = (header.producer_id().0, header.producer_epoch().0);
        let (first, count) = (header.base_sequence(), header.record_count());
        if id >= 0 {
            let counted =
                self.producers.entry(id).or_insert(Counted { epoch, next: first, last: VecDeque::new() });
            if epoch < counted.epoch {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
            if epoch > counted.epoch {
                *counted = Counted { epoch, next: 0, last: VecDeque::new() };
            }
            if let Some(&(_, base)) = counted.last.iter().find(|(known, _)| *known == first) {
                return Ok(base);
            }
            if first != counted.next {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
            counted.next = first + count;
            counted.last.push_back((first, base));
            if counted.last.len() > 5 {
                counted.last.pop_front();
            }
        }
        self.codecs.push(header.attributes().compression().code());
        for record in batch.records(usize::MAX) {
            let value = record.unwrap().value.unwrap();
            self.values.push(String::from_utf8(value.to_vec()).unwrap());
        }
        Ok(base)
    }
}
