//! A broker's life: what is opened in which order, and closed in the reverse.
//!
//! Start: data directory (locked), metadata log, every partition log in parallel, coordinators, then the listeners:
//! nobody is answered before what was acknowledged is readable again. Stop: listeners, then the flush queue, then the
//! logs, then the marker of a clean shutdown, which lets the next start skip recovery.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use state::group::GroupConfig;
use state::metadata::{Endpoint, Image, RegisterBroker};
use storage::{DataDirError, Disk, StorageError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use wire::{Millis, Str, TopicPartition, Uuid};

use crate::admin::{self, Readiness};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::connection::ConnectionLimits;
use crate::coordinator::GroupCoordinator;
use crate::descriptors::Descriptors;
use crate::fetch_session::FetchSessions;
use crate::flush::Flusher;
use crate::housekeeping;
use crate::listener::Listener;
use crate::metadata::MetadataLoadError;
use crate::metrics::Metrics;
use crate::opening;
use crate::partitions::Partitions;
use crate::producer_ids::ProducerIds;
use crate::settings::{GroupSettings, Settings};
use crate::topics::Topics;
use crate::unpacking::Unpacking;

/// What a node is started with.
pub struct NodeOptions {
    /// The settings, checked.
    pub settings: Settings,
    /// Where files are kept.
    pub disk: Arc<dyn Disk>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
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
        "data directory {path} holds {partitions} partitions and no __cluster_metadata-0: restore that directory from a \
         copy, or move the partitions away to begin anew"
    )]
    NoMetadata {
        /// The data directory.
        path: PathBuf,
        /// Partitions in it.
        partitions: usize,
    },
    /// The cluster's metadata cannot be rebuilt.
    #[error(transparent)]
    Metadata(#[from] MetadataLoadError),
    /// The cluster does not take the broker, or its metadata log cannot be written.
    #[error("the broker cannot be registered: {0}")]
    Register(String),
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
    admin: Option<tokio::task::JoinHandle<()>>,
}

impl Node {
    /// Opens everything and begins to serve. When this returns the node answers.
    pub async fn start(options: NodeOptions) -> Result<Node, StartError> {
        let NodeOptions { settings, disk, clock } = options;
        let settings = Arc::new(settings);
        let descriptors = Descriptors::raise();
        let metrics = Metrics::new();
        let readiness = Readiness::starting();
        let (admin_addr, admin) = match settings.admin_listener() {
            Some(address) => {
                let socket = listen(&address.to_string()).await?;
                let bound = socket.local_addr().map_err(|error| listen_error(&address, error))?;
                (Some(bound), Some(admin::serve(socket, readiness.clone(), metrics.clone())))
            }
            None => (None, None),
        };
        let opened = opening::open(&settings, &disk, clock.now()).await?;
        let (stop, stopping) = watch::channel(false);
        let flusher = Flusher::start(metrics.clone()).map_err(StartError::Thread)?;
        let groups = GroupCoordinator::new(group_config(&settings.broker().groups), Arc::clone(&clock));
        let broker = Arc::new(Broker {
            node_id: settings.node_id(),
            cluster_id: opened.data_dir.cluster_id().clone(),
            fetch_sessions: FetchSessions::new(settings.broker().network.fetch_sessions_max),
            clock,
            data_dir: opened.data_dir,
            metadata: opened.metadata,
            partitions: Partitions::default(),
            topics: Topics::default(),
            unpacking: Unpacking::new(),
            descriptors,
            flusher,
            groups,
            producer_ids: ProducerIds::default(),
            metrics,
            epoch: AtomicI64::new(-1),
            stop,
            settings: ArcSwap::from(settings),
        });
        broker.apply_dynamic_settings();
        broker.open_partitions(opened.found).await?;

        let listeners = bind(&broker).await?;
        let kafka_addr = listeners.first().and_then(|listener| listener.socket.local_addr().ok());
        broker.register(&listeners).await?;
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(listener.run(stopping.clone()));
        }
        tasks.spawn(housekeeping::run(Arc::clone(&broker), stopping.clone()));
        tasks.spawn(Arc::clone(&broker.groups).run_clock(stopping));
        let looked_at = Arc::downgrade(&broker);
        broker
            .metrics
            .look_up_with(move || looked_at.upgrade().map(|broker| broker.state()).unwrap_or_default());
        readiness.ready();
        Ok(Node {
            broker,
            readiness,
            kafka_addr: kafka_addr.expect("the settings hold at least one listener"),
            admin_addr,
            tasks,
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
    pub async fn failed(&self) {
        self.broker.metadata.failed().await;
        self.readiness.not_ready("the metadata log is offline");
    }

    /// Stops: answers what is in flight, flushes, closes every log, and marks the shutdown as clean.
    pub async fn shutdown(mut self) -> Result<(), StorageError> {
        self.readiness.not_ready("the broker is stopping");
        self.broker.stop.send_replace(true);
        // A compaction may have minutes before it.
        self.broker.data_dir.stop_cleaning();
        while self.tasks.join_next().await.is_some() {}
        let broker = Arc::clone(&self.broker);
        let closed = spawn_blocking(move || {
            broker.flusher.stop();
            broker.checkpoint_high_watermarks();
            broker.data_dir.close(broker.clock.now())
        });
        let closed = closed.await.expect("closing logs does not panic");
        if let Some(admin) = self.admin {
            admin.abort();
        }
        closed
    }
}

fn group_config(groups: &GroupSettings) -> GroupConfig {
    GroupConfig {
        session_timeout_ms_min: int_millis(groups.session_timeout_min),
        session_timeout_ms_max: int_millis(groups.session_timeout_max),
        initial_rebalance_delay_ms: groups.initial_rebalance_delay.0,
        group_size_max: groups.group_size_max,
        offset_metadata_bytes_max: groups.offset_metadata_bytes_max,
        offsets_retention_ms: groups.offsets_retention_minutes.saturating_mul(60_000),
        // A group's record has to fit a segment, with room for others.
        record_bytes_max: GroupConfig::default()
            .record_bytes_max
            .min(groups.offsets_topic_segment_bytes as usize / 4),
    }
}

fn int_millis(millis: Millis) -> i32 {
    i32::try_from(millis.0).unwrap_or(i32::MAX)
}

/// Binds every listener. Connections wait in the backlog until they run.
async fn bind(broker: &Arc<Broker>) -> Result<Vec<Listener>, StartError> {
    let settings = broker.settings();
    let network = &settings.broker().network;
    let limits = ConnectionLimits {
        frame_bytes_max: network.request_bytes_max,
        idle_max: network.connection_idle_max,
    };
    let mut listeners = Vec::new();
    for endpoint in settings.listeners() {
        listeners.push(Listener {
            name: Str::copy_from(&endpoint.name),
            socket: listen(&endpoint.bind.to_string()).await?,
            broker: Arc::clone(broker),
            limits,
        });
    }
    Ok(listeners)
}

/// Kafka's number of the protocol without encryption and authentication.
const SECURITY_PROTOCOL_PLAINTEXT: i16 = 0;

/// Whoever has the data directory's lock has outlived the process that had it before.
const IS_ALIVE: bool = false;

impl Broker {
    /// Tells the cluster that this broker is here, and where.
    async fn register(&self, listeners: &[Listener]) -> Result<(), StartError> {
        let settings = self.settings();
        let endpoints = listeners.iter().filter_map(|listener| {
            let configured =
                settings.listeners().iter().find(|configured| *configured.name == *listener.name)?;
            let address = configured.advertised.as_ref().unwrap_or(&configured.bind);
            let bound = listener.socket.local_addr().ok()?;
            Some(Endpoint {
                listener: listener.name.clone(),
                host: Str::copy_from(&address.host),
                port: if address.port == 0 { bound.port() } else { address.port },
                security_protocol: SECURITY_PROTOCOL_PLAINTEXT,
            })
        });
        let command = RegisterBroker {
            id: self.node_id,
            incarnation_id: Uuid(rand::random()),
            endpoints: endpoints.collect(),
            features: Vec::new(),
            rack: settings.broker().node.rack.as_deref().map(Str::copy_from),
            log_dirs: vec![self.data_dir.directory_id()],
            fenced: false,
            previous_epoch: -1,
        };
        let settings = Arc::clone(&settings);
        let decide = |image: &Image| {
            // Alone in its cluster, it is the one that knows of all epochs that were given.
            let epoch = image.brokers().map(|broker| broker.epoch).max().unwrap_or(0) + 1;
            image.register_broker(&command, epoch, IS_ALIVE, &*settings)
        };
        let registered = self
            .metadata
            .try_commit(self.clock.now(), decide)
            .await
            .map_err(|error| StartError::Register(error.to_string()))?
            .map_err(|refusal| StartError::Register(refusal.to_string()))?;
        self.epoch.store(registered.epoch, Ordering::Release);
        Ok(())
    }
}

async fn listen(address: &str) -> Result<TcpListener, StartError> {
    let bound = match address.strip_prefix(':') {
        // Every interface: of both protocols, where the machine has both.
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            Err(error) if error.kind() != ErrorKind::AddrInUse => {
                TcpListener::bind(format!("0.0.0.0:{port}")).await
            }
            bound => bound,
        },
        None => TcpListener::bind(address).await,
    };
    bound.map_err(|error| listen_error(&address, error))
}

fn listen_error(address: &impl std::fmt::Display, error: std::io::Error) -> StartError {
    StartError::Listen { address: address.to_string(), error }
}
