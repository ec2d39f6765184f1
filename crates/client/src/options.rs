//! The client's settings, under Kafka's names.
//!
//! One table, [`SETTINGS`], holds name, default and meaning of each; the same row parses it, so a setting that
//! is documented is one that works. Typed fields are for code, [`Options::set`] is for text. A value out of
//! bounds is refused when it is set, with what is allowed.

use std::time::Duration;

use wire::compression::Compression;

use crate::environment::Address;
use crate::error::Error;

/// The client's settings. [`Options::default`] is what the table says.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each field is a row of SETTINGS, which documents it")]
pub struct Options {
    pub bootstrap_servers: Vec<Address>,
    pub client_id: String,
    pub request_timeout: Duration,
    pub default_api_timeout: Duration,
    pub connect_timeout: Duration,
    pub retry_backoff: Duration,
    pub retry_backoff_max: Duration,
    pub metadata_max_age: Duration,
    pub in_flight_max: usize,
    pub receive_bytes_max: usize,
    pub allow_auto_create_topics: bool,
    pub acks: Acks,
    pub enable_idempotence: bool,
    pub compression_type: Compression,
    pub linger: Duration,
    pub batch_size: usize,
    pub buffer_memory: usize,
    pub request_bytes_max: usize,
    pub delivery_timeout: Duration,
    pub group_id: Option<String>,
    pub group_instance_id: Option<String>,
    pub group_protocol: GroupProtocol,
    pub group_remote_assignor: Option<String>,
    pub assignment_strategies: Vec<AssignmentStrategy>,
    pub client_rack: Option<String>,
    pub poll_records_max: usize,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub poll_interval_max: Duration,
    pub enable_auto_commit: bool,
    pub auto_commit_interval: Duration,
    pub auto_offset_reset: OffsetReset,
    pub isolation_level: Isolation,
    pub fetch_bytes_min: usize,
    pub fetch_bytes_max: usize,
    pub partition_fetch_bytes_max: usize,
    pub fetch_wait_max: Duration,
}

/// How many replicas must have a batch before it counts as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Every replica in sync.
    All,
    /// The leader alone.
    Leader,
    /// None: the broker does not answer.
    None,
}

/// Where to read on when there is no position or it no longer exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// At the oldest record.
    Earliest,
    /// At the end.
    Latest,
    /// At the first record that is no older than this (KIP-1106).
    ByDuration(Duration),
    /// Nowhere: it is an error.
    None,
}

/// How members of a group share its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The members themselves assign them.
    Classic,
    /// The coordinator does (KIP-848).
    Consumer,
}

/// An assignor of Kafka's, for groups of the classic protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssignmentStrategy {
    /// Each topic's partitions in ranges.
    Range,
    /// All partitions in turn.
    RoundRobin,
    /// Evenly, leaving partitions where they are; only what moves is given up in between.
    CooperativeSticky,
}

impl AssignmentStrategy {
    /// Under which name groups agree on it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Range, Self::RoundRobin, Self::CooperativeSticky]
            .into_iter()
            .find(|strategy| strategy.name() == name)
    }

    pub(crate) fn is_cooperative(self) -> bool {
        self == Self::CooperativeSticky
    }
}

/// Which records of transactions are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// All, also of open and aborted transactions.
    ReadUncommitted,
    /// Those of committed transactions.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}

/// One row of the table.
pub struct Setting {
    /// Kafka's name.
    pub name: &'static str,
    /// The default, as text.
    pub default: &'static str,
    /// What it does, one sentence without a full stop.
    pub doc: &'static str,
    set: fn(&mut Options, &str) -> Result<(), String>,
}

impl Options {
    /// Sets one option by its Kafka name. `brokers` is short for `bootstrap.servers`.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let refuse =
            |allowed: String| Error::Option { key: key.to_owned(), value: value.to_owned(), allowed };
        let name = if key == "brokers" { "bootstrap.servers" } else { key };
        match SETTINGS.iter().find(|setting| setting.name == name) {
            Some(setting) => (setting.set)(self, value.trim()).map_err(refuse),
            None => Err(refuse(match nearest(name) {
                Some(near) => format!("there is no such option; did you mean {near}?"),
                None => "there is no such option".to_owned(),
            })),
        }
    }

    /// Checks what one row alone cannot: options that contradict each other.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key: &str, value: String, allowed: &str| {
            Err(Error::Option { key: key.to_owned(), value, allowed: allowed.to_owned() })
        };
        if self.bootstrap_servers.is_empty() {
            return refuse("bootstrap.servers", String::new(), "at least one HOST:PORT");
        }
        if self.heartbeat_interval >= self.session_timeout {
            let value = self.heartbeat_interval.as_millis().to_string();
            return refuse(
                "heartbeat.interval.ms",
                value,
                "less than session.timeout.ms, best a third of it",
            );
        }
        if let (GroupProtocol::Classic, Some(assignor)) = (self.group_protocol, &self.group_remote_assignor) {
            return refuse(
                "group.remote.assignor",
                assignor.clone(),
                "nothing, unless group.protocol is consumer",
            );
        }
        if self.request_bytes_max > self.buffer_memory {
            let value = self.request_bytes_max.to_string();
            return refuse("max.request.size", value, "at most buffer.memory");
        }
        Ok(())
    }

    /// Whether the producer numbers its batches: asked for, and possible with these acks.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.enable_idempotence && self.acks == Acks::All
    }
}

impl Default for Options {
    fn default() -> Self {
        let mut options = Self {
            bootstrap_servers: Vec::new(),
            client_id: String::new(),
            request_timeout: Duration::ZERO,
            default_api_timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            retry_backoff: Duration::ZERO,
            retry_backoff_max: Duration::ZERO,
            metadata_max_age: Duration::ZERO,
            in_flight_max: 0,
            receive_bytes_max: 0,
            allow_auto_create_topics: false,
            acks: Acks::All,
            enable_idempotence: false,
            compression_type: Compression::None,
            linger: Duration::ZERO,
            batch_size: 0,
            buffer_memory: 0,
            request_bytes_max: 0,
            delivery_timeout: Duration::ZERO,
            group_id: None,
            group_instance_id: None,
            group_protocol: GroupProtocol::Classic,
            group_remote_assignor: None,
            assignment_strategies: Vec::new(),
            client_rack: None,
            poll_records_max: 0,
            session_timeout: Duration::ZERO,
            heartbeat_interval: Duration::ZERO,
            poll_interval_max: Duration::ZERO,
            enable_auto_commit: false,
            auto_commit_interval: Duration::ZERO,
            auto_offset_reset: OffsetReset::Latest,
            isolation_level: Isolation::ReadUncommitted,
            fetch_bytes_min: 0,
            fetch_bytes_max: 0,
            partition_fetch_bytes_max: 0,
            fetch_wait_max: Duration::ZERO,
        };
        for setting in SETTINGS {
            (setting.set)(&mut options, setting.default)
                .unwrap_or_else(|problem| panic!("the default of {}: {problem}", setting.name));
        }
        options
    }
}

macro_rules! settings {
    ($($name:literal = $default:literal, $doc:literal, $field:ident: $parse:expr;)*) => {
        /// Every option: name, default and meaning.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            default: $default,
            doc: $doc,
            set: |options, value| {
                options.$field = $parse(value)?;
                Ok(())
            },
        }),*];
    };
}

settings! {
    "bootstrap.servers" = "127.0.0.1:9092", "brokers to ask for the rest of the cluster, HOST:PORT,…",
        bootstrap_servers: addresses;
    "client.id" = "ottla", "name under which the brokers log and count this client", client_id: text;
    "request.timeout.ms" = "30000", "how long one request may take", request_timeout: millis;
    "default.api.timeout.ms" = "60000", "how long an operation may take with all its retries",
        default_api_timeout: millis;
    "socket.connection.setup.timeout.ms" = "10000", "how long opening a connection may take",
        connect_timeout: millis;
    "retry.backoff.ms" = "100", "first pause before trying again; doubled after each failure",
        retry_backoff: millis;
    "retry.backoff.max.ms" = "1000", "longest pause before trying again", retry_backoff_max: millis;
    "metadata.max.age.ms" = "300000", "how long the cluster's map is believed", metadata_max_age: millis;
    "max.in.flight.requests.per.connection" = "5", "requests sent before the first is answered",
        in_flight_max: |value| count(value, 1, 1000);
    "receive.message.max.bytes" = "100000000", "longest answer that is accepted",
        receive_bytes_max: |value| count(value, 1000, i32::MAX as usize);
    "allow.auto.create.topics" = "true", "whether asking for a topic may create it, if the broker does so",
        allow_auto_create_topics: boolean;
    "acks" = "all", "replicas that must have a batch: all, 1 or 0", acks: acks;
    "enable.idempotence" = "true", "number batches so that a retry never doubles them; needs acks=all",
        enable_idempotence: boolean;
    "compression.type" = "none", "codec of sent batches: none, gzip, snappy, lz4 or zstd",
        compression_type: codec;
    "linger.ms" = "5", "how long a batch waits for more records", linger: millis;
    // Apache Kafka's default is 16 KiB. Here one batch a partition is under way at a time, so a batch has to
    // hold what arrives in a round trip; this is the size that still fits a topic's default max.message.bytes.
    "batch.size" = "1000000", "bytes of records after which a batch is full",
        batch_size: |value| count(value, 1, i32::MAX as usize);
    "buffer.memory" = "33554432", "bytes of unsent records; sending waits when they are used up",
        buffer_memory: |value| count(value, 1024, u32::MAX as usize);
    "max.request.size" = "1048576", "largest record that is sent",
        request_bytes_max: |value| count(value, 1, i32::MAX as usize);
    "delivery.timeout.ms" = "120000", "how long a record may take from sending to acknowledgement",
        delivery_timeout: millis;
    "group.id" = "", "consumer group to join", group_id: optional;
    "group.instance.id" = "", "name that makes a group member static", group_instance_id: optional;
    "group.protocol" = "classic", "who shares a group's partitions out: classic, its members; consumer, the broker",
        group_protocol: group_protocol;
    "group.remote.assignor" = "", "the broker's assignor to use with group.protocol=consumer",
        group_remote_assignor: optional;
    "partition.assignment.strategy" = "range,cooperative-sticky",
        "assignors to agree on with group.protocol=classic: range, roundrobin, cooperative-sticky, or their classes",
        assignment_strategies: strategies;
    "client.rack" = "", "where this client is, to read from a replica that is there, too", client_rack: optional;
    "max.poll.records" = "500", "records handed out at once at most",
        poll_records_max: |value| count(value, 1, i32::MAX as usize);
    "session.timeout.ms" = "45000", "silence after which the group gives a member up",
        session_timeout: millis;
    "heartbeat.interval.ms" = "3000", "pause between heartbeats to the group", heartbeat_interval: millis;
    "max.poll.interval.ms" = "300000", "how long records may wait for the application, or be in its hands, before it leaves its group",
        poll_interval_max: millis;
    "enable.auto.commit" = "true", "commit positions in the background and on closing",
        enable_auto_commit: boolean;
    "auto.commit.interval.ms" = "5000", "pause between such commits", auto_commit_interval: millis;
    "auto.offset.reset" = "latest", "where to start without a position: earliest, latest, by_duration:PT1H or none",
        auto_offset_reset: reset;
    "isolation.level" = "read_uncommitted", "read_uncommitted, or read_committed to skip aborted transactions",
        isolation_level: isolation;
    "fetch.min.bytes" = "1", "bytes a broker waits for before it answers a fetch",
        fetch_bytes_min: |value| count(value, 0, i32::MAX as usize);
    "fetch.max.bytes" = "52428800", "bytes of one fetch at most",
        fetch_bytes_max: |value| count(value, 1, i32::MAX as usize);
    "max.partition.fetch.bytes" = "1048576", "bytes of one fetch and partition at most",
        partition_fetch_bytes_max: |value| count(value, 1, i32::MAX as usize);
    "fetch.max.wait.ms" = "500", "how long a broker waits for fetch.min.bytes", fetch_wait_max: millis;
}

fn addresses(value: &str) -> Result<Vec<Address>, String> {
    value.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::parse).collect()
}

fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn optional(value: &str) -> Result<Option<String>, String> {
    Ok(Some(value.to_owned()).filter(|value| !value.is_empty()))
}

fn millis(value: &str) -> Result<Duration, String> {
    count(value, 0, i32::MAX as usize).map(|millis| Duration::from_millis(millis as u64))
}

fn count(value: &str, min: usize, max: usize) -> Result<usize, String> {
    value
        .parse()
        .ok()
        .filter(|count| (min..=max).contains(count))
        .ok_or_else(|| format!("a whole number from {min} to {max}"))
}

fn boolean(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "true or false".to_owned())
}

fn acks(value: &str) -> Result<Acks, String> {
    match value {
        "all" | "-1" => Ok(Acks::All),
        "1" => Ok(Acks::Leader),
        "0" => Ok(Acks::None),
        _ => Err("all (or -1), 1 or 0".to_owned()),
    }
}

fn codec(value: &str) -> Result<Compression, String> {
    value.parse().map_err(|_| "none, gzip, snappy, lz4 or zstd".to_owned())
}

fn reset(value: &str) -> Result<OffsetReset, String> {
    match value {
        "earliest" => Ok(OffsetReset::Earliest),
        "latest" => Ok(OffsetReset::Latest),
        "none" => Ok(OffsetReset::None),
        _ => {
            value.strip_prefix("by_duration:").and_then(iso_duration).map(OffsetReset::ByDuration).ok_or_else(
                || "earliest, latest, none, or by_duration: and an ISO 8601 duration as PT1H30M".to_owned(),
            )
        }
    }
}

/// A duration as `P1DT2H3M4.5S`; months and years have no fixed length and are refused.
fn iso_duration(value: &str) -> Option<Duration> {
    const DAY: f64 = 86_400.0;
    let (days, time) = value.strip_prefix('P')?.split_once('T').unwrap_or((value.strip_prefix('P')?, ""));
    let mut seconds = 0.0;
    let mut parts = 0;
    for (text, units) in [(days, &[('D', DAY)][..]), (time, &[('H', 3600.0), ('M', 60.0), ('S', 1.0)])] {
        let (mut rest, mut units) = (text, units.iter());
        while !rest.is_empty() {
            let end = rest.find(|letter: char| letter.is_ascii_alphabetic())?;
            let letter = rest[end..].chars().next()?;
            let (_, length) = units.find(|(unit, _)| *unit == letter)?;
            let number: f64 = rest[..end].parse().ok().filter(|number: &f64| *number >= 0.0)?;
            seconds += number * length;
            parts += 1;
            rest = &rest[end + 1..];
        }
    }
    if parts == 0 { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

fn group_protocol(value: &str) -> Result<GroupProtocol, String> {
    match value.to_lowercase().as_str() {
        "classic" => Ok(GroupProtocol::Classic),
        "consumer" => Ok(GroupProtocol::Consumer),
        _ => Err("classic or consumer".to_owned()),
    }
}

fn strategies(value: &str) -> Result<Vec<AssignmentStrategy>, String> {
    let one = |name: &str| match name.strip_prefix("org.apache.kafka.clients.consumer.").unwrap_or(name) {
        "RangeAssignor" => Some(AssignmentStrategy::Range),
        "RoundRobinAssignor" => Some(AssignmentStrategy::RoundRobin),
        "CooperativeStickyAssignor" => Some(AssignmentStrategy::CooperativeSticky),
        name => AssignmentStrategy::named(name),
    };
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    let named: Option<Vec<_>> = names.map(one).collect();
    named
        .filter(|named| !named.is_empty())
        .ok_or_else(|| "a list of range, roundrobin and cooperative-sticky".to_owned())
}

fn isolation(value: &str) -> Result<Isolation, String> {
    match value {
        "read_uncommitted" => Ok(Isolation::ReadUncommitted),
        "read_committed" => Ok(Isolation::ReadCommitted),
        _ => Err("read_uncommitted or read_committed".to_owned()),
    }
}

/// The name that a misspelt one most likely means.
fn nearest(name: &str) -> Option<&'static str> {
    let normal = |name: &str| name.replace(['_', '-'], ".").to_lowercase();
    let name = normal(name);
    let names = SETTINGS.iter().map(|setting| setting.name).chain(["brokers"]);
    let (distance, nearest) = names.map(|known| (edit_distance(&name, known), known)).min()?;
    (distance <= 2.max(name.len() / 4)).then_some(nearest)
}

fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::Options;

    fn check(settings: &[(&str, &str)], expected: Expect) {
        let mut options = Options::default();
        let outcome = settings
            .iter()
            .try_for_each(|(key, value)| options.set(key, value))
            .and_then(|()| options.check());
        expected.assert_eq(&outcome.map_or_else(|error| error.to_string(), |()| "fine".to_owned()));
    }

    #[test]
    fn values_are_checked_where_they_are_set() {
        check(&[("brokers", "a:1,b"), ("linger.ms", " 7 "), ("acks", "-1")], expect!["fine"]);
        check(&[("acks", "2")], expect!["acks=2 cannot be used: all (or -1), 1 or 0"]);
        check(
            &[("fetch.max.bytes", "-1")],
            expect!["fetch.max.bytes=-1 cannot be used: a whole number from 1 to 2147483647"],
        );
        check(
            &[("brokers", "a:x")],
            expect![r#"brokers=a:x cannot be used: "x" in "a:x" is no port between 1 and 65535"#],
        );
    }

    #[test]
    fn a_near_miss_is_named() {
        check(
            &[("linger_ms", "7")],
            expect!["linger_ms=7 cannot be used: there is no such option; did you mean linger.ms?"],
        );
        check(&[("colour", "7")], expect!["colour=7 cannot be used: there is no such option"]);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        check(
            &[("session.timeout.ms", "1000")],
            expect![
                "heartbeat.interval.ms=3000 cannot be used: less than session.timeout.ms, best a third of it"
            ],
        );
        check(
            &[("bootstrap.servers", ",")],
            expect!["bootstrap.servers= cannot be used: at least one HOST:PORT"],
        );
        check(
            &[("group.remote.assignor", "uniform")],
            expect![
                "group.remote.assignor=uniform cannot be used: nothing, unless group.protocol is consumer"
            ],
        );
        check(&[("group.remote.assignor", "uniform"), ("group.protocol", "consumer")], expect!["fine"]);
    }

    #[test]
    fn kafkas_names_of_assignors_and_resets_are_understood() {
        use std::time::Duration;

        use super::{AssignmentStrategy, OffsetReset};

        let mut options = Options::default();
        let class = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor, range";
        options.set("partition.assignment.strategy", class).unwrap();
        let expected = [AssignmentStrategy::CooperativeSticky, AssignmentStrategy::Range];
        assert_eq!(options.assignment_strategies, expected);
        let mut reset = |value: &str| {
            options.set("auto.offset.reset", value).ok()?;
            match options.auto_offset_reset {
                OffsetReset::ByDuration(age) => Some(age),
                _ => None,
            }
        };
        assert_eq!(reset("by_duration:PT1H30M"), Some(Duration::from_secs(5400)));
        assert_eq!(reset("by_duration:P2DT0.5S"), Some(Duration::from_millis(172_800_500)));
        for wrong in
            ["by_duration:", "by_duration:P", "by_duration:PT", "by_duration:P1M", "by_duration:PT1M1H"]
        {
            assert_eq!(reset(wrong), None, "{wrong}");
        }
    }
}
