//! Which brokers get the replicas of a new partition.
//!
//! Leaders go round the live brokers, each partition one further than the one before, so that they spread evenly. Brokers
//! stand in the order of their ids, or, where all of them name a rack, one of each rack in turn, so that the replicas of a
//! partition stand in as many racks as there are. The replicas behind the leader begin one place further with each round:
//! when a broker falls silent, not one other takes over all that it led. Brokers that are fenced are used where the live ones
//! are too few, and never first. Where the first partition starts is the caller's choice: a random start keeps many small
//! topics from piling up on the first broker.

use std::collections::BTreeMap;

use wire::{BrokerId, Str};

use super::refusal::Refusal;
use super::{Broker, Image};

impl Image {
    /// Replicas for `count` partitions, the preferred leader of each first.
    pub(super) fn place(
        &self,
        count: usize,
        factor: i16,
        start: usize,
    ) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let live = in_turn(self.brokers().filter(|broker| broker.is_active()));
        let others = in_turn(self.brokers().filter(|broker| !broker.is_active()));
        let replicas = usize::try_from(factor).unwrap_or(0);
        let impossible = |why: String| {
            Refusal::InvalidReplicationFactor(format!(
                "Unable to replicate the partition {factor} time(s): {why}"
            ))
        };
        if live.is_empty() {
            return Err(impossible("All brokers are currently fenced or in controlled shutdown.".to_owned()));
        }
        if replicas > live.len() + others.len() {
            return Err(impossible(format!(
                "The target replication factor of {factor} cannot be reached because only {} broker(s) are registered.",
                live.len() + others.len()
            )));
        }
        let place_one = |index: usize| -> Vec<BrokerId> {
            let place = start.wrapping_add(index);
            let (first, round) = (place % live.len(), place / live.len());
            let behind = live.len() - 1;
            let follower = |replica: usize| live[(first + 1 + (round + replica) % behind) % live.len()];
            let followers = (0..behind).map(follower);
            let fenced = (0..others.len()).map(|replica| others[(place + replica) % others.len()]);
            std::iter::once(live[first]).chain(followers).chain(fenced).take(replicas).collect()
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

/// Brokers by id, or one of each rack in turn where all name theirs.
fn in_turn<'a>(brokers: impl Iterator<Item = &'a Broker>) -> Vec<BrokerId> {
    let brokers: Vec<&Broker> = brokers.collect();
    let mut racks: BTreeMap<&Str, Vec<BrokerId>> = BTreeMap::new();
    for broker in &brokers {
        let Some(rack) = &broker.rack else { return brokers.iter().map(|broker| broker.id).collect() };
        racks.entry(rack).or_default().push(broker.id);
    }
    let rounds = racks.values().map(Vec::len).max().unwrap_or(0);
    (0..rounds).flat_map(|round| racks.values().filter_map(move |rack| rack.get(round).copied())).collect()
}
