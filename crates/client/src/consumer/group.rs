//! What a member of a group says to its coordinator, in both protocols.
//!
//! One request is under way at a time. What the answers mean is [`Membership`]'s to say; here they are asked for, at
//! their time, and again after a failure. Nothing here knows what the application does, so that nothing it does
//! delays a heartbeat.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use regex::Regex;
use tokio::time::Instant;
use wire::messages::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::{ErrorCode, PartitionId, Str, TopicPartition, Uuid};

use super::assignor::{Subscriber, assign};
use super::membership::{Action, Ask, Heard, Membership, Protocol};
use super::protocol::{Subscription, decode_assignment, encode_assignment};
use super::shared::{Identity, Wish};
use crate::backoff::{exponential, jittered};
use crate::cluster::{Cluster, Lane, Topics};
use crate::environment::BoxFuture;
use crate::error::{Error, ErrorKind};
use crate::options::{AssignmentStrategy, GroupProtocol};

const PROTOCOL_TYPE: &str = "consumer";
/// In the consumer protocol, epochs with which a member leaves: for good, or to be back under the same instance id.
const LEAVE_EPOCH: i32 = -1;
const LEAVE_FOR_A_WHILE_EPOCH: i32 = -2;
/// In the classic protocol, the generation of who has none.
const NO_GENERATION: i32 = -1;

/// This consumer's place in its group.
pub(super) struct Group {
    /// Tells it from a group that was joined before.
    id: u64,
    cluster: Cluster,
    voice: Voice,
    membership: Membership,
    /// As which member it was silent, or away: what has become of that one is settled before this one joins.
    former: Option<Str>,
    /// Ids of the topics that were assigned (consumer protocol).
    ids: BTreeMap<Str, Uuid>,
    /// What the coordinator knows of this member; nothing after a failure.
    told: Option<Told>,
    /// Assigned topics that no broker could name yet.
    unnamed: Option<Vec<TopicPartitions>>,
    /// What the last join saw of the topics (classic protocol).
    seen: Option<Seen>,
    is_asking: bool,
    /// The next heartbeat.
    next: Instant,
    /// After a failure, nothing is asked before.
    not_before: Instant,
    interval: Duration,
    answered: Instant,
    /// In a row, and losses of the membership.
    failures: u32,
    /// Since when the instance id is somebody else's.
    unreleased_since: Option<Instant>,
}

/// As whom it speaks, which does not change.
#[derive(Clone)]
struct Voice {
    cluster: Cluster,
    group_id: Str,
    instance_id: Option<Str>,
    wish: Wish,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    wish: Wish,
    owned: BTreeSet<TopicPartition>,
}

/// Topics and their numbers of partitions as of a join; when these change, it is time to join again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// What the subscription came to.
    topics: Vec<Str>,
    /// Of the topics of all members, if this one assigns; a topic that is not there has none.
    partitions: Option<BTreeMap<Str, u32>>,
}

/// What came of a question to the coordinator.
pub(super) struct Reply {
    /// Who asked, see [`Group::id`], and in which stint of its membership.
    group: u64,
    stint: u64,
    asked: Ask,
    told: Option<Told>,
    /// The former member of which it is settled what has become of it, be the question answered or not.
    settled: Option<Str>,
    outcome: Result<Said, Error>,
}

struct Said {
    heard: Heard,
    message: Option<Str>,
    interval: Option<Duration>,
    ids: BTreeMap<Str, Uuid>,
    unnamed: Option<Vec<TopicPartitions>>,
    seen: Option<Seen>,
}

impl From<Heard> for Said {
    fn from(heard: Heard) -> Self {
        Said { heard, message: None, interval: None, ids: BTreeMap::new(), unnamed: None, seen: None }
    }
}

impl Group {
    pub(super) fn new(id: u64, cluster: Cluster, group_id: Str, wish: Wish) -> Self {
        let options = cluster.options();
        let strategies = &options.assignment_strategies;
        let is_cooperative = strategies.iter().all(|strategy| strategy.is_cooperative());
        let protocol = match options.group_protocol {
            GroupProtocol::Consumer => Protocol::Consumer,
            GroupProtocol::Classic if is_cooperative => Protocol::Cooperative,
            GroupProtocol::Classic => Protocol::Eager,
        };
        let member_id = own_id(protocol, &cluster);
        let now = Instant::now();
        let voice = Voice {
            cluster: cluster.clone(),
            group_id,
            instance_id: options.group_instance_id.as_deref().map(Str::copy_from),
            wish,
        };
        Self {
            id,
            voice,
            membership: Membership::new(protocol, member_id),
            former: None,
            ids: BTreeMap::new(),
            told: None,
            unnamed: None,
            seen: None,
            is_asking: false,
            next: now,
            not_before: now,
            interval: options.heartbeat_interval,
            answered: now,
            failures: 0,
            unreleased_since: None,
            cluster,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity {
            member_id: self.membership.member_id().clone(),
            epoch: self.membership.epoch(),
            is_settled: self.membership.is_settled(),
        }
    }

    pub(super) fn topic_id(&self, topic: &Str) -> Uuid {
        self.ids.get(topic).copied().unwrap_or(Uuid::ZERO)
    }

    /// When the next question is to be sent; never while one is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.is_asking {
            return None;
        }
        let ask = self.membership.ask()?;
        let is_at_once = self.membership.is_urgent() || ask == Ask::Join;
        Some(if is_at_once { self.not_before } else { self.next.max(self.not_before) })
    }

    /// The next question, with what this member owns.
    pub(super) fn ask(&mut self, owned: &BTreeSet<TopicPartition>) -> Option<BoxFuture<'static, Reply>> {
        let asked = self.membership.ask()?;
        self.is_asking = true;
        self.membership.sent();
        let (voice, identity) = (self.voice.clone(), self.identity());
        let (group, stint) = (self.id, self.membership.stint());
        let protocol = self.membership.protocol();
        let former = self.former.clone().filter(|_| asked == Ask::Join);
        let settling = former.clone().and_then(|former| self.settle(former));
        if protocol == Protocol::Consumer {
            let told = Told { wish: voice.wish.clone(), owned: owned.clone() };
            let request = self.heartbeat(&told);
            let unnamed = self.unnamed.clone();
            let names = self.ids.iter().map(|(name, id)| (*id, name.clone())).collect();
            return Some(Box::pin(async move {
                let (settled, outcome) = match said(settling).await {
                    Ok(()) => (former, voice.beat(request, unnamed, names).await),
                    Err(error) => (None, Err(error)),
                };
                Reply { group, stint, asked, told: Some(told), settled, outcome }
            }));
        }
        let owned: Vec<_> = owned.iter().cloned().collect();
        Some(Box::pin(async move {
            let (settled, outcome) = match (said(settling).await, asked) {
                (Ok(()), Ask::Join) => (former, voice.join(identity, owned).await),
                (Ok(()), Ask::Heartbeat) => (None, voice.beat_classic(identity).await),
                (Err(error), _) => (None, Err(error)),
            };
            Reply { group, stint, asked, told: None, settled, outcome }
        }))
    }

    /// Says everything to who may know nothing, else only what is new.
    fn heartbeat(&self, telling: &Told) -> ConsumerGroupHeartbeatRequest {
        let options = self.cluster.options();
        let told = self.told.as_ref().filter(|_| self.membership.ask() == Some(Ask::Heartbeat));
        let is_first = told.is_none();
        let (names, pattern) = subscribed(&telling.wish);
        let is_new_wish = told.is_none_or(|told| told.wish != telling.wish);
        let had_pattern = told.is_some_and(|told| matches!(told.wish, Wish::Pattern(_)));
        let is_new_owned = told.is_none_or(|told| told.owned != telling.owned);
        ConsumerGroupHeartbeatRequest {
            group_id: self.voice.group_id.clone(),
            member_id: self.membership.member_id().clone(),
            member_epoch: self.membership.epoch(),
            instance_id: self.voice.instance_id.clone(),
            rack_id: options.client_rack.as_deref().filter(|_| is_first).map(Str::copy_from),
            rebalance_timeout_ms: if is_first { millis(options.poll_interval_max) } else { -1 },
            subscribed_topic_names: is_new_wish.then_some(names),
            subscribed_topic_regex: match pattern {
                Some(pattern) => is_new_wish.then_some(pattern),
                None => (is_new_wish && had_pattern).then(Str::default),
            },
            server_assignor: options
                .group_remote_assignor
                .as_deref()
                .filter(|_| is_first)
                .map(Str::copy_from),
            topic_partitions: is_new_owned.then(|| self.with_ids(&telling.owned)),
        }
    }

    fn with_ids(&self, owned: &BTreeSet<TopicPartition>) -> Vec<TopicPartitions> {
        let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for partition in owned {
            topics.entry(self.topic_id(&partition.topic)).or_default().push(partition.partition.0);
        }
        topics.into_iter().map(|(topic_id, partitions)| TopicPartitions { topic_id, partitions }).collect()
    }

    /// Takes an answer in, on behalf of a member that owns these. An error is the end of it.
    pub(super) fn take(
        &mut self,
        reply: Reply,
        owned: &BTreeSet<TopicPartition>,
    ) -> Result<Vec<Action>, Error> {
        if reply.group != self.id {
            return Ok(Vec::new());
        }
        self.is_asking = false;
        // Once: a join that was carried out and whose answer was lost has taken the name along, and would look like another's.
        if reply.settled.is_some() && reply.settled == self.former {
            self.former = None;
        }
        if reply.stint != self.membership.stint() {
            return Ok(Vec::new());
        }
        let now = Instant::now();
        let options = self.cluster.options();
        let said = match reply.outcome {
            Ok(said) => said,
            Err(error) => {
                self.told = None;
                let is_unreleased = error.code() == Some(ErrorCode::UNRELEASED_INSTANCE_ID);
                // Who had the name before may have died without a word: it is free when its session is over.
                let may_be_freed = is_unreleased
                    && self.unreleased_since.get_or_insert(now).elapsed() <= options.session_timeout;
                if error.kind() != ErrorKind::Retriable && !may_be_freed {
                    return Err(error);
                }
                tracing::debug!(group = %self.voice.group_id, %error, "asking the coordinator again");
                self.rest();
                return Ok(self.if_silent(owned));
            }
        };
        (self.answered, self.unreleased_since) = (now, None);
        self.interval = said.interval.unwrap_or(self.interval);
        self.next = now + self.interval;
        self.told = reply.told;
        self.unnamed = said.unnamed;
        self.ids.extend(said.ids);
        if reply.asked == Ask::Join {
            self.seen = said.seen.or(self.seen.take());
        }
        match &said.heard {
            Heard::Alive { .. } | Heard::Joined { .. } => self.failures = 0,
            Heard::Refused(code) if *code != ErrorCode::REBALANCE_IN_PROGRESS => {
                tracing::info!(group = %self.voice.group_id, %code, "the coordinator does not know this member");
                self.told = None;
                self.rest();
            }
            _ => {}
        }
        let actions = self.membership.heard(said.heard, owned);
        if let Some(Action::Fail(code)) = actions.last() {
            return Err(Error::kafka(*code, self.voice.doing(), said.message.as_deref()));
        }
        Ok(actions)
    }

    /// The next question waits, the longer the more have failed.
    fn rest(&mut self) {
        let options = self.cluster.options();
        let pause = exponential(options.retry_backoff, options.retry_backoff_max, self.failures);
        self.failures += 1;
        self.not_before = Instant::now() + jittered(pause, self.cluster.environment().random());
    }

    /// What is to be done when the coordinator has not been heard for a session's length.
    pub(super) fn if_silent(&mut self, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        let is_silent = self.answered.elapsed() > self.cluster.options().session_timeout;
        // A join takes as long as its slowest member.
        let is_waiting = self.is_asking && self.membership.ask() == Some(Ask::Join);
        if !is_silent || is_waiting || owned.is_empty() {
            return Vec::new();
        }
        tracing::warn!(group = %self.voice.group_id, "the coordinator was not heard for session.timeout.ms");
        self.told = None;
        if self.membership.is_known() {
            self.former = Some(self.membership.member_id().clone());
        }
        let anew = own_id(self.membership.protocol(), &self.cluster);
        self.membership.heard(Heard::Silence { anew }, owned)
    }

    pub(super) fn released(&mut self, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        self.membership.released(owned)
    }

    /// Wants to read something else from now on.
    pub(super) fn change(&mut self, wish: Wish, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        self.voice.wish = wish;
        self.membership.changed(owned)
    }

    /// The topics are not what they were when it joined.
    pub(super) fn take_seen(
        &mut self,
        (group, seen): (u64, Seen),
        owned: &BTreeSet<TopicPartition>,
    ) -> Vec<Action> {
        if group != self.id || self.seen.as_ref().is_none_or(|before| *before == seen) {
            return Vec::new();
        }
        tracing::info!(group = %self.voice.group_id, "the topics changed, joining again");
        self.membership.changed(owned)
    }

    /// Looks at the topics that this member has to look after, if any.
    pub(super) fn watch(&self) -> Option<BoxFuture<'static, Result<(u64, Seen), Error>>> {
        let seen = self.seen.clone()?;
        let is_pattern = matches!(self.voice.wish, Wish::Pattern(_));
        if (seen.partitions.is_none() && !is_pattern) || !self.membership.is_settled() {
            return None;
        }
        let (id, voice) = (self.id, self.voice.clone());
        Some(Box::pin(async move {
            let topics = voice.topics().await?;
            let partitions = match seen.partitions {
                Some(before) => {
                    let names: BTreeSet<_> = before.into_keys().chain(topics.iter().cloned()).collect();
                    Some(voice.count(names.into_iter().collect()).await?)
                }
                None => None,
            };
            Ok((id, Seen { topics, partitions }))
        }))
    }

    /// Leaves; what comes back is the request, if there is anybody to tell. A static member may be back, unless it goes for good.
    pub(super) fn leave(&mut self, is_for_good: bool) -> Option<BoxFuture<'static, Result<(), Error>>> {
        let farewell = match self.membership.is_known() {
            true => {
                let member_id = self.membership.member_id().clone();
                let farewell = self.farewell(member_id.clone(), is_for_good);
                self.former = farewell.is_none().then_some(member_id);
                farewell
            }
            false => None,
        };
        self.membership.leave();
        self.told = None;
        farewell
    }

    /// Tells the coordinator that a member is none any more.
    fn farewell(&self, member_id: Str, is_for_good: bool) -> Option<BoxFuture<'static, Result<(), Error>>> {
        let is_consumer = self.membership.protocol() == Protocol::Consumer;
        let is_expected_back = self.voice.instance_id.is_some() && !is_for_good;
        // In the classic protocol that means to stay.
        if !is_consumer && is_expected_back {
            return None;
        }
        let voice = self.voice.clone();
        Some(Box::pin(async move {
            match is_consumer {
                true => voice.leave(member_id, is_expected_back).await,
                false => voice.leave_classic(member_id).await,
            }
        }))
    }

    /// What is to be done about the member that this one was before it joins as another: the coordinator forgets it. A static one
    /// of the classic protocol stays, and takes its name along by joining; so it is asked first whose that is by now.
    fn settle(&self, former: Str) -> Option<BoxFuture<'static, Result<(), Error>>> {
        self.farewell(former.clone(), false).or_else(|| {
            let voice = self.voice.clone();
            let identity = Identity { member_id: former, epoch: NO_GENERATION, is_settled: false };
            let is_another = |said: &Said| said.heard == Heard::Refused(ErrorCode::FENCED_INSTANCE_ID);
            Some(Box::pin(async move {
                match voice.beat_classic(identity).await {
                    Ok(said) if is_another(&said) => {
                        Err(Error::kafka(ErrorCode::FENCED_INSTANCE_ID, voice.doing(), None))
                    }
                    asked => asked.map(drop),
                }
            }))
        })
    }

    pub(super) fn enter(&mut self) {
        self.answered = Instant::now();
        self.membership.enter(own_id(self.membership.protocol(), &self.cluster));
    }
}

/// Under which id a member asks to join: its own in the consumer protocol, else the coordinator gives it one.
fn own_id(protocol: Protocol, cluster: &Cluster) -> Str {
    match protocol {
        Protocol::Consumer => {
            let random = || u128::from(cluster.environment().random());
            Str::from(Uuid::from_u128(random() << 64 | random()).to_string())
        }
        Protocol::Eager | Protocol::Cooperative => Str::default(),
    }
}

async fn said(farewell: Option<BoxFuture<'static, Result<(), Error>>>) -> Result<(), Error> {
    match farewell {
        Some(farewell) => farewell.await,
        None => Ok(()),
    }
}

impl Voice {
    fn doing(&self) -> String {
        format!("being a member of group {}", self.group_id)
    }

    /// Errors that say that the coordinator is another, or not ready, are for trying again.
    fn check(&self, code: ErrorCode, message: Option<&str>) -> Result<(), Error> {
        if matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
            self.cluster.forget_coordinator(&self.group_id);
        }
        match code.is_retriable() || code == ErrorCode::UNRELEASED_INSTANCE_ID {
            true => Err(Error::kafka(code, self.doing(), message)),
            false => Ok(()),
        }
    }

    // The consumer protocol.

    async fn beat(
        &self,
        request: ConsumerGroupHeartbeatRequest,
        unnamed: Option<Vec<TopicPartitions>>,
        names: HashMap<Uuid, Str>,
    ) -> Result<Said, Error> {
        let answer = self.cluster.call_coordinator(&self.group_id, Lane::Requests, request).await?;
        self.check(answer.error_code, answer.error_message.as_deref())?;
        if !answer.error_code.is_ok() {
            let heard = Heard::Refused(answer.error_code);
            return Ok(Said { message: answer.error_message, ..Said::from(heard) });
        }
        let assigned = answer.assignment.map(|assignment| assignment.topic_partitions).or(unnamed);
        let mut ids = BTreeMap::new();
        let mut unnamed = None;
        let target = match assigned {
            Some(assigned) => {
                let (target, is_whole) = self.name(&assigned, &names, &mut ids).await;
                unnamed = (!is_whole).then_some(assigned);
                Some(target)
            }
            None => None,
        };
        let heard = Heard::Alive { epoch: Some(answer.member_epoch), target };
        let interval = u64::try_from(answer.heartbeat_interval_ms).ok().filter(|&interval| interval > 0);
        Ok(Said { interval: interval.map(Duration::from_millis), ids, unnamed, ..Said::from(heard) })
    }

    /// The partitions by name, and whether all could be named. A name that was once told is remembered: metadata is forgotten
    /// whenever a leader changes, and a partition that has no name would be given up.
    async fn name(
        &self,
        assigned: &[TopicPartitions],
        names: &HashMap<Uuid, Str>,
        ids: &mut BTreeMap<Str, Uuid>,
    ) -> (BTreeSet<TopicPartition>, bool) {
        let known = |id: Uuid| self.cluster.topic_name(id).or_else(|| names.get(&id).cloned());
        let unknown = |topic: &&TopicPartitions| known(topic.topic_id).is_none();
        let unknown: Vec<_> = assigned.iter().filter(unknown).map(|topic| topic.topic_id).collect();
        if !unknown.is_empty() {
            let wait = self.cluster.options().heartbeat_interval;
            // The next heartbeat may not wait for it; what is not named by then is asked for again.
            let looking = self.cluster.look_at(Topics::Ids(&unknown));
            match tokio::time::timeout(wait, looking).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "assigned topics have no names yet"),
                Err(_) => tracing::debug!("assigned topics have no names yet"),
            }
        }
        let (mut named, mut is_whole) = (BTreeSet::new(), true);
        for topic in assigned {
            let Some(name) = known(topic.topic_id) else {
                is_whole = false;
                continue;
            };
            ids.insert(name.clone(), topic.topic_id);
            named.extend(
                topic.partitions.iter().map(|&id| TopicPartition::new(name.clone(), PartitionId(id))),
            );
        }
        (named, is_whole)
    }

    async fn leave(&self, member_id: Str, is_expected_back: bool) -> Result<(), Error> {
        let member_epoch = if is_expected_back { LEAVE_FOR_A_WHILE_EPOCH } else { LEAVE_EPOCH };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.group_id.clone(),
            member_id,
            member_epoch,
            instance_id: self.instance_id.clone(),
            ..Default::default()
        };
        self.cluster.call_coordinator(&self.group_id, Lane::Requests, request).await.map(drop)
    }

    // The classic protocol.

    async fn beat_classic(&self, identity: Identity) -> Result<Said, Error> {
        let request = HeartbeatRequest {
            group_id: self.group_id.clone(),
            generation_id: identity.epoch,
            member_id: identity.member_id,
            group_instance_id: self.instance_id.clone(),
        };
        let answer = self.cluster.call_coordinator(&self.group_id, Lane::Requests, request).await?;
        self.check(answer.error_code, None)?;
        Ok(Said::from(match answer.error_code {
            ErrorCode::NONE => Heard::Alive { epoch: None, target: None },
            code => Heard::Refused(code),
        }))
    }

    async fn join(&self, identity: Identity, owned: Vec<TopicPartition>) -> Result<Said, Error> {
        let options = self.cluster.options();
        let topics = self.topics().await?;
        let subscription = Subscription {
            topics: topics.clone(),
            owned,
            generation: identity.epoch,
            rack: options.client_rack.as_deref().map(Str::copy_from),
        };
        let protocol = |strategy: &AssignmentStrategy| JoinGroupRequestProtocol {
            name: Str::from(strategy.name()),
            metadata: subscription.encode(*strategy),
        };
        let request = JoinGroupRequest {
            group_id: self.group_id.clone(),
            session_timeout_ms: millis(options.session_timeout),
            rebalance_timeout_ms: millis(options.poll_interval_max),
            member_id: identity.member_id,
            group_instance_id: self.instance_id.clone(),
            protocol_type: Str::from(PROTOCOL_TYPE),
            protocols: options.assignment_strategies.iter().map(protocol).collect(),
            reason: None,
        };
        let joined = self.cluster.call_coordinator(&self.group_id, Lane::Joins, request).await?;
        self.check(joined.error_code, None)?;
        match joined.error_code {
            ErrorCode::NONE => {}
            ErrorCode::MEMBER_ID_REQUIRED => return Ok(Heard::MemberId(joined.member_id).into()),
            code => return Ok(Heard::Refused(code).into()),
        }
        let (assignments, partitions) = match joined.leader == joined.member_id {
            true => self.assign(&joined).await?,
            false => (Vec::new(), None),
        };
        let request = SyncGroupRequest {
            group_id: self.group_id.clone(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            group_instance_id: self.instance_id.clone(),
            protocol_type: Some(Str::from(PROTOCOL_TYPE)),
            protocol_name: joined.protocol_name.clone(),
            assignments,
        };
        let synced = self.cluster.call_coordinator(&self.group_id, Lane::Joins, request).await?;
        self.check(synced.error_code, None)?;
        if !synced.error_code.is_ok() {
            return Ok(Heard::Refused(synced.error_code).into());
        }
        let assignment = decode_assignment(synced.assignment).map_err(|error| Error::Protocol {
            doing: self.doing(),
            problem: format!("the assignment cannot be read: {error}"),
        })?;
        let heard = Heard::Joined {
            member_id: joined.member_id,
            epoch: joined.generation_id,
            assignment: assignment.into_iter().collect(),
        };
        Ok(Said { seen: Some(Seen { topics, partitions }), ..Said::from(heard) })
    }

    /// The group's leader says who reads what.
    async fn assign(
        &self,
        joined: &JoinGroupResponse,
    ) -> Result<(Vec<SyncGroupRequestAssignment>, Option<BTreeMap<Str, u32>>), Error> {
        let name = joined.protocol_name.as_deref().unwrap_or_default();
        let strategy = AssignmentStrategy::named(name).ok_or_else(|| Error::Protocol {
            doing: self.doing(),
            problem: format!("it chose the assignor {name:?}, which this member did not offer"),
        })?;
        let subscriber = |member: &wire::messages::join_group::JoinGroupResponseMember| {
            let subscription = Subscription::decode(member.metadata.clone()).unwrap_or_else(|error| {
                tracing::warn!(member = %member.member_id, %error, "a subscription cannot be read");
                Subscription { topics: Vec::new(), owned: Vec::new(), generation: -1, rack: None }
            });
            Subscriber {
                member_id: member.member_id.clone(),
                instance_id: member.group_instance_id.clone(),
                topics: subscription.topics,
                owned: subscription.owned,
                generation: subscription.generation,
            }
        };
        let subscribers: Vec<_> = joined.members.iter().map(subscriber).collect();
        let topics: BTreeSet<_> =
            subscribers.iter().flat_map(|subscriber| subscriber.topics.iter().cloned()).collect();
        for topic in &topics {
            // Waits for a topic that was just created; one that somebody made up does not keep the rest from being read.
            if let Err(error) = self.cluster.topic(topic).await {
                tracing::warn!(%topic, %error, "nobody gets this topic's partitions");
            }
        }
        let counts = self.count(topics.into_iter().collect()).await?;
        if joined.skip_assignment {
            return Ok((Vec::new(), Some(counts)));
        }
        let there = counts.iter().filter(|(_, count)| **count > 0);
        let partitions = there.map(|(topic, count)| (topic.clone(), *count)).collect();
        let assigned = assign(strategy, &subscribers, &partitions);
        let assignments = assigned.into_iter().map(|(member_id, partitions)| SyncGroupRequestAssignment {
            member_id,
            assignment: encode_assignment(&partitions),
        });
        Ok((assignments.collect(), Some(counts)))
    }

    /// How many partitions the topics have.
    async fn count(&self, topics: Vec<Str>) -> Result<BTreeMap<Str, u32>, Error> {
        let answer = match topics.is_empty() {
            true => return Ok(BTreeMap::new()),
            false => self.cluster.look_at(Topics::Named(&topics)).await?,
        };
        let mut counts: BTreeMap<Str, u32> = topics.into_iter().map(|topic| (topic, 0)).collect();
        for topic in answer.topics {
            if let (Some(name), true) = (topic.name, topic.error_code.is_ok()) {
                counts.insert(name, topic.partitions.len() as u32);
            }
        }
        Ok(counts)
    }

    /// The topics of the subscription.
    async fn topics(&self) -> Result<Vec<Str>, Error> {
        let pattern = match &self.wish {
            Wish::Topics(topics) => return Ok(topics.clone()),
            Wish::Pattern(pattern) => compile(pattern)?,
            Wish::Nothing | Wish::Assigned => return Ok(Vec::new()),
        };
        let all = self.cluster.look_at(Topics::All).await?;
        let visible = all.topics.into_iter().filter(|topic| topic.error_code.is_ok() && !topic.is_internal);
        let mut topics: Vec<_> =
            visible.filter_map(|topic| topic.name).filter(|name| pattern.is_match(name)).collect();
        topics.sort();
        Ok(topics)
    }

    async fn leave_classic(&self, member_id: Str) -> Result<(), Error> {
        // Versions from 3 on take several members; both forms are filled in.
        let group_instance_id = self.instance_id.clone();
        let member = MemberIdentity { member_id: member_id.clone(), group_instance_id, reason: None };
        let request = LeaveGroupRequest { group_id: self.group_id.clone(), member_id, members: vec![member] };
        self.cluster.call_coordinator(&self.group_id, Lane::Requests, request).await.map(drop)
    }
}

/// A pattern that has to match a topic's whole name, as it does in Kafka.
pub(super) fn compile(pattern: &str) -> Result<Regex, Error> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| Error::Usage(format!("{pattern:?} is no regular expression: {error}")))
}

fn subscribed(wish: &Wish) -> (Vec<Str>, Option<Str>) {
    match wish {
        Wish::Topics(topics) => (topics.clone(), None),
        Wish::Pattern(pattern) => (Vec::new(), Some(Str::copy_from(pattern))),
        Wish::Nothing | Wish::Assigned => (Vec::new(), None),
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::sync::Arc;

    use wire::messages::consumer_group_heartbeat::TopicPartitions;
    use wire::{PartitionId, Str, TopicPartition, Uuid};

    use super::{Voice, Wish};
    use crate::cluster::Cluster;
    use crate::environment::TokioEnvironment;
    use crate::options::Options;

    #[tokio::test]
    async fn a_topic_keeps_its_name_when_the_metadata_is_gone_and_nobody_answers() {
        let mut options = Options::default();
        // Nothing listens there.
        options.set("bootstrap.servers", "127.0.0.1:1").unwrap();
        let cluster = Cluster::new(options, Arc::new(TokioEnvironment)).unwrap();
        let voice = Voice { cluster, group_id: Str::from("g"), instance_id: None, wish: Wish::Nothing };
        let id = Uuid([7; 16]);
        let assigned = [TopicPartitions { topic_id: id, partitions: vec![0, 2] }];
        let names = HashMap::from([(id, Str::from("orders"))]);
        let mut ids = BTreeMap::new();
        let (named, is_whole) = voice.name(&assigned, &names, &mut ids).await;
        let wanted = [0, 2].map(|id| TopicPartition::new("orders", PartitionId(id)));
        assert_eq!((named, is_whole), (wanted.into(), true));
        assert_eq!(ids, BTreeMap::from([(Str::from("orders"), id)]));
    }
}
