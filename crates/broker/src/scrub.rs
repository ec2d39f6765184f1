//! Rot: what a disk gives back is not always what was written, and nobody notices until somebody reads it.
//!
//! One task reads everything again, slowly. A replica in which it finds rot is out of service (see `lifecycle.rs`): others
//! lead in its stead, and it counts neither as in sync nor as eligible. Only then is what it cannot vouch for cut away, and
//! taken anew from the leader. Where there is no other replica to rely on, it stays as it is, and says so.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use storage::{ScrubPoint, Scrubbed};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use wire::{PartitionId, Uuid};

use crate::blocking;
use crate::broker::{Broker, stopped};
use crate::partition::Partition;
use crate::replicas;

/// How often a part is read.
const PERIOD: Duration = Duration::from_secs(1);
/// Shortest time from the beginning of one pass to that of the next.
const PASS_MIN: Duration = Duration::from_secs(600);

/// What a look at a log costs, however little is in it: a pass over many small ones is spread over time too.
const LOOK_BYTES: u64 = 4096;

/// How far a pass has come.
#[derive(Debug, Default)]
struct Pass {
    /// The partition that was read last, and where to read on in it.
    at: Option<((Uuid, PartitionId), Option<ScrubPoint>)>,
    is_done: bool,
}

/// Scrubs until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut pass = Pass::default();
    let mut began = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = sleep(PERIOD) => {}
        }
        if pass.is_done && began.elapsed() >= PASS_MIN {
            (pass, began) = (Pass::default(), Instant::now());
        }
        let broker = Arc::clone(&broker);
        let read = blocking::start(move || {
            repair(&broker);
            let bytes_max = broker.settings().broker().log.scrub_bytes_per_second;
            pass.read_on(&broker, bytes_max);
            pass
        });
        match read.await {
            Ok(read) => pass = read,
            Err(_) => return,
        }
    }
}

impl Pass {
    /// Reads about so many bytes more.
    fn read_on(&mut self, broker: &Broker, bytes_max: u64) {
        if self.is_done || bytes_max == 0 {
            return;
        }
        let hosted = broker.partitions.load_full();
        let partitions: BTreeMap<_, _> = hosted
            .partitions()
            .map(|partition| ((partition.topic_id, partition.id.partition), partition))
            .collect();
        let mut left = bytes_max;
        while left > 0 {
            let (from, point) = match self.at {
                Some((key, Some(point))) => (Bound::Included(key), Some(point)),
                Some((key, None)) => (Bound::Excluded(key), None),
                None => (Bound::Unbounded, None),
            };
            let Some((key, partition)) = partitions.range((from, Bound::Unbounded)).next() else {
                self.is_done = true;
                return;
            };
            let is_same = self.at.is_some_and(|(before, _)| before == *key);
            let (next, bytes) = look(broker, partition, point.filter(|_| is_same), left);
            left = left.saturating_sub(bytes.max(LOOK_BYTES));
            self.at = Some((*key, next));
        }
    }
}

/// Reads a part of one log. Returns where to read on in it, and how much was read.
fn look(
    broker: &Broker,
    partition: &Partition,
    from: Option<ScrubPoint>,
    bytes_max: u64,
) -> (Option<ScrubPoint>, u64) {
    if partition.is_out_of_service() {
        return (None, 0);
    }
    match partition.log.scrub(from, bytes_max) {
        Ok((Scrubbed::Until(point), bytes)) => (Some(point), bytes),
        Ok((Scrubbed::Sound, bytes)) => (None, bytes),
        Ok((Scrubbed::Rotten(rot), bytes)) => {
            let after = rot.sound.unwrap_or(partition.log.log_start());
            tracing::error!(
                partition = %partition.id, %after,
                "a log has rotted on the disk: it is taken anew from another replica, if there is one in sync; look after the disk"
            );
            broker.metrics.rotted();
            partition.note_rot(rot);
            (None, bytes)
        }
        Err(error) => {
            tracing::debug!(partition = %partition.id, %error, "a log could not be read to look for rot");
            (None, 0)
        }
    }
}

/// Cuts rot away where nobody counts on the replica any more, and has logs begin anew that could not even be opened.
fn repair(broker: &Broker) {
    let image = broker.metadata.image();
    let may_go = |topic: Uuid, partition: PartitionId| {
        let known = image.topic_by_id(topic).and_then(|topic| topic.partition(partition));
        known.is_some_and(|known| {
            known.replicas.contains(&broker.node_id)
                && !known.is_held_by(broker.node_id)
                && known.leader.is_some()
        })
    };
    for (topic, partition) in broker.replicas.take_damaged(may_go) {
        match broker.data_dirs.set_aside_stray(&partition, None) {
            Ok(()) => {
                tracing::warn!(%partition, "a damaged log is set aside, and taken anew from the leader");
                broker.metrics.rotted();
                broker.metadata.quorum().touch(topic);
            }
            Err(error) => tracing::error!(%partition, %error, "a damaged log could not be set aside"),
        }
        replicas::files_are_free(broker, &partition);
    }
    let hosted = broker.partitions.load_full();
    for partition in hosted.partitions().filter(|partition| partition.has_rot()) {
        if !may_go(partition.topic_id, partition.id.partition) {
            continue;
        }
        // False for as long as the metadata's next epoch is not this replica's.
        match partition.cut_rot(broker.clock.now()) {
            Ok(true) => {
                tracing::info!(partition = %partition.id, log_end = %partition.log.log_end(), "what had rotted is cut, and taken from the leader");
                broker.replication.resume(partition);
            }
            Ok(false) => {}
            Err(error) => tracing::error!(partition = %partition.id, %error, "rot could not be cut"),
        }
    }
}
