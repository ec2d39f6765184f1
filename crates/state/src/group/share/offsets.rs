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
    /// members is moved; one that is not there comes into being, so that its first member begins where it is told.
    pub fn share_alter_offsets(
        &mut self,
        group_id: &Str,
        partitions: &Partitions,
        image: &Image,
        _now: Now,
    ) -> ShareDecided<i32> {
        let is_new = !self.share.contains(group_id) && !self.is_of_another_kind(group_id);
        if is_new && partitions.is_empty() {
            return (Vec::new(), Ok(0));
        }
        let mut doing = match self.empty_group(group_id) {
            Err(ShareRefusal::NotFound(_)) if is_new => {
                let mut doing = self.share.doing(group_id);
                doing.happens(ShareEvent::Group(Some((0, 0))));
                doing
            }
            Ok(doing) => doing,
            Err(refusal) => return (Vec::new(), Err(refusal)),
        };
        let is_deleting = |id: &Uuid| doing.group().topics.get(id).is_some_and(|topic| topic.is_deleting);
        if partitions.keys().any(is_deleting) {
            return (doing.records, Err(ShareRefusal::Deleting));
        }
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

    /// Share state of a group without members is to be deleted: the records say so before any of it goes, and until all of it is
    /// gone ([`Self::share_state_deleted`]) no other begins. The answer is what is to be deleted.
    pub fn share_offsets_to_delete(
        &mut self,
        group_id: &Str,
        topics: &BTreeSet<Uuid>,
        image: &Image,
    ) -> ShareDecided<Partitions> {
        match self.empty_group(group_id) {
            Ok(mut doing) => {
                let partitions = doing.begin_to_delete(|id| topics.contains(&id), image);
                (doing.records, Ok(partitions))
            }
            Err(refusal) => (Vec::new(), Err(refusal)),
        }
    }

    /// What somebody has begun to delete, and not finished.
    pub fn share_deleting(&self, group_id: &Str, image: &Image) -> Partitions {
        self.share.groups.get(group_id).map(|group| group.deleting(image)).unwrap_or_default()
    }

    /// The share state of these topics is gone. Members that have come meanwhile want another: the answer is what is to be begun.
    pub fn share_state_deleted(
        &mut self,
        group_id: &Str,
        deleted: &BTreeSet<Uuid>,
        image: &Image,
        now: Now,
    ) -> ShareDecided<Partitions> {
        if !self.share.contains(group_id) {
            return (Vec::new(), Err(ShareRefusal::NotFound(group_id.clone())));
        }
        let mut doing = self.share.doing(group_id);
        let mut topics = doing.group().topics.clone();
        topics.retain(|id, topic| !(topic.is_deleting && deleted.contains(id)));
        if topics != doing.group().topics {
            doing.happens(ShareEvent::Topics(Some(topics)));
        }
        if !doing.group().members.is_empty() {
            doing.look_at(image, false, now);
        }
        let to_initialize = doing.group().initializing();
        (doing.records, Ok(to_initialize))
    }
}

impl Doing<'_> {
    /// Takes note that the share state of topics is about to go. The answer is what is to be deleted, all that was begun before
    /// and not finished included.
    pub(super) fn begin_to_delete(&mut self, is_asked: impl Fn(Uuid) -> bool, image: &Image) -> Partitions {
        let mut topics = self.group().topics.clone();
        let mut partitions = Partitions::new();
        for (id, topic) in topics.iter_mut().filter(|(id, _)| is_asked(**id)) {
            let known = topic.initialized.union(&topic.initializing).copied();
            partitions.insert(*id, known.collect());
            *topic = TopicState { name: topic.name.clone(), is_deleting: true, ..TopicState::default() };
        }
        if topics != self.group().topics {
            self.happens(ShareEvent::Topics(Some(topics)));
        }
        let all = self.group().deleting(image).into_iter().filter(|(id, _)| is_asked(*id));
        for (id, indexes) in all {
            partitions.entry(id).or_default().extend(indexes);
        }
        partitions
    }
}
