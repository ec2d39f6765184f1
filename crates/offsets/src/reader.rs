//! Reading from the positions of a store.
//!
//! A [`Reader`] is a consumer whose partitions begin where the store says, and go on only while what comes continues what the store
//! has. It takes hold of a partition when it is assigned, and each [`Batch`] carries the claim that moves the position over it.
//! The position moves in order: a batch cannot be claimed before the one in front of it is stored. Its copy with the group
//! coordinator is written behind the store's, for everybody's tools and to notice a store that has lost something.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{
    Admin, Assigned, Begin, BoxFuture, Cluster, Committed, Consumer, Environment, Error, Isolation,
    OffsetReset, OffsetSpec, Offsets, Options, Records, ResourceKind, Start,
};
use tokio::time::{Instant, sleep, timeout_at};
use wire::{ErrorCode, LeaderEpoch, Offset, Str, TopicPartition};

use crate::continuity::{self, Cause, First, Gap, Log, Policy};
use crate::key::{Key, ReaderName};
use crate::store::{Claim, Expected, Fence, Held, OffsetStore, Position, StoreError, Stored};

/// How a reader reads.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// Under which name its positions are kept. Also its group's, unless the client's options name one.
    pub name: ReaderName,
    /// Where to begin in a partition that was never read under this name.
    pub start: Start,
    /// What to do where the stored position cannot be continued.
    pub at_gap: Policy,
}

impl ReaderOptions {
    /// Begins at the oldest record, and stops at a gap.
    pub fn new(name: ReaderName) -> Self {
        Self { name, start: Start::Earliest, at_gap: Policy::Stop }
    }
}

/// Why a reader has no records to give.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReaderError {
    /// The stored position cannot be continued: that partition stops, and the others go on.
    #[error(transparent)]
    Gap(Box<Gap>),
    /// The store refused, or does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The batch before this one of the partition is not stored yet.
    #[error(
        "{key}: the records before {at} are not stored yet, the position is {stored}: batches are stored in order"
    )]
    OutOfOrder {
        /// The partition.
        key: Box<Key>,
        /// Where this batch begins.
        at: Offset,
        /// The position in the store.
        stored: Offset,
    },
    /// The partition has gone to another reader, or begins elsewhere by now. Roll back what was written of the batch.
    #[error("{partition} is not this reader's any more")]
    Gone {
        /// The partition.
        partition: TopicPartition,
    },
    /// The brokers, or the consumer.
    #[error(transparent)]
    Client(Error),
}

impl From<Error> for ReaderError {
    fn from(error: Error) -> Self {
        let inner = match &error {
            Error::Stopped { reason, .. } => reason,
            other => other,
        };
        if let Error::Store(source) = inner {
            if let Some(gap) = source.downcast_ref::<Gap>() {
                return Self::Gap(Box::new(gap.clone()));
            }
            if let Some(error) = source.downcast_ref::<StoreError>() {
                return Self::Store(error.clone());
            }
        }
        Self::Client(error)
    }
}

impl From<ReaderError> for Error {
    fn from(error: ReaderError) -> Self {
        match error {
            ReaderError::Client(error) => error,
            ReaderError::Gap(gap) => Self::Store(Arc::new(*gap)),
            ReaderError::Store(error) => Self::Store(Arc::new(error)),
            error => Self::Store(Arc::new(error)),
        }
    }
}

/// Reads topics from positions in a store.
pub struct Reader {
    consumer: Consumer,
    keeper: Arc<Keeper>,
    /// Partitions whose position turned out to lie outside of the log, and about which nothing is decided yet.
    passed: VecDeque<TopicPartition>,
}

/// Records of one partition, and the right to move its position over them.
///
/// Dropped without [`Batch::stored`], they come again.
pub struct Batch {
    records: Records,
    keeper: Arc<Keeper>,
    /// Which time of holding the partition they came in.
    fence: Fence,
    /// The position that they continue.
    after: Offset,
}

/// Takes hold of partitions and says where they begin.
struct Keeper {
    cluster: Cluster,
    store: Arc<dyn OffsetStore>,
    options: ReaderOptions,
    holdings: Mutex<BTreeMap<TopicPartition, Holding>>,
    /// What is being taken hold of, each time under another number: what is given up meanwhile is not taken.
    taking: Mutex<BTreeMap<TopicPartition, u64>>,
    tickets: AtomicU64,
    /// Held while a fence is taken, so that a partition is given up only when none is on its way.
    fencing: tokio::sync::Mutex<()>,
    resets: AtomicU64,
}

/// A partition that is held.
struct Holding {
    key: Key,
    fence: Fence,
    /// What the store has.
    stored: Position,
    /// Behind what was handed out.
    handed: Offset,
    /// What each batch continues that is not stored yet, by the offset it begins at: it may come again.
    after: BTreeMap<Offset, Offset>,
    log: Log,
}

impl Reader {
    /// Reads what the group hands out of these topics. Needs a tokio runtime around it.
    ///
    /// The client's options get `auto.offset.reset=none` and, unless they name a group, the reader's name for `group.id`.
    pub fn subscribe<T: Into<Str>>(
        client: Options,
        environment: Arc<dyn Environment>,
        store: Arc<dyn OffsetStore>,
        options: ReaderOptions,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Self, ReaderError> {
        let reader = Self::new(client, environment, store, options)?;
        reader.consumer.subscribe(topics)?;
        Ok(reader)
    }

    /// Reads these partitions, whoever else does: each is taken from the reader of this name that held it.
    pub fn assign(
        client: Options,
        environment: Arc<dyn Environment>,
        store: Arc<dyn OffsetStore>,
        options: ReaderOptions,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<Self, ReaderError> {
        let reader = Self::new(client, environment, store, options)?;
        reader.consumer.assign(partitions.into_iter().map(|partition| (partition, None)))?;
        Ok(reader)
    }

    fn new(
        mut client: Options,
        environment: Arc<dyn Environment>,
        store: Arc<dyn OffsetStore>,
        options: ReaderOptions,
    ) -> Result<Self, ReaderError> {
        client.group_id.get_or_insert_with(|| options.name.to_string());
        // Where to go on is the store's and the policy's to say, never the consumer's.
        client.auto_offset_reset = OffsetReset::None;
        let cluster = Cluster::new(client, environment)?;
        let keeper = Arc::new(Keeper {
            cluster: cluster.clone(),
            store,
            options,
            holdings: Mutex::default(),
            taking: Mutex::default(),
            tickets: AtomicU64::new(0),
            fencing: tokio::sync::Mutex::default(),
            resets: AtomicU64::new(0),
        });
        let consumer = Consumer::with_offsets(cluster, Arc::clone(&keeper) as Arc<dyn Offsets>);
        Ok(Self { consumer, keeper, passed: VecDeque::new() })
    }

    /// The next records, or an error; `None` when nothing is read. After an error of one partition the others go on.
    ///
    /// The future may be dropped: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Batch, ReaderError>> {
        loop {
            // Kept until it is decided, as this future may be dropped meanwhile.
            while let Some(partition) = self.passed.front().cloned() {
                let decided = self.keeper.passed(&partition).await;
                self.passed.pop_front();
                match decided {
                    Ok(Some(begin)) => {
                        if self.consumer.seek(&partition, begin).is_err() {
                            tracing::debug!(%partition, "it went to another reader meanwhile");
                        }
                    }
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
            match self.consumer.next().await? {
                Ok(records) => match self.keeper.hand_out(records).await {
                    Ok(HandOut::Batch(batch)) => return Some(Ok(batch)),
                    // They go to somebody else.
                    Ok(HandOut::Gone) => {}
                    Ok(HandOut::Gap(gap, fence)) => {
                        let partition = gap.key.partition.clone();
                        // It may have been given up meanwhile, and is not read then either.
                        let _ = match self.keeper.decide(gap, fence).await {
                            Ok(begin) => self.consumer.seek(&partition, begin),
                            Err(error) => self.consumer.stop(&partition, error.into()),
                        };
                    }
                    Err(error) => return Some(Err(error)),
                },
                Err(Error::Stopped { partition, reason })
                    if reason.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) =>
                {
                    self.passed.push_back(partition);
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// Moves the position over a batch whose results are where they belong, in a store of their own. Tries again while the store
    /// does not answer, for `default.api.timeout.ms`.
    pub async fn commit(&self, batch: Batch) -> Result<(), ReaderError> {
        let claim = batch.claim()?;
        match self.keeper.commit(&claim).await {
            Ok(()) => {
                batch.stored();
                Ok(())
            }
            Err(error) if error.is_retriable() => Err(error.into()),
            Err(error) => {
                // The same records would be refused again and again. It may have gone to another reader meanwhile.
                let stopped = self.consumer.stop(batch.partition(), ReaderError::Store(error.clone()).into());
                if stopped.is_err() {
                    tracing::debug!(partition = %batch.partition(), "it is not read any more");
                }
                Err(error.into())
            }
        }
    }

    /// The consumer, to pause, resume and look at positions. It is not to be sought in: the store says where to read.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// How often the policy chose a place to go on at. Each time is logged.
    pub fn resets(&self) -> u64 {
        self.keeper.resets.load(Ordering::Relaxed)
    }

    /// Waits for the batches in hand, within `timeout`, and leaves. Never hangs.
    pub async fn close(self, timeout: Duration) -> Result<Committed, ReaderError> {
        Ok(self.consumer.close(timeout).await?)
    }
}

impl Batch {
    /// What moves the position over these records; to be committed together with their results, in order, one batch of a
    /// partition after the other. Then [`Batch::stored`] says that it has been.
    pub fn claim(&self) -> Result<Claim, ReaderError> {
        let holdings = self.keeper.lock();
        let partition = self.records.partition();
        let holding = holdings.get(partition).filter(|holding| holding.fence == self.fence);
        let Some(holding) = holding.filter(|_| self.records.is_wanted()) else {
            return Err(ReaderError::Gone { partition: partition.clone() });
        };
        if holding.stored.next != self.after {
            let (at, stored) = (self.records.position(), holding.stored.next);
            return Err(ReaderError::OutOfOrder { key: Box::new(holding.key.clone()), at, stored });
        }
        Ok(Claim {
            key: holding.key.clone(),
            fence: holding.fence,
            expected: Expected::At(self.after),
            position: self.position(),
        })
    }

    /// The claim is committed: the next batch of the partition can be claimed.
    pub fn stored(self) {
        let position = self.position();
        let mut holdings = self.keeper.lock();
        if let Some(holding) = holdings.get_mut(self.records.partition())
            && holding.fence == self.fence
        {
            holding.stored = position;
            holding.after = holding.after.split_off(&position.next);
        }
        drop(holdings);
        self.records.done();
    }

    fn position(&self) -> Position {
        Position { next: self.records.next_offset(), leader_epoch: self.records.leader_epoch() }
    }
}

impl Deref for Batch {
    type Target = Records;

    fn deref(&self) -> &Records {
        &self.records
    }
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Holding>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether records continue what was handed out before.
    async fn hand_out(self: &Arc<Self>, records: Records) -> Result<HandOut, ReaderError> {
        let Some(expected) = self.lock().get(records.partition()).map(|holding| holding.expects(&records))
        else {
            return Ok(HandOut::Gone);
        };
        let mut first = First {
            base: records.base_offset(),
            offset: records[0].offset,
            log_start: records.watermarks().log_start,
            is_compacted: false,
        };
        if first.base > expected.position.next {
            first.is_compacted = self.is_compacted(&records.partition().topic).await?;
        }
        if records.topic_id() != expected.key.topic_id {
            let next = expected.position.next;
            let gap = Gap {
                key: expected.key,
                cause: Cause::TopicRecreated,
                stored: next,
                expected: next,
                found: Some(first.base),
                log: Log { topic_id: records.topic_id(), start: first.log_start, ..expected.log },
            };
            return Ok(HandOut::Gap(Box::new(gap), expected.fence));
        }
        if let Err(gap) = continuity::check_first(&expected.key, expected.position, first, &expected.log) {
            return Ok(HandOut::Gap(gap, expected.fence));
        }
        let mut holdings = self.lock();
        let Some(holding) =
            holdings.get_mut(records.partition()).filter(|found| found.fence == expected.fence)
        else {
            return Ok(HandOut::Gone);
        };
        let after = holding.hand_out(&records);
        drop(holdings);
        Ok(HandOut::Batch(Batch { records, keeper: Arc::clone(self), fence: expected.fence, after }))
    }

    async fn is_compacted(&self, topic: &Str) -> Result<bool, Error> {
        let settings = Admin::new(self.cluster.clone()).describe_configs(ResourceKind::Topic, topic).await?;
        let policy = settings.iter().find(|setting| &*setting.name == "cleanup.policy");
        Ok(policy.and_then(|policy| policy.value.as_deref()).is_some_and(|value| value.contains("compact")))
    }

    /// What the brokers say of partitions.
    async fn look(&self, partitions: &[TopicPartition]) -> Result<Looked, Error> {
        let admin = Admin::new(self.cluster.clone());
        let mut looked = Looked::default();
        for (spec, ends) in
            [(OffsetSpec::Earliest, &mut looked.starts), (OffsetSpec::Latest, &mut looked.ends)]
        {
            let asked: Vec<_> = partitions.iter().map(|partition| (partition.clone(), spec)).collect();
            for (partition, listed) in admin.list_offsets(&asked, Isolation::ReadUncommitted).await? {
                ends.insert(partition, listed.map(|listed| listed.offset.unwrap_or(Offset::ZERO)));
            }
        }
        if let Some(group) = self.cluster.options().group_id.as_deref().map(Str::copy_from) {
            let offsets = admin.group_offsets(&group).await?;
            looked.copies =
                offsets.committed.into_iter().map(|(of, committed)| (of, committed.offset)).collect();
        }
        Ok(looked)
    }

    /// The position lies outside of the log. Where to go on, if the policy says so.
    async fn passed(&self, partition: &TopicPartition) -> Result<Option<Begin>, ReaderError> {
        let Some((key, fence, stored)) =
            self.lock().get(partition).map(|found| (found.key.clone(), found.fence, found.stored))
        else {
            return Ok(None);
        };
        let log = self.look(std::slice::from_ref(partition)).await?.log(&key)?;
        let was = Stored { position: stored, topic_id: key.topic_id, updated: wire::Millis(-1) };
        let gap = match continuity::check(&key, &was, &log) {
            // The consumer was refused, so that it is a truncation that has been written over since.
            Ok(position) => {
                let found = Some(log.end);
                let (stored, expected) = (position.next, position.next);
                Box::new(Gap { key: key.clone(), cause: Cause::Truncated, stored, expected, found, log })
            }
            Err(gap) => gap,
        };
        let begin = self.decide(gap, fence).await?;
        Ok(Some(begin))
    }

    /// At a gap: where to go on as the policy says, which is stored before anything is read there.
    async fn decide(&self, gap: Box<Gap>, fence: Fence) -> Result<Begin, ReaderError> {
        let next = match (gap.cause, self.options.at_gap) {
            // Before a hole there is nothing that was not read, and the hole is there again.
            (Cause::Hole, Policy::Earliest | Policy::Nearest) => gap.found,
            (_, policy) => policy.resolve(gap.stored, &gap.log),
        };
        let Some(next) = next else { return Err(ReaderError::Gap(gap)) };
        let position = Position { next, leader_epoch: LeaderEpoch::NONE };
        let key = Key { topic_id: gap.log.topic_id, ..gap.key.clone() };
        let claim = Claim { key, fence, expected: Expected::Anything, position };
        self.commit(&claim).await?;
        self.resets.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            partition = %gap.key.partition, reader = %gap.key.reader, cause = gap.cause.name(), stored = %gap.stored,
            to = %next, log_start = %gap.log.start, log_end = %gap.log.end, policy = ?self.options.at_gap,
            "the stored position cannot be continued, reading on as the policy says"
        );
        // What was done with before may come again from here on.
        self.hold(claim, Log { copy: None, ..gap.log });
        Ok(next.into())
    }

    fn hold(&self, claim: Claim, log: Log) {
        let Claim { key, fence, position, .. } = claim;
        let partition = key.partition.clone();
        let holding =
            Holding { key, fence, stored: position, handed: position.next, after: BTreeMap::new(), log };
        self.lock().insert(partition, holding);
    }

    /// Commits, and tries again while the store does not answer. That it is there already is as good.
    async fn commit(&self, claim: &Claim) -> Result<(), StoreError> {
        match self.insisting(|| self.store.commit(claim)).await {
            Err(StoreError::AlreadyThere { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    async fn insisting<'a, T>(
        &'a self,
        mut ask: impl FnMut() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let options = self.cluster.options();
        let deadline = Instant::now() + options.default_api_timeout;
        let mut pause = options.retry_backoff;
        loop {
            let asked = timeout_at(deadline, ask()).await;
            match asked.unwrap_or_else(|_| Err(StoreError::Silent { after: options.default_api_timeout })) {
                Err(error) if error.is_retriable() && Instant::now() + pause < deadline => {
                    tracing::debug!(%error, "asking the store again");
                    sleep(pause).await;
                    pause = (pause * 2).min(options.retry_backoff_max);
                }
                outcome => return outcome,
            }
        }
    }

    fn taking(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, u64>> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes hold of a partition, unless it has been given up since the ticket was drawn.
    async fn acquire(&self, key: &Key, ticket: u64) -> Result<Held, ReaderError> {
        let gone = || ReaderError::Gone { partition: key.partition.clone() };
        let _alone = self.fencing.lock().await;
        if self.taking().get(&key.partition) != Some(&ticket) {
            return Err(gone());
        }
        Ok(self.insisting(|| self.store.acquire(key)).await?)
    }

    /// Looks where a partition that is held goes on. The look is newer than the hold, so that whoever held it before has written
    /// nothing since.
    async fn take(&self, key: Key, held: Held, ticket: u64, looked: &Looked) -> Result<Begin, ReaderError> {
        if self.taking().get(&key.partition) != Some(&ticket) {
            return Err(ReaderError::Gone { partition: key.partition });
        }
        let log = looked.log(&key)?;
        let Some(stored) = held.stored else { return self.begin(key, held.fence, log).await };
        match continuity::check(&key, &stored, &log) {
            Ok(position) => {
                let claim = Claim { key, fence: held.fence, expected: Expected::Anything, position };
                self.hold(claim, log);
                Ok(Begin { start: Start::Offset(position.next), leader_epoch: position.leader_epoch })
            }
            Err(gap) => self.decide(gap, held.fence).await,
        }
    }

    /// Begins in a partition that was never read under this name. The place is stored first, so that a crash before the first
    /// commit begins there again, and not at an end that has moved on.
    async fn begin(&self, key: Key, fence: Fence, log: Log) -> Result<Begin, ReaderError> {
        if let Some(copy) = log.copy {
            // It was read under this name, and the store knows nothing of that.
            let cause = Cause::StoreRolledBack;
            let gap = Gap { key, cause, stored: copy, expected: copy, found: None, log };
            return self.decide(Box::new(gap), fence).await;
        }
        let elsewhere = self.insisting(|| self.store.list(&self.options.name)).await?;
        let elsewhere = elsewhere
            .iter()
            .find(|(other, _)| other.partition == key.partition && other.cluster_id != key.cluster_id);
        if let Some((_, stored)) = elsewhere {
            let next = stored.position.next;
            let gap = Gap {
                key,
                cause: Cause::OtherCluster,
                stored: next,
                expected: next,
                found: Some(log.start),
                log,
            };
            return self.decide(Box::new(gap), fence).await;
        }
        let at = match self.options.start {
            Start::At(time) => {
                let asked = [(key.partition.clone(), OffsetSpec::At(time))];
                let admin = Admin::new(self.cluster.clone());
                let listed = admin.list_offsets(&asked, Isolation::ReadUncommitted).await?;
                listed
                    .into_iter()
                    .next()
                    .map(|(_, listed)| listed)
                    .transpose()?
                    .and_then(|listed| listed.offset)
            }
            _ => None,
        };
        let next = self.options.start.resolve(log.start, log.end, at);
        let position = Position { next, leader_epoch: LeaderEpoch::NONE };
        let claim = Claim { key, fence, expected: Expected::Nothing, position };
        self.commit(&claim).await?;
        self.hold(claim, log);
        Ok(next.into())
    }
}

/// What the brokers say of some partitions.
#[derive(Default)]
struct Looked {
    starts: BTreeMap<TopicPartition, Result<Offset, Error>>,
    ends: BTreeMap<TopicPartition, Result<Offset, Error>>,
    copies: BTreeMap<TopicPartition, Offset>,
}

impl Looked {
    /// One of them. What its leader epochs say of a truncation, the consumer finds out before it reads anything (KIP-320).
    fn log(&self, key: &Key) -> Result<Log, Error> {
        let of = |ends: &BTreeMap<TopicPartition, Result<Offset, Error>>| match ends.get(&key.partition) {
            Some(end) => end.clone(),
            None => Err(Error::UnknownTopic(key.partition.topic.to_string())),
        };
        Ok(Log {
            topic_id: key.topic_id,
            start: of(&self.starts)?,
            end: of(&self.ends)?,
            epoch_end: None,
            copy: self.copies.get(&key.partition).copied(),
        })
    }
}

/// What becomes of records.
enum HandOut {
    Batch(Batch),
    /// They do not continue what this holder has.
    Gap(Box<Gap>, Fence),
    /// Their partition is not held.
    Gone,
}

/// What a partition's next records have to continue.
struct Expects {
    key: Key,
    fence: Fence,
    position: Position,
    log: Log,
}

impl Holding {
    fn expects(&self, records: &Records) -> Expects {
        // The consumer's position has no holes: it moves over the ends of transactions, which nobody gets to see.
        let position = Position { next: records.position(), leader_epoch: self.stored.leader_epoch };
        Expects { key: self.key.clone(), fence: self.fence, position, log: self.log }
    }

    /// Notes them, and gives the position that they continue.
    fn hand_out(&mut self, records: &Records) -> Offset {
        let at = records.position();
        let after = match self.after.get(&at) {
            Some(&after) => after,
            None if at < self.handed => at,
            None => self.handed,
        };
        self.after.insert(at, after);
        self.handed = records.next_offset();
        after
    }
}

impl Offsets for Keeper {
    fn load<'a>(&'a self, assigned: &'a [Assigned]) -> BoxFuture<'a, Vec<Result<Option<Begin>, Error>>> {
        Box::pin(async move {
            let partitions: Vec<_> = assigned.iter().map(|assigned| assigned.partition.clone()).collect();
            let tickets: Vec<u64> =
                partitions.iter().map(|_| self.tickets.fetch_add(1, Ordering::Relaxed)).collect();
            self.taking().extend(partitions.iter().cloned().zip(tickets.iter().copied()));
            let cluster_id = match self.cluster.id().await {
                Ok(id) => id.to_string(),
                Err(error) => return partitions.iter().map(|_| Err(error.clone())).collect(),
            };
            let mut held = Vec::with_capacity(assigned.len());
            for (assigned, &ticket) in assigned.iter().zip(&tickets) {
                let key = Key {
                    reader: self.options.name.clone(),
                    cluster_id: cluster_id.clone(),
                    partition: assigned.partition.clone(),
                    topic_id: assigned.topic_id,
                };
                held.push((self.acquire(&key, ticket).await, key));
            }
            let looked = match self.look(&partitions).await {
                Ok(looked) => looked,
                Err(error) => return partitions.iter().map(|_| Err(error.clone())).collect(),
            };
            let mut begins = Vec::with_capacity(assigned.len());
            for ((held, key), &ticket) in held.into_iter().zip(&tickets) {
                let partition = key.partition.clone();
                let begin = match held {
                    Ok(held) => self.take(key, held, ticket, &looked).await,
                    Err(error) => Err(error),
                };
                begins.push(match begin {
                    Ok(begin) => Ok(Some(begin)),
                    // What may go well later is asked again.
                    Err(ReaderError::Store(error)) if error.is_retriable() => Err(Error::Timeout {
                        doing: format!("taking hold of {partition}"),
                        after: self.cluster.options().default_api_timeout,
                        last: Some(Box::new(ReaderError::Store(error).into())),
                    }),
                    Err(error) => Err(error.into()),
                });
            }
            begins
        })
    }

    fn revoked<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        self.lost(partitions);
        // A fence that is on its way would take them from whoever gets them next.
        Box::pin(async { drop(self.fencing.lock().await) })
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        let (mut taking, mut holdings) = (self.taking(), self.lock());
        for partition in partitions {
            taking.remove(partition);
            holdings.remove(partition);
        }
    }
}
