//! Kafka's cooperative sticky assignor: even shares, and partitions that stay where they are.
//!
//! Pure. Members of equal subscriptions get what Kafka's own assignor would give them, to the partition; for mixed
//! subscriptions, what they own stays and the rest goes to whoever has least, until no move evens the shares
//! out further. A partition that goes from one member to another is given to nobody in this round: its owner gives
//! it up first, and joins again, and then it is free.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wire::{Str, TopicPartition};

use super::assignor::{Shares, Subscriber, all_of, nothing};

pub(super) fn assign_sticky(subscribers: &[Subscriber], partitions: &BTreeMap<Str, u32>) -> Shares {
    let owned = Owned::of(subscribers, partitions);
    let first: BTreeSet<&Str> =
        subscribers.first().map(|member| member.topics.iter().collect()).unwrap_or_default();
    let is_equal = |member: &Subscriber| member.topics.iter().collect::<BTreeSet<_>>() == first;
    let mut assigned = match subscribers.iter().all(is_equal) {
        true => assign_equal(subscribers, partitions, &owned),
        false => assign_mixed(subscribers, partitions, &owned),
    };
    withhold_moving(subscribers, &owned, &mut assigned);
    assigned
}

/// What members own, as far as they may claim it.
struct Owned {
    by_member: BTreeMap<Str, BTreeSet<TopicPartition>>,
    /// Claimed by several in one generation: nobody's.
    disputed: BTreeSet<TopicPartition>,
}

impl Owned {
    fn of(subscribers: &[Subscriber], partitions: &BTreeMap<Str, u32>) -> Self {
        let mut claims: BTreeMap<TopicPartition, (i32, Str)> = BTreeMap::new();
        let mut disputed = BTreeSet::new();
        for member in subscribers {
            for partition in &member.owned {
                let is_there = partitions
                    .get(&partition.topic)
                    .is_some_and(|&count| (0..count as i32).contains(&partition.partition.0));
                if !is_there || !member.topics.contains(&partition.topic) {
                    continue;
                }
                let claim = (member.generation, member.member_id.clone());
                match claims.get(partition).map(|(generation, _)| *generation) {
                    Some(generation) if generation > member.generation => {}
                    Some(generation) if generation == member.generation => {
                        disputed.insert(partition.clone());
                    }
                    _ => {
                        disputed.remove(partition);
                        claims.insert(partition.clone(), claim);
                    }
                }
            }
        }
        let mut by_member: BTreeMap<Str, BTreeSet<TopicPartition>> = BTreeMap::new();
        for (partition, (_, member)) in claims {
            if !disputed.contains(&partition) {
                by_member.entry(member).or_default().insert(partition);
            }
        }
        Self { by_member, disputed }
    }

    /// In the order in which they are kept: by partition first, so that a member keeps some of each topic.
    fn by(&self, member: &Str) -> Vec<TopicPartition> {
        let mut owned: Vec<_> = self.by_member.get(member).into_iter().flatten().cloned().collect();
        owned.sort_by(|a, b| (a.partition, &a.topic).cmp(&(b.partition, &b.topic)));
        owned
    }
}

/// All members subscribe to the same topics.
fn assign_equal(subscribers: &[Subscriber], partitions: &BTreeMap<Str, u32>, owned: &Owned) -> Shares {
    let mut assigned = nothing(subscribers);
    let subscribed = subscribers.first().map(|member| &member.topics[..]).unwrap_or_default();
    let all: Vec<_> = partitions
        .iter()
        .filter(|(topic, _)| subscribed.contains(topic))
        .flat_map(|(topic, &count)| all_of(topic, count))
        .collect();
    let members = assigned.len();
    if members == 0 {
        return assigned;
    }
    let (quota, larger) = (all.len() / members, all.len() % members);
    let quota_max = quota + usize::from(larger > 0);
    // How many have the larger share already, who may still get one, and who has too few.
    let mut with_more = 0;
    let (mut below, mut at_quota) = (Vec::new(), Vec::new());
    let mut taken = BTreeSet::new();
    for (member, share) in &mut assigned {
        let owns = owned.by(member);
        let keeps = if owns.len() < quota {
            below.push(member.clone());
            owns.len()
        } else if owns.len() >= quota_max && with_more < larger {
            with_more += 1;
            if with_more == larger {
                at_quota.clear();
            }
            quota_max
        } else {
            if with_more < larger {
                at_quota.push(member.clone());
            }
            quota
        };
        share.extend(owns.into_iter().take(keeps));
        taken.extend(share.iter().cloned());
    }
    let mut below = VecDeque::from(below);
    let mut at_quota = VecDeque::from(at_quota);
    for partition in all.into_iter().filter(|partition| !taken.contains(partition)) {
        let Some(member) = below.pop_front().or_else(|| at_quota.pop_front()) else { break };
        let share = assigned.entry(member.clone()).or_default();
        share.push(partition);
        match share.len() {
            count if count < quota => below.push_back(member),
            count if count == quota => at_quota.push_back(member),
            _ => {}
        }
    }
    assigned
}

/// Members subscribe to different topics.
fn assign_mixed(subscribers: &[Subscriber], partitions: &BTreeMap<Str, u32>, owned: &Owned) -> Shares {
    let mut assigned = nothing(subscribers);
    for (member, share) in &mut assigned {
        share.extend(owned.by(member));
    }
    let may_have = |topic: &Str| -> Vec<&Str> {
        let readers = subscribers.iter().filter(|member| member.topics.contains(topic));
        let mut readers: Vec<_> = readers.map(|member| &member.member_id).collect();
        readers.sort();
        readers
    };
    let taken: BTreeSet<_> = assigned.values().flatten().cloned().collect();
    // Topics that few read first: there is least choice.
    let mut topics: Vec<_> = partitions.keys().map(|topic| (may_have(topic), topic)).collect();
    topics.sort_by_key(|(readers, topic)| (readers.len(), (*topic).clone()));
    for (readers, topic) in &topics {
        for partition in all_of(topic, partitions[*topic]).filter(|partition| !taken.contains(partition)) {
            if let Some(member) = readers.iter().min_by_key(|member| (assigned[**member].len(), **member)) {
                assigned.entry((*member).clone()).or_default().push(partition);
            }
        }
    }
    // Each move brings two shares closer to each other, so that there is a last one.
    while let Some((partition, from, to)) = next_move(&assigned, &topics) {
        assigned.entry(from).or_default().retain(|kept| *kept != partition);
        assigned.entry(to).or_default().push(partition);
    }
    assigned
}

/// A partition whose owner has two or more partitions more than somebody else who may have it.
fn next_move(assigned: &Shares, topics: &[(Vec<&Str>, &Str)]) -> Option<(TopicPartition, Str, Str)> {
    let mut by_size: Vec<_> = assigned.iter().collect();
    by_size.sort_by_key(|(member, share)| (std::cmp::Reverse(share.len()), (*member).clone()));
    for (from, share) in by_size {
        for partition in share.iter().rev() {
            let readers =
                topics.iter().find(|(_, topic)| **topic == partition.topic).map(|(readers, _)| readers)?;
            let least = readers.iter().min_by_key(|member| (assigned[**member].len(), **member))?;
            if assigned[*least].len() + 1 < share.len() {
                return Some((partition.clone(), from.clone(), (*least).clone()));
            }
        }
    }
    None
}

/// What somebody else still reads is not given out yet, and what several claim to read to none of them.
fn withhold_moving(subscribers: &[Subscriber], owned: &Owned, assigned: &mut Shares) {
    let mut readers: BTreeMap<&TopicPartition, Vec<&Str>> = BTreeMap::new();
    for member in subscribers {
        for partition in &member.owned {
            readers.entry(partition).or_default().push(&member.member_id);
        }
    }
    for (member, share) in assigned {
        let is_free = |partition: &TopicPartition| {
            readers.get(partition).is_none_or(|readers| readers.contains(&member))
                && !owned.disputed.contains(partition)
        };
        share.retain(is_free);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::{Expect, expect};
    use wire::{PartitionId, Str, TopicPartition};

    use super::assign_sticky;
    use crate::consumer::assignor::Subscriber;

    /// Members as `name topics owned generation`, rounds until nobody has to give anything up; each shows what is assigned.
    fn check(members: &[(&str, &str, &str, i32)], topics: &[(&str, u32)], expected: Expect) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let partition = |text: &String| {
            let (topic, partition) = text.rsplit_once('-').unwrap();
            TopicPartition::new(topic.to_owned(), PartitionId(partition.parse().unwrap()))
        };
        let mut subscribers: Vec<_> = members
            .iter()
            .map(|(name, topics, owned, generation)| Subscriber {
                member_id: Str::copy_from(name),
                instance_id: None,
                topics: words(topics).into_iter().map(Str::from).collect(),
                owned: words(owned).iter().map(partition).collect(),
                generation: *generation,
            })
            .collect();
        let topics: BTreeMap<_, _> =
            topics.iter().map(|(name, count)| (Str::copy_from(name), *count)).collect();
        let mut shown = String::new();
        loop {
            let assigned = assign_sticky(&subscribers, &topics);
            for (member, share) in &assigned {
                let share: Vec<_> = share.iter().map(ToString::to_string).collect();
                shown += &format!("{member}: {}\n", share.join(" "));
            }
            let mut gives_up = false;
            for member in &mut subscribers {
                let share = assigned[&member.member_id].clone();
                gives_up |= member.owned.iter().any(|owned| !share.contains(owned));
                (member.owned, member.generation) = (share, member.generation + 1);
            }
            if !gives_up {
                break;
            }
            shown += "then\n";
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn at_first_partitions_are_dealt_out_in_turn() {
        // As in Kafka's tests of its assignor.
        check(
            &[("c1", "t1 t2", "", -1), ("c2", "t1 t2", "", -1)],
            &[("t1", 3), ("t2", 3)],
            expect![[r#"
                c1: t1-0 t1-2 t2-1
                c2: t1-1 t2-0 t2-2
            "#]],
        );
        check(&[("c", "t", "", -1)], &[], expect![["c: \n"]]);
    }

    #[test]
    fn a_newcomer_waits_for_what_the_others_give_up() {
        check(
            &[("c1", "t", "t-0 t-1 t-2", 1), ("c2", "t", "", -1)],
            &[("t", 3)],
            expect![[r#"
                c1: t-0 t-1
                c2: 
                then
                c1: t-0 t-1
                c2: t-2
            "#]],
        );
    }

    #[test]
    fn who_stays_keeps_what_they_have() {
        check(
            &[("c1", "t", "t-0 t-3", 4), ("c3", "t", "t-2 t-5", 4)],
            &[("t", 6)],
            expect![[r#"
                c1: t-0 t-3 t-1
                c3: t-2 t-5 t-4
            "#]],
        );
    }

    #[test]
    fn of_two_claims_the_newer_counts_and_of_equal_ones_none() {
        check(
            &[("c1", "t", "t-0 t-1", 3), ("c2", "t", "t-0", 2)],
            &[("t", 2)],
            expect![[r#"
                c1: t-0
                c2: 
                then
                c1: t-0
                c2: t-1
            "#]],
        );
    }

    #[test]
    fn mixed_subscriptions_come_out_as_even_as_they_can() {
        check(
            &[("c1", "t1", "", -1), ("c2", "t1 t2", "", -1), ("c3", "t1 t2 t3", "t1-0 t2-0 t2-1 t3-0", 1)],
            &[("t1", 1), ("t2", 2), ("t3", 3)],
            expect![[r#"
                c1: 
                c2: 
                c3: t3-0 t3-1 t3-2
                then
                c1: t1-0
                c2: t2-0 t2-1
                c3: t3-0 t3-1 t3-2
            "#]],
        );
    }
}
