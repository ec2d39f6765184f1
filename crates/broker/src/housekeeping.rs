//! What a broker does on the side: checkpoints, retention, compaction, expiry of offsets.
//! Each job runs by itself on the blocking pool at its own interval; a job that fails is logged and tried again at
//! the next. None of them holds a lock of the data's way for longer than a short look.

use std::sync::Arc;
use std::time::Duration;

use storage::Clean;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::blocking;
use crate::broker::{Broker, stopped};
use crate::partition::Partition;
use crate::settings::BrokerSettings;

/// Runs the jobs until `stop` turns true.
pub(crate) async fn run(broker: Arc<Broker>, stop: watch::Receiver<bool>) {
    let mut jobs = JoinSet::new();
    // For each data directory by itself: a disk that hangs delays no other.
    for at in 0..broker.data_dirs.count() {
        let mut start = |interval: Interval, job: fn(&Arc<Broker>, usize)| {
            jobs.spawn(every(interval, stop.clone(), Arc::clone(&broker), move |broker| job(broker, at)))
        };
        start(|settings| settings.log.recovery_checkpoint_interval, checkpoint);
        start(|settings| settings.log.retention_check_interval, retain);
    }
    let mut start =
        |interval: Interval, job: Job| jobs.spawn(every(interval, stop.clone(), Arc::clone(&broker), job));
    start(|settings| settings.groups.offsets_retention_check_interval, expire_offsets);
    start(|_| EXPIRE_IDS_EVERY, expire_transactional_ids);
    start(|settings| settings.share.prune_interval, prune_share_states);
    if broker.settings().broker().log.cleaner_enabled {
        start(|settings| settings.log.cleaner_backoff, compact);
    }
    while jobs.join_next().await.is_some() {}
}

/// As often as Kafka does.
const EXPIRE_IDS_EVERY: Duration = Duration::from_secs(60 * 60);

type Job = fn(&Arc<Broker>);
/// Looked up anew each time, as some of them change while the broker runs.
type Interval = fn(&BrokerSettings) -> Duration;

/// Shorter than this no job is repeated, whatever the settings say.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

async fn every(
    interval: Interval,
    mut stop: watch::Receiver<bool>,
    broker: Arc<Broker>,
    job: impl Fn(&Arc<Broker>) + Copy + Send + 'static,
) {
    loop {
        let wait = interval(broker.settings().broker()).max(INTERVAL_MIN);
        tokio::select! {
            biased;
            () = sleep(wait) => {}
            () = stopped(&mut stop) => return,
        }
        let broker = Arc::clone(&broker);
        if blocking::start(move || job(&broker)).await.is_err() {
            tracing::error!("a housekeeping job panicked");
        }
    }
}

fn checkpoint(broker: &Arc<Broker>, at: usize) {
    if let Err(error) = broker.data_dirs.checkpoint(at, broker.clock.now()) {
        tracing::error!(%error, "recovery points could not be written");
    }
    broker.checkpoint_high_watermarks_of(at);
}

fn retain(broker: &Arc<Broker>, at: usize) {
    let now = broker.clock.now();
    let hosted = broker.partitions.load_full();
    let is_here = |partition: &&Arc<Partition>| partition.lane() == at && partition.log.is_open();
    for partition in hosted.partitions().filter(is_here) {
        match partition.log.apply_retention(now, partition.high_watermark()) {
            Ok(removed) if removed.segments > 0 => {
                tracing::info!(partition = %partition.id, segments = removed.segments, bytes = removed.bytes, "retention removed segments");
            }
            Ok(_nothing) => {}
            Err(error) => tracing::error!(partition = %partition.id, %error, "retention failed"),
        }
    }
}

fn compact(broker: &Arc<Broker>) {
    let map_bytes_max = broker.settings().broker().log.cleaner_map_bytes_max;
    let hosted = broker.partitions.load_full();
    // The dirtiest first: it gains most, and its readers wait longest.
    let now = broker.clock.now();
    let dirty = |partition: &&Arc<Partition>| {
        partition.log.dirty_ratio(now, partition.last_stable_offset()).unwrap_or(0.0)
    };
    let open = hosted.partitions().filter(|partition| partition.log.is_open());
    let mut partitions: Vec<_> = open.map(|partition| (dirty(&partition), partition)).collect();
    partitions.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    for (_, partition) in partitions {
        if broker.is_stopping() {
            return;
        }
        let high_watermark = partition.last_stable_offset();
        match partition.log.clean(Clean { now: broker.clock.now(), high_watermark, map_bytes_max }) {
            Ok(Some(cleaned)) => tracing::info!(partition = %partition.id, ?cleaned, "compacted"),
            Ok(None) => {}
            Err(error) => tracing::error!(partition = %partition.id, %error, "compaction failed"),
        }
    }
}

fn expire_offsets(broker: &Arc<Broker>) {
    broker.groups.expire_offsets();
}

fn prune_share_states(broker: &Arc<Broker>) {
    broker.share_states.forget_topics(broker);
    broker.share_states.prune();
}

fn expire_transactional_ids(broker: &Arc<Broker>) {
    broker.transactions.expire_ids();
}
