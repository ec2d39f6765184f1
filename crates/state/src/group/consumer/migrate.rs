//! A group goes from one protocol to the other while its members are up (KIP-848, "Migration").
//!
//! The first member that speaks the consumer protocol makes it a group of that kind, in which everybody has what it had; when
//! the last one is gone it becomes a classic group again, which then rebalances. Committed offsets stay where they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use wire::messages::group_metadata_value::GroupMetadataValue;
use wire::messages::join_group::JoinGroupRequest;
use wire::{Millis, Str};

use super::classic::{PROTOCOL_TYPE, assignment_bytes, owned_partitions, read_assignment, read_subscription};
use super::reconcile;
use super::{About, Classic, ConsumerEvent, ConsumerGroup, MemberState, Owned};
use crate::group::member::Member as ClassicMember;
use crate::group::records::{self, Event};
use crate::group::{Group, Groups, Now, Outcome, Refusal, State, Step};
use crate::metadata::Image;

impl Groups {
    /// Makes sure that there is a group of the consumer protocol for who joins; a classic one becomes one.
    pub(super) fn make_consumer_group(
        &mut self,
        group_id: &Str,
        is_join: bool,
        image: &Arc<Image>,
        now: Now,
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        if self.consumers.contains_key(group_id) {
            return Ok(());
        }
        if !is_join {
            return Err(Refusal::GroupNotFound);
        }
        let id = Str::copy_from(group_id);
        let mut group = ConsumerGroup::new(id.clone());
        let mut upgraded = None;
        if let Some(classic) = self.groups.get(group_id) {
            if classic.state != State::Empty {
                if !self.config.consumer.upgrade {
                    return Err(Refusal::GroupNotFound);
                }
                let members = classic.as_consumers(self.config.consumer.group_size_max, image)?;
                upgraded = Some((classic.generation, members));
            }
            self.retire_classic(group_id, now, outcome);
        }
        let Groups { config, timers, .. } = self;
        let mut step = Step::new(config, timers, now);
        if let Some((generation, members)) = upgraded {
            group.adopt(generation, members, &mut step);
        }
        outcome.records.append(&mut step.outcome.records);
        self.consumers.insert(id, group);
        Ok(())
    }

    /// The classic group is no more but for its offsets; who waits in it is told to join again.
    fn retire_classic(&mut self, group_id: &Str, now: Now, outcome: &mut Outcome) {
        let Groups { config, groups, timers, .. } = self;
        let Some(group) = groups.get_mut(group_id) else { return };
        let mut step = Step::new(config, timers, now);
        group.send_everybody_back(&mut step);
        // Who was given an id and comes with it joins the group of the other kind.
        for id in std::mem::take(&mut group.pending_joins) {
            step.timers.cancel(&group.session_alarm(&id));
        }
        outcome.replies.append(&mut step.outcome.replies);
        // One that holds nothing but offsets has no record.
        if group.stored_at.is_some() || group.protocol_type.is_some() || !group.members.is_empty() {
            let event = Event::GroupForgotten { group: group.id.clone() };
            outcome.records.push(event.encode());
            self.apply(event);
        } else if group.offsets.is_empty() {
            groups.remove(group_id);
        }
    }

    /// Before a JoinGroup: a group of the consumer protocol without members, or whose last one comes back as a classic one,
    /// makes way for a classic group.
    pub(in crate::group) fn make_way_for_classic(
        &mut self,
        request: &JoinGroupRequest,
        image: &Arc<Image>,
        now: Now,
        outcome: &mut Outcome,
    ) {
        let Groups { config, consumers, timers, .. } = self;
        let Some(group) = consumers.get_mut(&request.group_id) else { return };
        let mut step = Step::new(config, timers, now);
        let former =
            request.group_instance_id.as_deref().and_then(|instance| group.statics.get(instance)).cloned();
        if let Some(former) = former
            && request.member_id.is_empty()
            && !group.members[&former].is_classic()
            && group.is_classic_but_for(Some(&former))
        {
            group.fence(&former, &mut step);
        }
        let emptied = group.emptied_at().map(|at| (group.id.clone(), group.epoch, at));
        outcome.records.append(&mut step.outcome.records);
        if let Some((id, epoch, emptied_at)) = emptied {
            self.forget_consumers(&id, now, outcome);
            self.keep_age(id, epoch, emptied_at, outcome);
        } else {
            self.downgrade_if_classic(&request.group_id, image, now, outcome);
        }
    }

    /// Whether a JoinGroup to a group of the consumer protocol may change anything.
    pub(in crate::group) fn check_classic_join(&self, request: &JoinGroupRequest) -> Result<(), Refusal> {
        let Some(group) = self.consumers.get(&request.group_id) else { return Ok(()) };
        let first = request.protocols.first().map(|protocol| &protocol.metadata);
        let is_readable = first.is_some_and(|metadata| read_subscription(metadata).is_ok());
        if request.protocol_type != PROTOCOL_TYPE || !is_readable {
            return Err(Refusal::InconsistentProtocol);
        }
        // Who has an id had it from a group that is no more.
        if group.is_empty() && !request.member_id.is_empty() {
            return Err(Refusal::UnknownMember);
        }
        Ok(())
    }

    /// What was committed to a group that is a classic one from now on is as old as it was.
    fn keep_age(&mut self, id: Str, generation: i32, emptied_at: Millis, outcome: &mut Outcome) {
        if self.groups.contains_key(&id) {
            let value = GroupMetadataValue {
                protocol_type: Str::from(PROTOCOL_TYPE),
                generation,
                current_state_timestamp: emptied_at.0,
                ..records::empty_group(emptied_at)
            };
            let event = Event::GroupStored { group: id, value };
            outcome.records.push(event.encode());
            self.apply(event);
        }
    }

    /// There is no group of the consumer protocol of this name any more; what was committed stays.
    pub(in crate::group) fn forget_consumers(&mut self, group_id: &Str, now: Now, outcome: &mut Outcome) {
        let Groups { config, consumers, timers, .. } = self;
        let Some(group) = consumers.get_mut(group_id) else { return };
        let mut step = Step::new(config, timers, now);
        group.clear(&mut step);
        outcome.records.append(&mut step.outcome.records);
        let event = Event::Consumer { group: group.id.clone(), event: ConsumerEvent::Forgotten };
        outcome.records.push(event.encode());
        self.apply(event);
    }

    /// Makes a group a classic one when nobody in it speaks the consumer protocol any more.
    pub(in crate::group) fn downgrade_if_classic(
        &mut self,
        group_id: &Str,
        image: &Image,
        now: Now,
        outcome: &mut Outcome,
    ) {
        let Some(consumers) = self.consumers.get(group_id) else { return };
        if !consumers.becomes_classic(&BTreeSet::new(), &self.config) {
            return;
        }
        let (id, generation, members) = (consumers.id.clone(), consumers.epoch, consumers.as_classics(image));
        self.forget_consumers(&id, now, outcome);
        let Groups { config, groups, timers, .. } = self;
        let mut step = Step::new(config, timers, now);
        let group = groups.entry(id.clone()).or_insert_with(|| Group::new(id));
        group.adopt(generation, members, &mut step);
        outcome.records.append(&mut step.outcome.records);
        outcome.replies.append(&mut step.outcome.replies);
    }
}

/// A member on its way into a group of the consumer protocol.
struct Upgraded {
    id: Str,
    about: About,
    assigned: Owned,
}

impl Group {
    /// The members as they will be in a group of the consumer protocol, with what they have.
    fn as_consumers(&self, group_size_max: usize, image: &Image) -> Result<Vec<Upgraded>, Refusal> {
        if !self.uses_consumer_protocol() || self.members.len() >= group_size_max {
            return Err(Refusal::GroupNotFound);
        }
        let members = self.members.iter().map(|member| self.as_consumer(member, image));
        members.collect()
    }

    fn as_consumer(&self, member: &ClassicMember, image: &Image) -> Result<Upgraded, Refusal> {
        let malformed = |_| Refusal::GroupNotFound;
        // A member that is just joining counts with what it likes best.
        let mut metadata = member.metadata(self.protocol_name.as_deref());
        if metadata.is_empty() {
            metadata = member.protocols.first().map(|protocol| protocol.metadata.clone()).unwrap_or_default();
        }
        let (_, subscription) = read_subscription(&metadata).map_err(malformed)?;
        let mut assigned = read_assignment(&member.assignment, image).map_err(malformed)?;
        if assigned.is_empty() && self.state != State::Stable {
            // A rebalance that was given up took its assignment, and not what it reads.
            assigned = owned_partitions(&subscription, image);
        }
        let mut protocols = member.protocols.clone();
        // The first is the one that its answers speak of.
        if let Some(at) =
            protocols.iter().position(|protocol| Some(&protocol.name) == self.protocol_name.as_ref())
        {
            protocols[..=at].rotate_right(1);
        }
        Ok(Upgraded {
            id: member.id.clone(),
            about: About {
                instance_id: member.instance_id.clone(),
                rack_id: subscription.rack_id.as_deref().map(Str::copy_from),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topics: subscription.topics.iter().map(|name| Str::copy_from(name)).collect(),
                regex: None,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                assignor: None,
                classic: Some(Classic { session_timeout_ms: member.session_timeout_ms, protocols }),
            },
            assigned: assigned.into_iter().map(|partition| (partition, self.generation)).collect(),
        })
    }

    /// Takes over the members of a group of the consumer protocol, and has them join anew.
    fn adopt(&mut self, generation: i32, members: Vec<ClassicMember>, step: &mut Step<'_>) {
        self.generation = generation;
        self.protocol_type = Some(Str::from(PROTOCOL_TYPE));
        for member in members {
            self.members.insert(member);
        }
        self.protocol_name = self.members.elect_protocol();
        self.leader = self.members.ids().next().cloned();
        self.store(step, |member| member.assignment.clone());
        self.restart_sessions(step);
        self.prepare_rebalance(step);
    }
}

impl ConsumerGroup {
    /// Takes over the members of a classic group, in the epoch that was their generation.
    fn adopt(&mut self, epoch: i32, members: Vec<Upgraded>, step: &mut Step<'_>) {
        // Whoever assigned them may have given one partition to two; here it is the first one's.
        let mut taken = BTreeSet::new();
        for member in &members {
            self.store(
                step,
                ConsumerEvent::MemberStored { member: member.id.clone(), value: member.about.record() },
            );
        }
        self.store_epoch(epoch, 0, step);
        for Upgraded { id, mut assigned, .. } in members {
            assigned.retain(|partition, _| taken.insert(*partition));
            let partitions = assigned.keys().copied().collect();
            self.store(step, ConsumerEvent::TargetStored { member: id.clone(), partitions });
            let value = reconcile::current(epoch, epoch, MemberState::Stable, &assigned, &Owned::new());
            self.store(step, ConsumerEvent::CurrentStored { member: id.clone(), value });
            self.restart_session(&id, step);
        }
        self.store(step, ConsumerEvent::TargetEpochStored { epoch });
    }

    /// The members as they will be in a classic group, with what they have.
    fn as_classics(&self, image: &Image) -> Vec<ClassicMember> {
        let members = self.members.values().filter_map(|member| {
            let classic = member.about.classic.as_ref()?;
            let subscription = &classic.protocols.first()?.metadata;
            Some(ClassicMember {
                id: member.id.clone(),
                instance_id: member.about.instance_id.clone(),
                client_id: member.about.client_id.clone(),
                client_host: member.about.client_host.clone(),
                rebalance_timeout_ms: member.about.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                protocols: classic.protocols.clone(),
                assignment: assignment_bytes(&member.assigned, subscription, image),
                is_new: false,
                parked_join: None,
                parked_sync: None,
            })
        });
        members.collect()
    }
}
