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
use wire::messages::add_offsets_to_txn::AddOffsetsToTxnResponse;
use wire::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResponse, AddPartitionsToTxnTopicResult,
};
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
/// How long offsets take, and naming their group.
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

/// What becomes of a request to the coordinator: of which API, and its number among those.
type CoordinatorFateOf = Box<dyn FnMut(ApiKey, usize) -> Fate + Send>;
type FateOf = Box<dyn FnMut(usize) -> Fate + Send>;

pub(super) struct World {
    brokers: BTreeMap<i32, Vec<AbortHandle>>,
    partitions: Vec<Partition>,
    /// The topic's, of which there is another one each time it is made anew.
    topic_id: u128,
    producer_ids: i64,
    /// How transactions ended: whether by a commit.
    pub(super) ended: Vec<bool>,
    /// The level of `transaction.version`.
    level: i16,
    /// Versions up to which APIs are offered, where that is not the newest.
    versions_max: HashMap<ApiKey, i16>,
    /// What the coordinator knows of the one transactional id there is.
    coordinated: Option<Coordinated>,
    /// How often the coordinator was asked what.
    pub(super) coordinator_requests: HashMap<ApiKey, usize>,
    coordinator_fate: CoordinatorFateOf,
    fate: FateOf,
    pub(super) is_hinting: bool,
    is_garbling: bool,
    pub(super) batch_bytes_max: usize,
    /// What brokers say to a number that is not the next one.
    pub(super) gap: ErrorCode,
    /// What brokers answer to Metadata instead of the map.
    pub(super) metadata_error: ErrorCode,
    pub(super) cluster_id: &'static str,
    /// When which broker was dialled.
    pub(super) dialled: Vec<(Instant, i32)>,
    pub(super) metadata_requests: usize,
    pub(super) produces: usize,
}

struct Coordinated {
    id: i64,
    epoch: i16,
    /// The one before, if its producer asked for the one there is.
    last_epoch: i16,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Empty,
    Ongoing,
    Ended { committed: bool },
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
            level: 2,
            versions_max: HashMap::new(),
            coordinated: None,
            coordinator_requests: HashMap::new(),
            coordinator_fate: Box::new(|_, _| Fate::Served),
            fate: Box::new(|_| Fate::Served),
            is_hinting: false,
            is_garbling: false,
            batch_bytes_max: usize::MAX,
            gap: ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
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

    /// The same of requests to the transaction coordinator.
    pub(super) fn coordinator_fate(&self, fate: impl FnMut(ApiKey, usize) -> Fate + Send + 'static) {
        self.world().coordinator_fate = Box::new(fate);
    }

    /// The cluster speaks the first protocol of transactions.
    pub(super) fn first_protocol(self) -> Self {
        self.world().level = 1;
        self
    }

    /// APIs are offered up to these versions alone.
    pub(super) fn versions_max(&self, versions: &[(ApiKey, i16)]) {
        self.world().versions_max = versions.iter().copied().collect();
    }

    /// The coordinator forgets the transactional id, as after `transactional.id.expiration.ms`.
    pub(super) fn forget_transactional_id(&self) {
        self.world().coordinated = None;
    }

    /// Whether the coordinator has a transaction that is open.
    pub(super) fn is_ongoing(&self) -> bool {
        self.world().coordinated.as_ref().is_some_and(|known| known.phase == Phase::Ongoing)
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
        let response = match &request {
            Request::ApiVersions(_) => {
                let known = [
                    ApiKey::ApiVersions,
                    ApiKey::Metadata,
                    ApiKey::InitProducerId,
                    ApiKey::Produce,
                    ApiKey::FindCoordinator,
                    ApiKey::AddPartitionsToTxn,
                    ApiKey::AddOffsetsToTxn,
                    ApiKey::TxnOffsetCommit,
                    ApiKey::EndTxn,
                ];
                let world = self.world();
                let feature = FinalizedFeatureKey {
                    name: "transaction.version".into(),
                    max_version_level: world.level,
                    min_version_level: world.level,
                };
                let offered = |api: ApiKey| ApiVersion {
                    api_key: api.code(),
                    min_version: *api.versions().start(),
                    max_version: world.versions_max.get(&api).copied().unwrap_or(*api.versions().end()),
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
            Request::InitProducerId(request) if request.transactional_id.is_none() => {
                let mut world = self.world();
                world.producer_ids += 1;
                InitProducerIdResponse { producer_id: world.producer_ids, ..Default::default() }.into()
            }
            Request::InitProducerId(_) => return self.coordinate(ApiKey::InitProducerId, request).await,
            Request::AddPartitionsToTxn(_) => {
                return self.coordinate(ApiKey::AddPartitionsToTxn, request).await;
            }
            Request::AddOffsetsToTxn(_) => return self.coordinate(ApiKey::AddOffsetsToTxn, request).await,
            Request::EndTxn(_) => return self.coordinate(ApiKey::EndTxn, request).await,
            Request::FindCoordinator(request) => {
                let found = |key| Coordinator {
                    key,
                    node_id: 1,
                    host: "broker".into(),
                    port: i32::from(PORT) + 1,
                    ..Default::default()
                };
                FindCoordinatorResponse {
                    coordinators: request.coordinator_keys.iter().cloned().map(found).collect(),
                    ..Default::default()
                }
                .into()
            }
            Request::TxnOffsetCommit(_) => {
                tokio::time::sleep(OFFSETS).await;
                TxnOffsetCommitResponse::default().into()
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
                let response = self.world().produce(id, request.clone(), fate);
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

    async fn coordinate(&self, api: ApiKey, request: Request) -> Option<Option<Response>> {
        let (fate, response) = {
            let mut world = self.world();
            let count = world.coordinator_requests.entry(api).or_default();
            *count += 1;
            let count = *count;
            let fate = (world.coordinator_fate)(api, count);
            if fate == Fate::Lost {
                return None;
            }
            (fate, world.coordinate(request, fate))
        };
        let taken = if api == ApiKey::AddOffsetsToTxn { OFFSETS } else { ROUND_TRIP };
        tokio::time::sleep(taken).await;
        match fate {
            Fate::AnswerLost => None,
            Fate::Silence => Some(None),
            _ => Some(Some(response)),
        }
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
    /// What the coordinator does, as Apache Kafka's.
    fn coordinate(&mut self, request: Request, fate: Fate) -> Response {
        let refused = match fate {
            Fate::Refused(code) => Err(code),
            _ => Ok(()),
        };
        let code = |outcome: Result<(), ErrorCode>| outcome.err().unwrap_or(ErrorCode::NONE);
        match request {
            Request::InitProducerId(request) => {
                let given = |()| self.next_identity(request.producer_id, request.producer_epoch);
                match refused.and_then(given) {
                    Ok((producer_id, producer_epoch)) => {
                        InitProducerIdResponse { producer_id, producer_epoch, ..Default::default() }
                    }
                    Err(error_code) => InitProducerIdResponse { error_code, ..Default::default() },
                }
                .into()
            }
            Request::AddPartitionsToTxn(request) => {
                let (id, epoch) = (request.v3_and_below_producer_id, request.v3_and_below_producer_epoch);
                let partition_error_code = code(refused.and_then(|()| self.join(id, epoch)));
                let topic = request.v3_and_below_topics.into_iter().map(|topic| {
                    let result = |partition_index| AddPartitionsToTxnPartitionResult {
                        partition_index,
                        partition_error_code,
                    };
                    let results_by_partition = topic.partitions.into_iter().map(result).collect();
                    AddPartitionsToTxnTopicResult { name: topic.name, results_by_partition }
                });
                let results_by_topic_v3_and_below = topic.collect();
                AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() }.into()
            }
            Request::AddOffsetsToTxn(request) => {
                let joined = |()| self.join(request.producer_id, request.producer_epoch);
                let error_code = code(refused.and_then(joined));
                AddOffsetsToTxnResponse { error_code, ..Default::default() }.into()
            }
            Request::EndTxn(request) => {
                let (producer_id, epoch) = (request.producer_id, request.producer_epoch);
                let ended = |()| self.end(producer_id, epoch, request.committed);
                match refused.and_then(ended) {
                    Ok(producer_epoch) => {
                        EndTxnResponse { producer_id, producer_epoch, ..Default::default() }
                    }
                    Err(error_code) => EndTxnResponse { error_code, ..Default::default() },
                }
                .into()
            }
            other => unreachable!("a coordinator is not asked {other:?}"),
        }
    }

    /// The next epoch of this one, or with -1 of whichever there is.
    fn next_identity(&mut self, id: i64, epoch: i16) -> Result<(i64, i16), ErrorCode> {
        let Some(known) = &mut self.coordinated else {
            self.producer_ids += 1;
            let id = self.producer_ids;
            self.coordinated = Some(Coordinated { id, epoch: 0, last_epoch: -1, phase: Phase::Empty });
            return Ok((id, 0));
        };
        let is_known = id == known.id && (epoch == known.epoch || epoch == known.last_epoch);
        if id >= 0 && !is_known {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        if known.phase == Phase::Ongoing {
            // It is aborted under an epoch of its own, and whoever asked comes again.
            self.ended.push(false);
            known.phase = Phase::Ended { committed: false };
            (known.epoch, known.last_epoch) = (known.epoch + 1, -1);
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        if id < 0 || epoch == known.epoch {
            let last_epoch = if id < 0 { -1 } else { epoch };
            (known.epoch, known.last_epoch) = (known.epoch + 1, last_epoch);
        }
        Ok((known.id, known.epoch))
    }

    fn known(&mut self, id: i64, epoch: i16) -> Result<&mut Coordinated, ErrorCode> {
        let known = self.coordinated.as_mut().filter(|known| known.id == id);
        let known = known.ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?;
        // The word of brokers before Kafka 2.7.
        if known.epoch == epoch { Ok(known) } else { Err(ErrorCode::INVALID_PRODUCER_EPOCH) }
    }

    fn join(&mut self, id: i64, epoch: i16) -> Result<(), ErrorCode> {
        self.known(id, epoch)?.phase = Phase::Ongoing;
        Ok(())
    }

    /// Ends the transaction; which epoch writes the next one.
    fn end(&mut self, id: i64, epoch: i16, committed: bool) -> Result<i16, ErrorCode> {
        let level = self.level;
        let known = self.known(id, epoch)?;
        let ended = Phase::Ended { committed };
        if level < 2 && known.phase != Phase::Ongoing {
            return if known.phase == ended { Ok(epoch) } else { Err(ErrorCode::INVALID_TXN_STATE) };
        }
        known.phase = ended;
        // In the second protocol every end gives the next epoch.
        known.epoch += i16::from(level >= 2);
        let next = known.epoch;
        self.ended.push(committed);
        Ok(next)
    }

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
                        Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) => answer.error_code = self.gap,
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
