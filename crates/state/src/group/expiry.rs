//! Expiration of committed offsets, and of groups that have none left (KIP-211).
//!
//! What a live group reads never expires: its offsets stay while it is subscribed to the topic. An empty group's offsets
//! count their retention from when it became empty, those of clients without membership from their last commit.
//! That an offset has expired is remembered for a while: see `traces`.

use wire::{Millis, PartitionId, Str};

use super::offsets::CommittedOffset;
use super::records::Event;
use super::{Group, Groups, Outcome, State};

impl Groups {
    /// Forgets expired offsets, and empty groups without offsets. To be called every
    /// `offsets.retention.check.interval.ms`.
    pub fn expire_offsets(&mut self, now: Millis) -> Outcome {
        let mut outcome = Outcome::default();
        let ids: Vec<Str> = self.groups.keys().cloned().collect();
        for id in ids {
            let Some(group) = self.groups.get(&id) else { continue };
            let mut expired = group.expired_offsets(now, self.config.offsets_retention_ms);
            // What replaces it may be committed at any moment.
            expired.retain(|(topic, partition)| !self.pending.holds(&id, topic, *partition));
            self.expire(&id, expired, now, &mut outcome);
            let Some(group) = self.groups.get(&id) else { continue };
            // A member id that was handed out is worth waiting for: without the group its owner would be unknown.
            let is_idle =
                group.state == State::Empty && group.offsets.is_empty() && group.pending_joins.is_empty();
            if is_idle && !self.pending.holds_group(&id) {
                let event = Event::GroupForgotten { group: id };
                outcome.records.push(event.encode());
                self.apply(event);
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
