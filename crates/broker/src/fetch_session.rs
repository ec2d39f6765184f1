//! Fetch sessions (KIP-227): a reader of many partitions names them once, then sends and receives changes only.
//!
//! Invariants: a session's epoch goes up by one a request, and a request with any other epoch changes nothing; the
//! number of sessions never passes `max.incremental.fetch.session.cache.slots`. A reader that gets no session reads
//! as before, by naming every partition each time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use storage::StoredBatches;
use tokio::time::Instant;
use wire::messages::fetch::{FetchRequest, PartitionData};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, Str, Uuid};

/// Requests name topics by id from this version on (KIP-516).
pub(crate) const TOPIC_ID_VERSION_MIN: i16 = 13;

/// The session id and the epochs with a meaning of their own.
pub(crate) const NO_SESSION: i32 = 0;
const EPOCH_INITIAL: i32 = 0;
const EPOCH_FINAL: i32 = -1;

/// A session is not pushed out by a new one unless it was silent for so long.
const EVICTABLE_AFTER: Duration = Duration::from_secs(120);

/// How a session's requests name topics: one way or the other, from its first request on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    ByName,
    ById,
}

impl Naming {
    fn of(version: i16) -> Naming {
        if version < TOPIC_ID_VERSION_MIN { Naming::ByName } else { Naming::ById }
    }
}

/// A partition as a reader names it: by topic name up to version 12, by topic id after.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FetchKey {
    pub(crate) topic: Str,
    pub(crate) topic_id: Uuid,
    pub(crate) partition: PartitionId,
}

/// Whose session it is: followers have theirs however many readers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionOwner {
    Reader,
    Follower(BrokerId),
}

/// What a reader wants from one partition.
#[derive(Debug, Clone)]
pub(crate) struct FetchTarget {
    pub(crate) key: FetchKey,
    pub(crate) offset: Offset,
    pub(crate) bytes_max: usize,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) last_fetched_epoch: LeaderEpoch,
    /// Up to where a follower has made its log durable; -1 for others.
    pub(crate) flushed_end: Offset,
}

/// One partition's part of an answer, and the batches that its deferred records stand for.
#[derive(Debug)]
pub(crate) struct FetchAnswer {
    pub(crate) key: FetchKey,
    pub(crate) data: PartitionData,
    pub(crate) batches: Option<StoredBatches>,
}

/// What a request asks for, once its session is taken into account.
#[derive(Debug)]
pub(crate) struct FetchPlan {
    pub(crate) targets: Vec<FetchTarget>,
    session: Option<Arc<Mutex<Session>>>,
    session_id: i32,
    /// Only partitions with news are answered.
    is_incremental: bool,
}

/// One reader's partitions, in the order in which they are served next.
#[derive(Debug)]
struct Session {
    id: i32,
    owner: SessionOwner,
    naming: Naming,
    epoch_next: i32,
    used: Instant,
    order: BTreeMap<u64, Cached>,
    places: HashMap<FetchKey, u64>,
    place_next: u64,
}

#[derive(Debug)]
struct Cached {
    target: FetchTarget,
    /// The high watermark and log start that the reader was told last.
    told: Option<(i64, i64)>,
}

/// The sessions of a broker.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    sessions: Mutex<HashMap<i32, Arc<Mutex<Session>>>>,
    slots_max: usize,
    /// What the ids come from.
    dice: AtomicU64,
}

impl FetchSessions {
    pub(crate) fn new(slots_max: usize, dice: u64) -> Self {
        FetchSessions { sessions: Mutex::default(), slots_max, dice: AtomicU64::new(dice) }
    }

    /// How many readers have a session.
    pub(crate) fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Finds what a request asks for. The error is the whole answer.
    pub(crate) fn plan(
        &self,
        request: FetchRequest,
        version: i16,
        owner: SessionOwner,
    ) -> Result<FetchPlan, ErrorCode> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        let naming = Naming::of(version);
        if epoch != EPOCH_INITIAL && epoch != EPOCH_FINAL {
            return self.plan_incremental(request, naming);
        }
        if id != NO_SESSION {
            self.sessions.lock().remove(&id);
        }
        // A partition that is named twice is answered once.
        let mut seen = HashSet::new();
        let targets: Vec<_> = targets(request).filter(|target| seen.insert(target.key.clone())).collect();
        let session = if epoch == EPOCH_INITIAL { self.open(&targets, naming, owner) } else { None };
        let session_id = session.as_ref().map_or(NO_SESSION, |session| session.lock().id);
        Ok(FetchPlan { targets, session, session_id, is_incremental: false })
    }

    fn plan_incremental(&self, mut request: FetchRequest, naming: Naming) -> Result<FetchPlan, ErrorCode> {
        let id = request.session_id;
        let session = self.sessions.lock().get(&id).cloned().ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        let mut locked = session.lock();
        if locked.epoch_next != request.session_epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if locked.naming != naming {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        locked.epoch_next = epoch_after(request.session_epoch);
        locked.used = Instant::now();
        for forgotten in std::mem::take(&mut request.forgotten_topics_data) {
            for partition in forgotten.partitions {
                locked.forget(&FetchKey {
                    topic: forgotten.topic.clone(),
                    topic_id: forgotten.topic_id,
                    partition: PartitionId(partition),
                });
            }
        }
        for target in targets(request) {
            locked.want(target);
        }
        let targets: Vec<_> = locked.order.values().map(|cached| cached.target.clone()).collect();
        drop(locked);
        if targets.is_empty() {
            // Its place is for somebody who reads.
            self.sessions.lock().remove(&id);
            return Ok(FetchPlan { targets, session: None, session_id: NO_SESSION, is_incremental: true });
        }
        Ok(FetchPlan { targets, session: Some(session), session_id: id, is_incremental: true })
    }

    /// The session id for an answer that says nothing. A session that was to begin with it does not: its reader would take
    /// every partition for told.
    pub(crate) fn held_back(&self, plan: &FetchPlan) -> i32 {
        if plan.is_incremental {
            return plan.session_id;
        }
        self.sessions.lock().remove(&plan.session_id);
        NO_SESSION
    }

    /// An id that nobody can foresee who does not know the dice, positive (Weyl sequence, mixed as in SplitMix64).
    fn next_id(&self) -> i32 {
        let state = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        i32::try_from(mixed >> 33).expect("31 bits")
    }

    fn open(
        &self,
        targets: &[FetchTarget],
        naming: Naming,
        owner: SessionOwner,
    ) -> Option<Arc<Mutex<Session>>> {
        if targets.is_empty() {
            return None;
        }
        let mut sessions = self.sessions.lock();
        if owner != SessionOwner::Reader {
            // A follower that begins anew has lost the one before.
            sessions.retain(|_, session| session.lock().owner != owner);
        } else if sessions.len() >= self.slots_max {
            let readers = sessions.iter().filter_map(|(id, session)| {
                let session = session.lock();
                (session.owner == SessionOwner::Reader).then_some((session.used, *id))
            });
            let oldest = readers.min()?;
            if oldest.0.elapsed() < EVICTABLE_AFTER {
                return None;
            }
            sessions.remove(&oldest.1);
        }
        let mut id = NO_SESSION;
        while id == NO_SESSION || sessions.contains_key(&id) {
            id = self.next_id();
        }
        let mut session = Session {
            id,
            owner,
            naming,
            epoch_next: epoch_after(EPOCH_INITIAL),
            used: Instant::now(),
            order: BTreeMap::new(),
            places: HashMap::new(),
            place_next: 0,
        };
        for target in targets {
            session.want(target.clone());
        }
        let session = Arc::new(Mutex::new(session));
        sessions.insert(id, Arc::clone(&session));
        Some(session)
    }
}

impl FetchPlan {
    /// The session id to answer with.
    pub(crate) fn session_id(&self) -> i32 {
        self.session_id
    }

    /// Leaves out of an incremental answer what the reader knows already, and remembers what it is told now.
    /// Partitions that gave records go to the end of the order, so that none starves behind them.
    pub(crate) fn answer(&self, answers: Vec<FetchAnswer>) -> Vec<FetchAnswer> {
        let Some(session) = &self.session else { return answers };
        let mut session = session.lock();
        let mut answers = answers;
        answers.retain(|answer| session.tell(&answer.key, &answer.data) || !self.is_incremental);
        answers
    }
}

impl Session {
    fn want(&mut self, target: FetchTarget) {
        match self.places.get(&target.key) {
            Some(place) => {
                let cached = self.order.get_mut(place).expect("every place is filled");
                let key = cached.target.key.clone();
                cached.target = FetchTarget { key, ..target };
                if self.owner != SessionOwner::Reader {
                    // A follower whose log was cut did not take what it was told.
                    cached.told = None;
                }
            }
            None => {
                // The session outlives the frame that the name is a slice of.
                let key = FetchKey { topic: Str::copy_from(&target.key.topic), ..target.key };
                let target = FetchTarget { key, ..target };
                self.places.insert(target.key.clone(), self.place_next);
                self.order.insert(self.place_next, Cached { target, told: None });
                self.place_next += 1;
            }
        }
    }

    fn forget(&mut self, key: &FetchKey) {
        if let Some(place) = self.places.remove(key) {
            self.order.remove(&place);
        }
    }

    /// Remembers an answer; true when it says anything new.
    fn tell(&mut self, key: &FetchKey, data: &PartitionData) -> bool {
        let Some(place) = self.places.get_mut(key) else { return true };
        let cached = self.order.get_mut(place).expect("every place is filled");
        let has_records = data.records.as_ref().is_some_and(|records| !records.is_empty());
        let told = data.error_code.is_ok().then_some((data.high_watermark, data.log_start_offset));
        let is_diverging = data.diverging_epoch.epoch >= 0;
        let is_news = has_records || is_diverging || told.is_none() || cached.told != told;
        // An error is told again until it is gone.
        cached.told = told;
        if has_records {
            let cached = self.order.remove(place).expect("every place is filled");
            *place = self.place_next;
            self.order.insert(self.place_next, cached);
            self.place_next += 1;
        }
        is_news
    }
}

fn epoch_after(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

fn targets(request: FetchRequest) -> impl Iterator<Item = FetchTarget> {
    request.topics.into_iter().flat_map(|topic| {
        let (name, topic_id) = (topic.topic, topic.topic_id);
        topic.partitions.into_iter().map(move |partition| FetchTarget {
            key: FetchKey { topic: name.clone(), topic_id, partition: PartitionId(partition.partition) },
            offset: Offset(partition.fetch_offset),
            bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
            leader_epoch: LeaderEpoch(partition.current_leader_epoch),
            last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
            flushed_end: Offset(partition.flushed_end),
        })
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wire::messages::fetch::{FetchPartition, FetchTopic, ForgottenTopic};

    use super::*;

    fn request(session: (i32, i32), partitions: &[(i32, i64)]) -> FetchRequest {
        let partitions = partitions
            .iter()
            .map(|&(partition, fetch_offset)| FetchPartition {
                partition,
                fetch_offset,
                ..Default::default()
            })
            .collect();
        FetchRequest {
            session_id: session.0,
            session_epoch: session.1,
            topics: vec![FetchTopic { topic: "t".into(), partitions, ..Default::default() }],
            ..Default::default()
        }
    }

    fn partitions(plan: &FetchPlan) -> Vec<(i32, i64)> {
        plan.targets.iter().map(|target| (target.key.partition.0, target.offset.0)).collect()
    }

    fn data(high_watermark: i64, records: &'static [u8]) -> PartitionData {
        let records = Some(Bytes::from_static(records).into());
        PartitionData { high_watermark, records, ..Default::default() }
    }

    fn answer(plan: &FetchPlan, watermarks: &[(i64, &'static [u8])]) -> Vec<i32> {
        let answers = plan.targets.iter().zip(watermarks);
        let answers = answers.map(|(target, (hw, records))| FetchAnswer {
            key: target.key.clone(),
            data: data(*hw, records),
            batches: None,
        });
        plan.answer(answers.collect()).iter().map(|answer| answer.key.partition.0).collect()
    }

    #[test]
    fn a_session_remembers_partitions_and_answers_news_only() {
        let sessions = FetchSessions::new(10, 7);
        let plan = sessions.plan(request((0, 0), &[(0, 5), (1, 6)]), 12, SessionOwner::Reader).unwrap();
        let id = plan.session_id();
        assert_ne!(id, NO_SESSION);
        assert_eq!(answer(&plan, &[(5, b""), (6, b"")]), [0, 1], "a full answer names every partition");

        let plan = sessions.plan(request((id, 1), &[]), 12, SessionOwner::Reader).unwrap();
        assert_eq!(partitions(&plan), [(0, 5), (1, 6)]);
        assert_eq!(answer(&plan, &[(7, b"xx"), (6, b"")]), [0]);

        let plan = sessions.plan(request((id, 2), &[(0, 7)]), 12, SessionOwner::Reader).unwrap();
        assert_eq!(partitions(&plan), [(1, 6), (0, 7)], "who had records is served last");
        assert_eq!(answer(&plan, &[(6, b""), (7, b"")]), [0; 0]);
    }

    #[test]
    fn a_request_out_of_turn_changes_nothing() {
        let sessions = FetchSessions::new(10, 7);
        let id = sessions.plan(request((0, 0), &[(0, 5)]), 12, SessionOwner::Reader).unwrap().session_id();
        assert_eq!(
            sessions.plan(request((id, 3), &[(0, 9)]), 12, SessionOwner::Reader).unwrap_err(),
            ErrorCode::INVALID_FETCH_SESSION_EPOCH
        );
        assert_eq!(
            partitions(&sessions.plan(request((id, 1), &[]), 12, SessionOwner::Reader).unwrap()),
            [(0, 5)]
        );
        assert_eq!(
            sessions.plan(request((id + 1, 1), &[]), 12, SessionOwner::Reader).unwrap_err(),
            ErrorCode::FETCH_SESSION_ID_NOT_FOUND
        );
    }

    #[test]
    fn a_final_epoch_closes_the_session() {
        let sessions = FetchSessions::new(10, 7);
        let id = sessions.plan(request((0, 0), &[(0, 5)]), 12, SessionOwner::Reader).unwrap().session_id();
        let plan = sessions.plan(request((id, -1), &[(0, 5)]), 12, SessionOwner::Reader).unwrap();
        assert_eq!((plan.session_id(), sessions.len()), (NO_SESSION, 0));
    }

    #[test]
    fn forgotten_partitions_are_no_longer_served() {
        let sessions = FetchSessions::new(10, 7);
        let id =
            sessions.plan(request((0, 0), &[(0, 5), (1, 6)]), 12, SessionOwner::Reader).unwrap().session_id();
        let mut next = request((id, 1), &[]);
        next.forgotten_topics_data =
            vec![ForgottenTopic { topic: "t".into(), partitions: vec![0], ..Default::default() }];
        assert_eq!(partitions(&sessions.plan(next, 12, SessionOwner::Reader).unwrap()), [(1, 6)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_gives_up_only_sessions_that_fell_silent() {
        let sessions = FetchSessions::new(1, 7);
        sessions.plan(request((0, 0), &[(0, 5)]), 12, SessionOwner::Reader).unwrap();
        assert_eq!(
            sessions.plan(request((0, 0), &[(0, 5)]), 12, SessionOwner::Reader).unwrap().session_id(),
            NO_SESSION
        );
        tokio::time::advance(EVICTABLE_AFTER).await;
        assert_ne!(
            sessions.plan(request((0, 0), &[(0, 5)]), 12, SessionOwner::Reader).unwrap().session_id(),
            NO_SESSION
        );
        assert_eq!(sessions.len(), 1);
    }
}
