//! What was given, as text, against what holds or is refused, as text.

use std::collections::BTreeMap;
use std::path::Path;

use expect_test::{Expect, expect};
use state::metadata::{ConfigResource, ConfigRules, Image, ResourceKind, TopicRules};

use super::*;

fn given(file: &str) -> Sources {
    Sources::new().properties(Path::new("server.properties"), file)
}

fn loaded(file: &str) -> Settings {
    Settings::load(given(&format!("node.id=1\n{file}"))).unwrap_or_else(|error| panic!("{error}"))
}

fn check_refused(file: &str, expect: Expect) {
    let error = Settings::load(given(file)).expect_err("must be refused");
    expect.assert_eq(&format!("{error}\n"));
}

fn check_notices(sources: Sources, expect: Expect) {
    let settings = Settings::load(sources).unwrap_or_else(|error| panic!("{error}"));
    let lines: Vec<String> = settings.notices().iter().map(|notice| format!("{notice}\n")).collect();
    expect.assert_eq(&lines.concat());
}

/// A topic that has nothing of its own.
const PLAIN: [(&str, &str); 0] = [];

#[test]
fn every_row_has_a_valid_default_a_sentence_and_a_key_of_its_own() {
    let others = [TOPIC, GROUP, CLIENT_METRICS].map(|rows| rows.iter().collect::<Vec<_>>());
    for rows in [broker_rows().collect()].into_iter().chain(others) {
        let mut seen = BTreeMap::new();
        for row in rows {
            let _parses = row.default_value();
            assert!(row.doc.trim().ends_with('.'), "{}", row.key);
            assert!(seen.insert(row.key, ()).is_none(), "{} stands twice", row.key);
            assert_eq!(row.scope == Scope::Topic, topic_row(row.key) == Some(row), "{}", row.key);
        }
    }
}

#[test]
fn a_topic_default_is_what_the_broker_defaults_give() {
    let settings = loaded("");
    for row in TOPIC {
        assert_eq!(settings.layers.inherited(row), row.default_value(), "{}", row.key);
        for synonym in row.synonyms {
            assert!(broker_row(synonym.key).is_some(), "{}", synonym.key);
        }
    }
}

#[test]
fn defaults_are_kafkas() {
    let settings = loaded("");
    let broker = settings.broker();
    assert_eq!(broker.network.request_bytes_max, 104_857_600);
    assert_eq!(broker.groups.offsets_topic_partitions, 50);
    assert_eq!(broker.topics.partitions, 1);
    let topic = settings.topic(PLAIN);
    assert_eq!(topic.retention_ms, Some(wire::Millis(604_800_000)));
    assert_eq!(topic.retention_bytes, None);
    assert!(topic.flush_before_ack);
}

#[test]
fn how_many_must_be_in_sync_is_what_the_metadata_says_and_the_same_for_all() {
    let settings = loaded("min.insync.replicas=3");
    let mut image = Image::default();
    let topic = Str::from("t");
    assert_eq!(settings.rule(&image, &topic).min_insync_replicas, 3);
    for record in image.settle_min_isr(Str::from("2")).records {
        image.apply(&record);
    }
    assert_eq!(settings.rule(&image, &topic).min_insync_replicas, 2);
    let of_one = ConfigResource::broker(wire::BrokerId(1));
    let wanted = BTreeMap::from([(Str::from("min.insync.replicas"), Str::from("1"))]);
    let refused = settings.check(&of_one, &wanted).expect_err("brokers agree on it");
    assert!(refused.contains("cannot differ between brokers"), "{refused}");
    assert_eq!(settings.check(&ConfigResource::cluster_default(), &wanted), Ok(()));
}

#[test]
fn later_sources_win() {
    let environment =
        [("KAFKA_NUM_PARTITIONS", "3"), ("KAFKA_LOG_RETENTION_HOURS", "3"), ("KAFKA_NODE_ID", "3")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sources = given("num.partitions=2\nlog.retention.hours=2\nnode.id=2\nlog.roll.hours=2")
        .set("num.partitions=4")
        .preset("log.roll.hours", "1")
        .preset("log.segment.bytes", "1048576")
        .environment(environment);
    let settings = Settings::load(sources).unwrap();
    let broker = settings.broker();
    assert_eq!(broker.topics.partitions, 4);
    assert_eq!(broker.log.retention_hours, Some(3));
    assert_eq!(broker.log.roll_hours, 2);
    assert_eq!(broker.log.segment_bytes, 1_048_576);
    assert_eq!(settings.node_id(), BrokerId(3));

    let dynamic = settings
        .with_dynamic([("log.segment.bytes", "2097152"), ("log.roll.ms", "7")], [("log.roll.ms", "8")]);
    assert_eq!(dynamic.broker().log.segment_bytes, 2_097_152);
    assert_eq!(dynamic.topic(PLAIN).segment_ms, wire::Millis(8));
    assert_eq!(dynamic.topic([("segment.ms", "9")]).segment_ms, wire::Millis(9));
    let back = dynamic.with_dynamic::<&str, &str>([], []);
    assert_eq!(back.broker(), settings.broker());
}

#[test]
fn all_problems_are_reported_at_once() {
    check_refused(
        "num.partition=4\nlog.segment.bytes=12\nlog.preallocate=perhaps\nquantum.flux=1\nssl.keystore.pasword=x\n\
         compression.type=brotli\nnum.io.threads=99999999999\nlisteners=PLAINTEXT://:9092,B://:9092\n\
         admin.listener=:9092\nlog.cleaner.min.cleanable.ratio=1.5\nauthorizer.class.name=a.B",
        expect![[r#"
            the settings are not valid:
              server.properties:1: unknown setting num.partition (value "4"); did you mean num.partitions?
              server.properties:2: log.segment.bytes = "12": Value must be at least 1048576; allowed: int at least 1048576
              server.properties:3: log.preallocate = "perhaps": Expected value to be either true or false; allowed: true, false
              server.properties:4: unknown setting quantum.flux (value "1")
              server.properties:6: compression.type = "brotli": String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer; allowed: string uncompressed, zstd, lz4, snappy, gzip, producer
              server.properties:7: num.io.threads = "99999999999": Not a number of type INT; allowed: int at least 1
              server.properties:10: log.cleaner.min.cleanable.ratio = "1.5": Value must be no more than 1; allowed: double 0 to 1
              server.properties:11: authorizer.class.name = "a.B" cannot be honoured: authorization is not available in this version, and without it everybody may do everything; allowed: nothing
              node.id is missing: every node needs a number of its own
              listeners = "B://:9092": listener.security.protocol.map has no protocol for B
              admin.listener = ":9092": listener PLAINTEXT has the same port
        "#]],
    );
}

#[test]
fn contradictions_are_refused() {
    check_refused(
        "node.id=1\nbroker.id=2\nlog.dirs=/a,/b,/a/\ngroup.min.session.timeout.ms=10\ngroup.max.session.timeout.ms=9\n\
         listeners=PLAINTEXT://:9092,B://0.0.0.0:9092,SSL://:9094,C://x\nadvertised.listeners=PLAINTEXT://0.0.0.0:1,D://h:1\n\
         listener.security.protocol.map=B:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL\nprocess.roles=controller\n\
         inter.broker.listener.name=Z\nlistener.name.e.max.connections=3",
        expect![[r#"
            the settings are not valid:
              broker.id = "2": node.id is 1; give one of them, or both the same
              log.dirs = "/a,/b,/a/": /a/ is given twice
              advertised.listeners = "PLAINTEXT://0.0.0.0:1": clients cannot dial a wildcard address
              listeners = "B://0.0.0.0:9092": listener PLAINTEXT has the same port
              listeners = "SSL://:9094": its protocol is SSL; only PLAINTEXT is available in this version
              listeners = "C://x": "x" is not host:port
              advertised.listeners = "PLAINTEXT://0.0.0.0:1,D://h:1": there is no listener D
              listeners = "PLAINTEXT://:9092,B://0.0.0.0:9092,SSL://:9094,C://x": listener.name.e.max.connections is given, and there is no such listener
              inter.broker.listener.name = "Z": there is no listener Z
              process.roles = "controller": a node without the role broker is not available in this version
              group.min.session.timeout.ms = "10": group.max.session.timeout.ms is 9, which is less
        "#]],
    );
}

#[test]
fn a_broken_file_or_assignment_is_refused_with_its_place() {
    let sources =
        given("node.id=1\na=\\u12").set("x").set("=3").properties_file(Path::new("/does/not/exist"));
    let error = Settings::load(sources).unwrap_err();
    assert_eq!(error.problems.len(), 5, "{error}");
    assert!(error.to_string().contains("server.properties: line 2: \\u must be"), "{error}");
    assert!(error.to_string().contains("--set x: expected key=value"), "{error}");
    assert!(error.to_string().contains("/does/not/exist: "), "{error}");
}

#[test]
fn a_file_written_for_kafka_loads_and_says_what_has_no_effect() {
    let file = "process.roles=broker,controller\nnode.id=1\nlisteners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n\
                advertised.listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n\
                inter.broker.listener.name=PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
                controller.quorum.bootstrap.servers=127.0.0.1:9093\nnum.partitions=1\nnum.partitions=4\n\
                listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
                zookeeper.connect=x:2181\nauthorizer.class.name=\nmetric.reporters=a.B\n\
                group.coordinator.rebalance.protocols=classic,consumer,share\n";
    let environment =
        [("KAFKA_PORT", "tcp://10.0.0.1:9092"), ("KAFKA_NUM_PARTITION", "1"), ("KAFKA_HEAP_OPTS", "-Xmx1G")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    check_notices(
        given(file).environment(environment),
        expect![[r#"
            server.properties:8: num.partitions is given again at server.properties:9, which wins
            server.properties:11: zookeeper.connect has no effect here: there is no ZooKeeper
            server.properties:13: metric.reporters has no effect here: metrics are read from /metrics on admin.listener
            environment KAFKA_NUM_PARTITION names no setting; did you mean num.partitions?
            environment KAFKA_PORT names no setting
            listener CONTROLLER is not opened: the controller uses the broker listener
        "#]],
    );
}

/// What Apache Kafka 4.3 itself says of its settings: whose, key, type, default, importance, when it can change.
struct Fact(Vec<&'static str>);

impl Fact {
    fn all() -> impl Iterator<Item = Fact> {
        include_str!("kafka_4_3_configs.tsv").lines().map(|line| Fact(line.split('\t').collect()))
    }

    fn key(&self) -> &'static str {
        self.0[1]
    }

    fn row(&self) -> Option<&'static Setting> {
        if self.0[0] == "broker" { broker_row(self.key()) } else { topic_row(self.key()) }
    }
}

#[test]
fn every_key_of_kafka_is_in_the_table_or_known_to_have_no_effect() {
    let is_known = |fact: &Fact| fact.row().is_some() || table::foreign::foreign(fact.key()).is_some();
    let unknown: Vec<&str> = Fact::all().filter(|fact| !is_known(fact)).map(|fact| fact.key()).collect();
    // Kafka's own tests use it to make segments smaller than it allows.
    assert_eq!(unknown, ["internal.segment.bytes"]);
    let known =
        TOPIC.iter().filter(|row| !Fact::all().any(|fact| fact.0[0] == "topic" && fact.key() == row.key));
    // The second is Kafka 4.4's (KIP-1191).
    let newer = ["flush.before.ack", "errors.deadletterqueue.group.enable"];
    assert_eq!(known.map(|row| row.key).collect::<Vec<_>>(), newer);
}

#[test]
fn rows_differ_from_kafka_only_where_meant() {
    let mut differences = String::new();
    for fact in Fact::all() {
        let Some(row) = fact.row() else { continue };
        let scope = if row.scope.is_dynamic() { "dynamic" } else { "read-only" };
        let ours = [row.kind.name(), row.default.unwrap_or("null"), row.importance.name(), scope];
        for (ours, kafkas) in ours.iter().zip(&fact.0[2..]).filter(|(ours, kafkas)| ours != kafkas) {
            differences += &format!("{}: {ours}, in Kafka {kafkas}\n", row.key);
        }
    }
    expect![[r#"
        broker.heartbeat.interval.ms: 500, in Kafka 2000
        broker.session.timeout.ms: 3000, in Kafka 9000
        controller.listener.names: , in Kafka null
        group.coordinator.rebalance.protocols: classic,consumer, in Kafka classic,consumer,streams
        listener.security.protocol.map: read-only, in Kafka dynamic
        listeners: read-only, in Kafka dynamic
        process.roles: broker,controller, in Kafka null
    "#]]
    .assert_eq(&differences);
}

#[test]
fn one_listener_per_address_family_may_share_a_port() {
    let map = "listener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT\n";
    let settings =
        loaded(&format!("{map}listeners=A://127.0.0.1:9092,b://[::1]:9092\nadvertised.listeners=B://h:1"));
    let shown: Vec<String> = settings.listeners().iter().map(|l| format!("{} {}", l.name, l.bind)).collect();
    assert_eq!(shown, ["A 127.0.0.1:9092", "B [::1]:9092"]);
    assert_eq!(settings.listeners()[1].advertised, Some(HostPort { host: "h".into(), port: 1 }));
    loaded(&format!("{map}listeners=A://:0,B://:0\nadmin.listener=127.0.0.1:0"));
}

#[test]
fn node_id_and_broker_id_are_one() {
    let settings = Settings::load(given("broker.id=5")).unwrap();
    assert_eq!(settings.node_id(), BrokerId(5));
    let keys = [Str::from("node.id"), Str::from("broker.id")];
    let options = DescribeOptions { keys: Some(&keys), ..DescribeOptions::default() };
    for entry in settings.describe_broker(&options) {
        assert_eq!(entry.value.as_deref(), Some("5"));
        assert_eq!(entry.config_source, ConfigSource::StaticBroker.code());
    }
}

fn check_described(
    entries: &[wire::messages::describe_configs::DescribeConfigsResourceResult],
    expect: Expect,
) {
    let mut out = String::new();
    for entry in entries {
        let value = entry.value.as_deref().unwrap_or("null");
        let synonyms = entry
            .synonyms
            .iter()
            .map(|s| format!(" {}:{}={}", s.source, &*s.name, s.value.as_deref().unwrap_or("null")));
        let (source, kind, read_only) = (entry.config_source, entry.config_type, entry.read_only);
        out += &format!("{}={value} source={source} type={kind} read_only={read_only}", &*entry.name);
        out += &format!("{}\n", synonyms.collect::<String>());
    }
    expect.assert_eq(&out);
}

#[test]
fn a_description_tells_where_a_value_comes_from_and_what_it_hides() {
    let settings = loaded("log.retention.hours=2\nlog.segment.bytes=1048576\nmin.insync.replicas=2");
    let settings = settings.with_dynamic(
        [("min.insync.replicas", "3"), ("log.segment.bytes", "1048577")],
        [("min.insync.replicas", "4")],
    );
    let keys = [
        "retention.ms",
        "segment.bytes",
        "min.insync.replicas",
        "cleanup.policy",
        "remote.storage.enable",
        "nonsense",
    ];
    let keys = keys.map(Str::from);
    let options = DescribeOptions { keys: Some(&keys), include_synonyms: true, include_documentation: false };
    check_described(
        &settings.describe_topic([("segment.bytes", "2000000")], &options),
        expect![[r#"
            cleanup.policy=delete source=5 type=7 read_only=false 5:log.cleanup.policy=delete
            retention.ms=7200000 source=4 type=5 read_only=false 4:log.retention.hours=2 5:log.retention.hours=168
            min.insync.replicas=4 source=2 type=3 read_only=false 2:min.insync.replicas=4 3:min.insync.replicas=3 4:min.insync.replicas=2 5:min.insync.replicas=1
            segment.bytes=2000000 source=1 type=3 read_only=false 1:segment.bytes=2000000 3:log.segment.bytes=1048577 4:log.segment.bytes=1048576 5:log.segment.bytes=1073741824
            remote.storage.enable=false source=5 type=1 read_only=false
        "#]],
    );
    let keys =
        ["log.retention.hours", "log.retention.ms", "log.segment.bytes", "log.cleaner.min.cleanable.ratio"];
    let keys = keys.map(Str::from);
    let options = DescribeOptions { keys: Some(&keys), include_synonyms: true, include_documentation: false };
    check_described(
        &settings.describe_broker(&options),
        expect![[r#"
            log.segment.bytes=1048577 source=3 type=3 read_only=false 3:log.segment.bytes=1048577 4:log.segment.bytes=1048576 5:log.segment.bytes=1073741824
            log.retention.ms=null source=5 type=5 read_only=false
            log.retention.hours=2 source=4 type=3 read_only=true 4:log.retention.hours=2 5:log.retention.hours=168
            log.cleaner.min.cleanable.ratio=0.5 source=5 type=6 read_only=false 5:log.cleaner.min.cleanable.ratio=0.5
        "#]],
    );
    check_described(
        &settings.describe_cluster_default(&DescribeOptions::default()),
        expect![[r#"
            min.insync.replicas=3 source=3 type=3 read_only=false
            log.segment.bytes=1048577 source=3 type=3 read_only=false
        "#]],
    );
}

fn check_rules(settings: &Settings, resource: &ConfigResource, lines: &[&str], expect: Expect) {
    let verdict = |line: &&str| {
        let pairs = line.split("; ").map(|pair| pair.split_once('=').unwrap());
        let values = pairs.map(|(key, value)| (Str::copy_from(key), Str::copy_from(value))).collect();
        let verdict = settings.check(resource, &values).err();
        format!("{line} => {}\n", verdict.as_deref().unwrap_or("ok"))
    };
    expect.assert_eq(&lines.iter().map(verdict).collect::<String>());
}

#[test]
fn a_topics_values_are_refused_with_kafkas_words() {
    check_rules(
        &loaded(""),
        &ConfigResource::topic(Str::from("t")),
        &[
            "retention.ms=5; cleanup.policy=compact,delete",
            "cleanup.policy=",
            "leader.replication.throttled.replicas=0:1,1:2",
            "leader.replication.throttled.replicas=*",
            "retention.ms=abc",
            "retention.ms=-5",
            "retenton.ms=5",
            "cleanup.policy=shred",
            "compression.type=br",
            "compression.gzip.level=0",
            "preallocate=maybe",
            "segment.bytes=99999999999",
            "leader.replication.throttled.replicas=x",
            "min.compaction.lag.ms=51; max.compaction.lag.ms=50",
            "remote.storage.enable=true",
            "flush.before.ack=false",
        ],
        expect![[r#"
            retention.ms=5; cleanup.policy=compact,delete => ok
            cleanup.policy= => ok
            leader.replication.throttled.replicas=0:1,1:2 => ok
            leader.replication.throttled.replicas=* => ok
            retention.ms=abc => Invalid value abc for configuration retention.ms: Not a number of type LONG
            retention.ms=-5 => Invalid value -5 for configuration retention.ms: Value must be at least -1
            retenton.ms=5 => Unknown topic config name: retenton.ms (did you mean retention.ms?)
            cleanup.policy=shred => Invalid value shred for configuration cleanup.policy: String must be one of: compact, delete
            compression.type=br => Invalid value br for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer
            compression.gzip.level=0 => Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1
            preallocate=maybe => Invalid value maybe for configuration preallocate: Expected value to be either true or false
            segment.bytes=99999999999 => Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT
            leader.replication.throttled.replicas=x => Invalid value x for configuration leader.replication.throttled.replicas: Value must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...
            min.compaction.lag.ms=51; max.compaction.lag.ms=50 => conflict topic config setting min.compaction.lag.ms (51) > max.compaction.lag.ms (50)
            remote.storage.enable=true => Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.
            flush.before.ack=false => ok
        "#]],
    );
}

const BROKER_VALUES: [&str; 7] = [
    "log.retention.ms=5; log.cleanup.policy=compact",
    "log.retention.ms=abc",
    "num.partitions=3",
    "follower.replication.throttled.rate=5",
    "num.oi.threads=5",
    "log.cleaner.io.buffer.size=5",
    "log.cleaner.min.compaction.lag.ms=5; log.cleaner.max.compaction.lag.ms=4",
];

#[test]
fn one_brokers_values_are_dynamic_settings() {
    let resource = ConfigResource::broker(BrokerId(1));
    check_rules(
        &loaded(""),
        &resource,
        &BROKER_VALUES,
        expect![[r#"
        log.retention.ms=5; log.cleanup.policy=compact => ok
        log.retention.ms=abc => Invalid value abc for configuration log.retention.ms: Not a number of type LONG
        num.partitions=3 => Cannot update these configs dynamically: [num.partitions]
        follower.replication.throttled.rate=5 => ok
        num.oi.threads=5 => Unknown broker config name: num.oi.threads (did you mean num.io.threads?)
        log.cleaner.io.buffer.size=5 => log.cleaner.io.buffer.size has no effect here: compaction reads whole batches
        log.cleaner.min.compaction.lag.ms=5; log.cleaner.max.compaction.lag.ms=4 => log.cleaner.min.compaction.lag.ms = "5": log.cleaner.max.compaction.lag.ms is 4, which is less
    "#]],
    );
}

#[test]
fn values_for_all_brokers_are_cluster_wide_settings() {
    let resource = ConfigResource::cluster_default();
    check_rules(
        &loaded(""),
        &resource,
        &BROKER_VALUES,
        expect![[r#"
        log.retention.ms=5; log.cleanup.policy=compact => ok
        log.retention.ms=abc => Invalid value abc for configuration log.retention.ms: Not a number of type LONG
        num.partitions=3 => Cannot update these configs dynamically: [num.partitions]
        follower.replication.throttled.rate=5 => Cannot update these configs at default cluster level, broker id must be specified: [follower.replication.throttled.rate]
        num.oi.threads=5 => Unknown broker config name: num.oi.threads (did you mean num.io.threads?)
        log.cleaner.io.buffer.size=5 => log.cleaner.io.buffer.size has no effect here: compaction reads whole batches
        log.cleaner.min.compaction.lag.ms=5; log.cleaner.max.compaction.lag.ms=4 => log.cleaner.min.compaction.lag.ms = "5": log.cleaner.max.compaction.lag.ms is 4, which is less
    "#]],
    );
}

#[test]
fn lists_begin_with_what_is_inherited() {
    let settings = loaded("log.cleanup.policy=compact");
    assert!(settings.is_list(ResourceKind::Topic, "cleanup.policy"));
    assert!(!settings.is_list(ResourceKind::Topic, "retention.ms"));
    assert!(!settings.is_list(ResourceKind::Topic, "nonsense"));
    assert_eq!(settings.list_default(ResourceKind::Topic, "cleanup.policy").as_deref(), Some("compact"));
    assert_eq!(settings.list_default(ResourceKind::Broker, "log.cleanup.policy").as_deref(), Some("compact"));
}

#[test]
fn the_offsets_topic_can_be_created_with_its_configs() {
    let settings = loaded("offsets.topic.segment.bytes=2000000");
    let configs = settings.offsets_topic_configs().into_iter().collect();
    assert_eq!(settings.check(&ConfigResource::topic(Str::from("__consumer_offsets")), &configs), Ok(()));
}

#[test]
fn stored_values_of_another_version_do_not_keep_a_broker_from_starting() {
    let settings = loaded("").with_dynamic(
        [("log.segment.bytes", "1"), ("num.partitions", "3"), ("x.y", "1")],
        [("log.roll.ms", "5")],
    );
    assert_eq!(settings.notices().len(), 3);
    assert_eq!(settings.broker().log.segment_bytes, 1 << 30);
    assert_eq!(settings.topic([("segment.ms", "x")]).segment_ms, wire::Millis(5));
}
