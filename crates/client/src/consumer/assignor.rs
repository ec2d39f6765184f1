//! Who of a group reads what: Kafka's range assignor.
//!
//! Pure. For each topic, its subscribers in the order of their names get consecutive partitions, the first ones
//! one more when it does not come out even. So equal topics are split equally, and records of one key in two
//! topics meet in one member.

use std::collections::BTreeMap;

use wire::{PartitionId, Str, TopicPartition};

/// A member that asks for partitions.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    pub(super) member_id: Str,
    /// A static member keeps its place by this name.
    pub(super) instance_id: Option<Str>,
    pub(super) topics: Vec<Str>,
}

/// Each member's partitions; members that get none are there as well.
pub(super) fn assign_ranges(
    subscribers: &[Subscriber],
    partitions: &BTreeMap<Str, u32>,
) -> BTreeMap<Str, Vec<TopicPartition>> {
    let mut assigned: BTreeMap<Str, Vec<TopicPartition>> =
        subscribers.iter().map(|subscriber| (subscriber.member_id.clone(), Vec::new())).collect();
    for (topic, &partitions) in partitions {
        let mut members: Vec<_> =
            subscribers.iter().filter(|subscriber| subscriber.topics.contains(topic)).collect();
        // Static members first, by their names; then the others, by the ids the coordinator gave them.
        members.sort_by_key(|member| (member.instance_id.is_none(), &member.instance_id, &member.member_id));
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

    use super::{Subscriber, assign_ranges};

    fn check(members: &[(&str, Option<&str>, &[&str])], topics: &[(&str, u32)], expected: Expect) {
        let subscribers: Vec<_> = members
            .iter()
            .map(|(member, instance, topics)| Subscriber {
                member_id: Str::copy_from(member),
                instance_id: instance.map(Str::copy_from),
                topics: topics.iter().map(|topic| Str::copy_from(topic)).collect(),
            })
            .collect();
        let topics: BTreeMap<_, _> =
            topics.iter().map(|(topic, partitions)| (Str::copy_from(topic), *partitions)).collect();
        let mut shown = String::new();
        for (member, partitions) in assign_ranges(&subscribers, &topics) {
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
}
