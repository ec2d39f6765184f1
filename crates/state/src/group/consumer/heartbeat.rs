//! ConsumerGroupHeartbeat: how members of the consumer protocol join, stay, follow the assignment and leave.
//!
//! A heartbeat that brings nothing new writes nothing. One that does bumps the group's epoch, has the target assignment computed
//! if it is due, and takes the member as far towards it as others allow.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use wire::messages::consumer_group_heartbeat::{
    Assignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};
use wire::messages::consumer_group_member_metadata_value::{
    ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue,
};
use wire::{PartitionId, Response, Str, Uuid};

use super::assignor::Assignor;
use super::reconcile::{self, by_topic};
use super::{
    About, Classic, ConsumerEvent, ConsumerGroup, JOIN_EPOCH, LEAVE_EPOCH, LEAVE_FOR_A_WHILE_EPOCH, Member,
    MemberState, Owned, TopicIdPartition, compile,
};
use crate::group::member::Protocol;
use crate::group::{ClientInfo, GroupConfig, Groups, Now, Outcome, Refusal, Step, Token};
use crate::metadata::Image;

/// From this version on members make their ids themselves (KIP-1082).
const OWN_MEMBER_ID_SINCE: i16 = 1;

/// Time between heartbeats for each member that a shard has: a hundred heartbeats a second for a shard at most, as long as its
/// members do not reach the interval that is set.
const HEARTBEAT_MS_PER_MEMBER: i32 = 10;
/// Shortest interval, however few members there are.
const HEARTBEAT_MS_MIN: i32 = 250;

/// What is around a group: the cluster, and settings of the group's own.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerView<'a> {
    /// Topics, with their partitions and the racks that have them.
    pub image: &'a Arc<Image>,
    /// `consumer.session.timeout.ms`, where the group has its own.
    pub session_timeout_ms: Option<i32>,
    /// `consumer.heartbeat.interval.ms`, likewise.
    pub heartbeat_interval_ms: Option<i32>,
}

impl Groups {
    /// Handles a ConsumerGroupHeartbeat. `ids` makes a member's id where the client leaves that to the coordinator.
    pub fn consumer_heartbeat(
        &mut self,
        token: Token,
        client: &ClientInfo,
        request: &ConsumerGroupHeartbeatRequest,
        around: &ConsumerView<'_>,
        now: impl Into<Now>,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        let now = now.into();
        let mut outcome = Outcome::default();
        let mut heard = self.hear(client, request, around, now, ids, &mut outcome);
        if let Ok(heard) = &mut heard
            && heard.member_epoch > JOIN_EPOCH
        {
            heard.heartbeat_interval_ms =
                around.heartbeat_interval_ms.unwrap_or_else(|| self.heartbeat_interval_ms());
        }
        let response = heard.unwrap_or_else(|refusal| ConsumerGroupHeartbeatResponse {
            error_code: refusal.into(),
            error_message: Some(Str::from(refusal.to_string())),
            ..Default::default()
        });
        outcome.replies.push((token, Response::ConsumerGroupHeartbeat(response)));
        outcome
    }

    fn hear(
        &mut self,
        client: &ClientInfo,
        request: &ConsumerGroupHeartbeatRequest,
        around: &ConsumerView<'_>,
        now: Now,
        ids: &mut dyn FnMut() -> Uuid,
        outcome: &mut Outcome,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let image = around.image;
        check_request(client, request, &self.config)?;
        if self.is_share_group(&request.group_id) {
            return Err(Refusal::GroupNotFound);
        }
        let is_join = request.member_epoch == JOIN_EPOCH;
        self.make_consumer_group(&request.group_id, is_join, image, now, outcome)?;
        let Groups { config, consumers, timers, .. } = self;
        let mut step = Step::new(config, timers, now);
        let group = consumers.get_mut(&request.group_id).ok_or(Refusal::GroupNotFound)?;
        group.session_timeout_ms = around.session_timeout_ms;
        let heard = match request.member_epoch {
            LEAVE_EPOCH | LEAVE_FOR_A_WHILE_EPOCH => group.leave(request, &mut step),
            _ => group.hear(client, request, image, &mut step, ids),
        };
        outcome.records.append(&mut step.outcome.records);
        outcome.replies.append(&mut step.outcome.replies);
        // A founder that was refused leaves nothing behind.
        if consumers.get(&request.group_id).is_some_and(|group| group.epoch == 0 && group.is_empty()) {
            consumers.remove(&request.group_id);
        }
        if matches!(request.member_epoch, LEAVE_EPOCH) {
            self.downgrade_if_classic(&request.group_id, image, now, outcome);
        }
        heard
    }

    /// How long members wait between heartbeats: they hear of changes with them, so they come as often as the coordinator can
    /// afford with the members that it has, and no less often than is set.
    fn heartbeat_interval_ms(&self) -> i32 {
        let members: usize = self.consumers.values().map(ConsumerGroup::len).sum();
        let affordable = i32::try_from(members).unwrap_or(i32::MAX).saturating_mul(HEARTBEAT_MS_PER_MEMBER);
        affordable.max(HEARTBEAT_MS_MIN).min(self.config.consumer.heartbeat_interval_ms)
    }
}

/// What can be refused without looking at the group.
fn check_request(
    client: &ClientInfo,
    request: &ConsumerGroupHeartbeatRequest,
    config: &GroupConfig,
) -> Result<(), Refusal> {
    let refused = |reason| Err(Refusal::InvalidRequest(reason));
    let is_empty = |text: &Option<Str>| text.as_deref().is_some_and(str::is_empty);
    if request.group_id.is_empty() {
        return refused("the group id is empty");
    }
    if is_empty(&request.instance_id) {
        return refused("the instance id is empty: leave it out, or name one");
    }
    if is_empty(&request.rack_id) {
        return refused("the rack id is empty: leave it out, or name one");
    }
    let needs_id = client.api_version >= OWN_MEMBER_ID_SINCE || request.member_epoch != JOIN_EPOCH;
    if needs_id && request.member_id.is_empty() {
        return refused("the member id is empty");
    }
    match request.member_epoch {
        JOIN_EPOCH => {
            if request.rebalance_timeout_ms < 0 {
                return refused("a member that joins has to tell its rebalance timeout");
            }
            if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return refused("a member that joins owns no partitions, and has to say so");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
                return refused("a member that joins has to tell which topics it subscribes to");
            }
        }
        LEAVE_FOR_A_WHILE_EPOCH if request.instance_id.is_none() => {
            return refused("only a member with an instance id can leave for a while");
        }
        LEAVE_EPOCH | LEAVE_FOR_A_WHILE_EPOCH | 1.. => {}
        i32::MIN..LEAVE_FOR_A_WHILE_EPOCH => return refused("there is no such member epoch"),
    }
    if let Some(assignor) = &request.server_assignor
        && !Assignor::named(assignor).is_some_and(|assignor| config.consumer.assignors.contains(&assignor))
    {
        return Err(Refusal::UnsupportedAssignor);
    }
    if let Some(expression) = request.subscribed_topic_regex.as_deref().filter(|text| !text.is_empty()) {
        compile(expression)?;
    }
    let names = request.subscribed_topic_names.iter().flatten().map(|name| name.len() + 2).sum::<usize>();
    let texts = [&request.instance_id, &request.rack_id, &request.subscribed_topic_regex];
    let texts = texts.into_iter().flatten().map(|text| text.len()).sum::<usize>();
    if names + texts + request.member_id.len() + request.group_id.len() > config.record_bytes_max {
        return Err(Refusal::GroupTooLarge);
    }
    Ok(())
}

impl ConsumerGroup {
    fn hear(
        &mut self,
        client: &ClientInfo,
        request: &ConsumerGroupHeartbeatRequest,
        image: &Arc<Image>,
        step: &mut Step<'_>,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let holds: Option<BTreeSet<TopicIdPartition>> = request.topic_partitions.as_deref().map(partitions);
        let id = if request.member_epoch == JOIN_EPOCH {
            self.admit(request, step, ids)?
        } else {
            self.check_epoch(request, holds.as_ref())?;
            Str::copy_from(&request.member_id)
        };
        let before = self.members.get(&id).map(|member| member.assigned.clone());
        let resubscribed = self.describe_itself(&id, client, request, step);
        self.catch_up(resubscribed, image, step);
        self.retarget(image, step);
        self.reconcile(&id, holds.as_ref(), step);
        self.restart_session(&id, step);
        let member = &self.members[&id];
        // Who tells everything about itself wants to be told everything: it joins, or it missed an answer.
        let asks_for_all = request.member_epoch == JOIN_EPOCH
            || (request.rebalance_timeout_ms >= 0
                && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
                && holds.is_some());
        let is_told = asks_for_all || before.is_none_or(|before| !before.keys().eq(member.assigned.keys()));
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(member.id.clone()),
            member_epoch: member.epoch,
            assignment: is_told.then(|| Box::new(assignment(&member.assigned))),
            ..Default::default()
        })
    }

    /// Makes sure that who joins may, and has whom it replaces leave. Returns its id; its member may not be there yet.
    fn admit(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
        step: &mut Step<'_>,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Result<Str, Refusal> {
        let instance_id = request.instance_id.as_deref();
        let former = instance_id.and_then(|instance_id| self.statics.get(instance_id)).cloned();
        if former.is_none() && !self.has_room_for(&request.member_id, step) {
            return Err(Refusal::GroupFull);
        }
        let id = if request.member_id.is_empty() {
            Str::from(ids().to_string())
        } else {
            Str::copy_from(&request.member_id)
        };
        // Who comes back as another instance is another member.
        let is_other = |member: &Member| member.about.instance_id.as_deref() != instance_id;
        if self.members.get(&id).is_some_and(is_other) {
            self.fence(&id, step);
        }
        match former {
            Some(former) if former != id => {
                let holder = &self.members[&former];
                if !holder.is_classic() && holder.epoch != LEAVE_FOR_A_WHILE_EPOCH {
                    return Err(Refusal::UnreleasedInstance);
                }
                self.replace(&former, &id, step);
            }
            Some(_) | None => self.start_over(&id, step),
        }
        Ok(id)
    }

    /// A member that is known joins again: it was fenced, or its process died. What it is meant to have it gets anew.
    fn start_over(&mut self, id: &Str, step: &mut Step<'_>) {
        let Some(member) = self.members.get(id).filter(|member| member.epoch != JOIN_EPOCH) else { return };
        let assigned = member.assigned.clone();
        let value = reconcile::current(JOIN_EPOCH, JOIN_EPOCH, MemberState::Stable, &assigned, &Owned::new());
        self.store(step, ConsumerEvent::CurrentStored { member: id.clone(), value });
    }

    /// A static member comes back with another id: what the former one was meant to have is meant for it.
    pub(super) fn replace(&mut self, former: &Str, id: &Str, step: &mut Step<'_>) {
        let Member { about, assigned, .. } = self.members[former].clone();
        let target = self.targets.get(former).cloned().unwrap_or_default();
        self.forget_member(former, step);
        self.store(step, ConsumerEvent::MemberStored { member: id.clone(), value: about.record() });
        self.store(step, ConsumerEvent::TargetStored { member: id.clone(), partitions: target });
        let value = reconcile::current(JOIN_EPOCH, JOIN_EPOCH, MemberState::Stable, &assigned, &Owned::new());
        self.store(step, ConsumerEvent::CurrentStored { member: id.clone(), value });
    }

    /// Whether a heartbeat comes from the member that it names, in the epoch that it is in. The epoch before is good enough for
    /// who owns no more than it may: it missed the answer.
    fn check_epoch(
        &self,
        request: &ConsumerGroupHeartbeatRequest,
        holds: Option<&BTreeSet<TopicIdPartition>>,
    ) -> Result<(), Refusal> {
        let member = self.member_named(&request.member_id, request.instance_id.as_deref())?;
        if request.member_epoch == member.epoch {
            return Ok(());
        }
        let is_behind = request.member_epoch == member.previous_epoch
            && request.member_epoch < member.epoch
            && holds
                .is_some_and(|holds| holds.iter().all(|partition| member.assigned.contains_key(partition)));
        if is_behind { Ok(()) } else { Err(Refusal::FencedMemberEpoch) }
    }

    /// The member that a request names; a static one by its instance id too.
    pub(super) fn member_named(&self, id: &str, instance_id: Option<&str>) -> Result<&Member, Refusal> {
        if let Some(instance_id) = instance_id {
            let current = self.statics.get(instance_id).ok_or(Refusal::UnknownMember)?;
            if **current != *id {
                return Err(Refusal::FencedInstance);
            }
        }
        self.members.get(id).ok_or(Refusal::UnknownMember)
    }

    /// Takes over what a member tells about itself, if that is news. True if it is new, or reads other topics than before.
    fn describe_itself(
        &mut self,
        id: &Str,
        client: &ClientInfo,
        request: &ConsumerGroupHeartbeatRequest,
        step: &mut Step<'_>,
    ) -> bool {
        let before = self.members.get(id).map(|member| &member.about);
        if before.is_some_and(|about| about.is_told_by(client, request)) {
            return false;
        }
        let mut about = before.cloned().unwrap_or_default();
        about.take_over(client, request);
        self.describe(id, about, step)
    }

    /// Stores what a member told. True if it is new, or reads other topics than before.
    pub(super) fn describe(&mut self, id: &Str, about: About, step: &mut Step<'_>) -> bool {
        let before = self.members.get(id).map(|member| &member.about);
        if before == Some(&about) {
            return false;
        }
        let resubscribed =
            before.is_none_or(|before| (&before.topics, &before.regex) != (&about.topics, &about.regex));
        self.store(step, ConsumerEvent::MemberStored { member: id.clone(), value: about.record() });
        resubscribed
    }

    fn leave(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
        step: &mut Step<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let member = self.member_named(&request.member_id, request.instance_id.as_deref())?;
        let id = member.id.clone();
        if request.member_epoch == LEAVE_FOR_A_WHILE_EPOCH {
            // It keeps what it has until its session ends.
            let value = reconcile::current(
                LEAVE_FOR_A_WHILE_EPOCH,
                member.epoch,
                MemberState::Stable,
                &member.assigned,
                &Owned::new(),
            );
            step.timers.cancel(&self.progress_alarm(&id));
            self.store(step, ConsumerEvent::CurrentStored { member: id.clone(), value });
        } else {
            self.fence(&id, step);
        }
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(id),
            member_epoch: request.member_epoch,
            ..Default::default()
        })
    }
}

impl About {
    /// Whether a heartbeat tells nothing that is not known.
    fn is_told_by(&self, client: &ClientInfo, request: &ConsumerGroupHeartbeatRequest) -> bool {
        let same = |told: &Option<Str>, known: &Option<Str>| told.is_none() || told == known;
        let names = request.subscribed_topic_names.as_ref();
        let regex = request.subscribed_topic_regex.as_deref();
        same(&request.instance_id, &self.instance_id)
            && same(&request.rack_id, &self.rack_id)
            && same(&request.server_assignor, &self.assignor)
            && regex.is_none_or(|regex| regex == self.regex.as_deref().unwrap_or_default())
            && names.is_none_or(|names| names.iter().collect::<BTreeSet<_>>().into_iter().eq(&self.topics))
            && (request.rebalance_timeout_ms < 0 || request.rebalance_timeout_ms == self.rebalance_timeout_ms)
            && (&client.client_id, &client.client_host) == (&self.client_id, &self.client_host)
            && self.classic.is_none()
    }

    fn take_over(&mut self, client: &ClientInfo, request: &ConsumerGroupHeartbeatRequest) {
        let copied = |text: &Str| Str::copy_from(text);
        for (told, known) in [
            (&request.instance_id, &mut self.instance_id),
            (&request.rack_id, &mut self.rack_id),
            (&request.server_assignor, &mut self.assignor),
        ] {
            if let Some(told) = told {
                *known = Some(copied(told));
            }
        }
        if let Some(names) = &request.subscribed_topic_names {
            self.topics = names.iter().map(copied).collect();
        }
        if let Some(regex) = &request.subscribed_topic_regex {
            self.regex = Some(copied(regex)).filter(|regex| !regex.is_empty());
        }
        if request.rebalance_timeout_ms >= 0 {
            self.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        self.client_id = copied(&client.client_id);
        self.client_host = copied(&client.client_host);
        self.classic = None;
    }

    pub(super) fn record(&self) -> ConsumerGroupMemberMetadataValue {
        ConsumerGroupMemberMetadataValue {
            instance_id: self.instance_id.clone(),
            rack_id: self.rack_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            subscribed_topic_names: self.topics.iter().cloned().collect(),
            subscribed_topic_regex: self.regex.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            server_assignor: self.assignor.clone(),
            classic_member_metadata: self.classic.as_ref().map(|classic| Box::new(classic.record())),
        }
    }

    pub(super) fn of_record(value: &ConsumerGroupMemberMetadataValue) -> About {
        let copied = |text: &Option<Str>| text.as_deref().map(Str::copy_from);
        About {
            instance_id: copied(&value.instance_id),
            rack_id: copied(&value.rack_id),
            client_id: Str::copy_from(&value.client_id),
            client_host: Str::copy_from(&value.client_host),
            topics: value.subscribed_topic_names.iter().map(|name| Str::copy_from(name)).collect(),
            regex: copied(&value.subscribed_topic_regex).filter(|regex| !regex.is_empty()),
            rebalance_timeout_ms: value.rebalance_timeout_ms,
            assignor: copied(&value.server_assignor),
            classic: value.classic_member_metadata.as_deref().map(Classic::of_record),
        }
    }
}

impl Classic {
    fn record(&self) -> ClassicMemberMetadata {
        let protocols = self.protocols.iter().map(|protocol| ClassicProtocol {
            name: protocol.name.clone(),
            metadata: protocol.metadata.clone(),
        });
        ClassicMemberMetadata {
            session_timeout_ms: self.session_timeout_ms,
            supported_protocols: protocols.collect(),
        }
    }

    fn of_record(value: &ClassicMemberMetadata) -> Classic {
        let protocols = value.supported_protocols.iter().map(|protocol| Protocol {
            name: Str::copy_from(&protocol.name),
            metadata: Bytes::copy_from_slice(&protocol.metadata),
        });
        Classic { session_timeout_ms: value.session_timeout_ms, protocols: protocols.collect() }
    }
}

fn partitions(topics: &[TopicPartitions]) -> BTreeSet<TopicIdPartition> {
    let of_topic = |topic: &TopicPartitions| {
        let id = topic.topic_id;
        topic.partitions.clone().into_iter().map(move |partition| (id, PartitionId(partition)))
    };
    topics.iter().flat_map(of_topic).collect()
}

fn assignment(assigned: &Owned) -> Assignment {
    let topics = by_topic(assigned.keys().map(|partition| (*partition, ()))).into_iter();
    let topics = topics.map(|(topic_id, partitions)| TopicPartitions {
        topic_id,
        partitions: partitions.into_iter().map(|(id, ())| id).collect(),
    });
    Assignment { topic_partitions: topics.collect() }
}
