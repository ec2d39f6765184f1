//! SyncGroup and Heartbeat: members of a generation get their assignment and stay alive.
//!
//! The leader's sync makes the generation durable: one record holds all members and assignments, and no member learns its
//! assignment before that record. A request of another generation, or of a fenced static member, never gets this far.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wire::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use wire::{ErrorCode, Response, Str};

use super::member::Member;
use super::{Group, Groups, Now, Outcome, Refusal, State, Step, Token, sync_refused};
use crate::metadata::Image;

impl Groups {
    /// Handles a SyncGroup.
    pub fn sync(
        &mut self,
        token: Token,
        request: &SyncGroupRequest,
        image: &Image,
        now: impl Into<Now>,
    ) -> Outcome {
        let Groups { config, groups, consumers, timers, .. } = self;
        let mut step = Step::new(config, timers, now.into());
        if let Some(group) = consumers.get_mut(&request.group_id) {
            let synced = group.sync_classic(request, image, &mut step);
            step.reply(token, synced.map_or_else(sync_refused, Response::SyncGroup));
            return step.outcome;
        }
        let group = match groups.get_mut(&request.group_id) {
            _ if request.group_id.is_empty() => Err(Refusal::InvalidGroupId),
            Some(group) if group.state != State::Empty => Ok(group),
            Some(_) | None => Err(Refusal::UnknownMember),
        };
        if let Err(refusal) = group.and_then(|group| group.sync(token, request, &mut step)) {
            step.reply(token, sync_refused(refusal));
        }
        step.outcome
    }

    /// Handles a Heartbeat.
    pub fn heartbeat(
        &mut self,
        token: Token,
        request: &HeartbeatRequest,
        image: &Arc<Image>,
        now: impl Into<Now>,
    ) -> Outcome {
        let now = now.into();
        let mut before = Outcome::default();
        self.downgrade_if_classic(&request.group_id, image, now, &mut before);
        let Groups { config, groups, consumers, timers, .. } = self;
        let mut step = Step { outcome: before, ..Step::new(config, timers, now) };
        let group_id = &request.group_id;
        let alive = match (consumers.get_mut(group_id), groups.get_mut(group_id)) {
            _ if group_id.is_empty() => Err(Refusal::InvalidGroupId),
            (Some(group), _) => group.heartbeat_classic(request, image, &mut step),
            (None, Some(group)) => group.heartbeat(request, &mut step),
            (None, None) => Err(Refusal::UnknownMember),
        };
        let error_code = alive.map_or_else(ErrorCode::from, |()| ErrorCode::NONE);
        step.reply(token, Response::Heartbeat(HeartbeatResponse { error_code, ..Default::default() }));
        step.outcome
    }
}

impl Group {
    fn sync(&mut self, token: Token, request: &SyncGroupRequest, step: &mut Step<'_>) -> Result<(), Refusal> {
        let member_id = &request.member_id;
        self.check_member(member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(Refusal::IllegalGeneration);
        }
        if differ(&request.protocol_type, &self.protocol_type)
            || differ(&request.protocol_name, &self.protocol_name)
        {
            return Err(Refusal::InconsistentProtocol);
        }
        match self.state {
            State::Empty => Err(Refusal::UnknownMember),
            State::PreparingRebalance(_) => Err(Refusal::RebalanceInProgress),
            State::CompletingRebalance => {
                if self.is_leader(member_id) && self.stored_bytes(request) > step.config.record_bytes_max {
                    // The leader still owes its assignment, and the group goes on without it when its time is over.
                    return Err(Refusal::GroupTooLarge);
                }
                self.asked_for_assignment(member_id, step);
                let member = self.members.get_mut(member_id).ok_or(Refusal::UnknownMember)?;
                if let Some(superseded) = member.parked_sync.replace(token) {
                    step.reply(superseded, sync_refused(Refusal::RebalanceInProgress));
                }
                if self.is_leader(member_id) {
                    self.adopt_assignment(request, step);
                }
                Ok(())
            }
            State::Stable => {
                self.asked_for_assignment(member_id, step);
                let member = self.members.get(member_id).ok_or(Refusal::UnknownMember)?;
                step.reply(token, self.assigned(member));
                Ok(())
            }
        }
    }

    /// About what the group's record takes with the leader's assignment.
    fn stored_bytes(&self, request: &SyncGroupRequest) -> usize {
        let protocol = self.protocol_name.as_deref();
        let members = self.members.iter().map(|member| member.metadata(protocol).len() + 3 * member.id.len());
        let assignments = request.assignments.iter().map(|entry| entry.assignment.len());
        members.sum::<usize>() + assignments.sum::<usize>()
    }

    fn asked_for_assignment(&mut self, member_id: &Str, step: &mut Step<'_>) {
        self.pending_syncs.remove(member_id);
        if self.pending_syncs.is_empty() {
            step.timers.cancel(&self.sync_alarm());
        }
    }

    /// Stores the generation with what its leader decided. A member that the leader left out gets nothing.
    fn adopt_assignment(&mut self, request: &SyncGroupRequest, step: &mut Step<'_>) {
        let decided = request.assignments.iter().map(|entry| (&*entry.member_id, &entry.assignment));
        let decided: BTreeMap<&str, &Bytes> = decided.collect();
        self.store(step, |member| {
            decided.get(&*member.id).map(|bytes| Bytes::clone(bytes)).unwrap_or_default()
        });
        assert!(self.state == State::Stable);
        for (token, member_id) in self.take_parked_syncs() {
            if let Some(member) = self.members.get(&member_id) {
                step.reply(token, self.assigned(member));
            }
            self.restart_session(&member_id, step);
        }
    }

    /// The rebalance starts over before its assignment arrived.
    pub(super) fn abandon_assignment(&mut self, step: &mut Step<'_>) {
        for (token, member_id) in self.take_parked_syncs() {
            step.reply(token, sync_refused(Refusal::RebalanceInProgress));
            self.restart_session(&member_id, step);
        }
        for member in self.members.iter_mut() {
            member.assignment = Bytes::new();
        }
    }

    pub(super) fn take_parked_syncs(&mut self) -> Vec<(Token, Str)> {
        let parked = self
            .members
            .iter_mut()
            .filter_map(|member| Some((member.parked_sync.take()?, member.id.clone())));
        parked.collect()
    }

    fn assigned(&self, member: &Member) -> Response {
        Response::SyncGroup(SyncGroupResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment: member.assignment.clone(),
            ..Default::default()
        })
    }

    fn heartbeat(&mut self, request: &HeartbeatRequest, step: &mut Step<'_>) -> Result<(), Refusal> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(Refusal::IllegalGeneration);
        }
        self.restart_session(&request.member_id, step);
        match self.state {
            State::Empty => Err(Refusal::UnknownMember),
            State::PreparingRebalance(_) => Err(Refusal::RebalanceInProgress),
            // Clients start their heartbeats as soon as the join is answered.
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }
}

/// A protocol that a client names (v5 on, KIP-559) must be the group's.
fn differ(said: &Option<Str>, current: &Option<Str>) -> bool {
    matches!((said, current), (Some(said), Some(current)) if said != current)
}
