//! What the handlers share: one broker's settings, metadata, partitions and coordinators, behind one pointer.
//! It is made once by `node.rs` and never replaced; what changes in it changes behind its own lock or pointer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use client::{Address, Environment};
use state::metadata::{ConfigResource, Image};
use storage::DataDirs;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wire::{BrokerId, ErrorCode, Millis, Offset, PartitionId, Str, Uuid};

use crate::clock::Clock;
use crate::clock_skew::ClockSkew;
use crate::context::RequestContext;
use crate::controller::Controller;
use crate::controller_link::ControllerLink;
use crate::descriptors::Descriptors;
use crate::fetch_session::FetchSessions;
use crate::flush::Flusher;
use crate::group_lag::GroupLags;
use crate::groups::{GroupCoordinator, OFFSETS_TOPIC};
use crate::handler::share_group::ShareDeletions;
use crate::inbound::InboundBudget;
use crate::isr::InSync;
use crate::listener::Census;
use crate::metadata::Metadata;
use crate::metrics::{BrokerState, Metrics};
use crate::moves::Moves;
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::peer::PeerLinks;
use crate::producer_ids::ProducerIds;
use crate::quotas::Quotas;
use crate::replicas::Replicas;
use crate::replication::{Followers, Replication};
use crate::settings::{RACK_AWARE, Settings, TopicSettings};
use crate::share_coordinator::{SHARE_STATE_TOPIC, ShareCoordinator};
use crate::share_partitions::SharePartitions;
use crate::share_sessions::ShareSessions;
use crate::telemetry::Telemetry;
use crate::throttle::Throttles;
use crate::topics::{TopicError, Topics};
use crate::transactions::{TRANSACTIONS_TOPIC, TxnCoordinator};
use crate::unpacking::Unpacking;

/// Everything the handlers share.
pub(crate) struct Broker {
    pub(crate) node_id: BrokerId,
    /// Tells this process from others that say that they are this broker.
    pub(crate) incarnation_id: Uuid,
    pub(crate) cluster_id: Str,
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) data_dirs: Arc<DataDirs>,
    /// Whether so many of them have failed that the broker cannot go on.
    pub(crate) has_no_disk: watch::Sender<bool>,
    pub(crate) moves: Moves,
    pub(crate) metadata: Metadata,
    pub(crate) controller: Controller,
    pub(crate) controller_link: ControllerLink,
    /// Whom a broker that is no voter asks for the cluster.
    pub(crate) bootstrap: Vec<Address>,
    pub(crate) partitions: Partitions,
    pub(crate) replicas: Replicas,
    pub(crate) replication: Replication,
    pub(crate) throttles: Throttles,
    pub(crate) followers: Followers,
    pub(crate) quotas: Quotas,
    pub(crate) census: Arc<Census>,
    pub(crate) inbound_budget: InboundBudget,
    pub(crate) telemetry: Telemetry,
    pub(crate) isr: InSync,
    pub(crate) topics: Topics,
    pub(crate) unpacking: Unpacking,
    pub(crate) descriptors: Descriptors,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) fetch_sessions: FetchSessions,
    pub(crate) groups: Arc<GroupCoordinator>,
    pub(crate) transactions: Arc<TxnCoordinator>,
    pub(crate) share_states: Arc<ShareCoordinator>,
    pub(crate) share_partitions: SharePartitions,
    pub(crate) share_sessions: ShareSessions,
    pub(crate) share_deletions: ShareDeletions,
    pub(crate) group_lags: GroupLags,
    /// For what coordinators and partitions' leaders ask each other.
    pub(crate) peers: PeerLinks,
    /// For dead letters, which wait for followers: the questions of others do not wait behind them.
    pub(crate) dead_letter_peers: PeerLinks,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) metrics: Metrics,
    /// The epoch that this start of the broker was registered with.
    pub(crate) epoch: AtomicI64,
    /// Whether the controller counts this broker as absent: clients are not sent here.
    pub(crate) fenced: watch::Sender<bool>,
    /// Whether this broker is about to stop.
    pub(crate) is_leaving: AtomicBool,
    /// Until when, in ticks, the controller surely counts this broker as present.
    pub(crate) lease: AtomicI64,
    pub(crate) clock_skew: ClockSkew,
    /// Told when the broker has carried out more of the metadata.
    pub(crate) metadata_caught_up: Notify,
    /// Where the ticks are counted from.
    pub(crate) began: Instant,
    /// Whether clients are answered.
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) stop: watch::Sender<bool>,
}

/// A lease that does not run out: a broker that is alone has nobody who could replace it.
const FOREVER: i64 = i64::MAX;

/// How a request names a topic.
#[derive(Clone, Copy)]
pub(crate) enum Named<'a> {
    Name(&'a Str),
    Id(Uuid),
}

impl Broker {
    /// The settings as of now; dynamic ones change.
    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Takes over the dynamic settings that the metadata holds.
    pub(crate) fn apply_dynamic_settings(&self) {
        let image = self.metadata.image();
        let cluster_default = ConfigResource::cluster_default();
        let this_broker = ConfigResource::broker(self.node_id);
        let settings =
            self.settings.load().with_dynamic(image.configs(&cluster_default), image.configs(&this_broker));
        self.settings.store(Arc::new(settings));
    }

    /// Where a client is told to find this broker: as the listener advertises it, else as the client dialled it.
    pub(crate) fn advertised(&self, context: &RequestContext) -> (Str, i32) {
        let settings = self.settings();
        let listener =
            settings.listeners().iter().find(|listener| *listener.name == *context.connection.listener);
        match listener.and_then(|listener| listener.advertised.as_ref()) {
            Some(advertised) => (Str::copy_from(&advertised.host), i32::from(advertised.port)),
            None => {
                let dialled = context.connection.local;
                (Str::from(dialled.ip().to_canonical().to_string()), i32::from(dialled.port()))
            }
        }
    }

    /// True for topics that the broker writes by itself.
    pub(crate) fn is_internal_topic(&self, topic: &str) -> bool {
        topic == OFFSETS_TOPIC || topic == TRANSACTIONS_TOPIC || topic == SHARE_STATE_TOPIC
    }

    /// What is said of a partition that is not in service here.
    pub(crate) fn missing(&self, topic: Named<'_>, partition: PartitionId) -> ErrorCode {
        let image = self.metadata.image();
        let found = match topic {
            Named::Name(name) => image.topic(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            Named::Id(id) => image.topic_by_id(id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID),
        };
        match found {
            Err(unknown) => unknown,
            Ok(topic) if self.replicas.is_unopened(topic.id, partition) => ErrorCode::KAFKA_STORAGE_ERROR,
            // Others have it, or it is about to be opened here.
            Ok(topic) if topic.partition(partition).is_some() => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            Ok(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        }
    }

    /// A topic's settings.
    pub(crate) fn topic_settings(&self, image: &Image, topic: &Str) -> TopicSettings {
        self.settings().topic(image.configs(&ConfigResource::topic(topic.clone())))
    }

    /// Makes one of the topics that the broker writes by itself, if it is not there yet.
    pub(crate) async fn ensure_internal_topic(
        self: &Arc<Self>,
        name: &'static str,
    ) -> Result<(), TopicError> {
        if self.metadata.image().topic(name).is_some() {
            return Ok(());
        }
        self.topics.ensure_internal(self, name).await
    }

    /// A clock that never goes back.
    pub(crate) fn ticks(&self) -> Millis {
        self.ticks_at(Instant::now())
    }

    pub(crate) fn ticks_at(&self, moment: Instant) -> Millis {
        let since = moment.saturating_duration_since(self.began);
        Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// When this tick is.
    pub(crate) fn moment_of(&self, tick: Millis) -> Instant {
        self.began + Duration::from_millis(u64::try_from(tick.0).unwrap_or(0))
    }

    /// The controller has heard of this broker, and gives it up at `moment` at the earliest.
    pub(crate) fn lease_until(&self, moment: Instant) {
        let is_alone = self.metadata.quorum().status().voters == [self.node_id];
        let until = if is_alone { FOREVER } else { self.ticks_at(moment).0 };
        self.lease.store(until, Ordering::Release);
    }

    /// Whether the controller may have given this broker up: others may lead what it believes to lead.
    pub(crate) fn is_cut_off(&self) -> bool {
        let until = self.lease.load(Ordering::Acquire);
        until != FOREVER && self.ticks().0 >= until
    }

    /// Whom clients take for the controller: administration is forwarded, so any broker will do.
    pub(crate) fn controller_id(&self) -> i32 {
        let leader = self.metadata.quorum().status().leader;
        let image = self.metadata.image();
        let is_known = |id: &BrokerId| image.broker(*id).is_some_and(|broker| !broker.fenced);
        leader.filter(is_known).map_or(-1, |leader| leader.0)
    }

    /// A replica in the reader's own rack that has what the reader asks for next, where that is not this broker (KIP-392).
    pub(crate) fn closer_replica(&self, partition: &Partition, rack: &Str, from: Offset) -> Option<BrokerId> {
        if rack.is_empty() || !self.selects_by_rack() || !partition.is_leader() {
            return None;
        }
        let image = self.metadata.image();
        let is_near = |id: &BrokerId| {
            image
                .broker(*id)
                .is_some_and(|broker| broker.is_active() && broker.rack.as_deref() == Some(&**rack))
        };
        if is_near(&self.node_id) {
            return None;
        }
        partition.holders_of(from).into_iter().find(|id| is_near(id))
    }

    fn selects_by_rack(&self) -> bool {
        self.settings().broker().replication.replica_selector.as_deref() == Some(RACK_AWARE)
    }

    /// Waits until clients are answered.
    pub(crate) async fn until_ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives as long as this does.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Notes what readers may see: where a follower that starts again may go on from, and what Kafka's tools read.
    pub(crate) fn checkpoint_high_watermarks(&self) {
        (0..self.data_dirs.count()).for_each(|at| self.checkpoint_high_watermarks_of(at));
    }

    /// The same for a data directory.
    pub(crate) fn checkpoint_high_watermarks_of(&self, at: usize) {
        let hosted = self.partitions.load_full();
        let marks = hosted.partitions().map(|partition| (partition.id.clone(), partition.high_watermark()));
        if let Err(error) = self.data_dirs.checkpoint_high_watermarks(at, marks.collect()) {
            tracing::error!(%error, "high watermarks could not be written");
        }
    }

    /// What the metrics page shows besides what is counted.
    pub(crate) fn state(&self) -> BrokerState {
        let hosted = self.partitions.load_full();
        let (share_partitions, share_records_acquired) = self.share_partitions.counts();
        let mut state = BrokerState {
            groups: self.groups.states(),
            transactions_open: self.transactions.open(),
            share_partitions,
            share_records_acquired,
            share_sessions: self.share_sessions.len(),
            flushes_queued: self.flusher.queued(),
            fetch_sessions: self.fetch_sessions.len(),
            of_clients: self.telemetry.page(self.ticks()),
            is_controller: self.metadata.quorum().is_active_controller(),
            is_fenced: *self.fenced.borrow(),
            metadata_applied: self.metadata.quorum().applied(),
            clock_ahead_ms: self.clock_skew.ahead_ms(),
            log_dirs_offline: self.data_dirs.offline_count(),
            log_dirs_silent: self.data_dirs.silent_count(),
            partitions_offline: self.replicas.unopened().len(),
            ..BrokerState::default()
        };
        let image = self.metadata.image();
        for broker in image.brokers() {
            let count = if broker.fenced { &mut state.brokers_fenced } else { &mut state.brokers_active };
            *count += 1;
        }
        state.partitions_leaderless = image
            .topics()
            .flat_map(|topic| topic.partitions())
            .filter(|(_, partition)| partition.leader.is_none())
            .count();
        for partition in hosted.partitions() {
            state.partitions += 1;
            if let Some(counts) = partition.in_sync() {
                state.partitions_led += 1;
                state.partitions_under_replicated += usize::from(counts.in_sync < counts.replicas);
                state.partitions_under_min_isr += usize::from(counts.in_sync < counts.in_sync_min);
            }
            state.partitions_offline += usize::from(partition.log.is_offline());
            state.partitions_rotten += usize::from(partition.has_rot());
            state.fetches_parked += partition.waiting.fetches_parked();
            *state.log_bytes.entry(partition.id.topic.clone()).or_default() += partition.log.size_bytes();
        }
        state
    }

    /// True once the broker has begun to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Waits until the broker stops.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, and with it the broker.
    let _ = stop.wait_for(|stopping| *stopping).await;
}
