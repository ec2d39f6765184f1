//! The chance in a run: xorshift over a seed that is printed, so that a run's plan can be had again.

use std::time::Duration;

/// A generator of small numbers.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // The generator's one fixed point is zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// At least `ms_min`, below `ms_bound` milliseconds.
    pub(crate) fn millis(&mut self, ms_min: u64, ms_bound: u64) -> Duration {
        Duration::from_millis(ms_min + self.below(ms_bound - ms_min))
    }

    /// One of them.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.below(items.len() as u64)).expect("an index fits")]
    }
}
