//! Which leader epoch began at which offset (KIP-101). Epochs and start offsets grow together; an entry
//! stands for every offset from its start to the next entry's. Pure: `leader-epoch-checkpoint` is written by
//! the log when a checkpoint needs it, since recovery learns later entries from the batches themselves.

use std::fmt::Write;

use wire::{LeaderEpoch, Offset};

/// One epoch's first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The first offset that it may have written.
    pub start: Offset,
}

/// The epochs of one log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs {
    entries: Vec<EpochStart>,
    /// Whether the file says something else.
    changed: bool,
}

impl Epochs {
    /// Notes that `epoch` starts at `start`. An epoch that is known or older changes nothing.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        if epoch.0 < 0 || self.latest().is_some_and(|latest| epoch <= latest) {
            return;
        }
        // An epoch that wrote nothing has no offsets to stand for.
        while self.entries.last().is_some_and(|last| last.start >= start) {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start });
        self.changed = true;
    }

    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|last| last.epoch)
    }

    pub(crate) fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The largest epoch that is at most `epoch`, and the offset where the next one starts (or `log_end`), as
    /// OffsetForLeaderEpoch answers it. Of an epoch older than all, only that it ended before the first one
    /// is known. `None` for an epoch that this log has not seen.
    pub(crate) fn end_offset(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if epoch > self.latest()? {
            return None;
        }
        let after = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end = self.entries.get(after).map_or(log_end, |next| next.start);
        let found = after.checked_sub(1).map_or(epoch, |at| self.entries[at].epoch);
        Some((found, end))
    }

    /// The epoch that wrote `offset`.
    pub(crate) fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        Some(self.entries.get(after.checked_sub(1)?)?.epoch)
    }

    /// Drops what starts at `end` or later, when the log is cut there.
    pub(crate) fn truncate_end(&mut self, end: Offset) {
        let kept = self.entries.partition_point(|entry| entry.start < end);
        self.changed |= kept < self.entries.len();
        self.entries.truncate(kept);
    }

    /// Has the log start at `start`: the epoch that holds it starts there now, older ones are forgotten.
    pub(crate) fn truncate_start(&mut self, start: Offset) {
        let after = self.entries.partition_point(|entry| entry.start <= start);
        let Some(first) = after.checked_sub(1) else { return };
        if first > 0 || self.entries[first].start != start {
            self.entries.drain(..first);
            self.entries[0].start = start;
            self.changed = true;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.changed |= !self.entries.is_empty();
        self.entries.clear();
    }

    /// The same epochs for a log whose file does not say them yet.
    pub(crate) fn to_write(&self) -> Epochs {
        Epochs { entries: self.entries.clone(), changed: true }
    }

    /// The file's content if it is out of date, which it then no longer is.
    pub(crate) fn take_changed(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut text = format!("0\n{}\n", self.entries.len());
        for entry in &self.entries {
            let _ = writeln!(text, "{} {}", entry.epoch.0, entry.start.0);
        }
        Some(text)
    }

    /// Reads `leader-epoch-checkpoint`; `None` when it is not one.
    pub(crate) fn parse(text: &str) -> Option<Epochs> {
        let mut lines = text.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut epochs = Epochs::default();
        for line in lines.by_ref().take(count) {
            let (epoch, start) = line.split_once(' ')?;
            let entry =
                EpochStart { epoch: LeaderEpoch(epoch.parse().ok()?), start: Offset(start.parse().ok()?) };
            let grows =
                epochs.entries.last().is_none_or(|last| last.epoch < entry.epoch && last.start < entry.start);
            if !grows {
                return None;
            }
            epochs.entries.push(entry);
        }
        (epochs.entries.len() == count).then_some(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for (epoch, start) in entries {
            epochs.assign(LeaderEpoch(*epoch), Offset(*start));
        }
        epochs
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_starts() {
        let epochs = epochs(&[(0, 0), (2, 10), (5, 20)]);
        let end = |epoch| epochs.end_offset(LeaderEpoch(epoch), Offset(33)).map(|(e, o)| (e.0, o.0));
        assert_eq!(end(0), Some((0, 10)));
        assert_eq!(end(1), Some((0, 10)));
        assert_eq!(end(2), Some((2, 20)));
        assert_eq!(end(5), Some((5, 33)));
        assert_eq!(end(7), None);
        assert_eq!(end(-1), Some((-1, 0)));
        assert_eq!(epochs.at(Offset(19)), Some(LeaderEpoch(2)));
    }

    #[test]
    fn an_epoch_that_wrote_nothing_gives_way() {
        let epochs = epochs(&[(0, 0), (1, 5), (2, 5)]);
        assert_eq!(epochs, { self::epochs(&[(0, 0), (2, 5)]) });
    }

    #[test]
    fn the_file_parses_back_and_nothing_else_does() {
        let mut epochs = epochs(&[(0, 0), (2, 10), (5, 20)]);
        epochs.truncate_start(Offset(12));
        epochs.truncate_end(Offset(20));
        let text = epochs.take_changed().unwrap();
        assert_eq!(text, "0\n1\n2 12\n");
        assert_eq!(Epochs::parse(&text), Some(epochs));
        for hostile in ["", "1\n0\n", "0\n2\n0 0\n", "0\n2\n1 5\n1 6\n", "0\n1\nx 1\n"] {
            assert_eq!(Epochs::parse(hostile), None, "{hostile:?}");
        }
    }
}
