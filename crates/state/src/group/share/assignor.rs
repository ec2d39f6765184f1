//! Who reads what: every partition has a reader, every member something to read, and as evenly as that goes. Where there are more
//! members than partitions, some read the same.

use std::collections::{BTreeMap, BTreeSet};

use wire::{Str, Uuid};

use super::Partitions;

/// Gives the partitions to the members that subscribe to their topics.
pub(super) fn assign(
    partitions: &Partitions,
    subscriptions: &BTreeMap<&Str, BTreeSet<Uuid>>,
) -> BTreeMap<Str, Partitions> {
    let mut targets: BTreeMap<Str, Partitions> =
        subscriptions.keys().map(|member| ((*member).clone(), Partitions::new())).collect();
    // Where the next topic goes on with those who read it.
    let mut turn = 0;
    for (topic, indexes) in partitions {
        let readers: Vec<&Str> = subscriptions
            .iter()
            .filter(|(_, topics)| topics.contains(topic))
            .map(|(member, _)| *member)
            .collect();
        if readers.is_empty() || indexes.is_empty() {
            continue;
        }
        let indexes: Vec<i32> = indexes.iter().copied().collect();
        let mut give = |reader: usize, index: i32| {
            let target = targets.get_mut(readers[reader % readers.len()]).expect("readers are members");
            target.entry(*topic).or_default().insert(index);
        };
        for at in 0..indexes.len().max(readers.len()) {
            give(turn + at, indexes[at % indexes.len()]);
        }
        turn += indexes.len() % readers.len();
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(partitions: &[(u8, i32)], members: &[(&'static str, &[u8])]) -> Vec<String> {
        let topic = |number: u8| Uuid([number; 16]);
        let partitions: Partitions =
            partitions.iter().map(|(number, count)| (topic(*number), (0..*count).collect())).collect();
        let names: Vec<(Str, BTreeSet<Uuid>)> = members
            .iter()
            .map(|(name, topics)| (Str::from(*name), topics.iter().map(|number| topic(*number)).collect()))
            .collect();
        let subscriptions = names.iter().map(|(name, topics)| (name, topics.clone())).collect();
        let told = assign(&partitions, &subscriptions).into_iter().map(|(member, target)| {
            let topics = target.iter().map(|(id, indexes)| format!("{}:{indexes:?}", id.0[0]));
            format!("{member} {}", topics.collect::<Vec<_>>().join(" "))
        });
        told.collect()
    }

    #[test]
    fn partitions_are_spread_over_members() {
        assert_eq!(assigned(&[(1, 3)], &[("a", &[1]), ("b", &[1])]), ["a 1:{0, 2}", "b 1:{1}"]);
        assert_eq!(
            assigned(&[(1, 1), (2, 1)], &[("a", &[1, 2]), ("b", &[1, 2])]),
            ["a 1:{0} 2:{0}", "b 1:{0} 2:{0}"]
        );
    }

    #[test]
    fn members_read_the_same_where_there_are_too_few_partitions() {
        assert_eq!(
            assigned(&[(1, 2)], &[("a", &[1]), ("b", &[1]), ("c", &[1])]),
            ["a 1:{0}", "b 1:{1}", "c 1:{0}"]
        );
    }

    #[test]
    fn nobody_gets_what_it_does_not_subscribe_to() {
        assert_eq!(
            assigned(&[(1, 1), (2, 2)], &[("a", &[1]), ("b", &[2]), ("c", &[3])]),
            ["a 1:{0}", "b 2:{0, 1}", "c "]
        );
    }
}
