//! Membership in a consumer group, by the classic protocol.
//!
//! Joining and syncing happen inside the consumer's poll, so partitions change hands only when the application
//! looks; heartbeats go on beside it and only report. A member that is not polled for `max.poll.interval.ms`
//! leaves by itself, so that a stuck application does not hold its partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::{ErrorCode, Str, TopicPartition};

use super::assignor::{Subscriber, assign_ranges};
use super::positions::Handled;
use super::protocol::{decode_assignment, decode_subscription, encode_assignment, encode_subscription};
use crate::cluster::{Cluster, Lane};
use crate::error::{Error, ErrorKind};

const PROTOCOL_TYPE: &str = "consumer";
const RANGE: &str = "range";

/// A member of a group, or one that wants to be.
pub(super) struct Membership {
    cluster: Cluster,
    identity: Identity,
    topics: Vec<Str>,
    heartbeats: Option<Heartbeats>,
    last_poll: Arc<Mutex<Instant>>,
}

/// Who the coordinator takes this member for.
#[derive(Clone)]
struct Identity {
    group_id: Str,
    instance_id: Option<Str>,
    /// Empty until the coordinator gives one.
    member_id: Str,
    generation: i32,
}

/// What the heartbeats found out.
#[derive(Debug, Clone)]
pub(super) enum Pulse {
    Stable,
    /// Partitions are to change hands.
    Rebalancing,
    /// The coordinator no longer knows this member.
    Lost,
    /// Another instance has this one's name.
    Fenced(Error),
}

struct Heartbeats {
    task: JoinHandle<()>,
    pulse: watch::Receiver<Pulse>,
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Membership {
    pub(super) fn new(cluster: Cluster, group_id: Str, topics: Vec<Str>) -> Self {
        let instance_id = cluster.options().group_instance_id.as_deref().map(Str::copy_from);
        let identity = Identity { group_id, instance_id, member_id: Str::default(), generation: -1 };
        let last_poll = Arc::new(Mutex::new(Instant::now()));
        Self { cluster, identity, topics, heartbeats: None, last_poll }
    }

    pub(super) fn group_id(&self) -> &Str {
        &self.identity.group_id
    }

    /// The application is alive.
    pub(super) fn polled(&self) {
        *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How the membership stands; `None` outside the group.
    pub(super) fn pulse(&self) -> Option<Pulse> {
        self.heartbeats.as_ref().map(|heartbeats| heartbeats.pulse.borrow().clone())
    }

    /// Returns when the pulse changes; never outside the group.
    pub(super) async fn changed(&mut self) {
        match &mut self.heartbeats {
            Some(heartbeats) => {
                if heartbeats.pulse.changed().await.is_err() {
                    // The task said its last word before; who waits for more waits for time to pass.
                    std::future::pending().await
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Joins, or joins again, and returns the partitions that this member is to read. May be dropped at any
    /// await and called again.
    pub(super) async fn join(&mut self, owned: &[TopicPartition]) -> Result<Vec<TopicPartition>, Error> {
        self.heartbeats = None;
        let doing = format!("joining group {}", self.identity.group_id);
        let options = self.cluster.options();
        // A group may wait for its slowest member before anyone is let in.
        let timeout = options.default_api_timeout.max(options.poll_interval_max);
        let cluster = self.cluster.clone();
        let mut retry = cluster.retry(&doing, timeout);
        loop {
            let error = match self.join_once(owned, &doing).await {
                Ok(Some(assignment)) => {
                    self.heartbeats = Some(self.start_heartbeats());
                    return Ok(assignment);
                }
                Ok(None) => continue,
                Err(error) => error,
            };
            if error.code() == Some(ErrorCode::FENCED_INSTANCE_ID) {
                return Err(error);
            }
            retry.again(error).await?;
        }
    }

    /// `None` means to start over at once.
    async fn join_once(
        &mut self,
        owned: &[TopicPartition],
        doing: &str,
    ) -> Result<Option<Vec<TopicPartition>>, Error> {
        let options = self.cluster.options();
        let millis = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
        let protocol = JoinGroupRequestProtocol {
            name: Str::from(RANGE),
            metadata: encode_subscription(&self.topics, owned),
        };
        let request = JoinGroupRequest {
            group_id: self.identity.group_id.clone(),
            session_timeout_ms: millis(options.session_timeout),
            rebalance_timeout_ms: millis(options.poll_interval_max),
            member_id: self.identity.member_id.clone(),
            group_instance_id: self.identity.instance_id.clone(),
            protocol_type: Str::from(PROTOCOL_TYPE),
            protocols: vec![protocol],
            reason: None,
        };
        let joined = self.cluster.call_coordinator(&self.identity.group_id, Lane::Joins, request).await?;
        match joined.error_code {
            ErrorCode::NONE => {}
            ErrorCode::MEMBER_ID_REQUIRED => {
                self.identity.member_id = joined.member_id;
                return Ok(None);
            }
            code => return self.refused(code, doing),
        }
        self.identity.member_id = joined.member_id.clone();
        self.identity.generation = joined.generation_id;
        let assignments = match joined.leader == joined.member_id && !joined.skip_assignment {
            true => self.assign(&joined).await?,
            false => Vec::new(),
        };
        let request = SyncGroupRequest {
            group_id: self.identity.group_id.clone(),
            generation_id: self.identity.generation,
            member_id: self.identity.member_id.clone(),
            group_instance_id: self.identity.instance_id.clone(),
            protocol_type: Some(Str::from(PROTOCOL_TYPE)),
            protocol_name: Some(Str::from(RANGE)),
            assignments,
        };
        let synced = self.cluster.call_coordinator(&self.identity.group_id, Lane::Joins, request).await?;
        match synced.error_code {
            ErrorCode::NONE => {}
            ErrorCode::REBALANCE_IN_PROGRESS => return Ok(None),
            code => return self.refused(code, doing),
        }
        let assignment = decode_assignment(synced.assignment).map_err(|error| Error::Protocol {
            doing: doing.to_owned(),
            problem: format!("the assignment cannot be read: {error}"),
        })?;
        Ok(Some(assignment))
    }

    fn refused<T>(&mut self, code: ErrorCode, doing: &str) -> Result<Option<T>, Error> {
        match code {
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION => {
                self.forget_member();
                Ok(None)
            }
            ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE => {
                self.cluster.forget_coordinator(&self.identity.group_id);
                Err(Error::kafka(code, doing, None))
            }
            code => Err(Error::kafka(code, doing, None)),
        }
    }

    fn forget_member(&mut self) {
        self.identity.member_id = Str::default();
        self.identity.generation = -1;
    }

    /// The group's leader says who reads what.
    async fn assign(&self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, Error> {
        let subscribers: Vec<_> = joined
            .members
            .iter()
            .map(|member| Subscriber {
                member_id: member.member_id.clone(),
                instance_id: member.group_instance_id.clone(),
                topics: decode_subscription(member.metadata.clone()).unwrap_or_else(|error| {
                    tracing::warn!(member = %member.member_id, %error, "a subscription cannot be read");
                    Vec::new()
                }),
            })
            .collect();
        let mut partitions = BTreeMap::new();
        for topic in subscribers.iter().flat_map(|subscriber| &subscriber.topics) {
            if partitions.contains_key(topic) {
                continue;
            }
            match self.cluster.topic(topic).await {
                Ok(known) => {
                    partitions.insert(topic.clone(), known.partitions.len() as u32);
                }
                // A topic that another member made up does not keep the rest from being read.
                Err(error) => tracing::warn!(%topic, %error, "nobody gets this topic's partitions"),
            }
        }
        let assigned = assign_ranges(&subscribers, &partitions);
        let assignments = assigned.into_iter().map(|(member_id, partitions)| SyncGroupRequestAssignment {
            member_id,
            assignment: encode_assignment(&partitions),
        });
        Ok(assignments.collect())
    }

    fn start_heartbeats(&self) -> Heartbeats {
        self.polled();
        let (report, pulse) = watch::channel(Pulse::Stable);
        let heart = Heart {
            cluster: self.cluster.clone(),
            identity: self.identity.clone(),
            last_poll: Arc::clone(&self.last_poll),
            report,
        };
        Heartbeats { task: tokio::spawn(heart.beat()), pulse }
    }

    /// Commits; what the group no longer allows this member to commit is an error.
    pub(super) async fn commit(&mut self, handled: &[(TopicPartition, Handled)]) -> Result<(), Error> {
        if handled.is_empty() {
            return Ok(());
        }
        let doing = format!("committing offsets of group {}", self.identity.group_id);
        let mut topics: BTreeMap<Str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (partition, handled) in handled {
            topics.entry(partition.topic.clone()).or_default().push(OffsetCommitRequestPartition {
                partition_index: partition.partition.0,
                committed_offset: handled.next.0,
                committed_leader_epoch: handled.leader_epoch.0,
                committed_metadata: Some(Str::default()),
            });
        }
        let topics = topics.into_iter().map(|(name, partitions)| OffsetCommitRequestTopic {
            name,
            partitions,
            ..Default::default()
        });
        let request = OffsetCommitRequest {
            group_id: self.identity.group_id.clone(),
            generation_id_or_member_epoch: self.identity.generation,
            member_id: self.identity.member_id.clone(),
            group_instance_id: self.identity.instance_id.clone(),
            topics: topics.collect(),
            ..Default::default()
        };
        let group = &self.identity.group_id;
        self.cluster
            .retrying(&doing, || async {
                let response = self.cluster.call_coordinator(group, Lane::Requests, request.clone()).await?;
                let codes =
                    response.topics.iter().flat_map(|topic| &topic.partitions).map(|part| part.error_code);
                match codes.into_iter().find(|code| !code.is_ok()) {
                    None => Ok(()),
                    Some(code) => {
                        if matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
                            self.cluster.forget_coordinator(group);
                        }
                        Err(Error::kafka(code, doing.clone(), None))
                    }
                }
            })
            .await
    }

    /// Leaves, so that others get the partitions at once. A static member stays, as it is expected back.
    pub(super) async fn leave(&mut self) {
        self.heartbeats = None;
        if self.identity.member_id.is_empty() || self.identity.instance_id.is_some() {
            return;
        }
        if let Err(error) = leave(&self.cluster, &self.identity).await {
            tracing::debug!(%error, "the group will notice by itself that this member left");
        }
        self.forget_member();
    }
}

async fn leave(cluster: &Cluster, identity: &Identity) -> Result<(), Error> {
    // Versions from 3 on take several members; both forms are filled in.
    let request = LeaveGroupRequest {
        group_id: identity.group_id.clone(),
        member_id: identity.member_id.clone(),
        members: vec![MemberIdentity {
            member_id: identity.member_id.clone(),
            group_instance_id: None,
            reason: None,
        }],
    };
    cluster.call_coordinator(&identity.group_id, Lane::Requests, request).await.map(drop)
}

/// The task that keeps the membership alive.
struct Heart {
    cluster: Cluster,
    identity: Identity,
    last_poll: Arc<Mutex<Instant>>,
    report: watch::Sender<Pulse>,
}

impl Heart {
    async fn beat(self) {
        let options = self.cluster.options();
        let mut answered = Instant::now();
        let mut ticks = interval_at(answered + options.heartbeat_interval, options.heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let last_poll = *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner);
            if last_poll.elapsed() > options.poll_interval_max {
                tracing::warn!("leaving the group: nothing was polled for max.poll.interval.ms");
                // If it does not arrive, the silence that follows says the same.
                let _ = leave(&self.cluster, &self.identity).await;
                let _ = self.report.send(Pulse::Lost);
                return;
            }
            let pulse = match self.ask().await {
                Ok(pulse) => {
                    answered = Instant::now();
                    pulse
                }
                Err(error) if error.kind() == ErrorKind::Retriable => {
                    if answered.elapsed() <= options.session_timeout {
                        continue;
                    }
                    Pulse::Lost
                }
                Err(error) => Pulse::Fenced(error),
            };
            let is_last = matches!(pulse, Pulse::Lost | Pulse::Fenced(_));
            let changed = |before: &mut Pulse| {
                let is_new = std::mem::discriminant(before) != std::mem::discriminant(&pulse);
                *before = pulse;
                is_new
            };
            self.report.send_if_modified(changed);
            if is_last {
                return;
            }
        }
    }

    async fn ask(&self) -> Result<Pulse, Error> {
        let request = HeartbeatRequest {
            group_id: self.identity.group_id.clone(),
            generation_id: self.identity.generation,
            member_id: self.identity.member_id.clone(),
            group_instance_id: self.identity.instance_id.clone(),
        };
        let response =
            self.cluster.call_coordinator(&self.identity.group_id, Lane::Requests, request).await?;
        match response.error_code {
            ErrorCode::NONE => Ok(Pulse::Stable),
            ErrorCode::REBALANCE_IN_PROGRESS => Ok(Pulse::Rebalancing),
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION => Ok(Pulse::Lost),
            code => {
                if matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
                    self.cluster.forget_coordinator(&self.identity.group_id);
                }
                let doing = format!("keeping the membership in group {}", self.identity.group_id);
                Err(Error::kafka(code, doing, None))
            }
        }
    }
}
