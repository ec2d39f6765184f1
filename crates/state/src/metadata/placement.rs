//! Which brokers get the replicas of a new partition.
//!
//! Leaders go round the live brokers, from rack to rack where every live broker has one. The other replicas follow on the
//! same round, first in racks that have none of the partition's yet; where they begin shifts with every round, so that the
//! partitions of a broker that fails are taken over by several. Fenced brokers get replicas only when there are not enough
//! live ones, and never the first. Where the first partition starts is the caller's choice: a random start keeps many
//! small topics from piling up on the first broker.

use std::collections::BTreeMap;

use wire::{BrokerId, Str};

use super::refusal::Refusal;
use super::{Broker, Image};

/// Brokers in the order in which they get replicas.
struct Round<'a> {
    brokers: Vec<&'a Broker>,
    racks: Racks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Racks {
    Spread,
    Ignored,
}

impl<'a> Round<'a> {
    /// The first of every rack, then the second of every rack, and so on.
    fn new(brokers: Vec<&'a Broker>, racks: Racks) -> Self {
        let mut by_rack: BTreeMap<Option<&Str>, Vec<&Broker>> = BTreeMap::new();
        for broker in brokers {
            by_rack.entry(racks.of(broker)).or_default().push(broker);
        }
        let rows = by_rack.values().map(Vec::len).max().unwrap_or(0);
        let brokers =
            (0..rows).flat_map(|row| by_rack.values().filter_map(move |rack| rack.get(row).copied()));
        Round { brokers: brokers.collect(), racks }
    }

    /// The brokers from this one on, once round.
    fn from(&self, first: usize) -> impl Iterator<Item = &'a Broker> {
        let count = self.brokers.len();
        (0..count).map(move |index| self.brokers[(first % count + index) % count])
    }
}

impl Racks {
    fn of(self, broker: &Broker) -> Option<&Str> {
        broker.rack.as_ref().filter(|_| self == Racks::Spread)
    }

    /// Takes as many as are missing, one after the other from the racks that have the fewest.
    fn fill<'a>(self, chosen: &mut Vec<&'a Broker>, candidates: &[&'a Broker], count: usize) {
        while chosen.len() < count {
            let in_its_rack =
                |broker: &Broker| chosen.iter().filter(|other| self.of(other) == self.of(broker)).count();
            let free = candidates.iter().filter(|broker| chosen.iter().all(|other| other.id != broker.id));
            // Of equals, the first.
            let Some(next) = free.min_by_key(|broker| in_its_rack(broker)).copied() else { return };
            chosen.push(next);
        }
    }
}

impl Image {
    /// Replicas for `count` partitions, the preferred leader of each first.
    pub(super) fn place(
        &self,
        count: usize,
        factor: i16,
        start: usize,
    ) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let live: Vec<&Broker> = self.brokers().filter(|broker| broker.is_active()).collect();
        let fenced = |broker: &&Broker| broker.fenced && !broker.in_controlled_shutdown;
        let fenced: Vec<&Broker> = self.brokers().filter(fenced).collect();
        let replicas = usize::try_from(factor).unwrap_or(0);
        let impossible = |why: String| {
            Refusal::InvalidReplicationFactor(format!(
                "Unable to replicate the partition {factor} time(s): {why}"
            ))
        };
        if live.is_empty() {
            return Err(impossible("All brokers are currently fenced or in controlled shutdown.".to_owned()));
        }
        let usable = live.len() + fenced.len();
        if replicas > usable {
            return Err(impossible(format!(
                "The target replication factor of {factor} cannot be reached because only {usable} broker(s) are \
                 registered."
            )));
        }
        let racks =
            if live.iter().all(|broker| broker.rack.is_some()) { Racks::Spread } else { Racks::Ignored };
        let (live, fenced) = (Round::new(live, racks), Round::new(fenced, racks));
        let place_one = |index: usize| {
            let turn = start.wrapping_add(index);
            let followers = live.brokers.len() - 1;
            let shift = (turn / live.brokers.len()).checked_rem(followers).unwrap_or(0);
            let mut others: Vec<&Broker> = live.from(turn).collect();
            let mut chosen = vec![others.remove(0)];
            others.rotate_left(shift);
            live.racks.fill(&mut chosen, &others, replicas);
            fenced.racks.fill(&mut chosen, &fenced.from(turn).collect::<Vec<_>>(), replicas);
            chosen.into_iter().map(|broker| broker.id).collect()
        };
        Ok((0..count).map(place_one).collect())
    }

    /// Checks replicas that a user chose.
    pub(super) fn check_assignment(
        &self,
        replicas: &[BrokerId],
        factor: Option<usize>,
    ) -> Result<(), Refusal> {
        let invalid =
            |why: String| Err(Refusal::InvalidAssignment(format!("The manual partition assignment {why}")));
        if replicas.is_empty() {
            return invalid("includes an empty replica list.".to_owned());
        }
        for (index, id) in replicas.iter().enumerate() {
            if self.broker(*id).is_none() {
                return invalid(format!("includes broker {id}, but no such broker is registered."));
            }
            if replicas[..index].contains(id) {
                return invalid(format!("includes the broker {id} more than once."));
            }
        }
        match factor {
            Some(factor) if factor != replicas.len() => invalid(format!(
                "includes a partition with {} replica(s), but this is not consistent with previous partitions, which \
                 have {factor} replica(s).",
                replicas.len()
            )),
            Some(_) | None => Ok(()),
        }
    }
}
