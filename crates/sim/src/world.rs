//! What a simulated node has of the world: its clock, its disk, its network.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use broker::clock::Clock;
use broker::network::{Accepted, Acceptor, Network};
use broker::settings::{Settings, Sources};
use broker::{Inspector, Node, NodeOptions};
use client::{Address, BoxFuture, Environment, Socket};
use parking_lot::Mutex;
use storage::fault::FaultDisk;
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};
use wire::Millis;

use crate::dice::Dice;

/// Where every broker listens.
pub(crate) const PORT: u16 = 9092;
/// When every story begins, in milliseconds since 1970.
const BEGINNING: i64 = 1_700_000_000_000;
/// After so long without a word a member of a group is gone.
pub(crate) const GROUP_SESSION: Duration = Duration::from_millis(3_000);
/// How long a record is with a member of a share group.
pub(crate) const SHARE_LOCK: Duration = Duration::from_millis(1_500);
/// How often a record is delivered to a share group.
pub(crate) const DELIVERIES_MAX: i16 = 5;
/// Partitions of the group coordinators' topic.
pub(crate) const OFFSETS_PARTITIONS: i32 = 2;

/// One node as it outlives its crashes.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) id: i32,
    pub(crate) disk: FaultDisk,
    /// How far its clock is off, in milliseconds.
    pub(crate) skew: Arc<AtomicI64>,
    pub(crate) dice: Dice,
    pub(crate) brokers: i32,
    /// Looks into its broker.
    pub(crate) inspector: Arc<Mutex<Option<Inspector>>>,
    /// Its broker has given up.
    pub(crate) has_ended: Arc<AtomicBool>,
}

impl Machine {
    pub(crate) fn new(id: i32, brokers: i32, dice: Dice) -> Self {
        Machine {
            id,
            disk: FaultDisk::new(),
            skew: Arc::default(),
            dice,
            brokers,
            inspector: Arc::default(),
            has_ended: Arc::default(),
        }
    }

    /// Its process ends, and nothing of it is left but what is on the disk.
    pub(crate) fn end(&self, sim: &mut Sim<'_>) {
        *self.inspector.lock() = None;
        sim.crash(self.name());
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        name(self.id)
    }

    /// Runs its broker until that gives up.
    pub(crate) async fn run(self) -> turmoil::Result {
        let options = NodeOptions {
            settings: self.settings(),
            disk: Arc::new(self.disk.clone()),
            clock: Arc::new(MachineClock(Arc::clone(&self.skew))),
            environment: Arc::new(MachineEnvironment { dice: self.dice.clone() }),
            network: Arc::new(MachineNetwork),
        };
        match Node::start(options).await {
            Ok(node) => {
                *self.inspector.lock() = Some(node.inspector());
                node.failed().await;
                tracing::warn!(node = self.id, "the metadata log is offline");
            }
            Err(error) => tracing::warn!(node = self.id, %error, "the broker does not start"),
        }
        self.has_ended.store(true, Ordering::Relaxed);
        // What it has begun ends with its process, which is the supervisor's to end.
        std::future::pending().await
    }

    fn settings(&self) -> Settings {
        let voters: Vec<String> = (1..=self.brokers).map(|id| format!("{id}@{}:{PORT}", name(id))).collect();
        let settings = [
            format!("node.id={}", self.id),
            "cluster.id=simulated".to_owned(),
            format!("log.dirs={}", PathBuf::from("/data").display()),
            format!("listeners=PLAINTEXT://0.0.0.0:{PORT}"),
            format!("advertised.listeners=PLAINTEXT://{}:{PORT}", self.name()),
            format!("controller.quorum.voters={}", voters.join(",")),
            "default.replication.factor=3".to_owned(),
            "min.insync.replicas=2".to_owned(),
            format!("offsets.topic.num.partitions={OFFSETS_PARTITIONS}"),
            "transaction.state.log.num.partitions=2".to_owned(),
            "share.coordinator.state.topic.num.partitions=2".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
            "group.min.session.timeout.ms=1000".to_owned(),
            format!("group.consumer.session.timeout.ms={}", GROUP_SESSION.as_millis()),
            "group.consumer.heartbeat.interval.ms=400".to_owned(),
            "group.share.min.session.timeout.ms=1000".to_owned(),
            format!("group.share.session.timeout.ms={}", GROUP_SESSION.as_millis()),
            "group.share.min.heartbeat.interval.ms=100".to_owned(),
            "group.share.heartbeat.interval.ms=400".to_owned(),
            "group.share.min.record.lock.duration.ms=1000".to_owned(),
            format!("group.share.record.lock.duration.ms={}", SHARE_LOCK.as_millis()),
            format!("group.share.delivery.count.limit={DELIVERIES_MAX}"),
            "replica.lag.time.max.ms=3000".to_owned(),
            // To catch up takes a while.
            "replica.fetch.max.bytes=1024".to_owned(),
            "replica.fetch.response.max.bytes=2048".to_owned(),
            // Segments come and go within a story.
            "log.roll.ms=1500".to_owned(),
            "log.flush.offset.checkpoint.interval.ms=2000".to_owned(),
        ];
        let sources = settings.iter().fold(Sources::new(), |sources, setting| sources.set(setting));
        Settings::load(sources).expect("the simulator's settings are valid")
    }
}

/// What a node is called in the simulated network.
pub(crate) fn name(id: i32) -> String {
    format!("n{id}")
}

struct MachineClock(Arc<AtomicI64>);

impl Clock for MachineClock {
    fn now(&self) -> Millis {
        Millis(true_time().0 + self.0.load(Ordering::Relaxed))
    }
}

/// How long the story has been told.
pub(crate) fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// What a clock says that is right.
pub(crate) fn true_time() -> Millis {
    Millis(BEGINNING + i64::try_from(elapsed().as_millis()).unwrap_or(i64::MAX))
}

/// The client's side, for brokers and for the load.
pub(crate) struct MachineEnvironment {
    pub(crate) dice: Dice,
}

impl Environment for MachineEnvironment {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
            Ok(Box::new(stream) as Box<dyn Socket>)
        })
    }

    fn now(&self) -> Millis {
        true_time()
    }

    fn random(&self) -> u64 {
        self.dice.next()
    }
}

struct MachineNetwork;

impl Network for MachineNetwork {
    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Acceptor>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(MachineListener(listener)) as Box<dyn Acceptor>)
        })
    }
}

struct MachineListener(TcpListener);

impl Acceptor for MachineListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let (socket, peer) = self.0.accept().await?;
            let local = socket.local_addr()?;
            Ok(Accepted { socket: Box::new(socket), peer, local, descriptor: None })
        })
    }
}
