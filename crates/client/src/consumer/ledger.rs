//! What of a partition was handed out, and how far the application is done with it.
//!
//! Pure. The entries follow one another without a hole from `handled` on. Only a prefix of them that is done with
//! moves `handled`, which is all that is ever committed. What is given back undone takes everything behind it with
//! it, because that is handed out again, in order; whoever still holds it holds nothing that counts.

use std::collections::BTreeMap;

use wire::{LeaderEpoch, Offset};

/// The records of one partition that are in the application's hands.
#[derive(Debug)]
pub(super) struct Ledger {
    handled: Handled,
    entries: BTreeMap<Offset, Entry>,
}

/// Up to where the application is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handled {
    /// The next offset.
    pub(super) next: Offset,
    /// Of the last record that is done with.
    pub(super) leader_epoch: LeaderEpoch,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Tells this handing out from a later one of the same offsets.
    id: u64,
    next: Offset,
    leader_epoch: LeaderEpoch,
    is_done: bool,
}

impl Ledger {
    /// Nothing is handed out, and what lies before `next` is no concern.
    pub(super) fn new(next: Offset, leader_epoch: LeaderEpoch) -> Self {
        Self { handled: Handled { next, leader_epoch }, entries: BTreeMap::new() }
    }

    /// Offsets from `first` up to before `next` are the application's now.
    pub(super) fn hand_out(&mut self, id: u64, first: Offset, next: Offset, leader_epoch: LeaderEpoch) {
        assert!(first < next, "there is something to hand out");
        assert_eq!(first, self.end(), "records are handed out in order");
        self.entries.insert(first, Entry { id, next, leader_epoch, is_done: false });
    }

    /// The application is done with what it holds from `first` up to before `through`. False if it no longer counts.
    pub(super) fn done(&mut self, id: u64, first: Offset, through: Offset) -> bool {
        let Some(entry) = self.entries.get_mut(&first).filter(|entry| entry.id == id && !entry.is_done)
        else {
            return false;
        };
        if through <= first {
            return true;
        }
        let whole = *entry;
        entry.is_done = true;
        if through < whole.next {
            entry.next = through;
            self.entries.insert(through, whole);
        }
        while let Some(front) = self.entries.first_entry().filter(|front| front.get().is_done) {
            let front = front.remove();
            self.handled = Handled { next: front.next, leader_epoch: front.leader_epoch };
        }
        if self.entries.is_empty() {
            // An empty tree keeps its last node, which of thousands of partitions is more than all else that is kept of them.
            self.entries = BTreeMap::new();
        }
        true
    }

    /// Whether what was handed out there under this number still counts.
    pub(super) fn counts(&self, id: u64, first: Offset) -> bool {
        self.entries.get(&first).is_some_and(|entry| entry.id == id && !entry.is_done)
    }

    /// What is held from `first` on is two things from now on, that end and begin at `at`.
    pub(super) fn split(&mut self, id: u64, first: Offset, at: Offset) {
        if let Some(entry) = self.entries.get_mut(&first).filter(|entry| entry.id == id && !entry.is_done)
            && (first < at && at < entry.next)
        {
            let rest = *entry;
            entry.next = at;
            self.entries.insert(at, rest);
        }
    }

    /// The application lets go of what it holds from `first` on and is not done with it. Returns where reading has to go
    /// back to; nowhere if it no longer counts.
    pub(super) fn give_back(&mut self, id: u64, first: Offset) -> Option<Offset> {
        self.entries.get(&first).filter(|entry| entry.id == id && !entry.is_done)?;
        self.entries.split_off(&first);
        Some(first)
    }

    pub(super) fn handled(&self) -> Handled {
        self.handled
    }

    /// Whether the application holds something that it is not done with.
    pub(super) fn is_in_hand(&self) -> bool {
        !self.entries.is_empty()
    }

    fn end(&self) -> Offset {
        self.entries.last_key_value().map_or(self.handled.next, |(_, last)| last.next)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use wire::{LeaderEpoch, Offset};

    use super::Ledger;

    /// A story of a partition: `out 5 10`, `done 5 7`, `split 5 7`, `back 5`; what is handed out gets the ids 1, 2 and so
    /// on, and `@1` at the end speaks of the first of them.
    fn check(story: &[&str], expected: Expect) {
        let mut ledger = Ledger::new(Offset(0), LeaderEpoch(0));
        let (mut given, mut shown) = (0, String::new());
        for line in story {
            let mut words: Vec<&str> = line.split(' ').collect();
            let id = match words.last().and_then(|word| word.strip_prefix('@')) {
                Some(id) => {
                    let id = id.parse().unwrap();
                    words.pop();
                    id
                }
                None => given,
            };
            let at = |place: usize| Offset(words[place].parse().unwrap());
            let outcome = match words[0] {
                "out" => {
                    given += 1;
                    ledger.hand_out(given, at(1), at(2), LeaderEpoch(1));
                    String::new()
                }
                "done" => if ledger.done(id, at(1), at(2)) { "" } else { "void, " }.to_owned(),
                "split" => {
                    ledger.split(id, at(1), at(2));
                    String::new()
                }
                _ => match ledger.give_back(id, at(1)) {
                    Some(offset) => format!("back to {offset}, "),
                    None => "void, ".to_owned(),
                },
            };
            let hands = if ledger.is_in_hand() { "in hand" } else { "empty" };
            shown += &format!("{line}: {outcome}handled {}, {hands}\n", ledger.handled().next);
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn only_a_prefix_without_a_hole_counts() {
        check(
            &["out 0 5", "out 5 8", "done 5 8", "done 0 5 @1"],
            expect![[r#"
                out 0 5: handled 0, in hand
                out 5 8: handled 0, in hand
                done 5 8: handled 0, in hand
                done 0 5 @1: handled 8, empty
            "#]],
        );
    }

    #[test]
    fn a_part_may_be_done_first() {
        check(
            &["out 0 5", "done 0 0", "done 0 2", "done 0 3", "done 2 5", "done 2 5"],
            expect![[r#"
                out 0 5: handled 0, in hand
                done 0 0: handled 0, in hand
                done 0 2: handled 2, in hand
                done 0 3: void, handled 2, in hand
                done 2 5: handled 5, empty
                done 2 5: void, handled 5, empty
            "#]],
        );
    }

    #[test]
    fn records_may_be_held_one_by_one() {
        check(
            &["out 0 5", "split 0 2", "split 2 3", "done 3 5", "done 0 2", "done 2 3"],
            expect![[r#"
                out 0 5: handled 0, in hand
                split 0 2: handled 0, in hand
                split 2 3: handled 0, in hand
                done 3 5: handled 0, in hand
                done 0 2: handled 2, in hand
                done 2 3: handled 5, empty
            "#]],
        );
    }

    #[test]
    fn what_is_given_back_comes_again_with_all_behind_it() {
        check(
            &[
                "out 0 5",
                "out 5 8",
                "out 8 9",
                "done 8 9",
                "back 5 @2",
                "out 5 8",
                "done 5 8 @2",
                "done 0 5 @1",
            ],
            expect![[r#"
                out 0 5: handled 0, in hand
                out 5 8: handled 0, in hand
                out 8 9: handled 0, in hand
                done 8 9: handled 0, in hand
                back 5 @2: back to 5, handled 0, in hand
                out 5 8: handled 0, in hand
                done 5 8 @2: void, handled 0, in hand
                done 0 5 @1: handled 5, in hand
            "#]],
        );
    }
}
