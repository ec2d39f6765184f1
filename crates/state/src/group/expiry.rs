//! Expiration of committed offsets, and of groups that have none left (KIP-211).
//!
//! What a live group reads never expires: its offsets stay while it is subscribed to the topic. An empty group's offsets
//! count their retention from when it became empty, those of clients without membership from their last commit.
//! That an offset has expired is remembered for a while: see `traces`.

use wire::{Millis, PartitionId, Str};

use super::consumer::ConsumerGroup;
use super::offsets::CommittedOffset;
use super::{Group, Groups, Outcome, State};

impl Groups {
    /// Forgets expired offsets, and empty groups without offsets. To be called every
    /// `offsets.retention.check.interval.ms`.
    pub fn expire_offsets(&mut self, now: Millis) -> Outcome {
        let mut outcome = Outcome::default();
        let consumers = self.consumers.keys().filter(|id| !self.groups.contains_key(*id));
        let ids: Vec<Str> = self.groups.keys().chain(consumers).cloned().collect();
        for id in ids {
            let retention_ms = self.config.offsets_retention_ms;
            let consumers = self.consumers.get(&id);
            let classics = self.groups.get(&id);
            let mut expired = match (classics, consumers) {
                (Some(group), None) => group.expired_offsets(now, retention_ms),
                (Some(group), Some(consumers)) => group.offsets_expired_in(consumers, now, retention_ms),
                (None, _) => Vec::new(),
            };
            // What replaces it may be committed at any moment.
            expired.retain(|(topic, partition)| !self.pending.holds(&id, topic, *partition));
            self.expire(&id, expired, now, &mut outcome);
            if let Some(consumers) = self.consumers.get(&id) {
                let is_over = consumers.emptied_at().is_some_and(|at| now.since(at) >= retention_ms);
                let has_offsets = self.groups.get(&id).is_some_and(|group| !group.offsets.is_empty());
                if is_over && !has_offsets && !self.pending.holds_group(&id) {
                    self.forget_group(id, &mut outcome);
                }
                continue;
            }
            let Some(group) = self.groups.get(&id) else { continue };
            // A member id that was handed out is worth waiting for: without the group its owner would be unknown.
            let is_idle =
                group.state == State::Empty && group.offsets.is_empty() && group.pending_joins.is_empty();
            if is_idle && !self.pending.holds_group(&id) {
                self.forget_group(id, &mut outcome);
            }
        }
        self.forget_old_traces(now, &mut outcome);
        outcome
    }
}

impl Group {
    fn expired_offsets(&self, now: Millis, retention_ms: i64) -> Vec<(Str, PartitionId)> {
        let Some(since) = self.retention_start() else { return Vec::new() };
        let expired = self.offsets.iter().filter(|(topic, _, committed)| {
            let over = match committed.expires_at {
                Some(at) => now >= at,
                None => now.since(since(committed)) >= retention_ms,
            };
            over && !self.is_subscribed_to(topic)
        });
        expired.map(|(topic, partition, _)| (topic.clone(), partition)).collect()
    }

    /// What expired of a group of the consumer protocol: the topics that nobody reads any more age from their last commit, and
    /// without members everything ages from when the last one went, if that was later.
    fn offsets_expired_in(
        &self,
        consumers: &ConsumerGroup,
        now: Millis,
        retention_ms: i64,
    ) -> Vec<(Str, PartitionId)> {
        let emptied_at = consumers.emptied_at();
        let expired = self.offsets.iter().filter(|(topic, _, committed)| {
            let since = emptied_at.map_or(committed.committed_at, |at| at.max(committed.committed_at));
            now.since(since) >= retention_ms && !consumers.is_subscribed_to(topic)
        });
        expired.map(|(topic, partition, _)| (topic.clone(), partition)).collect()
    }

    /// From when on an offset's retention counts; `None` while nothing may expire.
    fn retention_start(&self) -> Option<impl Fn(&CommittedOffset) -> Millis> {
        let emptied_at = match (&self.protocol_type, self.state) {
            // Nobody ever joined: the client manages its own membership, and only its commits tell that it lives.
            (None, State::Empty) => None,
            (Some(_), State::Empty) => self.stored_at,
            // A stable group of consumers has let go of the topics that it is not subscribed to any more.
            (_, State::Stable) if self.uses_consumer_protocol() && self.subscribed_topics.is_some() => None,
            (_, State::Stable | State::PreparingRebalance(_) | State::CompletingRebalance) => return None,
        };
        Some(move |committed: &CommittedOffset| emptied_at.unwrap_or(committed.committed_at))
    }
}
