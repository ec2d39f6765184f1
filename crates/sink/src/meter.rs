//! What an instance does, for those who look while it does it: positions, counts and what is left, by line and partition.
//!
//! Lines write, after each step; progress and metrics read. What is counted only grows while the instance runs, also when a partition
//! goes and comes back. Nothing here decides anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wire::{Offset, TopicPartition};

use crate::settings::Line;

/// Where a partition stands that the instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Where the instance began in it.
    pub from: Offset,
    /// Where reading goes on.
    pub read: Offset,
    /// Up to where everything is in the output.
    pub committed: Offset,
}

/// What was done in a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Records that were taken.
    pub records: u64,
    /// Their keys, values and headers.
    pub bytes: u64,
    /// Those of them that are dead letters.
    pub letters: u64,
    /// Files in the table.
    pub files: u64,
    /// Ranges or transactions that were committed.
    pub commits: u64,
}

impl Work {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            bytes: self.bytes + other.bytes,
            letters: self.letters + other.letters,
            files: self.files + other.files,
            commits: self.commits + other.commits,
        }
    }
}

/// How far the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Behind the last record that the line gets to see.
    pub end: Offset,
    /// Offsets from the committed position to there; 0 when what follows is no record, as far as the broker tells.
    pub lag: i64,
    /// How long the first of them has waited, where the broker can tell.
    pub lag_ms: Option<i64>,
}

/// A partition as it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// The line.
    pub line: Line,
    /// The partition.
    pub partition: TopicPartition,
    /// Where it stands, while the instance has it.
    pub standing: Option<Standing>,
    /// What is left of it, as of some seconds ago.
    pub left: Option<Left>,
    /// Where the run is to end in it, if it is to.
    pub target: Option<Offset>,
    /// What was done in it.
    pub work: Work,
}

/// A line as it is seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeteredLine {
    /// Whether somebody has paused it.
    pub is_paused: bool,
    /// Transactions that failed and were done again, and partitions that another instance has taken.
    pub failures: u64,
}

/// What is known of a run.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    state: Arc<Mutex<State>>,
    is_watched: bool,
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<(Line, TopicPartition), Part>,
    lines: BTreeMap<Line, MeteredLine>,
}

#[derive(Debug, Default)]
struct Part {
    now: Option<(Standing, Work)>,
    /// Of the times before that the instance had it.
    before: Work,
    left: Option<Left>,
    target: Option<Offset>,
}

impl Meter {
    /// One that somebody looks at: what is left of partitions is asked for.
    pub fn watched() -> Self {
        Self { is_watched: true, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, line: Line, name: &TopicPartition, change: impl FnOnce(&mut Part)) {
        let mut state = self.state();
        match state.parts.get_mut(&(line, name.clone())) {
            Some(part) => change(part),
            None => change(state.parts.entry((line, name.clone())).or_default()),
        }
    }

    /// Where a partition stands, and what was done since it was taken hold of.
    pub(crate) fn tell(&self, line: Line, name: &TopicPartition, standing: Standing, work: Work) {
        self.part(line, name, |part| part.now = Some((standing, work)));
    }

    /// It is not the instance's any more.
    pub(crate) fn let_go(&self, line: Line, name: &TopicPartition) {
        self.part(line, name, |part| {
            if let Some((_, work)) = part.now.take() {
                part.before = part.before.and(work);
            }
        });
    }

    /// Where the run is to end.
    pub(crate) fn aim(&self, line: Line, ends: &BTreeMap<TopicPartition, Offset>) {
        for (name, end) in ends {
            self.part(line, name, |part| part.target = Some(*end));
        }
    }

    /// Of which partitions it is to be asked what is left.
    pub(crate) fn had(&self, line: Line) -> BTreeMap<TopicPartition, Standing> {
        if !self.is_watched {
            return BTreeMap::new();
        }
        let state = self.state();
        let of_line = state.parts.iter().filter(|((of, _), _)| *of == line);
        of_line.filter_map(|((_, name), part)| Some((name.clone(), part.now?.0))).collect()
    }

    /// What is left of a partition.
    pub(crate) fn left(&self, line: Line, name: &TopicPartition, left: Left) {
        self.part(line, name, |part| part.left = Some(left));
    }

    /// Something had to be done again.
    pub(crate) fn failed(&self, line: Line) {
        self.state().lines.entry(line).or_default().failures += 1;
    }

    pub(crate) fn paused(&self, line: Line, is_paused: bool) {
        self.state().lines.entry(line).or_default().is_paused = is_paused;
    }

    /// All partitions that the run has to do with, or had.
    pub fn partitions(&self) -> Vec<Metered> {
        let seen = |((line, partition), part): (&(Line, TopicPartition), &Part)| Metered {
            line: *line,
            partition: partition.clone(),
            standing: part.now.map(|(standing, _)| standing),
            left: part.left.filter(|_| part.now.is_some()),
            target: part.target,
            work: part.before.and(part.now.map(|(_, work)| work).unwrap_or_default()),
        };
        self.state().parts.iter().map(seen).collect()
    }

    /// The lines that run.
    pub fn lines(&self) -> Vec<(Line, MeteredLine)> {
        self.state().lines.iter().map(|(line, metered)| (*line, *metered)).collect()
    }
}

#[cfg(test)]
mod tests {
    use wire::{PartitionId, Str};

    use super::*;

    #[test]
    fn what_is_counted_goes_on_when_a_partition_comes_back() {
        let meter = Meter::default();
        let name = TopicPartition::new(Str::from("orders"), PartitionId(0));
        let standing = |at| Standing { from: Offset(5), read: Offset(at), committed: Offset(at) };
        let work = |records| Work { records, bytes: 10 * records, ..Work::default() };
        let seen = || {
            let all = meter.partitions();
            (all[0].work.records, all[0].work.bytes, all[0].standing.map(|standing| standing.read.0))
        };
        meter.tell(Line::Offline, &name, standing(7), work(2));
        meter.tell(Line::Offline, &name, standing(9), work(4));
        assert_eq!(seen(), (4, 40, Some(9)));
        meter.let_go(Line::Offline, &name);
        meter.let_go(Line::Offline, &name);
        assert_eq!(seen(), (4, 40, None));
        meter.tell(Line::Offline, &name, standing(20), work(1));
        assert_eq!(seen(), (5, 50, Some(20)));
    }
}
