//! Who leads instead, for answers of a broker that does not lead (KIP-951): the client goes there at once, without asking for
//! the whole of the metadata first.

use std::collections::BTreeSet;
use std::sync::Arc;

use state::metadata::Image;
use wire::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, Str, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::handler::metadata::address_of;

/// Collects the leaders that one answer names.
pub(crate) struct LeaderHints<'a> {
    broker: &'a Broker,
    /// Looked at only once something was refused.
    image: Option<Arc<Image>>,
    named: BTreeSet<BrokerId>,
}

impl<'a> LeaderHints<'a> {
    pub(crate) fn new(broker: &'a Broker) -> Self {
        LeaderHints { broker, image: None, named: BTreeSet::new() }
    }

    /// The leader of a partition that was refused because another broker leads it.
    pub(crate) fn hint(
        &mut self,
        error: ErrorCode,
        topic: &Str,
        topic_id: Uuid,
        partition: PartitionId,
    ) -> Option<(BrokerId, LeaderEpoch)> {
        if !matches!(error, ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::FENCED_LEADER_EPOCH) {
            return None;
        }
        let image = self.image.get_or_insert_with(|| self.broker.metadata.image());
        let topic = if topic_id.is_zero() { image.topic(topic) } else { image.topic_by_id(topic_id) };
        let partition = topic?.partition(partition)?;
        let leader = partition.leader.filter(|leader| *leader != self.broker.node_id)?;
        self.named.insert(leader);
        Some((leader, partition.leader_epoch))
    }

    /// Where the named leaders are: id, host, port, rack.
    pub(crate) fn endpoints(
        &self,
        context: &RequestContext,
    ) -> impl Iterator<Item = (i32, Str, i32, Option<Str>)> {
        let named = self.named.iter().filter_map(|id| {
            let broker = self.image.as_ref()?.broker(*id)?;
            let (host, port) = address_of(self.broker, context, broker)?;
            Some((id.0, host, port, broker.rack.clone()))
        });
        named.collect::<Vec<_>>().into_iter()
    }
}
