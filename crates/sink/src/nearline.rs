//! The near-real-time line into a topic at work: every record that is read is written to it, in transactions that carry the positions.
//!
//! Each instance has a transactional id. One that comes back under its old one ends what it left open *before* it reads the positions;
//! of what another left open, the positions are only to be had when it is over (KIP-447). A transaction's positions are committed in
//! the name of the group's member, so that nobody commits what is another's by now: what is in the output, and what is committed, are
//! the same at every moment in the eyes of those who read committed records. Where a line begins is committed before anything is read.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{
    Admin, Begin, Cluster, ConsumedRecord, Consumer, ConsumerGroupMetadata, Environment, Error, ErrorKind,
    Options, Producer, ProducerRecord, Reached, Records, Transaction,
};
use offsets::{Log, Position};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, Str, TopicPartition};

use crate::gate::{Gate, Turned};
use crate::key::{Key, LineName};
use crate::meter::{Meter, Standing, Work};
use crate::nearline_position::Kept;
use crate::origin;
use crate::output::{self, Output};
use crate::run::{self, CLOSE_MAX, Done, LOOK_EVERY, RunError, Until};
use crate::running::{Orders, Running};
use crate::settings::{Line, NearlineSettings, Settings};
use crate::shares::{Losses, Share, Shares};
use crate::source::{self, begin_at, sources, told};

/// A position that does not move is committed again after this time: brokers forget a group's offsets some days after their commit.
const RENEW_EVERY_MS: i64 = 60 * 60 * 1000;
/// Transactions that may fail one after the other, each done again from its beginning.
const FAILURES_MAX: u32 = 5;

/// A partition that is read.
struct Reading {
    key: Key,
    log: Log,
    from: Offset,
    begun: Offset,
    /// What is in the output or in the open transaction.
    read: Position,
    committed: Position,
    committed_at: Millis,
    /// Written and committed, and in the open transaction.
    records: u64,
    open: u64,
    bytes: u64,
    open_bytes: u64,
    /// Transactions that moved it.
    commits: u64,
}

impl Reading {
    /// Where it stands; behind what nobody gets to see, as the ends of transactions, if that was passed.
    fn reached(&self, passed: Option<Reached>) -> Position {
        match passed {
            Some(passed) if passed.next > self.read.next => {
                Position { next: passed.next, leader_epoch: passed.leader_epoch }
            }
            _ => self.read,
        }
    }
}

/// The line at work.
struct Nearline {
    settings: Settings,
    line: LineName,
    /// The line's name as a header's value.
    stamp: Bytes,
    nearline: NearlineSettings,
    group: Str,
    output: Output,
    environment: Arc<dyn Environment>,
    cluster: Cluster,
    consumer: Consumer,
    shares: mpsc::UnboundedReceiver<Share>,
    gate: Gate,
    meter: Meter,
    losses: Losses,
    /// What the group said while a transaction was open: it is dealt with when that is over.
    waiting: Option<Share>,
    readings: BTreeMap<TopicPartition, Reading>,
    /// What was done in partitions that were given up since.
    done: BTreeMap<TopicPartition, Done>,
    /// Where the partitions ended at the start, if that is where the line is to end.
    ends: BTreeMap<TopicPartition, Offset>,
    /// Transactions that failed since the last one that did not.
    failures: u32,
}

/// Who this instance is in the group: whoever it is later may not speak for what it had before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    id: Str,
    losses: u64,
}

/// Why a transaction is closed.
enum Closed {
    /// It is full or old enough, or nothing is left to be read.
    Flush,
    /// The line is to end.
    Stopped,
    /// What came next cannot be written.
    Failed(RunError),
}

/// Runs the line until `stop` or, if that is wanted, until the end of what is there. Whatever ends it, what is in hand is committed
/// first.
pub(crate) async fn run(
    settings: &Settings,
    nearline: &NearlineSettings,
    mut options: Options,
    environment: Arc<dyn Environment>,
    orders: Orders,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Done>, RunError> {
    let until = orders.running.until;
    let line = settings.line_name(Line::Nearline);
    let (age, timeout) = (nearline.flush_age, options.transaction_timeout);
    if age > timeout / 2 {
        return Err(RunError::FlushAge { age, timeout });
    }
    let transactional_id = match &options.group_instance_id {
        Some(instance) => format!("{line}.{instance}"),
        None => format!("{line}.{:016x}", environment.random()),
    };
    source::as_member(&mut options, &line);
    options.transactional_id = Some(transactional_id);
    let cluster = Cluster::new(options, Arc::clone(&environment))?;
    let output = Output::describe(&cluster, &nearline.topic).await?;
    let producer = Producer::new(cluster.clone())?;
    let ended = async {
        // First of all: what a predecessor left open is over when the positions are read.
        producer.init_transactions().await.map_err(|error| told(&line, error))?;
        let mut work = Nearline::open(settings, nearline, cluster, environment, output, orders).await?;
        let ended = work.work(&producer, until, std::pin::pin!(stop)).await;
        let readings = std::mem::take(&mut work.readings);
        for reading in readings.into_values() {
            work.note(&reading);
        }
        source::leave(work.consumer, &mut work.shares).await;
        ended.map(|()| work.done.into_values().collect())
    };
    let ended = ended.await;
    if let Err(error) = producer.close(CLOSE_MAX).await {
        tracing::debug!(%error, "the producer did not end in order");
    }
    ended
}

impl Nearline {
    async fn open(
        settings: &Settings,
        nearline: &NearlineSettings,
        cluster: Cluster,
        environment: Arc<dyn Environment>,
        output: Output,
        Orders { running: Running { until, meter, .. }, gate }: Orders,
    ) -> Result<Self, RunError> {
        let line = settings.line_name(Line::Nearline);
        let sources = sources(settings, Line::Nearline, &cluster).await?;
        output.check_partitions(sources.iter().map(|source| &source.key.partition))?;
        let ends = source::ends(until, &sources);
        meter.aim(Line::Nearline, &ends);
        let (group, shares, losses) = Shares::new();
        let consumer = Consumer::with_offsets(cluster.clone(), Arc::new(group));
        consumer.subscribe(settings.topics.iter().cloned())?;
        Ok(Self {
            settings: settings.clone(),
            stamp: Bytes::copy_from_slice(line.as_str().as_bytes()),
            group: Str::copy_from(line.as_str()),
            line,
            nearline: nearline.clone(),
            output,
            environment,
            cluster,
            consumer,
            shares,
            gate,
            meter,
            losses,
            waiting: None,
            readings: BTreeMap::new(),
            done: BTreeMap::new(),
            ends,
            failures: 0,
        })
    }

    // The group.

    async fn share(&mut self, producer: &Producer, share: Share) -> Result<(), RunError> {
        match share {
            Share::Assigned(partitions, reply) => {
                let begins = self.begin(producer, partitions).await?;
                // Nobody waits for what was lost meanwhile.
                let _ = reply.send(begins);
            }
            Share::Revoked(partitions, reply) => {
                self.let_go(&partitions);
                let _ = reply.send(());
            }
            Share::Lost(partitions) => self.let_go(&partitions),
        }
        Ok(())
    }

    /// Says where to begin in partitions that were handed out.
    async fn begin(
        &mut self,
        producer: &Producer,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Begin>, RunError> {
        let partitions: BTreeSet<_> = partitions.into_iter().collect();
        // What is lost while it is looked at is not committed in the name of whoever this is by then.
        let Some((_, member)) = self.member() else { return Ok(BTreeMap::new()) };
        // What a former member still has in a transaction is waited for here.
        let kept = Admin::new(self.cluster.clone()).stable_group_offsets(&self.group).await;
        // The log after the positions: they are never ahead of what is looked at here.
        let wanted = |partition: &TopicPartition| partitions.contains(partition);
        let sources = source::sources_of(&self.settings, Line::Nearline, &self.cluster, wanted).await;
        let (kept, sources) = match (kept.map_err(RunError::from), sources) {
            // It is asked for again if they stay assigned.
            (Err(error), _) | (_, Err(error)) if source::is_for_now(&error) => return Ok(BTreeMap::new()),
            (kept, sources) => (kept?, sources?),
        };
        let mut begins = BTreeMap::new();
        for source in sources {
            let (partition, log) = (&source.key.partition, source.log);
            if self.output.check_partitions(std::iter::once(partition)).is_err() {
                // It may have got more of them.
                let now = Output::describe(&self.cluster, &self.nearline.topic).await?;
                now.check_partitions(std::iter::once(partition))?;
                if now.id == self.output.id {
                    self.output = now;
                }
            }
            let (kept, is_new) = match kept.committed.get(partition) {
                Some(committed) => (Kept::read(committed, &source.key, self.output.id)?, false),
                None => {
                    let expired = kept.expired.get(partition);
                    output::check_new(
                        &self.cluster,
                        &self.output,
                        self.nearline.if_removed,
                        &source.key,
                        expired,
                    )
                    .await?;
                    let is_known = kept.committed.keys().any(|known| known.topic == partition.topic);
                    let begun = source::begin(&self.settings, &source, is_known);
                    let position = Position { next: begun, leader_epoch: LeaderEpoch::NONE };
                    (Kept { begun, position }, true)
                }
            };
            source::check(&source.key, kept.position, &log)?;
            begins.insert(partition.clone(), begin_at(kept.position));
            let reading = Reading {
                log,
                from: kept.position.next,
                begun: kept.begun,
                read: kept.position,
                committed: kept.position,
                committed_at: if is_new { Millis(0) } else { self.environment.now() },
                records: 0,
                open: 0,
                bytes: 0,
                open_bytes: 0,
                commits: 0,
                key: source.key,
            };
            self.tell(&reading);
            self.readings.insert(reading.key.partition.clone(), reading);
        }
        // Where new partitions begin, before anything of them is read.
        if !self.renew_as(producer, &member, Passed::Left).await? {
            tracing::info!(line = %self.line, "what was handed out is lost already");
            begins.keys().for_each(|partition| drop(self.readings.remove(partition)));
            return Ok(BTreeMap::new());
        }
        Ok(begins)
    }

    fn let_go(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(reading) = self.readings.remove(partition) {
                self.note(&reading);
            }
        }
    }

    /// Remembers what was done.
    fn note(&mut self, reading: &Reading) {
        self.tell(reading);
        self.meter.let_go(Line::Nearline, &reading.key.partition);
        let done = Done {
            line: Line::Nearline,
            partition: reading.key.partition.clone(),
            from: reading.from,
            to: reading.committed.next,
            records: reading.records,
            letters: 0,
        };
        run::note(&mut self.done, done);
    }

    /// For those who look: what is in an open transaction is no work yet.
    fn tell(&self, reading: &Reading) {
        let (from, read, committed) = (reading.from, reading.read.next, reading.committed.next);
        let standing = Standing { from, read, committed };
        let Reading { records, bytes, commits, .. } = *reading;
        let work = Work { records, bytes, letters: 0, files: 0, commits };
        self.meter.tell(Line::Nearline, &reading.key.partition, standing, work);
    }

    /// Who this is in the group at the moment; nobody while it is outside.
    fn member(&self) -> Option<(ConsumerGroupMetadata, Member)> {
        let group = self.consumer.group_metadata([])?;
        // Behind the identity: a loss that the identity does not know of yet counts.
        let member = Member { id: group.member_id.clone(), losses: self.losses.count() };
        Some((group, member))
    }

    // What is read.

    async fn work(
        &mut self,
        producer: &Producer,
        until: Until,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), RunError> {
        loop {
            if let Some(share) = self.waiting.take() {
                self.share(producer, share).await?;
                continue;
            }
            if until == Until::End && self.is_at_end() && self.is_everything_in(producer).await? {
                return Ok(());
            }
            if self.gate.settle(&self.consumer, |_| false) == Turned::Paused {
                self.renew(producer, Passed::Taken).await?;
            }
            // While it is paused, what goes wrong is heard.
            let (wait, is_open) = (self.wait(until), self.gate.is_open());
            let is_heard = is_open || self.gate.is_paused();
            let records = tokio::select! {
                biased;
                () = &mut stop => return self.renew(producer, Passed::Taken).await.map(drop),
                Some(share) = self.shares.recv() => {
                    self.waiting = Some(share);
                    continue;
                }
                () = self.gate.turned() => continue,
                records = self.consumer.next(), if is_heard => records,
                () = sleep(wait) => {
                    if self.is_renewal_due() {
                        self.renew(producer, Passed::Taken).await?;
                    }
                    continue;
                }
            };
            let records = match records {
                // Of what came to it since: they are given back, and paused as well.
                Some(Ok(_)) if !is_open => continue,
                Some(Ok(records)) => records,
                // The next call joins the group again.
                Some(Err(Error::PollInterval { .. })) => continue,
                Some(Err(error)) => return Err(self.stopped(error).await),
                None => return Ok(()),
            };
            match self.transact(producer, records, until, stop.as_mut()).await? {
                Closed::Flush => {}
                Closed::Stopped => return Ok(()),
                Closed::Failed(error) => return Err(error),
            }
        }
    }

    /// A transaction with these records and those that come meanwhile. One that failed is forgotten: its records come again.
    async fn transact(
        &mut self,
        producer: &Producer,
        first: Records,
        until: Until,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Closed, RunError> {
        // What was lost before counts no more, which is looked at for all that is written.
        let Some((_, member)) = self.member() else { return Ok(Closed::Flush) };
        let transaction = producer.begin().await.map_err(|error| told(&self.line, error))?;
        let closed = self.fill(&transaction, first, until, stop).await;
        let is_stopped = matches!(closed, Ok(Closed::Stopped));
        let ended = match closed {
            // What was read behind the record that failed is not dealt with.
            Ok(Closed::Failed(error)) => {
                let committed = self.commit(producer, transaction, &member, Passed::Left).await;
                committed.map(|()| Closed::Failed(error))
            }
            Ok(closed) => self.commit(producer, transaction, &member, Passed::Taken).await.map(|()| closed),
            Err(error) => {
                drop(transaction);
                Err(error)
            }
        };
        match ended {
            Ok(closed) => {
                self.failures = 0;
                Ok(closed)
            }
            Err(error) => {
                let is_no_member = is_no_member(&error);
                self.give_up(error, &member)?;
                self.end_open(producer).await?;
                if is_no_member && self.waiting.is_none() {
                    // The group tells it soon; until then the next one would fail as well.
                    tokio::select! {
                        Some(share) = self.shares.recv() => self.waiting = Some(share),
                        () = sleep(LOOK_EVERY) => {}
                    }
                }
                Ok(if is_stopped { Closed::Stopped } else { Closed::Flush })
            }
        }
    }

    /// Reads into a transaction until it is to be closed. The error is one of the transaction.
    async fn fill(
        &mut self,
        transaction: &Transaction<'_>,
        first: Records,
        until: Until,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Closed, Error> {
        let due = Instant::now() + self.nearline.flush_age;
        let mut rows = 0;
        let mut next = Some(first);
        loop {
            if let Some(records) = next.take() {
                rows += records.len() as u64;
                if let Some(failed) = self.forward(transaction, records).await? {
                    return Ok(Closed::Failed(failed));
                }
            }
            let is_last = until == Until::End && self.is_at_end();
            if rows >= self.nearline.flush_rows || Instant::now() >= due || is_last {
                return Ok(Closed::Flush);
            }
            let look = if until == Until::End { LOOK_EVERY } else { Duration::MAX };
            let wait = due.saturating_duration_since(Instant::now()).min(look);
            let is_open = self.gate.is_open();
            if !is_open && self.gate.is_long() {
                return Ok(Closed::Flush);
            }
            let records = tokio::select! {
                biased;
                () = &mut stop => return Ok(Closed::Stopped),
                Some(share) = self.shares.recv() => {
                    self.waiting = Some(share);
                    return Ok(Closed::Flush);
                }
                () = self.gate.turned() => match self.gate.is_paused() {
                    true => return Ok(Closed::Flush),
                    false => continue,
                },
                records = self.consumer.next(), if is_open => records,
                () = sleep(wait) => continue,
            };
            match records {
                Some(Ok(records)) => next = Some(records),
                Some(Err(Error::PollInterval { .. })) => return Ok(Closed::Flush),
                Some(Err(error)) => return Ok(Closed::Failed(self.stopped(error).await)),
                None => return Ok(Closed::Stopped),
            }
        }
    }

    /// Writes records into a transaction; what is wrong with them, if they cannot be.
    async fn forward(
        &mut self,
        transaction: &Transaction<'_>,
        records: Records,
    ) -> Result<Option<RunError>, Error> {
        let reading = self.readings.get_mut(records.partition());
        // It may be another's by now.
        let Some(reading) = reading.filter(|_| records.is_wanted()) else { return Ok(None) };
        if records.position() < reading.read.next {
            // What is written already does not come again, whatever the consumer was told before it was another's meanwhile.
            let _ = self.consumer.seek(records.partition(), begin_at(reading.read));
            return Ok(None);
        }
        let committed = reading.committed.next;
        let checked =
            source::check_records(&self.cluster, &reading.key, committed, &reading.log, &records).await;
        if let Err(error) = checked {
            return Ok(Some(error));
        }
        for record in &records {
            let made = made(&self.nearline.topic, &self.stamp, &reading.key.partition, record);
            match transaction.enqueue(made).await {
                // The commit waits for it.
                Ok(handle) => drop(handle),
                Err(source @ (Error::Aborted { .. } | Error::State { .. })) => return Err(source),
                Err(source) if source.kind() != ErrorKind::Fatal => return Err(source),
                Err(source) => {
                    let (partition, offset) = (Box::new(reading.key.partition.clone()), record.offset);
                    let (output, source) = (self.nearline.topic.clone(), Box::new(source));
                    return Ok(Some(RunError::Refused { partition, offset, output, source }));
                }
            }
            reading.read = Position { next: record.offset.plus(1), leader_epoch: record.leader_epoch };
            reading.open += 1;
        }
        reading.read = Position { next: records.next_offset(), leader_epoch: records.leader_epoch() };
        reading.open_bytes += self.gate.took(&records);
        records.done();
        Ok(None)
    }

    /// Puts the positions into a transaction, and commits it in the name of the member that it was begun as.
    async fn commit(
        &mut self,
        producer: &Producer,
        transaction: Transaction<'_>,
        begun_as: &Member,
        passed: Passed,
    ) -> Result<(), Error> {
        let now = self.environment.now();
        let mut moved = Vec::new();
        for (name, reading) in &self.readings {
            let passed = match passed {
                Passed::Taken => self.consumer.reached(name),
                Passed::Left => None,
            };
            let position = reading.reached(passed);
            if position != reading.committed || is_old(reading, now) {
                moved.push((name.clone(), Kept { begun: reading.begun, position }));
            }
        }
        if moved.is_empty() {
            return transaction.abort().await;
        }
        let committed = moved
            .iter()
            .map(|(name, kept)| (name.clone(), kept.committed(&self.readings[name].key, self.output.id)));
        let committed: Vec<_> = committed.collect();
        let Some((group, _)) = self.member().filter(|(_, member)| member == begun_as) else {
            transaction.abort().await?;
            let (code, doing) = (ErrorCode::UNKNOWN_MEMBER_ID, "committing positions".to_owned());
            return Err(Error::Kafka { code, doing, message: None });
        };
        transaction.send_positions(committed, &group).await?;
        if let Err(error) = transaction.commit().await {
            if error.kind() != ErrorKind::Retriable {
                return Err(error);
            }
            // It may have happened. Whoever begins the next one asks again, until it is known.
            tracing::warn!(line = %self.line, %error, "the commit was not confirmed, it is asked for again");
            producer.begin().await?.abort().await?;
        }
        for (name, kept) in moved {
            let reading = self.readings.get_mut(&name).expect("it was just there");
            reading.read = kept.position;
            reading.committed = kept.position;
            reading.committed_at = now;
            reading.records += std::mem::take(&mut reading.open);
            reading.bytes += std::mem::take(&mut reading.open_bytes);
            reading.commits += 1;
            self.tell(&self.readings[&name]);
        }
        Ok(())
    }

    /// Commits positions that have moved without a record, or that are old; not while this is no member of the group.
    async fn renew(&mut self, producer: &Producer, passed: Passed) -> Result<bool, RunError> {
        match self.member() {
            Some((_, member)) => self.renew_as(producer, &member, passed).await,
            None => Ok(false),
        }
    }

    async fn renew_as(
        &mut self,
        producer: &Producer,
        member: &Member,
        passed: Passed,
    ) -> Result<bool, RunError> {
        let transaction = producer.begin().await.map_err(|error| told(&self.line, error))?;
        match self.commit(producer, transaction, member, passed).await {
            Err(error) if is_no_member(&error) => {
                self.end_open(producer).await?;
                Ok(false)
            }
            committed => committed.map(|()| true).map_err(|error| told(&self.line, error)),
        }
    }

    /// Ends what a transaction that failed left open, for those who wait for it: readers of the output, and whoever asks for the
    /// positions. If that is not to be had now, it is done before the next one begins.
    async fn end_open(&self, producer: &Producer) -> Result<(), RunError> {
        let ended = match producer.begin().await {
            Ok(transaction) => transaction.abort().await,
            Err(error) => Err(error),
        };
        match ended {
            Err(error) if error.kind() == ErrorKind::Retriable => Ok(()),
            ended => ended.map_err(|error| told(&self.line, error)),
        }
    }

    /// After a transaction that failed: everything goes back to where it is committed, unless trying again is no use.
    fn give_up(&mut self, error: Error, begun_as: &Member) -> Result<(), RunError> {
        let is_worth_it = match &error {
            Error::Aborted { cause: Some(cause) } => {
                matches!(cause.kind(), ErrorKind::Retriable | ErrorKind::Abortable)
            }
            error => error.kind() == ErrorKind::Abortable,
        };
        // Whoever was away has lost what it had, and is handed out something anew.
        let is_no_member = is_no_member(&error);
        self.failures += u32::from(!is_no_member);
        self.meter.failed(Line::Nearline);
        if !is_worth_it && !is_no_member || self.failures > FAILURES_MAX {
            return Err(told(&self.line, error));
        }
        tracing::warn!(line = %self.line, %error, "a transaction failed and is done again");
        let is_another = self.member().is_none_or(|(_, member)| member != *begun_as);
        for (name, reading) in &mut self.readings {
            (reading.open, reading.open_bytes) = (0, 0);
            reading.read = reading.committed;
            // What was lost may have been handed out anew: from where, is said then.
            if !is_another {
                // What is not read any more is about to be taken away.
                let _ = self.consumer.seek(name, begin_at(reading.committed));
            }
        }
        Ok(())
    }

    /// Until there is something to do without records.
    fn wait(&self, until: Until) -> Duration {
        let now = self.environment.now();
        let oldest = self.readings.values().map(|reading| reading.committed_at).min().unwrap_or(now);
        let renewal = Duration::from_millis(u64::try_from(oldest.0 + RENEW_EVERY_MS - now.0).unwrap_or(0));
        match until {
            Until::End => renewal.min(LOOK_EVERY),
            Until::Stopped => renewal,
        }
    }

    fn is_renewal_due(&self) -> bool {
        let now = self.environment.now();
        self.readings.values().any(|reading| is_old(reading, now))
    }

    /// Whether everything was read that was there at the start, of what this instance has.
    fn is_at_end(&self) -> bool {
        let is_there = |(name, reading): (&TopicPartition, &Reading)| {
            let reached = reading.reached(self.consumer.reached(name)).next;
            self.ends.get(name).is_none_or(|&end| reached >= end)
        };
        self.readings.iter().all(is_there)
    }

    /// Commits where this instance stands, and looks whether the rest of what was there at the start is in the output too, whoever
    /// writes it.
    async fn is_everything_in(&mut self, producer: &Producer) -> Result<bool, RunError> {
        // What is assigned and not read yet has been told already.
        if self.consumer.assignment().len() != self.readings.len()
            || !self.renew(producer, Passed::Taken).await?
        {
            return Ok(false);
        }
        if self.ends.keys().all(|name| self.readings.contains_key(name)) {
            return Ok(true);
        }
        let kept = Admin::new(self.cluster.clone()).stable_group_offsets(&self.group).await?;
        let others = self.ends.iter().filter(|(name, _)| !self.readings.contains_key(name));
        let others: Vec<_> = others.map(|(name, end)| (name.clone(), *end)).collect();
        for (name, end) in others {
            let Some(committed) = kept.committed.get(&name).map(|kept| kept.offset) else { return Ok(false) };
            // Behind the last record may be what nobody gets to see.
            if committed < end && source::is_anything_left(&self.cluster, &name, committed, end).await? {
                return Ok(false);
            }
            self.ends.remove(&name);
        }
        Ok(true)
    }

    /// What an error of the consumer's means.
    async fn stopped(&self, error: Error) -> RunError {
        let at = |partition: &TopicPartition| {
            let Reading { key, committed, read, .. } = self.readings.get(partition)?;
            Some((key.clone(), committed.next, read.next))
        };
        let at = source::out_of_range(&error).and_then(at);
        source::stopped(&self.settings, Line::Nearline, &self.cluster, error, at).await
    }
}

/// Whether what was passed without a record counts as read.
#[derive(Clone, Copy)]
enum Passed {
    /// All that the consumer gave was dealt with.
    Taken,
    /// Some of it may not have been.
    Left,
}

fn is_old(reading: &Reading, now: Millis) -> bool {
    now.0 - reading.committed_at.0 >= RENEW_EVERY_MS
}

/// The record as it goes into the output.
fn made(topic: &Str, line: &Bytes, from: &TopicPartition, record: &ConsumedRecord) -> ProducerRecord {
    let mut headers = Vec::with_capacity(record.headers.len() + 2);
    headers.extend_from_slice(&record.headers);
    origin::stamp(&mut headers, line, from, record.offset);
    ProducerRecord {
        topic: topic.clone(),
        partition: Some(from.partition),
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
        timestamp: Some(record.timestamp),
    }
}

/// Whether the group's coordinator takes whoever commits for no member of now.
fn is_no_member(error: &Error) -> bool {
    let code = match error {
        Error::Aborted { cause: Some(cause) } => cause.code(),
        error => error.code(),
    };
    matches!(
        code,
        Some(
            ErrorCode::UNKNOWN_MEMBER_ID
                // By itself, if it has joined again meanwhile; of another the heartbeat tells.
                | ErrorCode::FENCED_INSTANCE_ID
                | ErrorCode::ILLEGAL_GENERATION
                | ErrorCode::STALE_MEMBER_EPOCH
                | ErrorCode::FENCED_MEMBER_EPOCH
                | ErrorCode::REBALANCE_IN_PROGRESS
        )
    )
}
