//! The near-real-time line into streams of a Redis at work: what is read is added as it comes, each batch together with the position.
//!
//! Redis itself decides: a batch is added by the holder of the partition alone, and only behind exactly what was added before. So whoever
//! is thought dead and wakes up adds nothing, and a Redis that has lost its last second is gone on with from there, stream and position
//! together. Where a line begins is kept before anything is read.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use client::{Begin, Cluster, ConsumedRecord, Consumer, Environment, Error, Options, Records};
use offsets::{Log, Position};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use wire::{Offset, TopicPartition};

use crate::gate::{Gate, Turned};
use crate::meter::{Meter, Standing, Work};
use crate::run::{self, Done, LOOK_EVERY, RunError, Until};
use crate::running::{Orders, Running};
use crate::settings::{Line, Settings};
use crate::shares::{Share, Shares};
use crate::source::{self, sources};
use crate::store::StoreError;
use crate::stream_hold::StreamHold;
use crate::stream_settings::StreamSettings;
use crate::stream_store::{Appended, StreamError, StreamStore, size};
use crate::taken::TakenOver;

/// What is added at once: Redis does nothing else meanwhile.
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCH_RECORDS_MAX: usize = 1000;
/// A position that moves without a record, as behind the end of a transaction, is kept after this time.
const PASS_EVERY: Duration = Duration::from_secs(5);

/// A partition that is read.
struct Reading {
    hold: StreamHold,
    log: Log,
    from: Offset,
    records: u64,
    bytes: u64,
    commits: u64,
}

/// The line at work.
struct Streams {
    settings: Settings,
    session_timeout: Duration,
    environment: Arc<dyn Environment>,
    cluster: Cluster,
    consumer: Consumer,
    shares: mpsc::UnboundedReceiver<Share>,
    store: StreamStore,
    readings: BTreeMap<TopicPartition, Reading>,
    taken_over: TakenOver,
    /// What was done in partitions that were given up since.
    done: BTreeMap<TopicPartition, Done>,
    /// Where the partitions ended at the start, if that is where the line is to end.
    ends: BTreeMap<TopicPartition, Offset>,
    gate: Gate,
    meter: Meter,
    /// When it was last looked what was passed.
    passed_at: Instant,
}

/// Runs the line until `stop` or, if that is wanted, until the end of what is there. What was read is in the stream.
pub(crate) async fn run(
    settings: &Settings,
    declared: &StreamSettings,
    mut options: Options,
    environment: Arc<dyn Environment>,
    Orders { running: Running { until, meter, .. }, gate }: Orders,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Done>, RunError> {
    source::as_member(&mut options, &settings.line_name(Line::Nearline));
    let session_timeout = options.session_timeout;
    let cluster = Cluster::new(options, Arc::clone(&environment))?;
    let store = StreamStore::connect(settings, declared).await?;
    let sources = sources(settings, Line::Nearline, &cluster).await?;
    let ends = source::ends(until, &sources);
    meter.aim(Line::Nearline, &ends);
    let (group, shares, _) = Shares::new();
    let consumer = Consumer::with_offsets(cluster.clone(), Arc::new(group));
    consumer.subscribe(settings.topics.iter().cloned())?;
    let mut work = Streams {
        settings: settings.clone(),
        session_timeout,
        environment,
        cluster,
        consumer,
        shares,
        store,
        readings: BTreeMap::new(),
        taken_over: TakenOver::default(),
        done: BTreeMap::new(),
        ends,
        gate,
        meter,
        passed_at: Instant::now(),
    };
    let ended = work.work(until, std::pin::pin!(stop)).await;
    let names: Vec<_> = work.readings.keys().cloned().collect();
    names.iter().for_each(|name| work.let_go(name));
    source::leave(work.consumer, &mut work.shares).await;
    ended.map(|()| work.done.into_values().collect())
}

impl Streams {
    async fn work(
        &mut self,
        until: Until,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), RunError> {
        loop {
            if until == Until::End && self.is_at_end() && self.is_everything_in().await? {
                return Ok(());
            }
            if self.gate.settle(&self.consumer, |name| self.taken_over.contains(name)) == Turned::Paused {
                self.pass().await?;
            }
            // While it is paused, what goes wrong is heard.
            let (wait, is_open) = (self.wait(until), self.gate.is_open());
            let is_heard = is_open || self.gate.is_paused();
            let records = tokio::select! {
                biased;
                () = &mut stop => return self.pass().await,
                Some(share) = self.shares.recv() => {
                    self.share(share).await?;
                    continue;
                }
                // Before records, of which there may always be more.
                () = sleep(wait) => {
                    self.tick().await?;
                    continue;
                }
                () = self.gate.turned() => continue,
                records = self.consumer.next(), if is_heard => records,
            };
            match records {
                // Of what came to it since: they are given back, and paused as well.
                Some(Ok(_)) if !is_open => {}
                Some(Ok(records)) => self.take(records).await?,
                // The next call joins the group again.
                Some(Err(Error::PollInterval { .. })) => {}
                Some(Err(error)) => return Err(self.stopped(error).await),
                None => return Ok(()),
            }
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
                self.pass().await?;
                partitions.iter().for_each(|name| self.let_go(name));
                let _ = reply.send(());
            }
            Share::Lost(partitions) => partitions.iter().for_each(|name| self.let_go(name)),
        }
        Ok(())
    }

    /// Takes hold of partitions, and says where to begin in them.
    async fn begin(
        &mut self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Begin>, RunError> {
        let partitions: BTreeSet<_> = partitions.into_iter().collect();
        // Of those of others it is enough to know their names: they may have no leader.
        let wanted = |partition: &TopicPartition| partitions.contains(partition);
        let sources = source::sources_of(&self.settings, Line::Nearline, &self.cluster, wanted).await;
        let (sources, names) = match (sources, source::names(&self.settings, &self.cluster).await) {
            // It is asked for again if they stay assigned.
            (Err(error), _) | (_, Err(error)) if source::is_for_now(&error) => return Ok(BTreeMap::new()),
            (sources, names) => (sources?, names?),
        };
        let seen = self.store.look(&names).await?;
        let known = names.iter().zip(&seen).filter(|(_, seen)| seen.stored.is_some());
        let known: BTreeSet<_> = known.map(|(name, _)| name.topic.clone()).collect();
        let mut begins = BTreeMap::new();
        for source in sources {
            let name = source.key.partition.clone();
            // Whoever took hold of what it has lost meanwhile would keep its successor out.
            if !self.consumer.assignment().contains(&name) {
                continue;
            }
            self.taken_over.remove(&name);
            let begin = source::begin(&self.settings, &source, known.contains(&name.topic));
            let (token, now) = (self.token(), self.environment.now());
            let hold = StreamHold::take(&self.store, source.key, begin, token, now).await?;
            source::check(&hold.key, hold.position, &source.log)?;
            begins.insert(name.clone(), source::begin_at(hold.position));
            let reading =
                Reading { from: hold.position.next, hold, log: source.log, records: 0, bytes: 0, commits: 0 };
            self.tell(&reading);
            self.readings.insert(name, reading);
        }
        Ok(begins)
    }

    fn token(&self) -> i64 {
        // Two halves of a random number are one.
        self.environment.random() as i64
    }

    fn let_go(&mut self, name: &TopicPartition) {
        self.taken_over.remove(name);
        if let Some(reading) = self.readings.remove(name) {
            self.note(&reading);
        }
    }

    /// Remembers what was done.
    fn note(&mut self, reading: &Reading) {
        self.tell(reading);
        self.meter.let_go(Line::Nearline, &reading.hold.key.partition);
        let done = Done {
            line: Line::Nearline,
            partition: reading.hold.key.partition.clone(),
            from: reading.from,
            to: reading.hold.position.next,
            records: reading.records,
            letters: 0,
        };
        run::note(&mut self.done, done);
    }

    /// For those who look.
    fn tell(&self, Reading { hold, from, records, bytes, commits, .. }: &Reading) {
        let StreamHold { key, position: committed, .. } = hold;
        let standing = Standing { from: *from, read: committed.next, committed: committed.next };
        let work = Work { records: *records, bytes: *bytes, letters: 0, files: 0, commits: *commits };
        self.meter.tell(Line::Nearline, &key.partition, standing, work);
    }

    // What is read.

    async fn take(&mut self, records: Records) -> Result<(), RunError> {
        let name = records.partition().clone();
        // It may be another's by now.
        let Some(reading) = self.readings.get(&name).filter(|_| records.is_wanted()) else { return Ok(()) };
        if records.position() < reading.hold.position.next {
            // What is added already does not come again, whatever the consumer was told before it was another's meanwhile.
            let _ = self.consumer.seek(&name, source::begin_at(reading.hold.position));
            return Ok(());
        }
        let committed = reading.hold.position.next;
        source::check_records(&self.cluster, &reading.hold.key, committed, &reading.log, &records).await?;
        let bytes = self.gate.took(&records);
        let batches = batches(&records);
        let last = batches.len() - 1;
        for (at, batch) in batches.into_iter().enumerate() {
            let batch = &records[batch];
            let to = match (at == last, batch.last()) {
                (false, Some(record)) => {
                    Position { next: record.offset.plus(1), leader_epoch: record.leader_epoch }
                }
                _ => Position { next: records.next_offset(), leader_epoch: records.leader_epoch() },
            };
            if !self.append(&name, batch, to).await? {
                return Ok(());
            }
        }
        records.done();
        if let Some(reading) = self.readings.get_mut(&name) {
            reading.bytes += bytes;
            self.tell(&self.readings[&name]);
        }
        Ok(())
    }

    /// Adds records and moves the position. Says no if what comes next is not what was in hand.
    async fn append(
        &mut self,
        name: &TopicPartition,
        records: &[ConsumedRecord],
        to: Position,
    ) -> Result<bool, RunError> {
        let Some(reading) = self.readings.get_mut(name) else { return Ok(false) };
        let (was, now) = (reading.hold.position, self.environment.now());
        match reading.hold.append(&self.store, records, to, now).await {
            Ok(Appended::Done) => {
                reading.commits += u64::from(to != was);
                reading.records += records.len() as u64;
                Ok(true)
            }
            Ok(Appended::SetBack) => {
                self.set_back(name).await?;
                Ok(false)
            }
            Err(error) => self.not_held(name, error).map(|()| false),
        }
    }

    /// That another has it is for the group to say too, and soon.
    fn not_held(&mut self, name: &TopicPartition, error: StreamError) -> Result<(), RunError> {
        if !matches!(error, StreamError::Store(StoreError::Fenced { .. })) {
            return Err(error.into());
        }
        // Nothing of it is read until the group has decided; what is not assigned any more cannot be paused.
        let _ = self.consumer.pause([name]);
        self.meter.failed(Line::Nearline);
        self.let_go(name);
        self.taken_over.add(name, error.into(), self.session_timeout);
        Ok(())
    }

    /// Redis has lost the last of what it had acknowledged, of the stream and of the position: it goes on from there.
    async fn set_back(&mut self, name: &TopicPartition) -> Result<(), RunError> {
        let (token, now) = (self.token(), self.environment.now());
        let Some(reading) = self.readings.get_mut(name) else { return Ok(()) };
        let was = reading.hold.position.next;
        if let Err(error) = reading.hold.take_again(&self.store, token, now).await {
            return self.not_held(name, error);
        }
        let (key, position) = (reading.hold.key.clone(), reading.hold.position);
        tracing::warn!(
            partition = %name, was = %was, now = %position.next,
            "Redis was set back, with the stream: what it has lost is added again"
        );
        reading.from = reading.from.min(position.next);
        // What is not read any more is about to be taken away.
        let _ = self.consumer.seek(name, source::begin_at(position));
        // What it has lost may be gone from the log as well, by now. If that is not to be had, the consumer hears of it.
        let wanted = |partition: &TopicPartition| partition == name;
        match source::sources_of(&self.settings, Line::Nearline, &self.cluster, wanted).await {
            Err(error) if source::is_for_now(&error) => Ok(()),
            sources => sources?.iter().try_for_each(|source| source::check(&key, position, &source.log)),
        }
    }

    /// Keeps positions that have moved without a record.
    async fn pass(&mut self) -> Result<(), RunError> {
        self.keep(|reading, to| to.next > reading.hold.position.next).await
    }

    /// The same, and asks after the others: what Redis has lost is noticed also if nothing more is read.
    async fn look(&mut self) -> Result<(), RunError> {
        self.keep(|_, _| true).await
    }

    async fn keep(&mut self, is_wanted: impl Fn(&Reading, Position) -> bool) -> Result<(), RunError> {
        self.passed_at = Instant::now();
        let reached = |(name, reading): (&TopicPartition, &Reading)| {
            let reached = self.consumer.reached(name).filter(|to| to.next > reading.hold.position.next);
            let to = reached.map(|to| Position { next: to.next, leader_epoch: to.leader_epoch });
            let to = to.unwrap_or(reading.hold.position);
            is_wanted(reading, to).then(|| (name.clone(), to))
        };
        let wanted: Vec<_> = self.readings.iter().filter_map(reached).collect();
        for (name, to) in wanted {
            self.append(&name, &[], to).await?;
        }
        Ok(())
    }

    /// Until there is something to do without records.
    fn wait(&self, until: Until) -> Duration {
        let pass = PASS_EVERY.saturating_sub(self.passed_at.elapsed());
        let look = if until == Until::End { LOOK_EVERY } else { Duration::MAX };
        pass.min(look).min(self.taken_over.wait().unwrap_or(Duration::MAX))
    }

    async fn tick(&mut self) -> Result<(), RunError> {
        if let Some(why) = self.taken_over.over() {
            return Err(why);
        }
        match self.passed_at.elapsed() >= PASS_EVERY {
            true => self.look().await,
            false => Ok(()),
        }
    }

    /// Whether everything was read that was there at the start, of what this instance has.
    fn is_at_end(&self) -> bool {
        self.readings.iter().all(|(name, reading)| {
            let passed = self.consumer.reached(name).map_or(Offset::ZERO, |reached| reached.next);
            self.ends.get(name).is_none_or(|&end| reading.hold.position.next.max(passed) >= end)
        })
    }

    /// Keeps where this instance stands, and looks whether the rest of what was there at the start is in the streams too, whoever adds
    /// it.
    async fn is_everything_in(&mut self) -> Result<bool, RunError> {
        // What is assigned and not held yet has been told already.
        if self.consumer.group_metadata([]).is_none()
            || self.consumer.assignment().len() != self.readings.len()
        {
            return Ok(false);
        }
        self.pass().await?;
        if !self.is_at_end() {
            return Ok(false);
        }
        let others = self.ends.iter().filter(|(name, _)| !self.readings.contains_key(*name));
        let others: Vec<_> = others.map(|(name, end)| (name.clone(), *end)).collect();
        let names: Vec<_> = others.iter().map(|(name, _)| name.clone()).collect();
        let seen = self.store.look(&names).await?;
        for ((name, end), seen) in others.into_iter().zip(seen) {
            let Some(next) = seen.stored.map(|stored| stored.position.next) else { return Ok(false) };
            // Behind the last record may be what nobody gets to see.
            if next < end && source::is_anything_left(&self.cluster, &name, next, end).await? {
                return Ok(false);
            }
            self.ends.remove(&name);
        }
        Ok(true)
    }

    /// What an error of the consumer's means.
    async fn stopped(&self, error: Error) -> RunError {
        let at = |partition: &TopicPartition| {
            let StreamHold { key, position, .. } = &self.readings.get(partition)?.hold;
            Some((key.clone(), position.next, position.next))
        };
        let at = source::out_of_range(&error).and_then(at);
        source::stopped(&self.settings, Line::Nearline, &self.cluster, error, at).await
    }
}

/// Records that are added together: so many, of so many bytes, and one at least.
fn batches(records: &[ConsumedRecord]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, record) in records.iter().enumerate() {
        let more = size(record);
        if at > start && (bytes + more > BATCH_BYTES_MAX || at - start >= BATCH_RECORDS_MAX) {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += more;
    }
    batches.push(start..records.len());
    batches
}
