//! Brokers that fall silent, come back, prepare to stop, or are gone for good, and what becomes of their partitions.
//!
//! Whether a broker is alive is soft state of the active controller; only what follows from it is decided here. Invariant:
//! who is fenced is in sync nowhere, so that nobody waits for it and it leads nothing. A broker that is unregistered is no
//! longer eligible either: who registers with its id later may be another machine.

use std::collections::BTreeMap;

use wire::messages::broker_registration_change_record::BrokerRegistrationChangeRecord;
use wire::messages::unregister_broker_record::UnregisterBrokerRecord;
use wire::{BrokerId, LeaderEpoch, PartitionId, Uuid};

use super::change::{Changes, Draft, Incumbent, Wanted};
use super::{Broker, Decision, Image, MetadataRecord, Refusal, TopicRules};

/// The record's numbers.
const FENCE: i8 = 1;
const UNFENCE: i8 = -1;
const SHUTDOWN: i8 = 1;

/// Why a broker cannot serve a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfService {
    /// Its disk failed. What it acknowledged is there.
    Offline,
    /// It is not what it was. Leaders up to this epoch may count on more of it than there is.
    Damaged {
        /// The epoch.
        known_in: LeaderEpoch,
    },
}

impl Image {
    /// Fences a broker that was not heard of for too long, or that has stopped. It leaves every in-sync set, and others
    /// lead in its stead. Nothing, if it is fenced.
    pub fn fence_broker(&self, id: BrokerId, rules: &dyn TopicRules) -> Result<Decision<Changes>, Refusal> {
        let broker = self.broker(id).ok_or(Refusal::UnknownBroker(id))?;
        if broker.fenced {
            return Ok(nothing());
        }
        let record = broker.change(|record| record.fenced = FENCE);
        Ok(self.leaving(id, record, rules, |wanted| wanted.out_of_sync(id)))
    }

    /// Lets a broker in again, and has it lead what nobody leads and it may. Nothing, if it is not fenced.
    pub fn unfence_broker(
        &self,
        id: BrokerId,
        epoch: i64,
        rules: &dyn TopicRules,
    ) -> Result<Decision<Changes>, Refusal> {
        let broker = self.registered(id, epoch)?;
        if !broker.fenced {
            return Ok(nothing());
        }
        let mut draft = Draft::new(self, rules);
        draft.push(broker.change(|record| record.fenced = UNFENCE));
        draft.change_each(
            |partition| partition.leader.is_none() && partition.replicas.contains(&id),
            |partition, _| Some(Wanted::unchanged(partition)),
        );
        Ok(draft.decided())
    }

    /// A broker asks to stop: others lead in its stead, and it leaves the in-sync sets. Where nobody else is in sync, it
    /// stays and leads on until it is fenced; asked again, it leaves what it can leave by then.
    pub fn begin_controlled_shutdown(
        &self,
        id: BrokerId,
        epoch: i64,
        rules: &dyn TopicRules,
    ) -> Result<Decision<Changes>, Refusal> {
        let broker = self.registered(id, epoch)?;
        let mut draft = Draft::new(self, rules);
        if !broker.in_controlled_shutdown {
            draft.push(broker.change(|record| record.in_controlled_shutdown = SHUTDOWN));
        }
        let others = draft.image.clone();
        draft.change_each(
            |partition| partition.isr.contains(&id) && partition.isr.iter().any(|id| others.may_lead(*id)),
            |partition, _| Some(Wanted::unchanged(partition).out_of_sync(id)),
        );
        Ok(draft.decided())
    }

    /// A broker has replicas that it cannot serve, and others lead in their stead. One whose disk failed leaves the in-sync
    /// set. One that is damaged is not eligible either, and the leader forgets in a new epoch what it knew of it. Where nobody
    /// else could lead, nothing changes: what is there may yet be saved.
    pub fn take_out_of_service(
        &self,
        id: BrokerId,
        epoch: i64,
        replicas: &BTreeMap<(Uuid, PartitionId), OutOfService>,
        rules: &dyn TopicRules,
    ) -> Result<Decision<Changes>, Refusal> {
        self.registered(id, epoch)?;
        let mut draft = Draft::new(self, rules);
        for ((topic_id, partition_id), why) in replicas {
            let Ok((topic, partition)) = draft.partition_by_id(*topic_id, *partition_id) else { continue };
            let may_lead = |other: &BrokerId| *other != id && draft.image.may_lead(*other);
            let in_sync = partition.isr.iter().any(may_lead);
            let eligible = partition.elr.iter().any(may_lead);
            let wanted = Wanted::unchanged(&partition);
            let wanted = match why {
                OutOfService::Offline if partition.isr.contains(&id) && in_sync => wanted.out_of_sync(id),
                OutOfService::Damaged { .. } if partition.is_held_by(id) => {
                    if !in_sync && !eligible {
                        continue;
                    }
                    Wanted { incumbent: Incumbent::StartsAnew, ..wanted.losing(id) }
                }
                OutOfService::Damaged { known_in } if partition.leader_epoch <= *known_in => {
                    Wanted { incumbent: Incumbent::StartsAnew, ..wanted }
                }
                OutOfService::Offline | OutOfService::Damaged { .. } => continue,
            };
            let rule = draft.rule(&topic.name);
            let changed = draft.image.change_partition((&topic, *partition_id, &partition), wanted, rule);
            draft.take(&topic, *partition_id, partition.leader, &changed);
        }
        Ok(draft.decided())
    }

    /// Forgets a broker. It leaves the in-sync and the eligible replicas, and stays a replica of what it was.
    pub fn unregister_broker(
        &self,
        id: BrokerId,
        rules: &dyn TopicRules,
    ) -> Result<Decision<Changes>, Refusal> {
        let broker = self.broker(id).ok_or(Refusal::UnknownBroker(id))?;
        let record = UnregisterBrokerRecord { broker_id: id.0, broker_epoch: broker.epoch };
        let record = MetadataRecord::UnregisterBroker(record);
        Ok(self.leaving(id, record, rules, |wanted| wanted.losing(id)))
    }

    /// A registered broker, if it speaks with its current epoch.
    pub(super) fn registered(&self, id: BrokerId, epoch: i64) -> Result<&Broker, Refusal> {
        let broker = self.broker(id).ok_or(Refusal::UnknownBroker(id))?;
        match broker.epoch == epoch {
            true => Ok(broker),
            false => Err(Refusal::StaleBrokerEpoch { expected: broker.epoch, actual: epoch }),
        }
    }

    /// The partitions are decided as if the broker were gone, and committed before it is.
    fn leaving(
        &self,
        id: BrokerId,
        record: MetadataRecord,
        rules: &dyn TopicRules,
        leave: impl Fn(Wanted) -> Wanted,
    ) -> Decision<Changes> {
        let mut draft = Draft::new(self, rules);
        draft.image.apply(&record);
        draft.change_each(
            |partition| partition.is_held_by(id),
            |partition, _| Some(leave(Wanted::unchanged(partition))),
        );
        draft.records.push(record);
        draft.decided()
    }
}

impl Broker {
    fn change(&self, set: impl FnOnce(&mut BrokerRegistrationChangeRecord)) -> MetadataRecord {
        let mut record = BrokerRegistrationChangeRecord {
            broker_id: self.id.0,
            broker_epoch: self.epoch,
            ..Default::default()
        };
        set(&mut record);
        MetadataRecord::BrokerRegistrationChange(record)
    }

    /// The broker after a change.
    pub(super) fn changed_by(&self, record: &BrokerRegistrationChangeRecord) -> Broker {
        assert!(self.epoch == record.broker_epoch, "a change is of the incarnation that is registered");
        let log_dirs = if record.log_dirs.is_empty() { &self.log_dirs } else { &record.log_dirs };
        Broker {
            fenced: match record.fenced {
                FENCE => true,
                UNFENCE => false,
                _ => self.fenced,
            },
            in_controlled_shutdown: self.in_controlled_shutdown || record.in_controlled_shutdown == SHUTDOWN,
            log_dirs: log_dirs.clone(),
            ..self.clone()
        }
    }
}

fn nothing() -> Decision<Changes> {
    Decision { records: Vec::new(), reply: Changes::default() }
}
