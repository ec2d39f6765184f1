//! Moves of replicas between the data directories of this broker (KIP-113).
//!
//! Each is a copy that catches up with the log piece by piece, all of them in turn, while the partition is led or followed as
//! before; when it is equal it takes the log's place. Invariant: a move that ends, whatever way, leaves the partition with one
//! log. One that the broker's stop interrupts begins anew with the next start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use storage::{AppendError, Move, Superseded};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use wire::{ErrorCode, TopicPartition};

use crate::blocking;
use crate::broker::{Broker, stopped};
use crate::node::fresh_id;
use crate::partition::Partition;

/// Pieces of a log that are copied before it is another one's turn.
const PIECES: usize = 8;
/// How often in a row a piece may not be what it should before a move is given up: the log may just have been cut.
const FAILURES_MAX: u32 = 10;
/// Wait before the next look at a copy that could not take its log's place, or whose piece could not be read.
const RETRY: Duration = Duration::from_millis(50);
/// Longest wait for the throttle.
const HELD_BACK_MAX: Duration = Duration::from_secs(1);
/// How long the files of before stay: a fetch may have found its records there.
const READ_MAX: Duration = Duration::from_secs(10);

/// The moves of this broker.
#[derive(Default)]
pub(crate) struct Moves {
    moving: Mutex<BTreeMap<TopicPartition, Arc<Moving>>>,
    /// One at a time begins: a log has one copy.
    beginning: Mutex<()>,
    superseded: Mutex<Vec<(Instant, Superseded)>>,
    begun: Notify,
}

/// One partition on its way.
struct Moving {
    partition: Arc<Partition>,
    copy: Move,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    has_ended: bool,
    failures: u32,
}

/// What is told of a move.
pub(crate) struct Underway {
    pub(crate) partition: TopicPartition,
    pub(crate) to: usize,
    pub(crate) lag: i64,
    pub(crate) size_bytes: u64,
}

impl Moves {
    /// All that are under way.
    pub(crate) fn underway(&self) -> Vec<Underway> {
        let moving = self.moving.lock();
        let underway = moving.iter().map(|(partition, moving)| Underway {
            partition: partition.clone(),
            to: moving.copy.to(),
            lag: moving.copy.lag(),
            size_bytes: moving.copy.size_bytes(),
        });
        underway.collect()
    }

    /// The partition stays where it is. Blocks.
    pub(crate) fn cancel(&self, partition: &TopicPartition) {
        let moving = self.moving.lock().remove(partition);
        if let Some(moving) = moving {
            moving.end();
        }
    }

    fn forget(&self, moving: &Arc<Moving>) {
        let mut all = self.moving.lock();
        if all.get(&moving.partition.id).is_some_and(|known| Arc::ptr_eq(known, moving)) {
            all.remove(&moving.partition.id);
        }
    }
}

impl Moving {
    /// Gives it up, if it has not ended.
    fn end(&self) {
        let mut progress = self.progress.lock();
        if !std::mem::replace(&mut progress.has_ended, true) {
            self.copy.cancel();
        }
    }
}

/// Begins to move a partition to a directory, and ends its move to another one. Blocks.
pub(crate) fn begin(broker: &Arc<Broker>, partition: &Arc<Partition>, to: usize) -> Result<(), ErrorCode> {
    let moves = &broker.moves;
    let _alone = moves.beginning.lock();
    if moves.moving.lock().get(&partition.id).is_some_and(|moving| moving.copy.to() == to) {
        return Ok(());
    }
    moves.cancel(&partition.id);
    if partition.is_out_of_service() {
        return Err(ErrorCode::KAFKA_STORAGE_ERROR);
    }
    if broker.data_dirs.place_of(&partition.id) == Some(to) {
        return Ok(());
    }
    if let Err(error) = broker.descriptors.check(1) {
        tracing::error!(partition = %partition.id, %error, "a copy in another data directory is not begun");
        return Err(ErrorCode::KAFKA_STORAGE_ERROR);
    }
    let id = fresh_id(&*broker.environment);
    let copy = match broker.data_dirs.begin_move(&partition.log, to, id, broker.clock.now()) {
        Ok(Some(copy)) => copy,
        Ok(None) => return Err(ErrorCode::INVALID_TOPIC_EXCEPTION),
        Err(error) => {
            tracing::error!(partition = %partition.id, %error, "a copy in another data directory could not be begun");
            return Err(ErrorCode::KAFKA_STORAGE_ERROR);
        }
    };
    let moving = Arc::new(Moving { partition: Arc::clone(partition), copy, progress: Mutex::default() });
    let before = moves.moving.lock().insert(partition.id.clone(), moving);
    assert!(before.is_none(), "a log has one copy");
    moves.begun.notify_one();
    Ok(())
}

/// Begins anew what the last process did not finish. Blocks.
pub(crate) fn resume(broker: &Arc<Broker>) {
    for (id, path) in broker.data_dirs.take_unfinished() {
        let hosted = broker.partitions.load_full();
        let (Some(partition), Some(to)) =
            (hosted.partition(&id.topic, id.partition), broker.data_dirs.at_path(&path))
        else {
            continue;
        };
        if let Err(error) = begin(broker, partition, to) {
            tracing::error!(partition = %id, dir = %path.display(), ?error, "a move that was interrupted could not go on");
        }
    }
}

/// Moves until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    loop {
        let moving: Vec<Arc<Moving>> = broker.moves.moving.lock().values().cloned().collect();
        let is_idle = moving.is_empty();
        let mut has_copied = false;
        for moving in moving {
            if *stop.borrow() {
                return;
            }
            let broker = Arc::clone(&broker);
            has_copied |= blocking::run(move || step(&broker, &moving)).await;
        }
        let files_wait = remove_superseded(&broker).await;
        let held_back = broker.throttles.between_dirs(&broker).wait();
        let wait = async {
            match (is_idle, has_copied) {
                (true, _) if files_wait => sleep(READ_MAX).await,
                (true, _) => std::future::pending().await,
                // The rate may be another one by then.
                (false, _) if held_back.is_some() => {
                    sleep(held_back.unwrap_or(RETRY).min(HELD_BACK_MAX)).await
                }
                (false, true) => {}
                (false, false) => sleep(RETRY).await,
            }
        };
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = broker.moves.begun.notified() => {}
            () = wait => {}
        }
    }
}

/// Copies some pieces, and ends the move when there is nothing left to copy. Says whether it got on.
fn step(broker: &Broker, moving: &Arc<Moving>) -> bool {
    let mut progress = moving.progress.lock();
    if progress.has_ended {
        return false;
    }
    match copy_on(broker, moving) {
        Ok(Stepped::Copied) => {
            progress.failures = 0;
            true
        }
        Ok(Stepped::NotYet) => false,
        Ok(Stepped::Done(superseded)) => {
            progress.has_ended = true;
            moving.partition.set_lane(moving.copy.to());
            broker.moves.forget(moving);
            broker.moves.superseded.lock().push((Instant::now(), superseded));
            let path = moving.partition.log.path();
            tracing::info!(partition = %moving.partition.id, path = %path.display(), "a replica has moved to another data directory");
            true
        }
        Err(error) => {
            progress.failures += 1;
            let is_of_the_disk = matches!(error, AppendError::Storage(_));
            if is_of_the_disk || progress.failures > FAILURES_MAX {
                tracing::error!(
                    partition = %moving.partition.id, %error,
                    "a replica does not move to another data directory: it stays where it is"
                );
                progress.has_ended = true;
                moving.copy.cancel();
                broker.moves.forget(moving);
            }
            false
        }
    }
}

enum Stepped {
    Copied,
    NotYet,
    Done(Superseded),
}

fn copy_on(broker: &Broker, moving: &Moving) -> Result<Stepped, AppendError> {
    let now = broker.clock.now();
    let limit = broker.throttles.between_dirs(broker);
    for _ in 0..PIECES {
        if moving.copy.lag() > 0 && limit.wait().is_some() {
            return Ok(Stepped::NotYet);
        }
        if let Some(bytes) = moving.copy.copy_on(now)? {
            limit.throttle().spend(usize::try_from(bytes).unwrap_or(usize::MAX));
            continue;
        }
        // Outside of the locks of the log, so that little is left to write while appends wait.
        moving.copy.flush(now)?;
        return Ok(match broker.data_dirs.finish_move(&moving.copy, now)? {
            Some(superseded) => Stepped::Done(superseded),
            None => Stepped::NotYet,
        });
    }
    Ok(Stepped::Copied)
}

/// Removes the files of before for which nobody waits any more. Says whether there are others.
async fn remove_superseded(broker: &Arc<Broker>) -> bool {
    let old = {
        let mut superseded = broker.moves.superseded.lock();
        let is_old = |(since, _): &mut (Instant, Superseded)| since.elapsed() >= READ_MAX;
        superseded.extract_if(.., is_old).map(|(_, superseded)| superseded).collect::<Vec<_>>()
    };
    if !old.is_empty() {
        let removed = blocking::run(move || {
            for superseded in old {
                if let Err(error) = superseded.remove() {
                    // The next start removes them.
                    tracing::warn!(%error, "files of a replica that has moved could not be removed");
                }
            }
        });
        removed.await;
    }
    !broker.moves.superseded.lock().is_empty()
}
