//! Group flush: many writers wait for one fdatasync.
//!
//! A partition that was written to joins the queue once, however many requests wrote to it; a flush thread takes
//! it, flushes all that was appended by then, and moves its high watermark, which answers all of them together.
//! Appends go on while a flush runs, and join the next one. Invariant: a partition is in the queue or in a
//! thread's hands whenever it holds bytes that nobody flushed.
//!
//! There is no barrier over partitions: a slow file delays its own writers only. Threads flush in parallel, so
//! that the file system commits its journal once for all of them. Each data directory has a lane of its own, queue and
//! threads: a disk that hangs delays no other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use client::Environment;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::blocking;
use crate::metrics::Metrics;
use crate::partition::Partition;

/// Flushes that run at a time in one data directory. They wait for the disk, not for a processor; more of them let the file system put
/// more of them into one commit of its journal.
const THREADS: usize = 32;
/// How long a flush takes at most where a task does them.
const IN_PLACE_MILLIS_MAX: u64 = 5;

/// The flush queue and its threads.
pub(crate) struct Flusher {
    /// By data directory.
    lanes: Arc<[Arc<Shared>]>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    /// Which data directory's it is.
    at: usize,
    queue: Mutex<Queue>,
    work: Condvar,
    metrics: Metrics,
    /// The same as `work` for the task.
    written: Notify,
}

#[derive(Default)]
struct Queue {
    dirty: VecDeque<Arc<Partition>>,
    stopping: bool,
}

impl Flusher {
    /// Starts the flush threads; where everything happens on one thread, a task that flushes after a while, as disks do.
    pub(crate) fn start(
        metrics: Metrics,
        environment: &Arc<dyn Environment>,
        dirs: usize,
    ) -> std::io::Result<Arc<Self>> {
        let lane = |at| {
            Arc::new(Shared {
                at,
                queue: Mutex::default(),
                work: Condvar::new(),
                metrics: metrics.clone(),
                written: Notify::new(),
            })
        };
        let lanes: Arc<[Arc<Shared>]> = (0..dirs.max(1)).map(lane).collect();
        if blocking::is_in_place() {
            for lane in lanes.iter() {
                tokio::spawn(Arc::clone(lane).run_in_place(Arc::clone(&lanes), Arc::clone(environment)));
            }
            return Ok(Arc::new(Flusher { lanes, threads: Mutex::default() }));
        }
        let mut handles = Vec::new();
        for (at, lane) in lanes.iter().enumerate() {
            for index in 0..THREADS {
                let lane = Arc::clone(lane);
                let thread = std::thread::Builder::new().name(format!("flush-{at}-{index}"));
                let lanes = Arc::clone(&lanes);
                handles.push(thread.spawn(move || lane.run(&lanes))?);
            }
        }
        Ok(Arc::new(Flusher { lanes, threads: Mutex::new(handles) }))
    }

    /// Queues a partition that holds unflushed bytes. Cheap when it is queued already.
    pub(crate) fn enqueue(&self, partition: &Arc<Partition>) {
        if partition.flush_state.request() {
            self.lanes[partition.lane() % self.lanes.len()].push(Arc::clone(partition));
        }
    }

    /// How many partitions wait for a thread.
    pub(crate) fn queued(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queue.lock().dirty.len()).sum()
    }

    /// Flushes what is queued, then ends the threads.
    pub(crate) fn stop(&self) {
        for lane in self.lanes.iter() {
            lane.queue.lock().stopping = true;
            lane.work.notify_all();
        }
        // Nobody else is left to flush where there are no threads.
        if self.threads.lock().is_empty() {
            self.lanes.iter().for_each(|lane| lane.run(&self.lanes));
        }
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a flush thread panicked");
            }
        }
    }
}

/// The threads of a broker that was dropped without being stopped end. Nothing is queued: every partition holds the flusher.
impl Drop for Flusher {
    fn drop(&mut self) {
        for lane in self.lanes.iter() {
            lane.queue.lock().stopping = true;
            lane.work.notify_all();
        }
    }
}

impl Shared {
    fn run(&self, lanes: &[Arc<Shared>]) {
        while let Some(partition) = self.next() {
            self.flush(partition, lanes);
        }
    }

    async fn run_in_place(self: Arc<Self>, lanes: Arc<[Arc<Shared>]>, environment: Arc<dyn Environment>) {
        loop {
            self.written.notified().await;
            loop {
                sleep(Duration::from_millis(environment.random() % IN_PLACE_MILLIS_MAX)).await;
                let Some(partition) = self.queue.lock().dirty.pop_front() else { break };
                self.flush(partition, &lanes);
            }
        }
    }

    fn flush(&self, partition: Arc<Partition>, lanes: &[Arc<Shared>]) {
        // It may have moved since it was queued, to a disk for which nobody else here is to wait.
        let lane = &lanes[partition.lane() % lanes.len()];
        if lane.at != self.at && !lane.queue.lock().stopping {
            lane.push(partition);
            return;
        }
        partition.flush_state.begin();
        let began = Instant::now();
        match partition.flush() {
            Ok(()) => self.metrics.flushed(began.elapsed()),
            Err(_reported) => self.metrics.flush_failed(),
        }
        if partition.flush_state.end() {
            lanes[partition.lane() % lanes.len()].push(partition);
        }
    }

    fn push(&self, partition: Arc<Partition>) {
        self.queue.lock().dirty.push_back(partition);
        self.work.notify_one();
        self.written.notify_one();
    }

    fn next(&self) -> Option<Arc<Partition>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(partition) = queue.dirty.pop_front() {
                return Some(partition);
            }
            if queue.stopping {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}

/// Where one partition stands with the flusher. At most one thread flushes a partition at a time, so that all that
/// is written meanwhile shares the next flush.
#[derive(Debug, Default)]
pub(crate) struct FlushState(AtomicU8);

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const FLUSHING: u8 = 2;
/// Written to while a thread flushes it: it goes back to the queue.
const FLUSHING_DIRTY: u8 = 3;

impl FlushState {
    /// Notes a write. True when the caller has to put the partition into the queue.
    fn request(&self) -> bool {
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
                IDLE => Some(QUEUED),
                FLUSHING => Some(FLUSHING_DIRTY),
                _ => None,
            })
            .ok();
        before == Some(IDLE)
    }

    /// A thread took the partition from the queue.
    fn begin(&self) {
        let before = self.0.swap(FLUSHING, Ordering::AcqRel);
        assert!(before == QUEUED, "a partition was flushed that nobody had queued");
    }

    /// The thread is done. True when it has to put the partition back into the queue.
    fn end(&self) -> bool {
        let next = |state| if state == FLUSHING_DIRTY { QUEUED } else { IDLE };
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| Some(next(state)));
        before == Ok(FLUSHING_DIRTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_during_a_flush_share_the_next_one() {
        let state = FlushState::default();
        assert!(state.request());
        assert!(!state.request(), "queued once, however many wrote");
        state.begin();
        assert!(!state.request());
        assert!(!state.request());
        assert!(state.end(), "back to the queue, once");
        state.begin();
        assert!(!state.end());
        assert!(state.request());
    }
}
