//! Stored positions beside the logs that they are positions in: what a reader would find if it started now.
//!
//! The same checks as the reader's, so that both say the same. Looking changes nothing: no fence is taken and nothing is
//! committed. Moving a position takes a fence of its own, so that a reader that runs is refused from then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Admin, Cluster, Consumer, Error, OffsetSpec, Start};
use tokio::time::{Instant, timeout};
use wire::{LeaderEpoch, Offset, Str, TopicPartition, Uuid};

use crate::continuity::{self, First, Gap, Log};
use crate::key::{Key, ReaderName};
use crate::look::{Looked, is_compacted, look};
use crate::reader::ReaderError;
use crate::store::{Claim, Expected, OffsetStore, Position, Seen, StoreError, Stored};

/// How often it is looked whether a partition has nothing to show.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Looks at the positions of one reader.
pub struct Inspector {
    cluster: Cluster,
    store: Arc<dyn OffsetStore>,
    reader: ReaderName,
    group: String,
}

/// A partition of a reader's.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// What the store has. The topic's id is that of the position.
    pub seen: Seen,
    /// The log as it is, if it could be looked at.
    pub log: Option<Log>,
    /// Whether there is a copy of the position with the group coordinator, and where.
    pub copy: Option<Offset>,
    /// What a reader would do.
    pub state: State,
}

/// What a reader would do with a partition.
#[derive(Debug, Clone)]
pub enum State {
    /// Read on.
    Continues,
    /// Begin: it has held the partition and stored nothing.
    Begins,
    /// Stop, or do what its policy says.
    Gap(Box<Gap>),
    /// Nothing: the partition is another cluster's.
    Elsewhere,
    /// It cannot be told.
    Unknown(ReaderError),
}

impl Inspector {
    /// Of a reader in a cluster; the group is its name unless it has another.
    pub fn new(
        cluster: Cluster,
        store: Arc<dyn OffsetStore>,
        reader: ReaderName,
        group: Option<String>,
    ) -> Self {
        let group = group.unwrap_or_else(|| reader.to_string());
        Self { cluster, store, reader, group }
    }

    /// All that the store has, each beside its log. What cannot be read in the store is an error of its own.
    pub async fn show(&self) -> Result<Vec<Result<Inspected, StoreError>>, ReaderError> {
        let surveyed = self.store.survey(&self.reader).await?;
        let cluster_id = self.cluster.id().await?;
        let positions = surveyed.iter().flatten().filter_map(|seen| Some((seen.key.clone(), seen.stored?)));
        let positions: Vec<(Key, Stored)> = positions.collect();
        let here: Vec<&Seen> =
            surveyed.iter().flatten().filter(|seen| *seen.key.cluster_id == *cluster_id).collect();
        let mut ids: BTreeMap<Str, Result<Uuid, Error>> = BTreeMap::new();
        for seen in &here {
            let topic = &seen.key.partition.topic;
            if !ids.contains_key(topic) {
                ids.insert(topic.clone(), self.cluster.topic_id(topic).await);
            }
        }
        let is_there = |seen: &&&Seen| ids.get(&seen.key.partition.topic).is_some_and(Result::is_ok);
        let asked: Vec<(TopicPartition, Option<Position>)> = here
            .iter()
            .filter(is_there)
            .map(|seen| (seen.key.partition.clone(), seen.stored.map(|stored| stored.position)))
            .collect();
        let looked = match asked.is_empty() {
            true => Looked::default(),
            false => look(&self.cluster, Some(&self.group), &asked).await?,
        };
        let inspect = |seen: Seen| {
            let Some(id) = ids.get(&seen.key.partition.topic).filter(|_| *seen.key.cluster_id == *cluster_id)
            else {
                return Inspected { seen, log: None, copy: None, state: State::Elsewhere };
            };
            let log = id.clone().and_then(|topic_id| {
                let key = Key { topic_id, ..seen.key.clone() };
                Ok((looked.log(&key, seen.stored.as_ref())?, key))
            });
            let copy = looked.copy(&seen.key.partition);
            match log {
                Ok((log, key)) => {
                    let state = judge(&key, seen.stored.as_ref(), &positions, &log);
                    Inspected { seen, log: Some(log), copy, state }
                }
                Err(error) => Inspected { seen, log: None, copy, state: State::Unknown(error.into()) },
            }
        };
        Ok(surveyed.into_iter().map(|seen| seen.map(inspect)).collect())
    }

    /// As [`Inspector::show`], and looks at the first records behind each position as well, waiting for them for at most so long.
    pub async fn verify(
        &self,
        patience: Duration,
    ) -> Result<Vec<Result<Inspected, StoreError>>, ReaderError> {
        let mut all = self.show().await?;
        let mut waiting = BTreeMap::new();
        for (at, inspected) in all.iter().enumerate() {
            if let Ok(Inspected {
                seen: Seen { key, stored: Some(stored), .. }, log: Some(log), state, ..
            }) = inspected
                && matches!(state, State::Continues)
                && stored.position.next < log.end
            {
                waiting.insert(key.partition.clone(), (at, key.clone(), stored.position, *log));
            }
        }
        if waiting.is_empty() {
            return Ok(all);
        }
        let mut consumer = Consumer::new(self.cluster.clone());
        let begins = waiting.iter().map(|(partition, (_, _, position, _))| {
            let Position { next, .. } = *position;
            (partition.clone(), Some(Start::Offset(next)))
        });
        consumer.assign(begins)?;
        let deadline = Instant::now() + patience;
        while !waiting.is_empty() && Instant::now() < deadline {
            // What is not to be seen is passed without a word.
            waiting.retain(|partition, (_, _, _, log)| {
                consumer.reached(partition).is_none_or(|reached| reached.next < log.end)
            });
            let Ok(next) = timeout(LOOK_AGAIN_AFTER, consumer.next()).await else { continue };
            match next {
                None => break,
                Some(Ok(records)) => {
                    let Some((at, key, position, log)) = waiting.remove(records.partition()) else {
                        continue;
                    };
                    let position = Position { next: records.position(), ..position };
                    let mut first = First {
                        base: records.base_offset(),
                        offset: records[0].offset,
                        log_start: records.watermarks().log_start,
                        is_compacted: false,
                    };
                    if first.base > position.next {
                        first.is_compacted = is_compacted(&self.cluster, &key.partition.topic).await?;
                    }
                    if let (Err(gap), Ok(inspected)) =
                        (continuity::check_first(&key, position, first, &log), &mut all[at])
                    {
                        inspected.state = State::Gap(gap);
                    }
                }
                Some(Err(Error::Stopped { partition, reason })) => {
                    if let Some((at, ..)) = waiting.remove(&partition)
                        && let Ok(inspected) = &mut all[at]
                    {
                        inspected.state = State::Unknown((*reason).into());
                    }
                }
                Some(Err(error)) => return Err(error.into()),
            }
        }
        consumer.close(Duration::ZERO).await?;
        for (at, key, ..) in waiting.into_values() {
            if let Ok(inspected) = &mut all[at] {
                let doing = format!("reading the first records of {}", key.partition);
                let error = Error::Timeout { doing, after: patience, last: None };
                inspected.state = State::Unknown(error.into());
            }
        }
        Ok(all)
    }

    /// One partition, also one of which the store has nothing.
    pub async fn one(&self, partition: &TopicPartition) -> Result<Inspected, ReaderError> {
        let cluster_id = self.cluster.id().await?;
        let is_it = |seen: &Seen| seen.key.partition == *partition && *seen.key.cluster_id == *cluster_id;
        let shown = self.show().await?;
        if let Some(found) = shown.into_iter().flatten().find(|inspected| is_it(&inspected.seen)) {
            return match found.state {
                State::Unknown(error) => Err(error),
                _ => Ok(found),
            };
        }
        let topic_id = self.cluster.topic_id(&partition.topic).await?;
        let key = Key {
            reader: self.reader.clone(),
            cluster_id: cluster_id.to_string(),
            partition: partition.clone(),
            topic_id,
        };
        let looked = look(&self.cluster, Some(&self.group), &[(partition.clone(), None)]).await?;
        let log = looked.log(&key, None)?;
        let listed = self.store.list(&self.reader).await?;
        let state = judge(&key, None, &listed, &log);
        let seen = Seen { key, fence: None, stored: None };
        Ok(Inspected { seen, log: Some(log), copy: looked.copy(partition), state })
    }

    /// The first offset that was written at or after a time; the log's end when there is none.
    pub async fn resolve(
        &self,
        partition: &TopicPartition,
        start: Start,
        log: &Log,
    ) -> Result<Offset, Error> {
        let at = match start {
            Start::At(time) => {
                let asked = [(partition.clone(), OffsetSpec::At(time))];
                let admin = Admin::new(self.cluster.clone());
                let listed = admin.list_offsets(&asked, client::Isolation::ReadUncommitted).await?;
                listed.into_iter().next().map(|(_, listed)| listed).transpose()?.and_then(|at| at.offset)
            }
            _ => None,
        };
        Ok(start.resolve(log.start, log.end, at))
    }

    /// Moves a position that still is as it was inspected. Whoever holds the partition is refused from then on.
    pub async fn set(&self, inspected: &Inspected, to: Offset) -> Result<(), StoreError> {
        let Inspected { seen: Seen { key, stored, .. }, log: Some(log), .. } = inspected else {
            return Err(StoreError::Lost { key: Box::new(inspected.seen.key.clone()) });
        };
        let key = Key { topic_id: log.topic_id, ..key.clone() };
        let held = self.store.acquire(&key).await?;
        let place = |stored: &Stored| (stored.position, stored.topic_id);
        let expected = match stored {
            None => Expected::Nothing,
            Some(stored) if stored.topic_id != log.topic_id => Expected::Anything,
            Some(stored) => Expected::At(stored.position.next),
        };
        match (&held.stored, stored) {
            (Some(now), was) if was.as_ref().map(place) != Some(place(now)) => {
                let stored = now.position.next;
                return Err(StoreError::Moved { key: Box::new(key), expected, stored });
            }
            (None, Some(_)) => return Err(StoreError::Lost { key: Box::new(key) }),
            _ => {}
        }
        let position = Position { next: to, leader_epoch: LeaderEpoch::NONE };
        // Whoever reads now may write its copy once more, of what it had read.
        let claim = Claim { key, fence: held.fence, expected, position, over: Some(log.end) };
        match self.store.commit(&claim).await {
            Err(StoreError::AlreadyThere { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Moves the copy with the group coordinator as well, which it refuses while the group has members.
    pub async fn set_copy(&self, partition: &TopicPartition, to: Offset) -> Result<(), Error> {
        let group = Str::copy_from(&self.group);
        let admin = Admin::new(self.cluster.clone());
        let set = admin.set_group_offsets(&group, &[(partition.clone(), to)]).await?;
        set.into_iter().try_for_each(|(_, set)| set)
    }
}

fn judge(key: &Key, stored: Option<&Stored>, all: &[(Key, Stored)], log: &Log) -> State {
    let outcome = match stored {
        Some(stored) => continuity::check(key, stored, log).map(|_| State::Continues),
        None => continuity::check_new(key, continuity::elsewhere(key, all), log).map(|()| State::Begins),
    };
    outcome.unwrap_or_else(State::Gap)
}
