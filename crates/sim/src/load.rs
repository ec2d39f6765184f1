//! Clients of the simulated cluster: one writer a partition, a reader behind each, a group that commits, and in the end the
//! one who looks at everything. They speak the protocol through the client's own connections.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use client::{Address, Connection, Options};
use tokio::time::{Instant, sleep, timeout};
use wire::messages::add_raft_voter::AddRaftVoterRequest;
use wire::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use wire::messages::elect_leaders::ElectLeadersRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponsePartition};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::messages::remove_raft_voter::RemoveRaftVoterRequest;
use wire::records::{BatchBuilder, BatchOptions, Batches};
use wire::{ApiRequest, ErrorCode, ProducerEpoch, ProducerId, Uuid};

use crate::dice::Dice;
use crate::history::History;
use crate::world::{MachineEnvironment, PORT, name, true_time};

/// The topic that everything is about.
pub(crate) const TOPIC: &str = "t";
/// Its partitions.
pub(crate) const PARTITIONS: i32 = 3;

const GROUP: &str = "g";
const METADATA_VERSION: i16 = 8;
const TOPIC_ID_VERSION: i16 = 12;
const PRODUCE_VERSION: i16 = 9;
const INIT_PRODUCER_ID_VERSION: i16 = 4;
const FETCH_VERSION: i16 = 12;
const READ_UNCOMMITTED: i8 = 0;
pub(crate) const RECORD_BYTES_MAX: usize = 1024 * 1024;
/// How long a client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Wait after an answer that was none.
pub(crate) const RETRY: Duration = Duration::from_millis(100);
/// How long a healed cluster may take to be whole again.
pub(crate) const WHOLE_MAX: Duration = Duration::from_secs(120);

/// A client with its connections.
pub(crate) struct Client {
    environment: MachineEnvironment,
    options: Options,
    open: BTreeMap<i32, Connection>,
    /// The newest leader epoch of each partition that it has heard of.
    epochs: BTreeMap<(&'static str, i32), i32>,
    brokers: i32,
    /// How long it waits for an answer.
    pub(crate) answer_max: Duration,
    pub(crate) dice: Dice,
}

impl Client {
    pub(crate) fn new(brokers: i32, dice: Dice) -> Self {
        let environment = MachineEnvironment { dice: dice.fork() };
        let mut options = Options::default();
        options.set("socket.connection.setup.timeout.ms", "1500").expect("the client takes its own settings");
        Client {
            environment,
            options,
            open: BTreeMap::new(),
            epochs: BTreeMap::new(),
            brokers,
            answer_max: ANSWER_MAX,
            dice,
        }
    }

    /// Asks one broker; `None` is no answer, and whatever was asked may have been done.
    pub(crate) async fn ask<R: ApiRequest>(
        &mut self,
        broker: i32,
        request: R,
        version: i16,
    ) -> Option<R::Response> {
        self.ask_within(broker, request, version, self.answer_max).await
    }

    /// Likewise; the answer may take so long.
    pub(crate) async fn ask_within<R: ApiRequest>(
        &mut self,
        broker: i32,
        request: R,
        version: i16,
        wait: Duration,
    ) -> Option<R::Response> {
        let connection = match self.open.get(&broker).filter(|connection| !connection.is_closed()) {
            Some(connection) => connection.clone(),
            None => {
                let address = Address { host: name(broker), port: PORT };
                let connection = Connection::open(&self.environment, &address, &self.options).await.ok()?;
                self.open.insert(broker, connection.clone());
                connection
            }
        };
        let answer = connection.call_version(request, version, Instant::now() + wait).await.ok();
        if answer.is_none() {
            self.open.remove(&broker);
        }
        answer
    }

    /// Closes its connections.
    pub(crate) fn hang_up(&mut self) {
        self.open.clear();
    }

    pub(crate) fn any(&self) -> i32 {
        1 + i32::try_from(self.dice.below(self.brokers.unsigned_abs().into())).expect("a small number")
    }

    /// A topic's partitions as some broker sees them.
    async fn partitions(&mut self, topic: &'static str) -> Option<Vec<MetadataResponsePartition>> {
        let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        let broker = self.any();
        let mut answer = self.ask(broker, request, METADATA_VERSION).await?;
        let topic = answer.topics.pop().filter(|topic| topic.error_code.is_ok())?;
        Some(topic.partitions)
    }

    /// A topic's id as some broker knows it.
    pub(crate) async fn topic_id(&mut self, topic: &'static str) -> Option<Uuid> {
        let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        let broker = self.any();
        let mut answer = self.ask(broker, request, TOPIC_ID_VERSION).await?;
        let topic = answer.topics.pop().filter(|topic| topic.error_code.is_ok())?;
        Some(topic.topic_id)
    }

    pub(crate) async fn leader(&mut self, topic: &'static str, partition: i32) -> Option<i32> {
        let partitions = self.partitions(topic).await?;
        let found = partitions.iter().find(|found| found.partition_index == partition)?;
        // As clients do: whoever led before is not asked again, whatever a broker says that is behind.
        let known = self.epochs.entry((topic, partition)).or_insert(found.leader_epoch);
        let is_current = found.leader_epoch >= *known;
        *known = found.leader_epoch.max(*known);
        (found.leader_id >= 0 && is_current).then_some(found.leader_id)
    }

    /// Makes a topic, however long that takes.
    pub(crate) async fn create(&mut self, topic: &'static str, partitions: i32) {
        loop {
            let topic = CreatableTopic {
                name: topic.into(),
                num_partitions: partitions,
                replication_factor: 3,
                ..Default::default()
            };
            let request =
                CreateTopicsRequest { topics: vec![topic], timeout_ms: 3_000, ..Default::default() };
            let broker = self.any();
            let answer = self.ask(broker, request, 7).await;
            let error = answer.map(|answer| answer.topics[0].error_code);
            if matches!(error, Some(ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS)) {
                return;
            }
            sleep(RETRY).await;
        }
    }

    async fn producer(&mut self) -> Option<Producer> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
        };
        let broker = self.any();
        let answer = self.ask(broker, request, INIT_PRODUCER_ID_VERSION).await?;
        let producer = Producer { id: answer.producer_id, epoch: answer.producer_epoch, sequence: 0 };
        answer.error_code.is_ok().then_some(producer)
    }

    /// Asks a broker to write one value. `None` is no answer.
    async fn produce(
        &mut self,
        broker: i32,
        partition: i32,
        value: &str,
        producer: Option<&Producer>,
    ) -> Option<(ErrorCode, i64)> {
        let options = producer.map_or_else(BatchOptions::default, |producer| BatchOptions {
            producer_id: ProducerId(producer.id),
            producer_epoch: ProducerEpoch(producer.epoch),
            base_sequence: producer.sequence,
            ..BatchOptions::default()
        });
        let mut batch = BatchBuilder::new(options);
        batch.append(true_time(), None, Some(value.as_bytes()), &[]);
        let data = PartitionProduceData { index: partition, records: Some(batch.build()) };
        let topic = TopicProduceData { name: TOPIC.into(), partition_data: vec![data], ..Default::default() };
        let request =
            ProduceRequest { acks: -1, timeout_ms: 3_000, topic_data: vec![topic], ..Default::default() };
        let mut answer = self.ask(broker, request, PRODUCE_VERSION).await?;
        let answer = answer.responses.pop()?.partition_responses.pop()?;
        Some((answer.error_code, answer.base_offset))
    }

    async fn fetch(&mut self, broker: i32, partition: i32, offset: i64) -> Option<(ErrorCode, i64, Bytes)> {
        let data = self.fetch_from(broker, (TOPIC, partition), offset, READ_UNCOMMITTED).await?;
        let records = data.records.map(wire::Payload::into_bytes).unwrap_or_default();
        Some((data.error_code, data.high_watermark, records))
    }

    pub(crate) async fn fetch_from(
        &mut self,
        broker: i32,
        (topic, partition): (&'static str, i32),
        offset: i64,
        isolation_level: i8,
    ) -> Option<PartitionData> {
        let wanted = FetchPartition {
            partition,
            fetch_offset: offset,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: topic.into(), partitions: vec![wanted], ..Default::default() };
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: 300,
            min_bytes: 1,
            max_bytes: 1 << 20,
            isolation_level,
            topics: vec![topic],
            ..Default::default()
        };
        let mut answer = self.ask(broker, request, FETCH_VERSION).await?;
        answer.responses.pop()?.partitions.pop()
    }
}

/// An idempotent producer of one partition.
struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

/// Writes values to one partition, one after the other, until told to end. Odd partitions have an idempotent producer, which
/// sends a value until it is acknowledged; the others give up a value whose answer does not come.
pub(crate) async fn write(mut client: Client, partition: i32, history: History, until: Duration) {
    let mut at = 0;
    let mut producer = None;
    while turmoil::sim_elapsed().unwrap_or_default() < until {
        if partition % 2 == 1 && producer.is_none() {
            producer = client.producer().await;
            if producer.is_none() {
                sleep(RETRY).await;
                continue;
            }
        }
        let Some(leader) = client.leader(TOPIC, partition).await else {
            sleep(RETRY).await;
            continue;
        };
        // As long as it goes well nobody else is asked who leads.
        while turmoil::sim_elapsed().unwrap_or_default() < until {
            let value = format!("{partition}-{at}");
            let answer = client.produce(leader, partition, &value, producer.as_ref()).await;
            match answer {
                Some((ErrorCode::NONE, offset)) => {
                    history.acknowledged((partition, offset), &value);
                    at += 1;
                    if let Some(producer) = &mut producer {
                        producer.sequence += 1;
                    }
                    sleep(Duration::from_millis(client.dice.below(40))).await;
                }
                answer => {
                    match (answer, &producer) {
                        (Some((ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, _)), Some(producer)) => {
                            let number = producer.sequence;
                            history.anomaly(format!(
                                "{value} with the next sequence, {number}, is out of order"
                            ));
                            return;
                        }
                        (_, Some(_)) => {}
                        (_, None) => at += 1,
                    }
                    sleep(RETRY).await;
                    break;
                }
            }
        }
    }
}

/// Reads one partition from its beginning, as far as it comes.
pub(crate) async fn read(mut client: Client, partition: i32, history: History, until: Duration) {
    let mut offset = 0;
    while turmoil::sim_elapsed().unwrap_or_default() < until {
        let Some(leader) = client.leader(TOPIC, partition).await else {
            sleep(RETRY).await;
            continue;
        };
        // Followers serve readers too, up to where they know it to be safe.
        let broker = if client.dice.percent(30) { client.any() } else { leader };
        while turmoil::sim_elapsed().unwrap_or_default() < until {
            match client.fetch(broker, partition, offset).await {
                Some((ErrorCode::NONE, _, records)) => {
                    for (at, value) in values(records, offset) {
                        history.read((partition, at), &value);
                        offset = at + 1;
                    }
                }
                Some((ErrorCode::OFFSET_OUT_OF_RANGE, _, _)) if broker == leader => {
                    // The leader may have been cut off when it was named; whoever leads must have it in the end.
                    sleep(RETRY).await;
                    break;
                }
                _ => {
                    sleep(RETRY).await;
                    break;
                }
            }
        }
    }
}

/// What somebody does who looks after the cluster: replicas move, leaders are elected, votes are given and taken.
pub(crate) async fn administer(mut client: Client, history: History, until: Duration) {
    loop {
        sleep(Duration::from_millis(500 + client.dice.below(3_000))).await;
        if turmoil::sim_elapsed().unwrap_or_default() >= until {
            return;
        }
        let (broker, node) = (client.any(), client.any());
        let (what, error) = match client.dice.below(4) {
            0 => {
                let request =
                    ElectLeadersRequest { topic_partitions: None, timeout_ms: 3_000, ..Default::default() };
                let answer = client.ask(broker, request, 2).await;
                ("leaders elected".to_owned(), answer.map(|answer| answer.error_code))
            }
            1 => {
                let partition = client.dice.below(PARTITIONS.unsigned_abs().into()) as i32;
                let replicas: Vec<i32> =
                    (0..3).map(|at| (node + at - 1).rem_euclid(client.brokers) + 1).collect();
                let what = format!("replicas of {partition} move to {replicas:?}");
                let partition =
                    ReassignablePartition { partition_index: partition, replicas: Some(replicas) };
                let topic = ReassignableTopic { name: TOPIC.into(), partitions: vec![partition] };
                let request = AlterPartitionReassignmentsRequest {
                    timeout_ms: 3_000,
                    topics: vec![topic],
                    ..Default::default()
                };
                let answer = client.ask(broker, request, 0).await;
                (
                    what,
                    answer.map(|answer| {
                        let topic = answer.responses.first();
                        let partition = topic.and_then(|topic| topic.partitions.first());
                        partition.map_or(answer.error_code, |partition| partition.error_code)
                    }),
                )
            }
            2 => {
                let request = AddRaftVoterRequest {
                    cluster_id: None,
                    voter_id: node,
                    timeout_ms: 2_000,
                    ..Default::default()
                };
                let answer = client.ask(broker, request, 0).await;
                (format!("vote of {node} given"), answer.map(|answer| answer.error_code))
            }
            _ => {
                let request =
                    RemoveRaftVoterRequest { cluster_id: None, voter_id: node, ..Default::default() };
                let answer = client.ask(broker, request, 0).await;
                (format!("vote of {node} taken"), answer.map(|answer| answer.error_code))
            }
        };
        history.note(&format!("{what}: {error:?}"));
    }
}

/// Commits rising offsets of a group, and asks for them.
pub(crate) async fn commit(mut client: Client, history: History, until: Duration) {
    let mut offset = 0;
    while turmoil::sim_elapsed().unwrap_or_default() < until {
        sleep(Duration::from_millis(200)).await;
        let broker = client.any();
        let request = FindCoordinatorRequest { key: GROUP.into(), ..Default::default() };
        let Some(found) = client.ask(broker, request, 3).await.filter(|found| found.error_code.is_ok())
        else {
            continue;
        };
        offset += 1;
        let since = history.last_committed();
        let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        let topic = OffsetCommitRequestTopic {
            name: TOPIC.into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let answer = client.ask(found.node_id, request, 8).await;
        if answer.is_some_and(|answer| answer.topics[0].partitions[0].error_code.is_ok()) {
            history.committed(offset);
        }
        let topic =
            OffsetFetchRequestTopics { name: TOPIC.into(), partition_indexes: vec![0], ..Default::default() };
        let group = OffsetFetchRequestGroup {
            group_id: GROUP.into(),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
        let answer = client.ask(found.node_id, request, 8).await;
        let read = answer.and_then(|mut answer| {
            let mut group = answer.groups.pop().filter(|group| group.error_code.is_ok())?;
            group.topics.pop()?.partitions.pop().filter(|partition| partition.error_code.is_ok())
        });
        if let Some(read) = read {
            history.offset_read(read.committed_offset, since);
        }
    }
}

/// Waits until every replica of a topic of the healed cluster is in sync. Answers each partition's, the leader first.
pub(crate) async fn whole(
    client: &mut Client,
    history: &History,
    (topic, count): (&'static str, i32),
) -> Vec<(i32, Vec<i32>)> {
    let whole = timeout(WHOLE_MAX, async {
        loop {
            let partitions = client.partitions(topic).await.unwrap_or_default();
            let is_whole = |partition: &MetadataResponsePartition| {
                partition.leader_id >= 0 && partition.isr_nodes.len() == partition.replica_nodes.len()
            };
            if partitions.len() == count.unsigned_abs() as usize && partitions.iter().all(is_whole) {
                return partitions;
            }
            sleep(RETRY).await;
        }
    });
    let Ok(partitions) = whole.await else {
        let seen = client.partitions(topic).await;
        history.anomaly(format!("the healed cluster is not whole after {WHOLE_MAX:?}: {seen:?}"));
        return Vec::new();
    };
    let replicas = partitions.iter().map(|partition| {
        let others = partition.replica_nodes.iter().copied().filter(|id| *id != partition.leader_id);
        (partition.partition_index, std::iter::once(partition.leader_id).chain(others).collect())
    });
    replicas.collect()
}

/// Compares every replica with the history.
pub(crate) async fn verify(mut client: Client, history: History) {
    for (index, replicas) in whole(&mut client, &history, (TOPIC, PARTITIONS)).await {
        // A leader that has just begun to lead may not know yet how far records are safe.
        let mut end = history.end_of(index);
        for replica in replicas {
            let compared = timeout(WHOLE_MAX, replica_of(&mut client, replica, index, &mut end)).await;
            match compared {
                Ok(found) => history.compare(replica, index, &found),
                Err(_) => history.anomaly(format!("replica {replica} of {index} does not come to {end}")),
            }
        }
    }
    history.note("verified");
}

/// Everything that a replica has, at least up to `end`, which the leader, asked first, may raise.
async fn replica_of(
    client: &mut Client,
    replica: i32,
    partition: i32,
    end: &mut i64,
) -> BTreeMap<i64, String> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    loop {
        match client.fetch(replica, partition, offset).await {
            Some((ErrorCode::NONE, high_watermark, records)) => {
                *end = high_watermark.max(*end);
                for (at, value) in values(records, offset) {
                    offset = at + 1;
                    found.insert(at, value);
                }
                if offset >= *end {
                    return found;
                }
            }
            _ => sleep(RETRY).await,
        }
    }
}

/// The values of an answer's batches, from an offset on.
pub(crate) fn values(records: Bytes, from: i64) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    for batch in Batches::new(records).map_while(Result::ok) {
        let Ok(()) = batch.verify_crc() else { break };
        for record in batch.records(RECORD_BYTES_MAX).map_while(Result::ok) {
            if record.offset.0 >= from {
                let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
                values.push((record.offset.0, value));
            }
        }
    }
    values
}
