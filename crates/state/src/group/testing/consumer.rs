//! The consumer protocol (KIP-848) in stories: heartbeats, and what the coordinator assigns.

use std::sync::Arc;

use wire::messages::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use wire::messages::{consumer_group_current_member_assignment_value, consumer_group_describe};
use wire::{Str, Uuid};

use super::classic::{member_id, short};
use super::offsets::topic_partition;
use super::{Args, World};
use crate::group::consumer::ConsumerEvent;
use crate::group::{ClientInfo, ConsumerView, Outcome, Token};
use crate::metadata::Image;

impl World {
    pub(super) fn beat(&mut self, token: Token, args: &Args<'_>) -> Outcome {
        let info = ClientInfo {
            client_id: Str::from("client"),
            client_host: Str::from("/127.0.0.1"),
            api_version: args.version(1),
        };
        let request = args.beat(&self.image);
        let mut ids = || Uuid::from_u128(7);
        self.groups.consumer_heartbeat(token, &info, &request, &view(&self.image), self.now, &mut ids)
    }

    pub(super) fn describe_consumer(&self, group: &str) -> Vec<String> {
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
}

impl Args<'_> {
    /// Whoever joins reads topic t and owns nothing, unless it says otherwise.
    pub(super) fn beat(&self, image: &Image) -> ConsumerGroupHeartbeatRequest {
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
}

/// A group without settings of its own.
pub(in crate::group) fn view(image: &Arc<Image>) -> ConsumerView<'_> {
    ConsumerView { image, session_timeout_ms: None, heartbeat_interval_ms: None }
}

pub(super) fn named(topics: impl Iterator<Item = (Uuid, Vec<i32>)>, image: &Image) -> String {
    let name = |id| image.topic_by_id(id).map_or(Str::from("gone"), |topic| topic.name.clone());
    let parts = topics.flat_map(|(id, partitions)| {
        partitions.into_iter().map(move |partition| format!("{}-{partition}", name(id))).collect::<Vec<_>>()
    });
    parts.collect::<Vec<_>>().join(" ")
}

pub(super) fn tell_event(event: &ConsumerEvent, image: &Image) -> String {
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
pub(super) fn name(id: &str) -> String {
    if id.len() > 37 { short(id) } else { id.to_owned() }
}
