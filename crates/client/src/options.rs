//! The client's settings, under Kafka's names.
//!
//! One table, [`SETTINGS`], holds name, default and meaning of each; the same row parses it, so a setting that
//! is documented is one that works. Typed fields are for code, [`Options::set`] is for text. A value out of
//! bounds is refused when it is set, with what is allowed.

use std::collections::BTreeSet;
use std::time::Duration;

use wire::compression::Compression;

use crate::environment::Address;
use crate::error::Error;

/// Brokers remember so many batches of a producer, to tell a repetition.
pub(crate) const IDEMPOTENT_IN_FLIGHT_MAX: usize = 5;

/// The client's settings. [`Options::default`] is what the table says.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each field is a row of SETTINGS, which documents it")]
pub struct Options {
    pub bootstrap_servers: Vec<Address>,
    pub client_id: String,
    pub request_timeout: Duration,
    pub default_api_timeout: Duration,
    pub connect_timeout: Duration,
    pub connect_timeout_max: Duration,
    pub reconnect_backoff: Duration,
    pub reconnect_backoff_max: Duration,
    pub connection_idle_max: Duration,
    pub retry_backoff: Duration,
    pub retry_backoff_max: Duration,
    pub metadata_max_age: Duration,
    pub metadata_recovery: MetadataRecovery,
    pub rebootstrap_trigger: Duration,
    pub in_flight_max: usize,
    pub receive_bytes_max: usize,
    pub allow_auto_create_topics: bool,
    pub acks: Acks,
    pub enable_idempotence: bool,
    pub compression_type: Compression,
    pub gzip_level: i32,
    pub lz4_level: i32,
    pub zstd_level: i32,
    pub partitioner: Partitioner,
    pub retries: u32,
    pub linger: Duration,
    pub batch_size: usize,
    pub buffer_memory: usize,
    pub request_bytes_max: usize,
    pub delivery_timeout: Duration,
    pub rate_records: u32,
    pub rate_bytes: u32,
    pub transactional_id: Option<String>,
    pub transaction_timeout: Duration,
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
    /// What was set by name: Kafka gives some defaults way where an explicit value would be refused.
    named: BTreeSet<&'static str>,
}

/// What to do when none of the known brokers answers (KIP-899).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataRecovery {
    /// Ask the addresses of `bootstrap.servers` again.
    Rebootstrap,
    /// Go on asking the brokers that are known.
    None,
}

/// Which partition a record goes to that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioner {
    /// With a key the one that Apache Kafka's clients choose by murmur2; without, as `Sticky`.
    Murmur2,
    /// One partition until a batch is full, then another, whatever the key.
    Sticky,
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

impl Acks {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Leader => "1",
            Self::None => "0",
        }
    }
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
            Some(setting) => {
                (setting.set)(self, value.trim()).map_err(refuse)?;
                self.named.insert(setting.name);
                Ok(())
            }
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

    /// Checks what only a producer asks for.
    pub(crate) fn check_producer(&self) -> Result<(), Error> {
        self.check()?;
        let refuse = |key: &str, value: String, allowed: &str| {
            Err(Error::Option { key: key.to_owned(), value, allowed: allowed.to_owned() })
        };
        let (numbers, why) = match (&self.transactional_id, self.enable_idempotence) {
            (Some(_), false) => {
                let allowed = "true, because transactional.id is set";
                return refuse("enable.idempotence", "false".to_owned(), allowed);
            }
            (Some(_), true) => (true, "transactional.id is set"),
            // Not asked for, idempotence gives way to what rules it out.
            (None, enabled) => {
                (enabled && self.named.contains("enable.idempotence"), "enable.idempotence is true")
            }
        };
        if numbers && self.acks != Acks::All {
            return refuse("acks", self.acks.name().to_owned(), &format!("all, because {why}"));
        }
        if numbers && self.retries == 0 {
            return refuse("retries", "0".to_owned(), &format!("1 or more, because {why}"));
        }
        if numbers && self.in_flight_max > IDEMPOTENT_IN_FLIGHT_MAX {
            let value = self.in_flight_max.to_string();
            let allowed = format!("from 1 to {IDEMPOTENT_IN_FLIGHT_MAX}, because {why}");
            return refuse("max.in.flight.requests.per.connection", value, &allowed);
        }
        let least = self.linger + self.request_timeout;
        if self.named.contains("delivery.timeout.ms") && self.delivery_timeout < least {
            let value = self.delivery_timeout.as_millis().to_string();
            let allowed = format!("at least linger.ms + request.timeout.ms, which is {}", least.as_millis());
            return refuse("delivery.timeout.ms", value, &allowed);
        }
        Ok(())
    }

    /// Whether the producer numbers its batches: asked for, and nothing rules it out.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.enable_idempotence
            && self.acks == Acks::All
            && self.retries > 0
            && self.in_flight_max <= IDEMPOTENT_IN_FLIGHT_MAX
    }

    /// How long a record may take: unless somebody said so, as long as waiting and one request take at least.
    pub(crate) fn delivery_timeout(&self) -> Duration {
        self.delivery_timeout.max(self.linger + self.request_timeout)
    }

    /// The longest pause before dialling a broker again. As in Apache Kafka, who names the first pause and no
    /// longest one wants them all equal.
    pub(crate) fn reconnect_backoff_max(&self) -> Duration {
        let is_named = |name| self.named.contains(name);
        match is_named("reconnect.backoff.ms") && !is_named("reconnect.backoff.max.ms") {
            true => self.reconnect_backoff,
            false => self.reconnect_backoff_max,
        }
    }

    /// How hard batches are compressed.
    pub(crate) fn compression_level(&self) -> Option<i32> {
        match self.compression_type {
            Compression::Gzip => Some(self.gzip_level),
            Compression::Lz4 => Some(self.lz4_level),
            Compression::Zstd => Some(self.zstd_level),
            Compression::None | Compression::Snappy => None,
        }
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
            connect_timeout_max: Duration::ZERO,
            reconnect_backoff: Duration::ZERO,
            reconnect_backoff_max: Duration::ZERO,
            connection_idle_max: Duration::ZERO,
            retry_backoff: Duration::ZERO,
            retry_backoff_max: Duration::ZERO,
            metadata_max_age: Duration::ZERO,
            metadata_recovery: MetadataRecovery::Rebootstrap,
            rebootstrap_trigger: Duration::ZERO,
            in_flight_max: 0,
            receive_bytes_max: 0,
            allow_auto_create_topics: false,
            acks: Acks::All,
            enable_idempotence: false,
            compression_type: Compression::None,
            gzip_level: 0,
            lz4_level: 0,
            zstd_level: 0,
            partitioner: Partitioner::Murmur2,
            retries: 0,
            linger: Duration::ZERO,
            batch_size: 0,
            buffer_memory: 0,
            request_bytes_max: 0,
            delivery_timeout: Duration::ZERO,
            rate_records: 0,
            rate_bytes: 0,
            transactional_id: None,
            transaction_timeout: Duration::ZERO,
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
            named: BTreeSet::new(),
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
    "socket.connection.setup.timeout.max.ms" = "30000",
        "how long it may take at most; the timeout doubles after each failure", connect_timeout_max: millis;
    "reconnect.backoff.ms" = "50",
        "first pause before a broker is dialled again; doubled after each failure", reconnect_backoff: millis;
    "reconnect.backoff.max.ms" = "1000",
        "longest pause before a broker is dialled again; reconnect.backoff.ms if only that is set",
        reconnect_backoff_max: millis;
    "connections.max.idle.ms" = "540000", "how long a connection is kept that nobody uses; 0 keeps it",
        connection_idle_max: millis;
    "retry.backoff.ms" = "100", "first pause before trying again; doubled after each failure",
        retry_backoff: millis;
    "retry.backoff.max.ms" = "1000",
        "longest pause before trying again; every pause, if retry.backoff.ms is longer", retry_backoff_max: millis;
    "metadata.max.age.ms" = "300000",
        "how long the cluster's map is believed; what is in use is asked for anew before", metadata_max_age: millis;
    "metadata.recovery.strategy" = "rebootstrap",
        "what to do when no known broker answers: rebootstrap (ask bootstrap.servers again) or none",
        metadata_recovery: recovery;
    "metadata.recovery.rebootstrap.trigger.ms" = "300000",
        "how long the cluster's map cannot be had before all known brokers are forgotten",
        rebootstrap_trigger: millis;
    "max.in.flight.requests.per.connection" = "5",
        "requests sent before the first is answered; at most 5 with idempotence",
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
    "compression.gzip.level" = "-1", "how hard gzip tries: 1 to 9, or -1 for its default",
        gzip_level: gzip_level;
    "compression.lz4.level" = "9", "1 to 17; taken as Apache Kafka takes it, but LZ4 has one level here",
        lz4_level: |value| level(value, 1, 17);
    "compression.zstd.level" = "3", "how hard zstd tries: -131072 to 22",
        zstd_level: |value| level(value, -131_072, 22);
    "partitioner" = "murmur2",
        "partition of a record that names none: murmur2 (by key; sticky without one) or sticky",
        partitioner: partitioner;
    "retries" = "2147483647", "how often a batch is sent again before it is given up",
        retries: |value| count(value, 0, i32::MAX as usize).map(|count| count as u32);
    "linger.ms" = "5", "how long a batch waits for more records", linger: millis;
    // Apache Kafka's default is 16 KiB, because its batches take that much from the start. These grow with their
    // records; this is the size that still fits a topic's default max.message.bytes.
    "batch.size" = "1000000", "bytes of records after which a batch is full",
        batch_size: |value| count(value, 1, i32::MAX as usize);
    "buffer.memory" = "33554432", "bytes of unsent records; sending waits when they are used up",
        buffer_memory: |value| count(value, 1024, u32::MAX as usize);
    "max.request.size" = "1048576", "largest record that is sent",
        request_bytes_max: |value| count(value, 1, i32::MAX as usize);
    "delivery.timeout.ms" = "120000", "how long a record may take from sending to acknowledgement",
        delivery_timeout: millis;
    "producer.rate.records" = "0", "records sent in a second at most, so that a burst waits here; 0 for any number",
        rate_records: |value| count(value, 0, u32::MAX as usize).map(|count| count as u32);
    "producer.rate.bytes" = "0", "bytes of records sent in a second at most; 0 for any number",
        rate_bytes: |value| count(value, 0, u32::MAX as usize).map(|count| count as u32);
    "transactional.id" = "", "name under which transactions outlive the process; fences earlier users of it",
        transactional_id: optional;
    "transaction.timeout.ms" = "60000", "how long a transaction may be open before the broker aborts it",
        transaction_timeout: |value| count(value, 1, i32::MAX as usize).map(|ms| Duration::from_millis(ms as u64));
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
    "session.timeout.ms" = "45000", "silence after which a group of the classic protocol gives a member up, and the member itself in both",
        session_timeout: millis;
    "heartbeat.interval.ms" = "3000", "pause between heartbeats to the group; with group.protocol=consumer the broker says", heartbeat_interval: millis;
    "max.poll.interval.ms" = "300000", "how long records may wait for the application, or be in its hands, before it leaves its group",
        poll_interval_max: millis;
    "enable.auto.commit" = "true", "commit what is done in the background, on giving partitions up and on closing",
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

fn level(value: &str, min: i32, max: i32) -> Result<i32, String> {
    let level = value.parse().ok().filter(|level| (min..=max).contains(level));
    level.ok_or_else(|| format!("a whole number from {min} to {max}"))
}

fn gzip_level(value: &str) -> Result<i32, String> {
    match value {
        "-1" => Ok(-1),
        _ => level(value, 1, 9).map_err(|_| "-1 or a whole number from 1 to 9".to_owned()),
    }
}

fn partitioner(value: &str) -> Result<Partitioner, String> {
    match value {
        "murmur2" => Ok(Partitioner::Murmur2),
        "sticky" => Ok(Partitioner::Sticky),
        _ => Err("murmur2 or sticky".to_owned()),
    }
}

fn recovery(value: &str) -> Result<MetadataRecovery, String> {
    match value {
        "rebootstrap" => Ok(MetadataRecovery::Rebootstrap),
        "none" => Ok(MetadataRecovery::None),
        _ => Err("rebootstrap or none".to_owned()),
    }
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

    #[test]
    fn a_producer_is_not_built_from_contradictions() {
        let check = |settings: &[(&str, &str)]| {
            let mut options = Options::default();
            let set = settings.iter().try_for_each(|(key, value)| options.set(key, value));
            let outcome = set.and_then(|()| options.check_producer());
            outcome.map_or_else(|error| error.to_string(), |()| "fine".to_owned())
        };
        let fine: &[&[(&str, &str)]] = &[
            &[],
            &[("acks", "1")],
            &[("retries", "0")],
            &[("max.in.flight.requests.per.connection", "6")],
            &[("enable.idempotence", "false"), ("acks", "0")],
            &[("linger.ms", "100000")],
            &[("transactional.id", "t"), ("acks", "all"), ("enable.idempotence", "true")],
            &[
                ("compression.type", "gzip"),
                ("linger.ms", "50"),
                ("acks", "all"),
                ("retries", "30"),
                ("reconnect.backoff.ms", "20000"),
                ("retry.backoff.ms", "20000"),
            ],
        ];
        for settings in fine {
            assert_eq!(check(settings), "fine", "{settings:?}");
        }
        let refused: &[(&[(&str, &str)], &str)] = &[
            (
                &[("enable.idempotence", "true"), ("acks", "1")],
                "acks=1: all, because enable.idempotence is true",
            ),
            (
                &[("enable.idempotence", "true"), ("retries", "0")],
                "retries=0: 1 or more, because enable.idempotence is true",
            ),
            (
                &[("enable.idempotence", "true"), ("max.in.flight.requests.per.connection", "6")],
                "max.in.flight.requests.per.connection=6: from 1 to 5, because enable.idempotence is true",
            ),
            (
                &[("transactional.id", "t"), ("enable.idempotence", "false")],
                "enable.idempotence=false: true, because transactional.id is set",
            ),
            (&[("transactional.id", "t"), ("acks", "0")], "acks=0: all, because transactional.id is set"),
            (
                &[("transactional.id", "t"), ("retries", "0")],
                "retries=0: 1 or more, because transactional.id is set",
            ),
            (
                &[("transactional.id", "t"), ("max.in.flight.requests.per.connection", "7")],
                "max.in.flight.requests.per.connection=7: from 1 to 5, because transactional.id is set",
            ),
            (
                &[("delivery.timeout.ms", "30004")],
                "delivery.timeout.ms=30004: at least linger.ms + request.timeout.ms, which is 30005",
            ),
            (&[("buffer.memory", "1024")], "max.request.size=1048576: at most buffer.memory"),
            (
                &[("compression.gzip.level", "0")],
                "compression.gzip.level=0: -1 or a whole number from 1 to 9",
            ),
            (&[("compression.lz4.level", "18")], "compression.lz4.level=18: a whole number from 1 to 17"),
            (
                &[("compression.zstd.level", "23")],
                "compression.zstd.level=23: a whole number from -131072 to 22",
            ),
            (&[("compression.type", "brotli")], "compression.type=brotli: none, gzip, snappy, lz4 or zstd"),
            (&[("partitioner", "random")], "partitioner=random: murmur2 or sticky"),
            (&[("metadata.recovery.strategy", "x")], "metadata.recovery.strategy=x: rebootstrap or none"),
            (&[("retries", "-1")], "retries=-1: a whole number from 0 to 2147483647"),
            (
                &[("transaction.timeout.ms", "0")],
                "transaction.timeout.ms=0: a whole number from 1 to 2147483647",
            ),
            (&[("linger_ms", "5")], "linger_ms=5: there is no such option; did you mean linger.ms?"),
        ];
        for (settings, refusal) in refused {
            assert_eq!(check(settings).replace(" cannot be used", ""), *refusal, "{settings:?}");
        }
    }
}
