//! Data directories that fail while the broker runs (KIP-112).
//!
//! A log that met an error of its disk is out of service at once. Then the directory that it lies in is looked at: where it
//! cannot be written to any more, all its partitions go with it, others lead in their stead (see `lifecycle.rs`), and the
//! partitions in other directories go on. Without the metadata's directory, or with none left, the broker is of no use.
//!
//! Each directory is looked at by itself, now and then also when nothing was heard of it: a disk that hangs says nothing. Such a
//! one is told of, and nothing else: it may be slow, and Kafka takes no directory offline for that either.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use wire::ErrorCode;

use crate::blocking;
use crate::broker::{Broker, stopped};
use crate::replicas;

/// How often it is asked whether a disk has failed somewhere.
const LOOK: Duration = Duration::from_millis(500);
/// How often a directory is looked at of which nothing is heard.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// A disk that takes longer does not answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Looks after a directory until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, at: usize, mut stop: watch::Receiver<bool>) {
    let mut probed = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = sleep(LOOK) => {}
        }
        if broker.data_dirs.is_offline(at) {
            return;
        }
        if !broker.data_dirs.take_suspect(at) && probed.elapsed() < PROBE_EVERY {
            continue;
        }
        let prober = Arc::clone(&broker);
        let mut probe = blocking::start(move || prober.data_dirs.probe(at));
        let began = Instant::now();
        let mut told = false;
        let answer = loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                answer = &mut probe => break answer,
                () = sleep(ANSWER_MAX), if !told => {
                    told = true;
                    broker.data_dirs.note_answers(at, false);
                    tracing::warn!(
                        path = %broker.data_dirs.path_of(at).unwrap_or("".as_ref()).display(), waits = ?ANSWER_MAX,
                        "a data directory does not answer, and the partitions in it may not either: look at its disk"
                    );
                }
            }
        };
        probed = Instant::now();
        if told {
            broker.data_dirs.note_answers(at, true);
            tracing::warn!(
                path = %broker.data_dirs.path_of(at).unwrap_or("".as_ref()).display(), after = ?began.elapsed(),
                "a data directory answers again"
            );
        }
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let failer = Arc::clone(&broker);
                blocking::run(move || failer.data_dirs.take_offline(at, &error)).await;
                give_up(&broker, at);
            }
            Err(error) => tracing::error!(%error, "a data directory could not be looked at"),
        }
    }
}

/// Nobody is to wait for what lies in this directory.
fn give_up(broker: &Arc<Broker>, failed: usize) {
    let hosted = broker.partitions.load_full();
    for partition in hosted.partitions() {
        if broker.data_dirs.place_of(&partition.id) == Some(failed) {
            partition.waiting.fail(ErrorCode::KAFKA_STORAGE_ERROR);
        }
    }
    replicas::make_elsewhere(broker);
    if broker.data_dirs.is_of_no_use() {
        broker.has_no_disk.send_replace(true);
    }
    // The controller is told with the next heartbeat, which is now.
    broker.metadata_caught_up.notify_one();
}
