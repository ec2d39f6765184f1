//! Elections that somebody asks for, and those that keep leadership spread as it was meant to be.
//!
//! The preferred leader of a partition is the first of its replicas; it leads once it is in sync. An unclean election is
//! the operator's word that losing records is better than waiting, and is held only where nobody leads.

use std::collections::BTreeMap;

use wire::{BrokerId, PartitionId, Str};

use super::change::{Changes, Draft, Incumbent, Wanted};
use super::{Decision, Image, Partition, Refusal, TopicRule, TopicRules};

/// What kind of leader is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The first of the replicas (KIP-183).
    Preferred,
    /// Anybody, whatever it lacks, if there is no better one (KIP-460).
    Unclean,
}

/// One answer per partition.
type PerPartition<T> = Vec<((Str, PartitionId), Result<T, Refusal>)>;

impl Image {
    /// Decides an ElectLeaders request: for these partitions, or for all. Of all, those that need no election are left out
    /// of the answer.
    pub fn elect_leaders(
        &self,
        election: Election,
        partitions: Option<&[(Str, PartitionId)]>,
        rules: &dyn TopicRules,
    ) -> Decision<PerPartition<Partition>> {
        let mut draft = Draft::new(self, rules);
        let every = || self.all_partitions().map(|(topic, id, _)| (topic.name.clone(), id)).collect();
        let named = partitions.map_or_else(every, <[(Str, PartitionId)]>::to_vec);
        let mut reply = Vec::new();
        for (topic, id) in named {
            let elected = draft.elect_leader(election, &topic, id);
            if partitions.is_some() || elected != Err(Refusal::ElectionNotNeeded) {
                reply.push(((topic, id), elected));
            }
        }
        Decision { records: draft.records, reply }
    }

    /// Gives brokers back the partitions that they are to lead (`auto.leader.rebalance.enable`): for each broker of whose
    /// partitions more than so many percent are led by others, and at most so many partitions at once. The answer is how
    /// many.
    pub fn balance_leaders(
        &self,
        imbalance_percent: i32,
        changes_max: usize,
        rules: &dyn TopicRules,
    ) -> Decision<usize> {
        let away = |partition: &Partition| partition.leader != partition.replicas.first().copied();
        let mut shares: BTreeMap<BrokerId, (i64, i64)> = BTreeMap::new();
        for (_, _, partition) in self.all_partitions() {
            if let Some(preferred) = partition.replicas.first() {
                let (all, led_by_others) = shares.entry(*preferred).or_default();
                *all += 1;
                *led_by_others += i64::from(away(partition));
            }
        }
        let out_of_balance = |preferred: &BrokerId| {
            let (all, led_by_others) = shares.get(preferred).copied().unwrap_or_default();
            led_by_others * 100 > all * i64::from(imbalance_percent)
        };
        let mut draft = Draft::new(self, rules);
        let mut left = changes_max;
        draft.change_each(
            |partition| {
                let preferred = partition.replicas.first();
                let ready = preferred.is_some_and(|id| partition.isr.contains(id) && self.may_lead(*id));
                ready && away(partition) && preferred.is_some_and(out_of_balance)
            },
            |partition, _| {
                left = left.checked_sub(1)?;
                let incumbent = Incumbent::YieldsToPreferred;
                Some(Wanted { incumbent, ..Wanted::unchanged(partition) })
            },
        );
        Decision { reply: draft.changes.leaders_moved, records: draft.records }
    }

    /// Has at most so many partitions without a leader led by whoever may, which changes with the settings of their
    /// topics.
    pub fn elect_where_nobody_leads(&self, changes_max: usize, rules: &dyn TopicRules) -> Decision<Changes> {
        let mut draft = Draft::new(self, rules);
        let mut left = changes_max;
        draft.change_each(
            |partition| partition.leader.is_none() && partition.replicas.iter().any(|id| self.may_lead(*id)),
            |partition, rule| {
                let candidate = |id: &&BrokerId| rule.unclean_election || partition.is_held_by(**id);
                partition.replicas.iter().filter(candidate).find(|id| self.may_lead(**id))?;
                left = left.checked_sub(1)?;
                Some(Wanted::unchanged(partition))
            },
        );
        draft.decided()
    }
}

impl Draft<'_> {
    fn elect_leader(
        &mut self,
        election: Election,
        topic: &Str,
        id: PartitionId,
    ) -> Result<Partition, Refusal> {
        let (topic, partition) = self.partition(topic, id)?;
        let preferred = partition.replicas.first().copied();
        let needed = match election {
            Election::Preferred => partition.leader != preferred,
            Election::Unclean => partition.leader.is_none(),
        };
        if !needed {
            return Err(Refusal::ElectionNotNeeded);
        }
        let rule = TopicRule { unclean_election: election == Election::Unclean, ..self.rule(&topic.name) };
        let wanted = Wanted { incumbent: Incumbent::YieldsToPreferred, ..Wanted::unchanged(&partition) };
        let changed = self.image.change_partition((&topic, id, &partition), wanted, rule);
        let leader = changed.partition.leader;
        match election {
            Election::Preferred if leader != preferred => return Err(Refusal::PreferredLeaderNotAvailable),
            Election::Unclean if leader.is_none() => return Err(Refusal::EligibleLeadersNotAvailable),
            Election::Preferred | Election::Unclean => {}
        }
        self.take(&topic, id, partition.leader, &changed);
        Ok(changed.partition)
    }
}
