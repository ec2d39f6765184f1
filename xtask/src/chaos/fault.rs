//! The faults and their mixes. A plan is drawn before anything is broken: who is hit by what, when, for how long. At most one
//! fault of a round is about processes and disks, where two would only hide each other; faults of the network join it freely.

use super::cluster::Cluster;
use super::{BROKERS, COPIED, PARTITIONS, TOPIC, TRANSACTIONS, network};
use crate::dice::Dice;
use crate::shell;
use std::fmt;
use std::time::Duration;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    KillTwo,
    KillAll,
    Pause,
    Power,
    PowerAll,
    DiskFull,
    DiskDies,
    Flip,
    Cut,
    Isolate,
    OneWay,
    Slow,
    Move,
}

/// In the order of `--help`.
pub(super) const ALL: [Fault; 14] = [
    Fault::Kill,
    Fault::KillTwo,
    Fault::KillAll,
    Fault::Pause,
    Fault::Power,
    Fault::PowerAll,
    Fault::DiskFull,
    Fault::DiskDies,
    Fault::Flip,
    Fault::Cut,
    Fault::Isolate,
    Fault::OneWay,
    Fault::Slow,
    Fault::Move,
];

impl Fault {
    /// Its name, what it does, and between which milliseconds it lasts.
    fn row(self) -> (&'static str, &'static str, (u64, u64)) {
        match self {
            Fault::Kill => ("kill", "SIGKILL to one broker", (0, 6000)),
            Fault::KillTwo => ("kill-two", "SIGKILL to two brokers", (0, 6000)),
            Fault::KillAll => ("kill-all", "SIGKILL to all brokers", (0, 3000)),
            Fault::Pause => ("pause", "SIGSTOP to one broker, later SIGCONT", (1000, 20_000)),
            Fault::Power => {
                ("power", "one broker and its disk lose power: what is not flushed is gone", (0, 6000))
            }
            Fault::PowerAll => ("power-all", "all brokers and their disks lose power at once", (0, 3000)),
            Fault::DiskFull => {
                ("disk-full", "one broker's disk has no byte left for some time", (1000, 8000))
            }
            Fault::DiskDies => {
                ("disk-dies", "one broker's disk loses power under the living broker", (100, 3000))
            }
            Fault::Flip => {
                ("flip", "one byte of a closed segment of one stopped broker is flipped", (0, 1000))
            }
            Fault::Cut => (
                "cut",
                "one broker and the others do not reach each other; clients reach all",
                (1000, 20_000),
            ),
            Fault::Isolate => ("isolate", "one broker's cable is pulled", (1000, 20_000)),
            Fault::OneWay => {
                ("one-way", "what one broker sends to some others, or they to it, is lost", (1000, 20_000))
            }
            Fault::Slow => {
                ("slow", "one broker is behind a narrow pipe that is late and loses packets", (1000, 10_000))
            }
            Fault::Move => ("move", "one broker moves a replica to its other data directory", (0, 1)),
        }
    }

    pub(super) fn named(name: &str) -> Result<Self, String> {
        let found = ALL.into_iter().find(|fault| fault.row().0 == name);
        found.ok_or_else(|| format!("there is no fault {name}; see --help"))
    }

    /// Of which a round has at most one.
    fn is_of_machine(self) -> bool {
        !self.is_of_network() && self != Fault::Move
    }

    fn is_of_network(self) -> bool {
        matches!(self, Fault::Cut | Fault::Isolate | Fault::OneWay | Fault::Slow)
    }
}

/// One line per fault, for `--help`.
pub(super) fn table() -> String {
    let line = |fault: Fault| {
        let (name, what, _) = fault.row();
        format!("  {name:<16} {what}\n")
    };
    ALL.into_iter().map(line).collect()
}

/// One fault of a round.
#[derive(Clone, Debug)]
struct Step {
    fault: Fault,
    /// Broker ids.
    victims: Vec<usize>,
    /// Directions that a fault of the network breaks, as (from, to).
    directions: Vec<(usize, usize)>,
    /// Topic and number of the partition that moves.
    partition: (&'static str, usize),
    /// A rate in kilobits per second, for what is slow.
    kilobits: u64,
    begin: Duration,
    lasts: Duration,
}

/// The faults of a round.
#[derive(Clone, Debug)]
pub(super) struct Plan(Vec<Step>);

impl Plan {
    /// Draws one to three of these faults; with one kind to choose from, it alone.
    pub(super) fn draw(dice: &mut Dice, faults: &[Fault]) -> Self {
        let wanted = if faults.len() == 1 { 1 } else { 1 + dice.below(3) };
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..wanted {
            let fault = dice.pick(faults);
            let taken = steps
                .iter()
                .any(|step| step.fault == fault || step.fault.is_of_machine() && fault.is_of_machine());
            // Two on one interface or direction would heal each other.
            let crowded = fault.is_of_network() && steps.iter().any(|step| step.fault.is_of_network());
            if !taken && !crowded {
                steps.push(Step::draw(dice, fault));
            }
        }
        Self(steps)
    }

    /// Breaks and heals in the drawn order; returns when everything is healed.
    pub(super) fn carry_out(&self, cluster: &mut Cluster<'_>) -> Result<(), String> {
        let mut moments: Vec<(Duration, &Step, bool)> = Vec::new();
        for step in &self.0 {
            moments.push((step.begin, step, true));
            moments.push((step.begin + step.lasts, step, false));
        }
        moments.sort_by_key(|(at, ..)| *at);
        let begin = shell::now();
        for (at, step, breaks) in moments {
            std::thread::sleep(at.saturating_sub(begin.elapsed()));
            if breaks { step.inflict(cluster)? } else { step.heal(cluster)? }
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} of", step.fault.row().0)?;
            step.victims.iter().try_for_each(|id| write!(f, " {id}"))?;
            if step.fault == Fault::OneWay {
                write!(f, " (lost")?;
                step.directions.iter().try_for_each(|(from, to)| write!(f, " {from}>{to}"))?;
                write!(f, ")")?;
            }
            if step.fault == Fault::Move {
                write!(f, " ({}-{})", step.partition.0, step.partition.1)?;
            }
            write!(f, " from {:.1} s for {:.1} s", step.begin.as_secs_f64(), step.lasts.as_secs_f64())?;
        }
        Ok(())
    }
}

impl Step {
    fn draw(dice: &mut Dice, fault: Fault) -> Self {
        let all: Vec<usize> = (1..=BROKERS).collect();
        let one = dice.pick(&all);
        let others: Vec<usize> = all.iter().copied().filter(|&id| id != one).collect();
        let victims = match fault {
            Fault::KillAll | Fault::PowerAll => all,
            Fault::KillTwo => others.clone(),
            _ => vec![one],
        };
        let sends = others.iter().map(|&other| (one, other));
        let hears = others.iter().map(|&other| (other, one));
        let directions = match fault {
            Fault::Cut => sends.chain(hears).collect(),
            Fault::OneWay => match dice.below(3) {
                0 => sends.collect(),
                1 => hears.collect(),
                _ => vec![(one, dice.pick(&others))],
            },
            _ => Vec::new(),
        };
        let all_partitions: Vec<usize> = (0..PARTITIONS).collect();
        let (_, _, (ms_min, ms_bound)) = fault.row();
        Self {
            fault,
            victims,
            directions,
            partition: (dice.pick(&[TOPIC, TRANSACTIONS, COPIED]), dice.pick(&all_partitions)),
            kilobits: 500 << dice.below(5),
            begin: dice.millis(0, 3000),
            lasts: dice.millis(ms_min, ms_bound),
        }
    }

    fn inflict(&self, cluster: &mut Cluster<'_>) -> Result<(), String> {
        match self.fault {
            Fault::Kill | Fault::KillTwo | Fault::KillAll => {
                self.victims.iter().try_for_each(|&id| cluster.broker(id).kill())
            }
            Fault::Pause => cluster.signal(&self.victims, "STOP"),
            Fault::Power | Fault::PowerAll => cluster.power_off(&self.victims),
            Fault::DiskFull => self.victims.iter().try_for_each(|&id| cluster.broker(id).fill()),
            Fault::DiskDies => cluster.disks_off(&self.victims),
            Fault::Flip => self.victims.iter().try_for_each(|&id| cluster.broker(id).kill_and_flip()),
            Fault::Cut | Fault::OneWay => {
                self.directions.iter().try_for_each(|&(from, to)| network::cut(from, to))
            }
            Fault::Isolate => self.victims.iter().try_for_each(|&id| network::unplug(id)),
            Fault::Slow => self.victims.iter().try_for_each(|&id| network::slow_down(id, self.kilobits)),
            Fault::Move => {
                let (topic, partition) = self.partition;
                self.victims.iter().for_each(|&id| cluster.begin_move(id, topic, partition));
                Ok(())
            }
        }
    }

    fn heal(&self, cluster: &mut Cluster<'_>) -> Result<(), String> {
        match self.fault {
            Fault::Kill | Fault::KillTwo | Fault::KillAll | Fault::Flip => {
                self.victims.iter().try_for_each(|&id| cluster.broker(id).start())
            }
            Fault::Pause => cluster.signal(&self.victims, "CONT"),
            Fault::Power | Fault::PowerAll | Fault::DiskDies => self.victims.iter().try_for_each(|&id| {
                let broker = cluster.broker(id);
                broker.kill()?;
                broker.disk.power_on()?;
                broker.start()
            }),
            Fault::DiskFull => self.victims.iter().try_for_each(|&id| cluster.broker(id).disk.drain()),
            Fault::Cut | Fault::OneWay => {
                self.directions.iter().try_for_each(|&(from, to)| network::connect(from, to))
            }
            Fault::Isolate => self.victims.iter().try_for_each(|&id| network::plug(id)),
            Fault::Slow => self.victims.iter().try_for_each(|&id| network::speed_up(id)),
            // It ends by itself.
            Fault::Move => Ok(()),
        }
    }
}
