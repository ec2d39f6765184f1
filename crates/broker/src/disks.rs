//! Data directories that fail while the broker runs (KIP-112).
//!
//! A log that met an error of its disk is out of service at once. Then the directory that it lies in is looked at: where it
//! cannot be written to any more, all its partitions go with it, others lead in their stead (see `lifecycle.rs`), and the
//! partitions in other directories go on. Without the metadata's directory, or with none left, the broker is of no use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use wire::ErrorCode;

use crate::blocking;
use crate::broker::{Broker, stopped};

/// How often it is asked whether a disk has failed somewhere.
const LOOK: Duration = Duration::from_millis(500);

/// Looks after the directories until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = sleep(LOOK) => {}
        }
        let looker = Arc::clone(&broker);
        let failed = blocking::run(move || looker.data_dirs.look_after()).await;
        if !failed.is_empty() {
            give_up(&broker, &failed);
        }
    }
}

/// Nobody is to wait for what lies in these directories.
fn give_up(broker: &Arc<Broker>, failed: &BTreeSet<usize>) {
    let hosted = broker.partitions.load_full();
    for partition in hosted.partitions() {
        if broker.data_dirs.place_of(&partition.id).is_some_and(|at| failed.contains(&at)) {
            partition.waiting.fail(ErrorCode::KAFKA_STORAGE_ERROR);
        }
    }
    if broker.data_dirs.is_of_no_use() {
        broker.has_no_disk.send_replace(true);
    }
    // The controller is told with the next heartbeat, which is now.
    broker.metadata_caught_up.notify_one();
}
