//! A shard driven by lines of text, for stories, and the checks that hold after every step of any history.
//!
//! Member ids end in a number instead of a UUID: `a#1` is the id made first, for client or instance `a`. Time stands
//! still between lines; `wait` moves it and rings what is due on the way.

mod classic;
mod consumer;
mod offsets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use expect_test::Expect;
use wire::messages::list_groups::ListGroupsRequest;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::topic_record::TopicRecord;
use wire::{BrokerId, ErrorCode, Millis, Response, Str, Uuid};

use self::classic::assigned_text;
pub(super) use self::classic::short;
pub(super) use self::consumer::view;
use self::consumer::{named, tell_event};
use self::offsets::topic_partition;
use super::Replayed;
use super::consumer::ConsumerGroup;
use super::records::Event;
use super::timers::Alarm;
use super::{GroupConfig, Groups, Outcome, State, Token};
use crate::metadata::{Image, MetadataRecord};

/// Runs a story against a fresh shard with Kafka's defaults.
pub(super) fn check(story: &str, expected: Expect) {
    check_with(GroupConfig::default(), story, expected);
}

/// Runs a story with other settings.
pub(super) fn check_with(config: GroupConfig, story: &str, expected: Expect) {
    let mut world = World::new(config);
    let mut told = String::new();
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        told.push_str(line);
        told.push('\n');
        for event in world.run(line) {
            writeln!(told, "    {event}").unwrap();
        }
    }
    expected.assert_eq(&told);
}

/// A shard, its log, and who waits for what.
pub(super) struct World {
    pub(super) groups: Groups,
    pub(super) now: Millis,
    pub(super) image: Arc<Image>,
    config: GroupConfig,
    log: Vec<super::CoordinatorRecord>,
    waiting: BTreeMap<Token, String>,
    next_token: u64,
    next_id: u128,
    generations: BTreeMap<Str, i32>,
}

impl World {
    pub(super) fn new(config: GroupConfig) -> Self {
        World {
            groups: Groups::new(config.clone()),
            now: Millis(1_000_000),
            image: Arc::new(image(&["t:2"])),
            config,
            log: Vec::new(),
            waiting: BTreeMap::new(),
            next_token: 0,
            next_id: 0,
            generations: BTreeMap::new(),
        }
    }

    /// Runs one line and says what came of it.
    pub(super) fn run(&mut self, line: &str) -> Vec<String> {
        let args = Args::parse(line);
        let mut told = Vec::new();
        let outcome = match args.verb {
            "wait" => return self.wait(args.first().parse().unwrap()),
            "crash" => return self.crash(),
            "unload" => {
                let next_owner = self.replayed();
                let groups = std::mem::replace(&mut self.groups, next_owner);
                self.generations.clear();
                self.groups.loaded(self.now);
                Outcome { replies: groups.unload(), ..Outcome::default() }
            }
            "describe" => return vec![self.describe(args.group())],
            "list" => return self.list(&args),
            "fetch" => return self.fetch(&args),
            "traces" => return self.traces(&args),
            "expire" => self.groups.expire_offsets(self.now),
            "delete" => {
                let (records, result) = self.groups.delete(&Str::copy_from(args.group()));
                told.push(result.error_code.name().to_owned());
                Outcome { records, ..Outcome::default() }
            }
            "topics" => {
                self.image = Arc::new(image(&args.words));
                Outcome::default()
            }
            "describe-consumer" => return self.describe_consumer(args.group()),
            "topic-deleted" => self.groups.topics_deleted(&[Str::copy_from(args.first())]),
            _ => self.request(line, &args),
        };
        told.extend(self.take(outcome));
        told
    }

    fn request(&mut self, line: &str, args: &Args<'_>) -> Outcome {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.waiting.insert(token, line.to_owned());
        let now = self.now;
        match args.verb {
            "join" => self.join(token, args),
            "sync" => self.groups.sync(token, &args.sync(), &self.image, now),
            "heartbeat" => self.groups.heartbeat(token, &args.heartbeat(), &self.image, now),
            "beat" => self.beat(token, args),
            "leave" => self.groups.leave(token, args.version(5), &args.leave(), now),
            "commit" => self.groups.commit_offsets(token, args.version(9), &args.commit(), now),
            "delete-offsets" => self.groups.delete_offsets(token, &args.delete_offsets()),
            verb => panic!("unknown verb {verb}"),
        }
    }

    fn wait(&mut self, ms: i64) -> Vec<String> {
        let until = self.now.plus(ms);
        let mut told = Vec::new();
        while let Some(next) = self.groups.next_deadline().filter(|next| *next <= until) {
            self.now = next.max(self.now);
            let outcome = self.groups.tick(self.now);
            told.extend(self.take(outcome));
        }
        self.now = until;
        told
    }

    /// The broker dies and loads the shard from its log; who waited gets no answer.
    fn crash(&mut self) -> Vec<String> {
        self.waiting.clear();
        self.generations.clear();
        self.groups = self.replayed();
        self.groups.loaded(self.now);
        self.assert_invariants();
        Vec::new()
    }

    fn replayed(&self) -> Groups {
        let mut groups = Groups::new(self.config.clone());
        for record in &self.log {
            let (key, value) = (record.key.as_ref(), record.value.as_deref());
            groups.load(Replayed::Record { key, value }).unwrap();
        }
        groups
    }

    /// Appends the records and delivers the replies.
    pub(super) fn take(&mut self, outcome: Outcome) -> Vec<String> {
        let mut told = Vec::new();
        for record in outcome.records {
            told.push(tell_record(&record, &self.image));
            self.log.push(record);
        }
        for (token, reply) in outcome.replies {
            let asked = self.waiting.remove(&token).expect("a request is answered once");
            told.push(format!("{asked} -> {}", tell_reply(&reply, &self.image)));
        }
        self.assert_invariants();
        told
    }

    fn list(&self, args: &Args<'_>) -> Vec<String> {
        let filter = |key| args.option(key).map(|value| value.split(',').map(Str::copy_from).collect());
        let request = ListGroupsRequest {
            states_filter: filter("states").unwrap_or_default(),
            types_filter: filter("types").unwrap_or_default(),
        };
        let listed = self.groups.list(&request).into_iter().map(|group| {
            format!(
                "{} {:?} {} {}",
                group.group_id, &*group.protocol_type, group.group_state, group.group_type
            )
        });
        listed.collect()
    }

    /// What has to hold at any time.
    fn assert_invariants(&mut self) {
        let mut parked = BTreeSet::new();
        for group in self.groups.classic_groups() {
            group.members.assert_counts();
            for member in group.members.iter() {
                let joining = matches!(group.state, State::PreparingRebalance(_));
                assert!(member.parked_join.is_none() || joining, "joins are parked while the group prepares");
                let syncing = group.state == State::CompletingRebalance;
                assert!(
                    member.parked_sync.is_none() || syncing,
                    "syncs are parked until the assignment is there"
                );
                parked.extend(member.parked_join);
                parked.extend(member.parked_sync);
                let watched = self.groups.timers.contains(&group.session_alarm(&member.id));
                assert!(watched || member.is_excused_from_heartbeats(), "nobody stays for ever");
            }
            let leader = group.leader.as_ref();
            assert!(
                leader.is_none_or(|leader| group.members.get(leader).is_some()),
                "the leader is a member"
            );
            assert_eq!(group.members.is_empty(), leader.is_none(), "members have a leader");
            assert!(group.state != State::Empty || group.members.is_empty());
            assert!(group.state != State::Stable || !group.members.is_empty());
            let waits = self.groups.timers.contains(&group.join_alarm());
            assert_eq!(waits, matches!(group.state, State::PreparingRebalance(_)), "joining ends");
            let last = self.generations.entry(group.id.clone()).or_default();
            assert!(*last <= group.generation, "generations only rise");
            *last = group.generation;
        }
        for group in self.groups.consumers.values() {
            group.assert_sound();
        }
        for alarm in self.groups.timers.alarms() {
            if let Some(group) = self.groups.consumers.get(alarm.group()) {
                let (Alarm::Session { member, .. } | Alarm::Progress { member, .. }) = alarm else {
                    panic!("only members have alarms");
                };
                assert!(group.has_member(member), "who is gone has no alarms");
                continue;
            }
            let group = self.groups.groups.get(alarm.group()).expect("a group that is gone has no alarms");
            match alarm {
                Alarm::Session { member, .. } => {
                    let known = group.members.get(member).is_some() || group.pending_joins.contains(member);
                    assert!(known, "who is gone has no session");
                }
                Alarm::Sync { .. } => assert!(!group.pending_syncs.is_empty(), "somebody is waited for"),
                Alarm::Join { .. } => {}
                Alarm::Progress { .. } => panic!("only groups of the consumer protocol wait for it"),
            }
        }
        let is_classic =
            |id: &Str| self.groups.groups.contains_key(id) && !self.groups.consumers.contains_key(id);
        self.generations.retain(|id, _| is_classic(id));
        let waiting: BTreeSet<Token> = self.waiting.keys().copied().collect();
        assert_eq!(parked, waiting, "who is not answered is parked");
        let replayed = self.replayed();
        assert_eq!(durable(&replayed, &self.groups), durable(&self.groups, &self.groups));
        assert_eq!(replayed.traces, self.groups.traces);
    }
}

/// What of `groups` is durable: all offsets, and the groups that are settled in `live`.
fn durable(groups: &Groups, live: &Groups) -> Vec<String> {
    let told = groups.groups.values().map(|group| {
        if groups.consumers.contains_key(&group.id) {
            return format!("{} {:?}", group.id, group.offsets);
        }
        let offsets = format!("{:?}", group.offsets);
        match live.groups.get(&group.id).map(|live| live.state) {
            Some(State::Empty | State::Stable) => {
                let members = group.members.iter().map(|member| {
                    let protocol = group.protocol_name.as_deref();
                    let timeouts = (member.session_timeout_ms, member.rebalance_timeout_ms);
                    format!(
                        "{} {timeouts:?} {:?} {:?}",
                        member.id,
                        member.metadata(protocol),
                        member.assignment
                    )
                });
                let members: Vec<String> = members.collect();
                let protocol = (&group.protocol_type, &group.protocol_name);
                let settled =
                    (group.state, group.generation, protocol, &group.leader, group.stored_at, members);
                format!("{} {settled:?} {:?} {offsets}", group.id, group.subscribed_topics)
            }
            Some(State::PreparingRebalance(_) | State::CompletingRebalance) | None => {
                format!("{} {offsets}", group.id)
            }
        }
    });
    told.chain(groups.consumers.values().map(ConsumerGroup::durable)).collect()
}

/// A line in parts: verb, plain words, and `key=value` pairs in order.
struct Args<'a> {
    verb: &'a str,
    words: Vec<&'a str>,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Args<'a> {
    fn parse(line: &'a str) -> Self {
        let mut parts = line.split_whitespace();
        let verb = parts.next().unwrap();
        let (mut words, mut options) = (Vec::new(), Vec::new());
        for part in parts {
            match part.split_once('=') {
                Some(option) => options.push(option),
                None => words.push(part),
            }
        }
        Args { verb, words, options }
    }

    fn first(&self) -> &'a str {
        self.words.first().copied().unwrap_or("")
    }

    fn option(&self, key: &str) -> Option<&'a str> {
        self.options.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, key: &str, default: T) -> T {
        self.option(key).map_or(default, |value| value.parse().unwrap())
    }

    fn version(&self, default: i16) -> i16 {
        self.number("v", default)
    }

    fn group(&self) -> &'a str {
        self.option("group").unwrap_or("g")
    }

    fn group_id(&self) -> Str {
        Str::copy_from(self.group())
    }

    fn instance(&self) -> Option<Str> {
        self.option("instance").map(Str::copy_from)
    }

    fn topic_id(&self) -> Uuid {
        Uuid::from_u128(self.number("topic-id", 0))
    }

    fn partitions(&self) -> Vec<(Str, i32)> {
        self.words.iter().map(|word| topic_partition(word)).collect()
    }
}

/// Topics with so many partitions, as `t:2`; a name always has the same id.
pub(super) fn image(topics: &[&str]) -> Image {
    let mut image = Image::default();
    for topic in topics {
        let (name, count) = topic.split_once(':').unwrap();
        let bits = name.bytes().fold(0, |bits, byte| bits << 8 | u128::from(byte));
        let topic_id = Uuid::from_u128(bits);
        image.apply(&MetadataRecord::Topic(TopicRecord { name: Str::copy_from(name), topic_id }));
        for partition_id in 0..count.parse().unwrap() {
            image.apply(&MetadataRecord::Partition(PartitionRecord {
                partition_id,
                topic_id,
                replicas: vec![BrokerId(1).0],
                isr: vec![BrokerId(1).0],
                leader: 1,
                ..Default::default()
            }));
        }
    }
    image
}

fn tell_reply(reply: &Response, image: &Image) -> String {
    let refused = |code: ErrorCode| code.name().to_owned();
    match reply {
        Response::JoinGroup(join) if join.error_code.is_ok() => {
            let members: Vec<String> = join.members.iter().map(|member| short(&member.member_id)).collect();
            let skip = if join.skip_assignment { ", assignment stays" } else { "" };
            format!(
                "{} in generation {}, {} by {}{skip} [{}]",
                short(&join.member_id),
                join.generation_id,
                join.protocol_name.as_deref().unwrap_or("none"),
                short(&join.leader),
                members.join(" ")
            )
        }
        Response::JoinGroup(join) => format!("{} {}", refused(join.error_code), short(&join.member_id)),
        Response::SyncGroup(sync) if sync.error_code.is_ok() => {
            format!("assigned {:?}", assigned_text(&sync.assignment))
        }
        Response::ConsumerGroupHeartbeat(beat) if beat.error_code.is_ok() => {
            let assigned = beat.assignment.as_ref().map(|assignment| {
                let topics = assignment.topic_partitions.iter().map(|topic| {
                    let partitions: Vec<i32> = topic.partitions.clone();
                    (topic.topic_id, partitions)
                });
                format!(", has [{}]", named(topics, image))
            });
            format!("epoch {}{}", beat.member_epoch, assigned.unwrap_or_default())
        }
        Response::ConsumerGroupHeartbeat(beat) => {
            format!("{}: {}", refused(beat.error_code), beat.error_message.as_deref().unwrap_or_default())
        }
        Response::SyncGroup(sync) => refused(sync.error_code),
        Response::Heartbeat(heartbeat) => refused(heartbeat.error_code),
        Response::LeaveGroup(leave) => {
            let members = leave.members.iter().map(|member| {
                let instance =
                    member.group_instance_id.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
                format!(", {}{instance} {}", short(&member.member_id), member.error_code.name())
            });
            format!("{}{}", refused(leave.error_code), members.collect::<String>())
        }
        Response::OffsetCommit(commit) => {
            let mut told = Vec::new();
            for topic in &commit.topics {
                for partition in &topic.partitions {
                    told.push(format!(
                        "{}-{} {}",
                        topic.name,
                        partition.partition_index,
                        partition.error_code.name()
                    ));
                }
            }
            told.join(", ")
        }
        Response::OffsetDelete(delete) => {
            let mut told = vec![refused(delete.error_code)];
            for topic in &delete.topics {
                for partition in &topic.partitions {
                    told.push(format!(
                        "{}-{} {}",
                        topic.name,
                        partition.partition_index,
                        partition.error_code.name()
                    ));
                }
            }
            told.join(", ")
        }
        other => panic!("unexpected reply {other:?}"),
    }
}

fn tell_record(record: &super::CoordinatorRecord, image: &Image) -> String {
    match Event::decode(&record.key, record.value.as_deref()).unwrap() {
        Event::GroupStored { group, value } if value.members.is_empty() => {
            format!("record {group}: empty in generation {}", value.generation)
        }
        Event::GroupStored { group, value } => {
            let members = value.members.iter();
            let members = members
                .map(|member| format!("{}={}", short(&member.member_id), assigned_text(&member.assignment)));
            let members: Vec<String> = members.collect();
            format!("record {group}: generation {} [{}]", value.generation, members.join(" "))
        }
        Event::GroupForgotten { group } => format!("record {group}: gone"),
        Event::OffsetCommitted { group, topic, partition, committed } => {
            format!("record {group}: {topic}-{partition} = {}", committed.offset)
        }
        Event::OffsetForgotten { group, topic, partition } => {
            format!("record {group}: {topic}-{partition} gone")
        }
        Event::Consumer { group, event } => format!("record {group}: {}", tell_event(&event, image)),
        Event::OffsetExpired { group, topic, partition, expired } => {
            format!("record {group}: {topic}-{partition} = {} expired", expired.offset)
        }
    }
}
