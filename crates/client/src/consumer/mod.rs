//! Reading records, of partitions that are named or that a group hands out.
//!
//! [`Consumer::poll`] does everything: it keeps the membership, finds positions, fetches and hands out records.
//! Calling it again says that the records before are dealt with; only those are committed, so a crash repeats
//! records but never loses one. There is one fetch under way per broker and it is only sent when everything
//! that it could bring has been handed out, which bounds memory by `fetch.max.bytes` per broker.

mod assignor;
mod fetched;
mod group;
mod positions;
mod protocol;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, Str, TopicPartition};

use crate::admin::{Admin, OffsetSpec};
use crate::cluster::{Cluster, Lane};
use crate::error::{Error, ErrorKind};
use crate::options::{Isolation, OffsetReset};
use crate::record::ConsumedRecord;
use fetched::Fetched;
use group::{Membership, Pulse};
use positions::{Positions, State};

pub use positions::{Start, Watermarks};
pub(crate) use protocol::decode_assignment;

/// Reads records.
pub struct Consumer {
    cluster: Cluster,
    membership: Option<Membership>,
    /// Where to begin without a committed offset.
    fallback: Option<Start>,
    positions: Positions,
    /// Counts assignments, so that what was fetched for an earlier one is recognised.
    assignment: u64,
    fetches: JoinSet<FetchDone>,
    fetching: HashSet<BrokerId>,
    buffer: VecDeque<Fetched>,
    next_auto_commit: Instant,
}

struct FetchDone {
    broker: BrokerId,
    assignment: u64,
    asked: Vec<(TopicPartition, Offset)>,
    outcome: Result<FetchResponse, Error>,
}

impl Consumer {
    /// Reads these partitions from these places on. Commits nothing.
    pub fn assign(cluster: Cluster, partitions: impl IntoIterator<Item = (TopicPartition, Start)>) -> Self {
        let mut consumer = Self::new(cluster, None, None);
        for (partition, start) in partitions {
            consumer.positions.begin(partition, start);
        }
        consumer
    }

    /// Reads what the group `group.id` hands out of these topics, from where the group stopped; where it never
    /// was, from `fallback` or, without one, as `auto.offset.reset` says.
    pub fn subscribe(cluster: Cluster, topics: Vec<Str>, fallback: Option<Start>) -> Result<Self, Error> {
        let group_id =
            cluster.options().group_id.as_deref().map(Str::copy_from).ok_or_else(|| Error::Option {
                key: "group.id".to_owned(),
                value: String::new(),
                allowed: "a name, to read as a member of a group".to_owned(),
            })?;
        let membership = Membership::new(cluster.clone(), group_id, topics);
        Ok(Self::new(cluster, Some(membership), fallback))
    }

    fn new(cluster: Cluster, membership: Option<Membership>, fallback: Option<Start>) -> Self {
        Self {
            next_auto_commit: Instant::now() + cluster.options().auto_commit_interval,
            cluster,
            membership,
            fallback,
            positions: Positions::default(),
            assignment: 0,
            fetches: JoinSet::new(),
            fetching: HashSet::new(),
            buffer: VecDeque::new(),
        }
    }

    /// The partitions that are being read.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.positions.names().cloned().collect()
    }

    /// Stops reading a partition that was assigned by name.
    pub fn unassign(&mut self, partition: &TopicPartition) {
        self.positions.remove(partition);
        self.buffer.retain(|fetched| fetched.partition() != partition);
    }

    /// Goes on at this offset in a partition that is being read.
    pub fn seek(&mut self, partition: &TopicPartition, offset: Offset) {
        if self.positions.get(partition).is_some() {
            self.buffer.retain(|fetched| fetched.partition() != partition);
            self.positions.begin(partition.clone(), Start::Offset(offset));
        }
    }

    /// The next offset to be handed out, once it is known.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        match self.positions.get(partition)?.state {
            State::Reading { position, .. } => Some(position),
            State::Seeking(_) => None,
        }
    }

    /// The ends of a partition, as of the last fetch.
    pub fn watermarks(&self, partition: &TopicPartition) -> Option<Watermarks> {
        self.positions.get(partition)?.watermarks
    }

    /// The next records, all of one partition, or none when `wait` is over or a partition's position moved
    /// over records that are not to be seen. What earlier calls returned counts as dealt with.
    ///
    /// The future may be dropped: nothing is lost, the next call goes on.
    pub async fn poll(&mut self, wait: Duration) -> Result<Vec<ConsumedRecord>, Error> {
        let deadline = Instant::now() + wait;
        self.positions.handle_all();
        loop {
            self.keep_membership().await?;
            self.auto_commit().await;
            if let Some(records) = self.hand_out()? {
                return Ok(records);
            }
            self.find_positions().await?;
            self.send_fetches().await?;
            let wake = self.positions.wake().map_or(deadline, |wake| wake.min(deadline));
            tokio::select! {
                Some(done) = self.fetches.join_next() => self.fetched(done.expect("fetching does not panic"))?,
                () = membership_changed(&mut self.membership) => {}
                () = sleep_until(wake) => {}
            }
            self.positions.end_pauses(Instant::now());
            if Instant::now() >= deadline && self.buffer.is_empty() {
                return Ok(Vec::new());
            }
        }
    }

    /// Commits what was dealt with: everything handed out before the last call of `poll`.
    pub async fn commit(&mut self) -> Result<(), Error> {
        match &mut self.membership {
            Some(membership) => membership.commit(&self.positions.handled()).await,
            None => Ok(()),
        }
    }

    /// Counts everything handed out as dealt with, commits it and leaves the group.
    pub async fn close(mut self) -> Result<(), Error> {
        self.positions.handle_all();
        let committed = match self.cluster.options().enable_auto_commit {
            true => self.commit().await,
            false => Ok(()),
        };
        if let Some(membership) = &mut self.membership {
            membership.leave().await;
        }
        committed
    }

    // Membership.

    async fn keep_membership(&mut self) -> Result<(), Error> {
        let Some(membership) = &mut self.membership else { return Ok(()) };
        membership.polled();
        match membership.pulse() {
            Some(Pulse::Stable) => return Ok(()),
            Some(Pulse::Fenced(error)) => return Err(error),
            // A member that was thrown out may no longer commit: others may have read on.
            Some(Pulse::Lost) | None => {}
            Some(Pulse::Rebalancing) => {
                let handled = self.positions.handled();
                if self.cluster.options().enable_auto_commit
                    && let Err(error) = membership.commit(&handled).await
                {
                    tracing::warn!(%error, "records will be read again by whoever gets their partitions");
                }
            }
        }
        let owned: Vec<_> = self.positions.names().cloned().collect();
        self.drop_assignment();
        let Some(membership) = &mut self.membership else { return Ok(()) };
        let assigned = membership.join(&owned).await?;
        let group_id = membership.group_id().clone();
        let offsets = match assigned.is_empty() {
            true => Default::default(),
            false => Admin::new(self.cluster.clone()).group_offsets(&group_id).await?,
        };
        for partition in assigned {
            if let Some(expired) = offsets.expired.get(&partition) {
                tracing::warn!(
                    %partition, offset = %expired.offset, expired_at_ms = expired.expired_at.0,
                    "what the group had committed has expired, reading on as if it had committed nothing"
                );
            }
            let start = match offsets.committed.get(&partition) {
                Some(committed) => Start::Offset(committed.offset),
                None => self.start_without_position(&partition)?,
            };
            self.positions.begin(partition, start);
        }
        Ok(())
    }

    fn drop_assignment(&mut self) {
        self.assignment += 1;
        self.positions.clear();
        self.buffer.clear();
    }

    fn start_without_position(&self, partition: &TopicPartition) -> Result<Start, Error> {
        match (self.fallback, self.cluster.options().auto_offset_reset) {
            (Some(start), _) => Ok(start),
            (None, OffsetReset::Earliest) => Ok(Start::Earliest),
            (None, OffsetReset::Latest) => Ok(Start::Latest),
            (None, OffsetReset::None) => Err(Error::NoPosition { partition: partition.clone() }),
        }
    }

    async fn auto_commit(&mut self) {
        let options = self.cluster.options();
        if !options.enable_auto_commit || Instant::now() < self.next_auto_commit {
            return;
        }
        self.next_auto_commit = Instant::now() + options.auto_commit_interval;
        if let Err(error) = self.commit().await {
            tracing::warn!(%error, "offsets were not committed, the next commit includes them");
        }
    }

    // Positions.

    /// Looks up the positions that are not known yet.
    async fn find_positions(&mut self) -> Result<(), Error> {
        let seeking = self.positions.seeking();
        if seeking.is_empty() {
            return Ok(());
        }
        let earliest = self.list(&seeking, |_| Some(OffsetSpec::Earliest)).await?;
        let latest = self.list(&seeking, |_| Some(OffsetSpec::Latest)).await?;
        let at = self
            .list(&seeking, |start| match start {
                Start::At(time) => Some(OffsetSpec::At(time)),
                _ => None,
            })
            .await?;
        for (partition, start) in seeking {
            let (Some(&earliest), Some(&latest)) = (earliest.get(&partition), latest.get(&partition)) else {
                continue;
            };
            let position = start.resolve(earliest, latest, at.get(&partition).copied());
            if let Some(found) = self.positions.get_mut(&partition) {
                found.state = State::Reading { position, leader_epoch: LeaderEpoch::NONE };
            }
        }
        Ok(())
    }

    async fn list(
        &self,
        seeking: &[(TopicPartition, Start)],
        spec: impl Fn(Start) -> Option<OffsetSpec>,
    ) -> Result<HashMap<TopicPartition, Offset>, Error> {
        let asked: Vec<_> = seeking
            .iter()
            .filter_map(|(partition, start)| Some((partition.clone(), spec(*start)?)))
            .collect();
        if asked.is_empty() {
            return Ok(HashMap::new());
        }
        let isolation = self.cluster.options().isolation_level;
        let listed = Admin::new(self.cluster.clone()).list_offsets(&asked, isolation).await?;
        let mut offsets = HashMap::new();
        for (partition, listed) in listed {
            if let Some(offset) = listed?.offset {
                offsets.insert(partition, offset);
            }
        }
        Ok(offsets)
    }

    // Fetching.

    /// Sends a fetch to each broker that has none under way and nothing left in the buffer.
    async fn send_fetches(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let mut by_leader: HashMap<BrokerId, Vec<(TopicPartition, Offset, LeaderEpoch)>> = HashMap::new();
        for (partition, offset) in self.positions.fetchable(now) {
            let leader = match self.cluster.leader(&partition) {
                Some(leader) => Some(leader),
                None => self.look_up(&partition).await?,
            };
            match leader {
                Some(leader) if !self.fetching.contains(&leader.broker) => {
                    by_leader.entry(leader.broker).or_default().push((partition, offset, leader.epoch));
                }
                Some(_) => {}
                None => self.pause(&partition),
            }
        }
        // A partition that is still buffered would have to wait for the other ones' long poll to end.
        let buffered: HashSet<_> = self
            .buffer
            .iter()
            .filter_map(|fetched| self.cluster.leader(fetched.partition()))
            .map(|leader| leader.broker)
            .collect();
        for (broker, partitions) in by_leader {
            if !buffered.contains(&broker) {
                self.fetch(broker, partitions);
            }
        }
        Ok(())
    }

    async fn look_up(&self, partition: &TopicPartition) -> Result<Option<crate::metadata::Leader>, Error> {
        match self.cluster.topic(&partition.topic).await {
            Ok(_) => Ok(self.cluster.leader(partition)),
            Err(error) if error.kind() == ErrorKind::Retriable => {
                tracing::warn!(%partition, %error, "no leader to fetch from");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn pause(&mut self, partition: &TopicPartition) {
        let until = Instant::now() + self.cluster.options().retry_backoff;
        if let Some(position) = self.positions.get_mut(partition) {
            position.not_before = Some(until);
        }
    }

    fn fetch(&mut self, broker: BrokerId, partitions: Vec<(TopicPartition, Offset, LeaderEpoch)>) {
        let options = self.cluster.options();
        let size = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
        let mut topics: HashMap<Str, Vec<FetchPartition>> = HashMap::new();
        let mut asked = Vec::with_capacity(partitions.len());
        for (partition, offset, leader_epoch) in partitions {
            topics.entry(partition.topic.clone()).or_default().push(FetchPartition {
                partition: partition.partition.0,
                current_leader_epoch: leader_epoch.0,
                fetch_offset: offset.0,
                partition_max_bytes: size(options.partition_fetch_bytes_max),
                ..Default::default()
            });
            if let Some(position) = self.positions.get_mut(&partition) {
                position.is_busy = true;
            }
            asked.push((partition, offset));
        }
        let request = FetchRequest {
            max_wait_ms: i32::try_from(options.fetch_wait_max.as_millis()).unwrap_or(i32::MAX),
            min_bytes: size(options.fetch_bytes_min),
            max_bytes: size(options.fetch_bytes_max),
            isolation_level: options.isolation_level.code(),
            topics: topics
                .into_iter()
                .map(|(topic, partitions)| FetchTopic { topic, partitions, ..Default::default() })
                .collect(),
            ..Default::default()
        };
        self.fetching.insert(broker);
        let (cluster, assignment) = (self.cluster.clone(), self.assignment);
        self.fetches.spawn(async move {
            let outcome = cluster.call(broker, Lane::Fetches, request).await;
            FetchDone { broker, assignment, asked, outcome }
        });
    }

    /// Takes in what a fetch brought.
    fn fetched(&mut self, done: FetchDone) -> Result<(), Error> {
        self.fetching.remove(&done.broker);
        if done.assignment != self.assignment {
            return Ok(());
        }
        for (partition, _) in &done.asked {
            if let Some(position) = self.positions.get_mut(partition) {
                position.is_busy = false;
            }
        }
        let response = match done.outcome {
            Ok(response) if response.error_code.is_ok() => response,
            Ok(response) => return Err(Error::kafka(response.error_code, "fetching", None)),
            Err(error) if error.kind() == ErrorKind::Retriable => {
                tracing::warn!(broker = %done.broker, %error, "fetching again");
                for (partition, _) in &done.asked {
                    self.cluster.forget(&partition.topic);
                    self.pause(partition);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let asked: HashMap<_, _> = done.asked.into_iter().collect();
        for topic in response.responses {
            for data in topic.partitions {
                let partition = TopicPartition::new(topic.topic.clone(), PartitionId(data.partition_index));
                let Some(&offset) = asked.get(&partition) else { continue };
                if !data.error_code.is_ok() {
                    self.fetch_refused(&partition, offset, data.error_code)?;
                    continue;
                }
                // Whoever sought meanwhile wants other records than these.
                let is_wanted =
                    |state| matches!(state, State::Reading { position, .. } if position == offset);
                let position = self.positions.get_mut(&partition);
                let Some(position) = position.filter(|position| is_wanted(position.state)) else { continue };
                position.watermarks = Some(Watermarks {
                    log_start: Offset(data.log_start_offset),
                    last_stable: Offset(data.last_stable_offset),
                    high_watermark: Offset(data.high_watermark),
                });
                let records = data.records.unwrap_or_default().into_bytes();
                if !records.is_empty() {
                    position.is_busy = true;
                    let aborted = data.aborted_transactions.unwrap_or_default();
                    let isolation: Isolation = self.cluster.options().isolation_level;
                    self.buffer.push_back(Fetched::new(partition, records, aborted, isolation));
                }
            }
        }
        Ok(())
    }

    fn fetch_refused(
        &mut self,
        partition: &TopicPartition,
        offset: Offset,
        code: ErrorCode,
    ) -> Result<(), Error> {
        let error = Error::kafka(code, format!("fetching {partition} from offset {offset}"), None);
        if code == ErrorCode::OFFSET_OUT_OF_RANGE {
            let start = match self.cluster.options().auto_offset_reset {
                OffsetReset::Earliest => Start::Earliest,
                OffsetReset::Latest => Start::Latest,
                OffsetReset::None => return Err(error),
            };
            tracing::warn!(%partition, %offset, "the offset does not exist, reading on as auto.offset.reset says");
            if let Some(position) = self.positions.get_mut(partition) {
                position.state = State::Seeking(start);
            }
            return Ok(());
        }
        if error.kind() != ErrorKind::Retriable {
            return Err(error);
        }
        if code == ErrorCode::KAFKA_STORAGE_ERROR {
            // Passing troubles pass without a word; a disk may not come back.
            tracing::warn!(%partition, %error, "fetching again");
        } else {
            tracing::debug!(%partition, %error, "fetching again");
        }
        self.cluster.forget(&partition.topic);
        self.pause(partition);
        Ok(())
    }

    /// The next batch's records out of the buffer.
    fn hand_out(&mut self) -> Result<Option<Vec<ConsumedRecord>>, Error> {
        while let Some(fetched) = self.buffer.front_mut() {
            let partition = fetched.partition().clone();
            let position = self.positions.get_mut(&partition);
            let Some((position, State::Reading { position: offset, leader_epoch })) =
                position.map(|position| {
                    let state = position.state;
                    (position, state)
                })
            else {
                self.buffer.pop_front();
                continue;
            };
            let Some(unpacked) = fetched.next(offset) else {
                position.is_busy = false;
                self.buffer.pop_front();
                continue;
            };
            let unpacked = unpacked?;
            let leader_epoch = unpacked.records.last().map_or(leader_epoch, |last| last.leader_epoch);
            position.state = State::Reading { position: unpacked.next, leader_epoch };
            if unpacked.records.is_empty() {
                // Nothing to deal with: what was skipped counts as handled with what came before it.
                continue;
            }
            return Ok(Some(unpacked.records));
        }
        Ok(None)
    }
}

async fn membership_changed(membership: &mut Option<Membership>) {
    match membership {
        Some(membership) => membership.changed().await,
        None => std::future::pending().await,
    }
}
