//! When a broker may be dialled again, and how long that may take.
//!
//! Pure: what happened goes in, with the time. Each address has its own pause, which doubles with each failure in
//! a row up to its bound and ends with the first success (`reconnect.backoff.ms`); the time that opening a
//! connection may take grows the same way (`socket.connection.setup.timeout.ms`, KIP-601).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{exponential, jittered};
use crate::environment::Address;
use crate::options::Options;

/// What was met at each address.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    failing: HashMap<Address, Failing>,
}

#[derive(Debug)]
struct Failing {
    in_a_row: u32,
    not_before: Instant,
}

impl Dials {
    /// The earliest time to dial, if that is still to come.
    pub(crate) fn not_before(&self, address: &Address, now: Instant) -> Option<Instant> {
        self.failing.get(address).map(|failing| failing.not_before).filter(|&not_before| not_before > now)
    }

    /// How long opening a connection may take.
    pub(crate) fn timeout(&self, address: &Address, options: &Options, random: u64) -> Duration {
        match self.failing.get(address) {
            None => options.connect_timeout,
            Some(failing) => {
                let max = options.connect_timeout_max.max(options.connect_timeout);
                jittered(exponential(options.connect_timeout, max, failing.in_a_row), random).min(max)
            }
        }
    }

    /// It was reached.
    pub(crate) fn connected(&mut self, address: &Address) {
        self.failing.remove(address);
    }

    /// It could not be reached, or a connection to it broke, at `when`.
    pub(crate) fn failed(&mut self, address: &Address, options: &Options, when: Instant, random: u64) {
        let max = options.reconnect_backoff_max();
        let failing =
            self.failing.entry(address.clone()).or_insert(Failing { in_a_row: 0, not_before: when });
        let pause = exponential(options.reconnect_backoff.min(max), max, failing.in_a_row);
        failing.not_before = when + jittered(pause, random).min(max);
        failing.in_a_row = failing.in_a_row.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Dials;
    use crate::options::Options;

    /// The pauses after failures in a row, with dice that change nothing, in milliseconds.
    fn pauses(settings: &[(&str, &str)], count: usize) -> Vec<u128> {
        let mut options = Options::default();
        settings.iter().for_each(|(key, value)| options.set(key, value).unwrap());
        let address = "a".parse().unwrap();
        let (mut dials, now) = (Dials::default(), Instant::now());
        let pause = |_| {
            dials.failed(&address, &options, now, 500);
            (dials.not_before(&address, now).unwrap() - now).as_millis()
        };
        (0..count).map(pause).collect()
    }

    #[test]
    fn pauses_before_dialling_again_grow_as_kafkas_do() {
        assert_eq!(pauses(&[], 7), [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pauses(&[("reconnect.backoff.ms", "20000")], 3), [20_000, 20_000, 20_000]);
        let both = [("reconnect.backoff.ms", "100"), ("reconnect.backoff.max.ms", "300")];
        assert_eq!(pauses(&both, 4), [100, 200, 300, 300]);
    }

    #[test]
    fn a_success_ends_the_pause_and_the_longer_patience() {
        let options = Options::default();
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (mut dials, now) = (Dials::default(), Instant::now());
        let patience = |dials: &Dials| dials.timeout(&a, &options, 500).as_secs();
        assert_eq!(patience(&dials), 10);
        for expected in [20, 30, 30] {
            dials.failed(&a, &options, now, 500);
            assert_eq!(patience(&dials), expected);
        }
        assert!(dials.not_before(&a, now).is_some());
        assert!(dials.not_before(&b, now).is_none(), "another address has done nothing");
        assert!(dials.not_before(&a, now + Duration::from_secs(1)).is_none());
        dials.connected(&a);
        assert!(dials.not_before(&a, now).is_none());
        assert_eq!(patience(&dials), 10);
    }
}
