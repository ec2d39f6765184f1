//! The near-real-time line at work: every record that is read is written to the output topic, in transactions that carry the positions.
//!
//! The line has one transactional id. Whoever takes it over ends what its predecessor left open *before* it reads the positions, and
//! from then on that one commits nothing: so what is in the output, and what is committed, are the same at every moment in the eyes of
//! those who read committed records. Where a line begins is committed before anything is read.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{
    Begin, Cluster, ConsumedRecord, Consumer, ConsumerGroupMetadata, Environment, Error, ErrorKind,
    OffsetReset, Options, Producer, ProducerRecord, Records, Start, Transaction,
};
use offsets::{Log, Position};
use tokio::time::{Instant, sleep};
use wire::{LeaderEpoch, Millis, Offset, Str, TopicPartition, Uuid};

use crate::key::{Key, LineName};
use crate::nearline_position::Kept;
use crate::origin;
use crate::output::{self, Output};
use crate::run::{CLOSE_MAX, Done, LOOK_EVERY, RunError, Until};
use crate::settings::{Line, NearlineSettings, Settings};
use crate::source::{self, Begins, sources};

/// A position that does not move is committed again after this time: brokers forget a group's offsets some days after their commit.
const RENEW_EVERY_MS: i64 = 60 * 60 * 1000;
/// Transactions that may fail one after the other, each done again from its beginning.
const FAILURES_MAX: u32 = 5;

/// A partition that is read.
struct Reading {
    key: Key,
    log: Log,
    /// Where it ended at the start.
    end: Offset,
    from: Offset,
    begun: Offset,
    /// What is in the output or in the open transaction.
    read: Position,
    committed: Position,
    committed_at: Millis,
    /// Written and committed, and in the open transaction.
    records: u64,
    open: u64,
}

impl Reading {
    /// Where it stands; behind what nobody gets to see, as the ends of transactions, if that was passed.
    fn reached(&self, passed: Option<Offset>) -> Position {
        Position { next: passed.map_or(self.read.next, |passed| passed.max(self.read.next)), ..self.read }
    }
}

/// The line at work.
struct Nearline {
    settings: Settings,
    line: LineName,
    /// The line's name as a header's value.
    stamp: Bytes,
    nearline: NearlineSettings,
    group: ConsumerGroupMetadata,
    output_id: Uuid,
    environment: Arc<dyn Environment>,
    cluster: Cluster,
    consumer: Consumer,
    readings: BTreeMap<TopicPartition, Reading>,
    /// Transactions that failed since the last one that did not.
    failures: u32,
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
    until: Until,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Done>, RunError> {
    let line = settings.line_name(Line::Nearline);
    let (age, timeout) = (nearline.flush_age, options.transaction_timeout);
    if age > timeout / 2 {
        return Err(RunError::FlushAge { age, timeout });
    }
    options.group_id = None;
    options.auto_offset_reset = OffsetReset::None;
    options.transactional_id = Some(line.to_string());
    let cluster = Cluster::new(options, Arc::clone(&environment))?;
    let output = Output::describe(&cluster, &nearline.topic).await?;
    let producer = Producer::new(cluster.clone())?;
    let fenced = |error| told(&line, error);
    let ended = async {
        // First of all: what a predecessor left open is over when the positions are read.
        producer.init_transactions().await.map_err(fenced)?;
        let mut work = Nearline::open(settings, nearline, &producer, cluster, environment, &output).await?;
        let ended = work.work(&producer, until, std::pin::pin!(stop)).await;
        let done = work.readings.values().map(|reading| Done {
            line: Line::Nearline,
            partition: reading.key.partition.clone(),
            from: reading.from,
            to: reading.committed.next,
            records: reading.records,
            letters: 0,
        });
        let done = done.collect();
        if let Err(error) = work.consumer.close(CLOSE_MAX).await {
            tracing::debug!(%error, "the consumer did not end in order");
        }
        ended.map(|()| done)
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
        producer: &Producer,
        cluster: Cluster,
        environment: Arc<dyn Environment>,
        output: &Output,
    ) -> Result<Self, RunError> {
        let line = settings.line_name(Line::Nearline);
        let group = ConsumerGroupMetadata::of_group(Str::copy_from(line.as_str()));
        let kept = client::Admin::new(cluster.clone()).stable_group_offsets(&group.group_id).await?;
        // The log after the positions: they are never ahead of what is looked at here.
        let sources = sources(settings, Line::Nearline, &cluster).await?;
        output.check_partitions(sources.iter().map(|source| &source.key.partition))?;
        let mut readings = BTreeMap::new();
        for source in sources {
            let (partition, log) = (&source.key.partition, source.log);
            let (kept, is_new) = match kept.committed.get(partition) {
                Some(committed) => (Kept::read(committed, &source.key, output.id)?, false),
                None => {
                    let expired = kept.expired.get(partition);
                    output::check_new(&cluster, output, nearline.if_removed, &source.key, expired).await?;
                    let begun = settings.start.resolve(log.start, source.visible_end, None);
                    let position = Position { next: begun, leader_epoch: LeaderEpoch::NONE };
                    (Kept { begun, position }, true)
                }
            };
            source::check(&source.key, kept.position, &log)?;
            let committed_at = if is_new { Millis(0) } else { environment.now() };
            let reading = Reading {
                log,
                end: source.visible_end,
                from: kept.position.next,
                begun: kept.begun,
                read: kept.position,
                committed: kept.position,
                committed_at,
                records: 0,
                open: 0,
                key: source.key,
            };
            readings.insert(reading.key.partition.clone(), reading);
        }
        let begins = readings.iter().map(|(name, reading)| (name.clone(), begin(reading.committed)));
        let consumer = Consumer::with_offsets(cluster.clone(), Arc::new(Begins(begins.collect())));
        let mut line = Self {
            settings: settings.clone(),
            stamp: Bytes::copy_from_slice(line.as_str().as_bytes()),
            line,
            nearline: nearline.clone(),
            group,
            output_id: output.id,
            environment,
            cluster,
            consumer,
            readings,
            failures: 0,
        };
        // Where new partitions begin, before anything of them is read.
        line.renew(producer, Passed::Left).await?;
        line.consumer.assign(line.readings.keys().map(|partition| (partition.clone(), None)))?;
        Ok(line)
    }

    async fn work(
        &mut self,
        producer: &Producer,
        until: Until,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), RunError> {
        loop {
            if until == Until::End && self.is_at_end() {
                return self.renew(producer, Passed::Taken).await;
            }
            let wait = self.wait(until);
            let records = tokio::select! {
                biased;
                () = &mut stop => return self.renew(producer, Passed::Taken).await,
                records = self.consumer.next() => records,
                () = sleep(wait) => {
                    if self.is_renewal_due() {
                        self.renew(producer, Passed::Taken).await?;
                    }
                    continue;
                }
            };
            let records = match records {
                Some(Ok(records)) => records,
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
        let transaction = producer.begin().await.map_err(|error| told(&self.line, error))?;
        let closed = self.fill(&transaction, first, until, stop).await;
        let ended = match closed {
            // What was read behind the record that failed is not dealt with.
            Ok(Closed::Failed(error)) => {
                self.commit(producer, transaction, Passed::Left).await.map(|()| Closed::Failed(error))
            }
            Ok(closed) => self.commit(producer, transaction, Passed::Taken).await.map(|()| closed),
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
                self.give_up(error)?;
                Ok(Closed::Flush)
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
            let records = tokio::select! {
                biased;
                () = &mut stop => return Ok(Closed::Stopped),
                records = self.consumer.next() => records,
                () = sleep(wait) => continue,
            };
            match records {
                Some(Ok(records)) => next = Some(records),
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
        let Some(reading) = self.readings.get_mut(records.partition()) else { return Ok(None) };
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
        records.done();
        Ok(None)
    }

    /// Puts the positions into a transaction, and commits it.
    async fn commit(
        &mut self,
        producer: &Producer,
        transaction: Transaction<'_>,
        passed: Passed,
    ) -> Result<(), Error> {
        let now = self.environment.now();
        let mut moved = Vec::new();
        for (name, reading) in &self.readings {
            let passed = match passed {
                Passed::Taken => self.consumer.position(name),
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
            .map(|(name, kept)| (name.clone(), kept.committed(&self.readings[name].key, self.output_id)));
        transaction.send_positions(committed.collect::<Vec<_>>(), &self.group).await?;
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
        }
        Ok(())
    }

    /// Commits positions that have moved without a record, or that are old.
    async fn renew(&mut self, producer: &Producer, passed: Passed) -> Result<(), RunError> {
        let transaction = producer.begin().await.map_err(|error| told(&self.line, error))?;
        self.commit(producer, transaction, passed).await.map_err(|error| told(&self.line, error))
    }

    /// After a transaction that failed: everything goes back to where it is committed, unless trying again is no use.
    fn give_up(&mut self, error: Error) -> Result<(), RunError> {
        let is_worth_it = match &error {
            Error::Aborted { cause: Some(cause) } => {
                matches!(cause.kind(), ErrorKind::Retriable | ErrorKind::Abortable)
            }
            error => error.kind() == ErrorKind::Abortable,
        };
        self.failures += 1;
        if !is_worth_it || self.failures > FAILURES_MAX {
            return Err(told(&self.line, error));
        }
        tracing::warn!(line = %self.line, %error, "a transaction failed and is done again");
        for (name, reading) in &mut self.readings {
            reading.open = 0;
            reading.read = reading.committed;
            self.consumer.seek(name, begin(reading.committed))?;
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

    /// Whether everything was read that was there at the start.
    fn is_at_end(&self) -> bool {
        let is_there = |(name, reading): (_, &Reading)| {
            reading.reached(self.consumer.position(name)).next >= reading.end
        };
        self.readings.iter().all(is_there)
    }

    /// What an error of the consumer's means.
    async fn stopped(&self, error: Error) -> RunError {
        let Some(partition) = source::out_of_range(&error) else { return error.into() };
        let Ok(sources) = sources(&self.settings, Line::Nearline, &self.cluster).await else {
            return error.into();
        };
        let Some(now) = sources.iter().find(|source| source.key.partition == *partition) else {
            return error.into();
        };
        let Some(reading) = self.readings.get(partition) else { return error.into() };
        source::passed(&reading.key, reading.committed.next, reading.read.next, &now.log)
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

fn begin(position: Position) -> Begin {
    Begin { start: Start::Offset(position.next), leader_epoch: position.leader_epoch }
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

/// An error of the client's, or that somebody else is the line now.
fn told(line: &LineName, error: Error) -> RunError {
    let is_fenced = |error: &Error| error.kind() == ErrorKind::Fenced;
    let is_taken = match &error {
        Error::Aborted { cause: Some(cause) } => is_fenced(cause),
        error => is_fenced(error),
    };
    match is_taken {
        true => RunError::TakenOver { line: line.clone(), source: Box::new(error) },
        false => error.into(),
    }
}
