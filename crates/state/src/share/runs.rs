//! What is known of each offset of a range, kept as runs of neighbours of which the same is known.
//!
//! Invariant: runs do not overlap, none is empty, and two neighbours never say the same. So there are no more of them than offsets,
//! and what is learned costs what lies around it, however many there are.

use std::collections::BTreeMap;

use wire::Offset;

/// Offsets and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs<V> {
    /// By first offset: the last one, which belongs to it, and what is known.
    runs: BTreeMap<Offset, (Offset, V)>,
}

impl<V> Default for Runs<V> {
    fn default() -> Self {
        Runs { runs: BTreeMap::new() }
    }
}

/// Neighbouring offsets of which the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<V> {
    /// The first of them.
    pub first: Offset,
    /// The last of them.
    pub last: Offset,
    /// What is known.
    pub value: V,
}

impl<V> Run<V> {
    /// How many offsets they are.
    pub fn len(&self) -> i64 {
        self.last.since(self.first) + 1
    }

    /// Never true: a run has an offset.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl<V: Clone + PartialEq> Runs<V> {
    /// Whether nothing is known of any offset.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All runs, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Run<&V>> {
        self.runs.iter().map(|(first, (last, value))| Run { first: *first, last: *last, value })
    }

    /// The runs that have offsets from `from` on, the first of them whole.
    pub fn from(&self, from: Offset) -> impl Iterator<Item = Run<&V>> {
        let begins = self.runs.range(..=from).next_back().map_or(from, |(first, _)| *first);
        let runs = self.runs.range(begins..);
        runs.map(|(first, (last, value))| Run { first: *first, last: *last, value })
            .skip_while(move |run| run.last < from)
    }

    /// What is known of the offsets from `first` to `last`, cut to these.
    pub fn within(&self, first: Offset, last: Offset) -> impl Iterator<Item = Run<&V>> {
        self.from(first).take_while(move |run| run.first <= last).map(move |run| Run {
            first: run.first.max(first),
            last: run.last.min(last),
            value: run.value,
        })
    }

    /// What is known of one offset.
    pub fn at(&self, offset: Offset) -> Option<&V> {
        self.within(offset, offset).next().map(|run| run.value)
    }

    /// Takes over what is known of the offsets from `first` to `last`, whatever was known before.
    pub fn set(&mut self, first: Offset, last: Offset, value: V) {
        assert!(first <= last, "a run has an offset");
        self.split(first);
        self.split(last.plus(1));
        let replaced: Vec<Offset> = self.runs.range(first..=last).map(|(first, _)| *first).collect();
        for first in replaced {
            self.runs.remove(&first);
        }
        let before = self.runs.range(..first).next_back();
        let before = before.filter(|(_, (end, said))| end.plus(1) == first && *said == value);
        let first = before.map_or(first, |(begins, _)| *begins);
        let next = last.plus(1);
        let last = match self.runs.get(&next) {
            Some((end, said)) if *said == value => *end,
            Some(_) | None => last,
        };
        if last >= next {
            self.runs.remove(&next);
        }
        self.runs.insert(first, (last, value));
    }

    /// Forgets what lies before `start`.
    pub fn forget_before(&mut self, start: Offset) {
        self.split(start);
        self.runs = self.runs.split_off(&start);
    }

    /// Has a run begin at `offset`, where one goes across it.
    fn split(&mut self, offset: Offset) {
        let Some((_, (last, value))) = self.runs.range_mut(..offset).next_back() else { return };
        if *last >= offset {
            let rest = (*last, value.clone());
            *last = offset.plus(-1);
            self.runs.insert(offset, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Per offset, without runs.
    fn flat(runs: &Runs<u8>) -> BTreeMap<i64, u8> {
        runs.iter().flat_map(|run| (run.first.0..=run.last.0).map(|offset| (offset, *run.value))).collect()
    }

    proptest! {
        #[test]
        fn runs_know_what_a_map_of_offsets_knows(
            steps in prop::collection::vec((0i64..40, 0i64..8, 0u8..3, any::<bool>()), 1..40),
            asked in (0i64..45, 0i64..10),
        ) {
            let mut runs = Runs::default();
            let mut model = BTreeMap::new();
            for (first, len, value, forgets) in steps {
                if forgets && value == 0 {
                    runs.forget_before(Offset(first));
                    model.retain(|offset, _| *offset >= first);
                } else {
                    runs.set(Offset(first), Offset(first + len), value);
                    model.extend((first..=first + len).map(|offset| (offset, value)));
                }
                prop_assert_eq!(flat(&runs), model.clone());
                let all: Vec<_> = runs.iter().collect();
                let are_joined = |pair: &[Run<&u8>]| pair[0].last.plus(1) < pair[1].first || pair[0].value != pair[1].value;
                prop_assert!(all.windows(2).all(are_joined), "{:?}", runs);
            }
            let (first, last) = (asked.0, asked.0 + asked.1);
            let within: BTreeMap<i64, u8> = runs
                .within(Offset(first), Offset(last))
                .flat_map(|run| (run.first.0..=run.last.0).map(move |offset| (offset, *run.value)))
                .collect();
            model.retain(|offset, _| (first..=last).contains(offset));
            prop_assert_eq!(within, model);
        }
    }
}
