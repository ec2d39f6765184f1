//! Where share groups are in their partitions, as administrators see and change it. The offsets themselves are the share
//! coordinator's; here is what the group has there.

use std::collections::BTreeSet;

use wire::{Str, Uuid};

use super::record::ShareEvent;
use super::{Doing, Partitions, ShareDecided, ShareRefusal, TopicState};
use crate::group::{Groups, Now};
use crate::metadata::Image;

impl Groups {
    /// Partitions whose share state a group has.
    pub fn share_partitions(&self, group_id: &Str) -> Result<Partitions, ShareRefusal> {
        let group = self.share.groups.get(group_id);
        group.map(super::ShareGroup::initialized).ok_or_else(|| ShareRefusal::NotFound(group_id.clone()))
    }

    fn empty_group(&mut self, group_id: &Str) -> Result<Doing<'_>, ShareRefusal> {
        match self.share.groups.get(group_id) {
            None => Err(ShareRefusal::NotFound(group_id.clone())),
            Some(group) if !group.members.is_empty() => Err(ShareRefusal::NotEmpty),
            Some(_) => Ok(self.share.doing(group_id)),
        }
    }

    /// The share state of partitions begins anew: the answer is the epoch of the state that is to be begun. Only a group without
    /// members is moved.
    pub fn share_alter_offsets(
        &mut self,
        group_id: &Str,
        partitions: &Partitions,
        image: &Image,
        _now: Now,
    ) -> ShareDecided<i32> {
        let mut doing = match self.empty_group(group_id) {
            Ok(doing) => doing,
            Err(refusal) => return (Vec::new(), Err(refusal)),
        };
        let mut topics = doing.group().topics.clone();
        for (id, indexes) in partitions {
            let Some(known) = image.topic_by_id(*id) else { continue };
            let topic = topics
                .entry(*id)
                .or_insert_with(|| TopicState { name: Str::copy_from(&known.name), ..TopicState::default() });
            // What a member makes of them meanwhile begins with the same state.
            topic
                .initializing
                .extend(indexes.difference(&topic.initialized).copied().collect::<BTreeSet<_>>());
        }
        if topics != doing.group().topics {
            doing.happens(ShareEvent::Topics(Some(topics)));
        }
        let hash = doing.group().metadata_hash;
        doing.raise_epoch(hash);
        let epoch = doing.group().epoch;
        (doing.records, Ok(epoch))
    }

    /// Topics whose share state a group without members is about to lose.
    pub fn share_offsets_to_delete(
        &mut self,
        group_id: &Str,
        topics: &BTreeSet<Uuid>,
    ) -> Result<Partitions, ShareRefusal> {
        let doing = self.empty_group(group_id)?;
        let known = doing.group().topics.iter().filter(|(id, _)| topics.contains(id));
        Ok(known
            .map(|(id, topic)| (*id, topic.initialized.union(&topic.initializing).copied().collect()))
            .collect())
    }

    /// The share state of these topics is gone.
    pub fn share_offsets_deleted(&mut self, group_id: &Str, deleted: &BTreeSet<Uuid>) -> ShareDecided<()> {
        let mut doing = match self.empty_group(group_id) {
            Ok(doing) => doing,
            Err(refusal) => return (Vec::new(), Err(refusal)),
        };
        let mut topics = doing.group().topics.clone();
        topics.retain(|id, _| !deleted.contains(id));
        if topics != doing.group().topics {
            doing.happens(ShareEvent::Topics(Some(topics)));
        }
        (doing.records, Ok(()))
    }
}
