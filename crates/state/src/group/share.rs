//! Share groups (KIP-932): members that work on the same partitions together.
//!
//! Nobody has to give up a partition before another gets it, so a member goes to the group's newest assignment with its next
//! heartbeat. A partition is given to members when its share state is there: until then the group holds it as one whose state is
//! to be begun, which the shell does, and says so with [`super::Groups::share_initialized`]. Invariant: what the records say is
//! all there is, but for the sessions, which begin anew when the shard is loaded.

mod assignor;
mod describe;
mod offsets;
mod record;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use wire::{ErrorCode, Millis, Str, Uuid};

use self::record::ShareEvent;
use super::{ClientInfo, CoordinatorRecord, Groups, Now, RecordError};
use crate::metadata::Image;

/// Partitions by topic.
pub type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// What a member says to join.
const JOIN_EPOCH: i32 = 0;
/// What a member says to leave.
const LEAVE_EPOCH: i32 = -1;
/// Topics that one member may subscribe to.
const TOPICS_MAX: usize = 10_000;

/// What holds for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareGroupLimits {
    /// `share.session.timeout.ms`
    pub session_timeout_ms: i32,
    /// `group.share.max.size`
    pub group_size_max: usize,
}

/// A member's heartbeat.
#[derive(Clone, Debug)]
pub struct ShareHeartbeat {
    /// The group.
    pub group: Str,
    /// The member, which has made its id itself.
    pub member: Str,
    /// The epoch that it is in; 0 joins, -1 leaves.
    pub member_epoch: i32,
    /// Where it stands, if it says so.
    pub rack: Option<Str>,
    /// What it reads, where that has changed.
    pub topics: Option<Vec<Str>>,
}

/// What a member is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareHeartbeatAnswer {
    /// The epoch that it is in from now on.
    pub member_epoch: i32,
    /// What it reads from now on, where it has to be told.
    pub assignment: Option<Partitions>,
    /// Partitions whose share state is to be begun.
    pub to_initialize: Partitions,
    /// Partitions whose share state somebody has begun to delete: it has to go before another can begin.
    pub to_delete: Partitions,
}

/// Why a request about a share group is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareRefusal {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// No such group, or not one of this kind.
    #[error("group {0} is not a share group")]
    NotFound(Str),
    /// No such member.
    #[error("member {member} is not a member of group {group}")]
    UnknownMember {
        /// Who asks.
        member: Str,
        /// Of which group.
        group: Str,
    },
    /// The member is in another epoch than it says.
    #[error("the member is in epoch {known}, not {said}: it has to join again")]
    FencedMemberEpoch {
        /// The epoch that it is in.
        known: i32,
        /// The one that it named.
        said: i32,
    },
    /// `group.share.max.size` members are there.
    #[error("the group has {0} members, as many as it may have (group.share.max.size)")]
    Full(usize),
    /// The group has members.
    #[error("the group has members")]
    NotEmpty,
    /// Share state is being deleted.
    #[error("share state of the group is being deleted")]
    Deleting,
}

impl From<&ShareRefusal> for ErrorCode {
    fn from(refusal: &ShareRefusal) -> ErrorCode {
        match refusal {
            ShareRefusal::Invalid(_) => ErrorCode::INVALID_REQUEST,
            ShareRefusal::NotFound(_) => ErrorCode::GROUP_ID_NOT_FOUND,
            ShareRefusal::UnknownMember { .. } => ErrorCode::UNKNOWN_MEMBER_ID,
            ShareRefusal::FencedMemberEpoch { .. } => ErrorCode::FENCED_MEMBER_EPOCH,
            ShareRefusal::Full(_) => ErrorCode::GROUP_MAX_SIZE_REACHED,
            ShareRefusal::NotEmpty => ErrorCode::NON_EMPTY_GROUP,
            ShareRefusal::Deleting => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        }
    }
}

/// Records to append, and what to answer once they are durable.
pub type ShareDecided<Answer> = (Vec<CoordinatorRecord>, Result<Answer, ShareRefusal>);

/// The share groups of a shard.
#[derive(Debug, Default)]
pub(super) struct ShareGroups {
    groups: BTreeMap<Str, ShareGroup>,
    /// When members are taken for gone, in ticks: who, of which group.
    sessions: BTreeSet<(Millis, Str, Str)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ShareGroup {
    epoch: i32,
    /// Stands for the topics that the members read.
    metadata_hash: i64,
    assignment_epoch: i32,
    members: BTreeMap<Str, Member>,
    targets: BTreeMap<Str, Partitions>,
    /// Topics whose share state is there, or about to be.
    topics: BTreeMap<Uuid, TopicState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TopicState {
    name: Str,
    initialized: BTreeSet<i32>,
    initializing: BTreeSet<i32>,
    /// Its share state is about to go, all of it: nothing is initialized then, or about to be.
    is_deleting: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Member {
    about: About,
    epoch: i32,
    previous_epoch: i32,
    assigned: Partitions,
    /// When it is taken for gone. Not stored.
    session: Option<Millis>,
}

/// What a member tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct About {
    rack: Option<Str>,
    client_id: Str,
    client_host: Str,
    topics: BTreeSet<Str>,
}

impl ShareGroup {
    fn state(&self) -> &'static str {
        if self.members.is_empty() { "Empty" } else { "Stable" }
    }

    /// The topics that members read and that are there.
    fn subscribed<'a>(&self, image: &'a Image) -> BTreeMap<Uuid, (&'a Str, i32)> {
        let names: BTreeSet<&Str> =
            self.members.values().flat_map(|member| member.about.topics.iter()).collect();
        let topics = names.into_iter().filter_map(|name| image.topic(name));
        topics
            .map(|topic| {
                let count = i32::try_from(topic.partition_count()).unwrap_or(i32::MAX);
                (topic.id, (&topic.name, count))
            })
            .collect()
    }

    fn hash_of(subscribed: &BTreeMap<Uuid, (&Str, i32)>) -> i64 {
        // FNV-1a: the number only has to be another one when the topics are.
        let bytes =
            subscribed.iter().flat_map(|(id, (_, count))| id.0.into_iter().chain(count.to_be_bytes()));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash as i64
    }

    /// Partitions whose share state is about to be begun.
    fn initializing(&self) -> Partitions {
        let topics = self.topics.iter().filter(|(_, topic)| !topic.initializing.is_empty());
        topics.map(|(id, topic)| (*id, topic.initializing.clone())).collect()
    }

    /// Partitions whose share state is about to go. The records name topics only, so that all partitions are meant.
    fn deleting(&self, image: &Image) -> Partitions {
        let topics = self.topics.iter().filter(|(_, topic)| topic.is_deleting);
        let topics = topics.filter_map(|(id, _)| image.topic_by_id(*id));
        topics
            .map(|topic| {
                let count = i32::try_from(topic.partition_count()).unwrap_or(i32::MAX);
                (topic.id, (0..count).collect())
            })
            .collect()
    }

    fn initialized(&self) -> Partitions {
        let topics = self.topics.iter().filter(|(_, topic)| !topic.initialized.is_empty());
        topics.map(|(id, topic)| (*id, topic.initialized.clone())).collect()
    }
}

/// One group while something is done to it: what happens is applied at once, and recorded.
struct Doing<'a> {
    groups: &'a mut ShareGroups,
    group: Str,
    records: Vec<CoordinatorRecord>,
}

impl Doing<'_> {
    fn happens(&mut self, event: ShareEvent) {
        self.records.push(event.encode(&self.group));
        self.groups.apply(&self.group, event);
    }

    fn group(&self) -> &ShareGroup {
        &self.groups.groups[&self.group]
    }

    fn raise_epoch(&mut self, metadata_hash: i64) {
        let epoch = self.group().epoch.saturating_add(1);
        self.happens(ShareEvent::Group(Some((epoch, metadata_hash))));
    }

    /// Assigns anew what the group can read.
    fn assign(&mut self, image: &Image, now: Now) {
        let group = self.group();
        let subscriptions = group.members.iter().map(|(id, member)| {
            let ids = member.about.topics.iter().filter_map(|name| image.topic(name)).map(|topic| topic.id);
            (id, ids.collect())
        });
        let targets = assignor::assign(&group.initialized(), &subscriptions.collect());
        let (epoch, before) = (group.epoch, group.targets.clone());
        for (member, target) in targets {
            if before.get(&member) != Some(&target) {
                self.happens(ShareEvent::Target(member, Some(target)));
            }
        }
        self.happens(ShareEvent::TargetEpoch(Some((epoch, now.wall))));
    }

    /// Looks at what the topics are by now: what is new there is to be begun, and a change is a new epoch.
    fn look_at(&mut self, image: &Image, has_changed: bool, now: Now) {
        let group = self.group();
        let subscribed = group.subscribed(image);
        let mut topics = group.topics.clone();
        for (id, (name, count)) in &subscribed {
            let topic = topics
                .entry(*id)
                .or_insert_with(|| TopicState { name: Str::copy_from(name), ..TopicState::default() });
            if topic.is_deleting {
                continue;
            }
            let new = (0..*count).filter(|index| !topic.initialized.contains(index));
            let new: BTreeSet<i32> = new.collect();
            topic.initializing.extend(new);
        }
        topics.retain(|id, _| image.topic_by_id(*id).is_some());
        if topics != group.topics {
            self.happens(ShareEvent::Topics(Some(topics)));
        }
        let hash = ShareGroup::hash_of(&subscribed);
        if has_changed || hash != self.group().metadata_hash {
            self.raise_epoch(hash);
        }
        if self.group().assignment_epoch < self.group().epoch {
            self.assign(image, now);
        }
    }

    /// Takes a member to the newest assignment. Says whether that is news to it.
    fn reconcile(&mut self, member_id: &Str) -> bool {
        let group = self.group();
        let member = &group.members[member_id];
        let target = group.targets.get(member_id).cloned().unwrap_or_default();
        if member.epoch == group.assignment_epoch && member.assigned == target {
            return false;
        }
        let is_news = member.assigned != target;
        let event = ShareEvent::Current(
            member_id.clone(),
            Some((group.assignment_epoch, member.epoch.max(JOIN_EPOCH), target)),
        );
        self.happens(event);
        is_news
    }

    fn remove_member(&mut self, member: &Str) {
        self.happens(ShareEvent::Current(member.clone(), None));
        self.happens(ShareEvent::Target(member.clone(), None));
        self.happens(ShareEvent::Member(member.clone(), None));
    }
}

impl ShareGroups {
    fn apply(&mut self, group_id: &Str, event: ShareEvent) {
        if let ShareEvent::Group(None) = event {
            if let Some(group) = self.groups.remove(group_id) {
                for (id, member) in group.members {
                    self.end_session(group_id, &id, member.session);
                }
            }
            return;
        }
        let is_tombstone = event.is_tombstone();
        if is_tombstone && !self.groups.contains_key(group_id) {
            return;
        }
        let group = self.groups.entry(group_id.clone()).or_default();
        match event {
            ShareEvent::Group(stored) => {
                let (epoch, hash) = stored.expect("looked at above");
                (group.epoch, group.metadata_hash) = (epoch, hash);
            }
            ShareEvent::Member(id, Some(about)) => group.members.entry(id).or_default().about = about,
            ShareEvent::Member(id, None) => {
                let gone = group.members.remove(&id);
                if let Some(gone) = gone {
                    self.end_session(group_id, &id, gone.session);
                }
            }
            ShareEvent::TargetEpoch(stored) => {
                group.assignment_epoch = stored.map_or(0, |(epoch, _)| epoch);
            }
            ShareEvent::Target(id, Some(target)) => {
                group.targets.insert(id, target);
            }
            ShareEvent::Target(id, None) => {
                group.targets.remove(&id);
            }
            ShareEvent::Current(id, Some((epoch, previous_epoch, assigned))) => {
                let member = group.members.entry(id).or_default();
                (member.epoch, member.previous_epoch, member.assigned) = (epoch, previous_epoch, assigned);
            }
            // The member goes with a record of its own.
            ShareEvent::Current(_, None) => {}
            ShareEvent::Topics(topics) => group.topics = topics.unwrap_or_default(),
        }
    }

    fn end_session(&mut self, group: &Str, member: &Str, session: Option<Millis>) {
        if let Some(session) = session {
            self.sessions.remove(&(session, group.clone(), member.clone()));
        }
    }

    fn restart_session(&mut self, group_id: &Str, member_id: &Str, deadline: Millis) {
        let group = self.groups.get_mut(group_id);
        let Some(member) = group.and_then(|group| group.members.get_mut(member_id)) else { return };
        let before = member.session.replace(deadline);
        self.end_session(group_id, member_id, before);
        self.sessions.insert((deadline, group_id.clone(), member_id.clone()));
    }

    fn doing(&mut self, group: &Str) -> Doing<'_> {
        Doing { groups: self, group: Str::copy_from(group), records: Vec::new() }
    }

    /// Replays a record, if it is one of these groups.
    pub(super) fn load(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<bool, RecordError> {
        match record::decode(key, value)? {
            Some((group, event)) => {
                self.apply(&group, event);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// All members get a session.
    pub(super) fn loaded(&mut self, session_timeout_ms: i32, now: Now) {
        let members: Vec<(Str, Str)> = self
            .groups
            .iter()
            .flat_map(|(id, group)| group.members.keys().map(|member| (id.clone(), member.clone())))
            .collect();
        for (group, member) in members {
            self.restart_session(&group, &member, now.plus(i64::from(session_timeout_ms)));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.sessions.first().map(|(deadline, ..)| *deadline)
    }

    /// Members that have not been heard of for long are gone. The others hear of it with their next heartbeats.
    pub(super) fn tick(&mut self, now: Now) -> Vec<CoordinatorRecord> {
        let mut records = Vec::new();
        while let Some((deadline, group, member)) = self.sessions.first().cloned() {
            if deadline > now.ticks {
                break;
            }
            records.extend(self.member_gone(&group, &member));
        }
        records
    }

    fn member_gone(&mut self, group: &Str, member: &Str) -> Vec<CoordinatorRecord> {
        let mut doing = self.doing(group);
        doing.remove_member(member);
        let hash = doing.group().metadata_hash;
        doing.raise_epoch(hash);
        doing.records
    }

    pub(super) fn contains(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn states(&self) -> impl Iterator<Item = &'static str> {
        self.groups.values().map(ShareGroup::state)
    }
}

impl Groups {
    /// A member of a share group is there: it joins, stays, changes what it reads, or leaves.
    pub fn share_heartbeat(
        &mut self,
        beat: &ShareHeartbeat,
        client: &ClientInfo,
        limits: ShareGroupLimits,
        image: &Image,
        now: Now,
    ) -> ShareDecided<ShareHeartbeatAnswer> {
        if let Err(refusal) = self.check_heartbeat(beat, limits) {
            return (Vec::new(), Err(refusal));
        }
        if beat.member_epoch == LEAVE_EPOCH {
            let records = self.share.member_gone(&beat.group, &beat.member);
            let answer =
                ShareHeartbeatAnswer { member_epoch: LEAVE_EPOCH, ..ShareHeartbeatAnswer::default() };
            return (records, Ok(answer));
        }
        let mut doing = self.share.doing(&beat.group);
        let before = doing.groups.groups.get(&beat.group).and_then(|group| group.members.get(&beat.member));
        let about_before = before.map(|member| member.about.clone());
        let (about, epoch_before) =
            (about(beat, client, about_before.as_ref()), before.map(|member| member.epoch));
        let has_subscribed = about_before.as_ref().is_none_or(|before| before.topics != about.topics);
        let member = Str::copy_from(&beat.member);
        if about_before.as_ref() != Some(&about) {
            doing.happens(ShareEvent::Member(member.clone(), Some(about)));
        }
        doing.look_at(image, has_subscribed, now);
        let is_news = doing.reconcile(&member);
        let group = doing.group();
        let at = &group.members[&member];
        // Whoever names another epoch than its own has not heard the last answer.
        let must_tell = is_news
            || beat.member_epoch == JOIN_EPOCH
            || beat.topics.is_some()
            || epoch_before.is_some_and(|epoch| epoch != beat.member_epoch);
        let answer = ShareHeartbeatAnswer {
            member_epoch: at.epoch,
            assignment: must_tell.then(|| at.assigned.clone()),
            to_initialize: group.initializing(),
            to_delete: group.deleting(image),
        };
        let records = doing.records;
        self.share.restart_session(&beat.group, &member, now.plus(i64::from(limits.session_timeout_ms)));
        (records, Ok(answer))
    }

    fn check_heartbeat(&self, beat: &ShareHeartbeat, limits: ShareGroupLimits) -> Result<(), ShareRefusal> {
        if beat.group.is_empty() {
            return Err(ShareRefusal::Invalid("a share group has a name: the group id is empty"));
        }
        if beat.member.is_empty() {
            return Err(ShareRefusal::Invalid("a member of a share group has an id: the member id is empty"));
        }
        if beat.member_epoch < LEAVE_EPOCH {
            return Err(ShareRefusal::Invalid(
                "a member's epoch is 0 to join, -1 to leave, or the one it is in",
            ));
        }
        if beat.topics.as_ref().is_some_and(|topics| topics.len() > TOPICS_MAX) {
            return Err(ShareRefusal::Invalid("a member subscribes to 10000 topics at most"));
        }
        let group = self.share.groups.get(&beat.group);
        if group.is_none() && self.is_of_another_kind(&beat.group) {
            return Err(ShareRefusal::NotFound(beat.group.clone()));
        }
        let member = group.and_then(|group| group.members.get(&beat.member));
        if beat.member_epoch == JOIN_EPOCH {
            if beat.topics.as_ref().is_none_or(Vec::is_empty) {
                return Err(ShareRefusal::Invalid("a member that joins names topics to subscribe to"));
            }
            let count = group.map_or(0, |group| group.members.len());
            if member.is_none() && count >= limits.group_size_max {
                return Err(ShareRefusal::Full(count));
            }
            return Ok(());
        }
        if group.is_none() {
            return Err(ShareRefusal::NotFound(beat.group.clone()));
        }
        let Some(member) = member else {
            return Err(ShareRefusal::UnknownMember {
                member: beat.member.clone(),
                group: beat.group.clone(),
            });
        };
        let said = beat.member_epoch;
        if said != LEAVE_EPOCH && said != member.epoch && said != member.previous_epoch {
            return Err(ShareRefusal::FencedMemberEpoch { known: member.epoch, said });
        }
        Ok(())
    }

    /// Whether the name belongs to a group of another kind.
    fn is_of_another_kind(&self, group: &str) -> bool {
        self.groups.contains_key(group) || self.consumers.contains_key(group)
    }

    /// The share state of partitions is there: members may have them. The answer is what this member has by now.
    pub fn share_initialized(
        &mut self,
        group: &Str,
        member: Option<&Str>,
        partitions: &Partitions,
        image: &Image,
        now: Now,
    ) -> ShareDecided<Option<ShareHeartbeatAnswer>> {
        if !self.share.contains(group) {
            return (Vec::new(), Err(ShareRefusal::NotFound(group.clone())));
        }
        let mut doing = self.share.doing(group);
        let mut topics = doing.group().topics.clone();
        for (id, indexes) in partitions {
            let Some(topic) = topics.get_mut(id) else { continue };
            for index in indexes {
                // What was deleted meanwhile stays so.
                if topic.initializing.remove(index) {
                    topic.initialized.insert(*index);
                }
            }
        }
        if topics != doing.group().topics {
            doing.happens(ShareEvent::Topics(Some(topics)));
            let hash = doing.group().metadata_hash;
            doing.raise_epoch(hash);
            doing.assign(image, now);
        }
        let member = member.filter(|member| doing.group().members.contains_key(*member));
        let answer = member.map(|member| {
            doing.reconcile(member);
            let at = &doing.group().members[member];
            ShareHeartbeatAnswer {
                member_epoch: at.epoch,
                assignment: Some(at.assigned.clone()),
                ..ShareHeartbeatAnswer::default()
            }
        });
        (doing.records, Ok(answer))
    }
}

fn about(beat: &ShareHeartbeat, client: &ClientInfo, before: Option<&About>) -> About {
    let copy = Str::copy_from;
    let topics = beat.topics.as_ref().map(|topics| topics.iter().map(|topic| copy(topic)).collect());
    let rack = beat.rack.as_deref().map(copy);
    About {
        rack: rack.or_else(|| before.and_then(|before| before.rack.clone())),
        client_id: copy(&client.client_id),
        client_host: copy(&client.client_host),
        topics: topics.or_else(|| before.map(|before| before.topics.clone())).unwrap_or_default(),
    }
}
