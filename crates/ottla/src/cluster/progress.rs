//! What is said while something goes on: one line on a terminal, replaced by the next and gone at the end.
//!
//! It goes to the standard error, and nowhere when that is no terminal.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// The line.
pub(crate) struct Progress {
    is_terminal: bool,
    shown: Cell<Option<Instant>>,
}

/// Nobody reads faster.
const SHOW_EVERY: Duration = Duration::from_millis(100);

impl Progress {
    pub(crate) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), shown: Cell::new(None) }
    }

    /// Shows this instead of what was shown before.
    pub(crate) fn show(&self, line: impl Display) {
        if self.is_terminal {
            // Nobody is told that progress could not be told.
            let _ = write!(std::io::stderr().lock(), "\r{line}\x1b[K");
        }
    }

    /// The same for what changes all the time: now and then.
    pub(crate) fn show_often(&self, line: impl Display) {
        if self.shown.get().is_none_or(|shown| shown.elapsed() >= SHOW_EVERY) {
            self.shown.set(Some(Instant::now()));
            self.show(line);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

/// Until when to wait: `--wait`, or for ever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    deadline: Option<Instant>,
}

impl Patience {
    pub(super) fn new(seconds: Option<u64>) -> Self {
        Self {
            deadline: seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))),
        }
    }

    pub(super) fn is_over(self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Waits for `pause`, or less when it is over earlier.
    pub(super) async fn pause(self, pause: Duration) {
        let next = Instant::now() + pause;
        tokio::time::sleep_until(self.deadline.map_or(next, |deadline| deadline.min(next))).await;
    }

    /// How long it still lasts, for people.
    pub(super) fn left(self) -> String {
        match self.deadline {
            Some(deadline) => {
                format!("; {} s left", deadline.saturating_duration_since(Instant::now()).as_secs())
            }
            None => String::new(),
        }
    }
}
