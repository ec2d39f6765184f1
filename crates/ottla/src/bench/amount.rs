//! How much a bench sends, and how fast: what stands on the command line, and what follows from it.

use std::fmt;
use std::time::Duration;

/// A speed, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rate {
    RecordsPerSecond(f64),
    BytesPerSecond(f64),
}

/// Faster is as fast as it goes.
const PER_SECOND_MAX: f64 = 1e12;

const UNITS: [(&str, f64); 8] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];

impl Rate {
    /// Parses records a second, `5000`, or bytes a second, `10MB`; `/s` may follow.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_suffix("/s").unwrap_or(text);
        let unit = UNITS.iter().find_map(|(unit, bytes)| Some((bare.strip_suffix(unit)?, *bytes)));
        let number = |text: &str, factor: f64| {
            let number = text.trim().parse::<f64>().ok()? * factor;
            (number > 0.0 && number <= PER_SECOND_MAX).then_some(number)
        };
        let rate = match unit {
            Some((text, bytes)) => number(text, bytes).map(Self::BytesPerSecond),
            None => number(bare, 1.0).map(Self::RecordsPerSecond),
        };
        rate.ok_or_else(|| {
            format!(
                "{text:?} is no rate; 5000 and 5000/s are records a second, 10MB/s, 500kB/s and 64MiB/s are bytes"
            )
        })
    }

    /// From one record to the next, if each has so many bytes.
    pub(super) fn interval(self, record_bytes: usize) -> Duration {
        let per_second = match self {
            Self::RecordsPerSecond(records) => records,
            Self::BytesPerSecond(bytes) => bytes / record_bytes.max(1) as f64,
        };
        // A rate so low that nothing is sent in a lifetime is one record.
        Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::MAX)
    }
}

/// A number as people read it: with commas between its thousands.
pub(crate) struct Grouped(pub(crate) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut shown = String::with_capacity(digits.len() * 4 / 3);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                shown.push(',');
            }
            shown.push(digit);
        }
        f.pad(&shown)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};

    use super::{Grouped, Rate};

    fn check(text: &str, expected: Expect) {
        let shown = match Rate::parse(text) {
            Ok(rate) => format!("{rate:?}, every {:?}", rate.interval(100)),
            Err(problem) => problem,
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_rate_is_in_records_or_bytes() {
        check("5000", expect!["RecordsPerSecond(5000.0), every 200µs"]);
        check("0.5/s", expect!["RecordsPerSecond(0.5), every 2s"]);
        check("1MB/s", expect!["BytesPerSecond(1000000.0), every 100µs"]);
        check("1 KiB", expect!["BytesPerSecond(1024.0), every 97.65625ms"]);
        for wrong in ["", "0", "-1", "MB", "inf", "NaN", "1e99", "5000/min", "12 MBit/s"] {
            let problem = Rate::parse(wrong).unwrap_err();
            assert!(problem.starts_with(&format!("{wrong:?} is no rate; ")), "{problem}");
        }
        assert!(Rate::parse("1e-300").unwrap().interval(1) > Duration::from_secs(1 << 60));
    }

    #[test]
    fn thousands_are_told_apart() {
        let shown: Vec<_> = [0, 999, 1_000, 1_234_567].map(|n| Grouped(n).to_string()).to_vec();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
