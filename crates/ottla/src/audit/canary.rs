//! `ottla canary`: writes to a small topic and reads it back, for ever, and says how that goes.
//!
//! One record at a time is under way to each partition, so that none overtakes another. Each goes the whole way of a record:
//! to the leader, to the replicas, to a reader. A partition is unavailable for as long as a record that was sent has not come
//! back within `--patience`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use client::{Acks, Admin, Cluster, Error, Execution, NewTopic, ProducerRecord, Start};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use wire::{ErrorCode, Millis, PartitionId, Str};

use super::judge::{Beginning, Patience};
use super::page::{self, Page, Shared};
use super::report::Audit;
use super::stamp::{Carrier, Stamp};
use super::traffic::{Reader, Writer};
use crate::cluster::progress::Progress;
use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::stop::Stop;

/// How long it waits for a topic that it has created.
const TOPIC_MAX: Duration = Duration::from_secs(30);
/// How long what is under way may take when the canary is to end.
const LAST_MAX: Duration = Duration::from_secs(5);
/// Pause after reading has failed.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Length of the report's first time buckets.
const BUCKET: Duration = Duration::from_secs(60);
const TOPIC_CONFIGS: [(&str, &str); 2] = [("retention.ms", "3600000"), ("segment.ms", "600000")];

/// Write to a small topic and read it back, for ever, and serve what that shows as metrics
#[derive(Debug, Args)]
#[command(after_help = "\
The topic is created if it is not there, with a partition for each broker and the brokers'
replication factor. Metrics (http://HOST:PORT/metrics): ottla_canary_delay_seconds, from producing
to reading, as a histogram; ottla_canary_lost, _doubled_total and _reordered_total;
ottla_canary_unavailable_seconds_total and ottla_canary_available; all by partition. At the end -
Ctrl-C, SIGTERM or --for - it reports as `ottla audit verify` does, with the same exit code:
unavailability alone is no failure of delivery.

Examples:
  ottla canary -b kafka-1:9092,kafka-2:9092 --metrics 0.0.0.0:9645
  ottla canary --for 1m --format json                        # as a check")]
pub(crate) struct CanaryArgs {
    /// The topic, for canaries alone
    #[arg(long, default_value = "ottla-canary")]
    topic: String,
    /// Pause between two records to a partition
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = super::duration)]
    every: Duration,
    /// How long a record may take before its partition counts as unavailable
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = super::duration)]
    patience: Duration,
    /// How long a record may be missing before it counts as lost
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::duration)]
    settle: Duration,
    /// End after this long
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    duration: Option<Duration>,
    /// Serve metrics for Prometheus here
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9645")]
    metrics: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What the canary knows.
struct State {
    audit: Audit,
    availability: Availability,
}

pub(crate) async fn run(args: CanaryArgs) -> Result<(), Failure> {
    let cluster = args.connect.cluster(|options| options.acks = Acks::All).await?;
    let topic = Str::copy_from(&args.topic);
    let partitions = partitions(&Admin::new(cluster.clone()), &topic).await?;
    let run = super::fresh_run();
    let carrier = Carrier::new(None);
    let audit = Audit::new(topic.clone(), carrier, Some(run.clone()), Beginning::Zero, super::millis(BUCKET));
    let availability = Availability::new(&partitions, super::millis(args.patience), super::now());
    let state = Arc::new(Mutex::new(State { audit, availability }));
    // Before the first record is written.
    let mut reader = Reader::begin(&cluster, &topic, Start::Latest, None).await?;
    let (bound, _served) = serve(&args.metrics, &state, super::millis(args.settle)).await?;
    eprintln!("metrics at http://{bound}/metrics");
    let mut stop = Stop::listen(false)?;
    let (end, ending) = watch::channel(false);
    let mut probes = probes(&cluster, &topic, &partitions, &run, args.every, &state, &ending)?;
    let progress = Progress::new();
    let mut deadline = args.duration.map(|duration| Instant::now() + duration);
    let mut is_ending = false;
    loop {
        let read = tokio::select! {
            biased;
            () = stop.asked(), if !is_ending => None,
            () = page::or_never(deadline.map(sleep_until)) => None,
            read = reader.next() => Some(read),
        };
        let Some(read) = read else {
            if is_ending {
                break;
            }
            is_ending = true;
            end.send_replace(true);
            deadline = Some(Instant::now() + LAST_MAX);
            continue;
        };
        match read {
            Ok(records) => {
                let mut state = page::lock(&state);
                let now = super::now();
                for record in records.unwrap_or_default() {
                    if let Some(stamp) = state.audit.take(&record, now) {
                        state.availability.came(record.partition, stamp.sequence, stamp.time);
                    }
                }
                state.availability.advance(now);
                progress.show_often(format_args!(
                    "{}, unavailable for {} s",
                    state.audit.line(),
                    state.availability.unavailable_ms() / 1_000
                ));
                if is_ending && state.availability.is_nothing_under_way() {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the topic cannot be read, trying again");
                page::lock(&state).availability.advance(super::now());
                sleep(READ_AGAIN).await;
            }
        }
    }
    drop(progress);
    probes.shutdown().await;
    let state = page::lock(&state);
    let unavailable = json!(state.availability.unavailable_ms() as f64 / 1e3);
    state.audit.conclude(args.output, None, &[("unavailable_seconds", unavailable)])
}

/// The topic's partitions; it is created if it is not there.
async fn partitions(admin: &Admin, topic: &Str) -> Result<Vec<PartitionId>, Failure> {
    let names = std::slice::from_ref(topic);
    let look = async || -> Result<Vec<PartitionId>, Error> {
        let mut partitions = Vec::new();
        for (_, described) in admin.describe_topics(names).await? {
            partitions.extend(described?.partitions.iter().map(|partition| partition.id));
        }
        Ok(partitions)
    };
    match look().await {
        Err(Error::UnknownTopic(_)) => {}
        found => return Ok(found?),
    }
    let brokers = admin.describe_cluster().await?.brokers;
    let count = brokers.iter().filter(|broker| !broker.is_fenced).count();
    let wanted = NewTopic {
        name: topic.clone(),
        partitions: Some(i32::try_from(count.max(1)).unwrap_or(i32::MAX)),
        replicas: None,
        configs: TOPIC_CONFIGS.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
    };
    for (_, created) in admin.create_topics(&[wanted], Execution::Apply).await? {
        match created {
            // Another canary was faster.
            Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {}
            created => {
                created?;
            }
        }
    }
    let is_led = |partition: &client::PartitionInfo| partition.leader.is_some();
    admin
        .await_topics(names, TOPIC_MAX, |topic| {
            topic.is_some_and(|topic| topic.partitions.iter().all(is_led))
        })
        .await?;
    Ok(look().await?)
}

/// Starts writing to each partition.
fn probes(
    cluster: &Cluster,
    topic: &Str,
    partitions: &[PartitionId],
    run: &str,
    every: Duration,
    state: &Shared<State>,
    ending: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, Failure> {
    let writer = Arc::new(Writer::new(cluster.clone())?);
    let mut probes = JoinSet::new();
    for partition in partitions {
        let probe = Probe {
            writer: Arc::clone(&writer),
            topic: topic.clone(),
            partition: *partition,
            run: run.to_owned(),
            state: Arc::clone(state),
        };
        probes.spawn(probe.run(every, ending.clone()));
    }
    Ok(probes)
}

/// Writes to one partition.
struct Probe {
    writer: Arc<Writer>,
    topic: Str,
    partition: PartitionId,
    run: String,
    state: Shared<State>,
}

impl Probe {
    async fn run(self, every: Duration, mut ending: watch::Receiver<bool>) {
        let mut beats = interval(every);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sequence = 0;
        let mut failed = None;
        loop {
            tokio::select! {
                biased;
                // Without whoever would say so there is nothing to go on for.
                _ = ending.wait_for(|is_ending| *is_ending) => return,
                _ = beats.tick() => {}
            }
            let (number, void) = failed.take().map_or((sequence, false), |number| (number, true));
            if !void {
                sequence += 1;
            }
            if let Err(error) = self.send(number, void).await {
                tracing::warn!(%error, partition = %self.partition, "a record was not acknowledged");
                // Whether it is there is not known: it is said before the next one is sent.
                failed = Some(number);
            }
        }
    }

    async fn send(&self, sequence: u64, void: bool) -> Result<(), Error> {
        let key = format!("p{}", self.partition.0);
        let stamp = Stamp { run: self.run.clone(), key: key.clone(), sequence, time: super::now(), void };
        let (headers, value) = Carrier::Header.write(&stamp, 0);
        let record = ProducerRecord {
            partition: Some(self.partition),
            key: Some(Bytes::from(key)),
            headers,
            timestamp: Some(stamp.time),
            ..ProducerRecord::new(self.topic.clone(), value)
        };
        page::lock(&self.state).availability.sent(self.partition, sequence, stamp.time);
        self.writer.send(record).await?.await.map(drop)
    }
}

async fn serve(
    address: &str,
    state: &Shared<State>,
    settle_ms: i64,
) -> Result<(std::net::SocketAddr, page::Served), Failure> {
    let state = Arc::clone(state);
    let made = move || {
        let patience = Patience::Until(Millis(super::now().0.saturating_sub(settle_ms)));
        let mut state = page::lock(&state);
        // Whoever reads may wait for a broker.
        state.availability.advance(super::now());
        let mut text = page::page("ottla_canary", &state.audit, patience);
        text.push_str(&state.availability.page(&state.audit.topic));
        text
    };
    page::serve(address, made).await
}

/// Since when each partition has owed a record, and for how long it has owed one too long.
struct Availability {
    patience_ms: i64,
    partitions: BTreeMap<PartitionId, Owed>,
    /// Until when time is accounted for.
    accounted: Millis,
}

#[derive(Default)]
struct Owed {
    /// The newest number that was sent.
    newest: u64,
    /// The oldest that has not come back, and a time at which it was not sent yet, or just.
    oldest: Option<(u64, Millis)>,
    unavailable_ms: i64,
}

impl Availability {
    fn new(partitions: &[PartitionId], patience_ms: i64, now: Millis) -> Self {
        let partitions = partitions.iter().map(|partition| (*partition, Owed::default())).collect();
        Self { patience_ms, partitions, accounted: now }
    }

    /// A record leaves; one that says that the last has failed has its number.
    fn sent(&mut self, partition: PartitionId, sequence: u64, now: Millis) {
        let owed = self.partitions.entry(partition).or_default();
        owed.newest = owed.newest.max(sequence);
        owed.oldest.get_or_insert((sequence, now));
    }

    /// A record that was sent at this time has come back.
    fn came(&mut self, partition: PartitionId, sequence: u64, sent: Millis) {
        let owed = self.partitions.entry(partition).or_default();
        if owed.oldest.is_some_and(|(oldest, _)| sequence >= oldest) {
            owed.oldest = (sequence < owed.newest).then_some((sequence + 1, sent));
        }
    }

    /// Accounts for the time that has passed since it did so last.
    fn advance(&mut self, now: Millis) {
        for owed in self.partitions.values_mut() {
            let Some((_, since)) = owed.oldest else { continue };
            let unavailable_from = self.accounted.0.max(since.0.saturating_add(self.patience_ms));
            owed.unavailable_ms += now.0.saturating_sub(unavailable_from).max(0);
        }
        self.accounted = self.accounted.max(now);
    }

    fn is_available(&self, owed: &Owed) -> bool {
        owed.oldest.is_none_or(|(_, since)| self.accounted.0.saturating_sub(since.0) <= self.patience_ms)
    }

    fn is_nothing_under_way(&self) -> bool {
        self.partitions.values().all(|owed| owed.oldest.is_none())
    }

    /// Of all partitions together.
    fn unavailable_ms(&self) -> i64 {
        self.partitions.values().map(|owed| owed.unavailable_ms).sum()
    }

    fn page(&self, topic: &str) -> String {
        let mut page = Page { text: String::new(), prefix: "ottla_canary", topic };
        let name = "unavailable_seconds_total";
        page.metric("counter", name, "Time in which records did not come back in time.");
        for (partition, owed) in &self.partitions {
            page.sample(name, Some(*partition), None, owed.unavailable_ms as f64 / 1e3);
        }
        page.metric("gauge", "available", "Whether records come back in time.");
        for (partition, owed) in &self.partitions {
            page.sample("available", Some(*partition), None, u8::from(self.is_available(owed)));
        }
        page.text
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wire::{Millis, PartitionId};

    use super::Availability;

    const ONE: PartitionId = PartitionId(1);

    #[test]
    fn a_partition_is_unavailable_while_a_record_is_owed_for_too_long() {
        let mut availability = Availability::new(&[ONE, PartitionId(2)], 100, Millis(0));
        availability.sent(ONE, 0, Millis(0));
        availability.advance(Millis(100));
        assert_eq!(availability.unavailable_ms(), 0, "it has until then");
        availability.advance(Millis(350));
        assert_eq!(availability.unavailable_ms(), 250);
        availability.sent(ONE, 1, Millis(400));
        availability.advance(Millis(500));
        assert_eq!(availability.unavailable_ms(), 400, "another one under way does not help");
        expect![[r#"
            # HELP ottla_canary_unavailable_seconds_total Time in which records did not come back in time.
            # TYPE ottla_canary_unavailable_seconds_total counter
            ottla_canary_unavailable_seconds_total{topic="t",partition="1"} 0.4
            ottla_canary_unavailable_seconds_total{topic="t",partition="2"} 0
            # HELP ottla_canary_available Whether records come back in time.
            # TYPE ottla_canary_available gauge
            ottla_canary_available{topic="t",partition="1"} 0
            ottla_canary_available{topic="t",partition="2"} 1
        "#]]
        .assert_eq(&availability.page("t"));
        availability.came(ONE, 0, Millis(0));
        assert!(!availability.is_nothing_under_way(), "1 is to come");
        availability.came(ONE, 1, Millis(400));
        assert!(availability.is_nothing_under_way());
        availability.advance(Millis(10_000));
        assert_eq!(availability.unavailable_ms(), 400);
    }

    #[test]
    fn what_failed_is_owed_until_anything_later_comes_back() {
        let mut availability = Availability::new(&[ONE], 100, Millis(0));
        availability.sent(ONE, 0, Millis(0));
        // Its failure is told under its number, and comes back under it.
        availability.sent(ONE, 0, Millis(1_000));
        availability.advance(Millis(1_100));
        availability.came(ONE, 0, Millis(1_000));
        assert!(availability.is_nothing_under_way());
        assert_eq!(availability.unavailable_ms(), 1_000);
        availability.came(ONE, 7, Millis(1_000));
        availability.advance(Millis(i64::MAX));
        assert_eq!(availability.unavailable_ms(), 1_000, "what nobody sent is nobody's");
    }
}
