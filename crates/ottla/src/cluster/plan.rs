//! Which replicas to move so that brokers carry even shares, or so that one of them carries nothing.
//!
//! Pure: placements go in, changes come out. Replicas of a partition stay on distinct brokers, and no move
//! leaves a partition in fewer racks than before; that comes before evenness. Where racks do not stand in the
//! way, shares differ by at most one replica and no plan with fewer moves does that: each move goes from the
//! broker that has most to the one that has least, between which there is always a partition that only the
//! first one has.
//!
//! Preferred leaders are spread by putting other replicas first, which moves no data.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};

use wire::{BrokerId, Str, TopicPartition};

/// A broker, and what it has to do with the plan.
#[derive(Debug, Clone)]
pub(super) struct PlanBroker {
    pub(super) id: BrokerId,
    pub(super) rack: Option<Str>,
    pub(super) part: Part,
}

/// What a broker has to do with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It takes and gives.
    Shares,
    /// It keeps what it has and gets nothing, as it is not counted in.
    Stays,
    /// It gives all that it has.
    Leaves,
}

/// Where a partition is kept, the preferred leader first.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    pub(super) partition: TopicPartition,
    pub(super) replicas: Vec<BrokerId>,
    /// Whether it can be reassigned now.
    pub(super) is_movable: bool,
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Even shares, by moving so many replicas at most.
    Even { moves_max: usize },
    /// Nothing on the brokers that leave; whatever they do not keep stays where it is.
    Vacate,
}

/// What to change, and what brokers carry before and after it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// In the order of the placements.
    pub(super) changes: Vec<Change>,
    /// In the order of the brokers.
    pub(super) shares: Vec<Share>,
}

/// A partition that is to be kept elsewhere, or led by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) partition: TopicPartition,
    pub(super) before: Vec<BrokerId>,
    pub(super) after: Vec<BrokerId>,
}

/// What a broker carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) broker: BrokerId,
    pub(super) before: Load,
    pub(super) after: Load,
}

/// Numbers of partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) replicas: usize,
    /// Those of which it is the preferred leader.
    pub(super) leaders: usize,
}

/// A partition that no broker is left for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoRoom {
    pub(super) partition: TopicPartition,
    pub(super) replicas: usize,
}

impl Change {
    /// Brokers that get the partition.
    pub(super) fn added(&self) -> impl Iterator<Item = BrokerId> {
        self.after.iter().copied().filter(|id| !self.before.contains(id))
    }

    /// Brokers that give it away.
    pub(super) fn removed(&self) -> impl Iterator<Item = BrokerId> {
        self.before.iter().copied().filter(|id| !self.after.contains(id))
    }
}

impl Plan {
    /// How many replicas move.
    pub(super) fn moves(&self) -> usize {
        self.changes.iter().map(|change| change.added().count()).sum()
    }
}

/// Plans. The brokers hold all that keep a movable partition, and only those that share get anything; fails
/// when a partition on a broker that leaves has more replicas than other brokers can take.
pub(super) fn plan(brokers: &[PlanBroker], placements: &[Placement], goal: Goal) -> Result<Plan, NoRoom> {
    let mut draft = Draft::new(brokers, placements, goal);
    let before = draft.loads();
    draft.vacate().map_err(|spot| NoRoom {
        partition: placements[spot].partition.clone(),
        replicas: placements[spot].replicas.len(),
    })?;
    if goal != Goal::Vacate {
        draft.spread_over_racks();
    }
    draft.even_out();
    draft.spread_leaders();
    let after = draft.loads();
    let shares = brokers.iter().zip(before.into_iter().zip(after));
    let shares = shares.map(|(broker, (before, after))| Share { broker: broker.id, before, after });
    Ok(Plan { changes: draft.changes(placements), shares: shares.collect() })
}

/// Placements under change. Brokers, partitions and racks are known by their indexes.
struct Draft<'a> {
    brokers: &'a [PlanBroker],
    goal: Goal,
    /// Racks count only where every broker that shares has one.
    racks: Vec<Option<usize>>,
    racks_shared: usize,
    spots: Vec<Spot>,
    /// What each broker keeps.
    kept: Vec<BTreeSet<usize>>,
    /// Partitions of a topic on a broker.
    topics: HashMap<(usize, usize), usize>,
    /// How many replicas more may move.
    moves_left: usize,
}

struct Spot {
    topic: usize,
    before: Vec<usize>,
    replicas: Vec<usize>,
    is_movable: bool,
}

impl<'a> Draft<'a> {
    fn new(brokers: &'a [PlanBroker], placements: &[Placement], goal: Goal) -> Self {
        let indexes: HashMap<BrokerId, usize> =
            brokers.iter().enumerate().map(|(index, broker)| (broker.id, index)).collect();
        let shares = || brokers.iter().filter(|broker| broker.part == Part::Shares);
        let mut names: Vec<&Str> = Vec::new();
        let counts_racks = shares().all(|broker| broker.rack.is_some());
        let mut rack_of = |broker: &'a PlanBroker| {
            let name = broker.rack.as_ref().filter(|_| counts_racks)?;
            Some(names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            }))
        };
        let racks: Vec<_> = brokers.iter().map(&mut rack_of).collect();
        let racks_shared = shares().filter_map(rack_of).collect::<BTreeSet<_>>().len();
        let mut topics: HashMap<&Str, usize> = HashMap::new();
        let spots = placements.iter().map(|placement| {
            let next = topics.len();
            let replicas: Vec<usize> =
                placement.replicas.iter().filter_map(|id| indexes.get(id).copied()).collect();
            assert!(replicas.len() == placement.replicas.len() || !placement.is_movable);
            Spot {
                topic: *topics.entry(&placement.partition.topic).or_insert(next),
                before: replicas.clone(),
                replicas,
                is_movable: placement.is_movable,
            }
        });
        let spots: Vec<Spot> = spots.collect();
        let mut kept = vec![BTreeSet::new(); brokers.len()];
        let mut counts = HashMap::new();
        for (index, spot) in spots.iter().enumerate() {
            for &broker in &spot.replicas {
                kept[broker].insert(index);
                *counts.entry((spot.topic, broker)).or_default() += 1;
            }
        }
        let moves_left = match goal {
            Goal::Even { moves_max } => moves_max,
            Goal::Vacate => usize::MAX,
        };
        Self { brokers, goal, racks, racks_shared, spots, kept, topics: counts, moves_left }
    }

    fn loads(&self) -> Vec<Load> {
        let leaders = self.leaders();
        let load = |(kept, leaders): (&BTreeSet<usize>, usize)| Load { replicas: kept.len(), leaders };
        self.kept.iter().zip(leaders).map(load).collect()
    }

    fn leaders(&self) -> Vec<usize> {
        let mut leaders = vec![0; self.brokers.len()];
        self.spots.iter().filter_map(|spot| spot.replicas.first()).for_each(|&first| leaders[first] += 1);
        leaders
    }

    fn changes(&self, placements: &[Placement]) -> Vec<Change> {
        let ids = |replicas: &[usize]| replicas.iter().map(|&index| self.brokers[index].id).collect();
        let changed = self.spots.iter().zip(placements).filter(|(spot, _)| spot.before != spot.replicas);
        let change = |(spot, placement): (&Spot, &Placement)| Change {
            partition: placement.partition.clone(),
            before: ids(&spot.before),
            after: ids(&spot.replicas),
        };
        changed.map(change).collect()
    }

    // Moving.

    /// Brokers that share, those with the least first.
    fn sharing(&self) -> Vec<usize> {
        let mut sharing: Vec<usize> =
            (0..self.brokers.len()).filter(|&index| self.brokers[index].part == Part::Shares).collect();
        sharing.sort_by_key(|&index| self.kept[index].len());
        sharing
    }

    /// In how many racks the partition is, with one broker instead of another.
    fn racks_with(&self, spot: usize, from: usize, to: usize) -> usize {
        let brokers =
            self.spots[spot].replicas.iter().map(|&broker| if broker == from { to } else { broker });
        // Few replicas: counting beats a set.
        let mut racks: Vec<_> = brokers.filter_map(|broker| self.racks[broker]).collect();
        racks.sort_unstable();
        racks.dedup();
        racks.len()
    }

    fn racks_of(&self, spot: usize) -> usize {
        self.racks_with(spot, usize::MAX, usize::MAX)
    }

    fn of_topic(&self, spot: usize, broker: usize) -> usize {
        self.topics.get(&(self.spots[spot].topic, broker)).copied().unwrap_or(0)
    }

    /// How many replicas more have to be copied for it: what was planned to move can as well move elsewhere.
    fn cost(&self, spot: usize, from: usize, to: usize) -> isize {
        let before = &self.spots[spot].before;
        isize::from(!before.contains(&to)) - isize::from(!before.contains(&from))
    }

    fn is_affordable(&self, cost: isize) -> bool {
        cost <= 0 || cost.unsigned_abs() <= self.moves_left
    }

    /// Puts one broker in the place of another, at the same rank.
    fn replace(&mut self, spot: usize, from: usize, to: usize) {
        let cost = self.cost(spot, from, to);
        self.moves_left = self.moves_left.saturating_add_signed(-cost);
        let replicas = &mut self.spots[spot].replicas;
        assert!(!replicas.contains(&to));
        let rank = replicas.iter().position(|&broker| broker == from).expect("it keeps the partition");
        replicas[rank] = to;
        self.kept[from].remove(&spot);
        self.kept[to].insert(spot);
        let topic = self.spots[spot].topic;
        *self.topics.entry((topic, from)).or_default() -= 1;
        *self.topics.entry((topic, to)).or_default() += 1;
    }

    /// The partition to move between two brokers, if there is one: the cheapest, then of the topic of which
    /// the one has most more than the other, and rather one that it only follows.
    fn candidate(&self, from: usize, to: usize) -> Option<usize> {
        let may_move = |&spot: &usize| {
            let of = &self.spots[spot];
            let is_open = match self.goal {
                Goal::Even { .. } => of.is_movable,
                Goal::Vacate => of.is_movable && !of.before.contains(&from),
            };
            is_open
                && !of.replicas.contains(&to)
                && self.is_affordable(self.cost(spot, from, to))
                && self.racks_with(spot, from, to) >= self.racks_of(spot)
        };
        self.kept[from].iter().copied().filter(may_move).min_by_key(|&spot| {
            let surplus = self.of_topic(spot, from) as isize - self.of_topic(spot, to) as isize;
            let is_preferred = self.spots[spot].replicas.first() == Some(&from);
            (self.cost(spot, from, to), Reverse(surplus), is_preferred)
        })
    }

    // The steps.

    /// Moves what brokers keep that leave; the error is the partition that cannot be moved.
    fn vacate(&mut self) -> Result<(), usize> {
        for from in (0..self.brokers.len()).filter(|&index| self.brokers[index].part == Part::Leaves) {
            for spot in self.kept[from].clone() {
                if !self.spots[spot].is_movable {
                    continue;
                }
                let free = self.sharing().into_iter().filter(|to| !self.spots[spot].replicas.contains(to));
                let best = free.min_by_key(|&to| {
                    let racks = self.racks_with(spot, from, to);
                    (Reverse(racks), self.kept[to].len(), self.of_topic(spot, to))
                });
                self.replace(spot, from, best.ok_or(spot)?);
            }
        }
        Ok(())
    }

    /// Moves replicas that share a rack to racks in which the partition is not yet.
    fn spread_over_racks(&mut self) {
        for spot in 0..self.spots.len() {
            while self.racks_of(spot) < self.racks_shared.min(self.spots[spot].replicas.len()) {
                let Some((from, to)) = self.rack_move(spot) else { break };
                self.replace(spot, from, to);
            }
        }
    }

    fn rack_move(&self, spot: usize) -> Option<(usize, usize)> {
        let of = &self.spots[spot];
        let sharing = self.sharing();
        let froms = of.replicas.iter().filter(|&&from| self.brokers[from].part == Part::Shares);
        let moves = froms.flat_map(|&from| sharing.iter().map(move |&to| (from, to)));
        moves
            .filter(|&(from, to)| {
                of.is_movable
                    && !of.replicas.contains(&to)
                    && self.is_affordable(self.cost(spot, from, to))
                    && self.racks_with(spot, from, to) > self.racks_of(spot)
            })
            .max_by_key(|&(from, to)| self.kept[from].len() as isize - self.kept[to].len() as isize)
    }

    /// Moves from those who have most to those who have least until they differ by one, or nothing can move.
    fn even_out(&mut self) {
        loop {
            let sharing = self.sharing();
            let differs = |from: usize, to: usize| self.kept[from].len() >= self.kept[to].len() + 2;
            let mut pairs = sharing.iter().rev().flat_map(|&from| sharing.iter().map(move |&to| (from, to)));
            let direct = pairs.find_map(|(from, to)| {
                differs(from, to).then(|| Some((self.candidate(from, to)?, from, to))).flatten()
            });
            if let Some((spot, from, to)) = direct {
                self.replace(spot, from, to);
                continue;
            }
            // Racks can stand between two brokers, and not between each of them and others.
            let edge = |from: usize, to: usize| self.candidate(from, to).is_some();
            let mut paths = sharing.iter().rev().filter_map(|&from| path(&sharing, from, edge, differs));
            let Some(path) = paths.find(|path| path.len() - 1 <= self.moves_left) else { return };
            for step in path.windows(2) {
                // A step may have been the last that allowed the next.
                let Some(spot) = self.candidate(step[0], step[1]) else { return };
                self.replace(spot, step[0], step[1]);
            }
        }
    }

    /// Puts other replicas first until preferred leaders are as even as the placement allows.
    fn spread_leaders(&mut self) {
        loop {
            let leaders = self.leaders();
            let mut sharing = self.sharing();
            sharing.sort_by_key(|&index| leaders[index]);
            let differs = |from: usize, to: usize| leaders[from] >= leaders[to] + 2;
            let hand_overs = self.hand_overs();
            let edge = |from: usize, to: usize| hand_overs.contains_key(&(from, to));
            let found = sharing.iter().rev().find_map(|&from| path(&sharing, from, edge, differs));
            let Some(path) = found else { return };
            for step in path.windows(2) {
                let spot = &mut self.spots[hand_overs[&(step[0], step[1])]];
                let rank = spot.replicas.iter().position(|&broker| broker == step[1]);
                spot.replicas.swap(0, rank.expect("it keeps the partition"));
            }
        }
    }

    /// For each two brokers a partition that the first is to lead and the second could; rather one that
    /// changes anyway.
    fn hand_overs(&self) -> HashMap<(usize, usize), usize> {
        let is_changed = |index: usize| self.spots[index].before != self.spots[index].replicas;
        let mut hand_overs = HashMap::new();
        for (index, spot) in self.spots.iter().enumerate() {
            if !spot.is_movable || (self.goal == Goal::Vacate && !is_changed(index)) {
                continue;
            }
            let Some((&from, others)) = spot.replicas.split_first() else { continue };
            for &to in others {
                let held = hand_overs.entry((from, to)).or_insert(index);
                if !is_changed(*held) && is_changed(index) {
                    *held = index;
                }
            }
        }
        hand_overs
    }
}

/// The shortest way from a broker over edges to one that it differs from.
fn path(
    brokers: &[usize],
    start: usize,
    edge: impl Fn(usize, usize) -> bool,
    differs: impl Fn(usize, usize) -> bool,
) -> Option<Vec<usize>> {
    if !brokers.iter().any(|&broker| differs(start, broker)) {
        return None;
    }
    let mut came_from: HashMap<usize, usize> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for &next in brokers {
            if next == start || came_from.contains_key(&next) || !edge(at, next) {
                continue;
            }
            came_from.insert(next, at);
            if differs(start, next) {
                let mut path = vec![next];
                while let Some(&before) = path.last().and_then(|last| came_from.get(last)) {
                    path.push(before);
                }
                path.reverse();
                return Some(path);
            }
            queue.push_back(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use expect_test::{Expect, expect};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use wire::{BrokerId, PartitionId, Str, TopicPartition};

    use super::{Goal, Part, Placement, Plan, PlanBroker, plan};

    const ALL: Goal = Goal::Even { moves_max: usize::MAX };

    fn broker(id: i32, rack: Option<i32>, part: Part) -> PlanBroker {
        PlanBroker { id: BrokerId(id), rack: rack.map(|rack| Str::from(format!("rack-{rack}"))), part }
    }

    fn sharing(count: i32) -> Vec<PlanBroker> {
        (1..=count).map(|id| broker(id, None, Part::Shares)).collect()
    }

    fn placements(replicas: &[&[i32]]) -> Vec<Placement> {
        let placement = |(index, replicas): (usize, &&[i32])| Placement {
            partition: TopicPartition::new("t", PartitionId(index as i32)),
            replicas: replicas.iter().copied().map(BrokerId).collect(),
            is_movable: true,
        };
        replicas.iter().enumerate().map(placement).collect()
    }

    fn show(plan: &Plan) -> String {
        let ids = |ids: &[BrokerId]| format!("{:?}", ids.iter().map(|id| id.0).collect::<Vec<_>>());
        let changes = plan.changes.iter().map(|change| {
            format!("{} {} to {}\n", change.partition, ids(&change.before), ids(&change.after))
        });
        let shares = plan.shares.iter().map(|share| {
            let (before, after) = (share.before, share.after);
            format!(
                "broker {}: replicas {} to {}, leaders {} to {}\n",
                share.broker, before.replicas, after.replicas, before.leaders, after.leaders
            )
        });
        changes.chain(shares).collect()
    }

    #[track_caller]
    fn check(brokers: &[PlanBroker], replicas: &[&[i32]], goal: Goal, expected: Expect) {
        let shown = match plan(brokers, &placements(replicas), goal) {
            Ok(plan) => show(&plan),
            Err(no_room) => format!("{no_room:?}\n"),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_new_broker_takes_its_share_from_all() {
        let replicas: [&[i32]; 4] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 3, 2]];
        check(
            &sharing(4),
            &replicas,
            ALL,
            expect![[r#"
            t-0 [1, 2, 3] to [4, 2, 1]
            t-1 [2, 3, 1] to [2, 3, 4]
            t-2 [3, 1, 2] to [3, 1, 4]
            broker 1: replicas 4 to 3, leaders 2 to 1
            broker 2: replicas 4 to 3, leaders 1 to 1
            broker 3: replicas 4 to 3, leaders 1 to 1
            broker 4: replicas 0 to 3, leaders 0 to 1
        "#]],
        );
        check(
            &sharing(4),
            &replicas,
            Goal::Even { moves_max: 1 },
            expect![[r#"
            t-0 [1, 2, 3] to [4, 2, 1]
            broker 1: replicas 4 to 4, leaders 2 to 1
            broker 2: replicas 4 to 4, leaders 1 to 1
            broker 3: replicas 4 to 3, leaders 1 to 1
            broker 4: replicas 0 to 1, leaders 0 to 1
        "#]],
        );
    }

    #[test]
    fn leaders_are_spread_without_a_move() {
        check(
            &sharing(3),
            &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]],
            ALL,
            expect![[r#"
            t-0 [1, 2, 3] to [2, 1, 3]
            t-1 [1, 2, 3] to [3, 2, 1]
            broker 1: replicas 3 to 3, leaders 3 to 1
            broker 2: replicas 3 to 3, leaders 0 to 1
            broker 3: replicas 3 to 3, leaders 0 to 1
        "#]],
        );
    }

    #[test]
    fn a_broker_that_leaves_gives_all_and_the_others_nothing() {
        let mut brokers = sharing(4);
        brokers[0].part = Part::Leaves;
        let replicas: [&[i32]; 4] = [&[1, 2], &[2, 1], &[2, 3], &[3, 2]];
        check(
            &brokers,
            &replicas,
            Goal::Vacate,
            expect![[r#"
            t-0 [1, 2] to [4, 2]
            t-1 [2, 1] to [2, 4]
            broker 1: replicas 2 to 0, leaders 1 to 0
            broker 2: replicas 4 to 4, leaders 2 to 2
            broker 3: replicas 2 to 2, leaders 1 to 1
            broker 4: replicas 0 to 2, leaders 0 to 1
        "#]],
        );
    }

    #[test]
    fn a_broker_that_leaves_needs_room_elsewhere() {
        let mut brokers = sharing(3);
        brokers[0].part = Part::Leaves;
        check(
            &brokers,
            &[&[1, 2], &[3, 1, 2]],
            Goal::Vacate,
            expect![[r#"
            NoRoom { partition: TopicPartition { topic: "t", partition: PartitionId(1) }, replicas: 3 }
        "#]],
        );
        // One that is not counted in is no room.
        brokers[2].part = Part::Stays;
        check(
            &brokers,
            &[&[1, 2]],
            Goal::Vacate,
            expect![[r#"
            NoRoom { partition: TopicPartition { topic: "t", partition: PartitionId(0) }, replicas: 2 }
        "#]],
        );
    }

    #[test]
    fn a_broker_that_is_not_counted_in_keeps_what_it_has() {
        let mut brokers = sharing(3);
        brokers[0].part = Part::Stays;
        check(
            &brokers,
            &[&[1, 2], &[1, 2], &[1, 2], &[2]],
            ALL,
            expect![[r#"
            t-0 [1, 2] to [1, 3]
            t-1 [1, 2] to [1, 3]
            broker 1: replicas 3 to 3, leaders 3 to 3
            broker 2: replicas 4 to 2, leaders 1 to 1
            broker 3: replicas 0 to 2, leaders 0 to 0
        "#]],
        );
    }

    #[test]
    fn replicas_of_one_rack_are_parted_also_where_shares_are_even() {
        let brokers = [1, 1, 2, 2].iter().zip(1..).map(|(rack, id)| broker(id, Some(*rack), Part::Shares));
        let brokers: Vec<_> = brokers.collect();
        check(
            &brokers,
            &[&[1, 2], &[3, 4], &[2, 1], &[4, 3]],
            ALL,
            expect![[r#"
            t-0 [1, 2] to [4, 1]
            t-1 [3, 4] to [3, 2]
            t-2 [2, 1] to [2, 4]
            t-3 [4, 3] to [1, 3]
            broker 1: replicas 2 to 2, leaders 1 to 1
            broker 2: replicas 2 to 2, leaders 1 to 1
            broker 3: replicas 2 to 2, leaders 1 to 1
            broker 4: replicas 2 to 2, leaders 1 to 1
        "#]],
        );
    }

    #[test]
    fn a_rack_of_one_broker_carries_more_than_even_where_spread_demands_it() {
        let brokers = [1, 2, 2, 2].iter().zip(1..).map(|(rack, id)| broker(id, Some(*rack), Part::Shares));
        let brokers: Vec<_> = brokers.collect();
        check(
            &brokers,
            &[&[1, 2], &[2, 1], &[1, 2], &[1, 2]],
            ALL,
            expect![[r#"
            t-0 [1, 2] to [3, 1]
            t-2 [1, 2] to [4, 1]
            broker 1: replicas 4 to 4, leaders 3 to 1
            broker 2: replicas 4 to 2, leaders 1 to 1
            broker 3: replicas 0 to 1, leaders 0 to 1
            broker 4: replicas 0 to 1, leaders 0 to 1
        "#]],
        );
    }

    /// Brokers, how many replicas partitions have, and where each is kept.
    fn clusters() -> impl Strategy<Value = (i32, Vec<Vec<i32>>)> {
        (1..9i32, 1..4usize).prop_flat_map(|(count, factor)| {
            let ids: Vec<i32> = (1..=count).collect();
            // Skewed: often the first few alone.
            let some = (factor.min(ids.len())..=ids.len()).prop_flat_map(move |among| {
                let ids = ids[..among].to_vec();
                vec(Just(ids).prop_shuffle(), 0..30)
            });
            some.prop_map(move |all| {
                let cut = |ids: Vec<i32>| ids.into_iter().take(factor).collect();
                (count, all.into_iter().map(cut).collect())
            })
        })
    }

    fn placed(replicas: &[Vec<i32>]) -> Vec<Placement> {
        placements(&replicas.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn after(placements: &[Placement], plan: &Plan) -> Vec<Placement> {
        let mut after = placements.to_vec();
        for change in &plan.changes {
            let changed = after.iter_mut().find(|placement| placement.partition == change.partition).unwrap();
            assert_eq!(changed.replicas, change.before);
            changed.replicas.clone_from(&change.after);
        }
        after
    }

    fn difference(counts: impl Iterator<Item = usize> + Clone) -> usize {
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    fn check_placements(before: &[Placement], after: &[Placement]) {
        for (before, after) in before.iter().zip(after) {
            let distinct: BTreeSet<_> = after.replicas.iter().collect();
            assert_eq!(distinct.len(), before.replicas.len(), "as many replicas, each on another broker");
        }
    }

    /// How many racks each partition is in.
    fn racks(brokers: &[PlanBroker], placements: &[Placement]) -> Vec<usize> {
        let rack = |id: &BrokerId| brokers.iter().find(|broker| broker.id == *id)?.rack.clone();
        let racks =
            |placement: &Placement| placement.replicas.iter().map(rack).collect::<BTreeSet<_>>().len();
        placements.iter().map(racks).collect()
    }

    proptest! {
        #[test]
        fn shares_are_even_and_no_plan_gets_there_with_fewer_moves((count, replicas) in clusters()) {
            let before = placed(&replicas);
            let plan = plan(&sharing(count), &before, ALL).unwrap();
            let after = after(&before, &plan);
            check_placements(&before, &after);
            prop_assert!(difference(plan.shares.iter().map(|share| share.after.replicas)) <= 1);
            prop_assert!(difference(plan.shares.iter().map(|share| share.after.leaders)) <= 1);
            let total: usize = plan.shares.iter().map(|share| share.before.replicas).sum();
            let (floor, ceil) = (total / count as usize, total.div_ceil(count as usize));
            let shares = || plan.shares.iter().map(|share| share.before.replicas);
            let too_many: usize = shares().map(|share| share.saturating_sub(ceil)).sum();
            let too_few: usize = shares().map(|share| floor.saturating_sub(share)).sum();
            prop_assert_eq!(plan.moves(), too_many.max(too_few));
        }

        #[test]
        fn what_is_planned_needs_no_further_plan((count, replicas) in clusters(), racked in any::<bool>()) {
            let rack = |id: i32| racked.then_some(id % 3);
            let brokers: Vec<_> = (1..=count).map(|id| broker(id, rack(id), Part::Shares)).collect();
            let before = placed(&replicas);
            let first = plan(&brokers, &before, ALL).unwrap();
            let second = plan(&brokers, &after(&before, &first), ALL).unwrap();
            prop_assert_eq!(second.changes, vec![]);
        }

        #[test]
        fn no_more_moves_than_allowed((count, replicas) in clusters(), moves_max in 0..8usize) {
            let brokers: Vec<_> = (1..=count).map(|id| broker(id, Some(id % 3), Part::Shares)).collect();
            let plan = plan(&brokers, &placed(&replicas), Goal::Even { moves_max }).unwrap();
            prop_assert!(plan.moves() <= moves_max);
        }

        #[test]
        fn partitions_are_in_as_many_racks_as_they_can(
            (count, replicas) in clusters(),
            racks_max in 1..4i32,
        ) {
            let brokers: Vec<_> =
                (1..=count).map(|id| broker(id, Some(id % racks_max), Part::Shares)).collect();
            let before = placed(&replicas);
            let plan = plan(&brokers, &before, ALL).unwrap();
            let after = after(&before, &plan);
            check_placements(&before, &after);
            for (placement, racks) in after.iter().zip(racks(&brokers, &after)) {
                prop_assert_eq!(racks, placement.replicas.len().min(racks_max.min(count) as usize));
            }
        }

        #[test]
        fn racks_of_equal_size_are_no_hindrance(per_rack in 1..4i32, shuffled in vec(any::<u32>(), 0..30)) {
            let brokers: Vec<_> =
                (0..per_rack * 3).map(|id| broker(id, Some(id % 3), Part::Shares)).collect();
            let of = |seed: &u32| {
                let nth = |rack: i32| ((seed >> (8 * rack)) as i32 & 0xff).rem_euclid(per_rack);
                let in_rack = |rack: i32| rack + 3 * nth(rack);
                (0..3).map(in_rack).collect::<Vec<i32>>()
            };
            let replicas: Vec<_> = shuffled.iter().map(of).collect();
            let plan = plan(&brokers, &placed(&replicas), ALL).unwrap();
            prop_assert!(difference(plan.shares.iter().map(|share| share.after.replicas)) <= 1);
        }

        #[test]
        fn who_leaves_gives_all_and_nobody_else_anything((count, replicas) in clusters()) {
            let mut brokers = sharing(count);
            brokers[0].part = Part::Leaves;
            let before = placed(&replicas);
            let had = before.iter().filter(|placement| placement.replicas.contains(&BrokerId(1))).count();
            let Ok(plan) = plan(&brokers, &before, Goal::Vacate) else {
                prop_assert!(replicas.iter().any(|ids| ids.len() == count as usize));
                return Ok(());
            };
            check_placements(&before, &after(&before, &plan));
            prop_assert_eq!(plan.shares[0].after.replicas, 0);
            prop_assert_eq!(plan.moves(), had);
            for change in &plan.changes {
                prop_assert_eq!(change.removed().collect::<Vec<_>>(), vec![BrokerId(1)]);
            }
        }
    }
}
