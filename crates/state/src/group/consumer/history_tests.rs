//! Random histories of a group of the consumer protocol: members that follow it as clients do, whose requests and answers get
//! lost, who fall silent, are fenced and come back, while topics grow and the coordinator moves.
//!
//! What has to hold: no two members ever read one partition, and once everybody is heard and nothing changes any more, every
//! partition is read by somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use wire::messages::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use wire::{ErrorCode, PartitionId, Response, Str, Uuid};

use super::TopicIdPartition;
use super::reconcile::by_topic;
use crate::group::testing::{World, image, view};
use crate::group::{ClientInfo, Token};
use crate::metadata::Image;

const SESSION_MS: i64 = 45_000;
const PARTITIONS_MAX: i32 = 12;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A member sends a heartbeat; `Lost` says what becomes of it.
    Beat(usize, Lost),
    /// A member gives up, in its own time, what it was told to.
    LetGo(usize),
    Leave(usize),
    /// The time goes on: who is not heard of for long is sent away.
    Wait(i64),
    Crash,
    Grow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Nothing,
    Request,
    Answer,
}

fn event() -> impl Strategy<Value = Event> {
    let lost = prop_oneof![8 => Just(Lost::Nothing), 1 => Just(Lost::Request), 2 => Just(Lost::Answer)];
    prop_oneof![
        20 => (0..4usize, lost).prop_map(|(member, lost)| Event::Beat(member, lost)),
        8 => (0..4usize).prop_map(Event::LetGo),
        1 => (0..4usize).prop_map(Event::Leave),
        2 => (1..SESSION_MS).prop_map(Event::Wait),
        1 => Just(Event::Crash),
        1 => Just(Event::Grow),
    ]
}

/// A client, as KIP-848 has it behave.
#[derive(Debug, Default)]
struct Client {
    epoch: i32,
    /// What it reads.
    reads: BTreeSet<TopicIdPartition>,
    /// What it was told to have: it gives up the rest, and then takes what is new.
    told: BTreeSet<TopicIdPartition>,
    /// Its last request was not answered: it tells everything again.
    is_unsure: bool,
}

impl Client {
    fn request(&self, id: &str) -> ConsumerGroupHeartbeatRequest {
        let is_full = self.epoch == 0 || self.is_unsure;
        let owned = by_topic(self.reads.iter().map(|partition| (*partition, ()))).into_iter();
        let owned = owned.map(|(topic_id, partitions)| TopicPartitions {
            topic_id,
            partitions: partitions.into_iter().map(|(id, ())| id).collect(),
        });
        ConsumerGroupHeartbeatRequest {
            group_id: Str::from("g"),
            member_id: Str::copy_from(id),
            member_epoch: self.epoch,
            rebalance_timeout_ms: if is_full { 300_000 } else { -1 },
            subscribed_topic_names: is_full.then(|| vec![Str::from("t")]),
            topic_partitions: Some(owned.collect()),
            ..Default::default()
        }
    }

    /// A client that was sent away stops reading before anything else.
    fn abandon(&mut self) {
        *self = Client::default();
    }

    fn let_go(&mut self) {
        self.reads = self.reads.intersection(&self.told).copied().collect();
    }

    fn take_up(&mut self) {
        if self.reads.is_subset(&self.told) {
            self.reads.clone_from(&self.told);
        }
    }
}

struct History {
    world: World,
    clients: BTreeMap<usize, Client>,
    /// When a client was last told that it was heard: one whose session may be over stops by itself.
    heard: BTreeMap<usize, i64>,
    partitions: i32,
}

impl History {
    fn beat(&mut self, index: usize, lost: Lost) {
        let client = self.clients.entry(index).or_default();
        if lost == Lost::Request {
            client.is_unsure = true;
            return;
        }
        let id = format!("m{index}");
        let request = client.request(&id);
        let response = self.world.hear(&request);
        let client = self.clients.entry(index).or_default();
        if lost == Lost::Answer {
            client.is_unsure = true;
            return;
        }
        client.is_unsure = false;
        match response.error_code {
            ErrorCode::NONE => {
                self.heard.insert(index, self.world.now.0);
                client.epoch = response.member_epoch;
                if let Some(assignment) = response.assignment {
                    let topics = assignment.topic_partitions.iter();
                    client.told = topics
                        .flat_map(|topic| {
                            topic.partitions.iter().map(|id| (topic.topic_id, PartitionId(*id)))
                        })
                        .collect();
                }
                client.take_up();
            }
            ErrorCode::FENCED_MEMBER_EPOCH | ErrorCode::UNKNOWN_MEMBER_ID => client.abandon(),
            // The group is gone with its last member.
            ErrorCode::GROUP_ID_NOT_FOUND => client.abandon(),
            other => panic!("{other:?} {:?}", response.error_message),
        }
    }

    fn leave(&mut self, index: usize) {
        let Some(client) = self.clients.remove(&index).filter(|client| client.epoch > 0) else { return };
        drop(client);
        let request = ConsumerGroupHeartbeatRequest {
            group_id: Str::from("g"),
            member_id: Str::from(format!("m{index}")),
            member_epoch: -1,
            ..Default::default()
        };
        self.world.hear(&request);
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::Beat(index, lost) => self.beat(index, lost),
            Event::LetGo(index) => {
                if let Some(client) = self.clients.get_mut(&index) {
                    client.let_go();
                    client.take_up();
                }
            }
            Event::Leave(index) => self.leave(index),
            Event::Wait(ms) => {
                let now = self.world.now.0 + ms;
                for (index, client) in &mut self.clients {
                    let heard = self.heard.get(index).copied().unwrap_or_default();
                    if now - heard >= SESSION_MS {
                        client.abandon();
                    }
                }
                self.world.run(&format!("wait {ms}"));
            }
            Event::Crash => {
                self.world.run("crash");
            }
            Event::Grow => {
                self.partitions = (self.partitions + 1).min(PARTITIONS_MAX);
                self.world.run(&format!("topics t:{}", self.partitions));
            }
        }
        self.check();
    }

    fn check(&self) {
        let mut readers: BTreeMap<TopicIdPartition, usize> = BTreeMap::new();
        for (index, client) in &self.clients {
            for partition in &client.reads {
                let other = readers.insert(*partition, *index);
                assert_eq!(other, None, "{partition:?} is read twice");
            }
        }
    }

    /// Everybody is heard, and lets go of what it has to.
    fn settle(&mut self) {
        self.beat(0, Lost::Nothing);
        for _ in 0..12 {
            for index in 0..4 {
                if self.clients.contains_key(&index) {
                    self.run(Event::Beat(index, Lost::Nothing));
                    self.run(Event::LetGo(index));
                }
            }
        }
        let read: usize = self.clients.values().map(|client| client.reads.len()).sum();
        assert_eq!(read, self.partitions as usize, "everything is read: {:?}", self.clients);
    }
}

impl World {
    fn hear(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> wire::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatResponse {
        let client = ClientInfo {
            client_id: Str::from("client"),
            client_host: Str::from("/127.0.0.1"),
            api_version: 1,
        };
        let image: Arc<Image> = Arc::clone(&self.image);
        let mut ids = || Uuid::ZERO;
        let mut outcome =
            self.groups.consumer_heartbeat(Token(0), &client, request, &view(&image), self.now, &mut ids);
        let (_, response) = outcome.replies.pop().expect("an answer");
        self.take(outcome);
        let Response::ConsumerGroupHeartbeat(response) = response else { panic!("{response:?}") };
        response
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_partition_is_read_twice_and_in_the_end_all_are_read(
        partitions in 1..PARTITIONS_MAX,
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new(crate::group::GroupConfig::default());
        world.image = Arc::new(image(&[&format!("t:{partitions}")]));
        let mut history =
            History { world, clients: BTreeMap::new(), heard: BTreeMap::new(), partitions };
        for event in events {
            history.run(event);
        }
        // Whoever is not heard of any more is gone after its session.
        history.run(Event::Wait(SESSION_MS));
        history.settle();
    }
}
