//! What an application does with a record: it takes its time, and dies or stops at the wrong moment if told to.

use std::future::pending;
use std::time::Duration;

use clap::Args;

use crate::say;

/// For a reader to say that nothing comes.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(1);
/// For closing.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(20);

/// How it handles records. Numbers count the records that this process has handled.
#[derive(Args, Clone)]
pub(crate) struct Habits {
    /// What a record takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Says so once this many are handled, and goes on.
    #[arg(long)]
    say_after: Option<u64>,
    /// Takes as long as `--slow-ms` for the record after so many.
    #[arg(long)]
    slow_after: Option<u64>,
    #[arg(long, default_value_t = 0)]
    slow_ms: u64,
    /// Does nothing more once so many are handled, before anything is committed of the batch.
    #[arg(long)]
    hang_after: Option<u64>,
    /// Unsubscribes, closes and ends once so many are handled.
    #[arg(long)]
    close_after: Option<u64>,
    /// Hands records to a worker behind a queue in memory, and polls on.
    #[arg(long)]
    pub(crate) queue: bool,
}

/// Counts.
pub(crate) struct Handler {
    habits: Habits,
    handled: u64,
}

impl Handler {
    pub(crate) fn new(habits: Habits) -> Self {
        Self { habits, handled: 0 }
    }

    /// Before the record has any effect.
    pub(crate) async fn work(&mut self) {
        if self.habits.slow_after == Some(self.handled) {
            say("slow");
            tokio::time::sleep(Duration::from_millis(self.habits.slow_ms)).await;
            say("slow no more");
        }
        if self.habits.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.habits.delay_ms)).await;
        }
        self.handled += 1;
        if self.habits.say_after == Some(self.handled) {
            say("so far");
        }
    }

    /// Behind the effect and before the commit.
    pub(crate) async fn before_commit(&self) {
        if self.habits.hang_after.is_some_and(|after| self.handled >= after) {
            say("hanging");
            pending::<()>().await;
        }
    }

    pub(crate) fn is_to_close(&self) -> bool {
        self.habits.close_after.is_some_and(|after| self.handled >= after)
    }
}
