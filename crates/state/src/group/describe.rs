//! What administrators see of groups, and deleting them.
//!
//! Describing and listing only read. Deleting takes an empty group with all its offsets, or nothing.

use wire::messages::delete_groups::DeletableGroupResult;
use wire::messages::describe_groups::{DescribedGroup, DescribedGroupMember};
use wire::messages::list_groups::{ListGroupsRequest, ListedGroup};
use wire::{ErrorCode, Millis, PartitionId, Str};

use super::CoordinatorRecord;
use super::records::Event;
use super::{Group, Groups, Outcome, Refusal, State, consumer};

/// From this version on a group that is not there is an error; before, it is described as dead (KIP-1043).
const GROUP_NOT_FOUND_SINCE: i16 = 6;

impl Groups {
    /// Describes one group, for DescribeGroups.
    pub fn describe(&self, api_version: i16, group_id: &Str) -> DescribedGroup {
        let is_consumer = self.consumers.contains_key(group_id);
        match self.groups.get(group_id).filter(|_| !is_consumer) {
            Some(group) => group.describe(),
            None => {
                let mut dead = DescribedGroup {
                    group_id: group_id.clone(),
                    group_state: Str::from("Dead"),
                    ..Default::default()
                };
                if api_version >= GROUP_NOT_FOUND_SINCE {
                    dead.error_code = Refusal::GroupNotFound.into();
                    dead.error_message = Some(Str::from(match is_consumer {
                        true => format!("Group {group_id} is not a classic group."),
                        false => format!("Group {group_id} not found."),
                    }));
                }
                dead
            }
        }
    }

    /// Lists the groups that pass the filters, for ListGroups. Filters are compared without regard to case.
    pub fn list(&self, request: &ListGroupsRequest) -> Vec<ListedGroup> {
        // A filter may name anything any number of times; there are few types and states.
        let passes = |filter: &[Str], name: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
        };
        let wanted = |names: &[&'static str]| {
            let mut wanted = names.to_vec();
            wanted.retain(|name| passes(&request.states_filter, name));
            wanted
        };
        let mut listed = Vec::new();
        if passes(&request.types_filter, "classic") {
            let states = wanted(&State::NAMES);
            let asked_for = self.classic_groups().filter(|group| states.contains(&group.state.name()));
            listed.extend(asked_for.map(|group| ListedGroup {
                group_id: group.id.clone(),
                protocol_type: group.protocol_type.clone().unwrap_or_default(),
                group_state: Str::from(group.state.name()),
                group_type: Str::from("classic"),
            }));
        }
        if passes(&request.types_filter, "consumer") {
            let states = wanted(&consumer::State::NAMES);
            let named = self.consumers.iter().map(|(id, group)| (id, group.state().name()));
            listed.extend(named.filter(|(_, state)| states.contains(state)).map(|(id, state)| ListedGroup {
                group_id: id.clone(),
                protocol_type: Str::from("consumer"),
                group_state: Str::from(state),
                group_type: Str::from("consumer"),
            }));
        }
        listed
    }

    /// Deletes one group, for DeleteGroups. The result may be told once the records are durable.
    pub fn delete(&mut self, group_id: &Str) -> (Vec<CoordinatorRecord>, DeletableGroupResult) {
        let mut outcome = Outcome::default();
        let deleted = self.delete_empty(group_id, &mut outcome);
        let error_code = deleted.map_or_else(ErrorCode::from, |()| ErrorCode::NONE);
        (outcome.records, DeletableGroupResult { group_id: group_id.clone(), error_code })
    }

    fn delete_empty(&mut self, group_id: &Str, outcome: &mut Outcome) -> Result<(), Refusal> {
        let consumers = self.consumers.get(group_id);
        let classics = self.groups.get(group_id);
        if consumers.is_none() && classics.is_none() {
            return Err(Refusal::GroupNotFound);
        }
        if consumers.is_some_and(|group| !group.is_empty())
            || classics.is_some_and(|group| group.state != State::Empty)
        {
            return Err(Refusal::NonEmptyGroup);
        }
        let id = Str::copy_from(group_id);
        let offsets = classics.into_iter().flat_map(|group| group.offsets.iter());
        let all: Vec<(Str, PartitionId)> = offsets.map(|(topic, id, _)| (topic.clone(), id)).collect();
        self.forget_offsets(&id, all.into_iter(), outcome);
        self.forget_traces(|group, _, _| *group == id, outcome);
        self.forget_group(id, outcome);
        Ok(())
    }
}

impl Groups {
    /// Forgets a group without members and offsets.
    pub(super) fn forget_group(&mut self, id: Str, outcome: &mut Outcome) {
        if self.consumers.contains_key(&id) {
            // It has no members, whose time would count.
            self.forget_consumers(&id, Millis(0).into(), outcome);
        } else {
            let event = Event::GroupForgotten { group: id };
            outcome.records.push(event.encode());
            self.apply(event);
        }
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
