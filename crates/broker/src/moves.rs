//! Moves of replicas between the data directories of this broker (KIP-113).
//!
//! Each is a copy that catches up with the log piece by piece, all of them in turn, while the partition is led or followed as
//! before; when it is equal it takes the log's place. Invariant: a move that ends, whatever way, leaves the partition with one
//! log. One that the broker's stop interrupts begins anew with the next start. Those to one directory take turns, as Kafka's do
//! with a thread for each directory: a disk that hangs delays the moves to it, and what waits for it is nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use storage::{AppendError, Move, Superseded};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use wire::{ErrorCode, TopicPartition};

use crate::blocking;
use crate::broker::{Broker, stopped};
use crate::node::fresh_id;
use crate::partition::Partition;
use crate::replicas;

/// Pieces of a log that are copied before it is another one's turn.
const PIECES: usize = 8;
/// How often in a row a piece may not be what it should before a move is given up: the log may just have been cut.
const FAILURES_MAX: u32 = 10;
/// Wait before the next look at a copy that could not take its log's place, or whose piece could not be read.
const RETRY: Duration = Duration::from_millis(50);
/// Longest wait for the throttle.
const HELD_BACK_MAX: Duration = Duration::from_secs(1);
/// How long a move is waited for that is to be given up, or that the broker's stop finds under way. One whose disk hangs takes longer, and
/// ends by itself.
const ENDS_MAX: Duration = Duration::from_secs(5);
/// How long the files of before stay: a fetch may have found its records there.
const READ_MAX: Duration = Duration::from_secs(10);

/// The moves of this broker.
pub(crate) struct Moves {
    moving: Mutex<BTreeMap<TopicPartition, Arc<Moving>>>,
    /// Those that are about to begin: a log has one copy.
    beginning: Mutex<BTreeSet<TopicPartition>>,
    /// By the directory that is moved to: what is told its mover.
    lanes: Vec<Lane>,
}

#[derive(Default)]
struct Lane {
    superseded: Mutex<Vec<(Instant, Superseded)>>,
    begun: Notify,
}

/// One partition on its way.
struct Moving {
    partition: Arc<Partition>,
    copy: Move,
    /// Held while it is stepped on.
    progress: Mutex<Progress>,
    /// Whether it is to end without having got there.
    is_given_up: AtomicBool,
}

#[derive(Default)]
struct Progress {
    /// One that has ended is not stepped on.
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
    /// For so many directories.
    pub(crate) fn new(dirs: usize) -> Moves {
        let lanes = (0..dirs).map(|_| Lane::default()).collect();
        Moves { moving: Mutex::default(), beginning: Mutex::default(), lanes }
    }

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

    /// The partition goes: its move ends by itself, when its disk lets it.
    pub(crate) fn give_up(&self, partition: &TopicPartition) {
        if let Some(moving) = self.moving.lock().get(partition) {
            moving.is_given_up.store(true, Ordering::Release);
            self.lanes[moving.copy.to()].begun.notify_one();
        }
    }

    /// The partition stays where it is. Blocks, though not for a step that a hanging disk does not let end: false then, and the
    /// move ends when it answers.
    fn cancel(&self, partition: &TopicPartition) -> bool {
        let moving = self.moving.lock().get(partition).cloned();
        let Some(moving) = moving else { return true };
        moving.is_given_up.store(true, Ordering::Release);
        let Some(mut progress) = moving.progress.try_lock_for(ENDS_MAX) else { return false };
        self.end(&moving, &mut progress);
        true
    }

    /// Gives a move up, if it has not ended.
    fn end(&self, moving: &Arc<Moving>, progress: &mut Progress) {
        if !std::mem::replace(&mut progress.has_ended, true) {
            moving.copy.cancel();
        }
        self.forget(moving);
    }

    fn forget(&self, moving: &Arc<Moving>) {
        let mut all = self.moving.lock();
        if all.get(&moving.partition.id).is_some_and(|known| Arc::ptr_eq(known, moving)) {
            all.remove(&moving.partition.id);
        }
    }
}

/// Begins to move a partition to a directory, and ends its move to another one. Blocks.
pub(crate) fn begin(broker: &Arc<Broker>, partition: &Arc<Partition>, to: usize) -> Result<(), ErrorCode> {
    if !broker.moves.beginning.lock().insert(partition.id.clone()) {
        tracing::warn!(partition = %partition.id, "a move of this partition is just about to begin");
        return Err(ErrorCode::KAFKA_STORAGE_ERROR);
    }
    let begun = begin_alone(broker, partition, to);
    broker.moves.beginning.lock().remove(&partition.id);
    begun
}

fn begin_alone(broker: &Arc<Broker>, partition: &Arc<Partition>, to: usize) -> Result<(), ErrorCode> {
    let moves = &broker.moves;
    // Not one that is given up, such as that of an earlier partition of this name.
    let is_it = |moving: &Arc<Moving>| moving.copy.to() == to && !moving.is_given_up.load(Ordering::Acquire);
    if moves.moving.lock().get(&partition.id).is_some_and(is_it) {
        return Ok(());
    }
    if !moves.cancel(&partition.id) {
        tracing::error!(partition = %partition.id, "its last move cannot be given up while a disk does not answer");
        return Err(ErrorCode::KAFKA_STORAGE_ERROR);
    }
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
    let moving = Arc::new(Moving {
        partition: Arc::clone(partition),
        copy,
        progress: Mutex::default(),
        is_given_up: AtomicBool::new(false),
    });
    let before = moves.moving.lock().insert(partition.id.clone(), moving);
    assert!(before.is_none(), "a log has one copy");
    moves.lanes[to].begun.notify_one();
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

/// Moves to a directory until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, to: usize, mut stop: watch::Receiver<bool>) {
    loop {
        let moving: Vec<Arc<Moving>> = {
            let moving = broker.moves.moving.lock();
            moving.values().filter(|moving| moving.copy.to() == to).cloned().collect()
        };
        let is_idle = moving.is_empty();
        let mut has_copied = false;
        for moving in moving {
            if *stop.borrow() {
                return;
            }
            let broker = Arc::clone(&broker);
            let step = blocking::run(move || step(&broker, &moving));
            tokio::pin!(step);
            has_copied |= tokio::select! {
                biased;
                has_copied = &mut step => has_copied,
                () = stopped(&mut stop) => {
                    let _is_hung = timeout(ENDS_MAX, step).await;
                    return;
                }
            };
        }
        let files_wait = remove_superseded(&broker, to).await;
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
            () = broker.moves.lanes[to].begun.notified() => {}
            () = wait => {}
        }
    }
}

/// Copies some pieces, and ends the move when there is nothing left to copy. Says whether it got on.
fn step(broker: &Arc<Broker>, moving: &Arc<Moving>) -> bool {
    let mut progress = moving.progress.lock();
    if progress.has_ended {
        return false;
    }
    if moving.is_given_up.load(Ordering::Acquire) {
        broker.moves.end(moving, &mut progress);
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
            broker.moves.forget(moving);
            broker.moves.lanes[moving.copy.to()].superseded.lock().push((Instant::now(), superseded));
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
                broker.moves.end(moving, &mut progress);
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

fn copy_on(broker: &Arc<Broker>, moving: &Moving) -> Result<Stepped, AppendError> {
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
        let partition = &moving.partition;
        let finished = broker.data_dirs.finish_move(&moving.copy, now, || {
            partition.set_lane(moving.copy.to());
            broker.flusher.enqueue(partition);
        });
        // What was appended meanwhile is acknowledged now, wherever it lies.
        broker.flusher.enqueue(partition);
        // It may have been to go meanwhile, and come back.
        replicas::files_are_free(broker, &partition.id);
        return Ok(match finished? {
            Some(superseded) => Stepped::Done(superseded),
            None => Stepped::NotYet,
        });
    }
    Ok(Stepped::Copied)
}

/// Removes the files of before for which nobody waits any more. Says whether there are others.
async fn remove_superseded(broker: &Arc<Broker>, to: usize) -> bool {
    let old = {
        let mut superseded = broker.moves.lanes[to].superseded.lock();
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
        // A disk that hangs does it when it answers.
        let _is_hung = timeout(ENDS_MAX, removed).await;
    }
    !broker.moves.lanes[to].superseded.lock().is_empty()
}
