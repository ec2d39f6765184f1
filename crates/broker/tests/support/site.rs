//! Where a story takes place: on a broker of ours that is its own, or on one Apache Kafka that all stories of a test
//! binary share under names of their own.
//!
//! Kafka's jars are where `OTTLA_KAFKA_LIB` says (`cargo xtask test` sets it); without it there is no Kafka to tell the
//! story on, and the test says so.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::cluster::free_port;
use super::{TestBroker, TestClient, wait_until};

/// Makes two tests of each story, which is a function of its place.
#[macro_export]
macro_rules! on_both {
    ($($story:ident,)*) => {
        mod on_ottla {
            $(#[test] fn $story() { super::$story($crate::support::Place::Ottla); })*
        }
        mod on_kafka {
            $(#[test] fn $story() {
                if let Some(kafka) = $crate::support::Place::kafka() {
                    super::$story(kafka);
                }
            })*
        }
    };
}

/// Whose broker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    Ottla,
    Kafka,
}

/// A broker as a story sees it.
pub struct Site {
    address: SocketAddr,
    /// Sets its names apart from those of others on the same broker.
    mark: String,
    /// Behind what goes through it.
    _own: Option<TestBroker>,
}

impl Place {
    /// Apache Kafka, if its jars are there.
    pub fn kafka() -> Option<Place> {
        if std::env::var_os("OTTLA_KAFKA_LIB").is_none() {
            println!("OTTLA_KAFKA_LIB is not set: no Apache Kafka to tell this story on");
            return None;
        }
        Some(Place::Kafka)
    }

    /// A broker with nothing on it that the story can see.
    pub fn start(self) -> Site {
        self.start_with(&[])
    }

    /// The same with settings for a broker of ours. Kafka's are those below.
    pub fn start_with(self, settings: &[&str]) -> Site {
        static SITES: AtomicU32 = AtomicU32::new(0);
        match self {
            Place::Ottla => {
                let own = TestBroker::start(settings);
                Site { address: own.addr(), mark: String::new(), _own: Some(own) }
            }
            Place::Kafka => {
                static KAFKA: OnceLock<Kafka> = OnceLock::new();
                let address = KAFKA.get_or_init(Kafka::start).address;
                let mark = format!("-{}", SITES.fetch_add(1, Ordering::Relaxed));
                Site { address, mark, _own: None }
            }
        }
    }
}

impl Site {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// A connection.
    pub fn client(&self) -> TestClient {
        TestClient::connect_to(self.address)
    }

    /// What a topic, a group or a producer of this story is called here.
    pub fn name(&self, name: &str) -> &'static str {
        // A test's worth of names is kept to the end.
        format!("{name}{}", self.mark).leak()
    }

    /// Creates a topic and tells its name here.
    pub fn create_topic(&self, name: &str, partitions: i32) -> &'static str {
        self.create_topic_with(name, partitions, &[])
    }

    /// The same with settings of its own.
    pub fn create_topic_with(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&'static str, &'static str)],
    ) -> &'static str {
        let name = self.name(name);
        let mut client = self.client();
        client.create_topic_with(name, partitions, configs);
        (0..partitions).for_each(|partition| wait_until(|| client.fetch(name, partition, 0).is_ok()));
        name
    }
}

/// What Kafka is told, so that stories need not wait for what is not their subject.
const QUICK: &[&str] = &[
    "group.min.session.timeout.ms=500",
    "group.consumer.min.heartbeat.interval.ms=100",
    "group.consumer.heartbeat.interval.ms=3000",
    "group.initial.rebalance.delay.ms=0",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms=200",
    "offsets.topic.replication.factor=1",
    "offsets.topic.num.partitions=3",
    "transaction.state.log.replication.factor=1",
    "transaction.state.log.min.isr=1",
    "transaction.state.log.num.partitions=3",
    "num.network.threads=2",
    "num.io.threads=4",
    "log.cleaner.enable=false",
];

/// The process, which ends with the test's.
struct Kafka {
    address: SocketAddr,
    /// A shell that holds the process; it ends it, and removes its directory, when this end of its input is closed, however
    /// the test ends.
    _keeper: Child,
}

const KEEPER: &str = r#"dir=$1; shift; "$@" </dev/null & read -r _; kill -9 $!; wait; rm -rf "$dir""#;

impl Kafka {
    fn start() -> Kafka {
        let lib = PathBuf::from(std::env::var_os("OTTLA_KAFKA_LIB").expect("the place asked for it"));
        let dir = tempfile::tempdir().expect("a directory can be made").keep();
        let (port, controller) = (free_port(), free_port());
        let node = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             log.dirs={}\n\
             {}\n",
            dir.join("data").display(),
            QUICK.join("\n"),
        );
        let settings = dir.join("server.properties");
        std::fs::write(&settings, node).expect("the directory is there");
        let said = dir.join("said");
        let formatted = java(&lib)
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", "ottla-test", "-c"])
            .arg(&settings)
            .output()
            .expect("java is there");
        assert!(formatted.status.success(), "{formatted:?}");
        let server = java(&lib);
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .arg(server.get_program())
            .args(server.get_args())
            .arg("kafka.Kafka")
            .arg(&settings)
            .stdin(Stdio::piped())
            .stdout(File::create(&said).expect("a file can be made"))
            .stderr(Stdio::null())
            .spawn()
            .expect("sh is there");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until(|| std::net::TcpStream::connect(address).is_ok());
        // It listens before it knows of itself; groups and transactions are its own topics, made when first asked for.
        wait_until(|| TestClient::connect_to(address).api_versions().error_code.is_ok());
        Kafka { address, _keeper: keeper }
    }
}

fn java(lib: &Path) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=OFF", "-cp"])
        .arg(lib.join("*"));
    java
}
