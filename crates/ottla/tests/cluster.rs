//! `ottla cluster` against three brokers, told as one story: all is well, one is killed, it comes back.
//!
//! Brokers are processes on ports that were free a moment ago; whatever takes a while is waited for with a
//! deadline by the commands themselves.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SECONDS_MAX: &str = "120";
const ATTEMPTS_MAX: usize = 600;

fn ottla() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.env_remove("OTTLA_BROKERS").env("OTTLA_LOG", "error");
    command
}

/// Three brokers that end with the test.
struct Trio {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    brokers: Vec<Option<Child>>,
}

impl Trio {
    fn start() -> Self {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let mut trio = Self { dir: tempfile::tempdir().unwrap(), ports, brokers: vec![None, None, None] };
        (1..=3).for_each(|id| trio.start_broker(id));
        trio
    }

    fn start_broker(&mut self, id: usize) {
        let address = |id: usize| format!("127.0.0.1:{}", self.ports[id - 1]);
        let voters: Vec<_> = (1..=3).map(|id| format!("{id}@{}", address(id))).collect();
        let settings = [
            format!("node.id={id}"),
            "cluster.id=trio".to_owned(),
            format!("controller.quorum.voters={}", voters.join(",")),
            "default.replication.factor=3".to_owned(),
            "min.insync.replicas=2".to_owned(),
            // Long enough for a machine with much else to do.
            "broker.session.timeout.ms=6000".to_owned(),
        ];
        let mut command = ottla();
        command.args(["dev", "--admin", "127.0.0.1:0", "--listen", &address(id), "--data-dir"]);
        command.arg(self.dir.path().join(id.to_string()));
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.brokers[id - 1] = Some(process);
    }

    fn kill(&mut self, id: usize) {
        if let Some(mut process) = self.brokers[id - 1].take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Runs a command; both outputs, and the exit code.
    fn run(&self, arguments: &[&str]) -> (String, i32) {
        let brokers: Vec<_> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let output = ottla().args(arguments).env("OTTLA_BROKERS", brokers.join(",")).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.code().unwrap_or(-1))
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let (said, code) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        said
    }

    /// Runs a command until it does what it is to, so many times at most.
    #[track_caller]
    fn ok_in_the_end(&self, arguments: &[&str]) {
        for _ in 0..ATTEMPTS_MAX {
            if self.run(arguments).1 == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.ok(arguments);
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], because: &str) {
        let (said, code) = self.run(arguments);
        assert!(code == 1 && said.contains(because), "{arguments:?}: {said}");
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Path::display(&path).to_string()
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        (1..=3).for_each(|id| self.kill(id));
    }
}

#[test]
fn a_cluster_says_how_it_is_and_what_helps() {
    let mut trio = Trio::start();
    trio.ok(&["cluster", "health", "--wait", SECONDS_MAX]);
    trio.ok(&["topic", "create", "orders", "-p", "3"]);
    trio.ok(&["topic", "create", "pairs", "-p", "6", "-r", "2"]);
    let quorum = trio.ok(&["cluster", "quorum"]);
    assert!(!quorum.contains("OBSERVERS"), "all three vote: {quorum}");

    // Skewed by hand, evened out by the planner.
    let partitions: Vec<_> =
        (0..6).map(|id| format!(r#"{{"topic":"pairs","partition":{id},"replicas":[1,2]}}"#)).collect();
    let plan =
        trio.write("plan.json", &format!(r#"{{"version":1,"partitions":[{}]}}"#, partitions.join(",")));
    trio.ok(&["cluster", "reassign", "--file", &plan, "--wait", SECONDS_MAX]);
    let planned = trio.ok(&["cluster", "rebalance", "--dry-run", "--format", "json"]);
    assert!(planned.contains(r#""replicas_moved": 4"#), "{planned}");
    trio.ok(&["cluster", "rebalance", "--yes", "--wait", SECONDS_MAX]);
    let planned = trio.ok(&["cluster", "rebalance", "--dry-run", "--format", "json"]);
    assert!(planned.contains(r#""replicas_moved": 0"#), "{planned}");
    trio.refused(&["cluster", "decommission", "3", "--yes"], "topic orders keeps 3 replicas");
    trio.refused(&["cluster", "unregister", "3"], "broker 3 runs");

    trio.kill(3);
    trio.refused(&["cluster", "health"], "broker 3");
    trio.refused(&["cluster", "quorum", "remove", "2"], "no majority of the voters would be heard");
    trio.kill(2);
    trio.refused(&["cluster", "health"], "broker 2");
    trio.start_broker(2);
    trio.start_broker(3);
    // Brokers that came back before they were missed lag behind for a moment.
    trio.ok_in_the_end(&["cluster", "elect"]);
    trio.ok(&["cluster", "health", "--wait", SECONDS_MAX]);

    (1..=3).for_each(|id| trio.kill(id));
    trio.refused(&["cluster", "health"], "no broker answers");
}
