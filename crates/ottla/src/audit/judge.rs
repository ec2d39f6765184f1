//! Judges a stream of stamps: what is lost, doubled and reordered, and how long records took.
//!
//! Pure: whoever reads hands over each stamp with where and when it was read. Of each key it keeps the ranges of numbers that
//! have come, disjoint and in order, so that what lies between two ranges is missing. Memory is bounded by [`Bounds`], which
//! say what happens there: a verdict may then come out too bad, never too good.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;
use wire::{Millis, Offset, PartitionId};

use super::stamp::Stamp;

/// Ten years. A stamp that says that it took longer is wrong.
const DELAY_MS_MAX: u64 = 10 * 366 * 24 * 3_600_000;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Keys, over all runs. Records of further ones count as not judged.
    pub(crate) keys_max: usize,
    /// Ranges of one key. Beyond, its oldest gap is given up: it stays lost, and what comes of it counts as not judged.
    pub(crate) key_ranges_max: usize,
    /// Ranges of all keys together. Beyond, the key that would have one more gives up its oldest gap.
    pub(crate) ranges_max: usize,
    /// Time buckets of all partitions together. Beyond, buckets become twice as long.
    pub(crate) buckets_max: usize,
    /// Records that are named. Of further ones only the number is kept.
    pub(crate) findings_max: usize,
    /// Numbers of one key that its producer gave up. The oldest are forgotten: a record of one that comes later counts as doubled.
    pub(crate) voids_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            keys_max: 100_000,
            key_ranges_max: 10_000,
            ranges_max: 1_000_000,
            buckets_max: 2_000,
            findings_max: 100,
            voids_max: 1_000,
        }
    }
}

/// With which number a key begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// With 0: what is missing before the first is lost.
    Zero,
    /// With the first that comes: reading began in the middle.
    FirstSeen,
}

/// The judge.
pub(crate) struct Judge {
    bounds: Bounds,
    beginning: Beginning,
    bucket_ms: i64,
    /// By run and key.
    runs: BTreeMap<String, BTreeMap<String, Key>>,
    keys: usize,
    ranges: usize,
    partitions: BTreeMap<PartitionId, Tally>,
    buckets: BTreeMap<(PartitionId, i64), Tally>,
    findings: Vec<Finding>,
    findings_left_out: u64,
    not_judged: u64,
}

#[derive(Default)]
struct Key {
    ranges: Vec<Range>,
    /// The highest number in each partition.
    tops: Vec<(PartitionId, u64)>,
    voids: VecDeque<u64>,
    /// Numbers in gaps that were given up.
    given_up: u64,
}

/// Numbers that have come, and the record that began them: it shows what is missing before.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u64,
    last: u64,
    shown_by: Sight,
}

#[derive(Debug, Clone, Copy)]
struct Sight {
    partition: PartitionId,
    time: Millis,
    read: Millis,
}

/// What was seen in one partition, or in one bucket of it.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) records: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
    /// In milliseconds, two digits exact.
    pub(crate) delay: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let delay = Histogram::new(2).expect("two digits are possible");
        Self { records: 0, lost: 0, doubled: 0, reordered: 0, delay }
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.lost = self.lost.saturating_add(other.lost);
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.delay += &other.delay;
    }
}

/// What is wrong with one record, or with several that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) what: What,
    pub(crate) run: String,
    pub(crate) key: String,
    /// The first and the last number.
    pub(crate) sequences: (u64, u64),
    /// Where it was seen; of what is lost, where the next one was.
    pub(crate) partition: PartitionId,
    /// Of what is there.
    pub(crate) offset: Option<Offset>,
    /// When that record was produced.
    pub(crate) time: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Lost,
    Doubled,
    Reordered,
}

impl What {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Reordered => "reordered",
        }
    }
}

/// What counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Whatever is missing: nothing more will come.
    Over,
    /// What has been missing since before this time; the rest may still come.
    Until(Millis),
}

/// How it stands.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) runs: usize,
    pub(crate) keys: usize,
    pub(crate) total: Tally,
    /// What is missing, and may still come.
    pub(crate) awaited: u64,
    /// Of what is lost, what was expected and did not even show as a gap.
    pub(crate) lost_at_the_end: u64,
    pub(crate) not_judged: u64,
    pub(crate) partitions: BTreeMap<PartitionId, Tally>,
    /// By partition and begin.
    pub(crate) buckets: BTreeMap<(PartitionId, Millis), Tally>,
    pub(crate) bucket_ms: i64,
    pub(crate) findings: Vec<Finding>,
    pub(crate) findings_left_out: u64,
}

impl Judgement {
    /// Whether every record came, once and in order.
    pub(crate) fn is_clean(&self) -> bool {
        let Tally { lost, doubled, reordered, .. } = self.total;
        lost == 0 && doubled == 0 && reordered == 0 && self.not_judged == 0
    }
}

impl Judge {
    /// Has seen nothing. Buckets are so long, at first.
    pub(crate) fn new(bounds: Bounds, beginning: Beginning, bucket_ms: i64) -> Self {
        assert!(bucket_ms > 0);
        Self {
            bounds,
            beginning,
            bucket_ms,
            runs: BTreeMap::new(),
            keys: 0,
            ranges: 0,
            partitions: BTreeMap::new(),
            buckets: BTreeMap::new(),
            findings: Vec::new(),
            findings_left_out: 0,
            not_judged: 0,
        }
    }

    /// Takes in the stamp of the next record of a partition, which was there to be read at this time.
    pub(crate) fn see(&mut self, stamp: Stamp, partition: PartitionId, offset: Offset, read: Millis) {
        let voids_max = self.bounds.voids_max;
        let Some(key) = self.key(&stamp) else {
            self.not_judged += 1;
            return;
        };
        let ranges_before = key.ranges.len();
        let sight = Sight { partition, time: stamp.time, read };
        let outcome = match stamp.void {
            true => key.void(stamp.sequence, sight, voids_max),
            false => key.record(stamp.sequence, sight),
        };
        let ranges = key.ranges.len();
        self.ranges = self.ranges - ranges_before + ranges;
        match outcome {
            Outcome::Void => {}
            Outcome::Unknown => self.not_judged += 1,
            Outcome::Came => self.tally(sight, |_| {}),
            Outcome::Reordered => self.tally(sight, |tally| tally.reordered += 1),
            Outcome::Doubled => self.tally(sight, |tally| tally.doubled += 1),
        }
        let is_over = ranges > self.bounds.key_ranges_max || self.ranges > self.bounds.ranges_max;
        if is_over {
            self.give_up_oldest(&stamp);
        }
        let what = match outcome {
            Outcome::Reordered => What::Reordered,
            Outcome::Doubled => What::Doubled,
            _ => return,
        };
        if self.findings.len() == self.bounds.findings_max {
            self.findings_left_out += 1;
            return;
        }
        let Stamp { run, key, sequence, time, .. } = stamp;
        let sequences = (sequence, sequence);
        self.findings.push(Finding { what, run, key, sequences, partition, offset: Some(offset), time });
    }

    /// Numbers that have come, each counted once.
    pub(crate) fn distinct(&self) -> u64 {
        self.each_key().map(|(_, _, key)| key.covered()).fold(0, u64::saturating_add)
    }

    /// How it stands right now, in one line.
    pub(crate) fn line(&self) -> String {
        let sum = |count: fn(&Tally) -> u64| self.partitions.values().map(count).sum::<u64>();
        format!(
            "{} records, {} gaps, {} doubled, {} reordered",
            sum(|tally| tally.records),
            // Each key has one more range than gaps.
            self.ranges - self.keys,
            sum(|tally| tally.doubled),
            sum(|tally| tally.reordered)
        )
    }

    /// How it stands. `expected` is how many numbers were given out, if that is known.
    pub(crate) fn judgement(&self, patience: Patience, expected: Option<u64>) -> Judgement {
        let mut partitions = self.partitions.clone();
        let mut buckets = self.buckets.clone();
        let mut findings = Vec::new();
        let mut findings_left_out = self.findings_left_out;
        let (mut missing, mut awaited) = (0_u64, 0_u64);
        for (run, name, key) in self.each_key() {
            for (sequences, shown_by) in key.gaps(self.beginning) {
                let count = (sequences.1 - sequences.0).saturating_add(1);
                missing = missing.saturating_add(count);
                if matches!(patience, Patience::Until(time) if shown_by.read >= time) {
                    awaited = awaited.saturating_add(count);
                    continue;
                }
                let partition = partitions.entry(shown_by.partition).or_default();
                partition.lost = partition.lost.saturating_add(count);
                let bucket = buckets.entry(self.bucket(shown_by)).or_default();
                bucket.lost = bucket.lost.saturating_add(count);
                if findings.len() + self.findings.len() >= self.bounds.findings_max {
                    findings_left_out += 1;
                    continue;
                }
                findings.push(Finding {
                    what: What::Lost,
                    run: run.to_owned(),
                    key: name.to_owned(),
                    sequences,
                    partition: shown_by.partition,
                    offset: None,
                    time: shown_by.time,
                });
            }
        }
        findings.extend(self.findings.iter().cloned());
        let mut total = Tally::default();
        partitions.values().for_each(|tally| total.add(tally));
        let given_up: u64 = self.each_key().map(|(_, _, key)| key.given_up).fold(0, u64::saturating_add);
        let accounted = self.distinct().saturating_add(missing).saturating_add(given_up);
        let unseen = expected.map_or(0, |expected| expected.saturating_sub(accounted));
        let (lost_at_the_end, still_to_come) = match patience {
            Patience::Over => (unseen, 0),
            Patience::Until(_) => (0, unseen),
        };
        total.lost = total.lost.saturating_add(lost_at_the_end);
        Judgement {
            runs: self.runs.len(),
            keys: self.keys,
            total,
            awaited: awaited.saturating_add(still_to_come),
            lost_at_the_end,
            not_judged: self.not_judged,
            partitions,
            buckets: buckets
                .into_iter()
                .map(|((partition, at), tally)| {
                    ((partition, Millis(at.saturating_mul(self.bucket_ms))), tally)
                })
                .collect(),
            bucket_ms: self.bucket_ms,
            findings,
            findings_left_out,
        }
    }

    fn each_key(&self) -> impl Iterator<Item = (&str, &str, &Key)> {
        self.runs.iter().flat_map(|(run, keys)| keys.iter().map(|(key, state)| (&**run, &**key, state)))
    }

    /// The key's state, new if need be; none when there are too many.
    fn key(&mut self, stamp: &Stamp) -> Option<&mut Key> {
        let is_known = self.runs.get(&stamp.run).is_some_and(|keys| keys.contains_key(&stamp.key));
        if !is_known {
            if self.keys == self.bounds.keys_max {
                return None;
            }
            self.keys += 1;
            self.runs.entry(stamp.run.clone()).or_default().insert(stamp.key.clone(), Key::default());
        }
        self.runs.get_mut(&stamp.run)?.get_mut(&stamp.key)
    }

    fn give_up_oldest(&mut self, stamp: &Stamp) {
        let key = self.runs.get_mut(&stamp.run).and_then(|keys| keys.get_mut(&stamp.key));
        let Some((count, shown_by)) = key.and_then(Key::give_up_oldest) else { return };
        self.ranges -= 1;
        let bucket = self.bucket(shown_by);
        for tally in
            [self.partitions.entry(shown_by.partition).or_default(), self.buckets.entry(bucket).or_default()]
        {
            tally.lost = tally.lost.saturating_add(count);
        }
    }

    fn bucket(&self, sight: Sight) -> (PartitionId, i64) {
        (sight.partition, sight.time.0.div_euclid(self.bucket_ms))
    }

    /// Counts a record in its partition and bucket.
    fn tally(&mut self, sight: Sight, more: impl Fn(&mut Tally)) {
        // A clock that is behind the producer's makes no delay negative.
        let delay = u64::try_from(sight.read.0.saturating_sub(sight.time.0)).unwrap_or(0).min(DELAY_MS_MAX);
        let bucket = self.bucket(sight);
        for tally in
            [self.partitions.entry(sight.partition).or_default(), self.buckets.entry(bucket).or_default()]
        {
            tally.records += 1;
            tally.delay.record(delay).expect("a histogram grows to what there is");
            more(tally);
        }
        while self.buckets.len() > self.bounds.buckets_max && self.bucket_ms < i64::MAX / 2 {
            self.bucket_ms *= 2;
            let mut merged: BTreeMap<(PartitionId, i64), Tally> = BTreeMap::new();
            for ((partition, at), tally) in std::mem::take(&mut self.buckets) {
                merged.entry((partition, at.div_euclid(2))).or_default().add(&tally);
            }
            self.buckets = merged;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Came,
    Doubled,
    /// A record of the key with a higher number came before it in this partition.
    Reordered,
    /// It came for the first time or again: the gap that it was in has been given up.
    Unknown,
    Void,
}

impl Key {
    fn record(&mut self, sequence: u64, sight: Sight) -> Outcome {
        let is_new = self.insert(sequence, sight) || self.take_void(sequence);
        if !is_new {
            let is_in_doubt = self.given_up > 0 && sequence <= self.ranges[0].last;
            return if is_in_doubt { Outcome::Unknown } else { Outcome::Doubled };
        }
        let top = match self.tops.iter_mut().find(|(partition, _)| *partition == sight.partition) {
            Some((_, top)) => top,
            None => {
                self.tops.push((sight.partition, sequence));
                return Outcome::Came;
            }
        };
        if sequence < *top {
            return Outcome::Reordered;
        }
        *top = sequence;
        Outcome::Came
    }

    /// The number is accounted for; whether its record is there is not known.
    fn void(&mut self, sequence: u64, sight: Sight, voids_max: usize) -> Outcome {
        if self.insert(sequence, sight) {
            self.voids.push_back(sequence);
            if self.voids.len() > voids_max {
                self.voids.pop_front();
            }
        }
        Outcome::Void
    }

    fn take_void(&mut self, sequence: u64) -> bool {
        let at = self.voids.iter().position(|void| *void == sequence);
        at.and_then(|at| self.voids.remove(at)).is_some()
    }

    /// Says whether the number is new.
    fn insert(&mut self, sequence: u64, shown_by: Sight) -> bool {
        let ranges = &mut self.ranges;
        let after = ranges.partition_point(|range| range.first <= sequence);
        let before = after.checked_sub(1);
        if before.is_some_and(|before| ranges[before].last >= sequence) {
            return false;
        }
        let joins_before = before.filter(|before| ranges[*before].last + 1 == sequence);
        let joins_after = ranges.get(after).is_some_and(|range| sequence + 1 == range.first);
        match (joins_before, joins_after) {
            (Some(before), true) => {
                ranges[before].last = ranges[after].last;
                ranges.remove(after);
            }
            (Some(before), false) => ranges[before].last = sequence,
            (None, true) => ranges[after].first = sequence,
            (None, false) => ranges.insert(after, Range { first: sequence, last: sequence, shown_by }),
        }
        true
    }

    fn covered(&self) -> u64 {
        let covered = self.ranges.iter().map(|range| (range.last - range.first).saturating_add(1));
        covered.fold(0, u64::saturating_add).saturating_sub(self.given_up)
    }

    /// What is missing, and what shows it.
    fn gaps(&self, beginning: Beginning) -> impl Iterator<Item = ((u64, u64), Sight)> {
        let first = self.ranges.first().filter(|first| beginning == Beginning::Zero && first.first > 0);
        let first = first.map(|first| ((0, first.first - 1), first.shown_by));
        let between = self.ranges.windows(2);
        let between = between.map(|pair| ((pair[0].last + 1, pair[1].first - 1), pair[1].shown_by));
        first.into_iter().chain(between)
    }

    /// Counts the oldest gap as if it were filled; says how many it is, and what shows it.
    fn give_up_oldest(&mut self) -> Option<(u64, Sight)> {
        let [older, newer, ..] = self.ranges[..] else { return None };
        let count = newer.first - older.last - 1;
        self.ranges[0].last = newer.last;
        self.ranges.remove(1);
        self.given_up = self.given_up.saturating_add(count);
        Some((count, newer.shown_by))
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
