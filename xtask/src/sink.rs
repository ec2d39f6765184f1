//! `cargo xtask sink`, `sink-chaos` and `sink-dataset`: topics into tables and topics, with the real binary, and what came of it counted by
//! programs that are none of ours: DuckDB reads the tables, librdkafka the output topics. `sink-mutations`: what its own tests must find.

mod page;
mod walk;
mod fault;
mod instance;
mod room;
mod world;
mod verdict;
mod chaos;
mod dataset;
mod mutations;

pub(crate) use chaos::run as chaos;
pub(crate) use dataset::run as dataset;
pub(crate) use mutations::{PAGE as MUTATIONS, run as mutations};
pub(crate) use walk::run;

use crate::shell;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Waits for the end of a process, which is killed if that does not come in time.
pub(crate) fn ended(child: &mut Child, deadline: Instant, name: &str) -> Result<ExitStatus, String> {
    loop {
        let ended = child.try_wait().map_err(|error| format!("cannot look after {name}: {error}"))?;
        match ended {
            Some(status) => return Ok(status),
            None if shell::now() > deadline => {
                // Already gone is as good.
                let _ = child.kill().and_then(|()| child.wait().map(drop));
                return Err(format!("{name} does not come to its end and was killed"));
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}
