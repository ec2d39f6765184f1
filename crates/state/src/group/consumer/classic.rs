//! Members of the classic protocol in a group whose coordinator assigns: they join and get at once what they are meant to have
//! and others let go of, and are told by their heartbeats to join again when there is more to do.
//!
//! A join's generation is the member's epoch, and nobody leads: the answers have no other members in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use wire::messages::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition};
use wire::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use wire::messages::leave_group::MemberIdentity;
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use wire::{DecodeError, Decoder, Encoder, Message, PartitionId, Str, Uuid};

use super::reconcile::by_topic;
use super::{About, Classic, ConsumerGroup, Member, MemberState, Owned, TopicIdPartition};
use crate::group::member::{Protocol, protocols_of, rebalance_timeout_of};
use crate::group::{ClientInfo, Refusal, Step};
use crate::metadata::Image;

/// The protocol type of consumers.
pub(super) const PROTOCOL_TYPE: &str = "consumer";

/// The newest version of what consumers tell and are told within the classic protocol.
const EMBEDDED_VERSION_MAX: i16 = 3;

impl ConsumerGroup {
    /// Handles a JoinGroup. Without a place for the answer to be parked: there is nobody to wait for.
    pub(in crate::group) fn join_classic(
        &mut self,
        client: &ClientInfo,
        request: &JoinGroupRequest,
        image: &Arc<Image>,
        step: &mut Step<'_>,
        new_id: impl FnOnce() -> Str,
    ) -> Result<JoinGroupResponse, Refusal> {
        let protocols = protocols_of(request);
        if !self.supports(&request.protocol_type, &protocols) {
            return Err(Refusal::InconsistentProtocol);
        }
        let subscription = protocols.first().ok_or(Refusal::InconsistentProtocol)?;
        let (_, subscription) =
            read_subscription(&subscription.metadata).map_err(|_| Refusal::InconsistentProtocol)?;
        let instance_id = request.group_instance_id.as_deref();
        let former = instance_id.and_then(|instance_id| self.statics.get(instance_id)).cloned();
        if former.is_none() && !self.has_room_for(&request.member_id, step) {
            return Err(Refusal::GroupFull);
        }
        let id = if request.member_id.is_empty() { new_id() } else { Str::copy_from(&request.member_id) };
        match former {
            Some(former) if former != id => {
                // Who comes with an id of its own is not new: the instance belongs to another by now.
                if !request.member_id.is_empty() {
                    return Err(Refusal::FencedInstance);
                }
                self.replace(&former, &id, step);
            }
            Some(_) => {}
            None if instance_id.is_some() && !request.member_id.is_empty() => {
                return Err(Refusal::UnknownMember);
            }
            None => {}
        }
        let protocol_name = protocols.first().map(|protocol| protocol.name.clone());
        let about = About {
            instance_id: instance_id.map(Str::copy_from),
            rack_id: subscription.rack_id.as_deref().map(Str::copy_from),
            client_id: Str::copy_from(&client.client_id),
            client_host: Str::copy_from(&client.client_host),
            topics: subscription.topics.iter().map(|name| Str::copy_from(name)).collect(),
            regex: None,
            rebalance_timeout_ms: rebalance_timeout_of(request),
            assignor: None,
            classic: Some(Classic { session_timeout_ms: request.session_timeout_ms, protocols }),
        };
        let holds = owned_partitions(&subscription, image);
        let resubscribed = self.describe(&id, about, step);
        self.catch_up(resubscribed, image, step);
        self.retarget(image, step);
        self.reconcile(&id, Some(&holds), step);
        self.restart_session(&id, step);
        // It has to come for its assignment in time.
        self.expect_progress(&id, step);
        Ok(JoinGroupResponse {
            generation_id: self.members[&id].epoch,
            protocol_type: Some(Str::from(PROTOCOL_TYPE)),
            protocol_name,
            member_id: id,
            ..Default::default()
        })
    }

    /// Whether a member of the classic protocol fits those that are there.
    fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        let others: Vec<&Classic> = self.members.values().filter_map(|m| m.about.classic.as_ref()).collect();
        let is_common = |protocol: &Protocol| {
            others.iter().all(|classic| classic.protocols.iter().any(|theirs| theirs.name == protocol.name))
        };
        protocol_type == PROTOCOL_TYPE && protocols.iter().any(is_common)
    }

    /// Handles a SyncGroup.
    pub(in crate::group) fn sync_classic(
        &mut self,
        request: &SyncGroupRequest,
        image: &Image,
        step: &mut Step<'_>,
    ) -> Result<SyncGroupResponse, Refusal> {
        let (member, classic) =
            self.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != member.epoch {
            return Err(Refusal::IllegalGeneration);
        }
        let first = classic.protocols.first().ok_or(Refusal::UnknownMember)?;
        let differs = |said: &Option<Str>, is: &str| said.as_deref().is_some_and(|said| said != is);
        if differs(&request.protocol_type, PROTOCOL_TYPE) || differs(&request.protocol_name, &first.name) {
            return Err(Refusal::InconsistentProtocol);
        }
        let id = member.id.clone();
        if self.epoch > member.epoch && member.state != MemberState::UnrevokedPartitions {
            self.expect_rejoin(&id, step);
            return Err(Refusal::RebalanceInProgress);
        }
        let assignment = assignment_bytes(&member.assigned, &first.metadata, image);
        step.timers.cancel(&self.progress_alarm(&id));
        self.restart_session(&id, step);
        Ok(SyncGroupResponse {
            protocol_type: request.protocol_type.clone(),
            protocol_name: request.protocol_name.clone(),
            assignment,
            ..Default::default()
        })
    }

    /// Handles a Heartbeat.
    pub(in crate::group) fn heartbeat_classic(
        &mut self,
        request: &HeartbeatRequest,
        image: &Arc<Image>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let (member, _) = self.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != member.epoch {
            return Err(Refusal::IllegalGeneration);
        }
        let id = member.id.clone();
        self.restart_session(&id, step);
        self.catch_up(false, image, step);
        let member = &self.members[&id];
        let has_to_rejoin = member.epoch < self.epoch
            || member.state == MemberState::UnrevokedPartitions
            || (member.state == MemberState::UnreleasedPartitions && !self.waits_for_others(member));
        if has_to_rejoin {
            self.expect_rejoin(&id, step);
            return Err(Refusal::RebalanceInProgress);
        }
        Ok(())
    }

    /// The time to rejoin runs from the first time that it was told.
    fn expect_rejoin(&self, id: &Str, step: &mut Step<'_>) {
        if !step.timers.contains(&self.progress_alarm(id)) {
            self.expect_progress(id, step);
        }
    }

    /// Handles a LeaveGroup: what became of each.
    pub(in crate::group) fn leave_classic(
        &mut self,
        leaving: &[MemberIdentity],
        step: &mut Step<'_>,
    ) -> Vec<Result<(), Refusal>> {
        let mut ids = BTreeSet::new();
        let left = leaving.iter().map(|identity| match self.find_leaving(identity) {
            Ok(id) if ids.insert(id.clone()) => Ok(()),
            Ok(_) => Err(Refusal::UnknownMember),
            Err(refusal) => Err(refusal),
        });
        let left = left.collect();
        if !ids.is_empty() {
            self.members_leave(&ids, step);
        }
        left
    }

    /// An administrator takes a static member away by its instance id alone.
    fn find_leaving(&self, identity: &MemberIdentity) -> Result<Str, Refusal> {
        let instance_id = identity.group_instance_id.as_deref();
        let by_instance = instance_id.filter(|_| identity.member_id.is_empty());
        let id = match by_instance {
            Some(instance_id) => self.statics.get(instance_id).ok_or(Refusal::UnknownMember)?.clone(),
            None => identity.member_id.clone(),
        };
        let (member, _) = self.classic_member(&id, instance_id)?;
        Ok(member.id.clone())
    }

    /// A member that a request of the classic protocol names. To those, the others do not exist.
    fn classic_member(&self, id: &str, instance_id: Option<&str>) -> Result<(&Member, &Classic), Refusal> {
        let member = self.member_named(id, instance_id)?;
        let classic = member.about.classic.as_ref().ok_or(Refusal::UnknownMember)?;
        Ok((member, classic))
    }

    /// Whether nobody but this member speaks the consumer protocol.
    pub(super) fn is_classic_but_for(&self, id: Option<&Str>) -> bool {
        self.members.values().all(|member| member.is_classic() || Some(&member.id) == id)
    }
}

/// What a consumer of the classic protocol tells with its join, and the version that it says it in.
pub(super) fn read_subscription(
    metadata: &Bytes,
) -> Result<(i16, ConsumerProtocolSubscription), DecodeError> {
    let mut decoder = Decoder::new(metadata.clone());
    let version = decoder.int16()?.max(0);
    // Newer versions begin as the newest known does.
    let subscription = ConsumerProtocolSubscription::decode(&mut decoder, version.min(EMBEDDED_VERSION_MAX))?;
    Ok((version, subscription))
}

/// What it says that it has.
pub(super) fn owned_partitions(
    subscription: &ConsumerProtocolSubscription,
    image: &Image,
) -> BTreeSet<TopicIdPartition> {
    let owned = subscription.owned_partitions.iter().filter_map(|topic| {
        let id = image.topic(&topic.topic)?.id;
        Some(topic.partitions.iter().map(move |partition| (id, PartitionId(*partition))))
    });
    owned.flatten().collect()
}

/// What such a consumer has got, as another member decided.
pub(super) fn read_assignment(
    assignment: &Bytes,
    image: &Image,
) -> Result<BTreeSet<TopicIdPartition>, DecodeError> {
    if assignment.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut decoder = Decoder::new(assignment.clone());
    let version = decoder.int16()?.max(0);
    let assignment = ConsumerProtocolAssignment::decode(&mut decoder, version.min(EMBEDDED_VERSION_MAX))?;
    let partitions = assignment.assigned_partitions.iter().filter_map(|topic| {
        let id = image.topic(&topic.topic)?.id;
        Some(topic.partitions.iter().map(move |partition| (id, PartitionId(*partition))))
    });
    Ok(partitions.flatten().collect())
}

/// What such a consumer is given, in the version in which it subscribed. Topics that are gone are left out.
pub(super) fn assignment_bytes(assigned: &Owned, subscription: &Bytes, image: &Image) -> Bytes {
    let version = read_subscription(subscription).map_or(0, |(version, _)| version.min(EMBEDDED_VERSION_MAX));
    let topics = by_topic(assigned.keys().map(|partition| (*partition, ()))).into_iter();
    let named = |(id, partitions): (Uuid, Vec<(i32, ())>)| {
        let topic = image.topic_by_id(id)?.name.clone();
        Some(TopicPartition { topic, partitions: partitions.into_iter().map(|(id, ())| id).collect() })
    };
    let assignment = ConsumerProtocolAssignment {
        assigned_partitions: topics.filter_map(named).collect(),
        user_data: None,
    };
    let mut encoder = Encoder::new();
    encoder.int16(version);
    assignment.encode(&mut encoder, version);
    encoder.into_bytes()
}
