//! A run as a page for Prometheus.
//!
//! Pure: made anew from the meter whenever it is read. Topics, lines and names hold no character that a label would have to have escaped.

use std::fmt::Write;

use crate::key::LineName;
use crate::meter::{Meter, Metered};

/// One metric of a partition.
struct OfPartition {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Nothing, where it is not known, or the instance does not have the partition.
    value: fn(&Metered) -> Option<f64>,
}

const OF_PARTITIONS: [OfPartition; 10] = [
    OfPartition {
        name: "read_offset",
        kind: "gauge",
        help: "Where reading goes on.",
        value: |one| Some(one.standing?.read.0 as f64),
    },
    OfPartition {
        name: "committed_offset",
        kind: "gauge",
        help: "Up to where everything is in the output.",
        value: |one| Some(one.standing?.committed.0 as f64),
    },
    OfPartition {
        name: "end_offset",
        kind: "gauge",
        help: "Behind the last record that the line gets to see.",
        value: |one| Some(one.left?.end.0 as f64),
    },
    OfPartition {
        name: "lag_offsets",
        kind: "gauge",
        help: "Offsets from the committed position to the end.",
        value: |one| Some(one.left?.lag as f64),
    },
    OfPartition {
        name: "lag_seconds",
        kind: "gauge",
        help: "How long the first record has waited that is not committed, where brokers can tell.",
        value: |one| Some(one.left?.lag_ms? as f64 / 1000.0),
    },
    OfPartition {
        name: "records_total",
        kind: "counter",
        help: "Records that were taken.",
        value: |one| Some(one.work.records as f64),
    },
    OfPartition {
        name: "bytes_total",
        kind: "counter",
        help: "Their keys, values and headers.",
        value: |one| Some(one.work.bytes as f64),
    },
    OfPartition {
        name: "letters_total",
        kind: "counter",
        help: "Those of them that are dead letters.",
        value: |one| Some(one.work.letters as f64),
    },
    OfPartition {
        name: "files_total",
        kind: "counter",
        help: "Files that were put into the table.",
        value: |one| Some(one.work.files as f64),
    },
    OfPartition {
        name: "commits_total",
        kind: "counter",
        help: "Ranges or transactions that were committed.",
        value: |one| Some(one.work.commits as f64),
    },
];

impl Meter {
    /// The page, of the sink of this name.
    pub fn page(&self, sink: &LineName) -> String {
        let mut page = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
            let _ = writeln!(page, "# HELP ottla_sink_{name} {help}\n# TYPE ottla_sink_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(page, "ottla_sink_{name}{{sink=\"{sink}\",{labels}}} {value}");
            }
        };
        let partitions = self.partitions();
        for OfPartition { name, kind, help, value } in OF_PARTITIONS {
            let sample = |one: &Metered| {
                let (line, topic, partition) = (one.line, &one.partition.topic, one.partition.partition);
                let labels = format!("line=\"{line}\",topic=\"{topic}\",partition=\"{partition}\"");
                Some((labels, value(one)?))
            };
            metric(name, kind, help, &partitions.iter().filter_map(sample).collect::<Vec<_>>());
        }
        let lines = self.lines();
        let of_lines = |value: fn(&crate::meter::MeteredLine) -> f64| {
            let sample = |(line, metered): &(_, _)| (format!("line=\"{line}\""), value(metered));
            lines.iter().map(sample).collect::<Vec<(String, f64)>>()
        };
        let failures = of_lines(|line| line.failures as f64);
        let help = "Transactions that were done again, and partitions that another instance has taken.";
        metric("failures_total", "counter", help, &failures);
        let paused = of_lines(|line| f64::from(u8::from(line.is_paused)));
        metric("paused", "gauge", "1 while somebody has paused the line.", &paused);
        page
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wire::{Offset, PartitionId, Str, TopicPartition};

    use super::*;
    use crate::meter::{Left, Standing, Work};
    use crate::settings::Line;

    #[test]
    fn the_page_says_of_each_partition_what_is_known() {
        let meter = Meter::default();
        let name = |number| TopicPartition::new(Str::from("orders"), PartitionId(number));
        let standing = Standing { from: Offset(1), read: Offset(12), committed: Offset(10) };
        let work = Work { records: 11, bytes: 2_000, letters: 1, files: 3, commits: 2 };
        meter.paused(Line::Offline, true);
        meter.failed(Line::Offline);
        meter.tell(Line::Offline, &name(0), standing, work);
        meter.left(Line::Offline, &name(0), Left { end: Offset(15), lag: 5, lag_ms: Some(1_500) });
        // What another instance has by now is counted, and its position is that one's to tell.
        meter.tell(Line::Offline, &name(1), standing, work);
        meter.let_go(Line::Offline, &name(1));
        expect![[r##"
            # HELP ottla_sink_read_offset Where reading goes on.
            # TYPE ottla_sink_read_offset gauge
            ottla_sink_read_offset{sink="orders",line="offline",topic="orders",partition="0"} 12
            # HELP ottla_sink_committed_offset Up to where everything is in the output.
            # TYPE ottla_sink_committed_offset gauge
            ottla_sink_committed_offset{sink="orders",line="offline",topic="orders",partition="0"} 10
            # HELP ottla_sink_end_offset Behind the last record that the line gets to see.
            # TYPE ottla_sink_end_offset gauge
            ottla_sink_end_offset{sink="orders",line="offline",topic="orders",partition="0"} 15
            # HELP ottla_sink_lag_offsets Offsets from the committed position to the end.
            # TYPE ottla_sink_lag_offsets gauge
            ottla_sink_lag_offsets{sink="orders",line="offline",topic="orders",partition="0"} 5
            # HELP ottla_sink_lag_seconds How long the first record has waited that is not committed, where brokers can tell.
            # TYPE ottla_sink_lag_seconds gauge
            ottla_sink_lag_seconds{sink="orders",line="offline",topic="orders",partition="0"} 1.5
            # HELP ottla_sink_records_total Records that were taken.
            # TYPE ottla_sink_records_total counter
            ottla_sink_records_total{sink="orders",line="offline",topic="orders",partition="0"} 11
            ottla_sink_records_total{sink="orders",line="offline",topic="orders",partition="1"} 11
            # HELP ottla_sink_bytes_total Their keys, values and headers.
            # TYPE ottla_sink_bytes_total counter
            ottla_sink_bytes_total{sink="orders",line="offline",topic="orders",partition="0"} 2000
            ottla_sink_bytes_total{sink="orders",line="offline",topic="orders",partition="1"} 2000
            # HELP ottla_sink_letters_total Those of them that are dead letters.
            # TYPE ottla_sink_letters_total counter
            ottla_sink_letters_total{sink="orders",line="offline",topic="orders",partition="0"} 1
            ottla_sink_letters_total{sink="orders",line="offline",topic="orders",partition="1"} 1
            # HELP ottla_sink_files_total Files that were put into the table.
            # TYPE ottla_sink_files_total counter
            ottla_sink_files_total{sink="orders",line="offline",topic="orders",partition="0"} 3
            ottla_sink_files_total{sink="orders",line="offline",topic="orders",partition="1"} 3
            # HELP ottla_sink_commits_total Ranges or transactions that were committed.
            # TYPE ottla_sink_commits_total counter
            ottla_sink_commits_total{sink="orders",line="offline",topic="orders",partition="0"} 2
            ottla_sink_commits_total{sink="orders",line="offline",topic="orders",partition="1"} 2
            # HELP ottla_sink_failures_total Transactions that were done again, and partitions that another instance has taken.
            # TYPE ottla_sink_failures_total counter
            ottla_sink_failures_total{sink="orders",line="offline"} 1
            # HELP ottla_sink_paused 1 while somebody has paused the line.
            # TYPE ottla_sink_paused gauge
            ottla_sink_paused{sink="orders",line="offline"} 1
        "##]]
        .assert_eq(&meter.page(&"orders".parse().unwrap()));
    }
}
