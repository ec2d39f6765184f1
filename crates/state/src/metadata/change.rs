//! What a change of a partition entails: who is eligible, who leads, and the record that says so.
//!
//! Every decision about an existing partition says only what it [`Wanted`]; the rest follows here, in this order: a
//! reassignment that is done is completed, the eligible replicas are worked out, a leader is elected. Invariant: a replica
//! is eligible only while too few are in sync to acknowledge anything, so that whoever is in sync or eligible holds every
//! acknowledged record. A leader that is neither is elected only where the topic allows it, and the answer names it.

use std::sync::Arc;

use wire::messages::partition_change_record::PartitionChangeRecord;
use wire::messages::partition_record::PartitionRecord;
use wire::{BrokerId, LeaderEpoch, PartitionId, Str, Uuid};

use super::{Broker, Decision, Image, MetadataRecord, Partition, Refusal, Topic, TopicRule, TopicRules};

/// The record's number for "the leader stays, and so does its epoch".
const LEADER_UNCHANGED: i32 = -2;

/// The record's number for a leader that may lack acknowledged records.
const LEADER_RECOVERING: i8 = 1;

/// What a decision did to partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Partitions that have another leader than before.
    pub leaders_moved: usize,
    /// Those of them whose new leader may lack acknowledged records.
    pub unclean: Vec<(Str, PartitionId)>,
    /// Partitions that had a leader and have none now.
    pub leaderless: Vec<(Str, PartitionId)>,
}

/// A partition as a decision would have it; it starts as it is.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) replicas: Vec<BrokerId>,
    pub(super) isr: Vec<BrokerId>,
    pub(super) adding: Vec<BrokerId>,
    pub(super) removing: Vec<BrokerId>,
    /// Whose copy lacks acknowledged records: neither in sync nor eligible.
    pub(super) lost: Option<BrokerId>,
    pub(super) incumbent: Incumbent,
}

/// What becomes of the leader, if it may go on leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incumbent {
    /// It stays.
    Stays,
    /// It stays and begins a new epoch, since its log may not be what its followers saw.
    StartsAnew,
    /// It makes way for the preferred leader.
    YieldsToPreferred,
}

impl Wanted {
    pub(super) fn unchanged(partition: &Partition) -> Self {
        Wanted {
            replicas: partition.replicas.to_vec(),
            isr: partition.isr.to_vec(),
            adding: partition.adding.to_vec(),
            removing: partition.removing.to_vec(),
            lost: None,
            incumbent: Incumbent::Stays,
        }
    }

    /// A broker leaves the in-sync set.
    pub(super) fn out_of_sync(mut self, id: BrokerId) -> Self {
        self.isr.retain(|member| *member != id);
        self
    }

    /// A broker's copy is not what it was.
    pub(super) fn losing(self, id: BrokerId) -> Self {
        Wanted { lost: Some(id), ..self.out_of_sync(id) }
    }

    /// If those who are to stay are in sync, the others go.
    fn complete_reassignment(&mut self, rule: TopicRule, may_lead: impl Fn(&BrokerId) -> bool) {
        let stays = |id: &BrokerId| !self.removing.contains(id);
        let replicas: Vec<BrokerId> = self.replicas.iter().copied().filter(stays).collect();
        let isr: Vec<BrokerId> = self.isr.iter().copied().filter(stays).collect();
        let under_way = !self.adding.is_empty() || !self.removing.is_empty();
        let done = self.adding.iter().all(|id| isr.contains(id))
            && isr.len() >= rule.isr_min(replicas.len())
            && isr.iter().any(may_lead);
        if under_way && done {
            (self.replicas, self.isr) = (replicas, isr);
            self.adding.clear();
            self.removing.clear();
        }
    }
}

/// What became of a partition.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    /// `None` if nothing did.
    pub(super) record: Option<PartitionChangeRecord>,
    /// As it will be.
    pub(super) partition: Partition,
    /// Whether the leader may lack acknowledged records.
    pub(super) unclean: bool,
}

/// Who leads, and on what grounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elected {
    InSync(BrokerId),
    Eligible(BrokerId),
    Unclean(BrokerId),
    Nobody,
}

impl Image {
    /// Works out the change of one partition. Who lives is what this image says.
    pub(super) fn change_partition(
        &self,
        (topic, id, before): (&Topic, PartitionId, &Partition),
        mut wanted: Wanted,
        rule: TopicRule,
    ) -> Changed {
        wanted.complete_reassignment(rule, |id| self.may_lead(*id));
        let isr_min = rule.isr_min(wanted.replicas.len());
        let eligible = |isr: &[BrokerId]| -> Vec<BrokerId> {
            let held = |id: &&BrokerId| before.isr.contains(id) || before.elr.contains(id);
            let rest = wanted.replicas.iter().filter(held);
            let rest = rest.filter(|id| !isr.contains(id) && wanted.lost != Some(**id));
            if isr.len() < isr_min { rest.copied().collect() } else { Vec::new() }
        };
        let elr = eligible(&wanted.isr);
        let elected = self.elect(before, &wanted, &elr, rule);
        let (leader, isr, elr) = match elected {
            Elected::InSync(leader) => (Some(leader), wanted.isr.clone(), elr),
            Elected::Eligible(leader) => (Some(leader), vec![leader], eligible(&[leader])),
            // Whoever held more than this leader has to cut its log to the leader's.
            Elected::Unclean(leader) => (Some(leader), vec![leader], Vec::new()),
            Elected::Nobody => (None, wanted.isr.clone(), elr),
        };
        let last_known_elr = match (&isr[..], &elr[..]) {
            ([], []) => last_known(before, &wanted.replicas),
            _ => Vec::new(),
        };
        // A removed replica may be added again before the leader looks: only a new epoch makes it forget what it knew.
        let removed = before.replicas.iter().any(|id| !wanted.replicas.contains(id));
        let anew = wanted.incumbent == Incumbent::StartsAnew && leader.is_some();
        // A leader that lost its log and leads again is another one to its followers.
        let unclean = matches!(elected, Elected::Unclean(_));
        let new_epoch = leader != before.leader || removed || anew || unclean;

        let changed = |before: &[BrokerId], after: &[BrokerId]| {
            (before != after).then(|| after.iter().map(|id| id.0).collect::<Vec<i32>>())
        };
        let record = PartitionChangeRecord {
            partition_id: id.0,
            topic_id: topic.id,
            isr: changed(&before.isr, &isr),
            leader: if new_epoch { leader.map_or(-1, |leader| leader.0) } else { LEADER_UNCHANGED },
            replicas: changed(&before.replicas, &wanted.replicas),
            removing_replicas: changed(&before.removing, &wanted.removing),
            adding_replicas: changed(&before.adding, &wanted.adding),
            eligible_leader_replicas: changed(&before.elr, &elr),
            last_known_elr: changed(&before.last_known_elr, &last_known_elr),
            ..Default::default()
        };
        let nothing = PartitionChangeRecord { partition_id: id.0, topic_id: topic.id, ..Default::default() };
        if record == nothing {
            return Changed { record: None, partition: before.clone(), unclean: false };
        }
        let leader_recovery_state = if unclean { LEADER_RECOVERING } else { nothing.leader_recovery_state };
        let record = PartitionChangeRecord { leader_recovery_state, ..record };
        Changed { partition: before.changed_by(&record), record: Some(record), unclean }
    }

    /// The one place where a leader is chosen.
    ///
    /// In the order of the replicas, whoever is active and in sync; the leader of before comes first. With none of these,
    /// a leader that is about to stop goes on, else somebody eligible leads. Where the topic allows it, anybody else does,
    /// but those that are known to hold nothing only for want of others.
    fn elect(&self, before: &Partition, wanted: &Wanted, elr: &[BrokerId], rule: TopicRule) -> Elected {
        let replicas = &wanted.replicas;
        let in_sync = |id: &BrokerId| wanted.isr.contains(id);
        let may_lead = |id: &BrokerId| self.may_lead(*id);
        let preferred = replicas.first().filter(|_| wanted.incumbent == Incumbent::YieldsToPreferred);
        let first = preferred.into_iter().chain(before.leader.as_ref()).chain(replicas);
        if let Some(leader) = first.copied().find(|id| in_sync(id) && may_lead(id)) {
            return Elected::InSync(leader);
        }
        let stopping = |id: &BrokerId| self.broker(*id).is_some_and(|broker| !broker.fenced);
        if let Some(leader) = before.leader.filter(|id| in_sync(id) && stopping(id)) {
            return Elected::InSync(leader);
        }
        if let Some(leader) = replicas.iter().copied().find(|id| elr.contains(id) && may_lead(id)) {
            return Elected::Eligible(leader);
        }
        if !rule.unclean_election {
            return Elected::Nobody;
        }
        let empty = |id: &BrokerId| {
            wanted.lost == Some(*id) || before.last_known_elr.contains(id) || wanted.adding.contains(id)
        };
        let live = || replicas.iter().copied().filter(may_lead);
        match live().find(|id| !empty(id)).or_else(|| live().next()) {
            Some(leader) => Elected::Unclean(leader),
            None => Elected::Nobody,
        }
    }

    pub(super) fn may_lead(&self, id: BrokerId) -> bool {
        self.broker(id).is_some_and(Broker::is_active)
    }
}

/// Who was in sync or eligible when nobody is any more.
fn last_known(before: &Partition, replicas: &[BrokerId]) -> Vec<BrokerId> {
    let held: Vec<BrokerId> = before.isr.iter().chain(&*before.elr).copied().collect();
    let held = if held.is_empty() { before.last_known_elr.to_vec() } else { held };
    held.into_iter().filter(|id| replicas.contains(id)).collect()
}

fn ids(numbers: &[i32]) -> Arc<[BrokerId]> {
    numbers.iter().copied().map(BrokerId).collect()
}

fn leader_of(number: i32) -> Option<BrokerId> {
    (number >= 0).then_some(BrokerId(number))
}

impl From<&PartitionRecord> for Partition {
    fn from(record: &PartitionRecord) -> Self {
        Partition {
            leader: leader_of(record.leader),
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: record.partition_epoch,
            replicas: ids(&record.replicas),
            isr: ids(&record.isr),
            adding: ids(&record.adding_replicas),
            removing: ids(&record.removing_replicas),
            elr: ids(record.eligible_leader_replicas.as_deref().unwrap_or_default()),
            last_known_elr: ids(record.last_known_elr.as_deref().unwrap_or_default()),
        }
    }
}

impl Partition {
    /// The partition after a change. A record that names a leader begins a leader epoch, also if it is the same one.
    pub(super) fn changed_by(&self, record: &PartitionChangeRecord) -> Partition {
        let or = |changed: &Option<Vec<i32>>, before: &Arc<[BrokerId]>| {
            changed.as_deref().map_or_else(|| before.clone(), ids)
        };
        let same_leader = record.leader == LEADER_UNCHANGED;
        Partition {
            leader: if same_leader { self.leader } else { leader_of(record.leader) },
            leader_epoch: LeaderEpoch(self.leader_epoch.0 + i32::from(!same_leader)),
            partition_epoch: self.partition_epoch + 1,
            replicas: or(&record.replicas, &self.replicas),
            isr: or(&record.isr, &self.isr),
            adding: or(&record.adding_replicas, &self.adding),
            removing: or(&record.removing_replicas, &self.removing),
            elr: or(&record.eligible_leader_replicas, &self.elr),
            last_known_elr: or(&record.last_known_elr, &self.last_known_elr),
        }
    }

    /// Whether a broker is sure to hold everything that was acknowledged.
    pub fn is_held_by(&self, id: BrokerId) -> bool {
        self.isr.contains(&id) || self.elr.contains(&id)
    }

    /// What holds for every partition at any time.
    pub(super) fn assert_sound(&self) {
        let replica = |id: &BrokerId| self.replicas.contains(id);
        assert!(self.leader.is_none_or(|leader| self.isr.contains(&leader)), "the leader is in sync");
        assert!(self.isr.iter().all(replica), "replicas are in sync, nobody else");
        assert!(self.elr.iter().all(replica), "replicas are eligible, nobody else");
        assert!(!self.elr.iter().any(|id| self.isr.contains(id)), "who is in sync needs not be eligible");
        assert!(self.adding.iter().all(replica), "who is added is a replica");
        assert!(self.removing.iter().all(replica), "who is removed is still a replica");
    }
}

/// An image as the changes decided so far leave it, and their records.
pub(super) struct Draft<'a> {
    pub(super) image: Image,
    pub(super) records: Vec<MetadataRecord>,
    pub(super) changes: Changes,
    rules: &'a dyn TopicRules,
}

impl<'a> Draft<'a> {
    pub(super) fn new(image: &Image, rules: &'a dyn TopicRules) -> Self {
        Draft { image: image.clone(), records: Vec::new(), changes: Changes::default(), rules }
    }

    /// Takes over a record about a broker, which is committed before whatever follows from it.
    pub(super) fn push(&mut self, record: MetadataRecord) {
        self.image.apply(&record);
        self.records.push(record);
    }

    pub(super) fn decided(self) -> Decision<Changes> {
        Decision { records: self.records, reply: self.changes }
    }

    pub(super) fn rule(&self, topic: &Str) -> TopicRule {
        self.rules.rule(&self.image, topic)
    }

    /// Changes every partition that is concerned and for which something is wanted.
    pub(super) fn change_each(
        &mut self,
        concerned: impl Fn(&Partition) -> bool,
        mut wanted: impl FnMut(&Partition, TopicRule) -> Option<Wanted>,
    ) {
        self.change_each_named(concerned, |_, partition, rule| wanted(partition, rule));
    }

    /// The same, told which one each is.
    pub(super) fn change_each_named(
        &mut self,
        concerned: impl Fn(&Partition) -> bool,
        mut wanted: impl FnMut((Uuid, PartitionId), &Partition, TopicRule) -> Option<Wanted>,
    ) {
        let before = self.image.clone();
        for topic in before.topics() {
            let mut rule = None;
            for (id, partition) in topic.partitions().filter(|(_, partition)| concerned(partition)) {
                let rule = *rule.get_or_insert_with(|| self.rule(&topic.name));
                if let Some(wanted) = wanted((topic.id, id), partition, rule) {
                    let changed = self.image.change_partition((topic, id, partition), wanted, rule);
                    self.take(topic, id, partition.leader, &changed);
                }
            }
        }
    }

    /// Takes over the change of one partition.
    pub(super) fn take(
        &mut self,
        topic: &Topic,
        id: PartitionId,
        leader_before: Option<BrokerId>,
        changed: &Changed,
    ) {
        let Some(record) = &changed.record else { return };
        self.push(MetadataRecord::PartitionChange(record.clone()));
        match changed.partition.leader {
            Some(leader) => self.changes.leaders_moved += usize::from(leader_before != Some(leader)),
            None if leader_before.is_some() => self.changes.leaderless.push((topic.name.clone(), id)),
            None => {}
        }
        if changed.unclean {
            self.changes.unclean.push((topic.name.clone(), id));
        }
    }

    /// A partition of a topic, both as they are now. Cloning them is cheap.
    pub(super) fn partition(&self, name: &str, id: PartitionId) -> Result<(Topic, Partition), Refusal> {
        let topic = self.image.topic(name).ok_or(Refusal::UnknownTopic)?;
        let partition = topic.partition(id).ok_or(Refusal::UnknownTopic)?;
        Ok((topic.clone(), partition.clone()))
    }

    /// Likewise, by the id of the topic.
    pub(super) fn partition_by_id(
        &self,
        topic: Uuid,
        id: PartitionId,
    ) -> Result<(Topic, Partition), Refusal> {
        let topic = self.image.topic_by_id(topic).ok_or(Refusal::UnknownTopicId)?;
        let partition = topic.partition(id).ok_or(Refusal::UnknownTopic)?;
        Ok((topic.clone(), partition.clone()))
    }
}
