//! `ottla bench` and `ottla produce` of files against a broker in this process, told as stories: what a bench says it sent and
//! read is there, its figures are those of what was acknowledged, and what cannot be measured is refused by name.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

fn start() -> EmbeddedBroker {
    let broker = EmbeddedBroker::builder().start().unwrap();
    ok(run(&broker, &["topic", "create", "t", "-p", "3"]));
    broker
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

/// What a command said, and its exit code.
fn show(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    let code = output.status.code().unwrap_or(-1);
    format!("{}exit code {code}\n", String::from_utf8_lossy(&text))
}

#[track_caller]
fn ok(output: Output) -> String {
    let said = show(&output);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn figures(output: Output) -> Value {
    let said = show(&output);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn bench(broker: &EmbeddedBroker, arguments: &[&str]) -> Value {
    let output = run(broker, &[&["bench"], arguments, &["--format", "json"]].concat());
    assert!(output.status.success(), "{}", show(&output));
    figures(output)
}

/// The percentiles are in order, and the bars hold every record.
#[track_caller]
fn check_times(figures: &Value, time: &str) {
    let at = |name: &str| figures[time][name].as_f64().unwrap_or_else(|| panic!("no {name} in {figures}"));
    let times = ["min", "p50", "p95", "p99", "p99.9", "max"].map(at);
    assert!(times.is_sorted() && times[0] >= 0.0 && times[5] < 60_000.0, "{times:?}");
    let bars = figures["histogram"].as_array().unwrap();
    let sum: u64 = bars.iter().map(|bar| bar["records"].as_u64().unwrap()).sum();
    assert_eq!(Value::from(sum), figures["records"]);
}

#[test]
fn what_a_bench_sends_is_there_and_another_reads_all_of_it() {
    let broker = start();
    let produced = bench(&broker, &["produce", "t", "--records", "6000", "--size", "200", "-p", "all"]);
    assert_eq!(
        json!([produced["records"], produced["bytes"], produced["failed"]]),
        json!([6_000, 1_200_000, 0])
    );
    assert!(produced["records_per_second"].as_f64().unwrap() > 0.0);
    check_times(&produced, "latency_ms");
    let read = bench(&broker, &["consume", "t"]);
    assert_eq!(json!([read["records"], read["bytes"]]), json!([6_000, 1_200_000]));
    check_times(&read, "age_ms");
    // In turn, so that each has a third.
    let third = bench(&broker, &["consume", "t", "-p", "1"]);
    assert_eq!(third["records"], 2_000);
    let some = bench(&broker, &["consume", "t", "--records", "100", "-X", "max.poll.records=7"]);
    assert_eq!(some["records"], 100);
    assert_eq!(bench(&broker, &["consume", "t", "-o", "-5:end"])["records"], 15);
}

#[test]
fn settings_of_the_producer_are_those_that_were_asked_for() {
    let broker = start();
    let codec = ["-z", "zstd", "--acks", "1", "-X", "enable.idempotence=false", "-X", "linger.ms=50"];
    let load = ["produce", "t", "--records", "500", "-p", "2"];
    assert_eq!(bench(&broker, &[&load[..], &codec].concat())["records"], 500);
    let printed = ok(run(&broker, &["consume", "t", "-p", "2", "-n", "1", "-f", "%a{compression} %V %x\\n"]));
    assert_eq!(printed, "zstd 100 -1\n");
    // Not acknowledged, but handed over.
    let unheard = ["produce", "t", "--records", "500", "--acks", "0", "-X", "enable.idempotence=false"];
    assert_eq!(bench(&broker, &unheard)["records"], 500);
}

#[test]
fn a_rate_is_kept_and_records_arrive_in_time() {
    let broker = start();
    let produced = bench(&broker, &["produce", "t", "--rate", "2000", "--duration", "500ms"]);
    assert_eq!(produced["records"], 1_000);
    assert!(produced["seconds"].as_f64().unwrap() >= 0.49, "{produced}");
    // 20 kB/s of 100 bytes each.
    let slow = bench(&broker, &["produce", "t", "--rate", "20kB/s", "--duration", "100ms"]);
    assert_eq!(slow["records"], 20);
    let arrived = bench(&broker, &["end-to-end", "t", "--rate", "2000", "--duration", "500ms", "-p", "all"]);
    assert_eq!(
        json!([arrived["records"], arrived["acknowledged"], arrived["missing"]]),
        json!([1_000, 1_000, 0])
    );
    check_times(&arrived, "delay_ms");
}

#[test]
fn a_stall_counts_for_every_record_that_was_due_meanwhile() {
    let broker = start();
    let load = ["bench", "produce", "t", "--rate", "1000", "--duration", "1h", "--format", "json"];
    let process = Running::start(&broker, &load);
    wait_for_records(&broker);
    broker.hold_answers();
    // This is the stall, not a wait for something.
    std::thread::sleep(Duration::from_millis(300));
    broker.release_answers();
    wait_for_records(&broker);
    let figures = figures(process.interrupt());
    // Of the 300 that were due in the stall, those of the first two thirds waited for more than a third of it.
    let bars = figures["histogram"].as_array().unwrap();
    let late = bars.iter().filter(|bar| bar["from_ms"].as_f64().unwrap() > 65.0);
    let late: u64 = late.map(|bar| bar["records"].as_u64().unwrap()).sum();
    assert!(late >= 100, "{figures}");
}

/// A command that ends with the test at the latest.
struct Running(Option<Child>);

impl Running {
    fn start(broker: &EmbeddedBroker, arguments: &[&str]) -> Self {
        Self(Some(command(broker, arguments).spawn().unwrap()))
    }

    /// What it says when it is interrupted.
    fn interrupt(mut self) -> Output {
        let id = self.0.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Waits until a bench has begun to write.
fn wait_for_records(broker: &EmbeddedBroker) {
    ok(run(broker, &["consume", "t", "-n", "1", "-f", "%o\\n"]));
}

#[test]
fn who_interrupts_a_bench_gets_the_figures_until_then() {
    let broker = start();
    for bench in ["produce", "end-to-end"] {
        let load = ["bench", bench, "t", "--rate", "500", "--duration", "1h", "--format", "json"];
        let process = Running::start(&broker, &load);
        wait_for_records(&broker);
        let output = process.interrupt();
        assert!(output.status.success(), "{}", show(&output));
        let figures = figures(output);
        assert!(figures["records"].as_u64().unwrap() > 0, "{figures}");
        ok(run(&broker, &["topic", "delete", "t"]));
        ok(run(&broker, &["topic", "create", "t", "-p", "3"]));
    }
}

#[test]
fn people_get_a_table_and_a_picture() {
    let broker = start();
    let shown = ok(run(&broker, &["bench", "produce", "t", "--records", "1000"]));
    let lines: Vec<_> = shown.lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[0]), ["RECORDS", "FAILED", "SECONDS", "RECORDS/S", "MB/S"]);
    assert_eq!(words(lines[1])[..2], ["1,000", "0"]);
    assert_eq!(words(lines[3]), ["MS", "MIN", "P50", "P95", "P99", "P99.9", "MAX"]);
    assert!(lines[6..].iter().any(|line| line.contains('█')), "{shown}");
}

#[track_caller]
fn check(broker: &EmbeddedBroker, arguments: &[&str], expected: Expect) {
    expected.assert_eq(&show(&run(broker, &[&["bench"], arguments].concat())));
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let broker = start();
    check(
        &broker,
        &["produce", "nowhere"],
        expect![[r#"
        error: topic nowhere does not exist (UNKNOWN_TOPIC_OR_PARTITION)
          tip: see `ottla topic list`; `ottla topic create TOPIC` creates one
        exit code 1
    "#]],
    );
    check(
        &broker,
        &["produce", "t", "-p", "0,7"],
        expect![[r#"
        error: t has no partition 7: it has 3
          tip: `ottla topic describe -p t` shows them
        exit code 1
    "#]],
    );
    let one = ["produce", "t", "--acks", "1", "-X", "enable.idempotence=true"];
    check(
        &broker,
        &one,
        expect![[r#"
        error: acks=1 cannot be used: all, because enable.idempotence is true
        exit code 2
    "#]],
    );
    check(
        &broker,
        &["produce", "t", "-X", "linger.ms=soon"],
        expect![[r#"
        error: linger.ms=soon cannot be used: a whole number from 0 to 2147483647
        exit code 2
    "#]],
    );
    check(
        &broker,
        &["produce", "t", "--rate", "fast"],
        expect![[r#"
        error: invalid value 'fast' for '--rate <RATE>': "fast" is no rate; 5000 and 5000/s are records a second, 10MB/s, 500kB/s and 64MiB/s are bytes

        For more information, try '--help'.
        exit code 2
    "#]],
    );
    check(
        &broker,
        &["produce", "t", "--size", "2000000", "--records", "1"],
        expect![[r#"
        error: a record of 2000032 bytes is larger than max.request.size, 1048576
        exit code 1
    "#]],
    );
    check(
        &broker,
        &["end-to-end", "t", "--size", "8"],
        expect![[r#"
        error: invalid value '8' for '--size <SIZE>': 8 is not in 16..=100000000

        For more information, try '--help'.
        exit code 2
    "#]],
    );
    check(
        &broker,
        &["consume", "nowhere"],
        expect![[r#"
        error: topic nowhere does not exist (UNKNOWN_TOPIC_OR_PARTITION)
          tip: see `ottla topic list`; `ottla topic create TOPIC` creates one
        exit code 1
    "#]],
    );
}

#[test]
fn files_are_produced_one_after_the_other_and_all_must_be_there() {
    let broker = start();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // The first ends without a newline, which ends its last record all the same.
    let (lines, more) = (file("lines", "one\ntwo"), file("more", "three\n"));
    let produce = ["produce", "t", "-p", "0", "--file", &lines, "--file", "-", "--file", &more];
    let mut process = command(&broker, &produce).stdin(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(b"between\n").unwrap();
    let said = show(&process.wait_with_output().unwrap());
    assert_eq!(said, "exit code 0\n", "progress is for terminals alone");
    let read = || ok(run(&broker, &["consume", "t", "-p", "0", "-o", ":end"]));
    assert_eq!(read(), "one\ntwo\nbetween\nthree\n");
    let json = file("json", "{\"value\":\"v\"}\nnothing\n");
    let path = |output: Output| show(&output).replace(dir.path().to_str().unwrap(), "DIR");
    expect![[r#"
        error: DIR/json: input record 2: not JSON: expected ident at line 1 column 2
        exit code 2
    "#]]
    .assert_eq(&path(run(&broker, &["produce", "t", "-p", "1", "-f", "json", "--file", &json])));
    let missing = dir.path().join("missing");
    let produce = ["produce", "t", "--file", &lines, "--file", missing.to_str().unwrap()];
    expect![[r#"
        error: cannot read DIR/missing: No such file or directory (os error 2)
        exit code 1
    "#]]
    .assert_eq(&path(run(&broker, &produce)));
    let produce = ["produce", "t", "--file", dir.path().to_str().unwrap()];
    expect![[r#"
        error: cannot read DIR: it is a directory
        exit code 1
    "#]]
    .assert_eq(&path(run(&broker, &produce)));
    assert_eq!(read().lines().count(), 4, "nothing is sent when a file is not there");
}
