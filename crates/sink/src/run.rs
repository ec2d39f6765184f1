//! The offline line at work: reads topics, hands every partition what it takes, and ends in order.
//!
//! One task reads and writes. It takes hold of every partition first, compares what is stored with the table and with the log, and
//! reads on from exactly there. Nothing is decided here about ranges; what does not continue stops it, with the place named.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{
    Admin, Assigned, Begin, BoxFuture, Cluster, Consumer, Environment, Error, Isolation, OffsetReset,
    OffsetSpec, Offsets, Options, Records, ResourceKind, Start,
};
use offsets::{Cause, First, Log};
use tokio::time::sleep;
use wire::{ErrorCode, Millis, Offset, Str, TopicPartition, Uuid};

use crate::files::Files;
use crate::key::Key;
use crate::partition::{Chunk, Partition, PartitionError};
use crate::positions::open_store;
use crate::settings::Settings;
use crate::store::StoreError;
use crate::table::Table;

/// How often partitions are looked at that repeat a range, in case its end is not a record any more.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For the consumer to end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Why a sink does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The brokers, or the client.
    #[error(transparent)]
    Client(#[from] Error),
    /// One partition.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be continued.
    #[error("{key} stops: {cause}; committed {committed}, found {found}, log {start} to {end}")]
    Gap {
        /// The partition.
        key: Box<Key>,
        /// Why.
        cause: Cause,
        /// What is in the table.
        committed: Offset,
        /// What is there instead of what comes next.
        found: Offset,
        /// Where the log begins.
        start: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The topic was deleted and created again while it was read.
    #[error("{key} was deleted and created again: topic id {found} is read where {} was", key.topic_id)]
    Recreated {
        /// The partition.
        key: Box<Key>,
        /// The topic's id now.
        found: Uuid,
    },
    /// The brokers do not tell topics of one name apart.
    #[error(
        "the brokers give topic {topic} no id, so that one made anew could not be told from it: Kafka 2.8 or newer is needed"
    )]
    NoTopicId {
        /// The topic.
        topic: Str,
    },
    /// The table's directory.
    #[error("cannot {doing} {}: {source}", path.display())]
    Files {
        /// What was done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

/// When to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When asked to.
    Stopped,
    /// When everything is in the table that was there at the start.
    End,
}

/// What a run has done in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The partition.
    pub partition: TopicPartition,
    /// Where it stood at the start.
    pub from: Offset,
    /// And at the end: what is committed.
    pub to: Offset,
    /// Records that went into the table.
    pub records: u64,
}

/// A partition of the topics, as the brokers tell it.
pub(crate) struct Source {
    pub(crate) key: Key,
    pub(crate) log: Log,
    /// Behind the last record that this line gets to see: an open transaction holds back those who read what is committed.
    pub(crate) visible_end: Offset,
}

/// The partitions of the topics, and the ends of their logs for readers of committed records.
pub(crate) async fn sources(settings: &Settings, cluster: &Cluster) -> Result<Vec<Source>, RunError> {
    let cluster_id = cluster.id().await?.to_string();
    let admin = Admin::new(cluster.clone());
    let mut partitions = Vec::new();
    let mut ids = BTreeMap::new();
    for (topic, described) in admin.describe_topics(&settings.topics).await? {
        let described = described?;
        if described.id == Uuid::ZERO {
            return Err(RunError::NoTopicId { topic });
        }
        ids.insert(topic.clone(), described.id);
        let of_topic = described.partitions.iter().map(|part| TopicPartition::new(topic.clone(), part.id));
        partitions.extend(of_topic);
    }
    partitions.sort();
    let isolation = cluster.options().isolation_level;
    let of = |spec| partitions.iter().map(|partition| (partition.clone(), spec)).collect::<Vec<_>>();
    let starts = admin.list_offsets(&of(OffsetSpec::Earliest), Isolation::ReadUncommitted).await?;
    let ends = admin.list_offsets(&of(OffsetSpec::Latest), Isolation::ReadUncommitted).await?;
    let visible_ends = admin.list_offsets(&of(OffsetSpec::Latest), isolation).await?;
    let mut sources = Vec::with_capacity(partitions.len());
    for (((partition, start), (_, end)), (_, visible_end)) in starts.into_iter().zip(ends).zip(visible_ends) {
        let none = || Error::Protocol {
            doing: format!("asking for the ends of {partition}"),
            problem: "it has none".to_owned(),
        };
        let (start, end) = (start?.offset.ok_or_else(none)?, end?.offset.ok_or_else(none)?);
        let visible_end = visible_end?.offset.ok_or_else(none)?;
        let topic_id = ids[&partition.topic];
        let log = Log { topic_id, start, end, epoch_end: None, copy: None };
        let line = settings.offline_name();
        sources.push(Source {
            key: Key { line, cluster_id: cluster_id.clone(), partition, topic_id },
            log,
            visible_end,
        });
    }
    Ok(sources)
}

/// Where the consumer begins.
struct Begins(BTreeMap<TopicPartition, Begin>);

impl Offsets for Begins {
    fn load<'a>(&'a self, assigned: &'a [Assigned]) -> BoxFuture<'a, Vec<Result<Option<Begin>, Error>>> {
        let begins = assigned.iter().map(|assigned| Ok(self.0.get(&assigned.partition).copied())).collect();
        Box::pin(async move { begins })
    }
}

/// A partition that is read.
struct Reading {
    partition: Partition,
    log: Log,
    /// Where it ended at the start.
    end: Offset,
    from: Offset,
    records: u64,
}

struct Sink {
    settings: Settings,
    environment: Arc<dyn Environment>,
    cluster: Cluster,
    consumer: Consumer,
    readings: BTreeMap<TopicPartition, Reading>,
    /// Bytes taken since memory was looked at.
    taken: usize,
}

/// Runs the offline line until `stop` or, if that is wanted, until the end of what is there. Whatever ends it, what is in hand is
/// committed first.
///
/// The client's options get `auto.offset.reset=none` and no group: the store says where to read.
pub async fn run(
    settings: &Settings,
    options: Options,
    environment: Arc<dyn Environment>,
    files: Arc<dyn Files>,
    until: Until,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Done>, RunError> {
    let mut sink = Sink::open(settings, options, environment, files).await?;
    let ended = sink.work(until, stop).await;
    let closed = sink.close().await;
    ended?;
    closed
}

/// The directory that a path lies in.
fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        // The root is there.
        None => path,
    }
}

impl Sink {
    async fn open(
        settings: &Settings,
        mut options: Options,
        environment: Arc<dyn Environment>,
        files: Arc<dyn Files>,
    ) -> Result<Self, RunError> {
        options.group_id = None;
        options.auto_offset_reset = OffsetReset::None;
        let cluster = Cluster::new(options, Arc::clone(&environment))?;
        let offline = &settings.offline;
        let sources = sources(settings, &cluster).await?;
        let failed = |doing, source| RunError::Files { doing, path: offline.table.clone(), source };
        match files.make_dir(&offline.table) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed("make the table's directory", error));
            }
            // Whoever made it may not have come to make it durable.
            _ => files
                .sync_dir(above(&offline.table))
                .map_err(|error| failed("keep the table's directory", error))?,
        }
        let table = Table::new(Arc::clone(&files), &offline.table);
        let store = open_store(settings, files).await?;
        let mut readings = BTreeMap::new();
        for Source { key, log, visible_end } in sources {
            let begin = settings.start.resolve(log.start, visible_end, None);
            // Two halves of a random number are one.
            let token = environment.random() as i64;
            let (store, table, line) = (Arc::clone(&store), table.clone(), offline.line.clone());
            let opened =
                Partition::open(key.clone(), store, table, line, begin, token, environment.now()).await;
            let partition = opened?;
            let from = partition.committed();
            readings.insert(key.partition, Reading { partition, log, end: visible_end, from, records: 0 });
        }
        // Newer than every hold: nobody else adds anything any more.
        let listing = table.list().map_err(|error| failed("list", error))?;
        if let Some(foreign) = listing.foreign.first() {
            tracing::warn!(
                files = listing.foreign.len(), first = %foreign.display(),
                "the table's directory has files that are not the sink's: they are left alone"
            );
        }
        let mut begins = BTreeMap::new();
        for (name, Reading { partition, log, .. }) in &mut readings {
            partition.compare(&listing).await?;
            let committed = partition.stored().committed;
            let stored = offsets::Stored {
                position: committed,
                topic_id: log.topic_id,
                updated: Millis(-1),
                over: None,
            };
            if let Err(gap) = offsets::check(&reader_key(partition.key()), &stored, log) {
                return Err(told(partition, *gap));
            }
            let begin = Begin { start: Start::Offset(committed.next), leader_epoch: committed.leader_epoch };
            begins.insert(name.clone(), begin);
        }
        let consumer = Consumer::with_offsets(cluster.clone(), Arc::new(Begins(begins)));
        consumer.assign(readings.keys().map(|partition| (partition.clone(), None)))?;
        Ok(Self { settings: settings.clone(), environment, cluster, consumer, readings, taken: 0 })
    }

    async fn work(&mut self, until: Until, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        tokio::pin!(stop);
        loop {
            if until == Until::End && self.is_at_end() {
                return Ok(());
            }
            let wait = self.wait(until);
            let records = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                records = self.consumer.next() => records,
                () = wait => {
                    self.tick().await?;
                    continue;
                }
            };
            match records {
                Some(Ok(records)) => self.take(records).await?,
                Some(Err(error)) => return Err(self.stopped(error).await),
                None => return Ok(()),
            }
            self.bound_memory().await?;
        }
    }

    /// Until there is something to do without records.
    fn wait(&self, until: Until) -> impl Future<Output = ()> + use<> {
        let now = self.environment.now();
        let due = self.readings.values().filter_map(|reading| reading.partition.wake_at()).min();
        let due = due.map(|due| Duration::from_millis(u64::try_from(due.0 - now.0).unwrap_or(0)));
        let is_looking =
            until == Until::End || self.readings.values().any(|reading| reading.partition.is_repeating());
        let wait = due.into_iter().chain(is_looking.then_some(LOOK_EVERY)).min();
        async move {
            match wait {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether everything was read that was there at the start. What nobody gets to see has been passed by the consumer.
    fn is_at_end(&self) -> bool {
        self.readings.iter().all(|(name, reading)| {
            let passed = self.consumer.position(name).unwrap_or(Offset(0));
            reading.partition.read().max(passed) >= reading.end
        })
    }

    async fn take(&mut self, records: Records) -> Result<(), RunError> {
        let now = self.environment.now();
        let Some(reading) = self.readings.get_mut(records.partition()) else { return Ok(()) };
        let (key, found) = (reading.partition.key(), records.topic_id());
        if found != Uuid::ZERO && found != key.topic_id {
            return Err(RunError::Recreated { key: Box::new(key.clone()), found });
        }
        // Only where something is missing before these records does it matter whether it may.
        if records.base_offset() > records.position() {
            let is_compacted = is_compacted(&self.cluster, &key.partition.topic).await?;
            let position =
                offsets::Position { next: records.position(), leader_epoch: records.leader_epoch() };
            let first = First {
                base: records.base_offset(),
                offset: records[0].offset,
                log_start: records.watermarks().log_start,
                log_end: records.watermarks().high_watermark,
                is_compacted,
            };
            if let Err(gap) = offsets::check_first(&reader_key(key), position, first, &reading.log) {
                return Err(told(&reading.partition, *gap));
            }
        }
        let chunk = Chunk {
            // The consumer has moved over what nobody gets to see, as the ends of transactions; it never goes back.
            position: records.position().min(reading.partition.read()),
            next: records.next_offset(),
            leader_epoch: records.leader_epoch(),
            records: &records,
        };
        reading.partition.take(chunk, now).await?;
        reading.records += records.len() as u64;
        self.taken += records.iter().map(crate::columns::size).sum::<usize>();
        records.done();
        Ok(())
    }

    /// What is due by now.
    async fn tick(&mut self) -> Result<(), RunError> {
        let now = self.environment.now();
        for (name, Reading { partition, .. }) in &mut self.readings {
            // Records that were at the end of a frozen range may be gone by compaction: nobody gets to see anything there.
            if let Some(next) = self.consumer.position(name).filter(|&next| next > partition.read())
                && partition.is_repeating()
            {
                let (position, leader_epoch) = (partition.read(), wire::LeaderEpoch::NONE);
                partition.take(Chunk { position, next, leader_epoch, records: &[] }, now).await?;
            }
            partition.tick(now).await?;
        }
        Ok(())
    }

    /// Writes out what takes most while all together takes too much.
    async fn bound_memory(&mut self) -> Result<(), RunError> {
        let memory_max = self.settings.offline.memory_max;
        if self.taken < memory_max / 16 {
            return Ok(());
        }
        self.taken = 0;
        let now = self.environment.now();
        let mut sizes: Vec<_> = self
            .readings
            .iter()
            .filter(|(_, reading)| !reading.partition.is_repeating())
            .map(|(name, reading)| (reading.partition.memory(), name.clone()))
            .collect();
        sizes.sort();
        let mut total: usize = sizes.iter().map(|(size, _)| size).sum();
        while total > memory_max
            && let Some((size, name)) = sizes.pop()
        {
            let reading = self.readings.get_mut(&name).expect("it was just there");
            reading.partition.finish(now).await?;
            total -= size;
        }
        Ok(())
    }

    /// What an error of the consumer's means.
    async fn stopped(&mut self, error: Error) -> RunError {
        let Error::Stopped { partition, reason } = &error else { return error.into() };
        if reason.code() != Some(ErrorCode::OFFSET_OUT_OF_RANGE) {
            return error.into();
        }
        // Where the log is now says which way.
        let Ok(sources) = sources(&self.settings, &self.cluster).await else { return error.into() };
        let Some(source) = sources.iter().find(|source| source.key.partition == *partition) else {
            return error.into();
        };
        let Some(reading) = self.readings.get(partition) else { return error.into() };
        let key = Box::new(reading.partition.key().clone());
        if source.log.topic_id != key.topic_id {
            return RunError::Recreated { key, found: source.log.topic_id };
        }
        let (committed, read) = (reading.partition.committed(), reading.partition.read());
        let Log { start, end, .. } = source.log;
        let (cause, found) = match read < start {
            true => (Cause::RetentionPassed, start),
            false => (Cause::Truncated, end),
        };
        RunError::Gap { key, cause, committed, found, start, end }
    }

    /// Commits what is in hand, everywhere it can be.
    async fn close(self) -> Result<Vec<Done>, RunError> {
        let now = self.environment.now();
        let mut failure = None;
        let mut done = Vec::new();
        for (name, mut reading) in self.readings {
            if let Err(error) = reading.partition.finish(now).await {
                failure.get_or_insert(error);
            }
            let (from, to, records) = (reading.from, reading.partition.committed(), reading.records);
            done.push(Done { partition: name, from, to, records });
        }
        if let Err(error) = self.consumer.close(CLOSE_MAX).await {
            tracing::debug!(%error, "the consumer did not end in order");
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(done),
        }
    }
}

async fn is_compacted(cluster: &Cluster, topic: &Str) -> Result<bool, Error> {
    let settings = Admin::new(cluster.clone()).describe_configs(ResourceKind::Topic, topic).await?;
    let policy = settings.iter().find(|setting| &*setting.name == "cleanup.policy");
    Ok(policy.and_then(|policy| policy.value.as_deref()).is_some_and(|value| value.contains("compact")))
}

/// The key in the words of those who only read.
fn reader_key(key: &Key) -> offsets::Key {
    offsets::Key {
        reader: key.line.as_str().parse().expect("what is allowed in a line's name is in a reader's"),
        cluster_id: key.cluster_id.clone(),
        partition: key.partition.clone(),
        topic_id: key.topic_id,
    }
}

fn told(partition: &Partition, gap: offsets::Gap) -> RunError {
    RunError::Gap {
        key: Box::new(partition.key().clone()),
        cause: gap.cause,
        committed: partition.committed(),
        found: gap.found.unwrap_or(gap.log.start),
        start: gap.log.start,
        end: gap.log.end,
    }
}
