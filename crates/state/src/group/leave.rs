//! LeaveGroup: members go at their own request or at an administrator's.
//!
//! All members of a request leave before the group rebalances once. One that cannot leave does not keep the others.

use wire::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse};
use wire::{ErrorCode, Response, Str};

use super::{Group, Groups, Now, Outcome, Refusal, State, Step, Token};

/// From this version on a request names several members; before, itself.
const BATCH_SINCE: i16 = 3;

impl Groups {
    /// Handles a LeaveGroup.
    pub fn leave(
        &mut self,
        token: Token,
        api_version: i16,
        request: &LeaveGroupRequest,
        now: impl Into<Now>,
    ) -> Outcome {
        let Groups { config, groups, consumers, timers, .. } = self;
        let mut step = Step::new(config, timers, now.into());
        let mut response = LeaveGroupResponse::default();
        if request.group_id.is_empty() {
            response.error_code = Refusal::InvalidGroupId.into();
        } else {
            let itself = [MemberIdentity { member_id: request.member_id.clone(), ..Default::default() }];
            let members = if api_version < BATCH_SINCE { &itself[..] } else { &request.members[..] };
            let group_id = &request.group_id;
            response.members = match (consumers.get_mut(group_id), groups.get_mut(group_id)) {
                (Some(group), _) => {
                    let left = group.leave_classic(members, &mut step);
                    members.iter().zip(left).map(|(member, left)| answer(member, left)).collect()
                }
                (None, Some(group)) => group.leave(members, &mut step),
                (None, None) => {
                    members.iter().map(|member| answer(member, Err(Refusal::UnknownMember))).collect()
                }
            };
            if api_version < BATCH_SINCE {
                response.error_code =
                    response.members.first().map_or(ErrorCode::NONE, |member| member.error_code);
            }
        }
        step.reply(token, Response::LeaveGroup(response));
        step.outcome
    }
}

impl Group {
    fn leave(&mut self, leaving: &[MemberIdentity], step: &mut Step<'_>) -> Vec<MemberResponse> {
        let mut answers = Vec::with_capacity(leaving.len());
        let mut anyone_left = false;
        for member in leaving {
            let left = self.find_leaving(member).map(|id| {
                self.remove_member(&id, step);
            });
            anyone_left |= left.is_ok();
            answers.push(answer(member, left));
        }
        match self.state {
            State::CompletingRebalance | State::Stable if anyone_left => self.prepare_rebalance(step),
            State::PreparingRebalance(_) if anyone_left => self.complete_join_if_all_joined(step),
            State::Empty | State::PreparingRebalance(_) | State::CompletingRebalance | State::Stable => {}
        }
        answers
    }

    /// The id to remove. An administrator removes a static member by its instance id alone.
    fn find_leaving(&self, member: &MemberIdentity) -> Result<Str, Refusal> {
        let instance_id = member.group_instance_id.as_deref();
        if member.member_id.is_empty() {
            let current = instance_id.and_then(|instance_id| self.members.static_id(instance_id));
            return current.cloned().ok_or(Refusal::UnknownMember);
        }
        if !self.pending_joins.contains(&member.member_id) {
            self.check_member(&member.member_id, instance_id)?;
        }
        Ok(member.member_id.clone())
    }
}

fn answer(member: &MemberIdentity, left: Result<(), Refusal>) -> MemberResponse {
    MemberResponse {
        member_id: member.member_id.clone(),
        group_instance_id: member.group_instance_id.clone(),
        error_code: left.map_or_else(ErrorCode::from, |()| ErrorCode::NONE),
    }
}
