//! What clients measure of themselves (KIP-714): who is to push what, and the last that they pushed, for `/metrics`.
//!
//! Subscriptions are settings in the metadata; every broker works out the same id for the same client, so that a client may
//! push to any. Bounded: clients, metrics of a client, metrics in all, and the length of every text; what is over a bound is
//! left out and counted. A client that is silent for three of its intervals is forgotten.

mod otlp;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use regex::Regex;
use state::metadata::{Image, ResourceKind};
use wire::compression::Compression;
use wire::{ErrorCode, Millis, Uuid};

use crate::metrics::escape;
use crate::settings::{Selector, Settings, patterns};

/// Clients that are remembered (Kafka's number).
const CLIENTS_MAX: usize = 16_384;
const SERIES_OF_CLIENT_MAX: usize = 1_000;
/// What all series may take: a hundred thousand as Java's client names them.
const SERIES_BYTES_MAX: usize = 32 << 20;
/// What a series takes beside its texts.
const SERIES_BYTES: usize = 96;
/// Bytes of a metric's name, and of a label's name or value.
const TEXT_BYTES_MAX: usize = 256;
const LABELS_MAX: usize = 16;
/// How many times as large as it may be compressed telemetry may be.
const UNPACKED_TIMES_MAX: usize = 10;

/// What a client asks for that nobody has subscribed to.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(300);
/// Silence of a client that is shorter is no reason to forget it.
const SILENCE_MIN: Duration = Duration::from_secs(60);
const EVERYTHING: &str = "*";

/// What is known of a client without its telemetry.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientFacts {
    pub(crate) client_id: String,
    pub(crate) software_name: String,
    pub(crate) software_version: String,
    pub(crate) address: String,
    pub(crate) port: String,
}

struct Subscription {
    metrics: Vec<String>,
    interval: Duration,
    patterns: Vec<(Selector, Regex)>,
}

/// All subscriptions, and which change of them it was.
#[derive(Default)]
struct Subscriptions {
    version: u64,
    all: Vec<Subscription>,
}

/// What one client is to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) client: Uuid,
    pub(crate) subscription: i32,
    pub(crate) metrics: Vec<String>,
    pub(crate) interval: Duration,
}

/// A client that has asked or pushed.
struct Client {
    client_id: String,
    version: u64,
    wanted: Wanted,
    asked: Option<Millis>,
    pushed: Option<Millis>,
    seen: Millis,
    /// Whether its last push was refused for what it can ask for anew.
    is_to_ask: bool,
    is_terminating: bool,
    series: BTreeMap<SeriesKey, f64>,
    /// What the series take.
    bytes: usize,
}

/// Metric and labels, as they stand on the page.
type SeriesKey = (String, String);

/// Every client's telemetry.
#[derive(Default)]
pub(crate) struct Telemetry {
    subscriptions: ArcSwap<Subscriptions>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: HashMap<Uuid, Client>,
    /// What the series of all clients take.
    bytes: usize,
    left_out: u64,
}

/// What a client pushes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Push<'a> {
    pub(crate) client: Uuid,
    pub(crate) subscription: i32,
    pub(crate) compression: i8,
    pub(crate) is_last: bool,
    pub(crate) metrics: &'a [u8],
    pub(crate) bytes_max: usize,
}

impl Telemetry {
    /// Takes over the subscriptions that the metadata holds.
    pub(crate) fn update(&self, image: &Image, settings: &Settings) {
        let all = image.configured(ResourceKind::ClientMetrics).map(|resource| {
            let settings = settings.client_metrics(image.configs(resource));
            Subscription {
                metrics: settings.metrics,
                interval: settings.push_interval,
                // They were checked on their way in; those of another version that make no sense mean nobody.
                patterns: patterns(&settings.client_match).unwrap_or_else(|_| nobody()),
            }
        });
        let version = self.subscriptions.load().version + 1;
        self.subscriptions.store(std::sync::Arc::new(Subscriptions { version, all: all.collect() }));
    }

    /// A client asks what to push.
    pub(crate) fn ask(&self, client: Uuid, facts: &ClientFacts, now: Millis) -> Result<Wanted, ErrorCode> {
        let mut state = self.state.lock();
        let client = self.known(&mut state, client, facts, now)?;
        let last = client.asked.max(client.pushed);
        if !client.is_to_ask && !is_due(last, client.wanted.interval, now) {
            return Err(ErrorCode::THROTTLING_QUOTA_EXCEEDED);
        }
        client.asked = Some(now);
        client.is_to_ask = false;
        Ok(client.wanted.clone())
    }

    /// A client pushes.
    pub(crate) fn push(&self, push: Push<'_>, facts: &ClientFacts, now: Millis) -> Result<(), ErrorCode> {
        if push.client.is_zero() {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let mut state = self.state.lock();
        let client = self.known(&mut state, push.client, facts, now)?;
        let was_terminating = std::mem::replace(&mut client.is_terminating, push.is_last);
        if was_terminating {
            client.is_terminating = true;
            return Err(ErrorCode::INVALID_REQUEST);
        }
        // Clients spread their pushes over the interval: the first one after an answer may come at any time.
        let is_first = client.asked.is_some() && client.asked > client.pushed;
        if !is_first && !push.is_last && !is_due(client.pushed, client.wanted.interval, now) {
            return Err(ErrorCode::THROTTLING_QUOTA_EXCEEDED);
        }
        client.pushed = Some(now);
        if push.subscription != client.wanted.subscription {
            client.is_to_ask = true;
            return Err(ErrorCode::UNKNOWN_SUBSCRIPTION_ID);
        }
        let Some(compression) = Compression::from_code(i16::from(push.compression)) else {
            client.is_to_ask = true;
            return Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
        };
        if push.metrics.len() > push.bytes_max {
            return Err(ErrorCode::TELEMETRY_TOO_LARGE);
        }
        let wanted = client.wanted.metrics.clone();
        if wanted.is_empty() {
            return Ok(());
        }
        // Others push meanwhile.
        drop(state);
        let unpacked =
            compression.decompress(push.metrics, push.bytes_max.saturating_mul(UNPACKED_TIMES_MAX));
        let unpacked = unpacked.map_err(|_| ErrorCode::INVALID_RECORD)?;
        let mut points = Vec::new();
        let mut left_out = 0;
        let is_wanted = |metric: &str| {
            wanted.iter().any(|prefix| prefix == EVERYTHING || metric.starts_with(prefix.as_str()))
        };
        let read = otlp::points(&unpacked, |point| {
            // An average of nothing, or what nobody asked for.
            if !point.value.is_finite() || !is_wanted(point.metric) {
                return;
            }
            // What is over the bound is not looked at.
            let key = if points.len() < SERIES_OF_CLIENT_MAX { key(&point) } else { None };
            match key {
                Some(key) => points.push((key, point.value, point.is_delta)),
                None => left_out += 1,
            }
        });
        read.map_err(|_| ErrorCode::INVALID_RECORD)?;
        let mut state = self.state.lock();
        state.left_out += left_out;
        state.take(push.client, points);
        Ok(())
    }

    /// The client as it is remembered, or remembered from now on.
    fn known<'a>(
        &self,
        state: &'a mut State,
        id: Uuid,
        facts: &ClientFacts,
        now: Millis,
    ) -> Result<&'a mut Client, ErrorCode> {
        let subscriptions = self.subscriptions.load();
        if !state.clients.contains_key(&id) {
            if state.clients.len() >= CLIENTS_MAX {
                state.forget_silent(now);
            }
            if state.clients.len() >= CLIENTS_MAX {
                return Err(ErrorCode::THROTTLING_QUOTA_EXCEEDED);
            }
        }
        let client = state.clients.entry(id).or_insert_with(|| Client {
            client_id: cut(&facts.client_id).to_owned(),
            version: 0,
            wanted: Wanted { client: id, subscription: 0, metrics: Vec::new(), interval: INTERVAL_DEFAULT },
            asked: None,
            pushed: None,
            seen: now,
            is_to_ask: false,
            is_terminating: false,
            series: BTreeMap::new(),
            bytes: 0,
        });
        client.seen = now;
        if client.version != subscriptions.version {
            client.version = subscriptions.version;
            let wanted = subscriptions.wanted(id, facts);
            if wanted != client.wanted {
                // It need not wait to hear of it.
                client.wanted = wanted;
                client.asked = None;
                client.pushed = None;
            }
        }
        Ok(client)
    }

    /// Everything that clients have pushed, as Prometheus reads it.
    pub(crate) fn page(&self, now: Millis) -> String {
        let mut state = self.state.lock();
        state.forget_silent(now);
        let mut by_metric: BTreeMap<&str, Vec<(Uuid, &Client, &str, f64)>> = BTreeMap::new();
        for (id, client) in &state.clients {
            for ((metric, labels), value) in &client.series {
                by_metric.entry(metric).or_default().push((*id, client, labels, *value));
            }
        }
        let mut page = String::new();
        let _ = writeln!(
            page,
            "# HELP ottla_telemetry_clients Clients whose telemetry is remembered.\n\
             # TYPE ottla_telemetry_clients gauge\n\
             ottla_telemetry_clients {}\n\
             # HELP ottla_telemetry_left_out_total Metrics of clients that were over a bound.\n\
             # TYPE ottla_telemetry_left_out_total counter\n\
             ottla_telemetry_left_out_total {}",
            state.clients.len(),
            state.left_out
        );
        for (metric, mut samples) in by_metric {
            let _ = writeln!(page, "# HELP {metric} Pushed by clients.\n# TYPE {metric} untyped");
            samples.sort_by_key(|(id, _, labels, _)| (*id, *labels));
            for (id, client, labels, value) in samples {
                let _ = write!(page, "{metric}{{client_id=\"");
                escape(&mut page, &client.client_id);
                let _ = writeln!(page, "\",client_instance_id=\"{id}\"{labels}}} {value}");
            }
        }
        page
    }
}

impl Subscriptions {
    fn wanted(&self, client: Uuid, facts: &ClientFacts) -> Wanted {
        let (mut metrics, mut interval) = (Vec::new(), INTERVAL_DEFAULT);
        for subscription in self.all.iter().filter(|subscription| subscription.means(client, facts)) {
            metrics.extend(subscription.metrics.iter().cloned());
            interval = interval.min(subscription.interval);
        }
        metrics.sort();
        metrics.dedup();
        if metrics.iter().any(|metric| metric == EVERYTHING) {
            metrics = vec![EVERYTHING.to_owned()];
        }
        let subscription = subscription_id(client, &metrics, interval);
        Wanted { client, subscription, metrics, interval }
    }
}

impl Subscription {
    fn means(&self, client: Uuid, facts: &ClientFacts) -> bool {
        self.patterns.iter().all(|(selector, pattern)| match selector {
            Selector::InstanceId => pattern.is_match(&client.to_string()),
            Selector::ClientId => pattern.is_match(&facts.client_id),
            Selector::SoftwareName => pattern.is_match(&facts.software_name),
            Selector::SoftwareVersion => pattern.is_match(&facts.software_version),
            Selector::SourceAddress => pattern.is_match(&facts.address),
            Selector::SourcePort => pattern.is_match(&facts.port),
        })
    }
}

impl State {
    fn take(&mut self, id: Uuid, points: Vec<(SeriesKey, f64, bool)>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        for (key, value, is_delta) in points {
            let bytes = SERIES_BYTES + key.0.len() + key.1.len();
            let room = client.series.len() < SERIES_OF_CLIENT_MAX && self.bytes + bytes <= SERIES_BYTES_MAX;
            match client.series.get_mut(&key) {
                Some(known) if is_delta => *known += value,
                Some(known) => *known = value,
                None if room => {
                    client.series.insert(key, value);
                    client.bytes += bytes;
                    self.bytes += bytes;
                }
                None => self.left_out += 1,
            }
        }
    }

    fn forget_silent(&mut self, now: Millis) {
        let State { clients, bytes, .. } = self;
        clients.retain(|_, client| {
            let silence_max = (client.wanted.interval * 3).max(SILENCE_MIN);
            let stays = millis(now) - millis(client.seen) < silence_max.as_millis() as i128;
            if !stays {
                *bytes -= client.bytes;
            }
            stays
        });
    }
}

fn millis(at: Millis) -> i128 {
    i128::from(at.0)
}

fn is_due(last: Option<Millis>, interval: Duration, now: Millis) -> bool {
    last.is_none_or(|last| millis(now) - millis(last) >= interval.as_millis() as i128)
}

/// A pattern that fits no client.
fn nobody() -> Vec<(Selector, Regex)> {
    vec![(Selector::ClientId, Regex::new("[^\\s\\S]").expect("a class of nothing is a pattern"))]
}

/// The same on every broker (FNV-1a).
fn subscription_id(client: Uuid, metrics: &[String], interval: Duration) -> i32 {
    let interval = interval.as_millis().to_le_bytes();
    let texts = metrics.iter().flat_map(|metric| metric.bytes().chain([0]));
    let bytes = client.0.into_iter().chain(interval).chain(texts);
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) as i32
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Metric and labels as they stand on the page; none where the name cannot.
fn key(point: &otlp::Point<'_>) -> Option<SeriesKey> {
    let name = point.metric.strip_prefix("org.apache.kafka.").unwrap_or(point.metric);
    if name.is_empty() || name.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut seen = vec!["client_id".to_owned(), "client_instance_id".to_owned()];
    let mut labels = String::new();
    for (key, value) in point.attributes.iter().take(LABELS_MAX) {
        let key = word(cut(key));
        if !key.is_empty() && !seen.contains(&key) {
            let _ = write!(labels, ",{key}=\"");
            escape(&mut labels, cut(value));
            labels.push('"');
            seen.push(key);
        }
    }
    Some((format!("ottla_client_{}", word(name)), labels))
}

/// A text as a name of Prometheus.
fn word(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word: String = text.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if word.starts_with(|c: char| c.is_ascii_digit()) { format!("_{word}") } else { word }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const CLIENT: Uuid = Uuid::from_u128(1);
    const SECOND: i64 = 1_000;

    fn subscribed() -> Telemetry {
        let telemetry = Telemetry::default();
        let of_apps = Subscription {
            metrics: vec!["org.apache.kafka.producer.".to_owned()],
            interval: Duration::from_secs(10),
            patterns: patterns(&["client_id=app-.*".to_owned()]).unwrap(),
        };
        let of_all = Subscription {
            metrics: vec!["org.apache.kafka.consumer.".to_owned()],
            interval: Duration::from_secs(30),
            patterns: Vec::new(),
        };
        let subscriptions = Subscriptions { version: 1, all: vec![of_apps, of_all] };
        telemetry.subscriptions.store(std::sync::Arc::new(subscriptions));
        telemetry
    }

    fn facts(client_id: &str) -> ClientFacts {
        ClientFacts { client_id: client_id.to_owned(), ..ClientFacts::default() }
    }

    fn push(subscription: i32, metrics: &[u8]) -> Push<'_> {
        let (client, is_last) = (CLIENT, false);
        Push { client, subscription, compression: 0, is_last, metrics, bytes_max: 1_000 }
    }

    #[test]
    fn a_client_is_asked_for_what_all_its_subscriptions_want() {
        let telemetry = subscribed();
        let wanted = telemetry.ask(CLIENT, &facts("app-1"), Millis(0)).unwrap();
        assert_eq!(wanted.metrics, ["org.apache.kafka.consumer.", "org.apache.kafka.producer."]);
        assert_eq!(wanted.interval, Duration::from_secs(10));
        let other = telemetry.ask(Uuid::from_u128(2), &facts("other"), Millis(0)).unwrap();
        assert_eq!((other.metrics.len(), other.interval), (1, Duration::from_secs(30)));
        assert_ne!(wanted.subscription, other.subscription);
        // Another broker says the same.
        let elsewhere = subscribed().ask(CLIENT, &facts("app-1"), Millis(0)).unwrap();
        assert_eq!(elsewhere, wanted);
    }

    #[test]
    fn whoever_asks_or_pushes_too_often_is_told_to_wait() {
        let telemetry = subscribed();
        let facts = facts("app-1");
        let wanted = telemetry.ask(CLIENT, &facts, Millis(0)).unwrap();
        let throttled = Err(ErrorCode::THROTTLING_QUOTA_EXCEEDED);
        assert_eq!(telemetry.ask(CLIENT, &facts, Millis(5 * SECOND)).map(drop), throttled);
        assert_eq!(telemetry.push(push(wanted.subscription, b""), &facts, Millis(SECOND)), Ok(()));
        assert_eq!(telemetry.push(push(wanted.subscription, b""), &facts, Millis(5 * SECOND)), throttled);
        assert_eq!(telemetry.push(push(wanted.subscription, b""), &facts, Millis(11 * SECOND)), Ok(()));
        let stale = telemetry.push(push(7, b""), &facts, Millis(30 * SECOND));
        assert_eq!(stale, Err(ErrorCode::UNKNOWN_SUBSCRIPTION_ID));
        assert!(telemetry.ask(CLIENT, &facts, Millis(30 * SECOND)).is_ok(), "it has to ask anew");
        let last = Push { is_last: true, ..push(wanted.subscription, b"") };
        assert_eq!(telemetry.push(last, &facts, Millis(31 * SECOND)), Ok(()));
        assert_eq!(telemetry.push(last, &facts, Millis(90 * SECOND)), Err(ErrorCode::INVALID_REQUEST));
    }

    #[test]
    fn what_is_pushed_is_on_the_page_until_the_client_is_silent() {
        let telemetry = subscribed();
        let facts = facts("app-\"1\"");
        let id = telemetry.ask(CLIENT, &facts, Millis(0)).unwrap().subscription;
        let name = "org.apache.kafka.producer.record.send.total";
        telemetry.push(push(id, &otlp::sample::sum(name, 5, 2)), &facts, Millis(SECOND)).unwrap();
        let zstd = Compression::Zstd.compress(&otlp::sample::sum(name, 2, 1), None);
        let packed = Push { compression: 4, ..push(id, &zstd) };
        telemetry.push(packed, &facts, Millis(20 * SECOND)).unwrap();
        expect![[r#"
            # HELP ottla_telemetry_clients Clients whose telemetry is remembered.
            # TYPE ottla_telemetry_clients gauge
            ottla_telemetry_clients 1
            # HELP ottla_telemetry_left_out_total Metrics of clients that were over a bound.
            # TYPE ottla_telemetry_left_out_total counter
            ottla_telemetry_left_out_total 0
            # HELP ottla_client_producer_record_send_total Pushed by clients.
            # TYPE ottla_client_producer_record_send_total untyped
            ottla_client_producer_record_send_total{client_id="app-\"1\"",client_instance_id="AAAAAAAAAAAAAAAAAAAAAQ",topic="t"} 7
        "#]]
        .assert_eq(&telemetry.page(Millis(20 * SECOND)));
        assert!(telemetry.page(Millis(200 * SECOND)).contains("telemetry_clients 0"));
        assert_eq!(telemetry.state.lock().bytes, 0);
    }

    #[test]
    fn what_is_too_large_or_no_telemetry_is_refused() {
        let telemetry = subscribed();
        let facts = facts("app-1");
        let mut now = 0;
        let mut refused = |compression, metrics: &[u8]| {
            now += 60 * SECOND;
            let id = telemetry.ask(CLIENT, &facts, Millis(now)).unwrap().subscription;
            telemetry.push(Push { compression, ..push(id, metrics) }, &facts, Millis(now)).unwrap_err()
        };
        assert_eq!(refused(0, &[0; 1_001]), ErrorCode::TELEMETRY_TOO_LARGE);
        assert_eq!(refused(9, b""), ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
        assert_eq!(refused(0, b"\xff"), ErrorCode::INVALID_RECORD);
        assert_eq!(refused(4, b"no zstd"), ErrorCode::INVALID_RECORD);
        let bomb = Compression::Zstd.compress(&[0; 100_000], None);
        assert_eq!(refused(4, &bomb), ErrorCode::INVALID_RECORD);
    }

    #[test]
    fn a_client_with_too_many_metrics_keeps_the_first() {
        let telemetry = subscribed();
        let facts = facts("app-1");
        let id = telemetry.ask(CLIENT, &facts, Millis(0)).unwrap().subscription;
        let name = |n| format!("org.apache.kafka.producer.m{n}");
        let many: Vec<u8> =
            (0..SERIES_OF_CLIENT_MAX + 5).flat_map(|n| otlp::sample::sum(&name(n), 1, 2)).collect();
        let large = Push { bytes_max: many.len(), ..push(id, &many) };
        telemetry.push(large, &facts, Millis(SECOND)).unwrap();
        let state = telemetry.state.lock();
        assert_eq!((state.clients[&CLIENT].series.len(), state.left_out), (SERIES_OF_CLIENT_MAX, 5));
    }

    #[test]
    fn what_all_clients_push_is_bounded_and_given_back_when_they_are_silent() {
        let mut state = State::default();
        let point = |n: usize| ((format!("{n:0>200}"), format!("{n:0>4000}")), 1.0, false);
        let telemetry = subscribed();
        for n in 0..16 {
            let client = Uuid::from_u128(n);
            telemetry.ask(client, &facts("app-1"), Millis(0)).unwrap();
            let fresh = telemetry.state.lock().clients.remove(&client).unwrap();
            state.clients.insert(client, fresh);
            state.take(client, (0..SERIES_OF_CLIENT_MAX).map(point).collect());
        }
        assert!(state.left_out > 0 && state.bytes <= SERIES_BYTES_MAX, "{}", state.bytes);
        state.forget_silent(Millis(i64::MAX));
        assert_eq!(state.bytes, 0);
    }

    #[test]
    fn what_nobody_asked_for_is_not_kept() {
        let telemetry = subscribed();
        let facts = facts("app-1");
        let id = telemetry.ask(CLIENT, &facts, Millis(0)).unwrap().subscription;
        let unasked = otlp::sample::sum("org.apache.kafka.admin.m", 1, 2);
        telemetry.push(push(id, &unasked), &facts, Millis(SECOND)).unwrap();
        let state = telemetry.state.lock();
        assert_eq!((state.bytes, state.left_out), (0, 0));
    }
}
