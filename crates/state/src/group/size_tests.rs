//! A thousand members in one group, and a thousand groups, in virtual time: members that come as often as they are told stay,
//! groups come to rest, a heartbeat that says nothing new writes nothing, and when all have left nothing is left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use wire::messages::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::{ErrorCode, Millis, Response, Str, Uuid};

use super::testing::image;
use super::{ClientInfo, ConsumerView, GroupConfig, Groups, Outcome, Token};
use crate::metadata::Image;

/// As a request travels.
const TRAVEL_MS: i64 = 2;
/// How often members of the classic protocol come, as their clients do by default.
const HEARTBEAT_MS: i64 = 3_000;
const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;
const MINUTE: i64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Classic,
    Consumer,
}

/// What a member waits for, or does next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Join,
    Sync,
    Heartbeat,
    Leave,
    /// An answer.
    Wait,
}

#[derive(Debug)]
struct Client {
    group: Str,
    protocol: Protocol,
    id: Str,
    epoch: i32,
    owned: BTreeSet<i32>,
    tells: bool,
    next: Next,
    /// The members whose leader it is.
    leads: Vec<Str>,
    heard_at: i64,
}

/// One shard and its clients.
struct World {
    groups: Groups,
    image: Arc<Image>,
    topic: Uuid,
    partitions: i32,
    now: i64,
    clients: Vec<Client>,
    /// Who does something when.
    agenda: BTreeSet<(i64, usize)>,
    waiting: BTreeMap<Token, usize>,
    token: u64,
    ids: u128,
    records: usize,
    bytes: usize,
    heartbeats: usize,
}

impl World {
    fn new(partitions: i32) -> Self {
        let image = image(&[&format!("t:{partitions}")]);
        let topic = image.topic("t").unwrap().id;
        World {
            groups: Groups::new(GroupConfig::default()),
            image: Arc::new(image),
            topic,
            partitions,
            now: 0,
            clients: Vec::new(),
            agenda: BTreeSet::new(),
            waiting: BTreeMap::new(),
            token: 0,
            ids: 0,
            records: 0,
            bytes: 0,
            heartbeats: 0,
        }
    }

    fn add(&mut self, group: &str, protocol: Protocol, at: i64) {
        let at = self.now + at;
        self.agenda.insert((at, self.clients.len()));
        let id = match protocol {
            Protocol::Classic => Str::default(),
            Protocol::Consumer => Str::from(format!("m{}", self.clients.len())),
        };
        self.clients.push(Client {
            group: Str::copy_from(group),
            protocol,
            id,
            epoch: 0,
            owned: BTreeSet::new(),
            tells: true,
            next: Next::Join,
            leads: Vec::new(),
            heard_at: at,
        });
    }

    /// Time passes.
    fn run(&mut self, ms: i64) {
        let end = self.now + ms;
        loop {
            let due = self.groups.next_deadline().map(|deadline| deadline.0.max(self.now));
            let next = self.agenda.first().map(|(at, _)| *at);
            match due.into_iter().chain(next).min().filter(|at| *at <= end) {
                None => break,
                Some(at) if Some(at) == due => {
                    self.now = at;
                    let outcome = self.groups.tick(Millis(at));
                    self.take(outcome);
                }
                Some(at) => {
                    self.now = at;
                    let (_, client) = self.agenda.pop_first().unwrap();
                    self.act(client);
                }
            }
        }
        self.now = end;
    }

    fn act(&mut self, at: usize) {
        self.token += 1;
        let token = Token(self.token);
        self.waiting.insert(token, at);
        let client = &mut self.clients[at];
        let next = std::mem::replace(&mut client.next, Next::Wait);
        let version = if client.protocol == Protocol::Classic { 9 } else { 1 };
        let info = ClientInfo {
            client_id: Str::from("c"),
            client_host: Str::from("/127.0.0.1"),
            api_version: version,
        };
        let now = Millis(self.now);
        let (group_id, member_id) = (client.group.clone(), client.id.clone());
        let ids = &mut self.ids;
        let mut new_id = || {
            *ids += 1;
            Uuid::from_u128(*ids)
        };
        let outcome = match (client.protocol, &next) {
            (_, Next::Wait) => unreachable!("who waits has nothing to do"),
            (Protocol::Classic, Next::Join) => {
                let protocol = JoinGroupRequestProtocol {
                    name: Str::from("range"),
                    metadata: Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\0"),
                };
                let request = JoinGroupRequest {
                    group_id,
                    member_id,
                    session_timeout_ms: SESSION_MS,
                    rebalance_timeout_ms: REBALANCE_MS,
                    protocol_type: Str::from("consumer"),
                    protocols: vec![protocol],
                    ..Default::default()
                };
                self.groups.join(token, &info, &request, &self.image, now, &mut new_id)
            }
            (Protocol::Classic, Next::Sync) => {
                let shares = std::mem::take(&mut client.leads).into_iter();
                let shares = shares.map(|member_id| SyncGroupRequestAssignment {
                    member_id,
                    assignment: Bytes::from_static(b"something"),
                });
                let request = SyncGroupRequest {
                    group_id,
                    member_id,
                    generation_id: client.epoch,
                    assignments: shares.collect(),
                    ..Default::default()
                };
                self.groups.sync(token, &request, &self.image, now)
            }
            (Protocol::Classic, Next::Heartbeat) => {
                self.heartbeats += 1;
                let request = HeartbeatRequest {
                    group_id,
                    member_id,
                    generation_id: client.epoch,
                    ..Default::default()
                };
                self.groups.heartbeat(token, &request, &self.image, now)
            }
            (Protocol::Classic, Next::Leave) => {
                let member = MemberIdentity { member_id, ..Default::default() };
                let request = LeaveGroupRequest { group_id, members: vec![member], ..Default::default() };
                self.groups.leave(token, 5, &request, now)
            }
            (Protocol::Consumer, step) => {
                self.heartbeats += 1;
                let is_join = *step == Next::Join;
                let owned = TopicPartitions {
                    topic_id: self.topic,
                    partitions: client.owned.iter().copied().collect(),
                };
                let owned = if client.owned.is_empty() { Vec::new() } else { vec![owned] };
                let request = ConsumerGroupHeartbeatRequest {
                    group_id,
                    member_id,
                    member_epoch: if *step == Next::Leave { -1 } else { client.epoch },
                    rebalance_timeout_ms: if is_join { REBALANCE_MS } else { -1 },
                    subscribed_topic_names: is_join.then(|| vec![Str::from("t")]),
                    topic_partitions: std::mem::take(&mut client.tells).then_some(owned),
                    ..Default::default()
                };
                let around = ConsumerView {
                    image: &self.image,
                    session_timeout_ms: None,
                    heartbeat_interval_ms: None,
                };
                self.groups.consumer_heartbeat(token, &info, &request, &around, now, &mut new_id)
            }
        };
        if matches!(next, Next::Heartbeat | Next::Leave) {
            assert!(outcome.replies.iter().any(|(of, _)| *of == token), "heartbeats are answered at once");
        }
        self.take(outcome);
    }

    fn take(&mut self, outcome: Outcome) {
        self.records += outcome.records.len();
        let bytes = outcome
            .records
            .iter()
            .map(|record| record.key.len() + record.value.as_ref().map_or(0, Bytes::len));
        self.bytes += bytes.sum::<usize>();
        for (token, response) in outcome.replies {
            let at = self.waiting.remove(&token).expect("every request is answered once");
            let wait = self.clients[at].hear(response, self.now);
            if let Some(wait) = wait {
                self.agenda.insert((self.now + wait, at));
            }
        }
    }

    /// All leave, and what they were is too old.
    fn end(&mut self) {
        self.agenda.clear();
        for at in 0..self.clients.len() {
            self.clients[at].next = Next::Leave;
            self.agenda.insert((self.now + at as i64 % 1_000, at));
        }
        self.run(2 * MINUTE);
        assert!(self.waiting.is_empty());
        assert_eq!(self.groups.timers.alarms().count(), 0, "nobody is waited for");
        let members = self.groups.consumers.values().map(super::consumer::ConsumerGroup::len);
        assert_eq!(members.sum::<usize>(), 0);
        assert!(self.groups.consumers.values().all(super::consumer::ConsumerGroup::keeps_nothing));
        assert!(self.groups.groups.values().all(|group| group.members.is_empty()));
        let later = self.now + GroupConfig::default().offsets_retention_ms + 1;
        self.groups.expire_offsets(Millis(later));
        assert!(self.groups.is_empty(), "{} groups are left", self.groups.len());
    }

    /// Everybody is a member, in the group's epoch, and every partition of each group of the consumer protocol is somebody's.
    fn assert_at_rest(&self) {
        let mut owned: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
        let mut epochs: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
        for client in &self.clients {
            assert_eq!(client.next, Next::Heartbeat, "{client:?}");
            epochs.entry(&client.group).or_default().insert(client.epoch);
            for partition in &client.owned {
                assert!(owned.entry(&client.group).or_default().insert(*partition), "{client:?}");
            }
        }
        for (group, epochs) in epochs {
            assert_eq!(epochs.len(), 1, "{group}: {epochs:?}");
        }
        for (group, owned) in owned {
            assert_eq!(owned.len(), self.partitions as usize, "{group}: {owned:?}");
        }
    }
}

impl Client {
    /// Takes an answer. When it does something next.
    fn hear(&mut self, response: Response, now: i64) -> Option<i64> {
        assert!(self.next == Next::Wait);
        let (next, wait) = match response {
            Response::JoinGroup(JoinGroupResponse {
                error_code: ErrorCode::MEMBER_ID_REQUIRED,
                member_id,
                ..
            }) => {
                self.id = member_id;
                (Next::Join, TRAVEL_MS)
            }
            Response::JoinGroup(joined) => {
                assert_eq!(joined.error_code, ErrorCode::NONE, "{self:?}");
                self.epoch = joined.generation_id;
                self.leads = joined.members.into_iter().map(|member| member.member_id).collect();
                (Next::Sync, TRAVEL_MS)
            }
            Response::SyncGroup(synced) => match synced.error_code {
                ErrorCode::NONE => (Next::Heartbeat, HEARTBEAT_MS),
                ErrorCode::REBALANCE_IN_PROGRESS => (Next::Join, TRAVEL_MS),
                other => panic!("{other:?} for {self:?}"),
            },
            Response::Heartbeat(heard) => match heard.error_code {
                ErrorCode::NONE => (Next::Heartbeat, HEARTBEAT_MS),
                ErrorCode::REBALANCE_IN_PROGRESS => (Next::Join, TRAVEL_MS),
                other => panic!("{other:?} for {self:?}, {} ms after it was heard", now - self.heard_at),
            },
            Response::LeaveGroup(_) => return None,
            Response::ConsumerGroupHeartbeat(heard) => {
                assert_eq!(
                    heard.error_code,
                    ErrorCode::NONE,
                    "{self:?}, {} ms after it was heard",
                    now - self.heard_at
                );
                if heard.member_epoch < 0 {
                    return None;
                }
                self.epoch = heard.member_epoch;
                let told = i64::from(heard.heartbeat_interval_ms);
                assert!(2 * told < 45_000, "there is time for two before the session ends");
                let wait = match heard.assignment {
                    Some(assignment) => {
                        let given = assignment.topic_partitions.into_iter();
                        let given: BTreeSet<i32> = given.flat_map(|topic| topic.partitions).collect();
                        let gives_up = !self.owned.is_subset(&given);
                        self.tells = self.owned != given;
                        self.owned = given;
                        // It says at once that it let go.
                        if gives_up { TRAVEL_MS } else { told }
                    }
                    None => told,
                };
                (Next::Heartbeat, wait)
            }
            other => panic!("{other:?}"),
        };
        self.heard_at = now;
        self.next = next;
        Some(wait)
    }
}

/// What is written while nothing happens, and how many heartbeats are taken.
fn records_in_a_minute(world: &mut World) -> (usize, usize) {
    let (records, heartbeats) = (world.records, world.heartbeats);
    world.run(MINUTE);
    world.assert_at_rest();
    (world.records - records, world.heartbeats - heartbeats)
}

#[test]
fn a_thousand_members_of_the_classic_protocol_form_one_group() {
    let mut world = World::new(1);
    for at in 0..1_000 {
        world.add("g", Protocol::Classic, at * 10);
    }
    world.run(2 * MINUTE);
    world.assert_at_rest();
    let generation = world.clients[0].epoch;
    assert!(generation <= 3, "{generation} generations for a group that forms");
    assert_eq!(records_in_a_minute(&mut world), (0, 20_000));

    // One more, and one of the others goes: everybody joins once more each time.
    world.add("g", Protocol::Classic, 0);
    world.run(MINUTE);
    world.assert_at_rest();
    assert_eq!(world.clients[0].epoch, generation + 1);
    assert_eq!(world.groups.timers.alarms().count(), 1_001, "one for each member");
    assert!(world.records < 10, "{} records: one for each generation", world.records);
    world.end();
}

#[test]
fn a_thousand_members_of_the_consumer_protocol_form_one_group() {
    let mut world = World::new(1_000);
    for at in 0..1_000 {
        world.add("g", Protocol::Consumer, at * 10);
    }
    world.run(2 * MINUTE);
    world.assert_at_rest();
    // Five seconds between two heartbeats of a member.
    assert_eq!(records_in_a_minute(&mut world), (0, 12_000));
    assert_eq!(world.groups.timers.alarms().count(), 1_000, "one for each member");
    let group = &world.groups.consumers["g"];
    assert_eq!(group.len(), 1_000);
    // A member is a few small records, however many there are.
    assert!(
        world.records < 13_000 && world.bytes < 1_000_000,
        "{} records, {} bytes",
        world.records,
        world.bytes
    );
    world.end();
}

#[test]
fn a_thousand_groups_share_a_shard() {
    let mut world = World::new(6);
    for at in 0..1_000 {
        let protocol = if at % 2 == 0 { Protocol::Classic } else { Protocol::Consumer };
        for member in 0..3 {
            world.add(&format!("g{at}"), protocol, at + member * 50);
        }
    }
    world.run(2 * MINUTE);
    world.assert_at_rest();
    assert_eq!(world.groups.len(), 1_000);
    let (records, heartbeats) = records_in_a_minute(&mut world);
    assert_eq!(records, 0, "of {heartbeats} heartbeats");
    assert_eq!(world.groups.timers.alarms().count(), 3_000, "one for each member");
    assert!(
        world.records < 13_000 && world.bytes < 1_000_000,
        "{} records, {} bytes",
        world.records,
        world.bytes
    );
    world.end();
}
