//! A store of results and positions, as PostgreSQL or as Redis keeps them: slow at times, silent at times although it has done
//! what it was asked, and in the second kind with its last second lost when it fails over.
//!
//! It looks at itself: a position moves only by who took hold last, and only over records whose results are there.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::BoxFuture;
use offsets::{
    Claim, Expected, Held, Key, MemoryStore, OffsetStore, ReaderName, Snapshot, StoreError, Stored,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::history::{ClientHistory, Offsets};
use super::stage::Life;
use crate::dice::Dice;
use crate::history::Place;
use crate::world::{MachineEnvironment, elapsed};

/// What a store that fails over loses at most.
const LOST_MAX: Duration = Duration::from_secs(1);

/// What a store promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Results and position in one transaction, and nothing that was confirmed is lost.
    Transactional,
    /// Results, each in its own place, and position in one step, which may be lost within a second after it was confirmed.
    Redis,
    /// Positions alone, which may be lost likewise. The results are elsewhere, each in its own place, and are written before.
    RedisForPositions,
}

/// The store, whoever speaks to it. Clones share it.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) kind: Kind,
    pub(super) role: &'static str,
    seen: ClientHistory,
    memory: MemoryStore,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rows: Vec<(Place, String)>,
    done: BTreeMap<i32, Offsets>,
    /// Who took hold of each partition last.
    holders: BTreeMap<i32, i64>,
    /// What it was after each change of the last second, and one before.
    past: VecDeque<Past>,
    /// Until then it answers slowly, or not at all.
    trouble_until: Duration,
}

struct Past {
    at: Duration,
    positions: Snapshot,
    rows: usize,
    holders: BTreeMap<i32, i64>,
}

impl Store {
    pub(super) fn new(kind: Kind, role: &'static str, seen: ClientHistory, dice: &Dice) -> Self {
        let memory = MemoryStore::new(Arc::new(MachineEnvironment { dice: dice.fork() }));
        let store = Store { kind, role, seen, memory, state: Arc::default() };
        store.remember();
        store
    }

    /// Loses what was written of late, and is away for a moment.
    pub(super) fn fail_over(&self, at: Duration, lost: Duration, away: Duration) {
        let mut state = self.state.lock();
        state.trouble_until = at + away;
        if self.kind == Kind::Transactional {
            return;
        }
        let lost = lost.min(LOST_MAX);
        while state.past.len() > 1 && state.past.back().is_some_and(|past| past.at + lost > at) {
            state.past.pop_back();
        }
        let Some(past) = state.past.back() else { return };
        self.memory.roll_back(&past.positions);
        let (rows, holders) = (past.rows, past.holders.clone());
        state.holders = holders;
        if self.kind == Kind::Redis {
            state.rows.truncate(rows);
            state.done.clear();
            let State { rows, done, .. } = &mut *state;
            for ((partition, offset), _) in rows {
                done.entry(*partition).or_default().insert(*offset);
            }
        }
    }

    /// Answers slowly and unreliably for a while.
    pub(super) fn trouble(&self, until: Duration) {
        self.state.lock().trouble_until = until;
    }

    fn is_troubled(&self) -> bool {
        elapsed() < self.state.lock().trouble_until
    }

    /// Up to where the results of a partition are there.
    pub(super) fn floor(&self, partition: i32) -> i64 {
        self.state.lock().done.get(&partition).map_or(0, Offsets::floor)
    }

    /// All results.
    pub(super) fn rows(&self) -> Vec<(Place, String)> {
        self.state.lock().rows.clone()
    }

    /// Every position.
    pub(super) async fn positions(&self, reader: &ReaderName) -> BTreeMap<i32, i64> {
        let listed = self.memory.list(reader).await.unwrap_or_default();
        listed.into_iter().map(|(key, stored)| (key.partition.partition.0, stored.position.next.0)).collect()
    }

    fn remember(&self) {
        let positions = self.memory.snapshot();
        let mut state = self.state.lock();
        let past = Past { at: elapsed(), positions, rows: state.rows.len(), holders: state.holders.clone() };
        state.past.push_back(past);
        let old = |past: Option<&Past>| past.is_some_and(|past| past.at + LOST_MAX < elapsed());
        while old(state.past.get(1)) {
            state.past.pop_front();
        }
    }

    /// Moves a position and adds results, and nothing comes in between. Where it is refused, the results are not added; in
    /// Redis, which takes nothing back, they are.
    async fn apply(&self, claim: Option<&Claim>, rows: &[(Place, String)]) -> Result<(), StoreError> {
        let moved = match claim {
            // It does not wait.
            Some(claim) => self.memory.commit(claim).await,
            None => Ok(()),
        };
        if self.kind == Kind::Transactional {
            moved.clone()?;
        }
        if let Some(Claim { key, expected, position, over: Some(over), .. }) = claim.filter(|_| moved.is_ok())
            && *expected == Expected::At(position.next)
        {
            // A choice to go on where the store is. Whoever reads from there has nothing to be told any more.
            self.seen.chooses(self.role, key.partition.partition.0, over.0);
        }
        let mut state = self.state.lock();
        let mut wrong = None;
        for (place, value) in rows {
            self.seen.handled(self.role, *place);
            let is_new = state.done.entry(place.0).or_default().insert(place.1);
            if is_new || self.kind == Kind::Transactional {
                state.rows.push((*place, value.clone()));
            }
            if !is_new && self.kind == Kind::Transactional {
                wrong =
                    Some(format!("{value} of {place:?} is a second time in the results of {}", self.role));
            }
        }
        if let Some(Claim { key, fence, position, .. }) = claim.filter(|_| moved.is_ok()) {
            let partition = key.partition.partition.0;
            let holder = state.holders.get(&partition).copied();
            if holder != Some(fence.token) {
                wrong = Some(format!(
                    "the position of {} in {partition} is moved to {} by who does not hold it any more",
                    self.role, position.next
                ));
            }
            let floor = state.done.get(&partition).map_or(0, Offsets::floor);
            if position.next.0 > floor {
                wrong = Some(format!(
                    "{} is at {} in {partition}, and the result of {floor} is not there",
                    self.role, position.next
                ));
            }
        }
        drop(state);
        self.remember();
        if let Some(wrong) = wrong {
            self.seen.history.anomaly(wrong);
        }
        moved
    }
}

/// The store as one process speaks to it.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) store: Store,
    life: Life,
}

impl Access {
    pub(super) fn new(store: Store, life: Life) -> Self {
        Access { store, life }
    }

    /// Results and the position that stands for them, in one transaction.
    pub(super) async fn transact(&self, claim: &Claim, rows: &[(Place, String)]) -> Result<(), StoreError> {
        self.way().await?;
        let done = self.store.apply(Some(claim), rows).await;
        self.way().await?;
        done
    }

    /// Results alone.
    pub(super) async fn write(&self, rows: &[(Place, String)]) -> Result<(), StoreError> {
        self.way().await?;
        let done = self.store.apply(None, rows).await;
        self.way().await?;
        done
    }

    /// The way there, or back: it takes its time, and what is sent may not arrive.
    async fn way(&self) -> Result<(), StoreError> {
        let dice = &self.life.dice;
        self.life.awake().await;
        let is_troubled = self.store.is_troubled();
        sleep(Duration::from_millis(dice.below(if is_troubled { 300 } else { 5 }))).await;
        self.life.awake().await;
        if dice.percent(if is_troubled { 40 } else { 2 }) {
            let source = Arc::new(io::Error::new(io::ErrorKind::ConnectionReset, "the connection is lost"));
            return Err(StoreError::Unavailable { store: "the simulated store", source });
        }
        Ok(())
    }
}

impl OffsetStore for Access {
    fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            self.way().await?;
            let held = self.store.memory.acquire(key).await?;
            self.store.state.lock().holders.insert(key.partition.partition.0, held.fence.token);
            self.store.remember();
            let stored = held.stored.map(|stored| stored.position.next.0);
            self.life.note(&format!("takes hold of {}: fence {}, at {stored:?}", key.partition, held.fence));
            self.way().await?;
            Ok(held)
        })
    }

    fn commit<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.transact(claim, &[]))
    }

    fn list<'a>(&'a self, reader: &'a ReaderName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move {
            self.way().await?;
            self.store.memory.list(reader).await
        })
    }
}
