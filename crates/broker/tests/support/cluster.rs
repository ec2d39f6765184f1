//! Several embedded brokers that are one cluster: one can be ended without a word while the others go on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::StartError;
use broker::embedded::{EmbeddedBroker, EmbeddedBuilder, EmbeddedError};
use broker::logging::LogFormat;
use storage::{Disk, RealDisk};
use tempfile::TempDir;
use wire::messages::describe_cluster::{DescribeClusterRequest, DescribeClusterResponse};
use wire::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponsePartition, TopicRequest,
};

use super::TestClient;

/// How long the cluster may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A cluster whose brokers have the ids 1, 2, and so on.
pub struct TestCluster {
    brokers: Vec<Member>,
    settings: Vec<String>,
}

struct Member {
    id: i32,
    port: u16,
    dir: TempDir,
    /// How it comes to the cluster: as one of the voters, or by asking them.
    joins: String,
    disk: Arc<dyn Disk>,
    rack: Option<&'static str>,
    running: Option<EmbeddedBroker>,
}

impl TestCluster {
    /// Starts so many brokers, each a voter, and waits until all of them are counted in.
    pub fn start(count: i32, settings: &[&str]) -> TestCluster {
        TestCluster::start_on((0..count).map(|_| Arc::new(RealDisk) as Arc<dyn Disk>).collect(), settings)
    }

    /// The same on disks that the test has in its hands, one for each broker.
    pub fn start_on(disks: Vec<Arc<dyn Disk>>, settings: &[&str]) -> TestCluster {
        let places = disks.into_iter().map(|disk| (disk, None)).collect();
        TestCluster::start_at(places, settings)
    }

    /// The same with a rack for each broker.
    pub fn start_in_racks(racks: &[&'static str], settings: &[&str]) -> TestCluster {
        let place = |rack: &&'static str| (Arc::new(RealDisk) as Arc<dyn Disk>, Some(*rack));
        TestCluster::start_at(racks.iter().map(place).collect(), settings)
    }

    fn start_at(places: Vec<(Arc<dyn Disk>, Option<&'static str>)>, settings: &[&str]) -> TestCluster {
        let count = i32::try_from(places.len()).expect("a small number");
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let voters: Vec<String> =
            (1..=count).zip(&ports).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let joins = format!("controller.quorum.voters={}", voters.join(","));
        let members = (1..=count).zip(ports).zip(places);
        let brokers = members.map(|((id, port), (disk, rack))| Member {
            disk,
            rack,
            ..Member::new(id, port, joins.clone())
        });
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut cluster = TestCluster { brokers: brokers.collect(), settings };
        cluster.open((1..=count).collect());
        cluster.wait_for_brokers(usize::try_from(count).expect("a small number"));
        cluster
    }

    /// Adds a broker that is no voter, and returns its id.
    pub fn add(&mut self) -> i32 {
        let id = self.prepare();
        self.open(vec![id]);
        id
    }

    /// The same without starting it.
    pub fn prepare(&mut self) -> i32 {
        let id = self.brokers.last().expect("a cluster has brokers").id + 1;
        let known: Vec<String> =
            self.brokers.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        let joins = format!("controller.quorum.bootstrap.servers={}", known.join(","));
        self.brokers.push(Member::new(id, free_port(), joins));
        id
    }

    /// A connection to a broker that runs.
    pub fn client(&self, id: i32) -> TestClient {
        TestClient::connect_to(self.addr(id))
    }

    /// Where a broker listens, whether it runs or not.
    pub fn addr(&self, id: i32) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.member(id).port))
    }

    /// The page of a broker's metrics, if `admin.listener` is set.
    pub fn metrics(&self, id: i32) -> String {
        let broker = self.member(id).running.as_ref().expect("it runs");
        super::get_metrics(broker.admin_address().expect("it serves its metrics"))
    }

    /// The brokers that run.
    pub fn running(&self) -> Vec<i32> {
        self.brokers.iter().filter(|member| member.running.is_some()).map(|member| member.id).collect()
    }

    /// Ends brokers without a word, as SIGKILL does.
    pub fn kill(&mut self, id: i32) {
        self.member_mut(id).running.take().expect("it runs").kill();
    }

    /// Stops a broker in order.
    pub fn stop(&mut self, id: i32) {
        self.member_mut(id).running.take().expect("it runs").stop().expect("the broker stops in order");
    }

    /// Starts brokers again on what they have stored, together.
    pub fn open(&mut self, ids: Vec<i32>) {
        let starting: Vec<_> = ids
            .iter()
            .map(|id| {
                let broker = self.builder_of(*id, &[]);
                std::thread::spawn(move || start(broker))
            })
            .collect();
        for (id, started) in ids.into_iter().zip(starting) {
            let running = started.join().expect("starting does not panic").expect("the broker starts");
            self.member_mut(id).running = Some(running);
        }
    }

    /// What comes of starting a broker with other settings than its own; it does not run afterwards.
    pub fn try_open(&self, id: i32, settings: &[&str]) -> Result<(), StartError> {
        start(self.builder_of(id, settings)).map(drop)
    }

    /// Empties a broker's directory, as a new disk is empty.
    pub fn wipe(&mut self, id: i32) {
        self.member_mut(id).dir = tempfile::tempdir().expect("a directory can be made");
    }

    /// A copy of a broker's directory, as somebody makes one to start another broker with.
    pub fn copy_of(&self, id: i32) -> TempDir {
        let copy = tempfile::tempdir().expect("a directory can be made");
        let from = self.member(id).dir.path().join(".");
        let copied = Command::new("cp").arg("-r").arg(from).arg(copy.path()).status();
        assert!(copied.expect("cp is there").success(), "the directory can be copied");
        copy
    }

    /// The first segment of a topic's first partition on a broker.
    pub fn segment(&self, id: i32, topic: &str) -> PathBuf {
        self.member(id).dir.path().join(format!("{topic}-0")).join("00000000000000000000.log")
    }

    /// Waits until so many brokers are counted in, and everybody who runs knows it.
    pub fn wait_for_brokers(&self, count: usize) {
        for id in self.running() {
            wait_until(|| {
                let answer = self.describe(id);
                answer.brokers.len() == count && answer.controller_id >= 0
            });
        }
    }

    /// The cluster in the eyes of one broker.
    pub fn describe(&self, id: i32) -> DescribeClusterResponse {
        self.client(id).ask_in(1, DescribeClusterRequest { endpoint_type: 1, ..Default::default() })
    }

    /// Waits until a partition is as is wanted, in the eyes of one broker.
    pub fn wait_for_partition(
        &self,
        id: i32,
        topic: &'static str,
        is_wanted: impl Fn(&DescribeTopicPartitionsResponsePartition) -> bool,
    ) -> DescribeTopicPartitionsResponsePartition {
        let mut found = None;
        wait_until(|| {
            let request = DescribeTopicPartitionsRequest {
                topics: vec![TopicRequest { name: topic.into() }],
                response_partition_limit: 1,
                ..Default::default()
            };
            let mut answer = self.client(id).ask(request);
            let partition = answer.topics.pop().and_then(|mut topic| topic.partitions.pop());
            found = partition.filter(|partition| is_wanted(partition));
            found.is_some()
        });
        found.expect("it was waited for")
    }

    fn builder_of(&self, id: i32, others: &[&str]) -> EmbeddedBuilder {
        let member = self.member(id);
        let mut broker = EmbeddedBroker::builder()
            .data_dir(member.dir.path())
            .disk(Arc::clone(&member.disk))
            .set("node.id", id.to_string())
            .set("cluster.id", "test")
            .set("listeners", format!("PLAINTEXT://127.0.0.1:{}", member.port))
            .set("default.replication.factor", "3")
            .set("min.insync.replicas", "2");
        if let Some(rack) = member.rack {
            broker = broker.set("broker.rack", rack);
        }
        let given = self.settings.iter().map(String::as_str).chain(others.iter().copied());
        given.chain([&*member.joins]).fold(broker, super::set)
    }

    fn member(&self, id: i32) -> &Member {
        self.brokers.iter().find(|member| member.id == id).expect("there is such a broker")
    }

    fn member_mut(&mut self, id: i32) -> &mut Member {
        self.brokers.iter_mut().find(|member| member.id == id).expect("there is such a broker")
    }
}

impl Member {
    fn new(id: i32, port: u16, joins: String) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        Member { id, port, dir, joins, disk: Arc::new(RealDisk), rack: None, running: None }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        // Together: one that is left alone has much to say about that.
        let running = self.brokers.iter_mut().filter_map(|member| member.running.take());
        let ending: Vec<_> = running.map(|broker| std::thread::spawn(move || drop(broker))).collect();
        for ended in ending {
            // A test that has failed already must not fail twice.
            let _ = ended.join();
        }
    }
}

fn start(broker: EmbeddedBuilder) -> Result<EmbeddedBroker, StartError> {
    if let Ok(filter) = std::env::var("OTTLA_LOG") {
        // Whoever comes first; a second one has nothing to add.
        let _ = broker::logging::init(LogFormat::Text, &filter);
    }
    broker.start().map_err(|error| match error {
        EmbeddedError::Start(error) => error,
        other => panic!("{other}"),
    })
}

pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    socket.local_addr().expect("it is bound").port()
}

/// Looks until it is so; a cluster that takes longer than anybody waits has failed.
#[allow(clippy::disallowed_methods, reason = "a bound on a wait for what other threads do")]
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come to pass");
        std::thread::sleep(LOOK);
    }
}
