//! Work that waits for the disk, or for a processor for long: on the pool of threads that the runtime keeps for that.
//!
//! A runtime of one thread does it in place, by the choice of whoever started it: there everything happens in an order that
//! can be had again.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinHandle, spawn_blocking};

/// Whether everything happens on one thread.
pub(crate) fn is_in_place() -> bool {
    matches!(Handle::current().runtime_flavor(), RuntimeFlavor::CurrentThread)
}

/// Does the work and waits for it.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if is_in_place() {
        return work();
    }
    match spawn_blocking(work).await {
        Ok(done) => done,
        // The runtime is going down, and whoever waits here with it.
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Begins the work and goes on.
pub(crate) fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if is_in_place() { tokio::spawn(async { work() }) } else { spawn_blocking(work) }
}
