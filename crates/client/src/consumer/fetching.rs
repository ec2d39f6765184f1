//! From an assigned partition to fetched bytes: where to begin, whether the log is still the one that was read, and the
//! fetches themselves.
//!
//! There is one fetch under way per broker. What lies unread in the buffers and what the fetch may bring are together no
//! more than `fetch.max.bytes` per broker. What a partition cannot go on with stops that partition alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::time::Instant;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData};
use wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, Str, TopicPartition, Uuid};

use super::driver::{Asked, Done, Driver, Ends, Found};
use super::fetched::Fetched;
use super::offsets::Assigned;
use super::positions::{Begin, Start, Watermarks};
use super::shared::{Reset, Slot, Standing, State};
use crate::admin::{Admin, OffsetSpec};
use crate::cluster::{Cluster, Lane, leader_gone};
use crate::error::{Error, ErrorKind};
use crate::metadata::Leader;
use crate::options::{OffsetReset, Options};

/// The last version of Fetch that names topics instead of giving their ids.
const BY_NAME_VERSION_MAX: i16 = 12;

/// A fetch asks for this part of `fetch.max.bytes`: what it brings is held until the last of it is read.
const FETCHES_HELD: usize = 8;

/// What a fetch asks for, in this order: a broker gives as much of the first as it may, and of the rest what is left. So
/// those of which nothing waits go before those of which something does, and among them goes first what comes behind the last
/// that brought something, or with many partitions the same would stay first.
#[derive(Default)]
struct Wanted {
    first: Vec<(TopicPartition, Asked, LeaderEpoch)>,
    behind: Vec<(TopicPartition, Asked, LeaderEpoch)>,
}

impl Driver {
    // Where to begin.

    /// Asks the store of offsets about partitions that were just assigned.
    pub(super) fn load(&mut self) {
        let now = Instant::now();
        let mut known = Vec::new();
        let mut unknown: BTreeMap<Str, Vec<(TopicPartition, u64)>> = BTreeMap::new();
        let mut state = self.shared.lock();
        let epoch = state.identity.as_ref().map_or(-1, |identity| identity.epoch);
        for (partition, slot) in state.slots.iter_mut() {
            if slot.standing != Standing::Loading || !slot.may_ask(now) {
                continue;
            }
            slot.is_asked = true;
            let asked = (partition.clone(), slot.life);
            match self.cluster.known_topic(&partition.topic) {
                Some(_) => known.push(asked),
                None => unknown.entry(partition.topic.clone()).or_default().push(asked),
            }
        }
        drop(state);
        // A topic that nobody knows does not keep the others waiting.
        for asked in unknown.into_values().chain(Some(known).filter(|known| !known.is_empty())) {
            let (cluster, offsets) = (self.cluster.clone(), std::sync::Arc::clone(&self.offsets));
            self.work.spawn(async move {
                let mut failed = Vec::new();
                let (mut lives, mut assigned) = (Vec::new(), Vec::new());
                for (partition, life) in asked {
                    match cluster.topic(&partition.topic).await {
                        Ok(topic) => {
                            lives.push(life);
                            assigned.push(Assigned { partition, topic_id: topic.id, epoch });
                        }
                        Err(error) => failed.push(Found { partition, life, outcome: Err(error) }),
                    }
                }
                let mut begins = match assigned.is_empty() {
                    true => Vec::new(),
                    false => offsets.load(&assigned).await,
                };
                let silent = || Err(Error::Usage("the store of offsets says nothing about it".to_owned()));
                begins.resize_with(assigned.len(), silent);
                let found = assigned.into_iter().zip(lives).zip(begins).map(|((assigned, life), begin)| {
                    let outcome = begin.map(|begin| (assigned.topic_id, begin));
                    Found { partition: assigned.partition, life, outcome }
                });
                Done::Loaded(found.chain(failed).collect())
            });
        }
    }

    pub(super) fn take_loaded(&mut self, found: Vec<Found<(Uuid, Option<Begin>)>>) {
        let mut state = self.shared.lock();
        for Found { partition, life, outcome } in found {
            let Some(slot) = state.slots.get_mut(&partition).filter(|slot| slot.life == life) else {
                continue;
            };
            slot.is_asked = false;
            let begin = match outcome {
                Ok((topic_id, begin)) => {
                    slot.topic_id = topic_id;
                    begin
                }
                Err(error) => {
                    self.put_off(&mut state, &partition, error);
                    continue;
                }
            };
            match begin {
                Some(begin) => {
                    if let Start::Offset(offset) = begin.start {
                        slot.committed = Some(offset);
                    }
                    state.seek(&partition, begin);
                }
                None => match self.reset() {
                    Some(start) => state.look_up(&partition, start, None),
                    None => {
                        let reason = Error::NoPosition { partition: partition.clone() };
                        state.stop(&partition, reason);
                    }
                },
            }
        }
    }

    /// Where `auto.offset.reset` goes on; nowhere if it is none.
    fn reset(&self) -> Option<Start> {
        match self.cluster.options().auto_offset_reset {
            OffsetReset::Earliest => Some(Start::Earliest),
            OffsetReset::Latest => Some(Start::Latest),
            OffsetReset::ByDuration(age) => {
                let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                Some(Start::At(self.cluster.environment().now().plus(-age_ms)))
            }
            OffsetReset::None => None,
        }
    }

    /// Asked again later, unless that cannot help.
    fn put_off(&self, state: &mut State, partition: &TopicPartition, error: Error) {
        let options = self.cluster.options();
        let Some(slot) = state.slots.get_mut(partition) else { return };
        slot.is_asked = false;
        let is_missing = matches!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        if is_missing {
            // It may be created yet; until then it is told once.
            slot.not_before = Some(Instant::now() + options.retry_backoff_max);
            if !std::mem::replace(&mut slot.is_told_missing, true) {
                state.tell(error);
            }
        } else if error.kind() == ErrorKind::Retriable {
            tracing::warn!(%partition, %error, "trying again");
            slot.not_before = Some(Instant::now() + options.retry_backoff);
        } else {
            state.stop(partition, error);
        }
    }

    // Where that is.

    /// Looks up places that are not offsets, and offsets whose log may be another by now.
    pub(super) fn find_places(&mut self) {
        let now = Instant::now();
        let mut seeking: HashMap<Option<BrokerId>, Vec<(TopicPartition, u64, Start)>> = HashMap::new();
        let mut validating: HashMap<Leader, Vec<(TopicPartition, u64, LeaderEpoch)>> = HashMap::new();
        let mut unknown = BTreeSet::new();
        let mut state = self.shared.lock();
        for (partition, slot) in state.slots.iter_mut() {
            if slot.is_leaving || !slot.may_ask(now) {
                continue;
            }
            let leader = self.cluster.leader(partition);
            match (slot.standing, leader) {
                (Standing::Seeking { start, .. }, leader) => {
                    let asked = (partition.clone(), slot.life, start);
                    seeking.entry(leader.map(|leader| leader.broker)).or_default().push(asked);
                }
                (Standing::Validating, Some(leader)) => {
                    let asked = (partition.clone(), slot.life, slot.leader_epoch);
                    validating.entry(leader).or_default().push(asked);
                }
                (Standing::Validating, None) => {
                    unknown.insert(partition.topic.clone());
                    continue;
                }
                _ => continue,
            }
            slot.is_asked = true;
        }
        drop(state);
        for topic in unknown {
            self.look_up_topic(topic);
        }
        for asked in seeking.into_values() {
            let cluster = self.cluster.clone();
            self.work.spawn(async move { Done::Listed(list(&cluster, asked).await) });
        }
        for (leader, asked) in validating {
            let cluster = self.cluster.clone();
            self.work.spawn(async move {
                Done::Validated { leader: leader.epoch, found: validate(&cluster, leader, asked).await }
            });
        }
    }

    pub(super) fn take_listed(&mut self, found: Vec<Found<Ends>>) {
        let mut state = self.shared.lock();
        for Found { partition, life, outcome } in found {
            let Some(slot) = state.slots.get_mut(&partition).filter(|slot| slot.life == life) else {
                continue;
            };
            slot.is_asked = false;
            match (outcome, slot.standing) {
                (Ok(ends), Standing::Seeking { start, why }) => {
                    let offset = start.resolve(ends.earliest, ends.latest, ends.at);
                    slot.arrive(offset, LeaderEpoch::NONE);
                    if let Some(Reset { from, cause }) = why {
                        state.resets += 1;
                        tracing::warn!(
                            %partition, %from, to = %offset, log_start = %ends.earliest, log_end = %ends.latest, cause,
                            "the position does not exist any more, reading on as auto.offset.reset says"
                        );
                    }
                    // Whoever looks at positions may wait for this one.
                    state.wake();
                }
                (Ok(_), _) => {}
                (Err(error), _) => self.put_off(&mut state, &partition, error),
            }
        }
    }

    pub(super) fn take_validated(&mut self, leader: LeaderEpoch, found: Vec<Found<(LeaderEpoch, Offset)>>) {
        let mut state = self.shared.lock();
        for Found { partition, life, outcome } in found {
            let is_it = |slot: &&mut Box<Slot>| slot.life == life && slot.standing == Standing::Validating;
            let Some(slot) = state.slots.get_mut(&partition).filter(is_it) else { continue };
            slot.is_asked = false;
            let (epoch, end) = match outcome {
                Ok(found) => found,
                Err(error) => {
                    if error.kind() == ErrorKind::Retriable {
                        self.cluster.forget(&partition.topic);
                    }
                    self.put_off(&mut state, &partition, error);
                    continue;
                }
            };
            let position = slot.fetch_position;
            slot.standing = Standing::Reading;
            // As Java's consumer does, the end of an older epoch is taken for enough: compaction removes the last records of an
            // epoch, and a replica made since has never seen it. Whoever has to know more asks whether the topic is compacted.
            if end >= position {
                slot.validated = leader;
                continue;
            }
            let why = Reset { from: position, cause: "the log was truncated by an unclean election" };
            match self.reset() {
                None => {
                    let doing = format!(
                        "reading {partition} at offset {position}, past {end} where its log was cut off"
                    );
                    state.stop(&partition, Error::kafka(ErrorCode::OFFSET_OUT_OF_RANGE, doing, None));
                }
                // The leader knows nothing of that epoch.
                Some(start) if end < Offset::ZERO => state.look_up(&partition, start, Some(why)),
                Some(_) => {
                    // Back to where the logs part, or to what is not done with yet.
                    let handled = slot.ledger.as_ref().map_or(end, |ledger| ledger.handled().next);
                    let to = end.min(handled);
                    state.resets += 1;
                    tracing::warn!(
                        %partition, from = %position, %to, log_end_in_epoch = %end, cause = why.cause,
                        "the position does not exist any more, reading on where the logs part"
                    );
                    let begin = Begin { start: Start::Offset(to), leader_epoch: epoch };
                    state.seek(&partition, begin);
                }
            }
        }
    }

    // Fetching.

    /// Sends a fetch to each broker that has none under way and leads, or is near, something that may be read.
    pub(super) fn send_fetches(&mut self) {
        let now = Instant::now();
        let Options { fetch_bytes_max: bytes_max, fetch_bytes_min: bytes_min, .. } = *self.cluster.options();
        let mut by_broker: HashMap<BrokerId, Wanted> = HashMap::new();
        let mut buffered: HashMap<BrokerId, usize> = HashMap::new();
        let mut unknown = BTreeSet::new();
        let mut recreated = Vec::new();
        let mut state = self.shared.lock();
        for (partition, slot) in state.slots.iter_mut() {
            *buffered.entry(slot.source).or_default() += slot.buffered_bytes();
            if slot.standing != Standing::Reading || slot.is_leaving || slot.is_paused || slot.waits(now) {
                continue;
            }
            slot.not_before = None;
            let Some((topic_id, leader)) = self.cluster.place(partition) else {
                unknown.insert(partition.topic.clone());
                continue;
            };
            if slot.topic_id.is_zero() {
                slot.topic_id = topic_id;
            }
            if topic_id != slot.topic_id && !topic_id.is_zero() {
                recreated.push((partition.clone(), topic_id));
                continue;
            }
            if slot.has_to_validate(leader) {
                slot.standing = Standing::Validating;
                self.shared.driver.notify_one();
                continue;
            }
            slot.preferred =
                slot.preferred.filter(|(broker, until)| now < *until && self.cluster.has_broker(*broker));
            let broker = slot.preferred.map_or(leader.broker, |(broker, _)| broker);
            let asked = Asked { topic_id: slot.topic_id, offset: slot.fetch_position };
            let Wanted { first, behind } = by_broker.entry(broker).or_default();
            let wanted = if slot.buffered_bytes() == 0 { first } else { behind };
            wanted.push((partition.clone(), asked, leader.epoch));
        }
        for (partition, topic_id) in recreated {
            tracing::warn!(%partition, "the topic was deleted and created again: what was read is gone");
            state.resets += 1;
            state.begin(partition, topic_id, None);
            self.shared.driver.notify_one();
        }
        drop(state);
        for topic in unknown {
            self.look_up_topic(topic);
        }
        for (broker, mut partitions) in by_broker {
            if let Some(last) = self.last_brought.get(&broker) {
                let begun = partitions.first.partition_point(|(partition, ..)| partition <= last);
                partitions.first.rotate_left(begun);
            }
            let unread = buffered.get(&broker).copied().unwrap_or(0);
            let part = bytes_max.div_ceil(FETCHES_HELD);
            // Others come ahead of the reader while half of it is unread.
            if !self.fetching.contains(&broker) && unread <= bytes_max / 2 {
                self.fetch(broker, partitions, part.max(bytes_min).min(bytes_max - unread));
            }
        }
    }

    fn look_up_topic(&mut self, topic: Str) {
        if self.looking.insert(topic.clone()) {
            let cluster = self.cluster.clone();
            self.work.spawn(async move {
                let outcome = cluster.topic(&topic).await.map(drop);
                Done::Looked { topic, outcome }
            });
        }
    }

    pub(super) fn take_looked(&mut self, topic: &Str, outcome: Result<(), Error>) {
        self.looking.remove(topic);
        let mut state = self.shared.lock();
        let of_topic = state.slots.keys().filter(|partition| partition.topic == *topic);
        let without: Vec<_> =
            of_topic.filter(|partition| self.cluster.place(partition).is_none()).cloned().collect();
        if outcome.is_ok() && !without.is_empty() {
            // The topic is known; a partition without a leader gets one in a moment.
            self.cluster.forget(topic);
        }
        let options = self.cluster.options();
        let mut is_told = false;
        for partition in without {
            match &outcome {
                Ok(()) => {
                    if let Some(slot) = state.slots.get_mut(&partition) {
                        slot.not_before = Some(Instant::now() + options.retry_backoff);
                    }
                }
                Err(error) => {
                    // A topic that is not there is told of once, not for each of its partitions.
                    if let Some(slot) = state.slots.get_mut(&partition) {
                        slot.is_told_missing |= is_told;
                        is_told |= error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
                    }
                    self.put_off(&mut state, &partition, error.clone());
                }
            }
        }
    }

    fn fetch(&mut self, broker: BrokerId, Wanted { first, behind }: Wanted, bytes_max: usize) {
        let options = self.cluster.options();
        let size = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
        let mut topics: Vec<FetchTopic> = Vec::new();
        let mut all_asked = HashMap::with_capacity(first.len() + behind.len());
        for (partition, asked, leader_epoch) in first.into_iter().chain(behind) {
            let fetched = FetchPartition {
                partition: partition.partition.0,
                current_leader_epoch: leader_epoch.0,
                fetch_offset: asked.offset.0,
                partition_max_bytes: size(options.partition_fetch_bytes_max),
                ..Default::default()
            };
            match topics.last_mut().filter(|last| last.topic == partition.topic) {
                Some(last) => last.partitions.push(fetched),
                None => topics.push(FetchTopic {
                    topic: partition.topic.clone(),
                    topic_id: asked.topic_id,
                    partitions: vec![fetched],
                }),
            }
            all_asked.insert(partition, asked);
        }
        let request = FetchRequest {
            max_wait_ms: i32::try_from(options.fetch_wait_max.as_millis()).unwrap_or(i32::MAX),
            min_bytes: size(options.fetch_bytes_min),
            max_bytes: size(bytes_max),
            isolation_level: options.isolation_level.code(),
            rack_id: options.client_rack.as_deref().map_or_else(Str::default, Str::copy_from),
            topics,
            ..Default::default()
        };
        self.fetching.insert(broker);
        let cluster = self.cluster.clone();
        self.work.spawn(async move {
            let outcome = ask(&cluster, broker, request).await;
            Done::Fetched { broker, asked: all_asked, outcome }
        });
    }

    /// Takes in what a fetch brought.
    pub(super) fn take_fetched(
        &mut self,
        broker: BrokerId,
        asked: HashMap<TopicPartition, Asked>,
        outcome: Result<FetchResponse, Error>,
    ) {
        self.fetching.remove(&broker);
        let mut state = self.shared.lock();
        let outcome = outcome.and_then(|response| match response.error_code {
            ErrorCode::NONE => Ok(response),
            code => Err(Error::kafka(code, format!("fetching from broker {broker}"), None)),
        });
        let response = match outcome {
            Ok(response) => response,
            Err(error) => {
                if error.kind() == ErrorKind::Retriable {
                    tracing::warn!(%broker, %error, "fetching again");
                }
                for partition in asked.keys() {
                    self.cluster.forget(&partition.topic);
                    if let Some(slot) = state.slots.get_mut(partition) {
                        slot.preferred = None;
                        slot.not_before = Some(Instant::now() + self.cluster.options().retry_backoff);
                        if error.kind() != ErrorKind::Retriable {
                            state.stop(partition, error.clone());
                        }
                    }
                }
                return;
            }
        };
        let names: HashMap<Uuid, &Str> =
            asked.iter().map(|(partition, asked)| (asked.topic_id, &partition.topic)).collect();
        // From here on something may wait for the application; what did before goes on waiting.
        state.idle();
        let endpoints = response.node_endpoints;
        for topic in response.responses {
            let name = match topic.topic.is_empty() {
                true => names.get(&topic.topic_id).map(|name| (*name).clone()),
                false => Some(topic.topic),
            };
            let Some(name) = name else { continue };
            for data in topic.partitions {
                let partition = TopicPartition::new(name.clone(), PartitionId(data.partition_index));
                if let Some(asked) = asked.get(&partition) {
                    let leader = Leader {
                        broker: BrokerId(data.current_leader.leader_id),
                        epoch: LeaderEpoch(data.current_leader.leader_epoch),
                    };
                    let hosts = endpoints.iter().map(|node| (BrokerId(node.node_id), &*node.host, node.port));
                    if data.records.as_ref().is_some_and(|records| !records.is_empty()) {
                        self.last_brought.insert(broker, partition.clone());
                    }
                    let is_news = self.cluster.learn_leader(&partition, leader, hosts);
                    self.take_partition(&mut state, broker, &partition, *asked, data);
                    // Whoever refused named the leader: it is asked at once.
                    if let Some(slot) = state.slots.get_mut(&partition).filter(|_| is_news) {
                        slot.not_before = None;
                    }
                }
            }
        }
    }

    fn take_partition(
        &self,
        state: &mut State,
        broker: BrokerId,
        partition: &TopicPartition,
        asked: Asked,
        data: PartitionData,
    ) {
        // Whoever sought meanwhile wants other records than these.
        let is_wanted = |slot: &&mut Box<Slot>| {
            let is_reading = matches!(slot.standing, Standing::Reading | Standing::Validating);
            is_reading
                && !slot.is_leaving
                // It would leave no room to others of its broker.
                && !slot.is_paused
                && slot.fetch_position == asked.offset
                && slot.topic_id == asked.topic_id
        };
        let Some(slot) = state.slots.get_mut(partition).filter(is_wanted) else { return };
        if !data.error_code.is_ok() {
            self.refused(state, broker, partition, asked.offset, &data);
            return;
        }
        if data.preferred_read_replica >= 0 && data.preferred_read_replica != broker.0 {
            let until = Instant::now() + self.cluster.options().metadata_max_age;
            let nearer = BrokerId(data.preferred_read_replica);
            tracing::debug!(%partition, %nearer, "reading from a nearer replica");
            slot.preferred = Some((nearer, until));
        }
        let watermarks = Watermarks {
            log_start: Offset(data.log_start_offset),
            last_stable: Offset(data.last_stable_offset),
            high_watermark: Offset(data.high_watermark),
        };
        slot.watermarks = Some(watermarks);
        slot.is_told_missing = false;
        let records = data.records.unwrap_or_default().into_bytes();
        if records.is_empty() {
            return;
        }
        let aborted = data.aborted_transactions.unwrap_or_default();
        let fetched = Fetched::new(records, watermarks, aborted, self.cluster.options().isolation_level);
        match fetched.problem() {
            Some(problem) => {
                slot.not_before = Some(Instant::now() + self.cluster.options().retry_backoff);
                state.damaged(partition, asked.offset, &problem);
            }
            None => state.put(partition, fetched, broker),
        }
    }

    fn refused(
        &self,
        state: &mut State,
        broker: BrokerId,
        partition: &TopicPartition,
        offset: Offset,
        data: &PartitionData,
    ) {
        let Some(slot) = state.slots.get_mut(partition) else { return };
        let options = self.cluster.options();
        let code = data.error_code;
        slot.not_before = Some(Instant::now() + options.retry_backoff);
        if slot.preferred.take().is_some_and(|(nearer, _)| nearer == broker) {
            // The leader has the last word.
            tracing::debug!(%partition, %broker, %code, "the nearer replica refused, reading from the leader");
            slot.not_before = None;
            return;
        }
        let error = Error::kafka(code, format!("fetching {partition} from offset {offset}"), None);
        if code == ErrorCode::OFFSET_OUT_OF_RANGE {
            // What is in hand or waits to be is dealt with first; a reset must not pass over it.
            let is_clear =
                slot.position == offset && slot.ledger.as_ref().is_none_or(|ledger| !ledger.is_in_hand());
            if !is_clear {
                slot.not_before = Some(Instant::now() + options.retry_backoff_max);
                return;
            }
            match self.reset() {
                Some(start) => {
                    let cause = "it lies outside of the log: retention or a truncation passed it";
                    state.look_up(partition, start, Some(Reset { from: offset, cause }));
                    self.shared.driver.notify_one();
                }
                None => state.stop(partition, error),
            }
            return;
        }
        if matches!(code, ErrorCode::UNKNOWN_TOPIC_ID | ErrorCode::INCONSISTENT_TOPIC_ID)
            || error.kind() == ErrorKind::Retriable
        {
            if code == ErrorCode::KAFKA_STORAGE_ERROR {
                // Passing troubles pass without a word; a disk may not come back.
                tracing::warn!(%partition, %error, "fetching again");
            } else {
                tracing::debug!(%partition, %error, "fetching again");
            }
            // A leader that was named by who is none any more is known, see `take_fetched`.
            if data.current_leader.leader_id < 0 {
                self.cluster.forget(&partition.topic);
            }
            return;
        }
        state.stop(partition, error);
    }
}

impl Slot {
    fn waits(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|not_before| now < not_before)
    }

    /// Whether what its standing asks for may be looked up now.
    fn may_ask(&mut self, now: Instant) -> bool {
        let may = !self.is_asked && !self.waits(now) && !self.is_leaving;
        if may && !matches!(self.standing, Standing::Reading | Standing::Stopped) {
            self.not_before = None;
        }
        may
    }

    /// Whether the leader is another than the one whose log was read. A leader whose own epoch the last record has
    /// wrote it itself.
    fn has_to_validate(&mut self, leader: Leader) -> bool {
        let is_known = leader.epoch != LeaderEpoch::NONE && self.leader_epoch != LeaderEpoch::NONE;
        if !is_known || leader.epoch == self.validated {
            return false;
        }
        if leader.epoch == self.leader_epoch {
            self.validated = leader.epoch;
            return false;
        }
        true
    }
}

/// Topics go by id where all ids are known and the broker takes them: then a topic that was created again is another.
async fn ask(cluster: &Cluster, broker: BrokerId, request: FetchRequest) -> Result<FetchResponse, Error> {
    let connection = cluster.connection(broker, Lane::Fetches).await.map_err(leader_gone)?;
    let newest = connection.version::<FetchRequest>()?;
    let is_by_id = request.topics.iter().all(|topic| !topic.topic_id.is_zero());
    let version = if is_by_id { newest } else { newest.min(BY_NAME_VERSION_MAX) };
    connection.call_version(request, version, cluster.request_deadline()).await
}

async fn list(cluster: &Cluster, seeking: Vec<(TopicPartition, u64, Start)>) -> Vec<Found<Ends>> {
    let admin = Admin::new(cluster.clone());
    let isolation = cluster.options().isolation_level;
    let look = async |spec: fn(Start) -> Option<OffsetSpec>| {
        let asked: Vec<_> = seeking
            .iter()
            .filter_map(|(partition, _, start)| Some((partition.clone(), spec(*start)?)))
            .collect();
        if asked.is_empty() {
            return Ok(HashMap::new());
        }
        let listed = admin.list_offsets(&asked, isolation).await?;
        Ok(listed.into_iter().collect::<HashMap<_, _>>())
    };
    let all = async {
        let earliest = look(|_| Some(OffsetSpec::Earliest)).await?;
        let latest = look(|_| Some(OffsetSpec::Latest)).await?;
        let at = look(|start| match start {
            Start::At(time) => Some(OffsetSpec::At(time)),
            _ => None,
        });
        Ok::<_, Error>((earliest, latest, at.await?))
    };
    let (mut earliest, mut latest, mut at) = match all.await {
        Ok(all) => all,
        Err(error) => {
            let failed = seeking.into_iter().map(|(partition, life, _)| Found {
                partition,
                life,
                outcome: Err(error.clone()),
            });
            return failed.collect();
        }
    };
    let nowhere = |partition: &TopicPartition| Error::Protocol {
        doing: format!("listing offsets of {partition}"),
        problem: "it has no beginning or no end".to_owned(),
    };
    let found = seeking.into_iter().map(|(partition, life, _)| {
        let end = |offsets: &mut HashMap<TopicPartition, Result<crate::admin::ListedOffset, Error>>| {
            offsets.remove(&partition).transpose().map(|listed| listed.and_then(|listed| listed.offset))
        };
        let outcome = (|| {
            let earliest = end(&mut earliest)?.ok_or_else(|| nowhere(&partition))?;
            let latest = end(&mut latest)?.ok_or_else(|| nowhere(&partition))?;
            Ok(Ends { earliest, latest, at: end(&mut at)? })
        })();
        Found { partition, life, outcome }
    });
    found.collect()
}

/// Asks a leader how far its log goes in the epochs of the last records read.
async fn validate(
    cluster: &Cluster,
    leader: Leader,
    asked: Vec<(TopicPartition, u64, LeaderEpoch)>,
) -> Vec<Found<(LeaderEpoch, Offset)>> {
    let mut topics: BTreeMap<Str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for (partition, _, epoch) in &asked {
        topics.entry(partition.topic.clone()).or_default().push(OffsetForLeaderPartition {
            partition: partition.partition.0,
            current_leader_epoch: leader.epoch.0,
            leader_epoch: epoch.0,
        });
    }
    let topics = topics.into_iter().map(|(topic, partitions)| OffsetForLeaderTopic { topic, partitions });
    let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: topics.collect() };
    let mut answers = HashMap::new();
    match cluster.call(leader.broker, Lane::Requests, request).await.map_err(leader_gone) {
        Ok(response) => {
            for topic in response.topics {
                for answer in topic.partitions {
                    let partition = TopicPartition::new(topic.topic.clone(), PartitionId(answer.partition));
                    let doing = format!("validating the position in {partition}");
                    let outcome = match answer.error_code {
                        ErrorCode::NONE => Ok((LeaderEpoch(answer.leader_epoch), Offset(answer.end_offset))),
                        code => Err(Error::kafka(code, doing, None)),
                    };
                    answers.insert(partition, outcome);
                }
            }
        }
        Err(error) => {
            answers.extend(asked.iter().map(|(partition, ..)| (partition.clone(), Err(error.clone()))));
        }
    }
    let silent = |partition: &TopicPartition| Error::Protocol {
        doing: format!("validating the position in {partition}"),
        problem: "it says nothing about it".to_owned(),
    };
    let found = asked.into_iter().map(|(partition, life, _)| {
        let outcome = answers.remove(&partition).unwrap_or_else(|| Err(silent(&partition)));
        Found { partition, life, outcome }
    });
    found.collect()
}
