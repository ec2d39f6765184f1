//! JoinGroup: who may become a member, and when its joining makes the group rebalance.
//!
//! A join is answered once the group's next generation is formed, or at once when nothing changes for it. At most one
//! join is parked per member: a newer one supersedes it. Nobody becomes a member whose protocols do not fit all others.

use std::sync::Arc;

use wire::messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};
use wire::{ErrorCode, Response, Str, Uuid};

use super::member::{Member, protocols_of, rebalance_timeout_of};
use super::records::Event;
use super::{
    ClientInfo, Group, Groups, JoinWait, NEW_MEMBER_JOIN_TIMEOUT_MS, Now, Outcome, PENDING_JOINS_MAX,
    Refusal, State, Step, Token, join_refused, records,
};
use crate::metadata::Image;

/// From this version on a new dynamic member is sent back once with its id (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;
/// From this version on a leader can be told to leave the assignment alone (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;

impl Groups {
    /// Handles a JoinGroup. `ids` makes the unique part of a new member's id.
    pub fn join(
        &mut self,
        token: Token,
        client: &ClientInfo,
        request: &JoinGroupRequest,
        image: &Arc<Image>,
        now: impl Into<Now>,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        let now = now.into();
        let join = Join { token, client, request };
        if let Err(refusal) = self.check_join_bounds(request).and_then(|()| self.check_classic_join(request))
        {
            return Outcome::reply(token, join_refused(request.member_id.clone(), refusal));
        }
        let mut before = Outcome::default();
        self.make_way_for_classic(request, image, now, &mut before);
        let mut outcome = if self.consumers.contains_key(&request.group_id) {
            self.join_consumers(&join, image, now, ids)
        } else {
            self.join_classics(&join, now, ids)
        };
        outcome.records.splice(..0, before.records);
        outcome.replies.splice(..0, before.replies);
        outcome
    }

    fn join_classics(&mut self, join: &Join<'_>, now: Now, ids: &mut dyn FnMut() -> Uuid) -> Outcome {
        let Join { token, request, .. } = *join;
        let mut created = Vec::new();
        if self.share.contains(&request.group_id) {
            let refusal = Refusal::InconsistentProtocol;
            return Outcome::reply(token, join_refused(request.member_id.clone(), refusal));
        }
        if let Err(refusal) = self.check_join(request) {
            return Outcome::reply(token, join_refused(request.member_id.clone(), refusal));
        }
        if !self.groups.contains_key(&request.group_id) {
            let id = Str::copy_from(&request.group_id);
            let event = Event::GroupStored { group: id, value: records::empty_group(now.wall) };
            created.push(event.encode());
            self.apply(event);
        }
        let Groups { config, groups, timers, .. } = self;
        let mut step = Step::new(config, timers, now);
        step.outcome.records = created;
        let group = groups.get_mut(&request.group_id).expect("made above if it was not there");
        match group.join(join, &mut step, ids) {
            Ok(()) => {}
            Err(Refusal::GroupFull) => {
                step.reply(token, join_refused(Str::default(), Refusal::GroupFull));
                group.remove_member(&request.member_id, &mut step);
                group.complete_join_if_all_joined(&mut step);
            }
            Err(refusal) => step.reply(token, join_refused(request.member_id.clone(), refusal)),
        }
        step.outcome
    }

    /// A member of the classic protocol joins a group of the other.
    fn join_consumers(
        &mut self,
        join: &Join<'_>,
        image: &Arc<Image>,
        now: Now,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        let Join { token, client, request } = *join;
        let Groups { config, consumers, timers, .. } = self;
        let mut step = Step::new(config, timers, now);
        let group = consumers.get_mut(&request.group_id).expect("looked for by the caller");
        let is_new = request.member_id.is_empty();
        let response = if is_new
            && request.group_instance_id.is_none()
            && client.api_version >= MEMBER_ID_REQUIRED_SINCE
        {
            join_refused(member_id(&client.client_id, ids()), Refusal::MemberIdRequired)
        } else {
            let prefix = request.group_instance_id.as_ref().unwrap_or(&client.client_id);
            let joined = group.join_classic(client, request, image, &mut step, || member_id(prefix, ids()));
            match joined {
                Ok(joined) => Response::JoinGroup(joined),
                Err(refusal) => join_refused(request.member_id.clone(), refusal),
            }
        };
        step.reply(token, response);
        step.outcome
    }

    /// What can be refused without touching the group, so that no group is made for it.
    fn check_join_bounds(&self, request: &JoinGroupRequest) -> Result<(), Refusal> {
        let session_timeouts = self.config.session_timeout_ms_min..=self.config.session_timeout_ms_max;
        if request.group_id.is_empty() {
            return Err(Refusal::InvalidGroupId);
        }
        if !session_timeouts.contains(&request.session_timeout_ms) {
            return Err(Refusal::InvalidSessionTimeout);
        }
        let metadata: usize = request.protocols.iter().map(|protocol| protocol.metadata.len()).sum();
        if metadata > self.config.record_bytes_max {
            return Err(Refusal::GroupTooLarge);
        }
        Ok(())
    }

    /// Likewise, for a classic group.
    fn check_join(&self, request: &JoinGroupRequest) -> Result<(), Refusal> {
        if self.groups.contains_key(&request.group_id) {
            return Ok(());
        }
        // A member that knows its id is not the founder of a group, but one that has been forgotten.
        if !request.member_id.is_empty() {
            return Err(Refusal::UnknownMember);
        }
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return Err(Refusal::InconsistentProtocol);
        }
        Ok(())
    }
}

/// A join and its sender.
struct Join<'a> {
    token: Token,
    client: &'a ClientInfo,
    request: &'a JoinGroupRequest,
}

impl Group {
    fn join(
        &mut self,
        join: &Join<'_>,
        step: &mut Step<'_>,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Result<(), Refusal> {
        let request = join.request;
        if !self.has_room_for(&request.member_id, step) {
            return Err(Refusal::GroupFull);
        }
        if !self.supports_protocols_of(request) {
            return Err(Refusal::InconsistentProtocol);
        }
        match (&*request.member_id, request.group_instance_id.as_deref()) {
            ("", Some(instance_id)) => {
                let new_id = member_id(instance_id, ids());
                match self.members.static_id(instance_id).cloned() {
                    Some(old_id) => self.replace_static(&old_id, new_id, join, step),
                    None => self.add_member(new_id, join, step),
                }
            }
            ("", None) if join.client.api_version >= MEMBER_ID_REQUIRED_SINCE => {
                self.hand_out_id(member_id(&join.client.client_id, ids()), join, step)?;
            }
            ("", None) => self.add_member(member_id(&join.client.client_id, ids()), join, step),
            (pending, None) if self.pending_joins.contains(pending) => {
                let id = Str::copy_from(pending);
                self.add_member(id, join, step);
            }
            (known, instance_id) => {
                self.check_member(known, instance_id)?;
                self.rejoin(join, step);
            }
        }
        Ok(())
    }

    /// While a group rebalances, those who have rejoined count, so that a lowered limit turns the last away; after that
    /// all members count.
    fn has_room_for(&self, member_id: &str, step: &Step<'_>) -> bool {
        if member_id.is_empty() && self.pending_joins.len() >= PENDING_JOINS_MAX {
            return false;
        }
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance(_) => {
                member.is_some_and(|member| member.parked_join.is_some())
                    || self.members.parked_joins() < step.config.group_size_max
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || self.members.len() < step.config.group_size_max
            }
        }
    }

    fn supports_protocols_of(&self, request: &JoinGroupRequest) -> bool {
        if self.members.is_empty() {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && self.members.any_common_protocol(request.protocols.iter().map(|protocol| &*protocol.name))
    }

    fn hand_out_id(&mut self, id: Str, join: &Join<'_>, step: &mut Step<'_>) -> Result<(), Refusal> {
        let deadline = step.now.plus(i64::from(join.request.session_timeout_ms));
        step.timers.set(self.session_alarm(&id), deadline);
        step.reply(join.token, join_refused(id.clone(), Refusal::MemberIdRequired));
        self.pending_joins.insert(id);
        Ok(())
    }

    fn add_member(&mut self, id: Str, join: &Join<'_>, step: &mut Step<'_>) {
        let request = join.request;
        self.pending_joins.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(Str::copy_from(&request.protocol_type));
        }
        if let State::PreparingRebalance(JoinWait::Initial { joined_meanwhile, .. }) = &mut self.state {
            *joined_meanwhile = true;
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(Member {
            id: id.clone(),
            instance_id: request.group_instance_id.as_deref().map(Str::copy_from),
            client_id: Str::copy_from(&join.client.client_id),
            client_host: Str::copy_from(&join.client.client_host),
            rebalance_timeout_ms: rebalance_timeout_of(request),
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols_of(request),
            assignment: bytes::Bytes::new(),
            is_new: true,
            parked_join: Some(join.token),
            parked_sync: None,
        });
        step.timers.set(self.session_alarm(&id), step.now.plus(NEW_MEMBER_JOIN_TIMEOUT_MS));
        self.rebalance_or_complete_join(step);
    }

    fn rejoin(&mut self, join: &Join<'_>, step: &mut Step<'_>) {
        let id = &join.request.member_id;
        let unchanged =
            self.members.get(id).is_some_and(|member| member.protocols == protocols_of(join.request));
        // Who says the same again did not get the answer, or wants the generation confirmed; only the leader of a
        // stable group means more by it: that something outside the members' metadata changed.
        let needs_rebalance = match self.state {
            State::Empty | State::PreparingRebalance(_) => true,
            State::CompletingRebalance => !unchanged,
            State::Stable => !unchanged || self.is_leader(id),
        };
        if needs_rebalance {
            if let Some(superseded) = self.members.rejoin(id, join.request, join.token) {
                step.reply(superseded, join_refused(id.clone(), Refusal::RebalanceInProgress));
            }
            self.rebalance_or_complete_join(step);
        } else {
            // In a stable group only followers come here, and they are told no members.
            step.reply(join.token, self.joined(id));
        }
    }

    /// A static member came back without its id: it takes the place of its former self, which is fenced (KIP-345).
    fn replace_static(&mut self, old_id: &Str, new_id: Str, join: &Join<'_>, step: &mut Step<'_>) {
        let former_leader = self.leader.clone();
        let Some(mut member) = self.members.remove(old_id) else { return };
        if let Some(fenced) = member.parked_join.take() {
            step.reply(fenced, join_refused(old_id.clone(), Refusal::FencedInstance));
        }
        if let Some(fenced) = member.parked_sync.take() {
            step.reply(fenced, super::sync_refused(Refusal::FencedInstance));
        }
        step.timers.cancel(&self.session_alarm(old_id));
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        if self.pending_syncs.remove(old_id) {
            self.pending_syncs.insert(new_id.clone());
        }
        member.id = new_id.clone();
        member.is_new = false;
        self.members.insert(member);
        self.members.rejoin(&new_id, join.request, join.token);
        self.restart_session(&new_id, step);

        match self.state {
            State::Stable if self.members.elect_protocol() == self.protocol_name => {
                self.store(step, |member| member.assignment.clone());
                self.members.take_join(&new_id);
                let answer = self.rejoined_static(&new_id, former_leader, join.client.api_version);
                step.reply(join.token, answer);
            }
            // The leader may have seen the former id already: its assignment would miss the new one.
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(step),
            State::Empty | State::PreparingRebalance(_) => self.complete_join_if_all_joined(step),
        }
    }

    /// The answer to a static member that came back without a rebalance. As leader it must not assign again: it is told
    /// so, or, in the versions that cannot say it, that somebody else leads.
    fn rejoined_static(&self, id: &Str, former_leader: Option<Str>, api_version: i16) -> Response {
        let mut response = self.join_response(id);
        if api_version >= SKIP_ASSIGNMENT_SINCE {
            response.skip_assignment = self.is_leader(id);
        } else {
            response.leader = former_leader.unwrap_or_default();
            response.members = Vec::new();
        }
        Response::JoinGroup(response)
    }

    /// The answer to a member of the current generation.
    pub(super) fn joined(&self, id: &Str) -> Response {
        Response::JoinGroup(self.join_response(id))
    }

    fn join_response(&self, id: &Str) -> JoinGroupResponse {
        let protocol = self.protocol_name.as_deref();
        let members = self.members.iter().map(|member| JoinGroupResponseMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        });
        JoinGroupResponse {
            error_code: ErrorCode::NONE,
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: id.clone(),
            members: if self.is_leader(id) { members.collect() } else { Vec::new() },
            ..Default::default()
        }
    }
}

/// `<prefix>-<uuid>`, the UUID in its usual form with hyphens.
fn member_id(prefix: &str, id: Uuid) -> Str {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(prefix.len() + 37);
    text.push_str(prefix);
    for (at, byte) in id.0.iter().enumerate() {
        if matches!(at, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let written = write!(text, "{byte:02x}");
        assert!(written.is_ok(), "writing to a String cannot fail");
    }
    Str::from(text)
}
