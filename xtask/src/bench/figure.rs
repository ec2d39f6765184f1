//! A figure: what was measured, each run of it on each side, and what it should be.
//! Medians and ranges are over a side's runs; ratios are over pairs of neighbouring runs, so that drift cancels out.
//! A missed goal is a result to be shown, never an error.

use super::options::Peer;
use std::fmt;

/// What a figure is about; the table and the chart have a section for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    ProduceCpu,
    ConsumeCpu,
    ProduceRate,
    ConsumeRate,
    AgainstTheMachine,
    Latency,
    Flood,
    FloodShare,
    Memory,
    Time,
    ClusterProduceCpu,
    ClusterConsumeCpu,
    ClusterProduceRate,
    ClusterConsumeRate,
    ClusterLatency,
    TransactionRate,
    TransactionShare,
    CommitLatency,
    GroupJoin,
    OffsetCommits,
    ShareRate,
    ShareCpu,
    CompactionRate,
    CompactionMemory,
    CompactionLatency,
    CompactionLatencyShare,
    Failover,
    Pause,
    Errors,
    ManyTime,
    ManyMemory,
    GrowthLatency,
    GrowthCpu,
    ClientProduceRate,
    ClientConsumeRate,
    ClientProduceCpu,
    ClientConsumeCpu,
    ClientLatency,
    ClientMemory,
    SinkCpu,
    SinkRate,
    SinkAge,
    SinkMemory,
}

/// What is published together: a bench of one part leaves the figures of the others as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chapter {
    OneBroker,
    Cluster,
    /// Transactions, groups, quotas, compaction.
    Delivery,
    /// Ottla's own client.
    Clients,
    /// `ottla sink`.
    Sink,
}

impl Kind {
    pub(crate) const ALL: [Self; 43] = [
        Self::ProduceCpu,
        Self::ConsumeCpu,
        Self::ProduceRate,
        Self::ConsumeRate,
        Self::AgainstTheMachine,
        Self::Latency,
        Self::Flood,
        Self::FloodShare,
        Self::Memory,
        Self::Time,
        Self::ClusterProduceCpu,
        Self::ClusterConsumeCpu,
        Self::ClusterProduceRate,
        Self::ClusterConsumeRate,
        Self::ClusterLatency,
        Self::TransactionRate,
        Self::TransactionShare,
        Self::CommitLatency,
        Self::GroupJoin,
        Self::OffsetCommits,
        Self::ShareRate,
        Self::ShareCpu,
        Self::CompactionRate,
        Self::CompactionMemory,
        Self::CompactionLatency,
        Self::CompactionLatencyShare,
        Self::Failover,
        Self::Pause,
        Self::Errors,
        Self::ManyTime,
        Self::ManyMemory,
        Self::GrowthLatency,
        Self::GrowthCpu,
        Self::ClientProduceRate,
        Self::ClientConsumeRate,
        Self::ClientProduceCpu,
        Self::ClientConsumeCpu,
        Self::ClientLatency,
        Self::ClientMemory,
        Self::SinkCpu,
        Self::SinkRate,
        Self::SinkAge,
        Self::SinkMemory,
    ];

    pub(crate) fn chapter(self) -> Chapter {
        match self {
            Self::ProduceCpu
            | Self::ConsumeCpu
            | Self::ProduceRate
            | Self::ConsumeRate
            | Self::AgainstTheMachine
            | Self::Latency
            | Self::Memory
            | Self::Time => Chapter::OneBroker,
            Self::ClusterProduceCpu
            | Self::ClusterConsumeCpu
            | Self::ClusterProduceRate
            | Self::ClusterConsumeRate
            | Self::ClusterLatency
            | Self::Failover
            | Self::Pause
            | Self::Errors
            | Self::ManyTime
            | Self::ManyMemory
            | Self::GrowthLatency
            | Self::GrowthCpu => Chapter::Cluster,
            Self::TransactionRate
            | Self::TransactionShare
            | Self::CommitLatency
            | Self::GroupJoin
            | Self::OffsetCommits
            | Self::ShareRate
            | Self::ShareCpu
            | Self::Flood
            | Self::FloodShare
            | Self::CompactionRate
            | Self::CompactionMemory
            | Self::CompactionLatency
            | Self::CompactionLatencyShare => Chapter::Delivery,
            Self::ClientProduceRate
            | Self::ClientConsumeRate
            | Self::ClientProduceCpu
            | Self::ClientConsumeCpu
            | Self::ClientLatency
            | Self::ClientMemory => Chapter::Clients,
            Self::SinkCpu | Self::SinkRate | Self::SinkAge | Self::SinkMemory => Chapter::Sink,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ProduceCpu => "Broker CPU, seconds per GiB produced",
            Self::ConsumeCpu => "Broker CPU, seconds per GiB consumed",
            Self::ProduceRate => "Produce throughput, MB/s",
            Self::ConsumeRate => "Consume throughput, MB/s",
            Self::AgainstTheMachine => "Produce CPU beside the minimal receiver's, seconds per GiB",
            Self::Latency => "End-to-end latency, ms",
            Self::Flood => "End-to-end latency beside another client's flood, ms",
            Self::FloodShare => "The same, times what it is when all is calm",
            Self::Memory => "Resident memory, MiB",
            Self::Time => "Time, s",
            Self::ClusterProduceCpu => "CPU of three brokers, seconds per GiB produced",
            Self::ClusterConsumeCpu => "CPU of three brokers, seconds per GiB consumed",
            Self::ClusterProduceRate => "Produce throughput with three replicas, MB/s",
            Self::ClusterConsumeRate => "Consume throughput with three replicas, MB/s",
            Self::ClusterLatency => "End-to-end latency with three replicas, ms",
            Self::TransactionRate => {
                "Transactions committed every 100 ms, three replicas: produce throughput, MB/s"
            }
            Self::TransactionShare => {
                "The same as a share of what the producer gets through without transactions, %"
            }
            Self::CommitLatency => "Time of a commit, three replicas, ms",
            Self::GroupJoin => "One more member of ten, 900 partitions: until each is read by its owner, s",
            Self::OffsetCommits => "Offset commits per second of the broker's CPU",
            Self::ShareRate => "Share group: records acknowledged per second",
            Self::ShareCpu => "Share group: broker CPU, seconds per million records",
            Self::CompactionRate => "Compaction, MB per second of the broker's CPU",
            Self::CompactionMemory => "Compaction: what the broker grows by, MiB",
            Self::CompactionLatency => "End-to-end latency beside compaction, ms",
            Self::CompactionLatencyShare => "The same, times what it was before",
            Self::Failover => "From kill -9 of a leader to the first acknowledged write, s",
            Self::Pause => "Leaders moved as planned: pause between acknowledgements, ms",
            Self::Errors => "Errors that reached the application",
            Self::ManyTime => "Many partitions: time, s",
            Self::ManyMemory => "Many partitions: a broker's own memory, KiB per partition of the cluster",
            Self::GrowthLatency => "Growth: p99 of an acknowledgement, ms",
            Self::GrowthCpu => "Growth: CPU of three brokers, seconds per GiB produced",
            Self::ClientProduceRate => "Client: records produced per second",
            Self::ClientConsumeRate => "Client: records consumed per second",
            Self::ClientProduceCpu => "Client: its CPU, seconds per GiB produced",
            Self::ClientConsumeCpu => "Client: its CPU, seconds per GiB consumed",
            Self::ClientLatency => "Client: until a record is acknowledged, ms",
            Self::ClientMemory => "Client: its largest own memory (RssAnon), MiB",
            Self::SinkCpu => "Sink: MB of values per second of its CPU",
            Self::SinkRate => "Sink: MB of values per second",
            Self::SinkAge => "Near-real-time line: from a record's sending until it is read as committed, ms",
            Self::SinkMemory => "Sink: its largest own memory (RssAnon), MiB",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// Ours over theirs.
    ShareAtMost(f64),
    ShareAtLeast(f64),
    /// Ours alone.
    AtMost(f64),
    AtLeast(f64),
    Shown,
}

#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) ours: Series,
    pub(crate) theirs: Series,
    pub(crate) goal: Goal,
}

/// One side's runs, in order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Series(pub(crate) Vec<f64>);

impl Series {
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = sorted[(sorted.len() - 1) / 2];
        Some((lower + upper) / 2.0)
    }

    pub(crate) fn min(&self) -> Option<f64> {
        self.0.iter().copied().min_by(f64::total_cmp)
    }

    /// The smallest value that so large a share of all values does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied()
    }

    pub(crate) fn max(&self) -> Option<f64> {
        self.0.iter().copied().max_by(f64::total_cmp)
    }
}

/// All that a bench found. A run that failed leaves its cell out and is told at the end; the others go on.
#[derive(Default, Debug)]
pub(crate) struct Findings {
    pub(crate) figures: Vec<Figure>,
    pub(crate) failures: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, what: &dyn fmt::Display, outcome: Result<Vec<Figure>, String>) {
        match outcome {
            Ok(figures) => self.figures.extend(figures),
            Err(reason) => {
                eprintln!("{what}: {reason}");
                self.failures.push(format!("{what}: {reason}"));
            }
        }
    }
}

pub(crate) enum Verdict {
    Ok,
    /// By how much the figure is worse than its goal: 0.5 is half as much again.
    Missed(f64),
    Open,
}

impl Figure {
    pub(crate) fn new(kind: Kind, name: impl Into<String>, goal: Goal) -> Self {
        Self { kind, name: name.into(), ours: Series::default(), theirs: Series::default(), goal }
    }

    pub(crate) fn side(&mut self, peer: Peer) -> &mut Series {
        match peer {
            Peer::Ottla => &mut self.ours,
            Peer::Kafka => &mut self.theirs,
        }
    }

    /// Ours over theirs, pair by pair.
    pub(crate) fn ratios(&self) -> Series {
        let pairs = self.ours.0.iter().zip(&self.theirs.0);
        Series(pairs.filter(|(_, theirs)| **theirs > 0.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let excess = match self.goal {
            Goal::ShareAtMost(share) => self.ratios().median().map(|ratio| ratio / share - 1.0),
            Goal::ShareAtLeast(share) => self.ratios().median().map(|ratio| share / ratio - 1.0),
            // Nothing more is no excess of nothing.
            Goal::AtMost(value) => {
                self.ours.median().map(|ours| if ours <= value { 0.0 } else { ours / value - 1.0 })
            }
            Goal::AtLeast(value) => self.ours.median().map(|ours| value / ours - 1.0),
            Goal::Shown => None,
        };
        match excess {
            Some(excess) if excess <= 0.0 => Verdict::Ok,
            Some(excess) => Verdict::Missed(excess),
            None => Verdict::Open,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShareAtMost(share) => write!(f, "ratio ≤ {share:.2}"),
            Self::ShareAtLeast(share) => write!(f, "ratio ≥ {share:.2}"),
            Self::AtMost(value) => write!(f, "≤ {value}"),
            Self::AtLeast(value) => write!(f, "≥ {value}"),
            Self::Shown => Ok(()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Missed(excess) if excess.is_infinite() => f.write_str("missed"),
            Self::Missed(excess) => write!(f, "missed by {:.0}%", (excess * 100.0).max(1.0)),
            Self::Open => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(ours: &[f64], theirs: &[f64], goal: Goal) -> Figure {
        let (ours, theirs) = (Series(ours.to_vec()), Series(theirs.to_vec()));
        Figure { kind: Kind::ProduceCpu, name: "x".to_owned(), ours, theirs, goal }
    }

    #[test]
    fn a_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        assert_eq!(Series(vec![4.0, 1.0, 2.0, 9.0]).median(), Some(3.0));
        assert_eq!(Series(vec![4.0, 1.0, 9.0]).median(), Some(4.0));
        assert_eq!(Series::default().median(), None);
    }

    #[test]
    fn drift_that_hits_both_sides_of_a_pair_cancels_out() {
        let drifting = figure(&[1.0, 2.0, 4.0], &[4.0, 8.0, 16.0], Goal::ShareAtMost(0.3));
        assert_eq!(drifting.ratios().0, vec![0.25; 3]);
        assert_eq!(drifting.verdict().to_string(), "ok");
    }

    #[test]
    fn a_missed_goal_says_by_how_much() {
        assert_eq!(figure(&[3.0], &[6.0], Goal::ShareAtMost(0.25)).verdict().to_string(), "missed by 100%");
        assert_eq!(figure(&[3.0], &[6.0], Goal::ShareAtLeast(1.0)).verdict().to_string(), "missed by 100%");
        assert_eq!(figure(&[], &[6.0], Goal::ShareAtLeast(1.0)).verdict().to_string(), "");
        assert_eq!(figure(&[20.0], &[], Goal::AtMost(20.0)).verdict().to_string(), "ok");
        assert_eq!(figure(&[0.0], &[], Goal::AtMost(0.0)).verdict().to_string(), "ok");
        assert_eq!(figure(&[1.0], &[], Goal::AtMost(0.0)).verdict().to_string(), "missed");
    }

    #[test]
    fn the_p99_of_fifty_is_the_worst_of_them() {
        let fifty = Series((1..=50).map(f64::from).collect());
        assert_eq!(fifty.quantile(0.99), Some(50.0));
        assert_eq!(fifty.quantile(0.5), Some(25.0));
        assert_eq!(Series((1..=200).map(f64::from).collect()).quantile(0.99), Some(198.0));
        assert_eq!(Series::default().quantile(0.99), None);
    }
}
