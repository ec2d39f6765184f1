//! Counters, gauges and histograms, and the text format in which Prometheus reads them.
//! Counting is one relaxed atomic addition (two for a histogram) on a handle that the caller keeps: no lookup, no lock,
//! no allocation, and memory that does not grow with what is counted. Nothing here knows what is counted.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    pub(crate) fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets, in microseconds. A last bucket without bound follows.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// How long something took, by bucket.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.load(Relaxed) == 0)
    }
}

/// A label's name and value.
pub(crate) type Label<'a> = (&'static str, &'a str);

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

impl Page {
    /// Begins a metric: samples of it follow. The name ends in its unit, a counter's in `_total`.
    pub(crate) fn metric(&mut self, kind: &str, name: &'static str, help: &str) -> Samples<'_> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Samples { page: &mut self.0, name }
    }

    pub(crate) fn counter(&mut self, name: &'static str, help: &str) -> Samples<'_> {
        debug_assert!(name.ends_with("_total"));
        self.metric("counter", name, help)
    }

    pub(crate) fn gauge(&mut self, name: &'static str, help: &str) -> Samples<'_> {
        self.metric("gauge", name, help)
    }

    pub(crate) fn histogram(&mut self, name: &'static str, help: &str) -> Samples<'_> {
        debug_assert!(name.ends_with("_seconds"));
        self.metric("histogram", name, help)
    }

    /// Metrics that are text already.
    pub(crate) fn append(&mut self, text: &str) {
        self.0.push_str(text);
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

/// The samples of one metric.
pub(crate) struct Samples<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Samples<'_> {
    pub(crate) fn value(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.sample("", labels, None, value);
    }

    pub(crate) fn times(&mut self, labels: &[Label<'_>], histogram: &Histogram) {
        let mut count = 0;
        for (index, bucket) in histogram.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            let bound = BOUNDS_US.get(index).map_or("+Inf".to_owned(), |us| seconds(*us));
            self.sample("_bucket", labels, Some(&bound), count);
        }
        self.sample("_sum", labels, None, seconds(histogram.sum_us.load(Relaxed)));
        self.sample("_count", labels, None, count);
    }

    fn sample(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<&str>, value: impl Display) {
        let _ = write!(self.page, "{}{suffix}", self.name);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (index, (name, value)) in all.enumerate() {
            let _ = write!(self.page, "{}{name}=\"", if index == 0 { '{' } else { ',' });
            escape(self.page, value);
            self.page.push('"');
        }
        let close = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        let _ = writeln!(self.page, "{close} {value}");
    }
}

fn seconds(us: u64) -> String {
    (us as f64 / 1e6).to_string()
}

/// Puts a label's value on a page.
pub(crate) fn escape(page: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            c => page.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        assert!(histogram.is_empty());
        for us in [1, 100, 101, 10_000_000, 10_000_001, u64::MAX / 4] {
            histogram.observe(Duration::from_micros(us));
        }
        let counts: Vec<u64> = histogram.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        assert_eq!(counts[..2], [2, 1]);
        assert_eq!(counts[15..], [1, 2]);
    }

    #[test]
    fn label_values_are_escaped() {
        let mut page = Page::default();
        page.gauge("a", "b").value(&[("topic", "a\"\\\nb"), ("x", "y")], 1.5);
        assert_eq!(page.into_text(), "# HELP a b\n# TYPE a gauge\na{topic=\"a\\\"\\\\\\nb\",x=\"y\"} 1.5\n");
    }
}
