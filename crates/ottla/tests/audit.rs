//! `ottla audit` and `ottla canary` against a broker in this process, told as stories: what arrives is proven, what does not is
//! named, and what happens while nobody answers is neither lost nor doubled.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use expect_test::expect;
use serde_json::{Value, json};

/// Looks at something that is waited for, before it is given up.
const LOOKS_MAX: usize = 3_000;
const LOOK: Duration = Duration::from_millis(10);

fn start() -> EmbeddedBroker {
    EmbeddedBroker::builder().set("admin.listener", "127.0.0.1:0").start().unwrap()
}

fn command(broker: &EmbeddedBroker, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.env("OTTLA_BROKERS", broker.bootstrap_servers()).env("OTTLA_LOG", "error");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(broker: &EmbeddedBroker, arguments: &[&str]) -> Output {
    command(broker, arguments).output().unwrap()
}

fn run_with(broker: &EmbeddedBroker, arguments: &[&str], input: &str) -> Output {
    let mut process = command(broker, arguments).stdin(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

#[track_caller]
fn ok(output: Output) -> String {
    let said = show(&output);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command said, and its exit code.
fn show(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    let code = output.status.code().unwrap_or(-1);
    format!("{}exit code {code}\n", String::from_utf8_lossy(&text))
}

/// The page that is served at an address.
fn get(address: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).unwrap();
    page
}

/// What the samples of a metric that hold `label` come to together.
fn sum(page: &str, metric: &str, label: &str) -> f64 {
    let of_metric = |line: &&str| line.starts_with(&format!("{metric}{{")) && line.contains(label);
    page.lines().filter(of_metric).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

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

/// Waits until so many records were written to a topic.
fn wait_for_records(broker: &EmbeddedBroker, topic: &str, count: f64) {
    let address = broker.admin_address().unwrap().to_string();
    let label = format!("topic=\"{topic}\"");
    wait_until(|| sum(&get(&address), "ottla_topic_records_in_total", &label) >= count);
}

/// A command that serves metrics; it ends with the test.
struct Watcher {
    process: Option<Child>,
    metrics: String,
}

impl Watcher {
    fn start(broker: &EmbeddedBroker, arguments: &[&str]) -> Self {
        let mut process = command(broker, arguments).spawn().unwrap();
        let mut line = String::new();
        let mut error = BufReader::new(process.stderr.take().unwrap());
        error.read_line(&mut line).unwrap();
        let metrics =
            line.trim().strip_prefix("metrics at http://").and_then(|rest| rest.strip_suffix("/metrics"));
        let metrics = metrics.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
        // What it says later is for nobody, and must not break its pipe.
        std::thread::spawn(move || std::io::copy(&mut error, &mut std::io::sink()));
        Self { process: Some(process), metrics }
    }

    fn page(&self) -> String {
        get(&self.metrics)
    }

    fn terminate(&self) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    fn end(mut self) -> Output {
        self.process.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn a_run_that_arrives_is_proven_wherever_its_stamps_stand() {
    let broker = start();
    ok(run(&broker, &["topic", "create", "t", "-p", "3"]));
    let produce =
        ["audit", "produce", "t", "--rate", "4000", "--keys", "7", "--duration", "500ms", "--format", "json"];
    for more in [&["--run", "in-header"][..], &["--run", "in-field", "--field", "meta.audit"]] {
        let produced: Value = serde_json::from_str(&ok(run(&broker, &[&produce, more].concat()))).unwrap();
        let expected = json!([2_000, 2_000, 0]);
        assert_eq!(
            json!([produced[0]["sequences"], produced[0]["acknowledged"], produced[0]["failed"]]),
            expected
        );
        let verify = ["audit", "verify", "t", "--expect", "2000", "--format", "json"];
        let verdict: Value = serde_json::from_str(&ok(run(&broker, &[&verify, more].concat()))).unwrap();
        assert_eq!(verdict["clean"], true);
        assert_eq!((&verdict["records"], &verdict["keys"]), (&json!(2_000), &json!(7)));
    }
    // The same is not so of one record more.
    let verify = ["audit", "verify", "t", "--run", "in-header", "--expect", "2001", "--format", "json"];
    let output = run(&broker, &verify);
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&verdict["lost"], &verdict["lost_at_the_end"]), (&json!(1), &json!(1)));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_is_lost_doubled_and_reordered_is_named() {
    let broker = start();
    ok(run(&broker, &["topic", "create", "t", "-p", "1"]));
    let record = |(key, sequence): (&str, u64)| {
        format!("{{\"key\":\"{key}\",\"sequence\":{sequence},\"time\":1700000000000}}\n")
    };
    let records = [("a", 0), ("b", 0), ("a", 1), ("a", 1), ("a", 4), ("b", 2), ("b", 1), ("a", 5)];
    let records: String = records.map(record).concat();
    ok(run_with(&broker, &["produce", "t"], &(records + "no stamp\n{\"sequence\":-1}\n")));
    // Neither the delay, which is until the record was written, nor the width of a column.
    let said = show(&run(&broker, &["audit", "verify", "t", "--field", "."]));
    let said: String = said.lines().map(|line| cells(line).join(" ") + "\n").collect();
    expect![[r#"
        TIME PARTITION RECORDS LOST DOUBLED REORDERED
        2023-11-14T22:13:00Z 0 8 2 1 1

        WHAT KEY SEQUENCE PARTITION OFFSET TIME
        lost a 2-3 0 - 2023-11-14T22:13:20Z
        doubled a 1 0 3 2023-11-14T22:13:20Z
        reordered b 1 0 6 2023-11-14T22:13:20Z

        8 records of 2 keys: 2 lost, 1 doubled, 1 reordered, 1 with a stamp that cannot be read, 1 without a stamp
        partition 0 offset 9: sequence is -1: a whole number from 0 on is wanted
        NOT every record came once and in order
        exit code 1
    "#]].assert_eq(&said);
}

/// The first columns of a table's row.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).take(6).collect()
}

#[test]
fn a_copy_that_leaves_records_out_is_told_from_one_that_does_not() {
    let broker = start();
    for topic in ["source", "whole", "holed"] {
        ok(run(&broker, &["topic", "create", topic, "-p", "2"]));
    }
    ok(run(&broker, &["audit", "produce", "source", "--rate", "1000", "--keys", "3", "--duration", "300ms"]));
    let records = ok(run(&broker, &["consume", "source", "-o", ":end", "-f", "json"]));
    ok(run_with(&broker, &["produce", "whole", "-f", "json"], &records.replace("\"source\"", "\"whole\"")));
    ok(run(&broker, &["audit", "verify", "whole", "--expect", "300"]));
    let holed: Vec<_> =
        records.lines().enumerate().filter(|(at, _)| *at != 20).map(|(_, line)| line).collect();
    let holed = holed.join("\n").replace("\"source\"", "\"holed\"");
    ok(run_with(&broker, &["produce", "holed", "-f", "json"], &holed));
    let output = run(&broker, &["audit", "verify", "holed", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", show(&output));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&verdict["records"], &verdict["lost"]), (&json!(299), &json!(1)));
    assert_eq!(verdict["findings"][0]["what"], "lost");
}

#[test]
fn a_topic_without_stamps_proves_nothing() {
    let broker = start();
    ok(run(&broker, &["topic", "create", "t", "-p", "1"]));
    ok(run_with(&broker, &["produce", "t"], "one\ntwo\n"));
    expect![[r#"
        error: no record of t carries a stamp (2 without were read)
          tip: see `ottla audit --help` for what a stamp is; --field names the JSON field that holds it
        exit code 1
    "#]]
    .assert_eq(&show(&run(&broker, &["audit", "verify", "t"])));
}

#[test]
fn a_live_audit_ends_when_all_has_come_and_shows_until_then_how_it_stands() {
    let broker = start();
    ok(run(&broker, &["topic", "create", "t", "-p", "2"]));
    let watcher = Watcher::start(
        &broker,
        &[
            "audit",
            "verify",
            "t",
            "--live",
            "--expect",
            "400",
            "--metrics",
            "127.0.0.1:0",
            "--format",
            "json",
        ],
    );
    let produce = ["audit", "produce", "t", "--rate", "1000", "--keys", "4", "--duration", "200ms"];
    ok(run(&broker, &produce));
    wait_until(|| sum(&watcher.page(), "ottla_audit_records_total", "topic=\"t\"") == 200.0);
    let page = watcher.page();
    assert_eq!(sum(&page, "ottla_audit_delay_seconds_count", ""), 200.0);
    assert_eq!(sum(&page, "ottla_audit_delay_seconds_bucket", "le=\"+Inf\""), 200.0);
    assert_eq!(sum(&page, "ottla_audit_lost", ""), 0.0);
    assert_eq!(sum(&page, "ottla_audit_keys", ""), 4.0);
    ok(run(&broker, &produce));
    let verdict: Value = serde_json::from_str(&ok(watcher.end())).unwrap();
    assert_eq!((&verdict["records"], &verdict["runs"]), (&json!(400), &json!(2)));
    assert!(verdict["delay_ms"]["p99"].as_u64().is_some());
}

#[test]
fn a_broker_that_is_killed_and_answers_that_are_lost_cost_no_record_and_double_none() {
    let mut broker = start();
    ok(run(&broker, &["topic", "create", "t", "-p", "3"]));
    let produce =
        ["audit", "produce", "t", "--rate", "500", "--keys", "20", "--duration", "2s", "--run", "r"];
    let producing = command(&broker, &produce).spawn().unwrap();
    wait_for_records(&broker, "t", 100.0);
    broker.hold_answers();
    // What is not answered is on the disk.
    wait_until(|| broker.connections_held() > 0);
    broker.drop_connections();
    broker.release_answers();
    wait_for_records(&broker, "t", 300.0);
    broker.kill();
    broker.start_again().unwrap();
    ok(producing.wait_with_output().unwrap());
    ok(run(&broker, &["audit", "verify", "t", "--run", "r", "--expect", "1000"]));
}

#[test]
fn a_canary_notices_that_nobody_answers_and_loses_nothing() {
    let mut broker = start();
    let canary = Watcher::start(
        &broker,
        &["canary", "--every", "20ms", "--patience", "300ms", "--metrics", "127.0.0.1:0", "--format", "json"],
    );
    wait_until(|| sum(&canary.page(), "ottla_canary_records_total", "partition=\"0\"") >= 5.0);
    let page = canary.page();
    assert_eq!(sum(&page, "ottla_canary_available", "topic=\"ottla-canary\""), 1.0);
    assert!(sum(&page, "ottla_canary_delay_seconds_count", "partition=\"0\"") >= 5.0);
    assert!(page.contains("\n# TYPE ottla_canary_delay_seconds histogram\n"));
    assert!(page.contains("ottla_canary_lost{topic=\"ottla-canary\",partition=\"0\"} 0\n"));
    assert!(page.contains("ottla_canary_doubled_total{topic=\"ottla-canary\",partition=\"0\"} 0\n"));
    broker.kill();
    wait_until(|| sum(&canary.page(), "ottla_canary_available", "") == 0.0);
    wait_until(|| sum(&canary.page(), "ottla_canary_unavailable_seconds_total", "") > 0.0);
    broker.start_again().unwrap();
    wait_until(|| sum(&canary.page(), "ottla_canary_available", "") == 1.0);
    canary.terminate();
    let verdict: Value = serde_json::from_str(&ok(canary.end())).unwrap();
    assert_eq!((&verdict["clean"], &verdict["lost"]), (&json!(true), &json!(0)));
    assert!(verdict["unavailable_seconds"].as_f64().unwrap() > 0.0);
}
