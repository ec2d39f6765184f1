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

/// Numbers with a point are times that passed.
fn without_times(shown: &str) -> String {
    let word = |word: &str| match word.trim().parse::<f64>() {
        Ok(_) if word.contains('.') => word.replace(word.trim(), "(time)"),
        _ => word.to_owned(),
    };
    shown.split_inclusive([' ', '\n']).map(word).collect()
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
    if broker.process.is_some() {
        // Apache Kafka does not tell lag in time.
        check(
            &without_times(&described),
            &[(&topic, "TOPIC"), (&group, "GROUP-NAME")],
            expect![[r#"
                GROUP  GROUP-NAME
                COORDINATOR  1
                STATE  Empty
                BALANCER  -
                MEMBERS  0
                TOTAL-LAG  1
                MAX-LAG-SECONDS  (time)

                TOPIC  PARTITION  CURRENT-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG  LAG-SECONDS
                TOPIC  0  3  0  4  1  (time)
            "#]],
        );
    }
    let watch = ["group", "describe", &group, "--watch", "10ms", "--count", "2", "--format", "json"];
    let samples = broker.run(&watch).ok();
    let samples: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(&samples).into_iter().map(Result::unwrap).collect();
    let [first, second] = &samples[..] else { panic!("{samples:?}") };
    let waits = first[0]["partitions"][0]["lag_seconds"].as_f64();
    assert!(waits.is_none_or(|seconds| seconds > 0.0 && seconds < 600.0), "{waits:?}");
    assert_eq!(first[0].get("clear_in_seconds"), None, "one look tells no pace");
    assert_eq!(second[0]["clear_in_seconds"], serde_json::Value::Null, "nobody reads: it is never gone");
    read("1");
    let caught_up = broker.run(&["group", "describe", &group, "--format", "json"]).ok();
    let caught_up: serde_json::Value = serde_json::from_str(&caught_up).unwrap();
    assert_eq!((&caught_up[0]["total_lag"], &caught_up[0]["max_lag_seconds"]), (&0.into(), &0.0.into()));
    let listed = broker.run(&["group", "list", "--format", "json"]).ok();
    assert!(listed.contains(&group), "{listed}");
    broker.run(&["group", "delete", &group]).ok();
    let gone = broker.run(&["group", "describe", &group]);
    assert_eq!(gone.code, 1, "{}", gone.show());
}

#[test]
fn a_group_is_sought_where_it_is_told_to_and_not_before_it_is_told_twice() {
    let broker = Broker::start();
    let (topic, group, copy) = (unique("work"), unique("readers"), unique("copies"));
    let names = [(&*topic, "TOPIC"), (&*group, "GROUP"), (&*copy, "COPY")];
    broker.run(&["topic", "create", &topic, "-p", "2"]).ok();
    broker.run_with(&["produce", &topic, "-p", "0"], b"one\ntwo\nthree\nfour\n").ok();
    broker.run_with(&["produce", &topic, "-p", "1"], b"five\n").ok();
    broker.run(&["consume", &topic, "-g", &group, "-n", "5"]).ok();
    let seek = |group: &str, arguments: &[&str]| broker.run(&[&["group", "seek", group], arguments].concat());

    check(
        &seek(&group, &["--to", "start"]).ok(),
        &names,
        expect![[r#"
            TOPIC  PARTITION  FROM  TO  LAG-BEFORE  LAG-AFTER
            TOPIC  0  4  0  0  4
            TOPIC  1  1  0  0  1
        "#]],
    );
    let at = |group: &str| {
        let described = broker.run(&["group", "describe", group, "--format", "json"]).ok();
        let groups: serde_json::Value = serde_json::from_str(&described).unwrap();
        let partitions = groups[0]["partitions"].as_array().unwrap().iter();
        partitions.map(|partition| partition["current_offset"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(at(&group), [4, 1], "a plan changes nothing");
    let saved = broker.run(&["group", "describe", &group, "--format", "json"]).ok();
    seek(&group, &["--to", "start", "--execute"]).ok();
    assert_eq!(at(&group), [0, 0]);
    assert_eq!(broker.run(&["consume", &topic, "-g", &group, "-n", "5"]).ok().lines().count(), 5);

    check(
        &seek(&group, &["--shift", "-3", "--execute"]).ok(),
        &names,
        expect![[r#"
            TOPIC  PARTITION  FROM  TO  LAG-BEFORE  LAG-AFTER  NOTE
            TOPIC  0  4  1  0  3  -
            TOPIC  1  1  0  0  1  -2 is before the log's start
        "#]],
    );
    let one = format!("{topic}:0=99");
    check(
        &seek(&group, &["--offset", &one, "--execute"]).ok(),
        &names,
        expect![[r#"
            TOPIC  PARTITION  FROM  TO  LAG-BEFORE  LAG-AFTER  NOTE
            TOPIC  0  1  4  3  0  99 is past the log's end
        "#]],
    );
    seek(&copy, &["--to-group", &group, "--execute"]).ok();
    assert_eq!(at(&copy), [4, 0], "a group that was not there has the offsets of the other");
    let second = format!("{topic}:1");
    seek(&copy, &["--to", "1h ago", "--topic", &second, "--execute"]).ok();
    seek(&copy, &["--to", "-1h", "--topic", &topic, "--execute"]).ok();
    assert_eq!(at(&copy), [0, 0], "everything is newer than an hour");
    seek(&copy, &["--to", "2100-01-01T00:00:00Z", "--execute"]).ok();
    assert_eq!(at(&copy), [4, 1]);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &saved).unwrap();
    let path = file.path().to_str().unwrap();
    seek(&group, &["--to-file", path, "--execute"]).ok();
    assert_eq!(at(&group), [4, 1], "what was saved is there again");
    let lines = format!("{topic},0,2\n{topic},1,0\n");
    broker.run_with(&["group", "seek", &group, "--to-file", "-", "--execute"], lines.as_bytes()).ok();
    assert_eq!(at(&group), [2, 0]);

    broker.run(&["group", "offset-delete", &group, "--topic", &second]).ok();
    assert_eq!(at(&group), [2]);
    let refused = seek(&group, &["--shift", "1", "--topic", &second, "--execute"]);
    check(
        &refused.show(),
        &names,
        expect![[r#"
            error: TOPIC-1 has no committed offset that could be shifted
            exit code 1
        "#]],
    );
}

#[test]
fn a_group_that_lives_is_not_moved() {
    let broker = Broker::start();
    let (topic, group) = (unique("work"), unique("readers"));
    broker.run(&["topic", "create", &topic, "-p", "1"]).ok();
    broker.run_with(&["produce", &topic], b"one\ntwo\n").ok();
    let mut reader = ottla()
        .args(["consume", &topic, "-g", &group])
        .env("OTTLA_BROKERS", &broker.address)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut read = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert_eq!(read.next().unwrap().unwrap(), "one", "it is a member");
    let refused = broker.run(&["group", "seek", &group, "--to", "end", "--topic", &topic, "--execute"]);
    assert_eq!(refused.code, 1);
    let said = refused.show();
    assert!(
        said.contains(&format!("group {group} has members, and only they may move its offsets: ottla-")),
        "{said}"
    );
    let planned = broker.run(&["group", "seek", &group, "--to", "end", "--topic", &topic]);
    assert_eq!(planned.code, 0, "a plan can be made all the same");
    reader.kill().unwrap();
    reader.wait().unwrap();
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
