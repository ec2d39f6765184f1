//! Opening compressed batches: work for a processor, tens of milliseconds and tens of megabytes at a time.
//! It runs on the thread of the connection that asked, whose other work moves to other threads meanwhile; as many run at a
//! time as there are processors, so that their memory is bounded whatever the number of connections.

use std::thread::available_parallelism;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Lets so many in at a time.
pub(crate) struct Unpacking {
    places: Mutex<usize>,
    freed: Condvar,
}

impl Unpacking {
    pub(crate) fn new() -> Self {
        let places = available_parallelism().map_or(1, usize::from);
        Unpacking { places: Mutex::new(places), freed: Condvar::new() }
    }

    /// Runs `job` when there is a place. Blocks the caller, not the reactor.
    pub(crate) fn run<R>(&self, job: impl FnOnce() -> R) -> R {
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => block_in_place(|| self.run_in_place(job)),
            // One thread does everything there, by the choice of who started it.
            _ => job(),
        }
    }

    fn run_in_place<R>(&self, job: impl FnOnce() -> R) -> R {
        let mut places = self.places.lock();
        while *places == 0 {
            self.freed.wait(&mut places);
        }
        *places -= 1;
        drop(places);
        let done = job();
        *self.places.lock() += 1;
        self.freed.notify_one();
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_run_at_a_time_than_there_are_places() {
        let unpacking = Arc::new(Unpacking { places: Mutex::new(2), freed: Condvar::new() });
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let (unpacking, running, most) = (unpacking.clone(), running.clone(), most.clone());
                std::thread::spawn(move || {
                    unpacking.run_in_place(|| {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert_eq!(*unpacking.places.lock(), 2);
    }
}
