//! The offline line at work: reads topics, hands every partition what it takes, and ends in order.
//!
//! One task reads and writes. It takes hold of every partition first, compares what is stored with the table and with the log, and
//! reads on from exactly there. Nothing is decided here about ranges; what does not continue stops it, with the place named.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Admin, Begin, Cluster, Consumer, Environment, Error, OffsetReset, Options, Records, Start};
use offsets::Log;
use tokio::time::sleep;
use wire::{Offset, TopicPartition};

use crate::files::Files;
use crate::letters::TopicLetters;
use crate::partition::{Chunk, Partition};
use crate::positions::open_store;
use crate::run::{CLOSE_MAX, Done, LOOK_EVERY, RunError, Until};
use crate::settings::{DeadLetterSettings, Line, OfflineSettings, Settings};
use crate::source::{self, Begins, Source, sources};
use crate::table::Table;

/// A partition that is read.
struct Reading {
    partition: Partition,
    log: Log,
    /// Where it ended at the start.
    end: Offset,
    from: Offset,
    records: u64,
}

/// The line at work.
struct Offline {
    settings: Settings,
    memory_max: usize,
    environment: Arc<dyn Environment>,
    cluster: Cluster,
    consumer: Consumer,
    readings: BTreeMap<TopicPartition, Reading>,
    /// Bytes taken since memory was looked at.
    taken: usize,
}

/// Runs the line until `stop` or, if that is wanted, until the end of what is there. Whatever ends it, what is in hand is committed
/// first.
pub(crate) async fn run(
    settings: &Settings,
    offline: &OfflineSettings,
    options: Options,
    environment: Arc<dyn Environment>,
    files: Arc<dyn Files>,
    until: Until,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Done>, RunError> {
    let mut line = Offline::open(settings, offline, options, environment, files).await?;
    let ended = line.work(until, stop).await;
    let closed = line.close().await;
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

impl Offline {
    async fn open(
        settings: &Settings,
        offline: &OfflineSettings,
        mut options: Options,
        environment: Arc<dyn Environment>,
        files: Arc<dyn Files>,
    ) -> Result<Self, RunError> {
        options.group_id = None;
        options.auto_offset_reset = OffsetReset::None;
        let cluster = Cluster::new(options.clone(), Arc::clone(&environment))?;
        let sources = sources(settings, Line::Offline, &cluster).await?;
        if let Some(dead_letters) = &settings.dead_letters {
            // Before it is needed, and without its being made on the way with a retention that nobody chose.
            let topic = std::slice::from_ref(&dead_letters.topic);
            for (_, described) in Admin::new(cluster.clone()).describe_topics(topic).await? {
                described?;
            }
        }
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
        let store = open_store(offline, files).await?;
        let mut readings = BTreeMap::new();
        for Source { key, log, visible_end } in sources {
            let begin = settings.start.resolve(log.start, visible_end, None);
            // Two halves of a random number are one.
            let token = environment.random() as i64;
            let (store, table, line) = (Arc::clone(&store), table.clone(), offline.line.clone());
            let opened =
                Partition::open(key.clone(), store, table, line, begin, token, environment.now()).await;
            let partition = match &settings.dead_letters {
                None => opened?,
                Some(DeadLetterSettings { topic }) => {
                    let (group, environment) = (settings.dead_letters_group(), Arc::clone(&environment));
                    let letters =
                        TopicLetters::new(topic.clone(), &group, &key, options.clone(), environment)?;
                    opened?.with_letters(Box::new(letters))
                }
            };
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
            partition.check_log(log.start)?;
            let committed = partition.stored().committed;
            source::check(partition.key(), committed, log)?;
            let begin = Begin { start: Start::Offset(committed.next), leader_epoch: committed.leader_epoch };
            begins.insert(name.clone(), begin);
        }
        let consumer = Consumer::with_offsets(cluster.clone(), Arc::new(Begins(begins)));
        consumer.assign(readings.keys().map(|partition| (partition.clone(), None)))?;
        let (settings, memory_max) = (settings.clone(), offline.memory_max);
        Ok(Self { settings, memory_max, environment, cluster, consumer, readings, taken: 0 })
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
        let (key, committed) = (reading.partition.key(), reading.partition.committed());
        source::check_records(&self.cluster, key, committed, &reading.log, &records).await?;
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
        let memory_max = self.memory_max;
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
        let Some(partition) = source::out_of_range(&error) else { return error.into() };
        let Ok(sources) = sources(&self.settings, Line::Offline, &self.cluster).await else {
            return error.into();
        };
        let Some(now) = sources.iter().find(|source| source.key.partition == *partition) else {
            return error.into();
        };
        let Some(Reading { partition, .. }) = self.readings.get(partition) else { return error.into() };
        source::passed(partition.key(), partition.committed(), partition.read(), &now.log)
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
            let letters = reading.partition.letters();
            done.push(Done { line: Line::Offline, partition: name, from, to, records, letters });
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
