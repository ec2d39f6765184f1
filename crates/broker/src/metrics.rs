//! Every metric of the broker: where it is counted, under which name and with which help it is shown.
//! Whoever counts holds a handle and pays one relaxed atomic addition; what can be looked up (sizes, numbers of things)
//! is not counted at all but asked for when somebody reads the page. Each broker has its own metrics, so that several
//! may live in one process. Labels are bounded: topics beyond `TOPICS_MAX` are counted together.

mod group_lag;
mod process;
mod prometheus;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use state::metadata::QuotaKey;
use wire::{ApiKey, Str};

pub use group_lag::{GroupLag, LagRow};
pub(crate) use prometheus::escape;
use prometheus::{Counter, Gauge, Histogram, Page};

/// Topics with counters of their own. Further ones share the counters of the label `(other)`.
const TOPICS_MAX: usize = 2_000;
const OTHER_TOPICS: &str = "(other)";

/// The metrics of one broker; clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: Gauge,
    connections_opened: Counter,
    connections_refused: Counter,
    connections_cut: Counter,
    requests: ByApi,
    requests_unsupported: Counter,
    throttles: [Histogram; QuotaKey::ALL.len()],
    flushes: Histogram,
    flush_failures: Counter,
    bytes_replicated: Counter,
    in_sync_shrinks: Counter,
    in_sync_expands: Counter,
    leaders_elected: Counter,
    rot_found: Counter,
    unclean_elections: Counter,
    dead_letters: Counter,
    dead_letters_failed: Counter,
    topics: Mutex<BTreeMap<Str, Weak<TopicMetrics>>>,
    other_topics: Arc<TopicMetrics>,
    look_up: OnceLock<LookUp>,
}

/// What finds out what is not counted.
type LookUp = Box<dyn Fn() -> Pin<Box<dyn Future<Output = BrokerState> + Send>> + Send + Sync>;

/// Times of requests, one histogram per API.
struct ByApi(Vec<Histogram>);

impl Default for ByApi {
    fn default() -> ByApi {
        let slots = ApiKey::ALL.iter().map(|api| slot(*api) + 1).max().unwrap_or(0);
        ByApi(std::iter::repeat_with(Histogram::default).take(slots).collect())
    }
}

/// What brokers ask each other stands behind what clients may ask.
const PRIVATE_SLOTS: usize = 128;

fn slot(api: ApiKey) -> usize {
    let code = usize::try_from(api.code()).expect("codes of APIs are not negative");
    if api.is_private() { PRIVATE_SLOTS + code % 100 } else { code }
}

/// Counters of one topic, held by its partitions; the topic leaves the page when the last of them is closed.
#[derive(Debug, Default)]
pub struct TopicMetrics {
    records_in: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl TopicMetrics {
    /// Records were appended for a producer.
    pub fn produced(&self, bytes: usize, records: u64) {
        self.bytes_in.add(bytes as u64);
        self.records_in.add(records);
    }

    /// Records were read for a consumer.
    pub fn fetched(&self, bytes: usize) {
        self.bytes_out.add(bytes as u64);
    }
}

/// What is looked up when the page is read.
#[derive(Debug, Clone, Default)]
pub struct BrokerState {
    /// Partitions of which this broker has a replica.
    pub partitions: usize,
    /// Partitions that this broker leads.
    pub partitions_led: usize,
    /// Of those, the ones with fewer replicas in sync than they have.
    pub partitions_under_replicated: usize,
    /// Of those, the ones with too few in sync for `acks=all`.
    pub partitions_under_min_isr: usize,
    /// Partitions of the cluster that nobody leads.
    pub partitions_leaderless: usize,
    /// Brokers that are registered and not counted in.
    pub brokers_fenced: usize,
    /// Brokers that are counted in.
    pub brokers_active: usize,
    /// Whether this broker is the active controller.
    pub is_controller: bool,
    /// Whether the cluster does not count this broker in.
    pub is_fenced: bool,
    /// Index of the last entry of the metadata that this broker has applied.
    pub metadata_applied: u64,
    /// How far this broker's clock is ahead of the controller's.
    pub clock_ahead_ms: i64,
    /// Transactions coordinated here that are not ended.
    pub transactions_open: usize,
    /// Share-partitions that are worked on here.
    pub share_partitions: usize,
    /// Records of share groups that are with members.
    pub share_records_acquired: i64,
    /// Members of share groups that fetch here.
    pub share_sessions: usize,
    /// Data directories that have failed.
    pub log_dirs_offline: usize,
    /// Data directories whose disk does not answer.
    pub log_dirs_silent: usize,
    /// Partitions whose log could not be opened, or is offline after a failure of the disk.
    pub partitions_offline: usize,
    /// Partitions whose log has rotted, and is not whole again.
    pub partitions_rotten: usize,
    /// Size of the logs in bytes, by topic.
    pub log_bytes: BTreeMap<Str, u64>,
    /// Consumer groups by the name of their state.
    pub groups: BTreeMap<&'static str, usize>,
    /// How far the consumer groups coordinated here are behind.
    pub group_lag: Arc<GroupLag>,
    /// Fetch requests that wait for records.
    pub fetches_parked: usize,
    /// Partitions that wait to be flushed.
    pub flushes_queued: usize,
    /// Fetch sessions that are remembered.
    pub fetch_sessions: usize,
    /// What clients push of themselves, as a part of the page.
    pub of_clients: String,
}

impl Metrics {
    /// Metrics that have counted nothing.
    #[must_use]
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// Says how the page learns what is not counted. Called once, when the broker is open; later calls change nothing.
    pub fn look_up_with<F>(&self, look_up: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = BrokerState> + Send + 'static,
    {
        let _ = self.shared.look_up.set(Box::new(move || Box::pin(look_up())));
    }

    /// What the page shows besides what is counted, as of now. Nothing while the broker is not open.
    pub async fn look(&self) -> Option<BrokerState> {
        Some(self.shared.look_up.get()?().await)
    }

    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.shared.connections.add(1);
        self.shared.connections_opened.add(1);
    }

    /// An accepted connection has ended.
    pub fn connection_closed(&self) {
        self.shared.connections.add(-1);
    }

    /// A connection over a limit was closed at once.
    pub fn connection_refused(&self) {
        self.shared.connections_refused.add(1);
    }

    /// A connection was closed for what its peer sent, or did not take.
    pub fn connection_cut(&self) {
        self.shared.connections_cut.add(1);
    }

    /// A request was answered, this long after it was read.
    pub fn request_done(&self, api: ApiKey, took: Duration) {
        self.shared.requests.0[slot(api)].observe(took);
    }

    /// A request of an API or version that is not implemented was refused.
    pub fn unsupported_request(&self) {
        self.shared.requests_unsupported.add(1);
    }

    /// A client has to hold back for so long.
    pub fn throttled(&self, quota: QuotaKey, wait: Duration) {
        self.shared.throttles[quota as usize].observe(wait);
    }

    /// A log was flushed.
    pub fn flushed(&self, took: Duration) {
        self.shared.flushes.observe(took);
    }

    /// A log could not be flushed and went offline.
    pub fn flush_failed(&self) {
        self.shared.flush_failures.add(1);
    }

    /// Records came from a leader.
    pub fn replicated(&self, bytes: usize) {
        self.shared.bytes_replicated.add(bytes as u64);
    }

    /// The set in sync of a partition led here changed in size.
    pub fn in_sync_changed(&self, before: usize, after: usize) {
        let shared = &self.shared;
        match after.cmp(&before) {
            std::cmp::Ordering::Less => shared.in_sync_shrinks.add(1),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => shared.in_sync_expands.add(1),
        }
    }

    /// A log turned out not to be what was written.
    pub fn rotted(&self) {
        self.shared.rot_found.add(1);
    }

    /// As the controller, gave so many partitions another leader.
    pub fn leaders_elected(&self, partitions: usize) {
        self.shared.leaders_elected.add(partitions as u64);
    }

    /// As the controller, had a replica lead that may lack what was acknowledged.
    pub fn unclean_election(&self) {
        self.shared.unclean_elections.add(1);
    }

    /// Records that share groups had given up are in their dead-letter topic.
    pub fn buried(&self, records: u64) {
        self.shared.dead_letters.add(records);
    }

    /// Records that share groups had given up could not be written to their dead-letter topic.
    pub fn not_buried(&self, records: u64) {
        self.shared.dead_letters_failed.add(records);
    }

    /// The counters of a topic, to be kept by each of its partitions.
    #[must_use]
    pub fn topic(&self, name: &Str) -> Arc<TopicMetrics> {
        let mut topics = self.shared.topics.lock();
        if let Some(present) = topics.get(name).and_then(Weak::upgrade) {
            return present;
        }
        if topics.len() >= TOPICS_MAX {
            topics.retain(|_, metrics| metrics.strong_count() > 0);
        }
        if topics.len() >= TOPICS_MAX {
            return Arc::clone(&self.shared.other_topics);
        }
        let fresh = Arc::new(TopicMetrics::default());
        topics.insert(name.clone(), Arc::downgrade(&fresh));
        fresh
    }

    /// The page that Prometheus reads. Reads what the kernel says of the process.
    #[must_use]
    pub fn page(&self, state: Option<BrokerState>) -> String {
        let mut page = Page::default();
        self.write_counted(&mut page);
        if let Some(state) = state {
            write_state(&mut page, &state);
            page.append(&state.of_clients);
        }
        process::write(&mut page);
        page.into_text()
    }

    fn write_counted(&self, page: &mut Page) {
        let shared = &*self.shared;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauge("ottla_build_info", "The version that runs; the value is always 1.").value(&version, 1);

        page.gauge("ottla_connections", "Connections of clients that are open.")
            .value(&[], shared.connections.get());
        page.counter("ottla_connections_opened_total", "Connections of clients that were accepted.")
            .value(&[], shared.connections_opened.get());
        page.counter(
            "ottla_connections_refused_total",
            "Connections of clients that were closed for being over a limit.",
        )
        .value(&[], shared.connections_refused.get());
        page.counter(
            "ottla_connections_cut_total",
            "Connections of clients that were closed for what they sent, or did not take.",
        )
        .value(&[], shared.connections_cut.get());

        let mut requests = page.histogram(
            "ottla_request_seconds",
            "Time from having read a request to having its answer, waiting included.",
        );
        for api in ApiKey::ALL {
            let times = &shared.requests.0[slot(api)];
            if !times.is_empty() {
                requests.times(&[("api", api.name())], times);
            }
        }
        page.counter(
            "ottla_requests_unsupported_total",
            "Requests of an API or version that is not implemented.",
        )
        .value(&[], shared.requests_unsupported.get());

        let mut throttles = page
            .histogram("ottla_throttle_seconds", "Time that clients over a quota were told to hold back.");
        for quota in QuotaKey::ALL {
            let times = &shared.throttles[quota as usize];
            if !times.is_empty() {
                throttles.times(&[("quota", quota.name())], times);
            }
        }

        page.histogram("ottla_flush_seconds", "Time to flush one log to the disk.")
            .times(&[], &shared.flushes);
        page.counter("ottla_flush_failures_total", "Flushes that failed; the log is offline since.")
            .value(&[], shared.flush_failures.get());

        page.counter(
            "ottla_log_rot_found_total",
            "Replicas in which the disk gave back something else than was written.",
        )
        .value(&[], shared.rot_found.get());

        page.counter("ottla_replicated_bytes_total", "Bytes appended from leaders, as compressed.")
            .value(&[], shared.bytes_replicated.get());
        page.counter(
            "ottla_in_sync_shrinks_total",
            "Times that a replica left the in-sync set of a partition led by this broker.",
        )
        .value(&[], shared.in_sync_shrinks.get());
        page.counter(
            "ottla_in_sync_expands_total",
            "Times that a replica came back into the in-sync set of a partition led by this broker.",
        )
        .value(&[], shared.in_sync_expands.get());
        page.counter(
            "ottla_leaders_elected_total",
            "Partitions that this broker, as the controller, gave another leader.",
        )
        .value(&[], shared.leaders_elected.get());
        page.counter(
            "ottla_unclean_elections_total",
            "Partitions that this broker, as the controller, had led by a replica that may lack acknowledged records.",
        )
        .value(&[], shared.unclean_elections.get());
        page.counter(
            "ottla_share_dead_letters_total",
            "Records that share groups gave up and that were written to their dead-letter topics.",
        )
        .value(&[], shared.dead_letters.get());
        page.counter(
            "ottla_share_dead_letters_failed_total",
            "Records that share groups gave up and that could not be written to their dead-letter topics.",
        )
        .value(&[], shared.dead_letters_failed.get());

        let topics = self.topics();
        let mut by_topic = |name, help, counted: fn(&TopicMetrics) -> &Counter| {
            let mut samples = page.counter(name, help);
            for (topic, metrics) in &topics {
                samples.value(&[("topic", topic)], counted(metrics).get());
            }
        };
        by_topic("ottla_topic_records_in_total", "Records appended for producers.", |topic| {
            &topic.records_in
        });
        by_topic("ottla_topic_bytes_in_total", "Bytes appended for producers, as compressed.", |topic| {
            &topic.bytes_in
        });
        by_topic("ottla_topic_bytes_out_total", "Bytes read for consumers, as compressed.", |topic| {
            &topic.bytes_out
        });
    }

    fn topics(&self) -> Vec<(Str, Arc<TopicMetrics>)> {
        let topics = self.shared.topics.lock();
        let alive = topics.iter().filter_map(|(name, metrics)| Some((name.clone(), metrics.upgrade()?)));
        let mut all: Vec<_> = alive.collect();
        // The shared counters are on the page once a second holder shows that a topic counts with them.
        if Arc::strong_count(&self.shared.other_topics) > 1 {
            all.push((Str::from(OTHER_TOPICS), Arc::clone(&self.shared.other_topics)));
        }
        all
    }
}

fn write_state(page: &mut Page, state: &BrokerState) {
    page.gauge("ottla_partitions", "Partitions of which this broker has a replica.")
        .value(&[], state.partitions);
    page.gauge("ottla_partitions_led", "Partitions that this broker leads.").value(&[], state.partitions_led);
    page.gauge(
        "ottla_partitions_under_replicated",
        "Partitions led by this broker with replicas that are not in sync.",
    )
    .value(&[], state.partitions_under_replicated);
    page.gauge(
        "ottla_partitions_under_min_isr",
        "Partitions led by this broker with fewer replicas in sync than min.insync.replicas.",
    )
    .value(&[], state.partitions_under_min_isr);
    page.gauge("ottla_partitions_leaderless", "Partitions of the cluster that nobody leads.")
        .value(&[], state.partitions_leaderless);
    page.gauge("ottla_brokers_active", "Brokers that the cluster counts in.")
        .value(&[], state.brokers_active);
    page.gauge("ottla_brokers_fenced", "Brokers that are registered and not counted in.")
        .value(&[], state.brokers_fenced);
    page.gauge("ottla_controller_active", "1 where this broker is the active controller.")
        .value(&[], u8::from(state.is_controller));
    page.gauge("ottla_broker_fenced", "1 where the cluster does not count this broker in.")
        .value(&[], u8::from(state.is_fenced));
    page.gauge(
        "ottla_metadata_applied_index",
        "Index of the last entry of the metadata that was applied here.",
    )
    .value(&[], state.metadata_applied);
    page.gauge(
        "ottla_clock_ahead_seconds",
        "How far this broker's clock is ahead of the active controller's; negative where it is behind.",
    )
    .value(&[], state.clock_ahead_ms as f64 / 1e3);
    page.gauge("ottla_offline_log_directories", "Data directories that have failed.")
        .value(&[], state.log_dirs_offline);
    page.gauge(
        "ottla_silent_log_directories",
        "Data directories whose disk does not answer, and has not failed.",
    )
    .value(&[], state.log_dirs_silent);
    page.gauge(
        "ottla_partitions_offline",
        "Partitions whose log could not be opened, or is offline after a failure of the disk.",
    )
    .value(&[], state.partitions_offline);
    page.gauge("ottla_partitions_rotten", "Partitions whose log has rotted and is not whole again.")
        .value(&[], state.partitions_rotten);

    let mut log_bytes = page.gauge("ottla_log_bytes", "Size of the logs of a topic on this broker.");
    let by_size = |(_, bytes): &(&Str, &u64)| std::cmp::Reverse(**bytes);
    let mut topics: Vec<_> = state.log_bytes.iter().collect();
    topics.sort_by_key(by_size);
    let (labelled, others) = topics.split_at(topics.len().min(TOPICS_MAX));
    for (topic, bytes) in labelled {
        log_bytes.value(&[("topic", topic)], bytes);
    }
    if !others.is_empty() {
        log_bytes.value(&[("topic", OTHER_TOPICS)], others.iter().map(|(_, bytes)| **bytes).sum::<u64>());
    }

    page.gauge("ottla_transactions_open", "Transactions coordinated by this broker that are not ended.")
        .value(&[], state.transactions_open);
    page.gauge(
        "ottla_share_partitions",
        "Partitions that share groups read from this broker, counted once for each group.",
    )
    .value(&[], state.share_partitions);
    page.gauge("ottla_share_records_acquired", "Records of share groups that are with members, locked.")
        .value(&[], state.share_records_acquired);
    page.gauge("ottla_share_sessions", "Members of share groups that fetch from this broker.")
        .value(&[], state.share_sessions);

    let mut groups = page.gauge("ottla_groups", "Consumer groups coordinated by this broker, by state.");
    for (name, count) in &state.groups {
        groups.value(&[("state", name)], count);
    }
    group_lag::write(page, &state.group_lag);
    page.gauge("ottla_fetches_parked", "Fetch requests that wait for records.")
        .value(&[], state.fetches_parked);
    page.gauge("ottla_flushes_queued", "Logs that wait to be flushed.").value(&[], state.flushes_queued);
    page.gauge("ottla_fetch_sessions", "Fetch sessions that are remembered.")
        .value(&[], state.fetch_sessions);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page without what differs from machine to machine and from version to version.
    fn check(page: &str, expect: expect_test::Expect) {
        let steady = |line: &&str| {
            !line.contains("process_") && !line.contains("build_info") && !line.contains("_bucket")
        };
        let samples = page.lines().filter(steady).filter(|line| !line.starts_with('#'));
        expect.assert_eq(&samples.map(|line| format!("{line}\n")).collect::<String>());
    }

    #[test]
    fn what_is_counted_is_on_the_page() {
        let metrics = Metrics::new();
        metrics.connection_opened();
        metrics.connection_opened();
        metrics.connection_closed();
        metrics.connection_refused();
        metrics.connection_cut();
        metrics.unsupported_request();
        metrics.request_done(ApiKey::Produce, Duration::from_millis(3));
        metrics.request_done(ApiKey::Produce, Duration::from_millis(4));
        metrics.flushed(Duration::from_micros(500));
        metrics.flush_failed();
        let topic = metrics.topic(&Str::from("orders"));
        topic.produced(100, 3);
        metrics.topic(&Str::from("orders")).fetched(50);
        let state = BrokerState {
            partitions: 2,
            partitions_led: 2,
            log_bytes: [(Str::from("orders"), 100)].into(),
            groups: [("Stable", 1)].into(),
            group_lag: Arc::new(GroupLag {
                rows: vec![LagRow {
                    group: "readers".into(),
                    partition: wire::TopicPartition::new("orders", wire::PartitionId(3)),
                    lag: client::Lag { records: 5, ms: Some(2_500) },
                }],
                offsets: [(("readers".into(), "committed"), 1)].into(),
                clear_seconds: [("readers".into(), 4.5), ("stuck".into(), f64::INFINITY)].into(),
                omitted: 2,
            }),
            ..BrokerState::default()
        };
        check(
            &metrics.page(Some(state)),
            expect_test::expect![[r#"
                ottla_connections 1
                ottla_connections_opened_total 2
                ottla_connections_refused_total 1
                ottla_connections_cut_total 1
                ottla_request_seconds_sum{api="Produce"} 0.007
                ottla_request_seconds_count{api="Produce"} 2
                ottla_requests_unsupported_total 1
                ottla_flush_seconds_sum 0.0005
                ottla_flush_seconds_count 1
                ottla_flush_failures_total 1
                ottla_log_rot_found_total 0
                ottla_replicated_bytes_total 0
                ottla_in_sync_shrinks_total 0
                ottla_in_sync_expands_total 0
                ottla_leaders_elected_total 0
                ottla_unclean_elections_total 0
                ottla_share_dead_letters_total 0
                ottla_share_dead_letters_failed_total 0
                ottla_topic_records_in_total{topic="orders"} 3
                ottla_topic_bytes_in_total{topic="orders"} 100
                ottla_topic_bytes_out_total{topic="orders"} 50
                ottla_partitions 2
                ottla_partitions_led 2
                ottla_partitions_under_replicated 0
                ottla_partitions_under_min_isr 0
                ottla_partitions_leaderless 0
                ottla_brokers_active 0
                ottla_brokers_fenced 0
                ottla_controller_active 0
                ottla_broker_fenced 0
                ottla_metadata_applied_index 0
                ottla_clock_ahead_seconds 0
                ottla_offline_log_directories 0
                ottla_silent_log_directories 0
                ottla_partitions_offline 0
                ottla_partitions_rotten 0
                ottla_log_bytes{topic="orders"} 100
                ottla_transactions_open 0
                ottla_share_partitions 0
                ottla_share_records_acquired 0
                ottla_share_sessions 0
                ottla_groups{state="Stable"} 1
                ottla_group_lag_records{group="readers",topic="orders",partition="3"} 5
                ottla_group_lag_seconds{group="readers",topic="orders",partition="3"} 2.5
                ottla_group_clear_seconds{group="readers"} 4.5
                ottla_group_clear_seconds{group="stuck"} +Inf
                ottla_group_offsets{group="readers",state="committed"} 1
                ottla_group_lag_omitted 2
                ottla_fetches_parked 0
                ottla_flushes_queued 0
                ottla_fetch_sessions 0
            "#]],
        );
    }

    #[test]
    fn a_topic_leaves_the_page_with_its_last_partition() {
        let metrics = Metrics::new();
        let topic = metrics.topic(&Str::from("gone"));
        assert!(metrics.page(None).contains("topic=\"gone\""));
        drop(topic);
        assert!(!metrics.page(None).contains("topic=\"gone\""));
    }

    #[test]
    fn topics_beyond_the_bound_are_counted_together() {
        let metrics = Metrics::new();
        let held: Vec<_> = (0..TOPICS_MAX + 10).map(|i| metrics.topic(&Str::from(format!("t{i}")))).collect();
        held.iter().for_each(|topic| topic.produced(1, 1));
        let page = metrics.page(None);
        assert_eq!(
            page.lines().filter(|line| line.starts_with("ottla_topic_records_in_total")).count(),
            TOPICS_MAX + 1
        );
        assert!(page.contains("ottla_topic_records_in_total{topic=\"(other)\"} 10\n"));
    }

    #[test]
    fn every_metric_has_help_and_a_type_and_stands_once() {
        let metrics = Metrics::new();
        let page = metrics.page(Some(BrokerState::default()));
        let names: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let helps = page.lines().filter(|line| line.starts_with("# HELP ")).count();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!((names.len(), helps), (distinct.len(), distinct.len()));
    }
}
