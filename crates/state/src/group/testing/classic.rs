//! The classic protocol in stories: members with ids that end in a number, and what leaders assign.

use bytes::Bytes;
use wire::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use wire::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::messages::{consumer_protocol_assignment, consumer_protocol_subscription};
use wire::{Decoder, Encoder, Message, Str, Uuid};

use super::offsets::topic_partition;
use super::{Args, World};
use crate::group::{ClientInfo, Outcome, Token};

impl World {
    pub(super) fn join(&mut self, token: Token, args: &Args<'_>) -> Outcome {
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

    pub(super) fn describe(&self, group: &str) -> String {
        let group = self.groups.describe(6, &Str::copy_from(group));
        let members = group.members.iter().map(|member| {
            format!("{}={}", short(&member.member_id), assigned_text(&member.member_assignment))
        });
        let members: Vec<String> = members.collect();
        let about = format!("{} {} [{}]", group.protocol_type, group.protocol_data, members.join(" "));
        format!("{} {} {}", group.error_code.name(), group.group_state, about.trim())
    }
}

impl Args<'_> {
    pub(super) fn join(&self) -> JoinGroupRequest {
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

    pub(super) fn sync(&self) -> SyncGroupRequest {
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

    pub(super) fn heartbeat(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            group_id: self.group_id(),
            generation_id: self.number("gen", -1),
            member_id: member_id(self.first()),
            group_instance_id: self.instance(),
        }
    }

    pub(super) fn leave(&self) -> LeaveGroupRequest {
        let named =
            self.words.iter().map(|word| MemberIdentity { member_id: member_id(word), ..Default::default() });
        let mut members: Vec<MemberIdentity> = named.collect();
        if let Some(instance) = self.instance() {
            let id = members.pop().map(|member| member.member_id).unwrap_or_default();
            members.push(MemberIdentity { member_id: id, group_instance_id: Some(instance), reason: None });
        }
        LeaveGroupRequest { group_id: self.group_id(), member_id: member_id(self.first()), members }
    }
}

/// Partitions, each `@t-0`, as the consumer protocol has them; anything else stands for itself.
pub(super) fn assignment(value: &str) -> Bytes {
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
pub(super) fn subscription<'a>(
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
pub(super) fn member_id(word: &str) -> Str {
    match word.split_once('#') {
        Some((name, number)) => {
            Str::from(format!("{name}-00000000-0000-0000-0000-{:012x}", number.parse::<u64>().unwrap()))
        }
        None => Str::default(),
    }
}

/// The other way round.
pub(in crate::group) fn short(id: &str) -> String {
    match id.len().checked_sub(37).filter(|at| *at > 0) {
        Some(at) => format!("{}#{}", &id[..at], u64::from_str_radix(&id[at + 25..], 16).unwrap()),
        None => format!("{id:?}"),
    }
}

/// What a leader decided is text here; what the coordinator decides are partitions.
pub(super) fn assigned_text(bytes: &Bytes) -> String {
    let mut decoder = Decoder::new(bytes.clone());
    let version = decoder.int16().ok().filter(|version| (0..4).contains(version));
    let assignment =
        version.and_then(|version| ConsumerProtocolAssignment::decode(&mut decoder, version).ok());
    let Some(assignment) = assignment else { return text(bytes) };
    let topics = assignment.assigned_partitions.iter();
    let parts = topics.flat_map(|t| t.partitions.iter().map(|p| format!("{}-{p}", t.topic)));
    parts.collect::<Vec<_>>().join(" ")
}

pub(super) fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
