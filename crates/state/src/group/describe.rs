//! What administrators see of groups, and deleting them.
//!
//! Describing and listing only read. Deleting takes an empty group with all its offsets, or nothing.

use wire::messages::delete_groups::DeletableGroupResult;
use wire::messages::describe_groups::{DescribedGroup, DescribedGroupMember};
use wire::messages::list_groups::{ListGroupsRequest, ListedGroup};
use wire::{ErrorCode, PartitionId, Str};

use super::CoordinatorRecord;
use super::records::Event;
use super::{Group, Groups, Outcome, Refusal, State};

/// From this version on a group that is not there is an error; before, it is described as dead (KIP-1043).
const GROUP_NOT_FOUND_SINCE: i16 = 6;

impl Groups {
    /// Describes one group, for DescribeGroups.
    pub fn describe(&self, api_version: i16, group_id: &Str) -> DescribedGroup {
        match self.groups.get(group_id) {
            Some(group) => group.describe(),
            None => {
                let mut dead = DescribedGroup {
                    group_id: group_id.clone(),
                    group_state: Str::from("Dead"),
                    ..Default::default()
                };
                if api_version >= GROUP_NOT_FOUND_SINCE {
                    dead.error_code = Refusal::GroupNotFound.into();
                    dead.error_message = Some(Str::from(format!("Group {group_id} not found.")));
                }
                dead
            }
        }
    }

    /// Lists the groups that pass the filters, for ListGroups. Filters are compared without regard to case.
    pub fn list(&self, request: &ListGroupsRequest) -> Vec<ListedGroup> {
        let types = &request.types_filter;
        if !types.is_empty() && !types.iter().any(|kind| kind.trim().eq_ignore_ascii_case("classic")) {
            return Vec::new();
        }
        // A filter may name anything any number of times; there are four states.
        let filter = &request.states_filter;
        let mut wanted = State::NAMES.to_vec();
        wanted.retain(|name| {
            filter.is_empty() || filter.iter().any(|state| state.trim().eq_ignore_ascii_case(name))
        });
        let asked_for = |group: &&Group| wanted.contains(&group.state.name());
        let listed = self.groups.values().filter(asked_for).map(|group| ListedGroup {
            group_id: group.id.clone(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            group_state: Str::from(group.state.name()),
            group_type: Str::from("classic"),
        });
        listed.collect()
    }

    /// Deletes one group, for DeleteGroups. The result may be told once the records are durable.
    pub fn delete(&mut self, group_id: &Str) -> (Vec<CoordinatorRecord>, DeletableGroupResult) {
        let mut outcome = Outcome::default();
        let deleted = self.delete_empty(group_id, &mut outcome);
        let error_code = deleted.map_or_else(ErrorCode::from, |()| ErrorCode::NONE);
        (outcome.records, DeletableGroupResult { group_id: group_id.clone(), error_code })
    }

    fn delete_empty(&mut self, group_id: &Str, outcome: &mut Outcome) -> Result<(), Refusal> {
        let group = self.groups.get(group_id).ok_or(Refusal::GroupNotFound)?;
        if group.state != State::Empty {
            return Err(Refusal::NonEmptyGroup);
        }
        let id = group.id.clone();
        let all: Vec<(Str, PartitionId)> =
            group.offsets.iter().map(|(topic, id, _)| (topic.clone(), id)).collect();
        self.forget_offsets(&id, all.into_iter(), outcome);
        self.forget_traces(|group, _, _| *group == id, outcome);
        let event = Event::GroupForgotten { group: id };
        outcome.records.push(event.encode());
        self.apply(event);
        Ok(())
    }
}

impl Group {
    fn describe(&self) -> DescribedGroup {
        // The protocol, and what members said for it, are only settled once the group is stable.
        let protocol = if self.state == State::Stable { self.protocol_name.as_deref() } else { None };
        let members = self.members.iter().map(|member| DescribedGroupMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            member_metadata: member.metadata(protocol),
            member_assignment: member.assignment.clone(),
        });
        DescribedGroup {
            group_id: self.id.clone(),
            group_state: Str::from(self.state.name()),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol_data: protocol.map(Str::copy_from).unwrap_or_default(),
            members: members.collect(),
            ..Default::default()
        }
    }
}
