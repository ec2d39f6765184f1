//! The faults, drawn from a seed: what is broken, which one of it, and for how long. A draw depends on nothing that happens, so that a
//! seed gives the same faults again, though not to the millisecond.

use super::world::{BROKERS, INSTANCES, SINKS};
use crate::dice::Dice;
use std::time::Duration;

/// How long a member that is silent stays one, in milliseconds.
pub(super) const SESSION_MS: u64 = 6_000;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    KillSink,
    StopSink,
    PauseSink,
    KillBroker,
    KillRedis,
    KillPostgres,
    StoreAway,
    FullDisk,
    KillAll,
}

/// Each with how often it is drawn, and for how many milliseconds it lasts.
const KINDS: [(Kind, u64, (u64, u64)); 9] = [
    (Kind::KillSink, 6, (0, 3_000)),
    (Kind::StopSink, 2, (0, 2_000)),
    (Kind::PauseSink, 3, (SESSION_MS + 1_000, SESSION_MS + 6_000)),
    (Kind::KillBroker, 3, (0, 1)),
    (Kind::KillRedis, 2, (0, 4_000)),
    (Kind::KillPostgres, 2, (0, 4_000)),
    // A store is waited for half a minute.
    (Kind::StoreAway, 1, (33_000, 36_000)),
    (Kind::FullDisk, 2, (3_000, 8_000)),
    (Kind::KillAll, 1, (0, 3_000)),
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::KillSink => "sink killed (SIGKILL)",
            Kind::StopSink => "sink stopped in order (SIGTERM)",
            Kind::PauseSink => "sink paused beyond its session (SIGSTOP)",
            Kind::KillBroker => "broker killed",
            Kind::KillRedis => "Redis killed",
            Kind::KillPostgres => "PostgreSQL killed",
            Kind::StoreAway => "store away for longer than it is waited for",
            Kind::FullDisk => "disk of a table full",
            Kind::KillAll => "all sinks and stores killed at once",
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// After the one before it.
    pub(super) pause: Duration,
    pub(super) lasts: Duration,
    pub(super) sink: usize,
    pub(super) instance: usize,
    pub(super) broker: u16,
    /// Which of the two stores, where it is either.
    pub(super) is_redis: bool,
}

impl Fault {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let mut at = dice.below(KINDS.iter().map(|(_, weight, _)| weight).sum());
        let (kind, _, (ms_min, ms_bound)) = KINDS
            .into_iter()
            .find(|(_, weight, _)| {
                let is_it = at < *weight;
                at = at.wrapping_sub(*weight);
                is_it
            })
            .expect("the draw is below the sum");
        let index =
            |dice: &mut Dice, bound: usize| usize::try_from(dice.below(bound as u64)).expect("an index fits");
        Self {
            kind,
            pause: dice.millis(500, 4_000),
            lasts: dice.millis(ms_min, ms_bound),
            sink: index(dice, SINKS),
            instance: index(dice, INSTANCES),
            broker: 1 + u16::try_from(dice.below(BROKERS.into())).expect("a broker's id fits"),
            is_redis: dice.below(2) == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, KINDS};
    use crate::dice::Dice;

    #[test]
    fn a_seed_gives_the_same_faults_again_and_every_kind_comes() {
        let draw = |seed| {
            let mut dice = Dice::new(seed);
            (0..500).map(|_| Fault::draw(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for (kind, _, _) in KINDS {
            assert!(draw(7).iter().any(|fault| fault.kind == kind), "{kind:?} is never drawn");
        }
    }
}
