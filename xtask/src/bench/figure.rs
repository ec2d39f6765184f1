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
    Memory,
    Time,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::ProduceCpu,
        Self::ConsumeCpu,
        Self::ProduceRate,
        Self::ConsumeRate,
        Self::AgainstTheMachine,
        Self::Latency,
        Self::Memory,
        Self::Time,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ProduceCpu => "Broker CPU, seconds per GiB produced",
            Self::ConsumeCpu => "Broker CPU, seconds per GiB consumed",
            Self::ProduceRate => "Produce throughput, MB/s",
            Self::ConsumeRate => "Consume throughput, MB/s",
            Self::AgainstTheMachine => "Produce CPU beside the minimal receiver's, seconds per GiB",
            Self::Latency => "End-to-end latency, ms",
            Self::Memory => "Resident memory, MiB",
            Self::Time => "Time, s",
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
            Goal::AtMost(value) => self.ours.median().map(|ours| ours / value - 1.0),
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
            Self::Shown => Ok(()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
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
    }
}
