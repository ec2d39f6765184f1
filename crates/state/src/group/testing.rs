//! A shard driven by lines of text, for stories, and the checks that hold after every step of any history.
//!
//! Member ids end in a number instead of a UUID: `a#1` is the id made first, for client or instance `a`. Time stands
//! still between lines; `wait` moves it and rings what is due on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use expect_test::Expect;
use wire::messages::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use wire::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use wire::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use wire::messages::list_groups::ListGroupsRequest;
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use wire::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use wire::messages::partition_record::PartitionRecord;
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::messages::topic_record::TopicRecord;
use wire::messages::{consumer_group_current_member_assignment_value, consumer_group_describe};
use wire::messages::{consumer_protocol_assignment, consumer_protocol_subscription};
use wire::{BrokerId, Decoder, Encoder, ErrorCode, Message, Millis, Response, Str, Uuid};

use super::Replayed;
use super::consumer::{self, ConsumerEvent};
use super::records::Event;
use super::timers::Alarm;
use super::{ClientInfo, ConsumerView, GroupConfig, Groups, Outcome, State, Token};
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

    fn join(&mut self, token: Token, args: &Args<'_>) -> Outcome {
        let client = args.first().split('#').next().unwrap();
        let info = ClientInfo {
            client_id: Str::copy_from(client),
            client_host: Str::from("/127.0.0.1"),
            api_version: args.version(9),
        };
        let next_id = &mut self.next_id;
        let mut ids = || {
            *next_id += 1;
            Uuid::from_u128(*next_id)
        };
        self.groups.join(token, &info, &args.join(), &self.image, self.now, &mut ids)
    }

    fn beat(&mut self, token: Token, args: &Args<'_>) -> Outcome {
        let info = ClientInfo {
            client_id: Str::from("client"),
            client_host: Str::from("/127.0.0.1"),
            api_version: args.version(1),
        };
        let request = args.beat(&self.image);
        let mut ids = || Uuid::from_u128(7);
        self.groups.consumer_heartbeat(token, &info, &request, &view(&self.image), self.now, &mut ids)
    }

    fn describe_consumer(&self, group: &str) -> Vec<String> {
        let group = self.groups.describe_consumer(&Str::copy_from(group), &self.image);
        let mut told = vec![format!(
            "{} {} epoch {} target {} {}",
            group.error_code.name(),
            group.group_state,
            group.group_epoch,
            group.assignment_epoch,
            group.assignor_name,
        )];
        for member in group.members {
            let topics = |assignment: &consumer_group_describe::Assignment| {
                let topics = assignment.topic_partitions.iter();
                let parts = topics.flat_map(|t| t.partitions.iter().map(|p| format!("{}-{p}", t.topic_name)));
                parts.collect::<Vec<_>>().join(" ")
            };
            told.push(format!(
                "{} epoch {} [{}] of [{}] type {}",
                name(&member.member_id),
                member.member_epoch,
                topics(&member.assignment),
                topics(&member.target_assignment),
                member.member_type,
            ));
        }
        told
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

    fn describe(&self, group: &str) -> String {
        let group = self.groups.describe(6, &Str::copy_from(group));
        let members = group.members.iter().map(|member| {
            format!("{}={}", short(&member.member_id), assigned_text(&member.member_assignment))
        });
        let members: Vec<String> = members.collect();
        let about = format!("{} {} [{}]", group.protocol_type, group.protocol_data, members.join(" "));
        format!("{} {} {}", group.error_code.name(), group.group_state, about.trim())
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

    /// What is remembered of expired offsets, as for the topic id that is given.
    fn traces(&self, args: &Args<'_>) -> Vec<String> {
        let current = args.topic_id();
        let traces = self.groups.expired_offsets(args.group(), |_| (!current.is_zero()).then_some(current));
        let told = traces.into_iter().map(|(topic, partition, expired)| {
            format!("{topic}-{partition} = {} until {}", expired.offset, expired.expired_at.0)
        });
        told.collect()
    }

    fn fetch(&self, args: &Args<'_>) -> Vec<String> {
        let topics = args.partitions().into_iter().map(|(topic, partition)| OffsetFetchRequestTopics {
            name: topic,
            partition_indexes: vec![partition],
            topic_id: args.topic_id(),
        });
        let topics: Vec<_> = topics.collect();
        let request = OffsetFetchRequestGroup {
            group_id: Str::copy_from(args.group()),
            topics: (!topics.is_empty()).then_some(topics),
            ..Default::default()
        };
        let current = args.topic_id();
        let fetched = self.groups.fetch_offsets(&request, false, |_| (!current.is_zero()).then_some(current));
        let mut told = Vec::new();
        for topic in fetched.topics {
            for partition in topic.partitions {
                told.push(format!(
                    "{}-{} = {} epoch {} {:?}",
                    topic.name,
                    partition.partition_index,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.metadata.as_deref().unwrap_or("none"),
                ));
            }
        }
        told
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
    told.chain(groups.consumers.values().map(consumer::ConsumerGroup::durable)).collect()
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

    fn join(&self) -> JoinGroupRequest {
        let topics = self.option("topics").unwrap_or("t").split(',');
        let owned = self.option("owned").map(|owned| owned.split(',').map(topic_partition));
        let metadata = subscription(topics, owned);
        let protocols =
            self.option("protocols").unwrap_or("range").split(',').filter(|name| !name.is_empty());
        let protocols = protocols
            .map(|name| JoinGroupRequestProtocol { name: Str::copy_from(name), metadata: metadata.clone() });
        JoinGroupRequest {
            group_id: self.group_id(),
            session_timeout_ms: self.number("session", 45_000),
            rebalance_timeout_ms: self.number("rebalance", 300_000),
            member_id: member_id(self.first()),
            group_instance_id: self.instance(),
            protocol_type: Str::copy_from(self.option("type").unwrap_or("consumer")),
            protocols: protocols.collect(),
            reason: None,
        }
    }

    /// Whoever joins reads topic t and owns nothing, unless it says otherwise.
    fn beat(&self, image: &Image) -> ConsumerGroupHeartbeatRequest {
        let epoch = self.number("epoch", 0);
        let names = |key| self.option(key).map(|names| names.split(',').filter(|name| !name.is_empty()));
        let topics = names("topics").map(|names| names.map(Str::copy_from).collect());
        let regex = self.option("regex").map(Str::copy_from);
        let owned = names("owned").map(|owned| {
            let owned = owned.map(topic_partition).map(|(topic, partition)| TopicPartitions {
                topic_id: image.topic(&topic).unwrap().id,
                partitions: vec![partition],
            });
            owned.collect()
        });
        let is_join = epoch == 0;
        ConsumerGroupHeartbeatRequest {
            group_id: self.group_id(),
            member_id: self
                .words
                .first()
                .map(|id| if id.contains('#') { member_id(id) } else { Str::copy_from(id) })
                .unwrap_or_default(),
            member_epoch: epoch,
            instance_id: self.instance(),
            rack_id: self.option("rack").map(Str::copy_from),
            rebalance_timeout_ms: self.number("rebalance", if is_join { 300_000 } else { -1 }),
            subscribed_topic_names: topics.or((is_join && regex.is_none()).then(|| vec![Str::from("t")])),
            subscribed_topic_regex: regex,
            server_assignor: self.option("assignor").map(Str::copy_from),
            topic_partitions: owned.or(is_join.then(Vec::new)),
        }
    }

    fn sync(&self) -> SyncGroupRequest {
        let assignments = self.options.iter().filter(|(key, _)| key.contains('#'));
        let assignments = assignments.map(|(key, value)| SyncGroupRequestAssignment {
            member_id: member_id(key),
            assignment: assignment(value),
        });
        SyncGroupRequest {
            group_id: self.group_id(),
            generation_id: self.number("gen", -1),
            member_id: member_id(self.first()),
            group_instance_id: self.instance(),
            protocol_type: self.option("type").map(Str::copy_from),
            protocol_name: self.option("protocol").map(Str::copy_from),
            assignments: assignments.collect(),
        }
    }

    fn heartbeat(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            group_id: self.group_id(),
            generation_id: self.number("gen", -1),
            member_id: member_id(self.first()),
            group_instance_id: self.instance(),
        }
    }

    fn leave(&self) -> LeaveGroupRequest {
        let named =
            self.words.iter().map(|word| MemberIdentity { member_id: member_id(word), ..Default::default() });
        let mut members: Vec<MemberIdentity> = named.collect();
        if let Some(instance) = self.instance() {
            let id = members.pop().map(|member| member.member_id).unwrap_or_default();
            members.push(MemberIdentity { member_id: id, group_instance_id: Some(instance), reason: None });
        }
        LeaveGroupRequest { group_id: self.group_id(), member_id: member_id(self.first()), members }
    }

    fn commit(&self) -> OffsetCommitRequest {
        let offsets = self.options.iter().filter(|(key, _)| is_topic_partition(key)).map(|(key, value)| {
            let (name, partition_index) = topic_partition(key);
            let partition = OffsetCommitRequestPartition {
                partition_index,
                committed_offset: value.parse().unwrap(),
                committed_leader_epoch: self.number("epoch", -1),
                committed_metadata: self.option("note").map(Str::copy_from),
            };
            OffsetCommitRequestTopic { name, topic_id: self.topic_id(), partitions: vec![partition] }
        });
        OffsetCommitRequest {
            group_id: self.group_id(),
            generation_id_or_member_epoch: self.number("gen", -1),
            member_id: self.option("member").map_or_else(|| member_id(self.first()), Str::copy_from),
            group_instance_id: self.instance(),
            retention_time_ms: self.number("retention", -1),
            topics: offsets.collect(),
        }
    }

    fn delete_offsets(&self) -> OffsetDeleteRequest {
        let topics = self.partitions().into_iter().map(|(name, partition_index)| OffsetDeleteRequestTopic {
            name,
            partitions: vec![OffsetDeleteRequestPartition { partition_index }],
        });
        OffsetDeleteRequest { group_id: self.group_id(), topics: topics.collect() }
    }
}

fn is_topic_partition(word: &str) -> bool {
    word.rsplit_once('-').is_some_and(|(_, partition)| partition.parse::<i32>().is_ok())
}

fn topic_partition(word: &str) -> (Str, i32) {
    let (topic, partition) = word.rsplit_once('-').unwrap();
    (Str::copy_from(topic), partition.parse().unwrap())
}

/// Partitions, each `@t-0`, as the consumer protocol has them; anything else stands for itself.
fn assignment(value: &str) -> Bytes {
    let Some(partitions) = value.strip_prefix('@') else { return Bytes::copy_from_slice(value.as_bytes()) };
    let partitions = partitions.split(',').filter(|partition| !partition.is_empty()).map(topic_partition);
    let assigned = partitions.map(|(topic, partition)| consumer_protocol_assignment::TopicPartition {
        topic,
        partitions: vec![partition],
    });
    let assignment = ConsumerProtocolAssignment { assigned_partitions: assigned.collect(), user_data: None };
    let mut encoder = Encoder::new();
    encoder.int16(0);
    assignment.encode(&mut encoder, 0);
    encoder.into_bytes()
}

/// Who tells what it owns rebalances cooperatively.
fn subscription<'a>(
    topics: impl Iterator<Item = &'a str>,
    owned: Option<impl Iterator<Item = (Str, i32)>>,
) -> Bytes {
    let version = i16::from(owned.is_some());
    let owned = owned.into_iter().flatten().map(|(topic, partition)| {
        consumer_protocol_subscription::TopicPartition { topic, partitions: vec![partition] }
    });
    let subscription = ConsumerProtocolSubscription {
        topics: topics.map(Str::copy_from).collect(),
        user_data: None,
        owned_partitions: owned.collect(),
        ..Default::default()
    };
    let mut encoder = Encoder::new();
    encoder.int16(version);
    subscription.encode(&mut encoder, version);
    encoder.into_bytes()
}

/// `a#1` to the id with the UUID; a name without number is a client that has no id yet.
fn member_id(word: &str) -> Str {
    match word.split_once('#') {
        Some((name, number)) => {
            Str::from(format!("{name}-00000000-0000-0000-0000-{:012x}", number.parse::<u64>().unwrap()))
        }
        None => Str::default(),
    }
}

/// The other way round.
pub(super) fn short(id: &str) -> String {
    match id.len().checked_sub(37).filter(|at| *at > 0) {
        Some(at) => format!("{}#{}", &id[..at], u64::from_str_radix(&id[at + 25..], 16).unwrap()),
        None => format!("{id:?}"),
    }
}

/// A group without settings of its own.
pub(super) fn view(image: &Arc<Image>) -> ConsumerView<'_> {
    ConsumerView { image, session_timeout_ms: None, heartbeat_interval_ms: None }
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

fn named(topics: impl Iterator<Item = (Uuid, Vec<i32>)>, image: &Image) -> String {
    let name = |id| image.topic_by_id(id).map_or(Str::from("gone"), |topic| topic.name.clone());
    let parts = topics.flat_map(|(id, partitions)| {
        partitions.into_iter().map(move |partition| format!("{}-{partition}", name(id))).collect::<Vec<_>>()
    });
    parts.collect::<Vec<_>>().join(" ")
}

fn tell_event(event: &ConsumerEvent, image: &Image) -> String {
    let current = |topics: &[consumer_group_current_member_assignment_value::TopicPartitions]| {
        let topics = topics.iter().map(|topic| (topic.topic_id, topic.partitions.clone()));
        named(topics, image)
    };
    match event {
        ConsumerEvent::Stored { epoch, .. } => format!("epoch {epoch}"),
        ConsumerEvent::Forgotten => "consumers gone".to_owned(),
        ConsumerEvent::MemberStored { member, value } => format!(
            "{} reads [{}]{}",
            name(member),
            value.subscribed_topic_names.iter().map(|name| &**name).collect::<Vec<_>>().join(" "),
            value.subscribed_topic_regex.as_deref().map(|regex| format!(" {regex:?}")).unwrap_or_default(),
        ),
        ConsumerEvent::MemberForgotten { member } => format!("{} gone", name(member)),
        ConsumerEvent::TargetEpochStored { epoch } => format!("target epoch {epoch}"),
        ConsumerEvent::TargetEpochForgotten => "target epoch gone".to_owned(),
        ConsumerEvent::TargetStored { member, partitions } => {
            let topics = partitions.iter().map(|(topic, id)| (*topic, vec![id.0]));
            format!("target {} [{}]", name(member), named(topics, image))
        }
        ConsumerEvent::TargetForgotten { member } => format!("target {} gone", name(member)),
        ConsumerEvent::CurrentStored { member, value } => {
            let revoking = current(&value.partitions_pending_revocation);
            let revoking = if revoking.is_empty() { revoking } else { format!(" gives up [{revoking}]") };
            format!(
                "{} epoch {} [{}]{revoking}",
                name(member),
                value.member_epoch,
                current(&value.assigned_partitions)
            )
        }
        ConsumerEvent::CurrentForgotten { member } => format!("{} has nothing", name(member)),
    }
}

/// A member of the consumer protocol has a short name, one of the classic protocol an id like [`short`] tells it.
fn name(id: &str) -> String {
    if id.len() > 37 { short(id) } else { id.to_owned() }
}

/// What a leader decided is text here; what the coordinator decides are partitions.
fn assigned_text(bytes: &Bytes) -> String {
    let mut decoder = Decoder::new(bytes.clone());
    let version = decoder.int16().ok().filter(|version| (0..4).contains(version));
    let assignment =
        version.and_then(|version| ConsumerProtocolAssignment::decode(&mut decoder, version).ok());
    let Some(assignment) = assignment else { return text(bytes) };
    let topics = assignment.assigned_partitions.iter();
    let parts = topics.flat_map(|t| t.partitions.iter().map(|p| format!("{}-{p}", t.topic)));
    parts.collect::<Vec<_>>().join(" ")
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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
