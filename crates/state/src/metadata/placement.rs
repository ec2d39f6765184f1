//! Which brokers get the replicas of a new partition.
//!
//! Round robin over the live brokers in the order of their ids, each partition one further than the one before, so that
//! leaders spread evenly. Racks are not looked at yet. Where the first partition starts is the caller's choice: a random
//! start keeps many small topics from piling up on the first broker.

use wire::BrokerId;

use super::Image;
use super::refusal::Refusal;

impl Image {
    /// Replicas for `count` partitions, the preferred leader of each first.
    pub(super) fn place(
        &self,
        count: usize,
        factor: i16,
        start: usize,
    ) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let live: Vec<BrokerId> =
            self.brokers().filter(|broker| broker.is_active()).map(|broker| broker.id).collect();
        let replicas = usize::try_from(factor).unwrap_or(0);
        let impossible = |why: String| {
            Refusal::InvalidReplicationFactor(format!(
                "Unable to replicate the partition {factor} time(s): {why}"
            ))
        };
        if live.is_empty() {
            return Err(impossible("All brokers are currently fenced or in controlled shutdown.".to_owned()));
        }
        if replicas > live.len() {
            return Err(impossible(format!(
                "The target replication factor of {factor} cannot be reached because only {} broker(s) are registered.",
                live.len()
            )));
        }
        let place_one = |index: usize| {
            let first = start.wrapping_add(index) % live.len();
            (0..replicas).map(|replica| live[(first + replica) % live.len()]).collect()
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
