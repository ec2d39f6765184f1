//! Groups of one partition ("shard") of `__consumer_offsets`: classic ones, and those of the consumer protocol.
//!
//! [`Groups`] answers the group requests of its shard. It keeps one invariant above all: replaying the records it
//! returned, in order, rebuilds every stable or empty group and every committed offset (the members of a rebalance in
//! flight are soft state, which clients restore by joining again). It never waits, and it never answers with state that
//! is not covered by the records returned so far.
//!
//! What the shell owes this module stands in [`crate::coordinator`].

mod consumer;
mod describe;
mod expiry;
mod join;
mod leave;
mod member;
mod offsets;
mod rebalance;
mod records;
mod refusal;
pub mod share;
mod sync;
mod timers;
mod traces;
mod transactions;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod offset_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod story_tests;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, BTreeSet};

use wire::messages::group_metadata_value::{GroupMetadataValue, MemberMetadata};
use wire::messages::join_group::JoinGroupResponse;
use wire::messages::sync_group::SyncGroupResponse;
use wire::{ErrorCode, Millis, Response, Str};

pub use self::consumer::{Assignor, ConsumerView};
pub use self::offsets::CommittedOffset;
pub use self::refusal::Refusal;
pub use self::traces::ExpiredOffset;

pub use crate::coordinator::{CoordinatorRecord, Now, Outcome, RecordError, Replayed, Token};

use self::consumer::{ConsumerEvent, ConsumerGroup};
use self::member::{Member, Members};
use self::records::Event;
use self::share::ShareGroups;
use self::timers::{Alarm, Timers};
use self::traces::Traces;
use self::transactions::Pending;

/// Who sent a request, and in which version of its API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client id of the request header; empty when it had none.
    pub client_id: Str,
    /// The peer's address as Kafka prints it: `/127.0.0.1`, without the port.
    pub client_host: Str,
    /// Version of the request, for the answers that depend on it (KIP-394, KIP-814).
    pub api_version: i16,
}

/// Settings of the group coordinator. Durations are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`
    pub session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`
    pub session_timeout_ms_max: i32,
    /// `group.initial.rebalance.delay.ms`: how long the first join of an empty group waits for company.
    pub initial_rebalance_delay_ms: i64,
    /// `group.max.size`
    pub group_size_max: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds
    pub offsets_retention_ms: i64,
    /// `offsets.expired.retention.minutes`, in milliseconds: how long it is remembered that an offset has expired; zero is never.
    pub expired_retention_ms: i64,
    /// Bytes that the records of one commit, or of one group, may take; more is refused before anything changes.
    pub record_bytes_max: usize,
    /// `group.share.session.timeout.ms`: the session that members of share groups get when they are loaded.
    pub share_session_timeout_ms: i32,
    /// Settings of groups of the consumer protocol.
    pub consumer: ConsumerConfig,
}

/// Settings of groups of the consumer protocol. Durations are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// `group.consumer.session.timeout.ms`
    pub session_timeout_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`
    pub heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`
    pub group_size_max: usize,
    /// `group.consumer.assignors`: what members may ask for. The first one assigns where they ask for none.
    pub assignors: Vec<Assignor>,
    /// Whether a classic group becomes one of this kind when a member of it joins (`group.consumer.migration.policy`).
    pub upgrade: bool,
    /// Whether it becomes a classic one again when the last such member goes, likewise.
    pub downgrade: bool,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 5_000,
            group_size_max: i32::MAX as usize,
            assignors: Assignor::ALL.to_vec(),
            upgrade: true,
            downgrade: true,
        }
    }
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 30 * 60 * 1_000,
            initial_rebalance_delay_ms: 3_000,
            group_size_max: i32::MAX as usize,
            offset_metadata_bytes_max: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            expired_retention_ms: 0,
            record_bytes_max: 16 * 1024 * 1024,
            consumer: ConsumerConfig::default(),
            share_session_timeout_ms: 45_000,
        }
    }
}

/// A new member has no id yet and cannot send heartbeats while its join is parked; after this long it is taken for gone.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1_000;

/// Member ids handed out (KIP-394) and not yet used, per group; the next asker gets GROUP_MAX_SIZE_REACHED.
const PENDING_JOINS_MAX: usize = 10_000;

/// All groups of one shard.
#[derive(Debug)]
pub struct Groups {
    config: GroupConfig,
    /// Classic groups, and of all groups what they committed.
    groups: BTreeMap<Str, Group>,
    /// Groups of the consumer protocol. What stands for one of them among the others has no members.
    consumers: BTreeMap<Str, ConsumerGroup>,
    /// What is left of offsets that have expired, of groups that are there and of those that are gone.
    traces: Traces,
    pending: Pending,
    timers: Timers,
    share: ShareGroups,
}

impl Groups {
    /// A shard without groups.
    pub fn new(config: GroupConfig) -> Self {
        Groups {
            config,
            groups: BTreeMap::new(),
            consumers: BTreeMap::new(),
            traces: Traces::default(),
            pending: Pending::default(),
            timers: Timers::default(),
            share: ShareGroups::default(),
        }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.classic_groups().count() + self.consumers.len() + self.share.len()
    }

    /// Whether the shard has no group at all.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.consumers.is_empty() && self.share.len() == 0
    }

    /// The state of each group, in Kafka's words.
    pub fn states(&self) -> impl Iterator<Item = &'static str> {
        let consumers = self.consumers.values().map(|group| group.state().name());
        self.classic_groups().map(|group| group.state.name()).chain(consumers).chain(self.share.states())
    }

    /// All groups but those of the consumer protocol, and share groups.
    fn classic_groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().filter(|group| !self.consumers.contains_key(&group.id))
    }

    /// Replays one record of the partition. An error concerns this record alone: loading can go on without it.
    pub fn load(&mut self, replayed: Replayed<'_>) -> Result<(), RecordError> {
        match replayed {
            Replayed::Record { key, value } => {
                if !self.share.load(key, value)? {
                    self.apply(Event::decode(key, value)?);
                }
            }
            Replayed::InTransaction { producer, key, value } => {
                self.pending.put(producer, Event::decode(key, value)?)?;
            }
            Replayed::Ended { producer, commit } => self.end_transaction(producer, commit),
        }
        Ok(())
    }

    /// Ends the replay: every loaded member gets a fresh session deadline, and a group that outgrew `group.max.size`
    /// starts to rebalance.
    pub fn loaded(&mut self, now: impl Into<Now>) {
        let now = now.into();
        self.share.loaded(self.config.share_session_timeout_ms, now);
        let Groups { config, groups, consumers, timers, .. } = self;
        let mut step = Step::new(config, timers, now);
        for group in consumers.values_mut() {
            group.restart_alarms(&mut step);
        }
        for group in groups.values_mut() {
            group.restart_sessions(&mut step);
            if group.members.len() > step.config.group_size_max {
                group.prepare_rebalance(&mut step);
            }
        }
        assert!(step.outcome.replies.is_empty(), "nothing is parked while a shard loads");
    }

    /// Gives the shard up: everything parked is answered with NOT_COORDINATOR.
    pub fn unload(self) -> Vec<(Token, Response)> {
        let mut replies = Vec::new();
        for mut group in self.groups.into_values() {
            for member in group.members.iter_mut() {
                if let Some(token) = member.parked_join.take() {
                    replies.push((token, join_refused(member.id.clone(), Refusal::NotCoordinator)));
                }
                if let Some(token) = member.parked_sync.take() {
                    replies.push((token, sync_refused(Refusal::NotCoordinator)));
                }
            }
        }
        replies
    }

    /// Runs everything whose time has come: sessions, rebalances, the initial delay.
    pub fn tick(&mut self, now: impl Into<Now>) -> Outcome {
        let now = now.into();
        let share = self.share.tick(now);
        let Groups { config, groups, consumers, timers, .. } = self;
        let mut step = Step::new(config, timers, now);
        step.outcome.records = share;
        while let Some(alarm) = step.timers.pop_due(step.now.ticks) {
            if let Some(group) = consumers.get_mut(alarm.group()) {
                if let Alarm::Session { member, .. } | Alarm::Progress { member, .. } = &alarm {
                    group.alarm(member, &mut step);
                }
                continue;
            }
            let Some(group) = groups.get_mut(alarm.group()) else { continue };
            match alarm {
                Alarm::Session { member, .. } => group.session_expired(&member, &mut step),
                Alarm::Join { .. } => group.join_wait_over(&mut step),
                Alarm::Sync { .. } => group.sync_wait_over(&mut step),
                Alarm::Progress { .. } => unreachable!("only groups of the consumer protocol wait for it"),
            }
        }
        step.outcome
    }

    /// When [`Groups::tick`] has something to do next, in ticks.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.timers.next_deadline().into_iter().chain(self.share.next_deadline()).min()
    }

    /// Applies a record to memory: the one way in which durable state changes, live and in replay.
    fn apply(&mut self, event: Event) {
        match event {
            Event::GroupStored { group, value } => {
                self.groups.entry(group.clone()).or_insert_with(|| Group::new(group)).apply_stored(&value);
            }
            Event::GroupForgotten { group } => {
                if let Some(forgotten) = self.groups.remove(&group) {
                    self.timers.cancel_group(&group, forgotten.members.ids().chain(&forgotten.pending_joins));
                    // A committed offset is only lost by a record of its own: without one, what stays behind is what
                    // a client commits to that manages its own membership.
                    if !forgotten.offsets.is_empty() {
                        let mut simple = Group::new(group.clone());
                        simple.offsets = forgotten.offsets;
                        self.groups.insert(group, simple);
                    }
                }
            }
            Event::Consumer { group, event: ConsumerEvent::Forgotten } => {
                self.consumers.remove(&group);
                // What stood for it among the others is there for what was committed alone.
                if self.groups.get(&group).is_some_and(|group| group.offsets.is_empty()) {
                    self.groups.remove(&group);
                }
            }
            Event::Consumer { group, event } => match self.consumers.get_mut(&group) {
                Some(group) => group.apply(event),
                None if event.is_tombstone() => {}
                None => {
                    self.consumers
                        .entry(group.clone())
                        .or_insert_with(|| ConsumerGroup::new(group))
                        .apply(event);
                }
            },
            Event::OffsetCommitted { group, topic, partition, committed } => {
                self.pending.supersede(&group, &topic, partition);
                self.traces.remove(&group, &topic, partition);
                let group = match self.groups.get_mut(&group) {
                    Some(group) => group,
                    None => self.groups.entry(group.clone()).or_insert_with(|| Group::new(group)),
                };
                group.offsets.put(topic, partition, committed);
            }
            Event::OffsetForgotten { group, topic, partition } => {
                self.pending.supersede(&group, &topic, partition);
                self.traces.remove(&group, &topic, partition);
                if let Some(group) = self.groups.get_mut(&group) {
                    group.offsets.remove(&topic, partition);
                }
            }
            Event::OffsetExpired { group, topic, partition, expired } => {
                self.pending.supersede(&group, &topic, partition);
                if let Some(group) = self.groups.get_mut(&group) {
                    group.offsets.remove(&topic, partition);
                }
                self.traces.put(group, topic, partition, expired);
            }
        }
    }
}

/// Where a group stands. A group that is gone ("Dead") has no state: it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No members; offsets may be there.
    Empty,
    /// Members are (re)joining; joins are parked.
    PreparingRebalance(JoinWait),
    /// Joins are answered; syncs are parked until the leader's assignment arrives.
    CompletingRebalance,
    /// Every member can have its assignment.
    Stable,
}

/// What ends the joining phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JoinWait {
    /// The group was empty: it waits a while for more members, again while they keep coming, up to the rebalance
    /// timeout (KIP-134).
    Initial { delay_ms: i64, remaining_ms: i64, joined_meanwhile: bool },
    /// All known members have rejoined, or the rebalance timeout is over.
    Rejoin,
}

impl State {
    /// Kafka's names of the states.
    const NAMES: [&'static str; 4] = ["Empty", "PreparingRebalance", "CompletingRebalance", "Stable"];

    fn name(self) -> &'static str {
        let [empty, preparing, completing, stable] = Self::NAMES;
        match self {
            State::Empty => empty,
            State::PreparingRebalance(_) => preparing,
            State::CompletingRebalance => completing,
            State::Stable => stable,
        }
    }
}

/// One group: its durable part (as in the last GroupMetadataValue, and its offsets) and the soft state of a rebalance.
#[derive(Debug)]
struct Group {
    id: Str,
    state: State,
    generation: i32,
    protocol_type: Option<Str>,
    protocol_name: Option<Str>,
    leader: Option<Str>,
    /// When the stored state was reached; an empty group's offsets expire from here.
    stored_at: Option<Millis>,
    members: Members,
    /// Member ids handed out (KIP-394) whose owners have not come back with them yet.
    pending_joins: BTreeSet<Str>,
    /// Members of this generation that have not asked for their assignment yet.
    pending_syncs: BTreeSet<Str>,
    /// Topics of all members' subscriptions; `None` when the protocol is not the consumer's or does not parse.
    subscribed_topics: Option<BTreeSet<Str>>,
    offsets: offsets::Offsets,
}

impl Group {
    fn new(id: Str) -> Self {
        Group {
            id,
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol_name: None,
            leader: None,
            stored_at: None,
            members: Members::default(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            subscribed_topics: None,
            offsets: offsets::Offsets::default(),
        }
    }

    /// Takes over what a group metadata record says. Live, the members are already here and keep what the record does
    /// not hold (all their protocols, parked requests); in replay they are made from the record.
    fn apply_stored(&mut self, value: &GroupMetadataValue) {
        self.generation = value.generation;
        self.protocol_type = (!value.protocol_type.is_empty()).then(|| Str::copy_from(&value.protocol_type));
        self.protocol_name = value.protocol.as_deref().map(Str::copy_from);
        self.leader = value.leader.as_deref().map(Str::copy_from);
        self.stored_at =
            (value.current_state_timestamp >= 0).then_some(Millis(value.current_state_timestamp));
        self.members.retain_stored(value);
        for stored in &value.members {
            self.members.put_stored(stored, self.protocol_name.as_deref());
        }
        self.subscribed_topics = self.compute_subscribed_topics();
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
    }

    /// Appends the group's metadata, each member with the assignment that `assignment_of` gives it, and applies it.
    fn store(&mut self, step: &mut Step<'_>, assignment_of: impl Fn(&Member) -> bytes::Bytes) {
        let protocol = self.protocol_name.as_deref();
        let members = self.members.iter().map(|member| MemberMetadata {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: assignment_of(member),
        });
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: step.now.wall.0,
            members: members.collect(),
        };
        step.outcome.records.push(records::group_stored(&self.id, &value));
        self.apply_stored(&value);
    }

    /// Checks that a request speaks for a present member, and for a static one with its current id (KIP-345).
    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), Refusal> {
        if let Some(instance_id) = instance_id {
            match self.members.static_id(instance_id) {
                None => return Err(Refusal::UnknownMember),
                Some(current) if current != member_id => return Err(Refusal::FencedInstance),
                Some(_) => {}
            }
        }
        match self.members.get(member_id) {
            Some(_) => Ok(()),
            None => Err(Refusal::UnknownMember),
        }
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some("consumer")
    }

    /// Whether the members read this topic. A group of consumers whose subscriptions are not known reads everything.
    fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    fn compute_subscribed_topics(&self) -> Option<BTreeSet<Str>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.iter() {
            let protocol = self.protocol_name.as_deref()?;
            records::subscribed_topics(&member.metadata(Some(protocol)), &mut topics).ok()?;
        }
        Some(topics)
    }

    /// (Re)starts a member's session.
    fn restart_session(&self, member_id: &str, step: &mut Step<'_>) {
        if let Some(member) = self.members.get(member_id) {
            let deadline = step.now.plus(i64::from(member.session_timeout_ms));
            // The alarm outlives the request: it is made of the member's own id.
            step.timers.set(self.session_alarm(&member.id), deadline);
        }
    }

    fn restart_sessions(&self, step: &mut Step<'_>) {
        for member_id in self.members.ids() {
            self.restart_session(member_id, step);
        }
    }

    fn session_alarm(&self, member_id: &Str) -> Alarm {
        Alarm::Session { group: self.id.clone(), member: member_id.clone() }
    }

    fn join_alarm(&self) -> Alarm {
        Alarm::Join { group: self.id.clone() }
    }

    fn sync_alarm(&self) -> Alarm {
        Alarm::Sync { group: self.id.clone() }
    }
}

/// What one command works with besides the group: the settings, the time, the timers, and what it leaves to do.
struct Step<'a> {
    config: &'a GroupConfig,
    timers: &'a mut Timers,
    now: Now,
    outcome: Outcome,
}

impl<'a> Step<'a> {
    fn new(config: &'a GroupConfig, timers: &'a mut Timers, now: Now) -> Self {
        Step { config, timers, now, outcome: Outcome::default() }
    }

    fn reply(&mut self, token: Token, response: Response) {
        self.outcome.replies.push((token, response));
    }
}

fn join_refused(member_id: Str, refusal: Refusal) -> Response {
    Response::JoinGroup(JoinGroupResponse { error_code: refusal.into(), member_id, ..Default::default() })
}

fn sync_refused(refusal: Refusal) -> Response {
    Response::SyncGroup(SyncGroupResponse { error_code: ErrorCode::from(refusal), ..Default::default() })
}
