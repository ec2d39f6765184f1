//! How long to wait before trying again, and when to give up.
//!
//! A [`Retry`] lives for one operation: it doubles the pause after each failure, spreads it by a fifth so that
//! clients that failed together do not come back together, and ends at the operation's deadline or at the first
//! error that trying again cannot cure.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use wire::ErrorCode;

use crate::environment::Environment;
use crate::error::{Error, ErrorKind};
use crate::options::Options;

/// How long to wait while the coordinator ends another transaction of the same producer.
pub(crate) const CONCURRENT_PAUSE_MAX: Duration = Duration::from_millis(20);

/// The retries of one operation.
pub(crate) struct Retry<'a> {
    environment: &'a dyn Environment,
    doing: String,
    begun: Instant,
    deadline: Instant,
    pause: Duration,
    pause_max: Duration,
}

impl<'a> Retry<'a> {
    pub(crate) fn new(
        environment: &'a dyn Environment,
        options: &Options,
        timeout: Duration,
        doing: impl Into<String>,
    ) -> Self {
        let begun = Instant::now();
        Self {
            environment,
            doing: doing.into(),
            begun,
            deadline: begun + timeout,
            pause: options.retry_backoff.min(options.retry_backoff_max),
            pause_max: options.retry_backoff_max,
        }
    }

    /// When the operation has to be over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits before the next try, or gives the error back when there is to be none.
    pub(crate) async fn again(&mut self, error: Error) -> Result<(), Error> {
        if error.kind() != ErrorKind::Retriable {
            return Err(error);
        }
        let pause = match error.code() {
            // Ending another transaction takes milliseconds.
            Some(ErrorCode::CONCURRENT_TRANSACTIONS) => self.pause.min(CONCURRENT_PAUSE_MAX),
            _ => self.pause,
        };
        let next = Instant::now() + jittered(pause, self.environment.random());
        self.pause = (self.pause * 2).min(self.pause_max);
        if next >= self.deadline {
            let after = self.begun.elapsed();
            // A deadline that passed inside the try already says all there is to say.
            if let Error::Timeout { doing, last, .. } = error {
                return Err(Error::Timeout { doing, after, last });
            }
            return Err(Error::Timeout { doing: self.doing.clone(), after, last: Some(Box::new(error)) });
        }
        tracing::debug!(%error, doing = self.doing, "trying again");
        sleep_until(next).await;
        Ok(())
    }
}

/// The pause, made up to a fifth shorter or longer by the dice.
pub(crate) fn jittered(pause: Duration, random: u64) -> Duration {
    let fraction = (random % 1000) as f64 / 1000.0;
    pause.mul_f64(0.8 + 0.4 * fraction)
}

/// The pause before the `failures`-th repetition, before jitter.
pub(crate) fn exponential(first: Duration, max: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(max)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{exponential, jittered};

    #[test]
    fn pauses_double_up_to_their_bound_and_spread_by_a_fifth() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let pauses: Vec<_> = (0..6).map(|failures| exponential(first, max, failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(exponential(first, max, u32::MAX), max);
        assert_eq!(jittered(max, 0), Duration::from_millis(800));
        assert!(jittered(max, 999) < Duration::from_millis(1200));
    }
}
