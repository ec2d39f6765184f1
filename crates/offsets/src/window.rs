//! What was seen of late, for readers whose output cannot refuse a repeat.
//!
//! A window remembers so many keys and forgets the oldest first. It tells repeats within that many, and nothing beyond.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The last keys, of (partition, offset) or of whatever names a record to its user.
#[derive(Debug, Clone)]
pub struct Window<K> {
    len_max: usize,
    in_order: VecDeque<K>,
    known: HashSet<K>,
}

impl<K: Clone + Eq + Hash> Window<K> {
    /// Remembers the last `len_max` keys; at least one.
    pub fn new(len_max: usize) -> Self {
        Self { len_max: len_max.max(1), in_order: VecDeque::new(), known: HashSet::new() }
    }

    /// One that remembers already: what [`Window::keys`] gave, from wherever it was kept.
    pub fn restore(len_max: usize, keys: impl IntoIterator<Item = K>) -> Self {
        let mut window = Self::new(len_max);
        for key in keys {
            window.is_new(key);
        }
        window
    }

    /// Whether the key was not seen within the window; it has been then.
    pub fn is_new(&mut self, key: K) -> bool {
        if !self.known.insert(key.clone()) {
            return false;
        }
        self.in_order.push_back(key);
        if self.in_order.len() > self.len_max
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// All that it remembers, oldest first, to be kept beside the output.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.in_order.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn a_repeat_within_the_window_is_told_and_one_beyond_is_not() {
        let mut window = Window::new(3);
        assert!([1, 2, 3].into_iter().all(|key| window.is_new(key)));
        assert!(!window.is_new(1));
        assert!(window.is_new(4), "which forgets 1");
        assert!(window.is_new(1), "and 2");
        assert!(!window.is_new(3));
        assert_eq!(window.keys().copied().collect::<Vec<_>>(), [3, 4, 1]);
    }

    #[test]
    fn a_window_that_was_kept_goes_on() {
        let mut window = Window::restore(2, ["a", "b", "c"]);
        assert!(!window.is_new("c"));
        assert!(window.is_new("a"));
    }
}
