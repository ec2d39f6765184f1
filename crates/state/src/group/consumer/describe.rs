//! What administrators see of groups of the consumer protocol.

use std::collections::BTreeSet;

use wire::Str;
use wire::messages::consumer_group_describe::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};

use super::reconcile::by_topic;
use super::{ConsumerGroup, Member, TopicIdPartition};
use crate::group::{ConsumerConfig, Groups, Refusal};
use crate::metadata::Image;

impl Groups {
    /// Describes one group, for ConsumerGroupDescribe.
    pub fn describe_consumer(&self, group_id: &Str, image: &Image) -> DescribedGroup {
        match self.consumers.get(group_id) {
            Some(group) => group.described(&self.config.consumer, image),
            None => DescribedGroup {
                error_code: Refusal::GroupNotFound.into(),
                error_message: Some(Str::from(match self.groups.contains_key(group_id) {
                    true => format!("Group {group_id} is not a consumer group."),
                    false => format!("Group {group_id} not found."),
                })),
                group_id: group_id.clone(),
                ..Default::default()
            },
        }
    }
}

impl ConsumerGroup {
    fn described(&self, config: &ConsumerConfig, image: &Image) -> DescribedGroup {
        let nothing = BTreeSet::new();
        let members = self.members.values().map(|member: &Member| DescribedMember {
            member_id: member.id.clone(),
            instance_id: member.about.instance_id.clone(),
            rack_id: member.about.rack_id.clone(),
            member_epoch: member.epoch,
            client_id: member.about.client_id.clone(),
            client_host: member.about.client_host.clone(),
            subscribed_topic_names: member.about.topics.iter().cloned().collect(),
            subscribed_topic_regex: member.about.regex.clone(),
            assignment: assignment(member.assigned.keys(), image),
            target_assignment: assignment(self.targets.get(&member.id).unwrap_or(&nothing), image),
            member_type: i8::from(!member.is_classic()),
        });
        DescribedGroup {
            group_id: self.id.clone(),
            group_state: Str::from(self.state().name()),
            group_epoch: self.epoch,
            assignment_epoch: self.target_epoch,
            assignor_name: Str::from(self.assignor(config).name()),
            members: members.collect(),
            ..Default::default()
        }
    }
}

/// Topics that are gone have no name to show.
fn assignment<'a>(partitions: impl IntoIterator<Item = &'a TopicIdPartition>, image: &Image) -> Assignment {
    let topics = by_topic(partitions.into_iter().map(|partition| (*partition, ()))).into_iter();
    let topics = topics.filter_map(|(topic_id, partitions)| {
        let topic_name = image.topic_by_id(topic_id)?.name.clone();
        let partitions = partitions.into_iter().map(|(id, ())| id).collect();
        Some(TopicPartitions { topic_id, topic_name, partitions })
    });
    Assignment { topic_partitions: topics.collect() }
}
