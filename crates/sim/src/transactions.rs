//! Clients that write in transactions, in both versions of the protocol: writers that commit, abort, go silent and fence each
//! other, pipelines that read one topic, write another and commit how far they have read along with it (KIP-98, KIP-447), and
//! readers of committed records.
//!
//! What a client says of a transaction is certain: committed if it was told so, aborted if it never asked for more or was refused
//! at once, and not known in every other case.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use wire::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use wire::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use wire::messages::end_txn::EndTxnRequest;
use wire::messages::fetch::PartitionData;
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use wire::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest};
use wire::records::{BatchBuilder, BatchOptions, Batches};
use wire::{ApiRequest, ErrorCode, ProducerEpoch, ProducerId};

use crate::history::{Fate, History, Transaction};
use crate::load::{self, Client, RECORD_BYTES_MAX, RETRY, WHOLE_MAX};
use crate::world::true_time;

/// The topic that is written in transactions.
pub(crate) const TOPIC: &str = "x";
/// Its partitions.
pub(crate) const PARTITIONS: i32 = 2;
/// What the history calls the first of them.
const FIRST_PLACE: i32 = 100;
/// The partition that pipelines read.
const SOURCE: (&str, i32) = (load::TOPIC, 0);
/// The group under which they keep how far they have come.
const GROUP: &str = "pipe";

const READ_COMMITTED: i8 = 1;
const INIT_VERSION: i16 = 4;
const ADD_VERSION: i16 = 3;
const MARKERS_VERSION: i16 = 2;
/// After so long an open transaction is aborted.
const TIMEOUT_MS: i32 = 3_000;
/// How often a client tries what was not done, before it gives the transaction up.
const ATTEMPTS: u32 = 8;

/// How a client speaks of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    First,
    Second,
}

impl Protocol {
    fn produce_version(self) -> i16 {
        if self == Protocol::First { 11 } else { 12 }
    }

    fn end_version(self) -> i16 {
        if self == Protocol::First { 4 } else { 5 }
    }

    fn commit_version(self) -> i16 {
        if self == Protocol::First { 4 } else { 5 }
    }
}

/// A client that writes in transactions. Several may have one transactional id: then they fence each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) name: &'static str,
    pub(crate) id: &'static str,
    pub(crate) protocol: Protocol,
}

/// What became of an attempt to end a transaction.
enum Ended {
    AsAsked,
    /// For certain not.
    Refused,
    NotKnown,
}

struct Session {
    client: Client,
    who: Who,
    history: History,
    producer_id: i64,
    epoch: i16,
    /// The next sequence in each partition.
    sequences: [i32; PARTITIONS as usize],
    /// Whether the last transaction of this producer was committed, where the next one has another epoch.
    last_end: Option<bool>,
    /// Who coordinates the transactional id, and the group, if that is known.
    coordinators: BTreeMap<i8, i32>,
    number: u64,
}

const OF_GROUP: i8 = 0;
const OF_TRANSACTION: i8 = 1;

fn is_over(until: Duration) -> bool {
    turmoil::sim_elapsed().unwrap_or_default() >= until
}

/// Whether it is worth to ask again. All but the first may have been done: a coordinator that loses its place says so while what it
/// has written may still count.
fn is_early(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::CONCURRENT_TRANSACTIONS
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::NOT_ENOUGH_REPLICAS
            | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
            | ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::REQUEST_TIMED_OUT
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    )
}

impl Session {
    fn new(client: Client, who: Who, history: History) -> Self {
        Session {
            client,
            who,
            history,
            producer_id: -1,
            epoch: -1,
            sequences: [0; PARTITIONS as usize],
            last_end: None,
            coordinators: BTreeMap::new(),
            number: 0,
        }
    }

    /// Asks a coordinator; `None` is no answer.
    async fn ask<R: ApiRequest>(&mut self, of: i8, request: R, version: i16) -> Option<R::Response> {
        let coordinator = match self.coordinators.get(&of) {
            Some(known) => *known,
            None => {
                let key = if of == OF_GROUP { GROUP } else { self.who.id };
                let request = FindCoordinatorRequest { key: key.into(), key_type: of, ..Default::default() };
                let broker = self.client.any();
                let found =
                    self.client.ask(broker, request, 3).await.filter(|found| found.error_code.is_ok())?;
                self.coordinators.insert(of, found.node_id);
                found.node_id
            }
        };
        let answer = self.client.ask(coordinator, request, version).await;
        if answer.is_none() {
            self.coordinators.remove(&of);
        }
        answer
    }

    /// Waits before the next attempt. Another may coordinate by then.
    async fn pause(&mut self) {
        self.coordinators.clear();
        sleep(RETRY).await;
    }

    /// Takes the transactional id, from whoever had it. False when the time is up.
    async fn begin(&mut self, until: Duration) -> bool {
        while !is_over(until) {
            let request = InitProducerIdRequest {
                transactional_id: Some(self.who.id.into()),
                transaction_timeout_ms: TIMEOUT_MS,
                producer_id: -1,
                producer_epoch: -1,
            };
            let answer = self.ask(OF_TRANSACTION, request, INIT_VERSION).await;
            if let Some(answer) = answer.filter(|answer| answer.error_code.is_ok()) {
                (self.producer_id, self.epoch) = (answer.producer_id, answer.producer_epoch);
                self.sequences = [0; PARTITIONS as usize];
                self.last_end = None;
                return true;
            }
            self.pause().await;
        }
        false
    }

    /// Names a partition, as clients of the first protocol have to.
    async fn add(&mut self, partition: i32) -> bool {
        for _ in 0..ATTEMPTS {
            let topic = AddPartitionsToTxnTopic { name: TOPIC.into(), partitions: vec![partition] };
            let request = AddPartitionsToTxnRequest {
                v3_and_below_transactional_id: self.who.id.into(),
                v3_and_below_producer_id: self.producer_id,
                v3_and_below_producer_epoch: self.epoch,
                v3_and_below_topics: vec![topic],
                ..Default::default()
            };
            let Some(answer) = self.ask(OF_TRANSACTION, request, ADD_VERSION).await else { return false };
            let error = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
            if error.is_ok() {
                return true;
            }
            if !is_early(error) {
                return false;
            }
            self.pause().await;
        }
        false
    }

    /// Writes a value, once, however often it is sent. Answers where it lies.
    async fn write(&mut self, partition: i32, value: &str) -> Option<i64> {
        if self.who.protocol == Protocol::First && !self.add(partition).await {
            return None;
        }
        let at = usize::try_from(partition).expect("a partition");
        let mut batch = BatchBuilder::new(BatchOptions {
            producer_id: ProducerId(self.producer_id),
            producer_epoch: ProducerEpoch(self.epoch),
            base_sequence: self.sequences[at],
            is_transactional: true,
            ..BatchOptions::default()
        });
        batch.append(true_time(), None, Some(value.as_bytes()), &[]);
        let records = batch.build();
        for _ in 0..ATTEMPTS {
            if let Some(leader) = self.client.leader(TOPIC, partition).await {
                let data = PartitionProduceData { index: partition, records: Some(records.clone()) };
                let topic =
                    TopicProduceData { name: TOPIC.into(), partition_data: vec![data], ..Default::default() };
                let request = ProduceRequest {
                    transactional_id: Some(self.who.id.into()),
                    acks: -1,
                    timeout_ms: 3_000,
                    topic_data: vec![topic],
                };
                let version = self.who.protocol.produce_version();
                let answer = self.client.ask(leader, request, version).await;
                let answer = answer.and_then(|mut answer| answer.responses.pop()?.partition_responses.pop());
                match answer.map(|answer| (answer.error_code, answer.base_offset)) {
                    Some((ErrorCode::NONE, offset)) => {
                        self.sequences[at] += 1;
                        return Some(offset);
                    }
                    Some((ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, _)) => {
                        let sequence = self.sequences[at];
                        self.history
                            .anomaly(format!("{value} with the next sequence, {sequence}, is out of order"));
                        return None;
                    }
                    Some((error, _)) if !is_early(error) => return None,
                    Some(_) | None => {}
                }
            }
            sleep(RETRY).await;
        }
        None
    }

    /// Commits, with the transaction, how far the source was read.
    async fn commit_offset(&mut self, offset: i64) -> bool {
        for _ in 0..ATTEMPTS {
            let error = match self.try_commit_offset(offset).await {
                Some(error) if error.is_ok() => return true,
                Some(error) => error,
                None => return false,
            };
            if !is_early(error) {
                return false;
            }
            self.pause().await;
        }
        false
    }

    async fn try_commit_offset(&mut self, offset: i64) -> Option<ErrorCode> {
        if self.who.protocol == Protocol::First {
            let request = AddOffsetsToTxnRequest {
                transactional_id: self.who.id.into(),
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                group_id: GROUP.into(),
            };
            let added = self.ask(OF_TRANSACTION, request, ADD_VERSION).await?.error_code;
            if !added.is_ok() {
                return Some(added);
            }
        }
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: SOURCE.1,
            committed_offset: offset,
            ..Default::default()
        };
        let topic = TxnOffsetCommitRequestTopic { name: SOURCE.0.into(), partitions: vec![partition] };
        let request = TxnOffsetCommitRequest {
            transactional_id: self.who.id.into(),
            group_id: GROUP.into(),
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            topics: vec![topic],
            ..Default::default()
        };
        let answer = self.ask(OF_GROUP, request, self.who.protocol.commit_version()).await?;
        Some(answer.topics[0].partitions[0].error_code)
    }

    /// How far the source was read, by all that is committed.
    async fn committed_offset(&mut self) -> Option<i64> {
        let topic = OffsetFetchRequestTopics {
            name: SOURCE.0.into(),
            partition_indexes: vec![SOURCE.1],
            ..Default::default()
        };
        let group = OffsetFetchRequestGroup {
            group_id: GROUP.into(),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let request = OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
        let mut answer = self.ask(OF_GROUP, request, 8).await?;
        let mut group = answer.groups.pop().filter(|group| group.error_code.is_ok())?;
        let partition = group.topics.pop()?.partitions.pop().filter(|found| found.error_code.is_ok())?;
        Some(partition.committed_offset.max(0))
    }

    /// Ends the transaction.
    async fn end(&mut self, committed: bool) -> Ended {
        let mut may_have = false;
        for _ in 0..ATTEMPTS {
            let request = EndTxnRequest {
                transactional_id: self.who.id.into(),
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                committed,
            };
            match self.ask(OF_TRANSACTION, request, self.who.protocol.end_version()).await {
                Some(answer) if answer.error_code.is_ok() => {
                    if self.who.protocol == Protocol::Second {
                        (self.producer_id, self.epoch) = (answer.producer_id, answer.producer_epoch);
                        self.sequences = [0; PARTITIONS as usize];
                        self.last_end = Some(committed);
                    }
                    return Ended::AsAsked;
                }
                Some(answer) if answer.error_code == ErrorCode::CONCURRENT_TRANSACTIONS => {}
                Some(answer) if is_early(answer.error_code) => may_have = true,
                Some(_) if !may_have => return Ended::Refused,
                Some(_) => return Ended::NotKnown,
                None => {
                    may_have = true;
                    // Without an epoch for each transaction what comes late would end the next one.
                    if self.who.protocol == Protocol::First {
                        return Ended::NotKnown;
                    }
                }
            }
            self.pause().await;
        }
        if may_have { Ended::NotKnown } else { Ended::Refused }
    }

    /// Has the marker of the last transaction come to a partition once more, as if it had been sent twice and delayed on its way.
    async fn repeat_marker(&mut self, partition: i32, committed: bool) {
        let Some(leader) = self.client.leader(TOPIC, partition).await else { return };
        let topic = WritableTxnMarkerTopic { name: TOPIC.into(), partition_indexes: vec![partition] };
        let marker = WritableTxnMarker {
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            transaction_result: committed,
            topics: vec![topic],
            coordinator_epoch: 0,
            transaction_version: 2,
        };
        let request = WriteTxnMarkersRequest { markers: vec![marker] };
        self.client.ask(leader, request, MARKERS_VERSION).await;
    }

    /// Ends a transaction in one way or another. Answers what became of it, and whether the session can begin the next.
    async fn end_somehow(&mut self, is_whole: bool) -> (Fate, bool) {
        match self.client.dice.below(100) {
            _ if !is_whole => {
                if self.client.dice.percent(50) {
                    self.end(false).await;
                }
                (Fate::Aborted, false)
            }
            0..70 => match self.end(true).await {
                Ended::AsAsked => (Fate::Committed, true),
                Ended::Refused => (Fate::Aborted, false),
                Ended::NotKnown => (Fate::NotKnown, false),
            },
            70..90 => (Fate::Aborted, matches!(self.end(false).await, Ended::AsAsked)),
            _ => {
                // It goes silent, and comes back or not before its time is up.
                sleep(Duration::from_millis(self.client.dice.below(5_000))).await;
                (Fate::Aborted, false)
            }
        }
    }

    /// Writes some values to some partitions. Answers whether all of them were taken.
    async fn write_all(&mut self, transaction: &mut Transaction, values: Vec<(i32, String)>) -> bool {
        for (partition, value) in values {
            let offset = self.write(partition, &value).await;
            transaction.values.push(((FIRST_PLACE + partition, offset), value));
            if offset.is_none() {
                return false;
            }
            if let Some(committed) = self.last_end.filter(|_| self.client.dice.percent(10)) {
                self.repeat_marker(partition, committed).await;
            }
            sleep(Duration::from_millis(self.client.dice.below(30))).await;
        }
        true
    }

    fn next_transaction(&mut self) -> Transaction {
        self.number += 1;
        Transaction { name: format!("{}-{}", self.who.name, self.number), values: Vec::new() }
    }
}

/// Writes one transaction after the other until told to end.
pub(crate) async fn write(client: Client, who: Who, history: History, until: Duration) {
    let mut session = Session::new(client, who, history);
    let mut has_id = false;
    while has_id || session.begin(until).await {
        has_id = true;
        while has_id && !is_over(until) {
            let mut transaction = session.next_transaction();
            let count = 1 + session.client.dice.below(4);
            let partition = |at: u64| (at as i32 + session.number as i32) % PARTITIONS;
            let values = (0..count).map(|at| (partition(at), format!("{}-{at}", transaction.name)));
            let values = values.collect();
            let is_whole = session.write_all(&mut transaction, values).await;
            let (fate, goes_on) = session.end_somehow(is_whole).await;
            session.history.transaction(&transaction, fate);
            has_id = goes_on;
            sleep(Duration::from_millis(session.client.dice.below(200))).await;
        }
        if is_over(until) {
            return;
        }
        // Whoever has fenced it gets something done first.
        sleep(Duration::from_millis(session.client.dice.below(1_500))).await;
        has_id = false;
    }
}

/// Copies what is in the source, each record once, until told to end.
pub(crate) async fn copy(client: Client, who: Who, history: History, until: Duration) {
    let mut session = Session::new(client, who, history);
    while session.begin(until).await {
        copy_in_session(&mut session, until).await;
        sleep(Duration::from_millis(session.client.dice.below(2_000))).await;
    }
}

async fn copy_in_session(session: &mut Session, until: Duration) {
    let Some(mut offset) = session.committed_offset().await else {
        session.coordinators.remove(&OF_GROUP);
        return;
    };
    let coordinator = session.coordinators.get(&OF_GROUP);
    session.history.note(&format!("{} goes on at {offset}, says {coordinator:?}", session.who.name));
    while !is_over(until) {
        let Some(leader) = session.client.leader(SOURCE.0, SOURCE.1).await else {
            sleep(RETRY).await;
            continue;
        };
        let data = session.client.fetch_from(leader, SOURCE, offset, READ_COMMITTED).await;
        let records = data.and_then(|data| data.records).map(wire::Payload::into_bytes).unwrap_or_default();
        let read: Vec<_> = load::values(records, offset).into_iter().take(3).collect();
        let Some((last, _)) = read.last() else {
            sleep(RETRY).await;
            continue;
        };
        let next = last + 1;
        let mut transaction = session.next_transaction();
        let values = read.iter().map(|(at, _)| ((at % 2) as i32, format!("{}:{at}", transaction.name)));
        let values = values.collect();
        let is_whole = session.write_all(&mut transaction, values).await && session.commit_offset(next).await;
        let (fate, goes_on) = session.end_somehow(is_whole).await;
        session.history.transaction(&transaction, fate);
        if fate == Fate::Committed {
            offset = next;
        }
        if !goes_on {
            return;
        }
    }
}

/// What a reader of committed records makes of an answer, and where it reads on.
fn committed(data: PartitionData, from: i64) -> (Vec<(i64, String)>, i64) {
    let mut aborted: Vec<_> = data.aborted_transactions.unwrap_or_default();
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let mut aborted = aborted.into_iter().peekable();
    let mut skipped = BTreeSet::new();
    let (mut values, mut next) = (Vec::new(), from);
    let records = data.records.map(wire::Payload::into_bytes).unwrap_or_default();
    for batch in Batches::new(records).map_while(Result::ok) {
        let Ok(()) = batch.verify_crc() else { break };
        next = next.max(batch.last_offset().0 + 1);
        while let Some(begun) = aborted.next_if(|begun| begun.first_offset <= batch.last_offset().0) {
            skipped.insert(begun.producer_id);
        }
        let records = batch.records(RECORD_BYTES_MAX).map_while(Result::ok);
        let attributes = batch.attributes();
        if attributes.is_control() {
            let is_abort = |key: &[u8]| key.get(..4) == Some(&[0, 0, 0, 0]);
            if records.into_iter().any(|record| record.key.as_deref().is_some_and(is_abort)) {
                skipped.remove(&batch.producer_id().0);
            }
        } else if !(attributes.is_transactional() && skipped.contains(&batch.producer_id().0)) {
            for record in records.filter(|record| record.offset.0 >= from) {
                let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
                values.push((record.offset.0, value));
            }
        }
    }
    (values, next)
}

/// Reads what is committed in one partition, from its beginning, as far as it comes.
pub(crate) async fn read(mut client: Client, partition: i32, history: History, until: Duration) {
    let mut offset = 0;
    while !is_over(until) {
        let Some(leader) = client.leader(TOPIC, partition).await else {
            sleep(RETRY).await;
            continue;
        };
        let broker = if client.dice.percent(30) { client.any() } else { leader };
        while !is_over(until) {
            let data = client.fetch_from(broker, (TOPIC, partition), offset, READ_COMMITTED).await;
            let Some(data) = data.filter(|data| data.error_code.is_ok()) else {
                sleep(RETRY).await;
                break;
            };
            let stable = data.last_stable_offset;
            let (values, next) = committed(data, offset);
            if next > stable.max(offset) {
                history
                    .anomaly(format!("broker {broker} gives {partition} up to {next}, stable to {stable}"));
            }
            for (at, value) in values {
                history.read((FIRST_PLACE + partition, at), &value);
            }
            offset = next;
            history.came_to(FIRST_PLACE + partition, offset);
        }
    }
}

/// Waits until the healed cluster has ended every transaction, and compares every replica with the history.
pub(crate) async fn verify(mut client: Client, history: History) {
    let mut seen = BTreeMap::new();
    for (index, replicas) in load::whole(&mut client, &history, (TOPIC, PARTITIONS)).await {
        let mut end = history.end_of(FIRST_PLACE + index);
        let mut first = None;
        for replica in replicas {
            let compared = timeout(WHOLE_MAX, replica_of(&mut client, replica, index, &mut end)).await;
            let Ok(found) = compared else {
                history.anomaly(format!(
                    "what is committed in replica {replica} of {TOPIC}-{index} does not come to {end}"
                ));
                continue;
            };
            history.compare(replica, FIRST_PLACE + index, &found);
            if first.get_or_insert_with(|| found.clone()) != &found {
                history.anomaly(format!("replica {replica} of {TOPIC}-{index} differs in what is committed"));
            }
        }
        let places = first.unwrap_or_default().into_iter();
        seen.extend(places.map(|(offset, value)| ((FIRST_PLACE + index, offset), value)));
    }
    let who = Who { name: "verify", id: "verify", protocol: Protocol::First };
    let mut session = Session::new(client, who, history.clone());
    let copied = timeout(WHOLE_MAX, async {
        loop {
            match session.committed_offset().await {
                Some(offset) => return offset,
                None => session.pause().await,
            }
        }
    });
    match copied.await {
        Ok(copied) => history.check_transactions(&seen, copied),
        Err(_) => history.anomaly(format!("the offset of group {GROUP} does not become stable")),
    }
    history.note("transactions verified");
}

/// Everything that is committed in a replica, at least up to `end`, which the leader, asked first, may raise.
async fn replica_of(
    client: &mut Client,
    replica: i32,
    partition: i32,
    end: &mut i64,
) -> BTreeMap<i64, String> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    loop {
        match client.fetch_from(replica, (TOPIC, partition), offset, READ_COMMITTED).await {
            Some(data) if data.error_code.is_ok() => {
                *end = data.high_watermark.max(*end);
                let (values, next) = committed(data, offset);
                found.extend(values);
                offset = next;
                if offset >= *end {
                    return found;
                }
            }
            _ => sleep(RETRY).await,
        }
    }
}
