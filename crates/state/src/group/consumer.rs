//! Groups of the consumer protocol (KIP-848): the coordinator assigns the partitions, and each member follows at its own pace.
//!
//! Three numbers tell where a group stands. Its *epoch* rises whenever its members, what they subscribe to or those topics
//! change; the *target assignment* is computed for one epoch; and each *member* goes from the epoch it is in to the target's,
//! giving up first what it has to. Invariant: a partition is in the hands of one member at most, so it is given to nobody
//! before the member that has it said that it let go, or was fenced.
//!
//! Members of the classic protocol can be in such a group too, while an application goes from one protocol to the other: they
//! join, ask for what they got and send heartbeats as ever, and are told to rejoin where others would be told what to do.

mod assignor;
mod classic;
mod describe;
mod heartbeat;
mod migrate;
mod offsets;
mod reconcile;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod story_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use regex::bytes::{Regex, RegexBuilder};
use wire::messages::consumer_group_current_member_assignment_value::ConsumerGroupCurrentMemberAssignmentValue;
use wire::messages::consumer_group_member_metadata_value::ConsumerGroupMemberMetadataValue;
use wire::{Millis, PartitionId, Str, Uuid};

pub use self::assignor::Assignor;
use self::assignor::{Subscriber, TopicShape};
pub use self::heartbeat::ConsumerView;
pub(super) use self::offsets::CommitBy;
pub(super) use self::reconcile::by_topic;
use super::member::Protocol;
use super::records::Event;
use super::timers::{Alarm, Timers};
use super::{ConsumerConfig, GroupConfig, Refusal, Step};
use crate::metadata::Image;

/// A partition as groups of this kind speak of it: a topic that is created anew is another one.
pub(super) type TopicIdPartition = (Uuid, PartitionId);

/// Partitions, each with the epoch in which its member got it.
type Owned = BTreeMap<TopicIdPartition, i32>;

/// What a member says to join, and what it is stored with while it is not reconciled to any target.
const JOIN_EPOCH: i32 = 0;
/// What a member says to leave.
const LEAVE_EPOCH: i32 = -1;
/// What a static member says that will come back.
const LEAVE_FOR_A_WHILE_EPOCH: i32 = -2;

/// A group, as its records say, and what can be had again from its members and the cluster's metadata.
#[derive(Debug)]
pub(super) struct ConsumerGroup {
    id: Str,
    epoch: i32,
    /// Stands for the topics that the members subscribe to: when it is another one, so is the group's epoch.
    metadata_hash: i64,
    /// The epoch that the target assignment was computed for.
    target_epoch: i32,
    targets: BTreeMap<Str, BTreeSet<TopicIdPartition>>,
    members: BTreeMap<Str, Member>,
    /// Instance id to member id.
    statics: BTreeMap<Str, Str>,
    /// Who has which partition, what it has to give up included.
    owners: BTreeMap<TopicIdPartition, Str>,
    /// The topics that match each expression of a member, as of the metadata that was looked at last.
    matched: BTreeMap<Str, BTreeSet<Str>>,
    /// The metadata that the hash and the matches were made of.
    seen: Weak<Image>,
    /// When the last member went, as far as is known.
    emptied_at: Option<Millis>,
    /// The group's own session timeout, as of the last heartbeat.
    session_timeout_ms: Option<i32>,
}

/// A member of such a group.
#[derive(Clone, Debug)]
struct Member {
    id: Str,
    /// What it told about itself.
    about: About,
    /// The epoch it is in; [`LEAVE_FOR_A_WHILE_EPOCH`] for a static member that is to come back.
    epoch: i32,
    /// The one before: its last answer may have been lost.
    previous_epoch: i32,
    state: MemberState,
    assigned: Owned,
    /// What it has to give up before it goes to the next epoch.
    revoking: Owned,
}

/// What a member tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct About {
    instance_id: Option<Str>,
    rack_id: Option<Str>,
    client_id: Str,
    client_host: Str,
    topics: BTreeSet<Str>,
    regex: Option<Str>,
    rebalance_timeout_ms: i32,
    assignor: Option<Str>,
    /// Set for a member of the classic protocol.
    classic: Option<Classic>,
}

/// What only members of the classic protocol have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Classic {
    session_timeout_ms: i32,
    protocols: Vec<Protocol>,
}

/// Where a member stands on its way to the target; the numbers are those of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberState {
    /// It has what the epoch that it is in gives it.
    Stable = 0,
    /// It has to give up partitions first.
    UnrevokedPartitions = 1,
    /// Others have not let go yet of what it is to get.
    UnreleasedPartitions = 2,
}

impl MemberState {
    fn of_record(number: i8) -> MemberState {
        match number {
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Stable,
        }
    }
}

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No members; offsets may be there.
    Empty,
    /// The target assignment is not of the group's epoch.
    Assigning,
    /// Members are on their way to it.
    Reconciling,
    /// Everybody has what it is to have.
    Stable,
}

impl State {
    /// Kafka's names of the states.
    pub(super) const NAMES: [&'static str; 4] = ["Empty", "Assigning", "Reconciling", "Stable"];

    pub(super) fn name(self) -> &'static str {
        let [empty, assigning, reconciling, stable] = Self::NAMES;
        match self {
            State::Empty => empty,
            State::Assigning => assigning,
            State::Reconciling => reconciling,
            State::Stable => stable,
        }
    }
}

/// What one record says about a group of this kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ConsumerEvent {
    Stored { epoch: i32, metadata_hash: i64 },
    Forgotten,
    MemberStored { member: Str, value: ConsumerGroupMemberMetadataValue },
    MemberForgotten { member: Str },
    TargetEpochStored { epoch: i32 },
    TargetEpochForgotten,
    TargetStored { member: Str, partitions: BTreeSet<TopicIdPartition> },
    TargetForgotten { member: Str },
    CurrentStored { member: Str, value: ConsumerGroupCurrentMemberAssignmentValue },
    CurrentForgotten { member: Str },
}

impl ConsumerEvent {
    /// Whether it says that something is gone, so that no group has to be made for it.
    pub(super) fn is_tombstone(&self) -> bool {
        match self {
            ConsumerEvent::Forgotten
            | ConsumerEvent::MemberForgotten { .. }
            | ConsumerEvent::TargetEpochForgotten
            | ConsumerEvent::TargetForgotten { .. }
            | ConsumerEvent::CurrentForgotten { .. } => true,
            ConsumerEvent::Stored { .. }
            | ConsumerEvent::MemberStored { .. }
            | ConsumerEvent::TargetEpochStored { .. }
            | ConsumerEvent::TargetStored { .. }
            | ConsumerEvent::CurrentStored { .. } => false,
        }
    }
}

impl Member {
    fn new(id: Str) -> Self {
        Member {
            id,
            about: About::default(),
            epoch: JOIN_EPOCH,
            previous_epoch: JOIN_EPOCH,
            state: MemberState::Stable,
            assigned: Owned::new(),
            revoking: Owned::new(),
        }
    }

    fn owned(&self) -> impl Iterator<Item = &TopicIdPartition> {
        self.assigned.keys().chain(self.revoking.keys())
    }

    fn is_classic(&self) -> bool {
        self.about.classic.is_some()
    }

    fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == target_epoch
    }
}

impl ConsumerGroup {
    pub(super) fn new(id: Str) -> Self {
        ConsumerGroup {
            id,
            epoch: 0,
            metadata_hash: 0,
            target_epoch: 0,
            targets: BTreeMap::new(),
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            owners: BTreeMap::new(),
            matched: BTreeMap::new(),
            seen: Weak::new(),
            emptied_at: None,
            session_timeout_ms: None,
        }
    }

    pub(super) fn state(&self) -> State {
        if self.members.is_empty() {
            State::Empty
        } else if self.epoch > self.target_epoch {
            State::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.target_epoch)) {
            State::Stable
        } else {
            State::Reconciling
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many members there are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Takes over what a record says: the one way in which what is durable changes, live and in replay.
    pub(super) fn apply(&mut self, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Stored { epoch, metadata_hash } => {
                (self.epoch, self.metadata_hash) = (epoch, metadata_hash);
            }
            ConsumerEvent::MemberStored { member, value } => self.apply_member(member, value),
            ConsumerEvent::MemberForgotten { member } => {
                self.release(&member);
                if let Some(gone) = self.members.remove(&member)
                    && let Some(instance_id) = &gone.about.instance_id
                    && self.statics.get(instance_id) == Some(&member)
                {
                    self.statics.remove(instance_id);
                }
            }
            ConsumerEvent::TargetEpochStored { epoch } => self.target_epoch = epoch,
            ConsumerEvent::TargetEpochForgotten => self.target_epoch = 0,
            ConsumerEvent::TargetStored { member, partitions } => {
                self.targets.insert(member, partitions);
            }
            ConsumerEvent::TargetForgotten { member } => {
                self.targets.remove(&member);
            }
            ConsumerEvent::CurrentStored { member, value } => self.apply_current(member, &value),
            ConsumerEvent::CurrentForgotten { member } => {
                self.release(&member);
                if let Some(member) = self.members.get_mut(&member) {
                    member.epoch = JOIN_EPOCH;
                    member.previous_epoch = JOIN_EPOCH;
                    member.state = MemberState::Stable;
                    member.assigned.clear();
                    member.revoking.clear();
                }
            }
            // The group goes as a whole: see the one who keeps it.
            ConsumerEvent::Forgotten => {}
        }
    }

    fn apply_member(&mut self, member: Str, value: ConsumerGroupMemberMetadataValue) {
        let about = About::of_record(&value);
        let before = self.members.get(&member).and_then(|known| known.about.instance_id.clone());
        if let Some(before) = before.filter(|before| about.instance_id.as_ref() != Some(before))
            && self.statics.get(&before) == Some(&member)
        {
            self.statics.remove(&before);
        }
        if let Some(instance_id) = &about.instance_id {
            self.statics.insert(instance_id.clone(), member.clone());
        }
        self.members.entry(member.clone()).or_insert_with(|| Member::new(member)).about = about;
    }

    fn apply_current(&mut self, id: Str, value: &ConsumerGroupCurrentMemberAssignmentValue) {
        self.release(&id);
        let member = self.members.entry(id.clone()).or_insert_with(|| Member::new(id.clone()));
        member.epoch = value.member_epoch;
        member.previous_epoch = value.previous_member_epoch;
        member.state = MemberState::of_record(value.state);
        member.assigned = reconcile::owned(&value.assigned_partitions, value.member_epoch);
        member.revoking = reconcile::owned(&value.partitions_pending_revocation, value.member_epoch);
        for partition in member.assigned.keys().chain(member.revoking.keys()) {
            self.owners.insert(*partition, id.clone());
        }
    }

    /// What a member has is nobody's.
    fn release(&mut self, id: &Str) {
        let Some(member) = self.members.get(id) else { return };
        for partition in member.owned() {
            // While a log is replayed that was compacted, another may have it already.
            if self.owners.get(partition) == Some(id) {
                self.owners.remove(partition);
            }
        }
    }

    /// Appends a record about this group, and applies it.
    fn store(&mut self, step: &mut Step<'_>, event: ConsumerEvent) {
        step.outcome.records.push(Event::Consumer { group: self.id.clone(), event: event.clone() }.encode());
        self.apply(event);
    }

    fn store_epoch(&mut self, epoch: i32, metadata_hash: i64, step: &mut Step<'_>) {
        self.store(step, ConsumerEvent::Stored { epoch, metadata_hash });
    }

    /// Sends a member away, by its own wish or because it was not heard of; what it had is free.
    fn fence(&mut self, id: &Str, step: &mut Step<'_>) {
        self.members_leave(&BTreeSet::from([id.clone()]), step);
    }

    /// Members go. The group's epoch rises first: a log that is cut behind that has only assigned once more than it had to. When
    /// only members of the classic protocol are left the group is about to be theirs, and its epoch their generation.
    fn members_leave(&mut self, leaving: &BTreeSet<Str>, step: &mut Step<'_>) {
        if !self.becomes_classic(leaving, step.config) {
            self.store_epoch(self.epoch.saturating_add(1), self.metadata_hash, step);
        }
        for id in leaving {
            self.forget_member(id, step);
        }
        if self.members.is_empty() {
            self.emptied_at = Some(step.now.wall);
        }
    }

    /// Whether the group is to be a classic one without these members.
    fn becomes_classic(&self, leaving: &BTreeSet<Str>, config: &GroupConfig) -> bool {
        let mut others = self.members.values().filter(|member| !leaving.contains(&member.id)).peekable();
        let count = self.members.len() - leaving.len();
        let is_allowed = config.consumer.downgrade && count <= config.group_size_max;
        is_allowed && others.peek().is_some() && others.all(Member::is_classic)
    }

    fn forget_member(&mut self, id: &Str, step: &mut Step<'_>) {
        self.cancel_alarms(id, step.timers);
        self.store(step, ConsumerEvent::CurrentForgotten { member: id.clone() });
        self.store(step, ConsumerEvent::TargetForgotten { member: id.clone() });
        self.store(step, ConsumerEvent::MemberForgotten { member: id.clone() });
    }

    /// Forgets everything about the group but that it is there.
    pub(super) fn clear(&mut self, step: &mut Step<'_>) {
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.forget_member(&id, step);
        }
        self.store(step, ConsumerEvent::TargetEpochForgotten);
    }

    /// A member was not heard of, or did not do what it was told, in time.
    pub(super) fn alarm(&mut self, member: &Str, step: &mut Step<'_>) {
        if self.members.contains_key(member) {
            self.fence(member, step);
        }
    }

    /// After the replay: everybody has its time again.
    pub(super) fn restart_alarms(&mut self, step: &mut Step<'_>) {
        // A compacted log may have been left with a member's state and without the member.
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in &ids {
            self.restart_session(id, step);
            let member = &self.members[id];
            if member.state == MemberState::UnrevokedPartitions && !member.is_classic() {
                self.expect_progress(id, step);
            }
        }
        if ids.is_empty() {
            self.emptied_at = Some(step.now.wall);
        }
    }

    fn restart_session(&self, id: &Str, step: &mut Step<'_>) {
        let Some(member) = self.members.get(id) else { return };
        let timeout_ms = match &member.about.classic {
            Some(classic) => classic.session_timeout_ms,
            None => self.session_timeout_ms.unwrap_or(step.config.consumer.session_timeout_ms),
        };
        let deadline = step.now.plus(i64::from(timeout_ms));
        step.timers.set(Alarm::Session { group: self.id.clone(), member: id.clone() }, deadline);
    }

    /// The member has its rebalance timeout from now on to do what it is told: to give up partitions, or to rejoin.
    fn expect_progress(&self, id: &Str, step: &mut Step<'_>) {
        let Some(member) = self.members.get(id) else { return };
        let deadline = step.now.plus(i64::from(member.about.rebalance_timeout_ms));
        step.timers.set(self.progress_alarm(id), deadline);
    }

    fn progress_alarm(&self, id: &Str) -> Alarm {
        Alarm::Progress { group: self.id.clone(), member: id.clone() }
    }

    fn cancel_alarms(&self, id: &Str, timers: &mut Timers) {
        timers.cancel(&Alarm::Session { group: self.id.clone(), member: id.clone() });
        timers.cancel(&self.progress_alarm(id));
    }

    /// The topics that a member reads: those it names, and those that match its expression.
    fn topics_of<'a>(&'a self, about: &'a About) -> impl Iterator<Item = &'a Str> {
        let matched = about.regex.as_ref().and_then(|regex| self.matched.get(regex));
        about.topics.iter().chain(matched.into_iter().flatten())
    }

    /// Whether a live member reads this topic, as far as is known.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.members.values().any(|member| match &member.about.regex {
            // Nobody looked yet which topics match.
            Some(regex) if !self.matched.contains_key(regex) => true,
            _ => self.topics_of(&member.about).any(|name| **name == *topic),
        })
    }

    /// From when on what was committed ages; `None` while the group has members, whose topics do not.
    pub(super) fn emptied_at(&self) -> Option<Millis> {
        if self.members.is_empty() { self.emptied_at } else { None }
    }

    fn has_room_for(&self, id: &str, step: &Step<'_>) -> bool {
        self.members.contains_key(id) || self.members.len() < step.config.consumer.group_size_max
    }

    /// The assignor that most members want, or else the coordinator's first.
    fn assignor(&self, config: &ConsumerConfig) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        let named = self.members.values().filter_map(|member| member.about.assignor.as_deref());
        for assignor in named.filter_map(Assignor::named) {
            *votes.entry(assignor).or_default() += 1;
        }
        let most = votes.values().copied().max();
        let wanted = votes.into_iter().find(|(_, count)| Some(*count) == most);
        let first = config.assignors.first().copied().unwrap_or(Assignor::Uniform);
        wanted.map_or(first, |(assignor, _)| assignor)
    }

    /// Looks at what changed for the group: `resubscribed` when a member reads other topics than before. Then its epoch rises,
    /// once for all that was not assigned yet.
    fn catch_up(&mut self, resubscribed: bool, image: &Arc<Image>, step: &mut Step<'_>) {
        let is_new_image = self.seen.as_ptr() != Arc::as_ptr(image);
        if !resubscribed && !is_new_image {
            return;
        }
        self.match_topics(is_new_image, image);
        self.seen = Arc::downgrade(image);
        let hash = self.hash_topics(image);
        if resubscribed {
            self.store_epoch(self.epoch.saturating_add(1), hash, step);
        } else if hash != self.metadata_hash {
            let is_assigned = self.epoch == self.target_epoch;
            self.store_epoch(self.epoch.saturating_add(i32::from(is_assigned)), hash, step);
        }
    }

    /// Finds the topics of the members' expressions: all anew for another image, or those that nobody had. The brokers' own topics
    /// are among them, as with Kafka: what matches too much is for the expression to say.
    fn match_topics(&mut self, anew: bool, image: &Image) {
        let wanted: BTreeSet<&Str> =
            self.members.values().filter_map(|member| member.about.regex.as_ref()).collect();
        let mut matched = BTreeMap::new();
        for expression in wanted {
            let known = if anew { None } else { self.matched.remove(expression) };
            let topics = known.unwrap_or_else(|| {
                // It was compiled when it came; one from a log of another version reads nothing.
                let Ok(regex) = compile(expression) else { return BTreeSet::new() };
                let names = image.topics().map(|topic| &topic.name);
                names.filter(|name| regex.is_match(name.as_bytes())).cloned().collect()
            });
            matched.insert(expression.clone(), topics);
        }
        self.matched = matched;
    }

    fn subscribed_topics(&self) -> BTreeSet<&Str> {
        self.members.values().flat_map(|member| self.topics_of(&member.about)).collect()
    }

    /// A number that is another one when a topic that the members read comes, goes, is made anew or grows, or, where members
    /// tell their racks, when its replicas are in other racks.
    fn hash_topics(&self, image: &Image) -> i64 {
        let by_rack = self.members.values().any(|member| member.about.rack_id.is_some());
        let mut hash = Fnv::new();
        for name in self.subscribed_topics() {
            let Some(topic) = image.topic(name) else { continue };
            hash.write(name.as_bytes());
            hash.write(&topic.id.0);
            hash.write(&topic.partition_count().to_be_bytes());
            if by_rack {
                for racks in TopicShape::of(topic, image, true).racks {
                    for rack in racks {
                        hash.write(rack.as_bytes());
                        hash.write(&[0]);
                    }
                    hash.write(&[1]);
                }
            }
        }
        hash.finish()
    }

    /// Computes the target assignment of the group's epoch, if it is not there yet.
    fn retarget(&mut self, image: &Image, step: &mut Step<'_>) {
        if self.epoch <= self.target_epoch {
            return;
        }
        let by_rack = self.members.values().any(|member| member.about.rack_id.is_some());
        let mut topics = BTreeMap::new();
        for name in self.subscribed_topics() {
            if let Some(topic) = image.topic(name) {
                topics.insert(topic.id, TopicShape::of(topic, image, by_rack));
            }
        }
        let nothing = BTreeSet::new();
        let subscribers: Vec<Subscriber<'_>> = self
            .members
            .values()
            .map(|member| Subscriber {
                id: &member.id,
                instance_id: member.about.instance_id.as_ref(),
                rack_id: member.about.rack_id.as_ref(),
                topics: self
                    .topics_of(&member.about)
                    .filter_map(|name| image.topic(name).map(|topic| topic.id))
                    .collect(),
                before: self.targets.get(&member.id).unwrap_or(&nothing),
            })
            .collect();
        let assigned = self.assignor(&step.config.consumer).assign(&subscribers, &topics);
        let ids: Vec<Str> = subscribers.iter().map(|subscriber| subscriber.id.clone()).collect();
        for (member, partitions) in ids.into_iter().zip(assigned) {
            if self.targets.get(&member) != Some(&partitions) {
                self.store(step, ConsumerEvent::TargetStored { member, partitions });
            }
        }
        self.store(step, ConsumerEvent::TargetEpochStored { epoch: self.epoch });
    }

    /// What its records say.
    #[cfg(test)]
    pub(super) fn durable(&self) -> String {
        let epochs = (self.epoch, self.metadata_hash, self.target_epoch);
        format!("{} {epochs:?} {:?} {:?} {:?}", self.id, self.targets, self.members, self.statics)
    }

    /// Whether nothing is known of any member.
    #[cfg(test)]
    pub(super) fn keeps_nothing(&self) -> bool {
        self.members.is_empty()
            && self.targets.is_empty()
            && self.owners.is_empty()
            && self.statics.is_empty()
    }

    #[cfg(test)]
    pub(super) fn has_member(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    /// What the type promises.
    #[cfg(test)]
    pub(super) fn assert_sound(&self) {
        let mut owners = BTreeMap::new();
        for (id, member) in &self.members {
            assert_eq!(id, &member.id);
            assert!(member.epoch <= self.epoch, "no member is ahead of its group");
            for partition in member.owned() {
                let other = owners.insert(*partition, id.clone());
                assert_eq!(other, None, "a partition is in one member's hands");
            }
        }
        assert_eq!(self.owners, owners);
        for (instance_id, id) in &self.statics {
            assert_eq!(self.members[id].about.instance_id.as_ref(), Some(instance_id));
        }
        assert!(self.target_epoch <= self.epoch);
        let mut targets = BTreeSet::new();
        for (id, partitions) in &self.targets {
            assert!(self.members.contains_key(id), "targets are of members");
            for partition in partitions {
                assert!(targets.insert(*partition), "a partition is meant for one member");
            }
        }
    }
}

/// Compiles an expression that has to match the whole of a topic's name. The engine takes time in proportion to what it reads,
/// and no more memory than its limit, whatever the expression.
///
/// Names are ASCII, and so are the classes: `\w` is not every letter there is.
fn compile(expression: &str) -> Result<Regex, Refusal> {
    let build = |text: &str| {
        let mut builder = RegexBuilder::new(text);
        builder.unicode(false).size_limit(REGEX_BYTES_MAX).build().map_err(|_| Refusal::InvalidRegex)
    };
    // By itself first: what only closes the parenthesis around it is none.
    build(expression)?;
    build(&format!("^(?:{expression})$"))
}

/// How large an expression may be when it is compiled.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// FNV-1a in 64 bits: the same number in every version and on every machine, since it is stored.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(self) -> i64 {
        self.0.cast_signed()
    }
}
