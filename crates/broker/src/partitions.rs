//! The partitions that live on this broker, by topic name and by topic id.
//! Readers take a snapshot pointer and never lock; topics come and go rarely and copy the table of pointers.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use wire::{PartitionId, Str, Uuid};

use crate::partition::Partition;

/// One topic's partitions on this broker, indexed by partition id.
#[derive(Clone)]
pub(crate) struct HostedTopic {
    pub(crate) name: Str,
    pub(crate) id: Uuid,
    partitions: Vec<Option<Arc<Partition>>>,
}

impl HostedTopic {
    /// The partition with this id, if it is hosted here.
    pub(crate) fn partition(&self, id: PartitionId) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(id.0).ok()?)?.as_ref()
    }

    /// All partitions of the topic that are hosted here.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.iter().flatten()
    }
}

/// One moment of the table.
#[derive(Default, Clone)]
pub(crate) struct Hosted {
    by_name: HashMap<Str, Arc<HostedTopic>>,
    names: HashMap<Uuid, Str>,
}

impl Hosted {
    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<HostedTopic>> {
        self.by_name.get(name)
    }

    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<&Arc<HostedTopic>> {
        self.by_name.get(self.names.get(&id)?)
    }

    pub(crate) fn partition(&self, topic: &str, id: PartitionId) -> Option<&Arc<Partition>> {
        self.topic(topic)?.partition(id)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<HostedTopic>> {
        self.by_name.values()
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.topics().flat_map(|topic| topic.partitions())
    }
}

/// The table itself.
#[derive(Default)]
pub(crate) struct Partitions {
    current: ArcSwap<Hosted>,
    changes: Mutex<()>,
}

impl Partitions {
    /// The table as it is now.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Hosted>> {
        self.current.load()
    }

    /// The table as it is now, to keep for longer than a moment.
    pub(crate) fn load_full(&self) -> Arc<Hosted> {
        self.current.load_full()
    }

    /// Adds partitions, replacing those of the same id.
    pub(crate) fn insert(&self, partitions: impl IntoIterator<Item = Arc<Partition>>) {
        self.change(|hosted| {
            for partition in partitions {
                let name = &partition.id.topic;
                hosted.names.insert(partition.topic_id, name.clone());
                let topic = hosted.by_name.entry(name.clone()).or_insert_with(|| {
                    Arc::new(HostedTopic {
                        name: name.clone(),
                        id: partition.topic_id,
                        partitions: Vec::new(),
                    })
                });
                let slots = &mut Arc::make_mut(topic).partitions;
                let index =
                    usize::try_from(partition.id.partition.0).expect("partition ids are not negative");
                if slots.len() <= index {
                    slots.resize(index + 1, None);
                }
                slots[index] = Some(partition);
            }
        });
    }

    /// Takes partitions out, and topics of which nothing is left.
    pub(crate) fn remove(&self, partitions: &[Arc<Partition>]) {
        self.change(|hosted| {
            for partition in partitions {
                let name = &partition.id.topic;
                let Some(topic) = hosted.by_name.get_mut(name).filter(|topic| topic.id == partition.topic_id)
                else {
                    continue;
                };
                let slots = &mut Arc::make_mut(topic).partitions;
                let index =
                    usize::try_from(partition.id.partition.0).expect("partition ids are not negative");
                if let Some(slot) = slots.get_mut(index) {
                    *slot = None;
                }
                if slots.iter().all(Option::is_none) {
                    hosted.by_name.remove(name);
                    hosted.names.remove(&partition.topic_id);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Hosted)) {
        let _one_at_a_time = self.changes.lock();
        let mut next = Hosted::clone(&self.current.load());
        change(&mut next);
        self.current.store(Arc::new(next));
    }
}
