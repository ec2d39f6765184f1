//! Lag of the groups coordinated here, looked up when somebody reads the metrics page.
//!
//! The coordinator knows what was committed; where partitions end, and since when a record waits, their leaders know: they are asked,
//! each once for all groups. Nothing is asked while nobody reads the page, and what no leader answers for in time is not on it, rather
//! than wrong. How many partitions are on it is bounded by `group.lag.metrics.max`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use client::{Lag, Progress, Unread};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use wire::{BrokerId, ErrorCode, Message, Millis, Offset, PartitionId, Str, TopicPartition};

use crate::broker::Broker;
use crate::handler::list_offsets::{self, UNREAD_MAX};
use crate::metrics::{GroupLag, LagRow};

/// A page read sooner than this after another is told the same.
const LOOK_MIN: Duration = Duration::from_secs(1);
/// How long a leader may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Looks that the pace is taken over, at most.
const SAMPLES_MAX: usize = 6;
/// An older look says nothing of the pace of now.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(600);

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// What was seen at earlier looks.
#[derive(Default)]
pub(crate) struct GroupLags(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    last: Option<(Instant, Arc<GroupLag>)>,
    samples: VecDeque<(Instant, HashMap<Place, Progress>)>,
}

/// A group and a partition.
type Place = (Str, TopicPartition);

/// What is committed here.
#[derive(Default)]
struct Committed {
    offsets: Vec<(Place, Offset)>,
    told: GroupLag,
}

impl GroupLags {
    /// The lag as of now, or as of a moment ago.
    pub(crate) async fn look(&self, broker: &Arc<Broker>) -> Arc<GroupLag> {
        let count_max = broker.settings().broker().groups.lag_metrics_max;
        let mut seen = self.0.lock().await;
        let now = Instant::now();
        if let Some((at, last)) = &seen.last
            && now.duration_since(*at) < LOOK_MIN
        {
            return Arc::clone(last);
        }
        seen.samples.retain(|(at, _)| now.duration_since(*at) <= SAMPLE_AGE_MAX);
        let Committed { offsets, mut told } = committed(broker, count_max);
        let positions = ask_leaders(broker, &offsets).await;
        let mut sample = HashMap::with_capacity(offsets.len());
        for (place, committed) in offsets {
            let Some(Position { start, end, unread }) = positions.get(&place).copied() else { continue };
            let (group, partition) = place.clone();
            let state = if committed < start {
                "below_log_start"
            } else if committed > end {
                "past_log_end"
            } else {
                "committed"
            };
            *told.offsets.entry((group.clone(), state)).or_default() += 1;
            let lag = Lag::of(committed, start, end, unread);
            let progress = Progress { committed, end };
            if let Some((at, earlier)) = seen.samples.front()
                && let Some(earlier) = earlier.get(&place)
            {
                let clear = progress.time_to_clear(*earlier, now.duration_since(*at), lag.records);
                let seconds = clear.map_or(f64::INFINITY, |clear| clear.as_secs_f64());
                let longest = told.clear_seconds.entry(group.clone()).or_default();
                *longest = longest.max(seconds);
            }
            sample.insert(place, progress);
            told.rows.push(LagRow { group, partition, lag });
        }
        if seen.samples.len() == SAMPLES_MAX {
            seen.samples.pop_front();
        }
        seen.samples.push_back((now, sample));
        let told = Arc::new(told);
        seen.last = Some((now, Arc::clone(&told)));
        told
    }
}

/// What the groups here have committed, up to `count_max` partitions; the rest is counted.
fn committed(broker: &Broker, count_max: usize) -> Committed {
    let mut committed = Committed::default();
    let mut left = count_max;
    let mut takes = |omitted: &mut usize| match left.checked_sub(1) {
        Some(less) => {
            left = less;
            true
        }
        None => {
            *omitted += 1;
            false
        }
    };
    let image = broker.metadata.image();
    broker.groups.look(|groups| {
        for (group, topic, partition, offset) in groups.all_committed() {
            // Of a topic that is gone, or of its namesake, nothing lags.
            let found = image.topic(topic).filter(|found| found.partition(partition).is_some());
            let is_of_it = |id| offset.topic_id.is_zero() || offset.topic_id == id;
            let exists = found.is_some_and(|found| is_of_it(found.id)) && offset.offset >= Offset::ZERO;
            if exists && takes(&mut committed.told.omitted) {
                let partition = TopicPartition::new(topic.clone(), partition);
                committed.offsets.push(((group.clone(), partition), offset.offset));
            }
        }
        for (group, ..) in groups.all_expired() {
            if takes(&mut committed.told.omitted) {
                *committed.told.offsets.entry((group.clone(), "expired")).or_default() += 1;
            }
        }
        for (group, ..) in groups.all_never_committed() {
            if takes(&mut committed.told.omitted) {
                *committed.told.offsets.entry((group, "never_committed")).or_default() += 1;
            }
        }
    });
    committed
}

/// What a leader says of a partition and of one reader there.
#[derive(Clone, Copy)]
struct Position {
    start: Offset,
    end: Offset,
    unread: Unread,
}

/// The readers of each partition, as one request asks about them.
type Readers = BTreeMap<TopicPartition, Vec<(Str, Offset)>>;

async fn ask_leaders(broker: &Arc<Broker>, offsets: &[(Place, Offset)]) -> HashMap<Place, Position> {
    let image = broker.metadata.image();
    let mut by_leader: BTreeMap<BrokerId, Vec<&(Place, Offset)>> = BTreeMap::new();
    for entry in offsets {
        let partition = &entry.0.1;
        let known = image.topic(&partition.topic).and_then(|topic| topic.partition(partition.partition));
        if let Some(leader) = known.and_then(|known| known.leader) {
            by_leader.entry(leader).or_default().push(entry);
        }
    }
    let mut asking = JoinSet::new();
    for (leader, entries) in by_leader {
        for together in entries.chunks(UNREAD_MAX) {
            let mut readers = Readers::new();
            for ((group, partition), offset) in together {
                readers.entry(partition.clone()).or_default().push((group.clone(), *offset));
            }
            asking.spawn(ask_leader(Arc::clone(broker), leader, readers));
        }
    }
    let mut positions = HashMap::new();
    while let Some(answered) = asking.join_next().await {
        // Where it did not end by itself the broker stops.
        positions.extend(answered.into_iter().flatten());
    }
    positions
}

async fn ask_leader(broker: Arc<Broker>, leader: BrokerId, readers: Readers) -> Vec<(Place, Position)> {
    let starts = ask(&broker, leader, request(&readers, EARLIEST));
    let ends = ask(&broker, leader, request(&readers, LATEST));
    let (Some(starts), Some(ends)) = tokio::join!(starts, ends) else { return Vec::new() };
    let starts: HashMap<_, _> = starts
        .topics
        .into_iter()
        .flat_map(|topic| {
            let found = topic.partitions.into_iter().filter(|found| found.error_code == ErrorCode::NONE);
            found.map(move |found| {
                let id = PartitionId(found.partition_index);
                (TopicPartition::new(topic.name.clone(), id), Offset(found.offset))
            })
        })
        .collect();
    let now = Millis(ends.now);
    let mut positions = Vec::new();
    for topic in ends.topics {
        for found in topic.partitions.into_iter().filter(|found| found.error_code == ErrorCode::NONE) {
            let partition = TopicPartition::new(topic.name.clone(), PartitionId(found.partition_index));
            let (Some(start), Some(readers)) = (starts.get(&partition), readers.get(&partition)) else {
                continue;
            };
            for ((group, _), unread) in readers.iter().zip(&found.unread) {
                let position =
                    Position { start: *start, end: Offset(found.offset), unread: Unread::told(unread, now) };
                positions.push(((group.clone(), partition.clone()), position));
            }
        }
    }
    positions
}

fn request(readers: &Readers, timestamp: i64) -> ListOffsetsRequest {
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    for (partition, readers) in readers {
        let asked = ListOffsetsPartition {
            partition_index: partition.partition.0,
            timestamp,
            unread_from: match timestamp {
                LATEST => readers.iter().map(|(_, offset)| offset.0).collect(),
                _ => Vec::new(),
            },
            ..Default::default()
        };
        match topics.last_mut().filter(|topic| topic.name == partition.topic) {
            Some(topic) => topic.partitions.push(asked),
            None => {
                topics.push(ListOffsetsTopic { name: partition.topic.clone(), partitions: vec![asked] });
            }
        }
    }
    ListOffsetsRequest { replica_id: -1, topics, ..Default::default() }
}

async fn ask(
    broker: &Arc<Broker>,
    leader: BrokerId,
    request: ListOffsetsRequest,
) -> Option<ListOffsetsResponse> {
    if leader == broker.node_id {
        let version = *ListOffsetsRequest::VERSIONS.end();
        let answer = list_offsets::answer(Arc::clone(broker), version, request);
        return timeout(ANSWER_MAX, answer).await.ok();
    }
    let address = broker.metadata.quorum().peers().address_of(leader)?;
    match broker.peers.ask(leader, &address, request, ANSWER_MAX).await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(%error, node = %leader, "a leader does not say how far groups are behind");
            None
        }
    }
}
