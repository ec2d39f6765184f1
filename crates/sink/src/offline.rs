//! A line into a table at work, the offline one or one near real time: reads what its group hands out, gives every partition what it takes, and ends in order.
//!
//! One task reads and writes. It takes hold of each partition that it is handed, compares what is stored with the table and with the
//! log, and reads on from exactly there; one that is asked back is committed and let go. Nothing is decided here about ranges; what
//! does not continue stops it, with the place named.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, ready};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use client::{Admin, Begin, BoxFuture, Cluster, Consumer, Environment, Error, Options, Records};
use offsets::Log;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use wire::{Offset, TopicPartition};

use crate::encoded::Encoded;
use crate::files::Files;
use crate::gate::{Gate, Turned};
use crate::key::Key;
use crate::layout::Misplaced;
use crate::letters::TopicLetters;
use crate::meter::{Meter, Standing, Work};
use crate::partition::{Chunk, LineSettings, Partition, PartitionError};
use crate::placement::Placement;
use crate::positions::open_store;
use crate::run::{self, Done, LOOK_EVERY, RunError, Until};
use crate::running::{Orders, Pace, Running};
use crate::settings::{DeadLetterSettings, Line, Settings, doubled};
use crate::shares::{Share, Shares};
use crate::source::{self, sources};
use crate::staging;
use crate::store::{PositionStore, StoreError};
use crate::success::Success;
use crate::table::{self, Table};
use crate::taken::TakenOver;
use crate::writer::Memory;

/// How long a line that is to end waits for an object store, all in all. What is not in the table by then the next run repeats.
const STOP_MAX: Duration = Duration::from_secs(60);

/// A partition that is read.
struct Reading {
    partition: Partition,
    log: Log,
    from: Offset,
    records: u64,
    bytes: u64,
    /// What is read up to there is old.
    old_until: Option<Offset>,
}

/// The line at work.
struct Offline {
    settings: Settings,
    line: Line,
    memory_max: usize,
    line_settings: LineSettings,
    /// The client's, for those who send dead letters.
    options: Options,
    environment: Arc<dyn Environment>,
    cluster: Cluster,
    consumer: Consumer,
    shares: mpsc::UnboundedReceiver<Share>,
    gate: Gate,
    pace: Pace,
    meter: Meter,
    store: Arc<dyn PositionStore>,
    table: Table,
    readings: BTreeMap<TopicPartition, Reading>,
    taken_over: TakenOver,
    /// What was done in partitions that were given up since.
    done: BTreeMap<TopicPartition, Done>,
    /// Where the partitions ended at the start, if that is where the line is to end.
    ends: BTreeMap<TopicPartition, Offset>,
    /// What has to have its schemas at hand.
    encoded: Option<Arc<Encoded>>,
    /// Bytes taken since memory was looked at.
    taken: usize,
    foreign_told: bool,
}

/// Runs the line until `stop` or, if that is wanted, until the end of what is there. Whatever ends it, what is in hand is committed
/// first.
pub(crate) async fn run(
    settings: &Settings,
    line: Line,
    options: Options,
    environment: Arc<dyn Environment>,
    files: Arc<dyn Files>,
    orders: Orders,
    stopped: watch::Receiver<bool>,
) -> Result<Vec<Done>, RunError> {
    let files = table::files_of(settings.table(line).ok_or(RunError::NoTable)?, files)?;
    let until = orders.running.until;
    // Requests to a store are waited for within the line, which does not hear meanwhile that it is to end. Gone with the run.
    let bucket = files.bucket().cloned();
    let mut bounds = JoinSet::new();
    let mut bound = |ends: BoxFuture<'static, ()>| {
        let Some(bucket) = bucket.clone() else { return };
        bounds.spawn(async move {
            ends.await;
            sleep(STOP_MAX).await;
            bucket.give_up();
        });
    };
    bound(Box::pin(run::asked(stopped.clone())));
    let mut success = Success::open(settings, line, &options, &environment, &files).await?;
    let mut work = Offline::open(settings, line, options, environment, files, orders).await?;
    let ended = success.beside(work.work(until, run::asked(stopped))).await;
    if ended.is_err() {
        bound(Box::pin(ready(())));
    }
    let closed = work.close().await;
    success.look().await;
    if let Some(bucket) = bucket {
        // Nobody waits any more for a listing that was begun beside the line.
        bucket.give_up();
    }
    ended?;
    closed
}

/// The directory that a path lies in.
pub(crate) fn above(path: &Path) -> &Path {
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
        line: Line,
        mut options: Options,
        environment: Arc<dyn Environment>,
        files: Arc<dyn Files>,
        Orders { running: Running { until, pace, meter, .. }, gate }: Orders,
    ) -> Result<Self, RunError> {
        let declared = settings.table(line).ok_or(RunError::NoTable)?;
        source::as_member(&mut options, &settings.line_name(line));
        let cluster = Cluster::new(options.clone(), Arc::clone(&environment))?;
        let sources = sources(settings, line, &cluster).await?;
        let ends = source::ends(until, &sources);
        meter.aim(line, &ends);
        if let Some(dead_letters) = &settings.dead_letters {
            // Before it is needed, and without its being made on the way with a retention that nobody chose.
            let topic = std::slice::from_ref(&dead_letters.topic);
            for (_, described) in Admin::new(cluster.clone()).describe_topics(topic).await? {
                described?;
            }
        }
        let failed = |doing, source| RunError::Files { doing, path: declared.table.clone(), source };
        match files.make_dir(&declared.table) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed("make the table's directory", error));
            }
            // Whoever made it may not have come to make it durable.
            _ => files
                .sync_dir(above(&declared.table))
                .map_err(|error| failed("keep the table's directory", error))?,
        }
        if let Some(bucket) = files.bucket() {
            let name = format!("probe-{:016x}", environment.random());
            let probed = bucket.probe(&declared.table.join(staging::DIRECTORY).join(name));
            probed.map_err(|error| failed("use", error))?;
        }
        let table = Table::new(Arc::clone(&files), &declared.table);
        let shape = declared.line.shape.settled().await?;
        let encoded = shape.encoded().cloned();
        if let Some(encoded) = &encoded {
            let layout = declared.line.layout;
            let misplaced = Placement::new(layout, &shape).err().map(|Misplaced { problem, .. }| {
                format!("the table is laid out by {}: {problem}", layout.name())
            });
            if let Some(problem) = misplaced.or_else(|| doubled(layout, &shape)) {
                return Err(encoded.unusable(problem).into());
            }
        }
        let line_settings = LineSettings { shape, ..declared.line.clone() };
        let store = open_store(declared, files).await?;
        let (group, shares, _) = Shares::new();
        let consumer = Consumer::with_offsets(cluster.clone(), Arc::new(group));
        consumer.subscribe(settings.topics.iter().cloned())?;
        Ok(Self {
            settings: settings.clone(),
            line,
            memory_max: declared.memory_max,
            line_settings,
            options,
            environment,
            cluster,
            consumer,
            shares,
            gate,
            pace,
            meter,
            store,
            table,
            readings: BTreeMap::new(),
            taken_over: TakenOver::default(),
            done: BTreeMap::new(),
            ends,
            encoded,
            taken: 0,
            foreign_told: false,
        })
    }

    async fn work(&mut self, until: Until, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        tokio::pin!(stop);
        loop {
            if until == Until::End && self.is_at_end() && self.is_everything_in().await? {
                return Ok(());
            }
            if self.gate.settle(&self.consumer, |name| self.taken_over.contains(name)) == Turned::Paused {
                self.finish_all().await?;
            }
            // While it is paused, what goes wrong is heard.
            let (wait, is_open) = (self.wait(until), self.gate.is_open());
            let is_heard = is_open || self.gate.is_paused();
            let records = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                Some(share) = self.shares.recv() => {
                    self.share(share).await?;
                    continue;
                }
                // Before records, of which there may always be more.
                () = wait => {
                    self.tick().await?;
                    continue;
                }
                () = self.gate.turned() => continue,
                records = self.consumer.next(), if is_heard => records,
            };
            match records {
                // Of what came to it since: they are given back, and paused as well.
                Some(Ok(_)) if !is_open => {}
                Some(Ok(records)) => match self.prepare(&records, stop.as_mut()).await? {
                    true => self.take(records).await?,
                    // They are read again by the next one.
                    false => return Ok(()),
                },
                // The next call joins the group again, and what was in hand is somebody's from where it is committed.
                Some(Err(Error::PollInterval { .. })) => continue,
                Some(Err(error)) => return Err(self.stopped(error).await),
                None => return Ok(()),
            }
            self.bound_memory().await?;
        }
    }

    // The group.

    async fn share(&mut self, share: Share) -> Result<(), RunError> {
        match share {
            Share::Assigned(partitions, reply) => {
                let begins = self.begin(partitions).await?;
                // Nobody waits for what was lost meanwhile.
                let _ = reply.send(begins);
            }
            Share::Revoked(partitions, reply) => {
                for partition in &partitions {
                    self.give_up(partition).await?;
                }
                let _ = reply.send(());
            }
            Share::Lost(partitions) => {
                for partition in &partitions {
                    self.taken_over.remove(partition);
                    if let Some(reading) = self.readings.remove(partition) {
                        self.note(partition, &reading);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes hold of partitions, and says where to begin in them.
    async fn begin(
        &mut self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Begin>, RunError> {
        let partitions: BTreeSet<_> = partitions.into_iter().collect();
        let wanted = |partition: &TopicPartition| partitions.contains(partition);
        let sources = match source::sources_of(&self.settings, self.line, &self.cluster, wanted).await {
            // It is asked for again if they stay assigned.
            Err(error) if source::is_for_now(&error) => return Ok(BTreeMap::new()),
            sources => sources?,
        };
        let stored = self.store.list(&self.settings.line_name(self.line)).await?;
        let known: BTreeSet<_> = stored.into_iter().map(|(key, _)| key.partition.topic).collect();
        let mut opened = BTreeMap::new();
        for source in sources {
            // Whoever took hold of what it has lost meanwhile would keep its successor out.
            if !self.consumer.assignment().contains(&source.key.partition) {
                continue;
            }
            self.taken_over.remove(&source.key.partition);
            let begin = source::begin(&self.settings, &source, known.contains(&source.key.partition.topic));
            let partition = match self.hold(&source.key, begin).await {
                // It is asked for again if it stays assigned.
                Err(error) if is_taken_over(&error) => continue,
                partition => partition?,
            };
            opened.insert(source.key.partition, (partition, source.log, source.visible_end));
        }
        // Newer than every hold: nobody else adds anything to these any more.
        let listing = self.table.list().map_err(|error| self.failed("list", error))?;
        if let Some(foreign) = listing.foreign.first().filter(|_| !self.foreign_told) {
            self.foreign_told = true;
            tracing::warn!(
                files = listing.foreign.len(), first = %foreign.display(),
                "the table's directory has files that are not the sink's: they are left alone"
            );
        }
        let mut begins = BTreeMap::new();
        for (name, (mut partition, log, visible_end)) in opened {
            match partition.compare(&listing).await {
                Err(error) if is_taken_over(&error) => continue,
                compared => compared?,
            }
            partition.check_log(log.start)?;
            let committed = partition.stored().committed;
            source::check(partition.key(), committed, &log)?;
            begins.insert(name.clone(), source::begin_at(committed));
            let old_until =
                (self.pace == Pace::Backfill && committed.next < visible_end).then_some(visible_end);
            if old_until.is_some() {
                partition.read_old(true);
            }
            let reading = Reading { partition, log, from: committed.next, records: 0, bytes: 0, old_until };
            self.tell(&name, &reading);
            self.readings.insert(name, reading);
        }
        Ok(begins)
    }

    async fn hold(&mut self, key: &Key, begin: Offset) -> Result<Partition, PartitionError> {
        // Two halves of a random number are one.
        let token = self.environment.random() as i64;
        let (store, table, line) = (Arc::clone(&self.store), self.table.clone(), self.line_settings.clone());
        let opened =
            Partition::open(key.clone(), store, table, line, begin, token, self.environment.now()).await?;
        let Some(DeadLetterSettings { topic }) = &self.settings.dead_letters else { return Ok(opened) };
        let (group, environment) =
            (self.settings.dead_letters_group(self.line), Arc::clone(&self.environment));
        let mut options = self.options.clone();
        (options.group_id, options.group_instance_id) = (None, None);
        let letters =
            TopicLetters::new(topic.clone(), &group, key, options, environment).map_err(|source| {
                PartitionError::Letters {
                    key: Box::new(key.clone()),
                    doing: "prepare to send dead letters",
                    source,
                }
            })?;
        Ok(opened.with_letters(Box::new(letters)))
    }

    /// Commits what is in hand of a partition, and lets go of it.
    async fn give_up(&mut self, name: &TopicPartition) -> Result<(), RunError> {
        self.taken_over.remove(name);
        let Some(mut reading) = self.readings.remove(name) else { return Ok(()) };
        let finished = reading.partition.finish(self.environment.now()).await;
        self.note(name, &reading);
        match finished {
            // It is another's, as it is about to be anyway.
            Err(error) if is_taken_over(&error) => Ok(()),
            finished => Ok(finished?),
        }
    }

    /// Remembers what was done.
    fn note(&mut self, name: &TopicPartition, reading: &Reading) {
        self.tell(name, reading);
        self.meter.let_go(self.line, name);
        let done = Done {
            line: self.line,
            partition: name.clone(),
            from: reading.from,
            to: reading.partition.committed(),
            records: reading.records,
            letters: reading.partition.letters(),
        };
        run::note(&mut self.done, done);
    }

    /// For those who look.
    fn tell(&self, name: &TopicPartition, Reading { partition, from, records, bytes, .. }: &Reading) {
        let standing = Standing { from: *from, read: partition.read(), committed: partition.committed() };
        let (letters, placed) = (partition.letters(), partition.placed());
        let (files, commits) = (placed.files, placed.ranges);
        let work = Work { records: *records, bytes: *bytes, letters, files, commits };
        self.meter.tell(self.line, name, standing, work);
    }

    /// Deals with what came of a partition's work: that another has it is for the group to say too, and soon.
    fn worked(&mut self, name: &TopicPartition, worked: Result<(), PartitionError>) -> Result<(), RunError> {
        match worked {
            Err(error) if is_taken_over(&error) => {
                if let Some(reading) = self.readings.remove(name) {
                    self.note(name, &reading);
                }
                self.taken_over_by_another(name, error.into());
                return Ok(());
            }
            worked => worked?,
        }
        if let Some(reading) = self.readings.get(name) {
            self.tell(name, reading);
        }
        Ok(())
    }

    /// Commits what is in hand, of all partitions, and keeps them.
    async fn finish_all(&mut self) -> Result<(), RunError> {
        let now = self.environment.now();
        let names: Vec<_> = self.readings.keys().cloned().collect();
        for name in names {
            let reading = self.readings.get_mut(&name).expect("it was just there");
            let worked = reading.partition.finish(now).await;
            self.worked(&name, worked)?;
        }
        Ok(())
    }

    fn taken_over_by_another(&mut self, name: &TopicPartition, why: RunError) {
        self.meter.failed(self.line);
        // Nothing of it is read until the group has decided; what is not assigned any more cannot be paused.
        let _ = self.consumer.pause([name]);
        self.taken_over.add(name, why, self.options.session_timeout);
    }

    // What is read.

    /// Until there is something to do without records.
    fn wait(&self, until: Until) -> impl Future<Output = ()> + use<> {
        let now = self.environment.now();
        let due = self.readings.values().filter_map(|reading| reading.partition.wake_at()).min();
        let due = due.map(|due| Duration::from_millis(u64::try_from(due.0 - now.0).unwrap_or(0)));
        let is_looked_at =
            |reading: &Reading| reading.partition.is_repeating() || reading.old_until.is_some();
        let is_looking = until == Until::End || self.readings.values().any(is_looked_at);
        let wait =
            due.into_iter().chain(self.taken_over.wait()).chain(is_looking.then_some(LOOK_EVERY)).min();
        async move {
            match wait {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether everything was read that was there at the start, of what this instance has. What nobody gets to see has been passed by
    /// the consumer.
    fn is_at_end(&self) -> bool {
        self.readings.iter().all(|(name, reading)| {
            let passed = self.consumer.position(name).unwrap_or(Offset(0));
            let is_passed = |&end: &Offset| reading.partition.read().max(passed) >= end;
            !reading.partition.is_repeating() && self.ends.get(name).is_none_or(is_passed)
        })
    }

    /// Commits what this instance has, and looks whether the rest of what was there at the start is in the table too, whoever writes
    /// it.
    async fn is_everything_in(&mut self) -> Result<bool, RunError> {
        // What is assigned and not held yet has been told already.
        if self.consumer.group_metadata([]).is_none()
            || self.consumer.assignment().len() != self.readings.len()
        {
            return Ok(false);
        }
        self.finish_all().await?;
        let others = self.ends.iter().filter(|(name, _)| !self.readings.contains_key(name));
        let mut others: BTreeMap<_, _> = others.map(|(name, end)| (name.clone(), *end)).collect();
        if others.is_empty() {
            return Ok(true);
        }
        for (key, stored) in self.store.list(&self.settings.line_name(self.line)).await? {
            let Some(end) = others.get(&key.partition).copied() else { continue };
            if stored.committed.next >= end
                || !source::is_anything_left(&self.cluster, &key.partition, stored.committed.next, end)
                    .await?
            {
                others.remove(&key.partition);
                self.ends.remove(&key.partition);
            }
        }
        Ok(others.is_empty())
    }

    async fn take(&mut self, records: Records) -> Result<(), RunError> {
        let now = self.environment.now();
        let name = records.partition().clone();
        // It may be another's by now.
        let Some(reading) = self.readings.get_mut(&name).filter(|_| records.is_wanted()) else {
            return Ok(());
        };
        let (key, committed) = (reading.partition.key(), reading.partition.committed());
        source::check_records(&self.cluster, key, committed, &reading.log, &records).await?;
        let chunk = Chunk {
            // The consumer has moved over what nobody gets to see, as the ends of transactions; it never goes back.
            position: records.position().min(reading.partition.read()),
            next: records.next_offset(),
            leader_epoch: records.leader_epoch(),
            records: &records,
        };
        let worked = reading.partition.take(chunk, now).await;
        let bytes = self.gate.took(&records);
        reading.records += records.len() as u64;
        reading.bytes += bytes;
        self.taken += usize::try_from(bytes).unwrap_or(usize::MAX);
        records.done();
        self.worked(&name, worked)
    }

    /// Has the schemas at hand that records were written by; says no if it is to stop before they are.
    async fn prepare(
        &mut self,
        records: &Records,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, RunError> {
        let Some(encoded) = self.encoded.clone() else { return Ok(true) };
        let prepared = encoded.prepare(records);
        tokio::pin!(prepared);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(false),
                prepared = &mut prepared => return Ok(prepared.map(|()| true)?),
                // Others do not wait for what this one waits for.
                Some(share) = self.shares.recv() => self.share(share).await?,
                () = sleep(LOOK_EVERY) => {
                    if !records.is_wanted() {
                        // They are somebody else's to wait for.
                        return Ok(true);
                    }
                    // By the time alone: the consumer stands behind records that are still to be taken.
                    let now = self.environment.now();
                    let names: Vec<_> = self.readings.keys().cloned().collect();
                    for name in names {
                        let reading = self.readings.get_mut(&name).expect("it was just there");
                        let worked = match self.gate.is_paused() {
                            true => reading.partition.finish(now).await,
                            false => reading.partition.tick(now).await,
                        };
                        self.worked(&name, worked)?;
                    }
                }
            }
        }
    }

    /// What is due by now.
    async fn tick(&mut self) -> Result<(), RunError> {
        let now = self.environment.now();
        let names: Vec<_> = self.readings.keys().cloned().collect();
        for name in names {
            let Reading { partition, old_until, .. } =
                self.readings.get_mut(&name).expect("it was just there");
            let mut worked = Ok(());
            // What nobody gets to see at the end of what is old has been passed by the consumer.
            let passed = self.consumer.position(&name).unwrap_or(Offset::ZERO);
            if old_until.is_some_and(|end| partition.read().max(passed) >= end) {
                *old_until = None;
                partition.read_old(false);
                tracing::info!(partition = %name, "what was old is read, and it goes on as declared");
            }
            // Records that were at the end of a frozen range may be gone by compaction: nobody gets to see anything there.
            if let Some(reached) =
                self.consumer.reached(&name).filter(|reached| reached.next > partition.read())
                && partition.is_repeating()
            {
                let (position, next, leader_epoch) = (partition.read(), reached.next, reached.leader_epoch);
                worked = partition.take(Chunk { position, next, leader_epoch, records: &[] }, now).await;
            }
            if worked.is_ok() {
                worked = partition.tick(now).await;
            }
            self.worked(&name, worked)?;
        }
        self.taken_over.over().map_or(Ok(()), Err)
    }

    /// Spills what takes most while all together takes too much. A range of which more is kept than spilling frees is closed instead.
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
            .map(|(name, reading)| (reading.partition.memory().total(), name.clone()))
            .collect();
        sizes.sort();
        let mut total: usize = sizes.iter().map(|(size, _)| size).sum();
        while total > memory_max
            && let Some((size, name)) = sizes.pop()
        {
            let partition = &mut self.readings.get_mut(&name).expect("it was just there").partition;
            let Memory { rows, kept } = partition.memory();
            let worked = match kept > rows && !partition.is_repeating() {
                true => partition.finish(now).await,
                false => partition.spill(),
            };
            total -= size.saturating_sub(partition.memory().total());
            self.worked(&name, worked)?;
        }
        Ok(())
    }

    /// What an error of the consumer's means.
    async fn stopped(&mut self, error: Error) -> RunError {
        let at = |partition: &TopicPartition| {
            let Reading { partition, .. } = self.readings.get(partition)?;
            Some((partition.key().clone(), partition.committed(), partition.read()))
        };
        let at = source::out_of_range(&error).and_then(at);
        source::stopped(&self.settings, self.line, &self.cluster, error, at).await
    }

    /// Commits what is in hand, everywhere it can be, and leaves the group.
    async fn close(mut self) -> Result<Vec<Done>, RunError> {
        let mut failure = None;
        let names: Vec<_> = self.readings.keys().cloned().collect();
        for name in names {
            let is_away = failure.as_ref().is_some_and(|error| self.is_away(error));
            if is_away {
                // Each would wait as long as the first has.
                break;
            }
            if let Err(error) = self.give_up(&name).await {
                failure.get_or_insert(error);
            }
        }
        source::leave(self.consumer, &mut self.shares).await;
        match failure {
            Some(error) => Err(error),
            None => Ok(self.done.into_values().collect()),
        }
    }

    /// Whether nothing is to be had of the store of positions, or of the table's.
    fn is_away(&self, error: &RunError) -> bool {
        let RunError::Partition(error) = error else { return false };
        match error {
            PartitionError::Store(StoreError::Server(error)) => error.is_retriable(),
            PartitionError::Files { .. } | PartitionError::Store(StoreError::Files { .. }) => {
                self.table.files.bucket().is_some()
            }
            _ => false,
        }
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> RunError {
        RunError::Files { doing, path: self.table.root().to_owned(), source }
    }
}

/// Whether another instance has the partition by now.
fn is_taken_over(error: &PartitionError) -> bool {
    matches!(error, PartitionError::TakenOver { .. } | PartitionError::Store(StoreError::Fenced { .. }))
}
