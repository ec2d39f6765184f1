//! The command line against a broker, told as stories.
//!
//! Each test runs the real binary, `ottla dev` included, over real sockets. `OTTLA_TEST_BROKERS` points the same
//! stories at another broker: what fails against Apache Kafka as well is the test's fault.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use expect_test::{Expect, expect};

/// A broker that ends with the test.
struct Broker {
    address: String,
    process: Option<Child>,
    _data_dir: Option<tempfile::TempDir>,
}

impl Broker {
    fn start() -> Self {
        if let Ok(address) = std::env::var("OTTLA_TEST_BROKERS") {
            return Self { address, process: None, _data_dir: None };
        }
        let data_dir = tempfile::tempdir().unwrap();
        let mut process = ottla()
            .args(["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut banner = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = banner
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.trim().strip_prefix("kafka").map(|address| address.trim().to_owned()))
            .expect("the banner names the address");
        Self { address, process: Some(process), _data_dir: Some(data_dir) }
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        self.run_with(arguments, b"")
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let mut process = ottla()
            .args(arguments)
            .env("OTTLA_BROKERS", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses its arguments does not read.
        let _ = process.stdin.take().unwrap().write_all(input);
        Answer::from(process.wait_with_output().unwrap())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What a command said.
struct Answer {
    out: String,
    error: String,
    code: i32,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

impl Answer {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.error);
        self.out
    }

    fn show(&self) -> String {
        format!("{}{}exit code {}\n", self.out, self.error, self.code)
    }
}

fn ottla() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.env_remove("OTTLA_BROKERS").env("OTTLA_LOG", "error");
    command
}

/// A name that no other test and no earlier run has.
fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
fn check(shown: &str, names: &[(&str, &str)], expected: Expect) {
    let mut shown =
        names.iter().fold(shown.to_owned(), |shown, (name, stands_for)| shown.replace(name, stands_for));
    // The columns are as wide as the names that were there.
    while shown.contains("   ") {
        shown = shown.replace("   ", "  ");
    }
    expected.assert_eq(&shown);
}

#[test]
fn the_three_commands_of_the_readme_do_what_it_says() {
    let broker = Broker::start();
    let topic = unique("greetings");
    broker.run(&["topic", "create", &topic, "-p", "3"]).ok();
    broker.run_with(&["produce", &topic], b"hello\n").ok();
    assert_eq!(broker.run(&["consume", &topic, "-n", "1"]).ok(), "hello\n");
}

#[test]
fn a_record_is_printed_as_it_was_given() {
    let broker = Broker::start();
    let topic = unique("pairs");
    broker.run(&["topic", "create", &topic, "-p", "1"]).ok();
    let produced = broker.run_with(
        &["produce", &topic, "-f", "%d %k %v\\n", "-H", "a:1", "-H", "a:2", "-o", "%p %o\\n"],
        b"1700000000000 k1 one\n1700000000001 k2 two words\n",
    );
    assert_eq!(produced.ok(), "0 0\n0 1\n");
    broker.run_with(&["produce", &topic, "-k", "k1", "-Z"], b"\n").ok();
    broker.run_with(&["produce", &topic, "-K", ":"], b"k3:three\nfour\n").ok();
    let consumed = broker.run(&["consume", &topic, "-o", ":end", "-f", "%o [%k] [%v] %V %h\\n"]).ok();
    check(
        &consumed,
        &[],
        expect![[r#"
        0 [k1] [one] 3 a=1,a=2
        1 [k2] [two words] 9 a=1,a=2
        2 [k1] [] 0 
        3 [k3] [three] 5 
        4 [] [four] 4 
    "#]],
    );
    let json = broker.run(&["consume", &topic, "-o", ":2", "-f", "json"]).ok();
    check(
        &json,
        &[(&topic, "TOPIC")],
        expect![[r#"
        {"headers":[{"key":"a","value":"1"},{"key":"a","value":"2"}],"key":"k1","offset":0,"partition":0,"timestamp":1700000000000,"topic":"TOPIC","value":"one"}
        {"headers":[{"key":"a","value":"1"},{"key":"a","value":"2"}],"key":"k2","offset":1,"partition":0,"timestamp":1700000000001,"topic":"TOPIC","value":"two words"}
    "#]],
    );
    let copy = unique("copy");
    broker.run(&["topic", "create", &copy, "-p", "1"]).ok();
    broker.run_with(&["produce", &copy, "-f", "json"], json.as_bytes()).ok();
    let copied = broker.run(&["consume", &copy, "-o", ":end", "-f", "json"]).ok();
    assert_eq!(copied.replace(&copy, &topic), json);
}

#[test]
fn every_codec_carries_what_it_is_given() {
    let broker = Broker::start();
    let lines: String =
        (0..5000).map(|number| format!("line {number} {}\n", "x".repeat(number % 97))).collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = unique(codec);
        broker.run(&["topic", "create", &topic, "-p", "1"]).ok();
        broker.run_with(&["produce", &topic, "-z", codec], lines.as_bytes()).ok();
        assert_eq!(broker.run(&["consume", &topic, "-o", ":end"]).ok(), lines, "{codec}");
        let used = broker.run(&["consume", &topic, "-n", "1", "-f", "%a{compression}\\n"]).ok();
        assert_eq!(used, format!("{codec}\n"));
    }
}

#[test]
fn reading_begins_and_ends_where_it_is_told_to() {
    let broker = Broker::start();
    let topic = unique("places");
    broker.run(&["topic", "create", &topic, "-p", "2"]).ok();
    let input: String =
        (0..10).map(|number| format!("{} {} {number}\n", number % 2, 1000 + number)).collect();
    broker.run_with(&["produce", &topic, "-f", "%p %d %v\\n"], input.as_bytes()).ok();
    let read = |offset: &str| {
        let consumed = broker.run(&["consume", &topic, "-p", "0", "-o", offset, "-f", "%v "]).ok();
        consumed.trim_end().to_owned()
    };
    assert_eq!(read(":end"), "0 2 4 6 8");
    assert_eq!(read("2:4"), "4 6");
    assert_eq!(read("-2:end"), "6 8");
    assert_eq!(read("+1:end"), "2 4 6 8");
    assert_eq!(read("@0000000001005:end"), "6 8");
    let empty = unique("empty");
    broker.run(&["topic", "create", &empty]).ok();
    assert_eq!(broker.run(&["consume", &empty, "-o", ":end"]).ok(), "");
}

#[test]
fn a_group_goes_on_where_it_stopped_and_tells_its_lag() {
    let broker = Broker::start();
    let (topic, group) = (unique("work"), unique("readers"));
    broker.run(&["topic", "create", &topic, "-p", "1"]).ok();
    broker.run_with(&["produce", &topic], b"one\ntwo\nthree\nfour\n").ok();
    let read = |count: &str| broker.run(&["consume", &topic, "-g", &group, "-n", count]).ok();
    assert_eq!(read("1"), "one\n");
    assert_eq!(
        read("2"),
        "two\nthree\n",
        "what was fetched with the first and not printed was not committed"
    );
    let described = broker.run(&["group", "describe", &group]).ok();
    check(
        &described,
        &[(&topic, "TOPIC"), (&group, "GROUP-NAME")],
        expect![[r#"
            GROUP  GROUP-NAME
            COORDINATOR  1
            STATE  Empty
            BALANCER  -
            MEMBERS  0
            TOTAL-LAG  1

            TOPIC  PARTITION  CURRENT-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG
            TOPIC  0  3  0  4  1
        "#]],
    );
    let listed = broker.run(&["group", "list", "--format", "json"]).ok();
    assert!(listed.contains(&group), "{listed}");
    broker.run(&["group", "delete", &group]).ok();
    let gone = broker.run(&["group", "describe", &group]);
    assert_eq!(gone.code, 1, "{}", gone.show());
}

#[test]
fn a_topic_lives_and_changes() {
    let broker = Broker::start();
    let topic = unique("life");
    let names = [(topic.as_str(), "TOPIC")];
    let created =
        broker.run(&["topic", "create", &topic, "-p", "2", "-r", "1", "-c", "retention.ms=1000000"]);
    check(
        &created.show(),
        &names,
        expect![[r#"
            TOPIC  STATUS
            TOPIC  OK
            exit code 0
        "#]],
    );
    let again = broker.run(&["topic", "create", &topic]);
    assert_eq!(again.code, 1);
    assert!(again.out.contains("TOPIC_ALREADY_EXISTS"), "{}", again.show());
    broker.run(&["topic", "create", &topic, "--if-not-exists"]).ok();
    broker
        .run(&["topic", "alter-config", &topic, "--set", "segment.bytes=1048576", "--delete", "retention.ms"])
        .ok();
    let configs = broker.run(&["topic", "describe", "-c", &topic]).ok();
    let set: String = configs
        .lines()
        .filter(|line| line.contains("DYNAMIC_TOPIC_CONFIG"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    check(
        &set,
        &[],
        expect![[r#"
        segment.bytes 1048576 DYNAMIC_TOPIC_CONFIG
    "#]],
    );
    broker.run(&["topic", "add-partitions", &topic, "-n", "1"]).ok();
    broker.run_with(&["produce", &topic, "-p", "2"], b"a\nb\n").ok();
    let partitions = broker.run(&["topic", "describe", "-p", &topic]).ok();
    check(
        &partitions,
        &names,
        expect![[r#"
        PARTITION  LEADER  EPOCH  REPLICAS  IN-SYNC  LOG-START-OFFSET  HIGH-WATERMARK
        0  1  0  1  1  0  0
        1  1  0  1  1  0  0
        2  1  0  1  1  0  2
    "#]],
    );
    broker.run(&["topic", "delete", &topic]).ok();
    let listed = broker.run(&["topic", "list"]).ok();
    assert!(!listed.contains(&topic), "{listed}");
}

#[test]
fn what_goes_wrong_is_said_with_the_way_out() {
    let broker = Broker::start();
    let missing = unique("missing");
    let names = [(missing.as_str(), "TOPIC")];
    check(
        &broker.run_with(&["produce", &missing], b"a\n").show(),
        &names,
        expect![[r#"
        error: topic TOPIC does not exist (UNKNOWN_TOPIC_OR_PARTITION)
          tip: see `ottla topic list`; `ottla topic create TOPIC` creates one
        exit code 1
    "#]],
    );
    check(
        &broker.run(&["consume", &missing]).show(),
        &names,
        expect![[r#"
        error: topic TOPIC does not exist (UNKNOWN_TOPIC_OR_PARTITION)
          tip: see `ottla topic list`; `ottla topic create TOPIC` creates one
        exit code 1
    "#]],
    );
    check(
        &broker.run(&["topic", "describe", &missing]).show(),
        &names,
        expect![[r#"
        error: topic TOPIC does not exist (UNKNOWN_TOPIC_OR_PARTITION)
          tip: see `ottla topic list`; `ottla topic create TOPIC` creates one
        exit code 1
    "#]],
    );
    check(
        &broker.run(&["topic", "list", "-X", "brokers=127.0.0.1:1"]).show(),
        &[],
        expect![[r#"
        error: cannot connect to 127.0.0.1:1: Connection refused (os error 111)
          tip: is a broker running there? `ottla dev` starts one
        exit code 1
    "#]],
    );
    check(
        &broker.run(&["topic", "list", "-X", "broker=x"]).show(),
        &[],
        expect![[r#"
        error: broker=x cannot be used: there is no such option; did you mean brokers?
        exit code 2
    "#]],
    );
    check(
        &broker.run(&["consume", &missing, "-g", "g", "-o", ":end"]).show(),
        &[],
        expect![[r#"
        error: a group reads on for ever: --offset with an end does not go with --group
        exit code 2
    "#]],
    );
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let broker = Broker::start();
    let topic = unique("pipe");
    broker.run(&["topic", "create", &topic, "-p", "1"]).ok();
    let lines = "x".repeat(99).replace('x', "0123456789") + "\n";
    broker.run_with(&["produce", &topic], lines.repeat(1000).as_bytes()).ok();
    let mut process = ottla()
        .args(["consume", &topic, "-b", &broker.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    process.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let answer = Answer::from(process.wait_with_output().unwrap());
    assert_eq!((answer.code, answer.error.as_str()), (0, ""));
}

#[test]
fn quotas_are_set_shown_and_deleted() {
    let broker = Broker::start();
    let client_id = unique("reports");
    let entity = format!("client-id={client_id}");
    let alter = |args: &[&str]| broker.run(&[&["quota", "alter", "--name", &entity], args].concat());
    let describe = |args: &[&str]| broker.run(&[&["quota", "describe", "--name", &entity], args].concat());
    let shown = [
        alter(&["--set", "consumer_byte_rate=1048576", "--set", "request_percentage=12.5", "--dry"]).show(),
        describe(&[]).show(),
        alter(&["--set", "consumer_byte_rate=1048576", "--set", "request_percentage=12.5"]).show(),
        describe(&[]).show(),
        alter(&["--delete", "request_percentage", "--default", "user", "-s", "producer_byte_rate=1000"])
            .show(),
        describe(&["--strict", "--format", "json"]).show(),
        describe(&[]).show(),
        alter(&["--set", "producer_byte_rate=0"]).show(),
        alter(&["--set", "producer_byte_rate=much"]).show(),
        alter(&[]).show(),
        broker.run(&["quota", "alter", "--default", "group", "--set", "producer_byte_rate=1"]).show(),
    ];
    check(
        &shown.concat(),
        &[(&client_id, "reports")],
        expect![[r#"
        client-id=reports  could be altered
        exit code 0
        no quotas
        exit code 0
        client-id=reports  altered
        exit code 0
        ENTITY  QUOTA  VALUE
        client-id=reports  consumer_byte_rate  1048576
        client-id=reports  request_percentage  12.5
        exit code 0
        client-id=reports user=(default)  altered
        exit code 0
        [
          {
          "entity": {
          "client-id": "reports"
          },
          "quotas": {
          "consumer_byte_rate": 1048576,
          "request_percentage": 12.5
          }
          }
        ]
        exit code 0
        ENTITY  QUOTA  VALUE
        client-id=reports  consumer_byte_rate  1048576
        client-id=reports  request_percentage  12.5
        user=(default) client-id=reports  producer_byte_rate  1000
        exit code 0
        error: changing quotas: Quota producer_byte_rate must be greater than 0 (INVALID_REQUEST)
        exit code 1
        error: invalid value 'producer_byte_rate=much' for '--set <QUOTA=VALUE>': much is not a number

        For more information, try '--help'.
        exit code 2
        error: nothing to change: give --set or --delete
        exit code 2
        error: group has no quotas: the types are user, client-id, ip
        exit code 2
    "#]],
    );
    alter(&["--delete", "consumer_byte_rate"]).ok();
    alter(&["--default", "user", "--delete", "producer_byte_rate"]).ok();
}
