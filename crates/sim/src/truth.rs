//! Who leads what, as the newest metadata that any node has applied says it. No client can know this: it is for those who check
//! what clients were told.
//!
//! A broker that is cut off goes on leading until it hears otherwise. What it answers by then, without having to write
//! anything, may be long over, as in every cluster without leases; what it writes counts for nothing. So what must hold between
//! two answers holds where nobody else led in between.

use std::sync::Arc;

use broker::Standing;
use parking_lot::Mutex;
use state::metadata::Image;
use wire::PartitionId;

/// A partition's leader, in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leads {
    pub(crate) broker: i32,
    pub(crate) epoch: i32,
}

/// The newest metadata. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth(Arc<Mutex<Newest>>);

#[derive(Debug, Default)]
struct Newest {
    applied: u64,
    image: Option<Arc<Image>>,
}

impl Truth {
    /// Looks at all nodes.
    pub(crate) fn learn(&self, nodes: &[Standing]) {
        let Some(node) = nodes.iter().max_by_key(|node| node.applied) else { return };
        let mut newest = self.0.lock();
        if newest.image.is_none() || node.applied > newest.applied {
            *newest = Newest { applied: node.applied, image: Some(Arc::clone(&node.image)) };
        }
    }

    /// Who leads a partition.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<Leads> {
        let newest = self.0.lock();
        let partition = newest.image.as_ref()?.partition(topic, PartitionId(partition))?;
        Some(Leads { broker: partition.leader?.0, epoch: partition.leader_epoch.0 })
    }
}
