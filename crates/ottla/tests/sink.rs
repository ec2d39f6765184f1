//! A sink from the command line, told as stories: beside a broker of its own, looked at, paused and let go on, and stopped in order.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use expect_test::expect;
use serde_json::Value;
use tempfile::TempDir;

/// Looks at something that is waited for, before it is given up.
const LOOKS_MAX: usize = 600;
const LOOK: Duration = Duration::from_millis(50);

#[track_caller]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..LOOKS_MAX {
        if is_so() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("it did not come to pass");
}

fn ottla(brokers: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.env("OTTLA_BROKERS", brokers).env("OTTLA_LOG", "error");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run_with(brokers: &str, arguments: &[&str], input: &str) -> Output {
    let mut process = ottla(brokers).args(arguments).spawn().unwrap();
    // Whoever refuses its arguments does not read.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    process.wait_with_output().unwrap()
}

#[track_caller]
fn ok(output: Output) -> String {
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A declaration in a directory of its own.
struct Declared {
    dir: TempDir,
    config: PathBuf,
}

impl Declared {
    fn new(brokers: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("sink.toml");
        let text = format!(
            "name = \"orders\"\ntopics = [\"orders\"]\n[client]\nbootstrap.servers = {brokers:?}\n\
             [value]\nformat = \"text\"\n[offline]\ntable = {:?}\nroll_age = \"1h\"\n\
             [nearline]\ntopic = \"orders.out\"\n",
            dir.path().join("table"),
        );
        std::fs::write(&config, text).unwrap();
        Self { dir, config }
    }

    fn sink<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let config = self.config.to_str().unwrap();
        [&["sink"], arguments, &["--config", config]].concat()
    }

    /// What `ottla sink status` says of a line.
    fn status(&self, brokers: &str, line: &str) -> Vec<Value> {
        let output = run_with(brokers, &self.sink(&["status", "--format", "json", "--line", line]), "");
        serde_json::from_str::<Value>(&ok(output)).unwrap().as_array().unwrap().clone()
    }

    fn verify(&self, brokers: &str) -> String {
        ok(run_with(brokers, &self.sink(&["verify", "--format", "json"]), ""))
    }
}

fn sum(status: &[Value], field: &str) -> i64 {
    status.iter().map(|one| one[field].as_i64().unwrap_or(0)).sum()
}

/// A command that runs until it is asked to stop.
struct Running {
    process: Child,
    out: BufReader<ChildStdout>,
    error: BufReader<ChildStderr>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let error = BufReader::new(process.stderr.take().unwrap());
        Self { process, out, error }
    }

    /// What comes behind this in a line of its output.
    fn told(&mut self, before: &str) -> String {
        let found = self
            .out
            .by_ref()
            .lines()
            .map(Result::unwrap)
            .find_map(|line| line.trim().strip_prefix(before).map(|rest| rest.trim().to_owned()));
        found.unwrap_or_else(|| {
            let mut error = String::new();
            let _ = self.error.read_to_string(&mut error);
            panic!("{before} is not said: {error}")
        })
    }

    fn stop(mut self) -> (Option<i32>, String) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let (mut out, mut error) = (String::new(), String::new());
        self.out.read_to_string(&mut out).unwrap();
        self.error.read_to_string(&mut error).unwrap();
        (self.process.wait().unwrap().code(), out + &error)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn page(address: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).unwrap();
    page
}

fn dev(declared: &Declared, data_dir: &Path) -> Command {
    let mut command = ottla("127.0.0.1:1");
    command
        .args(["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--set", "num.partitions=3"])
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--sink")
        .arg(&declared.config);
    command
}

#[test]
fn a_broker_and_a_sink_begin_with_one_command_and_end_in_order() {
    // Where the declaration says that brokers are, there are none.
    let declared = Declared::new("127.0.0.1:1");
    let data_dir = declared.dir.path().join("data");
    let mut both = Running::start(&mut dev(&declared, &data_dir));
    let address = both.told("kafka");
    assert_eq!(both.told("The sink orders"), "runs beside it, and has made orders, orders.out.");
    let lines: String = (0..500).map(|number| format!("{number}\n")).collect();
    ok(run_with(&address, &["produce", "orders"], &lines));
    // Into the topic at once; of the table, where a file is closed after an hour, it is the end that commits.
    wait_until(|| sum(&declared.status(&address, "nearline"), "committed") == 500);
    let (code, said) = both.stop();
    assert_eq!(code, Some(0), "{said}");

    // It goes on where it was, and nothing is made that is there.
    let mut both = Running::start(&mut dev(&declared, &data_dir));
    let address = both.told("kafka");
    assert_eq!(both.told("The sink orders"), "runs beside it.");
    let status = declared.status(&address, "offline");
    assert_eq!((status.len(), sum(&status, "committed")), (3, 500), "{status:?}");
    let verified: Value = serde_json::from_str(&declared.verify(&address)).unwrap();
    assert_eq!(verified["clean"], true, "{verified}");
    assert_eq!(both.stop().0, Some(0));
}

#[test]
fn a_sink_that_cannot_run_is_told_and_ends_the_broker() {
    let declared = Declared::new("127.0.0.1:1");
    std::fs::write(declared.dir.path().join("table"), "no directory").unwrap();
    let output = dev(&declared, &declared.dir.path().join("data")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("table"), "{said}");

    std::fs::write(&declared.config, "name = \"a\"\n").unwrap();
    let output = dev(&declared, &declared.dir.path().join("data")).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).replace(&declared.config.display().to_string(), "FILE");
    assert_eq!(output.status.code(), Some(2), "{said}");
    expect![[r#"
        error: FILE: line 1, column 1: topics is missing, as in topics = ["orders"]
    "#]]
    .assert_eq(&said);
}

#[test]
fn a_sink_is_looked_at_paused_and_let_go_on() {
    let broker = EmbeddedBroker::builder().start().unwrap();
    let address = broker.bootstrap_servers();
    let declared = Declared::new(&address);
    for topic in ["orders", "orders.out"] {
        ok(run_with(&address, &["topic", "create", topic, "-p", "1"], ""));
    }
    ok(run_with(&address, &["produce", "orders"], "one\ntwo\nthree\n"));
    let arguments = declared.sink(&["backfill", "--throttle", "1MiB", "--metrics", "127.0.0.1:0"]);
    let mut running = Running::start(ottla(&address).args(arguments));
    let mut line = String::new();
    running.error.read_line(&mut line).unwrap();
    let metrics =
        line.trim().strip_prefix("metrics at http://").and_then(|rest| rest.strip_suffix("/metrics"));
    let metrics = metrics.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
    let has = |sample: &str| page(&metrics).lines().any(|line| line == sample);
    let labels = "{sink=\"orders\",line=\"nearline\",topic=\"orders\",partition=\"0\"}";
    wait_until(|| has(&format!("ottla_sink_committed_offset{labels} 3")));
    wait_until(|| has(&format!("ottla_sink_lag_offsets{labels} 0")));
    assert!(has(&format!("ottla_sink_records_total{labels} 3")), "{}", page(&metrics));

    let table = ok(run_with(&address, &declared.sink(&["pause"]), ""));
    expect![[r#"
        LINE      BEFORE  NOW
        offline   going   paused
        nearline  going   paused
    "#]]
    .assert_eq(&table);
    // What was in hand of the table is committed.
    wait_until(|| sum(&declared.status(&address, "offline"), "committed") == 3);
    assert_eq!(declared.status(&address, "offline")[0]["state"], "paused");
    wait_until(|| has("ottla_sink_paused{sink=\"orders\",line=\"offline\"} 1"));
    ok(run_with(&address, &["produce", "orders"], "four\n"));
    wait_until(|| has(&format!("ottla_sink_lag_offsets{labels} 1")));
    let table = ok(run_with(&address, &declared.sink(&["resume"]), ""));
    expect![[r#"
        LINE      BEFORE  NOW
        offline   paused  going
        nearline  paused  going
    "#]]
    .assert_eq(&table);
    wait_until(|| has(&format!("ottla_sink_committed_offset{labels} 4")));
    let (code, said) = running.stop();
    assert_eq!(code, Some(0), "{said}");
    let verified: Value = serde_json::from_str(&declared.verify(&address)).unwrap();
    assert_eq!(verified["clean"], true, "{verified}");
}
