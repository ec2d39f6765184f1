//! Who is to read which partition: the two ways of Kafka's coordinator.
//!
//! Every partition of a topic that somebody reads goes to exactly one member that reads it. The same members, topics and
//! assignment before give the same assignment, whichever broker computes it.

use std::collections::{BTreeMap, BTreeSet};

use wire::{PartitionId, Str, Uuid};

use super::TopicIdPartition;
use crate::metadata::{Image, Topic};

/// A way to assign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    /// Every member gets as many partitions as the others, as far as what they read allows it, and keeps what it has.
    Uniform,
    /// Each topic's partitions in contiguous ranges, so that who reads two topics gets the same partitions of both.
    Range,
}

impl Assignor {
    /// All there are, Kafka's default first.
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    /// Its name in Kafka.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Assignor> {
        Assignor::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// What each subscriber is to have, in the subscribers' order.
    pub(super) fn assign(
        self,
        subscribers: &[Subscriber<'_>],
        topics: &BTreeMap<Uuid, TopicShape>,
    ) -> Vec<BTreeSet<TopicIdPartition>> {
        match self {
            Assignor::Uniform => Balance::new(subscribers, topics).into_assignment(),
            Assignor::Range => range(subscribers, topics),
        }
    }
}

/// A member, as an assignor sees it.
#[derive(Debug)]
pub(in crate::group) struct Subscriber<'a> {
    pub(in crate::group) id: &'a Str,
    pub(in crate::group) instance_id: Option<&'a Str>,
    pub(in crate::group) rack_id: Option<&'a Str>,
    pub(in crate::group) topics: BTreeSet<Uuid>,
    /// What it was to have before.
    pub(in crate::group) before: &'a BTreeSet<TopicIdPartition>,
}

/// A topic, as an assignor sees it.
#[derive(Debug)]
pub(in crate::group) struct TopicShape {
    pub(in crate::group) partitions: i32,
    /// By partition, the racks that have a replica; empty where nobody asked.
    pub(in crate::group) racks: Vec<BTreeSet<Str>>,
}

impl TopicShape {
    pub(in crate::group) fn of(topic: &Topic, image: &Image, by_rack: bool) -> TopicShape {
        let partitions = i32::try_from(topic.partition_count()).unwrap_or(i32::MAX);
        let rack_of = |id| image.broker(id).and_then(|broker| broker.rack.clone());
        let racks = topic
            .partitions()
            .filter(|_| by_rack)
            .map(|(_, partition)| partition.replicas.iter().filter_map(|id| rack_of(*id)).collect());
        TopicShape { partitions, racks: racks.collect() }
    }

    fn ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partitions).map(PartitionId)
    }

    fn is_in_rack(&self, partition: PartitionId, rack: Option<&Str>) -> bool {
        let racks = usize::try_from(partition.0).ok().and_then(|index| self.racks.get(index));
        racks.is_some_and(|racks| rack.is_some_and(|rack| racks.contains(rack)))
    }
}

/// Static members come first, by instance id, so that they keep their ranges when their member ids change.
fn range(
    subscribers: &[Subscriber<'_>],
    topics: &BTreeMap<Uuid, TopicShape>,
) -> Vec<BTreeSet<TopicIdPartition>> {
    let mut order: Vec<usize> = (0..subscribers.len()).collect();
    order.sort_by_key(|index| {
        let subscriber = &subscribers[*index];
        (subscriber.instance_id.is_none(), subscriber.instance_id, subscriber.id)
    });
    let mut assigned = vec![BTreeSet::new(); subscribers.len()];
    for (topic, shape) in topics {
        let readers: Vec<usize> =
            order.iter().copied().filter(|index| subscribers[*index].topics.contains(topic)).collect();
        let mut ids = shape.ids();
        for (place, reader) in readers.iter().enumerate() {
            let (each, more) =
                (shape.partitions as usize / readers.len(), shape.partitions as usize % readers.len());
            let count = each + usize::from(place < more);
            assigned[*reader].extend(ids.by_ref().take(count).map(|id| (*topic, id)));
        }
    }
    assigned
}

/// The uniform assignment on its way: what was there before, then what nobody has to whoever has least, then moves from who has
/// most to who has least, until none makes it more even.
struct Balance<'a> {
    subscribers: &'a [Subscriber<'a>],
    topics: &'a BTreeMap<Uuid, TopicShape>,
    /// By topic, who reads it.
    readers: BTreeMap<Uuid, Vec<usize>>,
    assigned: Vec<BTreeSet<TopicIdPartition>>,
}

impl<'a> Balance<'a> {
    fn new(subscribers: &'a [Subscriber<'a>], topics: &'a BTreeMap<Uuid, TopicShape>) -> Self {
        let readers = topics.keys().map(|topic| {
            let readers = subscribers.iter().enumerate().filter(|(_, s)| s.topics.contains(topic));
            (*topic, readers.map(|(index, _)| index).collect())
        });
        let readers = readers.collect();
        Balance { subscribers, topics, readers, assigned: vec![BTreeSet::new(); subscribers.len()] }
    }

    fn into_assignment(mut self) -> Vec<BTreeSet<TopicIdPartition>> {
        let left = self.keep();
        self.hand_out(left);
        while self.even_out() {}
        self.assigned
    }

    /// Everybody keeps what it had and still reads. Returns what nobody has.
    fn keep(&mut self) -> Vec<TopicIdPartition> {
        let mut taken = BTreeSet::new();
        for (subscriber, assigned) in self.subscribers.iter().zip(&mut self.assigned) {
            let exists = |(topic, id): &&TopicIdPartition| {
                subscriber.topics.contains(topic)
                    && self.topics.get(topic).is_some_and(|shape| (0..shape.partitions).contains(&id.0))
            };
            assigned.extend(
                subscriber.before.iter().filter(exists).filter(|partition| taken.insert(**partition)),
            );
        }
        // A topic that few read comes first, as long as these few have room.
        let mut topics: Vec<&Uuid> = self.topics.keys().collect();
        topics.sort_by_key(|topic| (self.readers[*topic].len(), **topic));
        let all = topics.into_iter().flat_map(|topic| self.topics[topic].ids().map(move |id| (*topic, id)));
        all.filter(|partition| !taken.contains(partition)).collect()
    }

    /// Each to the reader with the fewest, and among those to one in a rack that has the partition.
    fn hand_out(&mut self, left: Vec<TopicIdPartition>) {
        for chunk in left.chunk_by(|a, b| a.0 == b.0) {
            let topic = chunk[0].0;
            let shape = &self.topics[&topic];
            let by_rack = !shape.racks.is_empty();
            let mut loads: BTreeSet<(usize, usize)> =
                self.readers[&topic].iter().map(|reader| (self.assigned[*reader].len(), *reader)).collect();
            for partition in chunk {
                let Some(&(fewest, first)) = loads.first() else { break };
                let mut least = loads.range((fewest, 0)..=(fewest, usize::MAX));
                let is_near = |reader: usize| shape.is_in_rack(partition.1, self.subscribers[reader].rack_id);
                let near = if by_rack { least.find(|(_, reader)| is_near(*reader)) } else { None };
                let reader = near.map_or(first, |(_, reader)| *reader);
                loads.remove(&(fewest, reader));
                loads.insert((fewest + 1, reader));
                self.assigned[reader].insert(*partition);
            }
        }
    }

    /// Moves partitions of each topic from its readers with the most to those with the fewest. Whether any was moved: then it
    /// may help elsewhere. Every move brings two loads closer together, so that it ends.
    fn even_out(&mut self) -> bool {
        let mut has_moved = false;
        for (topic, readers) in &self.readers {
            let mut loads: BTreeSet<(usize, usize)> =
                readers.iter().map(|reader| (self.assigned[*reader].len(), *reader)).collect();
            while let Some(&(fewest, to)) = loads.first() {
                let of_topic = (*topic, PartitionId(0))..=(*topic, PartitionId(i32::MAX));
                let givers = loads.iter().rev().take_while(|(load, _)| *load > fewest + 1);
                let given = givers.copied().find_map(|(load, from)| {
                    // The last is the one that came last where partitions were handed out in order.
                    let partition = self.assigned[from].range(of_topic.clone()).next_back().copied()?;
                    Some((load, from, partition))
                });
                let Some((load, from, partition)) = given else { break };
                self.assigned[from].remove(&partition);
                self.assigned[to].insert(partition);
                for (load, reader) in [(load, from), (fewest, to)] {
                    loads.remove(&(load, reader));
                }
                loads.insert((load - 1, from));
                loads.insert((fewest + 1, to));
                has_moved = true;
            }
        }
        has_moved
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    struct Member {
        id: Str,
        instance_id: Option<Str>,
        rack_id: Option<Str>,
        topics: BTreeSet<Uuid>,
        before: BTreeSet<TopicIdPartition>,
    }

    fn topic_id(name: &str) -> Uuid {
        Uuid::from_u128(u128::from(name.as_bytes()[0]))
    }

    fn topics(text: &str) -> BTreeMap<Uuid, TopicShape> {
        let topics = text.split_whitespace().map(|topic| {
            let mut parts = topic.split(':');
            let id = topic_id(parts.next().unwrap());
            let partitions = parts.next().unwrap().parse().unwrap();
            let racks = parts
                .next()
                .map(|racks| racks.split(',').map(|rack| BTreeSet::from([Str::copy_from(rack)])).collect());
            (id, TopicShape { partitions, racks: racks.unwrap_or_default() })
        });
        topics.collect()
    }

    /// `m1 ab instance=i1 rack=r1`: a member that reads the topics a and b.
    fn members(text: &str) -> Vec<Member> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let members = lines.map(|line| {
            let mut words = line.split_whitespace();
            let id = Str::copy_from(words.next().unwrap());
            let topics =
                words.next().unwrap().split("").filter(|name| !name.is_empty()).map(topic_id).collect();
            let options: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
            let option = |name| options.get(name).map(|value| Str::copy_from(value));
            Member {
                id,
                instance_id: option("instance"),
                rack_id: option("rack"),
                topics,
                before: BTreeSet::new(),
            }
        });
        members.collect()
    }

    fn assign(
        assignor: Assignor,
        members: &mut [Member],
        topics: &BTreeMap<Uuid, TopicShape>,
    ) -> Vec<BTreeSet<TopicIdPartition>> {
        let subscribers: Vec<Subscriber<'_>> = members
            .iter()
            .map(|member| Subscriber {
                id: &member.id,
                instance_id: member.instance_id.as_ref(),
                rack_id: member.rack_id.as_ref(),
                topics: member.topics.clone(),
                before: &member.before,
            })
            .collect();
        let assigned = assignor.assign(&subscribers, topics);
        for (member, assigned) in members.iter_mut().zip(&assigned) {
            member.before = assigned.clone();
        }
        assigned
    }

    /// Assigns to more and fewer members in turn, each time from what was before.
    fn check(assignor: Assignor, topic_text: &str, rounds: &[&str], expected: Expect) {
        let topics = topics(topic_text);
        let mut before: BTreeMap<Str, BTreeSet<TopicIdPartition>> = BTreeMap::new();
        let mut told = String::new();
        for round in rounds {
            let mut members = members(round);
            for member in &mut members {
                member.before = before.get(&member.id).cloned().unwrap_or_default();
            }
            let assigned = assign(assignor, &mut members, &topics);
            for (member, partitions) in members.iter().zip(&assigned) {
                write!(told, "{}:", member.id.as_str()).unwrap();
                for (topic, id) in partitions {
                    write!(told, " {}{}", char::from(topic.0[15]), id.0).unwrap();
                }
                told.push('\n');
            }
            told.push('\n');
            before = members.into_iter().map(|member| (member.id, member.before)).collect();
        }
        expected.assert_eq(&told);
    }

    #[test]
    fn uniform_keeps_what_it_can_and_evens_out() {
        check(
            Assignor::Uniform,
            "a:3 b:3",
            &["m1 ab", "m1 ab\nm2 ab", "m1 ab\nm2 ab\nm3 ab\nm4 ab", "m2 ab\nm4 ab"],
            expect![[r#"
                m1: a0 a1 a2 b0 b1 b2

                m1: b0 b1 b2
                m2: a0 a1 a2

                m1: b0 b1
                m2: a0 b2
                m3: a2
                m4: a1

                m2: a0 b0 b2
                m4: a1 a2 b1

            "#]],
        );
    }

    #[test]
    fn uniform_gives_those_who_read_little_what_they_read() {
        check(
            Assignor::Uniform,
            "a:4 b:2",
            &["m1 ab\nm2 a", "m1 b\nm2 a\nm3 ab"],
            expect![[r#"
            m1: a2 b0 b1
            m2: a0 a1 a3

            m1: b0 b1
            m2: a0 a1
            m3: a2 a3

        "#]],
        );
    }

    #[test]
    fn uniform_prefers_a_member_in_a_rack_that_has_the_partition() {
        check(
            Assignor::Uniform,
            "a:4:y,x,y,x",
            &["m1 a rack=x\nm2 a rack=y"],
            expect![[r#"
            m1: a1 a3
            m2: a0 a2

        "#]],
        );
    }

    #[test]
    fn ranges_are_the_same_for_every_topic_and_static_members_come_first() {
        check(
            Assignor::Range,
            "a:5 b:5",
            &["m1 ab\nm2 ab", "m1 ab\nm2 ab instance=i2\nm3 a"],
            expect![[r#"
            m1: a0 a1 a2 b0 b1 b2
            m2: a3 a4 b3 b4

            m1: a2 a3 b3 b4
            m2: a0 a1 b0 b1 b2
            m3: a4

        "#]],
        );
    }

    proptest! {
        #[test]
        fn every_partition_goes_to_one_reader_and_uniform_is_even_and_stable(
            partitions in prop::collection::vec(0..20i32, 1..4),
            subscriptions in prop::collection::vec(1..8u8, 1..7),
            leaving in 0..7usize,
        ) {
            let names = ["a", "b", "c"];
            let topics: BTreeMap<Uuid, TopicShape> = partitions
                .iter()
                .zip(names)
                .map(|(count, name)| (topic_id(name), TopicShape { partitions: *count, racks: Vec::new() }))
                .collect();
            let mut members: Vec<Member> = subscriptions
                .iter()
                .enumerate()
                .map(|(index, bits)| Member {
                    id: Str::from(format!("m{index}")),
                    instance_id: None,
                    rack_id: None,
                    topics: (0..3).filter(|bit| bits & (1 << bit) != 0).map(|bit| topic_id(names[bit])).collect(),
                    before: BTreeSet::new(),
                })
                .collect();
            for assignor in [Assignor::Range, Assignor::Uniform] {
                let assigned = assign(assignor, &mut members, &topics);
                check_complete(&members, &topics, &assigned);
            }
            check_even(&members);
            // The same again: nothing moves.
            let before: Vec<_> = members.iter().map(|member| member.before.clone()).collect();
            prop_assert_eq!(&assign(Assignor::Uniform, &mut members, &topics), &before);
            // One leaves: what the others have grows or stays, unless they read different topics.
            let is_alike = members.iter().all(|member| member.topics == members[0].topics);
            members.remove(leaving % members.len());
            let before: Vec<_> = members.iter().map(|member| member.before.clone()).collect();
            let assigned = assign(Assignor::Uniform, &mut members, &topics);
            check_complete(&members, &topics, &assigned);
            check_even(&members);
            if is_alike {
                for (before, after) in before.iter().zip(&assigned) {
                    prop_assert!(before.is_subset(after));
                }
            }
        }
    }

    fn check_complete(
        members: &[Member],
        topics: &BTreeMap<Uuid, TopicShape>,
        assigned: &[BTreeSet<TopicIdPartition>],
    ) {
        let mut owners: BTreeMap<TopicIdPartition, usize> = BTreeMap::new();
        for (index, partitions) in assigned.iter().enumerate() {
            for partition in partitions {
                assert!(members[index].topics.contains(&partition.0), "it reads the topic");
                assert_eq!(owners.insert(*partition, index), None, "one owner");
            }
        }
        for (topic, shape) in topics {
            let is_read = members.iter().any(|member| member.topics.contains(topic));
            for id in shape.ids() {
                assert_eq!(owners.contains_key(&(*topic, id)), is_read);
            }
        }
    }

    /// Nobody has two more than a member that could take one of them.
    fn check_even(members: &[Member]) {
        for from in members {
            for to in members {
                let can_take = from.before.iter().any(|(topic, _)| to.topics.contains(topic));
                assert!(!can_take || from.before.len() <= to.before.len() + 1);
            }
        }
    }
}
