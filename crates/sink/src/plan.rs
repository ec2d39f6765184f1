//! What a line does next with one partition. Pure: events in, at most one action out; no clock, no files, no waiting.
//!
//! Records gather until one of the limits is reached. Then exactly their range is frozen, written, placed and committed, in this
//! order and each step only after the one before it. Records of it that are no rows are sent as dead letters between placing and
//! committing: who sends them has just placed the files, of which each range has one, so that a store which has forgotten the range
//! finds it in the table. A range that was found frozen is somebody's who died on the way: it is read again to its
//! very end, whatever the limits say now, and goes the same way. Invariant: `committed <= read`, and everything between the two is
//! in hand.

use wire::{Millis, Offset};

use crate::key::Range;

/// At so many dead letters a range is closed: they are in memory until it leaves, and one transaction sends them.
const LETTERS_MAX: u64 = 10_000;

/// When a range is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At so many records.
    pub rows_max: u64,
    /// At so many bytes of keys and values.
    pub bytes_max: u64,
    /// So long after its first record was read.
    pub age_ms_max: i64,
    /// When rows have come to so far behind the end of the time that one of its directories is of, if ever.
    pub late_ms_max: Option<i64>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Reading came to `next`, over so many records.
    Read {
        /// The next position.
        next: Offset,
        /// Records that are rows.
        rows: u64,
        /// Records that are dead letters.
        letters: u64,
        /// Their size.
        bytes: u64,
        /// The time of day.
        now: Millis,
    },
    /// Nothing more can be taken before what is in hand has left.
    Full,
    /// Time passed.
    Tick {
        /// The time of day.
        now: Millis,
    },
    /// An orderly end was asked for.
    Finish,
    /// The range is frozen.
    Frozen,
    /// Its files are written.
    Written,
    /// They are where readers see them.
    Placed,
    /// Its dead letters are in their topic.
    Sent,
    /// The position has moved over it.
    Committed,
    /// The partition is somebody else's, or a step failed: nothing more is done here.
    Lost,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make it durable that this range is what comes next.
    Freeze(Range),
    /// Write the files of what is in hand, beside the table.
    Write(Range),
    /// Move them into the table.
    Place(Range),
    /// Send the dead letters, unless an attempt before has.
    Send(Range),
    /// Move the position over the range.
    Commit(Range),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Gathering,
    Freezing(Range),
    Writing(Range),
    Placing(Range),
    Sending(Range),
    Committing(Range),
    Lost,
}

/// One partition of one line.
#[derive(Debug, Clone)]
pub struct Plan {
    limits: Limits,
    committed: Offset,
    /// Where reading stands.
    read: Offset,
    /// A range that was found frozen, until it is committed.
    repeating: Option<Range>,
    rows: u64,
    letters: u64,
    bytes: u64,
    /// When the first record in hand was read.
    since: Option<Millis>,
    /// The latest time of a row, those of ranges before included.
    latest: Option<Millis>,
    /// Where the first time ends that a directory in hand is of. Rows that came too late to be waited for do not count.
    due: Option<Millis>,
    /// What is read is so old that nobody waits for it: age closes nothing.
    is_old: bool,
    stage: Stage,
}

impl Plan {
    /// Goes on from what is stored.
    pub fn new(limits: Limits, committed: Offset, frozen: Option<Range>) -> Self {
        if let Some(range) = frozen {
            assert_eq!(range.start, committed, "what is frozen continues what is committed");
        }
        Self {
            limits,
            committed,
            read: committed,
            repeating: frozen,
            rows: 0,
            letters: 0,
            bytes: 0,
            since: None,
            latest: None,
            due: None,
            is_old: false,
            stage: Stage::Gathering,
        }
    }

    /// Whether what is read from now on is old: it goes into files as large as is declared, however long they take. Once it is not any
    /// more, the age of what is in hand counts as ever.
    pub fn read_old(&mut self, is_old: bool) {
        self.is_old = is_old;
    }

    /// Where reading goes on.
    pub fn read(&self) -> Offset {
        self.read
    }

    /// Up to where everything is in the table, once.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Rows in hand.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Records in hand: rows and dead letters.
    pub fn records(&self) -> u64 {
        self.rows + self.letters
    }

    /// Where the range in hand has to end, if that is decided already.
    pub fn until(&self) -> Option<Offset> {
        self.repeating.map(|range| range.end)
    }

    /// When a tick will have something to do.
    pub fn wake_at(&self) -> Option<Millis> {
        match (self.stage, self.repeating) {
            (Stage::Gathering, None) if !self.is_old => {
                let aged = self.since.map(|since| Millis(since.0.saturating_add(self.limits.age_ms_max)));
                // A row of later than now: time has to come to it.
                let late = self.late_at().filter(|&at| self.latest.is_some_and(|latest| latest >= at));
                aged.into_iter().chain(late).min()
            }
            _ => None,
        }
    }

    /// Notes the time of a row that is about to be read, and where the time ends that its directory is of.
    pub fn note(&mut self, time: Millis, end: Millis, now: Millis) {
        let Some(late_ms) = self.limits.late_ms_max else { return };
        let is_late =
            self.watermark(now).is_some_and(|watermark| end.0.saturating_add(late_ms) <= watermark.0);
        self.latest = self.latest.max(Some(time));
        if !is_late {
            self.due = Some(self.due.map_or(end, |due| due.min(end)));
        }
    }

    /// Up to where times have come, which is never later than now.
    fn watermark(&self, now: Millis) -> Option<Millis> {
        self.latest.map(|latest| latest.min(now))
    }

    /// The time that has to be reached for the first directory in hand to be complete.
    fn late_at(&self) -> Option<Millis> {
        let (due, late_ms) = (self.due?, self.limits.late_ms_max?);
        Some(Millis(due.0.saturating_add(late_ms)))
    }

    /// Takes an event and says what to do, if anything.
    ///
    /// Panics when told what cannot have happened: a step done that was not asked for, or reading that went back.
    pub fn on(&mut self, event: Event) -> Option<Action> {
        match (self.stage, event) {
            (_, Event::Lost) => {
                self.stage = Stage::Lost;
                None
            }
            (Stage::Lost, _) => None,
            (Stage::Gathering, Event::Read { next, rows, letters, bytes, now }) => {
                assert!(next >= self.read, "reading goes forward");
                assert!(self.until().is_none_or(|until| next <= until), "a frozen range ends where it ends");
                self.read = next;
                self.rows += rows;
                self.letters += letters;
                self.bytes += bytes;
                if rows + letters > 0 {
                    self.since.get_or_insert(now);
                }
                self.close_if(self.is_reached(now))
            }
            (Stage::Gathering, Event::Tick { now }) => self.close_if(self.is_reached(now)),
            (Stage::Gathering, Event::Full) => self.close_if(true),
            (Stage::Gathering, Event::Finish) => self.close_if(true),
            (Stage::Freezing(range), Event::Frozen) => self.step(Stage::Writing(range), Action::Write(range)),
            (Stage::Writing(range), Event::Written) => self.step(Stage::Placing(range), Action::Place(range)),
            (Stage::Placing(range), Event::Placed) if self.letters > 0 => {
                self.step(Stage::Sending(range), Action::Send(range))
            }
            (Stage::Placing(range), Event::Placed) | (Stage::Sending(range), Event::Sent) => {
                self.step(Stage::Committing(range), Action::Commit(range))
            }
            (Stage::Committing(range), Event::Committed) => {
                assert_eq!(range.start, self.committed, "neither a gap nor an overlap");
                assert_eq!(range.end, self.read, "nothing was read past the range meanwhile");
                self.committed = range.end;
                self.repeating = None;
                (self.rows, self.letters, self.bytes) = (0, 0, 0);
                (self.since, self.due) = (None, None);
                self.stage = Stage::Gathering;
                None
            }
            // A range on its way is finished first; what asked for an end asks again.
            (_, Event::Tick { .. } | Event::Finish) => None,
            (stage, event) => panic!("{event:?} cannot happen while {stage:?}"),
        }
    }

    fn is_reached(&self, now: Millis) -> bool {
        self.rows >= self.limits.rows_max
            || self.letters >= LETTERS_MAX
            || self.bytes >= self.limits.bytes_max
            || !self.is_old
                && (self.since.is_some_and(|since| now.0.saturating_sub(since.0) >= self.limits.age_ms_max)
                    || self.late_at().is_some_and(|at| self.watermark(now).is_some_and(|time| time >= at)))
    }

    /// Closes the range in hand. One that is repeated is closed at its end, however little is left in it, and never before; any
    /// other holds a record.
    fn close_if(&mut self, is_wanted: bool) -> Option<Action> {
        let is_due = match self.repeating {
            Some(range) => self.read == range.end,
            None => is_wanted && self.records() > 0,
        };
        if !is_due {
            return None;
        }
        let range = Range::new(self.committed, self.read);
        self.step(Stage::Freezing(range), Action::Freeze(range))
    }

    fn step(&mut self, stage: Stage, action: Action) -> Option<Action> {
        self.stage = stage;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use wire::{Millis, Offset};

    use super::{Action, Event, Limits, Plan};
    use crate::key::Range;

    const LIMITS: Limits = Limits { rows_max: 10, bytes_max: 1000, age_ms_max: 60_000, late_ms_max: None };

    fn read(next: i64, rows: u64, now: i64) -> Event {
        Event::Read { next: Offset(next), rows, letters: 0, bytes: rows * 20, now: Millis(now) }
    }

    fn letters(next: i64, letters: u64, now: i64) -> Event {
        Event::Read { next: Offset(next), rows: 0, letters, bytes: letters * 20, now: Millis(now) }
    }

    fn tick(now: i64) -> Event {
        Event::Tick { now: Millis(now) }
    }

    /// What a plan says to each event.
    fn check(frozen: Option<(i64, i64)>, events: &[Event], expected: Expect) {
        let frozen = frozen.map(|(start, end)| Range::new(Offset(start), Offset(end)));
        let mut plan = Plan::new(LIMITS, Offset(100), frozen);
        let mut told = String::new();
        for &event in events {
            let action = plan.on(event).map_or_else(|| "-".to_owned(), |action| format!("{action:?}"));
            told += &format!("{action} (committed {}, read {})\n", plan.committed(), plan.read());
        }
        expected.assert_eq(
            &told.replace("Range { start: Offset(", "").replace("), end: Offset(", "..").replace(") })", ")"),
        );
    }

    #[test]
    fn a_range_is_frozen_before_it_is_written_and_placed_before_it_is_committed() {
        check(
            None,
            &[
                read(104, 4, 0),
                read(112, 7, 5),
                Event::Frozen,
                Event::Written,
                Event::Placed,
                Event::Committed,
                read(113, 1, 9),
            ],
            expect![[r#"
                - (committed 100, read 104)
                Freeze(100..112) (committed 100, read 112)
                Write(100..112) (committed 100, read 112)
                Place(100..112) (committed 100, read 112)
                Commit(100..112) (committed 100, read 112)
                - (committed 112, read 112)
                - (committed 112, read 113)
            "#]],
        );
    }

    #[test]
    fn age_counts_from_the_first_record_and_nothing_is_made_of_nothing() {
        check(
            None,
            &[tick(1_000_000), read(105, 0, 1), Event::Finish, read(106, 1, 10), tick(60_009), tick(60_010)],
            expect![[r#"
                - (committed 100, read 100)
                - (committed 100, read 105)
                - (committed 100, read 105)
                - (committed 100, read 106)
                - (committed 100, read 106)
                Freeze(100..106) (committed 100, read 106)
            "#]],
        );
    }

    #[test]
    fn what_is_old_is_closed_by_its_size_and_by_its_age_once_it_is_not_any_more() {
        let mut plan = Plan::new(LIMITS, Offset(100), None);
        plan.read_old(true);
        assert_eq!(plan.on(read(101, 1, 0)), None);
        assert_eq!((plan.on(tick(1_000_000)), plan.wake_at()), (None, None));
        assert_eq!(
            plan.on(read(110, 9, 1_000_001)),
            Some(Action::Freeze(Range::new(Offset(100), Offset(110))))
        );
        for (event, is_last) in [
            (Event::Frozen, false),
            (Event::Written, false),
            (Event::Placed, false),
            (Event::Committed, true),
        ] {
            assert_eq!(plan.on(event).is_none(), is_last);
        }
        assert_eq!(plan.on(read(112, 2, 2_000_000)), None);
        plan.read_old(false);
        assert_eq!(plan.wake_at(), Some(Millis(2_060_000)));
        assert_eq!(plan.on(tick(2_060_000)), Some(Action::Freeze(Range::new(Offset(110), Offset(112)))));
    }

    #[test]
    fn a_frozen_range_is_repeated_to_its_end_whatever_the_limits_say() {
        check(
            Some((100, 150)),
            &[
                read(130, 25, 0),
                tick(1_000_000),
                Event::Full,
                Event::Finish,
                read(150, 0, 0),
                Event::Frozen,
                Event::Written,
                Event::Placed,
                Event::Committed,
            ],
            expect![[r#"
                - (committed 100, read 130)
                - (committed 100, read 130)
                - (committed 100, read 130)
                - (committed 100, read 130)
                Freeze(100..150) (committed 100, read 150)
                Write(100..150) (committed 100, read 150)
                Place(100..150) (committed 100, read 150)
                Commit(100..150) (committed 100, read 150)
                - (committed 150, read 150)
            "#]],
        );
    }

    #[test]
    fn dead_letters_are_sent_when_the_files_are_placed_and_make_a_range_of_their_own() {
        check(
            None,
            &[
                letters(101, 1, 0),
                read(102, 1, 5),
                Event::Finish,
                Event::Frozen,
                Event::Written,
                Event::Placed,
                Event::Sent,
                Event::Committed,
                letters(103, 1, 9),
                tick(60_009),
                Event::Frozen,
                Event::Written,
                Event::Placed,
                Event::Sent,
                Event::Committed,
                letters(20_000, 10_000, 9),
            ],
            expect![[r#"
                - (committed 100, read 101)
                - (committed 100, read 102)
                Freeze(100..102) (committed 100, read 102)
                Write(100..102) (committed 100, read 102)
                Place(100..102) (committed 100, read 102)
                Send(100..102) (committed 100, read 102)
                Commit(100..102) (committed 100, read 102)
                - (committed 102, read 102)
                - (committed 102, read 103)
                Freeze(102..103) (committed 102, read 103)
                Write(102..103) (committed 102, read 103)
                Place(102..103) (committed 102, read 103)
                Send(102..103) (committed 102, read 103)
                Commit(102..103) (committed 102, read 103)
                - (committed 103, read 103)
                Freeze(103..20000) (committed 103, read 20000)
            "#]],
        );
    }

    /// Plans by a watermark, at five behind the end of an hour, which has a hundred.
    fn by_watermark() -> Plan {
        Plan::new(Limits { late_ms_max: Some(5), ..LIMITS }, Offset(0), None)
    }

    /// A row of that time, at a time of day; where the range ends that it closes.
    fn row(plan: &mut Plan, time: i64, now: i64) -> Option<i64> {
        plan.note(Millis(time), Millis((time / 100 + 1) * 100), Millis(now));
        let next = plan.read().plus(1);
        closed(plan, Event::Read { next, rows: 1, letters: 0, bytes: 1, now: Millis(now) })
    }

    /// Where the range ends that an event closes, which is committed then.
    fn closed(plan: &mut Plan, event: Event) -> Option<i64> {
        let Some(Action::Freeze(range)) = plan.on(event) else { return None };
        for event in [Event::Frozen, Event::Written, Event::Placed, Event::Committed] {
            plan.on(event);
        }
        Some(range.end.0)
    }

    #[test]
    fn an_hour_that_has_passed_in_the_rows_is_closed_and_what_comes_late_closes_nothing() {
        let mut plan = by_watermark();
        for time in [10, 50, 99, 100, 104, 20, 104] {
            assert_eq!(row(&mut plan, time, 1000), None, "{time}");
        }
        assert_eq!(row(&mut plan, 105, 1000), Some(8));
        // Late ones wait for the next hour.
        for time in [40, 106, 99, 7, 150, 204] {
            assert_eq!(row(&mut plan, time, 1000), None, "{time}");
        }
        assert_eq!(row(&mut plan, 205, 1000), Some(15));
        assert_eq!(row(&mut plan, 30, 1000), None);
        // Of the hour before there was nothing in hand.
        assert_eq!(row(&mut plan, 205, 1000), None);
        assert_eq!(row(&mut plan, 420, 1000), Some(18));
    }

    #[test]
    fn what_is_later_than_now_is_waited_for() {
        let mut plan = by_watermark();
        assert_eq!(row(&mut plan, 10, 50), None);
        assert_eq!(plan.wake_at(), Some(Millis(60_050)));
        assert_eq!(row(&mut plan, 900, 60), None);
        assert_eq!(plan.wake_at(), Some(Millis(105)));
        assert_eq!(closed(&mut plan, tick(104)), None);
        assert_eq!(closed(&mut plan, tick(105)), Some(2));
        // From here on the time of day is what the rows have come to.
        assert_eq!(row(&mut plan, 110, 106), None);
        assert_eq!(plan.wake_at(), Some(Millis(205)));
        assert_eq!(closed(&mut plan, tick(205)), Some(3));
    }

    #[test]
    fn rows_that_are_read_long_after_they_came_wait_for_the_size_of_a_file() {
        let mut plan = by_watermark();
        plan.read_old(true);
        assert_eq!((row(&mut plan, 10, 1000), row(&mut plan, 300, 1000)), (None, None));
        assert_eq!(plan.wake_at(), None);
        plan.read_old(false);
        assert_eq!(plan.wake_at(), Some(Millis(105)));
        assert_eq!(closed(&mut plan, tick(1000)), Some(2));
    }

    #[test]
    fn what_is_lost_does_nothing_any_more() {
        check(
            None,
            &[read(112, 12, 0), Event::Lost, Event::Frozen, tick(1_000_000), Event::Finish],
            expect![[r#"
                Freeze(100..112) (committed 100, read 112)
                - (committed 100, read 112)
                - (committed 100, read 112)
                - (committed 100, read 112)
                - (committed 100, read 112)
            "#]],
        );
    }
}
