//! How long records took: a histogram in bounded memory, its percentiles, and a picture of it in text.
//!
//! Times are kept to three digits, in microseconds. The picture's bars are times twice as long each, so that the far end of the
//! distribution is in it whatever its middle is.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// What is told of a distribution, besides its least and greatest.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];
/// Ten years in microseconds: nothing that is measured took longer, and old topics have old records.
const MICROS_MAX: u64 = 315_576_000_000_000;
/// Columns of the longest bar.
const BAR_MAX: usize = 40;

/// Times of records.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        // It grows with the longest time: most are far from ten years.
        Self(Histogram::new(3).expect("three digits are allowed"))
    }

    pub(super) fn record(&mut self, micros: u64) {
        self.0.record(micros.min(MICROS_MAX)).expect("it grows");
    }

    /// In milliseconds, what so large a share of the records did not exceed.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        ms(self.0.value_at_quantile(share).min(self.0.max()))
    }

    /// Least, percentiles and greatest, in milliseconds; nothing without records.
    pub(super) fn figures(&self) -> Vec<(&'static str, f64)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let quantiles = QUANTILES.map(|(name, share)| (name, self.quantile_ms(share)));
        let mut figures = vec![("min", ms(self.0.min()))];
        figures.extend(quantiles);
        figures.push(("max", ms(self.0.max())));
        figures
    }

    /// How many records took how long, in bars of times that double, without empty ones at the ends.
    fn bars(&self) -> Vec<(u64, u64, u64)> {
        let mut bars: Vec<(u64, u64, u64)> = Vec::new();
        for value in self.0.iter_recorded() {
            let below = value.value_iterated_to().max(1).checked_next_power_of_two().unwrap_or(u64::MAX);
            let below = if below == value.value_iterated_to() { below.saturating_mul(2) } else { below };
            let count = value.count_since_last_iteration();
            match bars.last_mut() {
                Some((_, last, sum)) if *last == below => *sum += count,
                _ => {
                    // What nobody took lies in between all the same.
                    while let Some(&(_, last, _)) = bars.last()
                        && last < below / 2
                    {
                        bars.push((last, last * 2, 0));
                    }
                    bars.push((below / 2, below, count));
                }
            }
        }
        bars
    }

    /// The same for programs.
    pub(super) fn histogram(&self) -> Value {
        let bar = |(from, to, records): (u64, u64, u64)| json!({ "from_ms": ms(from), "to_ms": ms(to), "records": records });
        self.bars().into_iter().map(bar).collect()
    }

    /// The same for people.
    pub(super) fn picture(&self) -> String {
        let bars = self.bars();
        let longest = bars.iter().map(|(.., count)| *count).max().unwrap_or(0).max(1);
        let mut picture = String::new();
        for (from, to, count) in bars {
            let columns = (count as f64 / longest as f64 * BAR_MAX as f64).round() as usize;
            // One record is not nothing.
            let bar = if count > 0 { "█".repeat(columns.max(1)) } else { String::new() };
            let share = count as f64 / self.0.len() as f64 * 100.0;
            let (from, to) = (short(from), short(to));
            // Writing to a string cannot fail.
            let _ = writeln!(picture, "{from:>8} – {to:<8} {share:>7.3}%  {bar}");
        }
        picture
    }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// A time in three digits at most.
fn short(micros: u64) -> String {
    let (value, unit) = match micros {
        0..1_000 => (micros as f64, "µs"),
        1_000..1_000_000 => (micros as f64 / 1e3, "ms"),
        _ => (micros as f64 / 1e6, "s"),
    };
    if value < 10.0 && unit != "µs" { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::Latencies;

    #[test]
    fn a_picture_shows_the_middle_and_the_far_end() {
        let mut latencies = Latencies::new();
        for micros in (0..900).map(|n| 300 + n % 200).chain([600; 90]).chain([70_000; 9]).chain([3_000_000]) {
            latencies.record(micros);
        }
        expect![[r#"
            latency
              256 µs – 512 µs    90.000%  ████████████████████████████████████████
              512 µs – 1.0 ms     9.000%  ████
              1.0 ms – 2.0 ms     0.000%  
              2.0 ms – 4.1 ms     0.000%  
              4.1 ms – 8.2 ms     0.000%  
              8.2 ms – 16 ms      0.000%  
               16 ms – 33 ms      0.000%  
               33 ms – 66 ms      0.000%  
               66 ms – 131 ms     0.900%  █
              131 ms – 262 ms     0.000%  
              262 ms – 524 ms     0.000%  
              524 ms – 1.0 s      0.000%  
               1.0 s – 2.1 s      0.000%  
               2.1 s – 4.2 s      0.100%  █
        "#]]
        .assert_eq(&format!("latency\n{}", latencies.picture()));
        let figures: Vec<_> =
            latencies.figures().iter().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
        assert_eq!(figures.join(", "), "min 0.3, p50 0.4, p95 0.6, p99 0.6, p99.9 70.0, max 3000.3");
    }

    #[test]
    fn nothing_has_no_percentiles_and_no_time_is_too_short_or_too_long() {
        let mut latencies = Latencies::new();
        assert!(latencies.figures().is_empty() && latencies.picture().is_empty());
        latencies.record(0);
        latencies.record(u64::MAX);
        assert_eq!(latencies.figures().len(), 6);
        assert_eq!(latencies.picture().lines().count(), 50);
    }
}
