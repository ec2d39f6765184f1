//! A broker's life: what is opened in which order, and closed in the reverse.
//!
//! Start: data directory (locked), metadata log, listeners (brokers are answered from here on), the quorum, registration, every
//! partition log in parallel, heartbeats. Clients are answered once the cluster counts this broker in: before that, what was
//! acknowledged may not be readable yet. Stop: leadership goes to others, then listeners, the flush queue, the logs, and the
//! mark of a clean stop, which lets the next start skip recovery.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use client::Environment;
use state::group::{Assignor, ConsumerConfig, GroupConfig};
use state::share::state::ShareStateConfig;
use state::txn::TxnConfig;
use storage::{DataDirError, Disk, StorageError};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use wire::messages::register_broker::Listener as RegisteredListener;
use wire::{Millis, Str, TopicPartition, Uuid};

use crate::admin::{self, Readiness};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::clock_skew::ClockSkew;
use crate::connection::ConnectionLimits;
use crate::controller::{self, Controller};
use crate::controller_link::ControllerLink;
use crate::descriptors::Descriptors;
use crate::fetch_session::FetchSessions;
use crate::flush::Flusher;
use crate::group_lag::GroupLags;
use crate::groups::GroupCoordinator;
use crate::handler::share_group::ShareDeletions;
use crate::inbound::InboundBudget;
use crate::inspect::Inspector;
use crate::isr::{self, InSync};
use crate::lifecycle::{self, Registration};
use crate::listener::{Listener, OwnLimits};
use crate::metadata::Metadata;
use crate::metrics::{BrokerState, Metrics};
use crate::moves::Moves;
use crate::network::{Acceptor, Network};
use crate::partitions::Partitions;
use crate::peer::{PeerLinks, Reach};
use crate::producer_ids::ProducerIds;
use crate::quorum::{Driver, Peers, Quorum, QuorumLogError, QuorumOptions};
use crate::quotas::Quotas;
use crate::replicas::{self, Replicas};
use crate::replication::{Followers, Replication};
use crate::settings::{GroupSettings, Settings, ShareSettings};
use crate::share_coordinator::ShareCoordinator;
use crate::share_partitions::{self, SharePartitions};
use crate::share_sessions::ShareSessions;
use crate::telemetry::Telemetry;
use crate::throttle::Throttles;
use crate::topics::Topics;
use crate::transactions::TxnCoordinator;
use crate::unpacking::Unpacking;
use crate::{blocking, disks, housekeeping, markers, moves, opening, scrub};

/// What a node is started with.
pub struct NodeOptions {
    /// The settings, checked.
    pub settings: Settings,
    /// Where files are kept.
    pub disk: Arc<dyn Disk>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// How other brokers are reached, and where dice come from.
    pub environment: Arc<dyn Environment>,
    /// How connections are taken.
    pub network: Arc<dyn Network>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is locked, belongs to somebody else, or cannot be read.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A log cannot be opened.
    #[error("the log of {partition} cannot be opened: {error}")]
    Log {
        /// Which one.
        partition: TopicPartition,
        /// Why.
        error: StorageError,
    },
    /// The data directory holds partitions, and no metadata that says whose they are.
    #[error(
        "data directory {path} holds no __cluster_metadata-0, and the data directories hold {partitions} partitions: restore that \
         directory from a copy; or, where other brokers have the cluster's metadata, move the directories of the partitions away, and \
         they are copied from the others"
    )]
    NoMetadata {
        /// The data directory of the metadata.
        path: PathBuf,
        /// Partitions in all data directories.
        partitions: usize,
    },
    /// The metadata lies in another directory than the settings say.
    #[error(
        "data directory {path} holds no __cluster_metadata-0, and {elsewhere} does: set metadata.log.dir={elsewhere}, or put that \
         directory first in log.dirs"
    )]
    MetadataElsewhere {
        /// Where it should be.
        path: PathBuf,
        /// Where it is.
        elsewhere: PathBuf,
    },
    /// The cluster's metadata cannot be rebuilt.
    #[error(transparent)]
    Metadata(#[from] QuorumLogError),
    /// The cluster does not take the broker.
    #[error("the broker cannot be registered: {0}")]
    Register(String),
    /// Logs of no topic cannot be put out of the way.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The metadata log went offline before the broker was ready.
    #[error("the metadata log went offline")]
    Offline,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address as it was given.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A thread could not be started.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// A running broker.
pub struct Node {
    broker: Arc<Broker>,
    readiness: Readiness,
    kafka_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    tasks: JoinSet<()>,
    /// What goes on until all else has ended.
    quorum: JoinHandle<()>,
    stop_quorum: watch::Sender<bool>,
    admin: Option<JoinHandle<()>>,
}

impl Node {
    /// What looks into the node while it runs.
    pub fn inspector(&self) -> Inspector {
        Inspector::new(&self.broker)
    }

    /// Opens everything and begins to serve. When this returns the node answers.
    pub async fn start(options: NodeOptions) -> Result<Node, StartError> {
        let NodeOptions { settings, disk, clock, environment, network } = options;
        let settings = Arc::new(settings);
        let descriptors = Descriptors::raise();
        let metrics = Metrics::new();
        let readiness = Readiness::starting();
        let (admin_addr, admin) = match settings.admin_listener() {
            Some(address) => {
                let socket = tokio::net::TcpListener::bind(address.to_string()).await;
                let socket = socket.map_err(|error| listen_error(&address, error))?;
                let bound = socket.local_addr().map_err(|error| listen_error(&address, error))?;
                (Some(bound), Some(admin::serve(socket, readiness.clone(), metrics.clone())))
            }
            None => (None, None),
        };
        let opened = {
            let environment = Arc::clone(&environment);
            opening::open(&settings, &disk, clock.now(), move || fresh_id(&*environment)).await?
        };
        let sockets = bind(&settings, &*network).await?;
        let registration = Arc::new(registration(
            &settings,
            &sockets,
            opened.data_dirs.last_broker_epoch(),
            fresh_id(&*environment),
        )?);
        let cluster_id = opened.data_dirs.cluster_id().clone();
        let reach = Reach::new(Arc::clone(&environment), &format!("ottla-broker-{}", settings.node_id()));
        let (quorum, driver) =
            open_quorum(&settings, &reach, &cluster_id, opened.metadata_log, disk, &clock).await?;
        let (stop, stopping) = watch::channel(false);
        let flusher = Flusher::start(metrics.clone(), &environment, opened.data_dirs.count())
            .map_err(StartError::Thread)?;
        let (groups, _) = GroupCoordinator::new(
            group_config(&settings.broker().groups, &settings.broker().share),
            Arc::clone(&clock),
        );
        let replication = &settings.broker().replication;
        let (timeout_max, expiration) =
            (replication.transaction_timeout_max, replication.transactional_id_expiration);
        let txn_config = TxnConfig {
            timeout_ms_max: i32::try_from(timeout_max.as_millis()).unwrap_or(i32::MAX),
            id_expiration_ms: i64::try_from(expiration.as_millis()).unwrap_or(i64::MAX),
        };
        let (transactions, decided) = TxnCoordinator::new(txn_config, Arc::clone(&clock));
        let share_state_config =
            ShareStateConfig { updates_per_snapshot: settings.broker().share.updates_per_snapshot };
        let (share_states, _) = ShareCoordinator::new(share_state_config, Arc::clone(&clock));
        let broker = Arc::new(Broker {
            node_id: settings.node_id(),
            incarnation_id: registration.incarnation_id,
            cluster_id,
            fetch_sessions: FetchSessions::new(
                settings.broker().network.fetch_sessions_max,
                environment.random(),
            ),
            clock,
            moves: Moves::new(opened.data_dirs.count()),
            data_dirs: opened.data_dirs,
            has_no_disk: watch::Sender::new(false),
            environment,
            metadata: Metadata::new(quorum),
            controller: Controller::default(),
            controller_link: ControllerLink::new(&reach),
            bootstrap: settings.bootstrap_servers().to_vec(),
            partitions: Partitions::default(),
            replicas: Replicas::default(),
            replication: Replication::default(),
            throttles: Throttles::default(),
            followers: Followers::default(),
            quotas: Quotas::default(),
            census: Arc::default(),
            inbound_budget: InboundBudget::new(settings.broker().network.request_bytes_queued_max),
            telemetry: Telemetry::default(),
            isr: InSync::default(),
            topics: Topics::default(),
            unpacking: Unpacking::new(),
            descriptors,
            flusher,
            groups,
            transactions,
            share_states,
            share_partitions: SharePartitions::default(),
            share_sessions: ShareSessions::new(settings.broker().share.sessions_max),
            share_deletions: ShareDeletions::default(),
            group_lags: GroupLags::default(),
            peers: PeerLinks::new(&reach),
            dead_letter_peers: PeerLinks::new(&reach),
            producer_ids: ProducerIds::default(),
            metrics,
            epoch: AtomicI64::new(-1),
            fenced: watch::Sender::new(true),
            is_leaving: AtomicBool::new(false),
            lease: AtomicI64::new(0),
            clock_skew: ClockSkew::default(),
            metadata_caught_up: Notify::new(),
            began: Instant::now(),
            ready: watch::Sender::new(false),
            stop,
            settings: ArcSwap::from(settings),
        });
        let kafka_addr = sockets.first().and_then(|(_, socket)| socket.local_addr().ok());
        let mut tasks = JoinSet::new();
        let for_brokers = broker.settings().broker().network.inter_broker_listener.clone();
        let for_brokers = for_brokers.filter(|_| sockets.len() > 1);
        let configured = broker.settings().listeners().to_vec();
        for ((name, socket), configured) in sockets.into_iter().zip(configured) {
            let limits = connection_limits(&broker.settings());
            let is_for_brokers = for_brokers.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(&name));
            let own = OwnLimits::new(&configured);
            let broker = Arc::clone(&broker);
            let listener = Listener { name, socket, broker, limits, is_for_brokers, own };
            tasks.spawn(listener.run(stopping.clone()));
        }
        let (stop_quorum, quorum_stopping) = watch::channel(false);
        let quorum = driver.start(quorum_stopping).await?;
        let looked_at = Arc::downgrade(&broker);
        broker.metrics.look_up_with(move || state(looked_at.clone()));
        let may_have_vote_back = tokio::select! {
            joined = join(&broker, &registration) => joined?,
            () = broker.metadata.quorum().failed() => return Err(StartError::Offline),
        };
        tasks.spawn(replicas::run(Arc::clone(&broker), stopping.clone()));
        for at in 0..broker.data_dirs.count() {
            tasks.spawn(disks::run(Arc::clone(&broker), at, stopping.clone()));
            tasks.spawn(moves::run(Arc::clone(&broker), at, stopping.clone()));
        }
        tasks.spawn(isr::run(Arc::clone(&broker), stopping.clone()));
        tasks.spawn(lifecycle::beat(Arc::clone(&broker), registration, stopping.clone()));
        tasks.spawn(lifecycle::regain_vote(Arc::clone(&broker), may_have_vote_back, stopping.clone()));
        tasks.spawn(housekeeping::run(Arc::clone(&broker), stopping.clone()));
        tasks.spawn(scrub::run(Arc::clone(&broker), stopping.clone()));
        tasks.spawn(markers::run(Arc::clone(&broker), decided, stopping.clone()));
        tasks.spawn(Arc::clone(&broker.transactions).run_clock(stopping.clone()));
        tasks.spawn(share_partitions::run_clock(Arc::clone(&broker), stopping.clone()));
        tasks.spawn(Arc::clone(&broker.groups).run_clock(stopping));
        let mut fenced = broker.fenced.subscribe();
        // The sender lives as long as the broker does.
        let _ = fenced.wait_for(|fenced| !*fenced).await;
        broker.ready.send_replace(true);
        readiness.ready();
        Ok(Node {
            broker,
            readiness,
            kafka_addr: kafka_addr.expect("the settings hold at least one listener"),
            admin_addr,
            tasks,
            quorum,
            stop_quorum,
            admin,
        })
    }

    /// The first listener's address, with the port that was bound.
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka_addr
    }

    /// The address of `/livez`, `/readyz` and `/metrics`, if they are served.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Waits until the broker cannot go on: without its metadata log it can make and change nothing, and a supervisor had
    /// better start it again. Never returns while all is well.
    /// Says why.
    pub async fn failed(&self) -> &'static str {
        let mut has_no_disk = self.broker.has_no_disk.subscribe();
        let why = tokio::select! {
            () = self.broker.metadata.quorum().failed() => {
                "the metadata log is offline after a disk error, and a broker without it is of no use"
            }
            // The sender lives as long as the broker does.
            _ = has_no_disk.wait_for(|has_none| *has_none) => {
                "the data directory of the metadata has failed, or all of log.dirs have: repair or replace the disk"
            }
        };
        self.readiness.not_ready(why);
        why
    }

    /// Stops: has others lead, answers what is in flight, flushes, closes every log, and marks the shutdown as clean.
    pub async fn shutdown(mut self) -> Result<(), StorageError> {
        self.readiness.not_ready("the broker is stopping");
        // A compaction may have minutes before it.
        self.broker.data_dirs.stop_cleaning();
        lifecycle::hand_over(&self.broker).await;
        self.broker.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        self.stop_quorum.send_replace(true);
        // A panic of the task was reported where it happened.
        let _ = (&mut self.quorum).await;
        let broker = Arc::clone(&self.broker);
        let closed = blocking::run(move || {
            broker.flusher.stop();
            broker.checkpoint_high_watermarks();
            broker.data_dirs.close(broker.clock.now(), broker.epoch.load(Ordering::Acquire))
        });
        let closed = closed.await;
        if let Some(admin) = self.admin {
            admin.abort();
        }
        closed
    }
}

/// What the metrics page shows besides what is counted; asks other brokers.
async fn state(broker: Weak<Broker>) -> BrokerState {
    let Some(broker) = broker.upgrade() else { return BrokerState::default() };
    let group_lag = broker.group_lags.look(&broker).await;
    // It takes locks.
    let state = blocking::run(move || broker.state()).await;
    BrokerState { group_lag, ..state }
}

fn group_config(groups: &GroupSettings, share: &ShareSettings) -> GroupConfig {
    GroupConfig {
        session_timeout_ms_min: int_millis(groups.session_timeout_min),
        session_timeout_ms_max: int_millis(groups.session_timeout_max),
        initial_rebalance_delay_ms: groups.initial_rebalance_delay.0,
        group_size_max: groups.group_size_max,
        offset_metadata_bytes_max: groups.offset_metadata_bytes_max,
        offsets_retention_ms: groups.offsets_retention_minutes.saturating_mul(60_000),
        expired_retention_ms: groups.expired_retention_minutes.saturating_mul(60_000),
        // A group's record has to fit a segment, with room for others.
        record_bytes_max: GroupConfig::default()
            .record_bytes_max
            .min(groups.offsets_topic_segment_bytes as usize / 4),
        consumer: ConsumerConfig {
            session_timeout_ms: int_millis(groups.consumer_session_timeout),
            heartbeat_interval_ms: int_millis(groups.consumer_heartbeat_interval),
            group_size_max: groups.consumer_group_size_max,
            assignors: groups.consumer_assignors.iter().filter_map(|name| Assignor::named(name)).collect(),
            upgrade: matches!(&*groups.consumer_migration_policy, "bidirectional" | "upgrade"),
            downgrade: matches!(&*groups.consumer_migration_policy, "bidirectional" | "downgrade"),
        },
        share_session_timeout_ms: share.session_timeout_ms,
    }
}

fn int_millis(millis: Millis) -> i32 {
    i32::try_from(millis.0).unwrap_or(i32::MAX)
}

/// Has the cluster know the broker, and opens what the cluster says that the broker has. Says whether the node may ask for a
/// vote that it lost.
async fn join(broker: &Arc<Broker>, registration: &Registration) -> Result<bool, StartError> {
    // The only voter needs the task that decides to be registered at all.
    let stop = broker.stop.subscribe();
    tokio::spawn(controller::run(Arc::clone(broker), stop));
    let may_have_vote_back = lifecycle::join(broker, registration).await?;
    broker.apply_dynamic_settings();
    let cleaner = Arc::clone(broker);
    blocking::run(move || replicas::set_aside_strays(&cleaner)).await;
    replicas::reconcile(broker).await;
    let mover = Arc::clone(broker);
    blocking::run(move || moves::resume(&mover)).await;
    Ok(may_have_vote_back)
}

/// Reads the metadata log, and says who the others are.
async fn open_quorum(
    settings: &Settings,
    reach: &Reach,
    cluster_id: &Str,
    log: Arc<storage::Log>,
    disk: Arc<dyn Disk>,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<Quorum>, Driver), StartError> {
    let node = settings.node_id();
    let voters = settings.quorum_voters();
    let first_voters = match (voters.is_empty(), settings.bootstrap_servers().is_empty()) {
        (true, true) => vec![node],
        _ if voters.contains_key(&node) => voters.keys().copied().collect(),
        _ => Vec::new(),
    };
    let peers = Peers::new(node, cluster_id.clone(), voters.clone(), reach.clone());
    let options = QuorumOptions {
        node,
        log,
        disk,
        peers,
        clock: Arc::clone(clock),
        election_timeout: settings.broker().replication.election_timeout,
        first_voters,
    };
    Ok(Quorum::open(options).await?)
}

/// Binds every listener. Connections wait in the backlog until they run.
async fn bind(
    settings: &Settings,
    network: &dyn Network,
) -> Result<Vec<(Str, Box<dyn Acceptor>)>, StartError> {
    let mut sockets = Vec::new();
    for endpoint in settings.listeners() {
        let address = endpoint.bind.to_string();
        let socket = network.bind(&address).await.map_err(|error| listen_error(&address, error))?;
        sockets.push((Str::copy_from(&endpoint.name), socket));
    }
    Ok(sockets)
}

fn connection_limits(settings: &Settings) -> ConnectionLimits {
    let network = &settings.broker().network;
    ConnectionLimits { frame_bytes_max: network.request_bytes_max, idle_max: network.connection_idle_max }
}

/// Kafka's number of the protocol without encryption and authentication.
const SECURITY_PROTOCOL_PLAINTEXT: i16 = 0;

/// What the broker says of itself to the cluster: the listener for brokers first.
fn registration(
    settings: &Settings,
    sockets: &[(Str, Box<dyn Acceptor>)],
    previous_epoch: i64,
    incarnation_id: Uuid,
) -> Result<Registration, StartError> {
    let mut listeners = Vec::new();
    for ((name, socket), configured) in sockets.iter().zip(settings.listeners()) {
        let address = settings.registered_address(configured);
        let bound = socket.local_addr().map_err(|error| listen_error(&configured.bind, error))?;
        listeners.push(RegisteredListener {
            name: name.clone(),
            host: Str::copy_from(&address.host),
            port: if address.port == 0 { bound.port() } else { address.port },
            security_protocol: SECURITY_PROTOCOL_PLAINTEXT,
        });
    }
    if let Some(name) = settings.broker().network.inter_broker_listener.as_deref() {
        listeners.sort_by_key(|listener| !listener.name.eq_ignore_ascii_case(name));
    }
    Ok(Registration { incarnation_id, listeners, previous_epoch })
}

/// A random id (RFC 9562, version 4), as Kafka makes them: none starts with `-` in its text form, because people pass ids on
/// command lines.
pub(crate) fn fresh_id(environment: &dyn Environment) -> Uuid {
    loop {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&environment.random().to_be_bytes());
        bytes[8..].copy_from_slice(&environment.random().to_be_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let id = Uuid(bytes);
        if !id.to_string().starts_with('-') {
            return id;
        }
    }
}

fn listen_error(address: &impl std::fmt::Display, error: std::io::Error) -> StartError {
    StartError::Listen { address: address.to_string(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_are_random_uuids_that_no_tool_takes_for_an_option() {
        for _ in 0..1_000 {
            let Uuid(bytes) = fresh_id(&client::TokioEnvironment);
            assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (4, 2));
            assert!(!Uuid(bytes).to_string().starts_with('-'));
        }
    }
}
