//! An audit as a page of metrics for Prometheus, made anew whenever it is read.

use std::fmt::{Display, Write};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wire::PartitionId;

use super::judge::{Patience, Tally};
use super::report::Audit;
use crate::failure::Failure;

/// Upper bounds of the delay's buckets, in milliseconds.
const BOUNDS_MS: [u64; 15] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];

/// Several hands on one thing; a panic while it was held is reported where it happened.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves what `page` makes at `/metrics` of an address, for as long as the handle is kept; says where.
pub(crate) async fn serve(
    address: &str,
    page: impl Fn() -> String + Send + Sync + 'static,
) -> Result<(SocketAddr, Served), Failure> {
    let refused =
        |error: std::io::Error| Failure::usage(format!("metrics cannot be served at {address}: {error}"));
    let socket = TcpListener::bind(address).await.map_err(refused)?;
    let bound = socket.local_addr().map_err(refused)?;
    Ok((bound, Served(broker::admin::serve_page(socket, page))))
}

/// A page that is served.
pub(crate) struct Served(JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The page of an audit, under names that begin with `prefix`. What is missing since before `patience` is lost.
pub(super) fn page(prefix: &str, audit: &Audit, patience: Patience) -> String {
    let judgement = audit.judge.judgement(patience, None);
    let mut page = Page { text: String::new(), prefix, topic: &audit.topic };
    let mut by_partition = |kind: &str, name: &str, help: &str, value: fn(&Tally) -> u64| {
        page.metric(kind, name, help);
        for (partition, tally) in &judgement.partitions {
            page.sample(name, Some(*partition), None, value(tally));
        }
    };
    by_partition("counter", "records_total", "Records with a stamp that were read.", |tally| tally.records);
    by_partition("gauge", "lost", "Records that are missing; one that comes after all is not.", |tally| {
        tally.lost
    });
    by_partition("counter", "doubled_total", "Records that came again.", |tally| tally.doubled);
    by_partition("counter", "reordered_total", "Records that came behind later ones.", |tally| {
        tally.reordered
    });
    let of_topic = [
        ("gauge", "awaited", "Records that are missing and may still come.", judgement.awaited),
        ("counter", "not_judged_total", "Records beyond what is kept to judge by.", judgement.not_judged),
        ("counter", "unreadable_total", "Records whose stamp cannot be read.", audit.unreadable()),
        ("gauge", "keys", "Keys that are followed.", judgement.keys as u64),
    ];
    for (kind, name, help, value) in of_topic {
        page.metric(kind, name, help);
        page.sample(name, None, None, value);
    }
    page.metric("histogram", "delay_seconds", "From a record's production to its reading.");
    for (partition, tally) in &judgement.partitions {
        page.delays(*partition, tally);
    }
    page.text
}

/// A page in the making. Topics and numbers are all that labels hold, and need no escaping.
pub(super) struct Page<'a> {
    pub(super) text: String,
    pub(super) prefix: &'a str,
    pub(super) topic: &'a str,
}

impl Page<'_> {
    pub(super) fn metric(&mut self, kind: &str, name: &str, help: &str) {
        let prefix = self.prefix;
        let _ = writeln!(self.text, "# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} {kind}");
    }

    pub(super) fn sample(
        &mut self,
        name: &str,
        partition: Option<PartitionId>,
        bound: Option<&str>,
        value: impl Display,
    ) {
        let _ = write!(self.text, "{}_{name}{{topic=\"{}\"", self.prefix, self.topic);
        if let Some(partition) = partition {
            let _ = write!(self.text, ",partition=\"{}\"", partition.0);
        }
        if let Some(bound) = bound {
            let _ = write!(self.text, ",le=\"{bound}\"");
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn delays(&mut self, partition: PartitionId, tally: &Tally) {
        let seconds = |ms: f64| (ms / 1e3).to_string();
        for bound in BOUNDS_MS {
            let count = tally.delay.count_between(0, bound);
            self.sample("delay_seconds_bucket", Some(partition), Some(&seconds(bound as f64)), count);
        }
        let count = tally.delay.len();
        self.sample("delay_seconds_bucket", Some(partition), Some("+Inf"), count);
        let sum = seconds(tally.delay.mean() * count as f64);
        self.sample("delay_seconds_sum", Some(partition), None, sum);
        self.sample("delay_seconds_count", Some(partition), None, count);
    }
}

/// A future that never comes, or the one there is.
pub(super) async fn or_never<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Shared between whoever reads and whoever serves.
pub(super) type Shared<T> = Arc<Mutex<T>>;
