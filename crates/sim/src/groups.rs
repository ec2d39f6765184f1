//! Members of groups that share out the partitions of a topic, of the classic protocol and of the consumer protocol (KIP-848),
//! in groups of one kind or of both: they join, read, commit, leave, fall silent and come back as if nothing had happened.
//!
//! A member does what clients do: it has a partition from when it is told so until it lets go, or has not been answered for its
//! session. What it was before is kept, to commit by once more when it is something else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use wire::messages::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use wire::messages::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition};
use wire::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::{ApiRequest, Decoder, Encoder, ErrorCode, Message, Str, Uuid};

use crate::group_history::{GroupHistory, Told, Who};
use crate::load::{self, Client, PARTITIONS, RETRY, TOPIC, WHOLE_MAX};
use crate::truth::{Leads, Truth};
use crate::world::{GROUP_SESSION, OFFSETS_PARTITIONS, elapsed};

/// How members speak to their coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Classic,
    Consumer,
}

/// A group, and the protocols of its members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) id: &'static str,
    pub(crate) protocols: &'static [Protocol],
}

pub(crate) const CLASSIC: Group = Group { id: "classic", protocols: &[Protocol::Classic] };
pub(crate) const CONSUMER: Group = Group { id: "consumer", protocols: &[Protocol::Consumer] };
pub(crate) const MIXED: Group = Group { id: "mixed", protocols: &[Protocol::Classic, Protocol::Consumer] };
/// Its members.
pub(crate) const MEMBERS: [&str; 3] = ["m1", "m2", "m3"];

const OFFSETS_TOPIC: &str = "__consumer_offsets";
const HEARTBEAT: Duration = Duration::from_millis(400);
/// How long a member waits for an answer, but for those that are given when others have come.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a group waits for members that are to join again; longer than their sessions.
const REBALANCE: Duration = Duration::from_millis(4_000);
/// What a client's clock and the coordinator's may differ by.
const SLOP: Duration = Duration::from_millis(10);
const READ_UNCOMMITTED: i8 = 0;
/// How clients say that they distribute partitions.
const STRATEGY: &str = "range";
const CONSUMER_PROTOCOL: &str = "consumer";
const CONSUMER_PROTOCOL_VERSION: i16 = 1;

/// What a member is in its group.
#[derive(Clone, Debug)]
struct Identity {
    /// What the history calls it: another name each time it joins.
    name: String,
    protocol: Protocol,
    member_id: Str,
    /// Its epoch, or its generation.
    epoch: i32,
}

impl Identity {
    fn who(&self) -> Who {
        Who { name: self.name.clone(), id: self.member_id.to_string() }
    }
}

/// What became of a request to the coordinator.
enum Heard {
    /// It is a member still.
    Well,
    /// It has to join again, as the member that it is.
    Rejoin,
    /// It is none any more.
    Gone,
    /// Nobody knows.
    Nothing,
}

struct Member {
    client: Client,
    group: Group,
    name: &'static str,
    history: GroupHistory,
    truth: Truth,
    topic_id: Uuid,
    joined: u32,
    identity: Identity,
    /// The partitions that it has, and where it reads on, if it knows.
    has: BTreeMap<i32, Option<i64>>,
    /// What it is to tell the coordinator that it has.
    tells: bool,
    coordinator: Option<i32>,
    leaders: BTreeMap<i32, i32>,
    heartbeat_at: Duration,
    /// What it was, and how far it had come.
    ghost: Option<(Identity, BTreeMap<i32, i64>)>,
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).expect("a short while")
}

/// The partition of the coordinators' topic that a group belongs to: Java's hash code of its name.
pub(crate) fn coordinated_in(key: &str, partitions: i32) -> i32 {
    let hash = key.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    (hash & i32::MAX) % partitions
}

impl Member {
    fn new(mut client: Client, who: (Group, &'static str), history: GroupHistory, truth: Truth) -> Self {
        client.answer_max = PATIENCE;
        let (group, name) = who;
        let identity = Identity {
            name: name.to_owned(),
            protocol: Protocol::Classic,
            member_id: Str::default(),
            epoch: 0,
        };
        Member {
            client,
            group,
            name,
            history,
            truth,
            topic_id: Uuid::ZERO,
            joined: 0,
            identity,
            has: BTreeMap::new(),
            tells: false,
            coordinator: None,
            leaders: BTreeMap::new(),
            heartbeat_at: Duration::ZERO,
            ghost: None,
        }
    }

    /// Asks the coordinator; says beside whether it was the true one all the time.
    async fn ask<R: ApiRequest>(
        &mut self,
        request: R,
        version: i16,
        wait: Duration,
    ) -> Option<(R::Response, bool)> {
        let coordinator = match self.coordinator {
            Some(known) => known,
            None => {
                let request = FindCoordinatorRequest { key: self.group.id.into(), ..Default::default() };
                let broker = self.client.any();
                let found = self.client.ask(broker, request, 3).await?;
                *self.coordinator.insert(Some(found.node_id).filter(|_| found.error_code.is_ok())?)
            }
        };
        let before = self.leads();
        let answer = self.client.ask_within(coordinator, request, version, wait).await;
        if answer.is_none() {
            self.coordinator = None;
        }
        let leads = before.is_some_and(|before| before.broker == coordinator) && before == self.leads();
        answer.map(|answer| (answer, leads))
    }

    fn leads(&self) -> Option<Leads> {
        self.truth.leader(OFFSETS_TOPIC, coordinated_in(self.group.id, OFFSETS_PARTITIONS))
    }

    /// What an error of the coordinator means for the member.
    fn heard(&mut self, error: ErrorCode) -> Heard {
        match error {
            ErrorCode::NONE => Heard::Well,
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => Heard::Rejoin,
            ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::FENCED_MEMBER_EPOCH
            | ErrorCode::GROUP_ID_NOT_FOUND
            | ErrorCode::INCONSISTENT_GROUP_PROTOCOL => Heard::Gone,
            _ => {
                self.coordinator = None;
                Heard::Nothing
            }
        }
    }

    fn note(&self, what: &str) {
        self.history.history.note(&format!("{} of {} {what}", self.identity.name, self.group.id));
    }

    /// Is another one from now on, of one of the group's protocols.
    fn begin_life(&mut self) {
        self.let_go_of_all();
        let protocols = self.group.protocols;
        let protocol = protocols[self.client.dice.below(protocols.len() as u64) as usize];
        let member_id = match protocol {
            Protocol::Classic => Str::default(),
            Protocol::Consumer => Str::from(Uuid::from_u128(u128::from(self.client.dice.next())).to_string()),
        };
        self.identity = Identity { name: String::new(), protocol, member_id, epoch: 0 };
    }

    /// Joins, as who it is. False if it did not succeed.
    async fn join(&mut self) -> bool {
        self.joined += 1;
        self.identity.name = format!("{}/{}", self.name, self.joined);
        self.identity.epoch = 0;
        match self.identity.protocol {
            Protocol::Classic => self.join_classic().await,
            Protocol::Consumer => {
                self.tells = true;
                matches!(self.heartbeat_consumer().await, Heard::Well)
            }
        }
    }

    async fn join_classic(&mut self) -> bool {
        let asked = elapsed();
        let wait = REBALANCE + PATIENCE;
        let mut joined = None;
        for _ in 0..2 {
            let subscription =
                ConsumerProtocolSubscription { topics: vec![TOPIC.into()], ..Default::default() };
            let protocol = JoinGroupRequestProtocol {
                name: STRATEGY.into(),
                metadata: versioned(&subscription, CONSUMER_PROTOCOL_VERSION),
            };
            let request = JoinGroupRequest {
                group_id: self.group.id.into(),
                session_timeout_ms: millis(GROUP_SESSION),
                rebalance_timeout_ms: millis(REBALANCE),
                member_id: self.identity.member_id.clone(),
                protocol_type: CONSUMER_PROTOCOL.into(),
                protocols: vec![protocol],
                ..Default::default()
            };
            let Some((answer, _)) = self.ask(request, 9, wait).await else { return false };
            if !matches!(answer.error_code, ErrorCode::NONE | ErrorCode::MEMBER_ID_REQUIRED) {
                if let Heard::Gone = self.heard(answer.error_code) {
                    self.identity.member_id = Str::default();
                }
                return false;
            }
            self.identity.member_id = answer.member_id.clone();
            if answer.error_code.is_ok() {
                joined = Some(answer);
                break;
            }
        }
        let Some(joined) = joined else { return false };
        self.identity.epoch = joined.generation_id;
        let request = SyncGroupRequest {
            group_id: self.group.id.into(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            protocol_type: joined.protocol_type.clone(),
            protocol_name: joined.protocol_name.clone(),
            assignments: shares(&joined),
            ..Default::default()
        };
        let Some((answer, leads)) = self.ask(request, 5, wait).await else { return false };
        if !matches!(self.heard(answer.error_code), Heard::Well) {
            return false;
        }
        let given = assigned(answer.assignment);
        self.take(&given, if leads { asked } else { Duration::ZERO });
        matches!(self.heartbeat().await, Heard::Well)
    }

    /// The partitions are its own from now on, those that it has still as before.
    fn take(&mut self, given: &BTreeSet<i32>, heard: Duration) {
        let (who, epoch) = (self.identity.who(), self.identity.epoch);
        for partition in given {
            if !self.has.contains_key(partition) {
                self.history.given((self.group.id, *partition), &who, epoch, lease(heard));
                self.has.insert(*partition, None);
            }
        }
        self.note(&format!("has {given:?} in epoch {epoch}"));
    }

    fn keep(&mut self, kept: &BTreeSet<i32>) {
        self.history.keeps(self.group.id, &self.identity.who(), kept);
        self.has.retain(|partition, _| kept.contains(partition));
    }

    /// It has nothing any more, and remembers what it was.
    fn let_go_of_all(&mut self) {
        let had: BTreeMap<i32, i64> =
            self.has.iter().filter_map(|(partition, position)| Some((*partition, (*position)?))).collect();
        if !had.is_empty() {
            self.ghost = Some((self.identity.clone(), had));
        }
        self.keep(&BTreeSet::new());
    }

    async fn heartbeat(&mut self) -> Heard {
        self.heartbeat_at = elapsed() + HEARTBEAT;
        match self.identity.protocol {
            Protocol::Classic => self.heartbeat_classic().await,
            Protocol::Consumer => self.heartbeat_consumer().await,
        }
    }

    async fn heartbeat_classic(&mut self) -> Heard {
        let asked = elapsed();
        let request = HeartbeatRequest {
            group_id: self.group.id.into(),
            generation_id: self.identity.epoch,
            member_id: self.identity.member_id.clone(),
            ..Default::default()
        };
        let Some((answer, leads)) = self.ask(request, 4, PATIENCE).await else { return Heard::Nothing };
        let heard = self.heard(answer.error_code);
        if matches!(heard, Heard::Well) && leads {
            self.history.heard(self.group.id, &self.identity.who(), lease(asked));
        }
        heard
    }

    async fn heartbeat_consumer(&mut self) -> Heard {
        let asked = elapsed();
        let is_join = self.identity.epoch == 0;
        let tells = std::mem::take(&mut self.tells) || self.client.dice.percent(10);
        let has = TopicPartitions { topic_id: self.topic_id, partitions: self.has.keys().copied().collect() };
        let has = if self.has.is_empty() { Vec::new() } else { vec![has] };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.group.id.into(),
            member_id: self.identity.member_id.clone(),
            member_epoch: self.identity.epoch,
            rebalance_timeout_ms: if is_join { millis(GROUP_SESSION * 4) } else { -1 },
            subscribed_topic_names: is_join.then(|| vec![TOPIC.into()]),
            topic_partitions: tells.then_some(has),
            ..Default::default()
        };
        let Some((answer, leads)) = self.ask(request, 1, PATIENCE).await else {
            self.tells = true;
            return Heard::Nothing;
        };
        let heard = self.heard(answer.error_code);
        if !matches!(heard, Heard::Well) {
            self.tells = true;
            return heard;
        }
        self.identity.epoch = answer.member_epoch;
        if leads {
            self.history.heard(self.group.id, &self.identity.who(), lease(asked));
        }
        if let Some(assignment) = answer.assignment {
            let of_topic = assignment.topic_partitions.iter().filter(|topic| topic.topic_id == self.topic_id);
            let given: BTreeSet<i32> = of_topic.flat_map(|topic| topic.partitions.clone()).collect();
            let kept: BTreeSet<i32> =
                self.has.keys().copied().filter(|partition| given.contains(partition)).collect();
            let gives_up = kept.len() < self.has.len();
            if gives_up {
                // As clients do: what was read is committed before it is another's.
                self.commit().await;
            }
            self.keep(&kept);
            self.tells = true;
            self.take(&given, if leads { asked } else { Duration::ZERO });
            if gives_up {
                self.heartbeat_at = elapsed();
            }
        }
        heard
    }

    async fn leave(&mut self) {
        self.let_go_of_all();
        let group_id = Str::from(self.group.id);
        let member_id = self.identity.member_id.clone();
        match self.identity.protocol {
            Protocol::Classic => {
                let member = MemberIdentity { member_id, ..Default::default() };
                let request = LeaveGroupRequest { group_id, members: vec![member], ..Default::default() };
                self.ask(request, 5, PATIENCE).await;
            }
            Protocol::Consumer => {
                let request = ConsumerGroupHeartbeatRequest {
                    group_id,
                    member_id,
                    member_epoch: -1,
                    ..Default::default()
                };
                self.ask(request, 1, PATIENCE).await;
            }
        }
    }

    /// Finds out where to read on.
    async fn resume(&mut self) {
        let unknown: Vec<i32> = self.has.iter().filter(|(_, at)| at.is_none()).map(|(id, _)| *id).collect();
        if unknown.is_empty() {
            return;
        }
        for (partition, offset) in self.committed(unknown, true).await {
            self.has.insert(partition, Some(offset.max(0)));
        }
    }

    /// What is committed.
    async fn committed(&mut self, partitions: Vec<i32>, as_member: bool) -> Vec<(i32, i64)> {
        let topic = OffsetFetchRequestTopics {
            name: TOPIC.into(),
            partition_indexes: partitions,
            ..Default::default()
        };
        let is_consumer = as_member && self.identity.protocol == Protocol::Consumer;
        let group = OffsetFetchRequestGroup {
            group_id: self.group.id.into(),
            member_id: is_consumer.then(|| self.identity.member_id.clone()),
            member_epoch: if is_consumer { self.identity.epoch } else { -1 },
            topics: Some(vec![topic]),
        };
        let request = OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
        let asked = self.history.now();
        let Some((mut answer, leads)) = self.ask(request, 9, PATIENCE).await else { return Vec::new() };
        let Some(group) = answer.groups.pop() else { return Vec::new() };
        if !group.error_code.is_ok() {
            self.heard(group.error_code);
            return Vec::new();
        }
        let partitions = group.topics.into_iter().flat_map(|topic| topic.partitions);
        let found = partitions.filter(|found| found.error_code.is_ok());
        let found: Vec<_> = found.map(|found| (found.partition_index, found.committed_offset)).collect();
        for (partition, offset) in &found {
            self.history.offset_read((self.group.id, *partition), *offset, asked, leads);
        }
        found
    }

    /// Reads on in every partition.
    async fn read(&mut self) {
        for (partition, position) in self.has.clone() {
            let Some(position) = position else { continue };
            let leader = match self.leaders.get(&partition) {
                Some(known) => *known,
                None => {
                    let Some(leader) = self.client.leader(TOPIC, partition).await else { continue };
                    self.leaders.insert(partition, leader);
                    leader
                }
            };
            let data = self.client.fetch_from(leader, (TOPIC, partition), position, READ_UNCOMMITTED).await;
            let Some(data) = data.filter(|data| data.error_code.is_ok()) else {
                self.leaders.remove(&partition);
                continue;
            };
            let records = data.records.map(wire::Payload::into_bytes).unwrap_or_default();
            // Not all at once, so that there is something to commit all the time.
            for (offset, value) in load::values(records, position).into_iter().take(40) {
                self.history.history.read((partition, offset), &value);
                self.history.has_read((self.group.id, partition), offset);
                self.has.insert(partition, Some(offset + 1));
            }
        }
    }

    async fn commit(&mut self) -> Heard {
        let has: BTreeMap<i32, i64> =
            self.has.iter().filter_map(|(partition, position)| Some((*partition, (*position)?))).collect();
        self.commit_as(&self.identity.clone(), &has, false).await
    }

    /// Commits once more as who it was.
    async fn haunt(&mut self) {
        let Some((ghost, had)) = self.ghost.take() else { return };
        // A generation is over for a member that has been given what is its own in a later one. In the other protocol it may
        // have what it had, and commit for it.
        let is_same = (ghost.protocol, &ghost.member_id) == (Protocol::Classic, &self.identity.member_id);
        let is_over = is_same && ghost.epoch < self.identity.epoch;
        self.note(&format!("commits as {} in epoch {} once more", ghost.name, ghost.epoch));
        self.commit_as(&ghost, &had, is_over).await;
    }

    async fn commit_as(&mut self, identity: &Identity, has: &BTreeMap<i32, i64>, is_over: bool) -> Heard {
        if has.is_empty() {
            return Heard::Well;
        }
        let partitions = has.iter().map(|(partition, offset)| OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            ..Default::default()
        });
        let topic = OffsetCommitRequestTopic {
            name: TOPIC.into(),
            partitions: partitions.collect(),
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: self.group.id.into(),
            generation_id_or_member_epoch: identity.epoch,
            member_id: identity.member_id.clone(),
            topics: vec![topic],
            ..Default::default()
        };
        let commits: BTreeMap<i32, _> = has
            .iter()
            .map(|(partition, offset)| {
                let part = (self.group.id, *partition);
                (*partition, self.history.commits(part, &identity.who(), identity.epoch, *offset))
            })
            .collect();
        let Some((answer, _)) = self.ask(request, 9, PATIENCE).await else { return Heard::Nothing };
        let mut first = ErrorCode::NONE;
        for answer in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            let told = told(answer.error_code);
            if told != Told::NotKnown {
                let part = (self.group.id, answer.partition_index);
                let outcome = if told == Told::Done { "committed" } else { "may not commit" };
                let offset = has[&answer.partition_index];
                self.history
                    .history
                    .note(&format!("{} of {} {outcome} {}/{offset}", identity.name, part.0, part.1));
            }
            self.history.committed(commits[&answer.partition_index], told, is_over);
            if first.is_ok() {
                first = answer.error_code;
            }
        }
        match first {
            // The next heartbeat says more.
            ErrorCode::STALE_MEMBER_EPOCH => Heard::Nothing,
            error => self.heard(error),
        }
    }

    /// One round of a member's work. False if it has to join again.
    async fn work(&mut self) -> bool {
        if elapsed() >= self.heartbeat_at {
            match self.heartbeat().await {
                Heard::Well | Heard::Nothing => {}
                Heard::Rejoin => {
                    // What was read is committed before another has it.
                    self.commit().await;
                    return false;
                }
                Heard::Gone => {
                    if self.identity.protocol == Protocol::Classic {
                        self.let_go_of_all();
                        self.identity.member_id = Str::default();
                    }
                    return false;
                }
            }
        }
        if self.client.dice.percent(15) {
            self.haunt().await;
        }
        self.resume().await;
        self.read().await;
        if self.client.dice.percent(40) {
            // What is wrong the heartbeat will say, too.
            self.commit().await;
        }
        true
    }

    async fn topic_is_known(&mut self) {
        while self.topic_id.is_zero() {
            match self.client.topic_id(TOPIC).await {
                Some(id) => self.topic_id = id,
                None => sleep(RETRY).await,
            }
        }
    }
}

/// Until when a member is one if nobody hears of it after it asked.
fn lease(asked: Duration) -> Duration {
    (asked + GROUP_SESSION).saturating_sub(SLOP)
}

fn told(error: ErrorCode) -> Told {
    match error {
        ErrorCode::NONE => Told::Done,
        ErrorCode::ILLEGAL_GENERATION
        | ErrorCode::UNKNOWN_MEMBER_ID
        | ErrorCode::REBALANCE_IN_PROGRESS
        | ErrorCode::STALE_MEMBER_EPOCH
        | ErrorCode::GROUP_ID_NOT_FOUND
        | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => Told::Refused,
        _ => Told::NotKnown,
    }
}

/// What the leader of a classic group decides: every partition is somebody's.
fn shares(joined: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
    if joined.leader != joined.member_id || joined.skip_assignment {
        return Vec::new();
    }
    let mut ids: Vec<Str> = joined.members.iter().map(|member| member.member_id.clone()).collect();
    ids.sort();
    let count = i32::try_from(ids.len()).expect("a few members");
    let shares = ids.into_iter().zip(0..).map(|(member_id, at)| {
        let partitions: Vec<i32> = (0..PARTITIONS).filter(|partition| partition % count == at).collect();
        let topic = TopicPartition { topic: TOPIC.into(), partitions };
        let assignment = ConsumerProtocolAssignment { assigned_partitions: vec![topic], user_data: None };
        SyncGroupRequestAssignment {
            member_id,
            assignment: versioned(&assignment, CONSUMER_PROTOCOL_VERSION),
        }
    });
    shares.collect()
}

fn assigned(assignment: Bytes) -> BTreeSet<i32> {
    let mut decoder = Decoder::new(assignment);
    let Ok(version) = decoder.int16() else { return BTreeSet::new() };
    let assignment = ConsumerProtocolAssignment::decode(&mut decoder, version).unwrap_or_default();
    assignment.assigned_partitions.into_iter().flat_map(|topic| topic.partitions).collect()
}

fn versioned(message: &impl Message, version: i16) -> Bytes {
    let mut encoder = Encoder::new();
    encoder.int16(version);
    message.encode(&mut encoder, version);
    encoder.into_bytes()
}

/// A member of a group, one life after the other, until told to end.
pub(crate) async fn member(
    client: Client,
    (group, name): (Group, &'static str),
    (history, truth): (GroupHistory, Truth),
    until: Duration,
) {
    let mut member = Member::new(client, (group, name), history, truth);
    member.topic_is_known().await;
    member.begin_life();
    let mut has_joined = false;
    while elapsed() < until {
        if !has_joined {
            member.let_go_of_all();
            has_joined = member.join().await;
            if !has_joined {
                sleep(RETRY).await;
            }
            continue;
        }
        has_joined = member.work().await;
        match member.client.dice.below(100) {
            0..4 => {
                let silence = Duration::from_millis(500 + member.client.dice.below(4_500));
                member.note(&format!("is silent for {silence:?}"));
                sleep(silence).await;
            }
            4..6 => {
                member.note("leaves");
                member.leave().await;
                member.begin_life();
                has_joined = false;
                sleep(Duration::from_millis(member.client.dice.below(1_000))).await;
            }
            6..8 => {
                member.note("is killed");
                member.begin_life();
                has_joined = false;
            }
            _ => sleep(Duration::from_millis(20 + member.client.dice.below(100))).await,
        }
    }
    member.let_go_of_all();
}

/// In the healed cluster one more member must be given everything, and come to the end of it.
pub(crate) async fn verify(client: Client, group: Group, history: GroupHistory, truth: Truth) {
    let mut member = Member::new(client, (group, "last"), history, truth);
    member.topic_is_known().await;
    member.begin_life();
    let came = timeout(WHOLE_MAX, async {
        let mut has_joined = false;
        loop {
            if !has_joined {
                member.let_go_of_all();
                has_joined = member.join().await;
            } else {
                has_joined = member.work().await;
                let ends = (0..PARTITIONS).map(|partition| member.history.history.end_of(partition));
                let is_there = ends.zip(0..).all(|(end, partition)| {
                    member.has.get(&partition).is_some_and(|at| at.is_some_and(|at| at >= end))
                });
                if has_joined && is_there && matches!(member.commit().await, Heard::Well) {
                    return;
                }
            }
            sleep(RETRY).await;
        }
    });
    if came.await.is_err() {
        let has = member.has.clone();
        member.history.history.anomaly(format!(
            "group {} of the healed cluster does not come to rest: its last member has {has:?}",
            group.id
        ));
        return;
    }
    let deadline = Instant::now() + WHOLE_MAX;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    let mut found = Vec::new();
    while found.len() < all.len() && Instant::now() < deadline {
        found = member.committed(all.clone(), false).await;
    }
    for partition in all {
        match found.iter().find(|(id, _)| *id == partition) {
            Some((_, offset)) => member.history.check_read((group.id, partition), *offset),
            None => member
                .history
                .history
                .anomaly(format!("group {} does not say what it has committed for {partition}", group.id)),
        }
    }
    member.note("is the last, and has everything");
}
