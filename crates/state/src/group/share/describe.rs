//! What administrators see of share groups, and deleting them.

use wire::messages::list_groups::{ListGroupsRequest, ListedGroup};
use wire::messages::share_group_describe::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use wire::{ErrorCode, Str};

use super::record::ShareEvent;
use super::{Partitions, ShareDecided, ShareRefusal};
use crate::group::Groups;
use crate::metadata::Image;

/// The only assignor there is.
const ASSIGNOR: &str = "simple";
const KIND: &str = "share";

impl Groups {
    /// Describes one share group.
    pub fn share_describe(&self, group_id: &Str, image: &Image) -> DescribedGroup {
        let Some(group) = self.share.groups.get(group_id) else {
            return DescribedGroup {
                error_code: ErrorCode::GROUP_ID_NOT_FOUND,
                error_message: Some(Str::from(format!("Group {group_id} not found."))),
                group_id: group_id.clone(),
                group_state: Str::from("Dead"),
                ..Default::default()
            };
        };
        let members = group.members.iter().map(|(id, member)| {
            let topics = member.assigned.iter().filter_map(|(topic_id, indexes)| {
                Some(TopicPartitions {
                    topic_id: *topic_id,
                    topic_name: image.topic_by_id(*topic_id)?.name.clone(),
                    partitions: indexes.iter().copied().collect(),
                })
            });
            DescribedMember {
                member_id: id.clone(),
                rack_id: member.about.rack.clone(),
                member_epoch: member.epoch,
                client_id: member.about.client_id.clone(),
                client_host: member.about.client_host.clone(),
                subscribed_topic_names: member.about.topics.iter().cloned().collect(),
                assignment: Assignment { topic_partitions: topics.collect() },
            }
        });
        DescribedGroup {
            group_id: group_id.clone(),
            group_state: Str::from(group.state()),
            group_epoch: group.epoch,
            assignment_epoch: group.assignment_epoch,
            assignor_name: Str::from(ASSIGNOR),
            members: members.collect(),
            ..Default::default()
        }
    }

    /// Lists the share groups that pass the filters of ListGroups. Filters are compared without regard to case.
    pub fn share_list(&self, request: &ListGroupsRequest) -> Vec<ListedGroup> {
        let passes = |filter: &[Str], word: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(word))
        };
        if !passes(&request.types_filter, KIND) {
            return Vec::new();
        }
        let groups =
            self.share.groups.iter().filter(|(_, group)| passes(&request.states_filter, group.state()));
        let listed = groups.map(|(id, group)| ListedGroup {
            group_id: id.clone(),
            protocol_type: Str::from(KIND),
            group_state: Str::from(group.state()),
            group_type: Str::from(KIND),
        });
        listed.collect()
    }

    /// A share group without members is to be deleted: its share state before it, which the records say first. The answer is what
    /// is to be deleted; `None` where it is no share group.
    pub fn share_to_delete(&mut self, group_id: &Str, image: &Image) -> Option<ShareDecided<Partitions>> {
        if !self.share.groups.get(group_id)?.members.is_empty() {
            return Some((Vec::new(), Err(ShareRefusal::NotEmpty)));
        }
        let mut doing = self.share.doing(group_id);
        let partitions = doing.begin_to_delete(|_| true, image);
        Some((doing.records, Ok(partitions)))
    }

    /// Deletes a share group without members, once its share state is.
    pub fn share_delete(&mut self, group_id: &Str) -> ShareDecided<()> {
        match self.share.groups.get(group_id) {
            None => return (Vec::new(), Err(ShareRefusal::NotFound(group_id.clone()))),
            Some(group) if !group.members.is_empty() => return (Vec::new(), Err(ShareRefusal::NotEmpty)),
            // Somebody has read meanwhile: there is share state again.
            Some(group) if group.topics.values().any(|topic| !topic.is_deleting) => {
                return (Vec::new(), Err(ShareRefusal::NotEmpty));
            }
            Some(_) => {}
        }
        let mut doing = self.share.doing(group_id);
        doing.happens(ShareEvent::Topics(None));
        doing.happens(ShareEvent::TargetEpoch(None));
        doing.happens(ShareEvent::Group(None));
        (doing.records, Ok(()))
    }

    /// Whether there is such a share group.
    pub fn is_share_group(&self, group_id: &str) -> bool {
        self.share.contains(group_id)
    }
}
