//! What a run looks like to people while it goes on: a row for each line and, where it has an end, a bar.
//!
//! Pure: a meter and the time in, text out. Rates are those of the last seconds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::meter::{Meter, Metered, Work};
use crate::settings::Line;

/// Over how long rates are taken.
const WINDOW: Duration = Duration::from_secs(10);
const BAR_WIDTH: u64 = 24;

/// What was seen of a line, to be compared with later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    work: Work,
    lag: Option<i64>,
    /// Offsets from where it began to where it is to end, and those of them that were read.
    all: u64,
    read: u64,
    has_end: bool,
}

impl Sum {
    fn of(partitions: &[&Metered]) -> Self {
        let mut sum = Self::default();
        for one in partitions {
            sum.work = sum.work.and(one.work);
            if let Some(left) = one.left {
                sum.lag = Some(sum.lag.unwrap_or(0) + left.lag);
            }
            if let Some((target, standing)) = one.target.zip(one.standing) {
                let offsets = |to: i64| u64::try_from(to - standing.from.0).unwrap_or(0);
                sum.has_end = true;
                sum.all += offsets(target.0);
                sum.read += offsets(standing.read.min(target).0);
            }
        }
        sum
    }
}

/// The rows of a run, as they change.
#[derive(Debug, Default)]
pub struct Progress {
    seen: VecDeque<(Duration, BTreeMap<Line, Sum>)>,
}

impl Progress {
    /// The rows now. `now` is since some moment that stays the same.
    pub fn rows(&mut self, meter: &Meter, now: Duration) -> Vec<String> {
        let partitions = meter.partitions();
        let sum = |line| Sum::of(&partitions.iter().filter(|one| one.line == line).collect::<Vec<_>>());
        let lines = meter.lines();
        let sums: BTreeMap<_, _> = lines.iter().map(|(line, _)| (*line, sum(*line))).collect();
        while self.seen.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.seen.pop_front();
        }
        let (since, earlier) = self.seen.front().cloned().unwrap_or((now, BTreeMap::new()));
        let elapsed = now.saturating_sub(since).as_secs_f64();
        let mut rows = Vec::new();
        for (line, metered) in lines {
            let (sum, before) = (sums[&line], earlier.get(&line).copied().unwrap_or_default());
            let rate = |now: u64, before: u64| match elapsed > 0.0 {
                true => now.saturating_sub(before) as f64 / elapsed,
                false => 0.0,
            };
            let Work { records, bytes, letters, files, commits } = sum.work;
            let mut row = format!(
                "{line:8}  {records} records  {}/s  lag {}",
                size(rate(bytes, before.work.bytes)),
                sum.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
            );
            if line == Line::Offline || files > 0 {
                row += &format!("  {files} files");
            }
            row += &format!("  {commits} commits");
            if letters > 0 {
                row += &format!("  {letters} letters");
            }
            if metered.failures > 0 {
                row += &format!("  {} failures", metered.failures);
            }
            if metered.is_paused {
                row += "  paused";
            }
            rows.push(row);
            if sum.has_end {
                rows.push(bar(sum, rate(sum.read, before.read)));
            }
        }
        self.seen.push_back((now, sums));
        rows
    }
}

fn bar(Sum { all, read, .. }: Sum, per_second: f64) -> String {
    let read = read.min(all);
    let part =
        |of: u64| if all == 0 { of } else { (u128::from(of) * u128::from(read) / u128::from(all)) as u64 };
    let done = usize::try_from(part(BAR_WIDTH)).unwrap_or(0);
    let left = match all - read {
        0 => String::new(),
        left if per_second > 0.0 => format!("  {} left", time(left as f64 / per_second)),
        _ => "  ? left".to_owned(),
    };
    format!("{:8}  [{:24}] {:3} %{left}", "", "=".repeat(done), part(100))
}

/// Bytes as people say them.
fn size(bytes: f64) -> String {
    const UNITS: [(&str, f64); 3] = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1_024.0)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes:.0} B"),
    }
}

/// A time as people say it.
fn time(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} m {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} m"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wire::{Offset, PartitionId, Str, TopicPartition};

    use super::*;
    use crate::meter::{Left, Standing};

    fn name(number: i32) -> TopicPartition {
        TopicPartition::new(Str::from("orders"), PartitionId(number))
    }

    fn tell(meter: &Meter, line: Line, number: i32, read: i64, work: Work) {
        let standing = Standing { from: Offset(100), read: Offset(read), committed: Offset(read) };
        meter.tell(line, &name(number), standing, work);
    }

    #[test]
    fn a_run_has_a_row_for_each_line_and_a_bar_where_it_has_an_end() {
        let (meter, mut progress) = (Meter::default(), Progress::default());
        let mut told = String::new();
        let mut look = |meter: &Meter, seconds: u64| {
            told += &format!("after {seconds} s\n");
            for row in progress.rows(meter, Duration::from_secs(seconds)) {
                told += &format!("{row}\n");
            }
        };
        meter.paused(Line::Offline, false);
        look(&meter, 0);
        meter.aim(Line::Offline, &BTreeMap::from([(name(0), Offset(1_100)), (name(1), Offset(100))]));
        let work = Work { records: 250, bytes: 3_000_000, letters: 2, files: 1, commits: 1 };
        tell(&meter, Line::Offline, 0, 350, work);
        tell(&meter, Line::Offline, 1, 100, Work::default());
        meter.left(Line::Offline, &name(0), Left { end: Offset(1_100), lag: 750, lag_ms: None });
        look(&meter, 2);
        meter.paused(Line::Nearline, true);
        meter.failed(Line::Nearline);
        let work = Work { records: 9, bytes: 90, commits: 3, ..Work::default() };
        tell(&meter, Line::Nearline, 0, 109, work);
        look(&meter, 3);
        let work = Work { records: 1_000, bytes: 3_500_000, letters: 2, files: 2, commits: 2 };
        tell(&meter, Line::Offline, 0, 1_100, work);
        meter.left(Line::Offline, &name(0), Left { end: Offset(1_100), lag: 0, lag_ms: Some(0) });
        look(&meter, 14);
        expect![[r#"
            after 0 s
            offline   0 records  0 B/s  lag ?  0 files  0 commits
            after 2 s
            offline   250 records  1.4 MiB/s  lag 750  1 files  1 commits  2 letters
                      [======                  ]  25 %  6 s left
            after 3 s
            offline   250 records  976.6 KiB/s  lag 750  1 files  1 commits  2 letters
                      [======                  ]  25 %  9 s left
            nearline  9 records  30 B/s  lag ?  3 commits  1 failures  paused
            after 14 s
            offline   1000 records  44.4 KiB/s  lag 0  2 files  2 commits  2 letters
                      [========================] 100 %
            nearline  9 records  0 B/s  lag ?  3 commits  1 failures  paused
        "#]]
        .assert_eq(&told);
    }

    #[test]
    fn times_and_sizes_are_told_as_people_tell_them() {
        let told: Vec<_> = [0.2, 59.0, 61.0, 3_599.5, 90_000.0].map(time).into();
        assert_eq!(told, ["1 s", "59 s", "1 m 1 s", "1 h 0 m", "25 h 0 m"]);
        let told: Vec<_> = [0.0, 1_023.0, 1_024.0, 5e9].map(size).into();
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "4.7 GiB"]);
    }
}
