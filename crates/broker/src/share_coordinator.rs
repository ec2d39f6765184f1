//! The share coordinator: the shards of `__share_group_state` that this broker leads, and the way to those that others lead.

use std::sync::Arc;
use std::time::Duration;

use state::coordinator::{Now, Outcome, RecordError, Replayed};
use state::share::Runs;
use state::share::state::{
    Delivery, DeliveryState, Refusal, SharePartitionKey, ShareState, ShareStateConfig, ShareStates, Write,
};
use wire::messages::delete_share_group_state as delete;
use wire::messages::initialize_share_group_state as initialize;
use wire::messages::read_share_group_state as read;
use wire::messages::read_share_group_state_summary as summary;
use wire::messages::write_share_group_state as write;
use wire::{ApiRequest, ErrorCode, LeaderEpoch, Millis, Offset, Str};

use crate::broker::Broker;
use crate::coordinator::{Coordinator, Machine, partition_for};

/// The topic that holds the state of share-partitions.
pub(crate) const SHARE_STATE_TOPIC: &str = "__share_group_state";

/// The share-partitions' states of this broker.
pub(crate) type ShareCoordinator = Coordinator<ShareStates>;

/// How long another broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The epoch of share state that was lost: what is there is newer, and stays.
pub(crate) const LOST_EPOCH: i32 = -1;
/// "Not settled", and "as before".
const NO_OFFSET: i64 = -1;

impl Machine for ShareStates {
    type Config = ShareStateConfig;
    type Effect = std::convert::Infallible;

    fn new(config: ShareStateConfig, _: LeaderEpoch, _: u64) -> Self {
        ShareStates::new(config)
    }

    fn load(&mut self, replayed: Replayed<'_>) -> Result<(), RecordError> {
        ShareStates::load(self, replayed)
    }

    fn loaded(&mut self, _: Now) {}

    fn tick(&mut self, _: Now) -> Outcome {
        Outcome::default()
    }

    fn next_deadline(&self) -> Option<Millis> {
        None
    }

    fn take_effects(&mut self) -> Vec<Self::Effect> {
        Vec::new()
    }
}

impl ShareCoordinator {
    /// Forgets what belongs to topics that are gone.
    pub(crate) fn forget_topics(self: &Arc<Self>, broker: &Broker) {
        self.step_all(|states, _now| {
            // Looked at here: whatever has begun a state knew its topic before.
            let image = broker.metadata.image();
            let records = states.forget_topics(|topic| image.topic_by_id(topic).is_some());
            Outcome { records, ..Outcome::default() }
        });
    }

    /// Lets go of records that newer ones replace.
    pub(crate) fn prune(self: &Arc<Self>) {
        self.let_go_of_the_past(|states, now| states.snapshot_all(now.wall));
    }
}

/// Why the coordinator did not do it: the code, and its words where it has some.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: ErrorCode,
    pub(crate) message: Option<Str>,
}

impl From<ErrorCode> for Failure {
    fn from(error: ErrorCode) -> Self {
        Failure { error, message: None }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure { error: refusal.into(), message: Some(Str::from(refusal.to_string())) }
    }
}

impl Broker {
    /// Has a share-partition's state begin, or begin anew.
    pub(crate) async fn initialize_share_state(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        state_epoch: i32,
        start: Option<Offset>,
    ) -> Result<(), Failure> {
        if self.coordinates_share(key).await? {
            return self.initialize_share_state_here(key, state_epoch, start).await;
        }
        let partition = initialize::PartitionData {
            partition: key.partition.0,
            state_epoch,
            start_offset: start.map_or(NO_OFFSET, |start| start.0),
        };
        let topic = initialize::InitializeStateData { topic_id: key.topic, partitions: vec![partition] };
        let request =
            initialize::InitializeShareGroupStateRequest { group_id: key.group.clone(), topics: vec![topic] };
        let answer = self.ask_share_coordinator(key, request).await?;
        let mut results = answer.results.into_iter().flat_map(|topic| topic.partitions);
        let result = results.next().ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        said(result.error_code, result.error_message)
    }

    /// Takes a share-partition over, as the partition's leader of this epoch.
    pub(crate) async fn read_share_state(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        leader_epoch: LeaderEpoch,
    ) -> Result<ShareState, Failure> {
        if self.coordinates_share(key).await? {
            return self.read_share_state_here(key, leader_epoch).await;
        }
        let partition = read::PartitionData { partition: key.partition.0, leader_epoch: leader_epoch.0 };
        let topic = read::ReadStateData { topic_id: key.topic, partitions: vec![partition] };
        let request = read::ReadShareGroupStateRequest { group_id: key.group.clone(), topics: vec![topic] };
        let answer = self.ask_share_coordinator(key, request).await?;
        let mut results = answer.results.into_iter().flat_map(|topic| topic.partitions);
        let result = results.next().ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        said(result.error_code, result.error_message)?;
        let batches = result.state_batches.iter();
        let batches = batches.map(|b| (b.first_offset, b.last_offset, b.delivery_state, b.delivery_count));
        let mut state = ShareState::unsettled(result.state_epoch);
        state.leader_epoch = leader_epoch;
        state.start = start_of(result.start_offset);
        state.deliveries = deliveries_of(batches)?;
        Ok(state)
    }

    /// Writes what has changed in a share-partition.
    pub(crate) async fn write_share_state(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        write: &Write,
    ) -> Result<(), Failure> {
        if self.coordinates_share(key).await? {
            return self.write_share_state_here(key, write).await;
        }
        let batches = write.deliveries.iter().map(|run| write::StateBatch {
            first_offset: run.first.0,
            last_offset: run.last.0,
            delivery_state: run.value.state.number(),
            delivery_count: run.value.count,
        });
        let partition = write::PartitionData {
            partition: key.partition.0,
            state_epoch: write.state_epoch,
            leader_epoch: write.leader_epoch.0,
            start_offset: write.start.map_or(NO_OFFSET, |start| start.0),
            delivery_complete_count: write.delivery_complete_count,
            state_batches: batches.collect(),
        };
        let topic = write::WriteStateData { topic_id: key.topic, partitions: vec![partition] };
        let request = write::WriteShareGroupStateRequest { group_id: key.group.clone(), topics: vec![topic] };
        let answer = self.ask_share_coordinator(key, request).await?;
        let mut results = answer.results.into_iter().flat_map(|topic| topic.partitions);
        let result = results.next().ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        said(result.error_code, result.error_message)
    }

    /// What is known of a share-partition without taking it over; nothing where it has no state.
    pub(crate) async fn share_state_summary(
        self: &Arc<Self>,
        key: &SharePartitionKey,
    ) -> Result<ShareSummary, Failure> {
        if self.coordinates_share(key).await? {
            return self.share_state_summary_here(key, LeaderEpoch::NONE).await;
        }
        let partition =
            summary::PartitionData { partition: key.partition.0, leader_epoch: LeaderEpoch::NONE.0 };
        let topic = summary::ReadStateSummaryData { topic_id: key.topic, partitions: vec![partition] };
        let request =
            summary::ReadShareGroupStateSummaryRequest { group_id: key.group.clone(), topics: vec![topic] };
        let answer = self.ask_share_coordinator(key, request).await?;
        let mut results = answer.results.into_iter().flat_map(|topic| topic.partitions);
        let result = results.next().ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        said(result.error_code, result.error_message)?;
        Ok(ShareSummary {
            state_epoch: result.state_epoch,
            leader_epoch: LeaderEpoch(result.leader_epoch),
            start: start_of(result.start_offset),
            delivery_complete_count: result.delivery_complete_count,
        })
    }

    /// Has a share-partition forgotten.
    pub(crate) async fn delete_share_state(self: &Arc<Self>, key: &SharePartitionKey) -> Result<(), Failure> {
        if self.coordinates_share(key).await? {
            return self.delete_share_state_here(key).await;
        }
        let partition = delete::PartitionData { partition: key.partition.0 };
        let topic = delete::DeleteStateData { topic_id: key.topic, partitions: vec![partition] };
        let request =
            delete::DeleteShareGroupStateRequest { group_id: key.group.clone(), topics: vec![topic] };
        let answer = self.ask_share_coordinator(key, request).await?;
        let mut results = answer.results.into_iter().flat_map(|topic| topic.partitions);
        let result = results.next().ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        said(result.error_code, result.error_message)
    }

    /// Whether this broker keeps the state of a share-partition. The topic is made when it is not there.
    async fn coordinates_share(self: &Arc<Self>, key: &SharePartitionKey) -> Result<bool, ErrorCode> {
        let made = self.ensure_internal_topic(SHARE_STATE_TOPIC).await;
        made.map_err(|error| {
            tracing::warn!(%error, "{SHARE_STATE_TOPIC} cannot be made");
            ErrorCode::COORDINATOR_NOT_AVAILABLE
        })?;
        Ok(self.share_coordinator(key)? == self.node_id)
    }

    fn share_coordinator(&self, key: &SharePartitionKey) -> Result<wire::BrokerId, ErrorCode> {
        let image = self.metadata.image();
        let topic = image.topic(SHARE_STATE_TOPIC).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        let partition = topic.partition(partition_for(&key.to_string(), topic.partition_count()));
        partition.and_then(|partition| partition.leader).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)
    }

    async fn ask_share_coordinator<C: ApiRequest>(
        &self,
        key: &SharePartitionKey,
        request: C,
    ) -> Result<C::Response, ErrorCode> {
        let coordinator = self.share_coordinator(key)?;
        let address = self.metadata.quorum().peers().address_of(coordinator);
        let address = address.ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        let answer = self.peers.ask(coordinator, &address, request, ANSWER_MAX).await;
        answer.map_err(|error| {
            tracing::debug!(%error, node = %coordinator, "the share coordinator does not answer");
            ErrorCode::COORDINATOR_NOT_AVAILABLE
        })
    }

    /// What this broker has not heard of yet it would forget as gone.
    fn check_share_topic(&self, key: &SharePartitionKey) -> Result<(), ErrorCode> {
        let image = self.metadata.image();
        let topic = image.topic_by_id(key.topic);
        match topic.and_then(|topic| topic.partition(key.partition)) {
            Some(_) => Ok(()),
            None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        }
    }

    pub(crate) async fn initialize_share_state_here(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        state_epoch: i32,
        start: Option<Offset>,
    ) -> Result<(), Failure> {
        self.check_share_topic(key)?;
        let name = key.to_string();
        let ask = self.share_states.ask(&name, |states, now| {
            let (records, begun) = states.initialize(key, state_epoch, start, now.wall);
            let is_new = !records.is_empty();
            (records, begun.map(|()| is_new))
        });
        if ask.await?? && state_epoch == LOST_EPOCH {
            self.metrics.share_state_lost();
            tracing::warn!(share_partition = %key, "share state was lost: all records are delivered again");
        }
        Ok(())
    }

    pub(crate) async fn read_share_state_here(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        leader_epoch: LeaderEpoch,
    ) -> Result<ShareState, Failure> {
        self.check_share_topic(key)?;
        let name = key.to_string();
        let ask = self.share_states.ask(&name, |states, now| states.read(key, leader_epoch, now.wall));
        Ok(ask.await??)
    }

    pub(crate) async fn write_share_state_here(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        write: &Write,
    ) -> Result<(), Failure> {
        self.check_share_topic(key)?;
        let name = key.to_string();
        let ask = self.share_states.ask(&name, |states, now| states.write(key, write, now.wall));
        Ok(ask.await??)
    }

    pub(crate) async fn share_state_summary_here(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        leader_epoch: LeaderEpoch,
    ) -> Result<ShareSummary, Failure> {
        self.check_share_topic(key)?;
        let name = key.to_string();
        let ask =
            self.share_states.ask(&name, |states, _now| (Vec::new(), states.summary(key, leader_epoch)));
        let state = ask.await??;
        Ok(state.map_or_else(ShareSummary::default, |state| ShareSummary {
            state_epoch: state.state_epoch,
            // Zero before there is one, as in Kafka.
            leader_epoch: state.leader_epoch.max(LeaderEpoch(0)),
            start: state.start,
            delivery_complete_count: state.delivery_complete_count,
        }))
    }

    pub(crate) async fn delete_share_state_here(
        self: &Arc<Self>,
        key: &SharePartitionKey,
    ) -> Result<(), Failure> {
        let name = key.to_string();
        let ask = self.share_states.ask(&name, |states, _now| states.delete(key));
        Ok(ask.await??)
    }
}

/// What operators are told of a share-partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShareSummary {
    pub(crate) state_epoch: i32,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) start: Option<Offset>,
    pub(crate) delivery_complete_count: i32,
}

/// There is no state.
impl Default for ShareSummary {
    fn default() -> Self {
        ShareSummary {
            state_epoch: 0,
            leader_epoch: LeaderEpoch(0),
            start: None,
            delivery_complete_count: -1,
        }
    }
}

fn said(error: ErrorCode, message: Option<Str>) -> Result<(), Failure> {
    if error.is_ok() { Ok(()) } else { Err(Failure { error, message }) }
}

pub(crate) fn start_of(offset: i64) -> Option<Offset> {
    (offset >= 0).then_some(Offset(offset))
}

/// State batches as they stand in a message.
pub(crate) fn deliveries_of(
    batches: impl Iterator<Item = (i64, i64, i8, i16)>,
) -> Result<Runs<Delivery>, Failure> {
    let mut deliveries = Runs::default();
    for (first, last, state, count) in batches {
        let Some(state) = DeliveryState::from_number(state) else {
            let message = format!(
                "a record is available (0), acknowledged (2), being archived (3) or archived (4), not {state}"
            );
            return Err(Failure { error: ErrorCode::INVALID_REQUEST, message: Some(Str::from(message)) });
        };
        if first < 0 || last < first {
            let message = format!("no offsets lie between {first} and {last}");
            return Err(Failure { error: ErrorCode::INVALID_REQUEST, message: Some(Str::from(message)) });
        }
        deliveries.set(Offset(first), Offset(last), Delivery { state, count });
    }
    Ok(deliveries)
}
