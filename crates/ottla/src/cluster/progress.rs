//! What is said while something goes on: a line on a terminal, or some of them, replaced by the next and gone at the end.
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

    /// Whether anybody sees it.
    pub(crate) fn is_seen(&self) -> bool {
        self.is_terminal
    }

    /// Shows rows, one below the other: the next ones take their place.
    pub(crate) fn show_rows(&self, rows: &[String]) {
        if self.is_terminal && !rows.is_empty() {
            // One that went on in the next line would not be found again.
            let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| size.ws_col);
            let cut = |row: &String| row.chars().take(usize::from(width)).collect::<String>();
            let text = rows.iter().map(cut).collect::<Vec<_>>().join("\x1b[K\n");
            // Back to the first one. What lies below is what was shown before, of more rows.
            let up = match rows.len() - 1 {
                0 => String::new(),
                rows => format!("\x1b[{rows}A"),
            };
            let _ = write!(std::io::stderr().lock(), "\r{text}\x1b[J{up}\r");
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
        if self.is_terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[J");
        }
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
