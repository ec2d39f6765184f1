//! Who of a group reads what, as Kafka's own assignors say it, so that members of other clients may lead or follow.
//!
//! Pure. `range` gives each topic's subscribers, in the order of their names, consecutive partitions, the first ones one
//! more when it does not come out even: records of one key in two equal topics meet in one member. `roundrobin`
//! deals all partitions out in turn. `cooperative-sticky` is in `sticky.rs`.

use std::collections::BTreeMap;

use wire::{PartitionId, Str, TopicPartition};

use super::sticky::assign_sticky;
use crate::options::AssignmentStrategy;

/// Each member's partitions; members that get none are there as well.
pub(super) type Shares = BTreeMap<Str, Vec<TopicPartition>>;

/// What the strategy makes of it.
pub(super) fn assign(
    strategy: AssignmentStrategy,
    subscribers: &[Subscriber],
    partitions: &BTreeMap<Str, u32>,
) -> Shares {
    match strategy {
        AssignmentStrategy::Range => assign_ranges(subscribers, partitions),
        AssignmentStrategy::RoundRobin => assign_in_turn(subscribers, partitions),
        AssignmentStrategy::CooperativeSticky => assign_sticky(subscribers, partitions),
    }
}

/// A member that asks for partitions.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    pub(super) member_id: Str,
    /// A static member keeps its place by this name.
    pub(super) instance_id: Option<Str>,
    pub(super) topics: Vec<Str>,
    /// What it reads now.
    pub(super) owned: Vec<TopicPartition>,
    /// Of the assignment that gave it that; -1 if it does not say.
    pub(super) generation: i32,
}

impl Subscriber {
    /// Static members first, by their names; then the others, by the ids the coordinator gave them.
    fn rank(&self) -> impl Ord {
        (self.instance_id.is_none(), self.instance_id.clone(), self.member_id.clone())
    }
}

pub(super) fn nothing(subscribers: &[Subscriber]) -> Shares {
    subscribers.iter().map(|subscriber| (subscriber.member_id.clone(), Vec::new())).collect()
}

/// All partitions of a topic.
pub(super) fn all_of(topic: &Str, partitions: u32) -> impl Iterator<Item = TopicPartition> {
    (0..partitions).map(|partition| TopicPartition::new(topic.clone(), PartitionId(partition as i32)))
}

fn assign_in_turn(subscribers: &[Subscriber], partitions: &BTreeMap<Str, u32>) -> Shares {
    let mut assigned = nothing(subscribers);
    let mut members: Vec<_> = subscribers.iter().collect();
    members.sort_by_key(|member| member.rank());
    let mut turn = 0;
    for (topic, &count) in partitions {
        if !members.iter().any(|member| member.topics.contains(topic)) {
            continue;
        }
        for partition in all_of(topic, count) {
            while !members[turn % members.len()].topics.contains(topic) {
                turn += 1;
            }
            let member = &members[turn % members.len()].member_id;
            assigned.entry(member.clone()).or_default().push(partition);
            turn += 1;
        }
    }
    assigned
}

fn assign_ranges(subscribers: &[Subscriber], partitions: &BTreeMap<Str, u32>) -> Shares {
    let mut assigned = nothing(subscribers);
    for (topic, &partitions) in partitions {
        let mut members: Vec<_> =
            subscribers.iter().filter(|subscriber| subscriber.topics.contains(topic)).collect();
        members.sort_by_key(|member| member.rank());
        let Some(count) = u32::try_from(members.len()).ok().filter(|&count| count > 0) else { continue };
        let (each, larger) = (partitions / count, partitions % count);
        let mut next = 0;
        for (index, member) in members.into_iter().enumerate() {
            let share = each + u32::from((index as u32) < larger);
            let range = (next..next + share)
                .map(|partition| TopicPartition::new(topic.clone(), PartitionId(partition as i32)));
            assigned.entry(member.member_id.clone()).or_default().extend(range);
            next += share;
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::{Expect, expect};
    use wire::Str;

    use super::{Subscriber, assign};
    use crate::options::AssignmentStrategy;

    type Member<'a> = (&'a str, Option<&'a str>, &'a [&'a str]);

    fn check(members: &[Member], topics: &[(&str, u32)], expected: Expect) {
        check_with(AssignmentStrategy::Range, members, topics, expected);
    }

    fn check_with(
        strategy: AssignmentStrategy,
        members: &[Member],
        topics: &[(&str, u32)],
        expected: Expect,
    ) {
        let subscribers: Vec<_> = members
            .iter()
            .map(|(member, instance, topics)| Subscriber {
                member_id: Str::copy_from(member),
                instance_id: instance.map(Str::copy_from),
                topics: topics.iter().map(|topic| Str::copy_from(topic)).collect(),
                owned: Vec::new(),
                generation: -1,
            })
            .collect();
        let topics: BTreeMap<_, _> =
            topics.iter().map(|(topic, partitions)| (Str::copy_from(topic), *partitions)).collect();
        let mut shown = String::new();
        for (member, partitions) in assign(strategy, &subscribers, &topics) {
            let partitions: Vec<_> = partitions.iter().map(ToString::to_string).collect();
            shown += &format!("{member}: {}\n", partitions.join(" "));
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn the_first_members_get_one_more_when_it_does_not_come_out_even() {
        check(
            &[("b", None, &["t"]), ("a", None, &["t"])],
            &[("t", 3)],
            expect![[r#"
            a: t-0 t-1
            b: t-2
        "#]],
        );
        check(
            &[("a", None, &["t"]), ("b", None, &["t"])],
            &[("t", 1)],
            expect![[r#"
            a: t-0
            b: 
        "#]],
        );
    }

    #[test]
    fn each_topic_is_shared_among_its_own_subscribers() {
        check(
            &[("a", None, &["t", "u"]), ("b", None, &["u"])],
            &[("t", 2), ("u", 2)],
            expect![[r#"
            a: t-0 t-1 u-0
            b: u-1
        "#]],
        );
    }

    #[test]
    fn a_static_member_keeps_its_place_under_a_new_member_id() {
        check(
            &[("z", Some("i1"), &["t"]), ("a", Some("i2"), &["t"])],
            &[("t", 2)],
            expect![[r#"
            a: t-1
            z: t-0
        "#]],
        );
    }

    #[test]
    fn in_turn_all_topics_are_dealt_out_together() {
        check_with(
            AssignmentStrategy::RoundRobin,
            &[("c1", None, &["t0", "t1"]), ("c0", None, &["t0", "t1"])],
            &[("t0", 3), ("t1", 3)],
            expect![[r#"
                c0: t0-0 t0-2 t1-1
                c1: t0-1 t1-0 t1-2
            "#]],
        );
        // The example of Kafka's documentation of its assignor.
        check_with(
            AssignmentStrategy::RoundRobin,
            &[("c0", None, &["t0"]), ("c1", None, &["t0", "t1"]), ("c2", None, &["t0", "t1", "t2"])],
            &[("t0", 1), ("t1", 2), ("t2", 3)],
            expect![[r#"
                c0: t0-0
                c1: t1-0
                c2: t1-1 t2-0 t2-1 t2-2
            "#]],
        );
    }
}
