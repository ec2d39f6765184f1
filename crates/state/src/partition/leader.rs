//! The leader's half: votes, the high watermark, and who is in sync.
//!
//! A replica votes with its *durable* end. A follower joins the in-sync set when its vote has reached both the high watermark
//! and the first offset of the leader's epoch: what an earlier leader may have acknowledged lies below that. The set itself
//! is the controller's to change; until it answers, the larger of the two sets counts for the high watermark (KIP-497), and
//! the one that is committed counts for `min.insync.replicas` (KIP-966).

use std::collections::BTreeMap;

use wire::{BrokerId, Millis, Offset};

use super::Assignment;

/// How a broker begins to lead.
#[derive(Clone, Debug)]
pub struct LeaderStart {
    /// The broker itself.
    pub this: BrokerId,
    /// What the metadata says.
    pub assignment: Assignment,
    /// What the broker knew to be safe before it led.
    pub high_watermark: Offset,
    /// The end of its log: the first offset of its epoch.
    pub log_end: Offset,
    /// Its own vote.
    pub durable_end: Offset,
    /// A clock that never goes back.
    pub now: Millis,
}

/// A follower's fetch, which tells what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Who fetches.
    pub replica: BrokerId,
    /// The epoch of its registration.
    pub broker_epoch: i64,
    /// Where it reads on: the end of its log.
    pub offset: Offset,
    /// Up to where it has made its log durable: its vote.
    pub durable_end: Offset,
    /// A clock that never goes back.
    pub now: Millis,
}

/// A set in sync that the leader asks the controller for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// The set, each with the epoch of its registration (KIP-903); of the leader, `None`.
    pub isr: Vec<(BrokerId, Option<i64>)>,
    /// The partition's epoch that the proposal stands on.
    pub partition_epoch: i32,
}

/// What is known of one follower.
#[derive(Clone, Copy, Debug)]
struct Follower {
    broker_epoch: i64,
    vote: Offset,
    /// It held, some time after this moment, all that the leader held at it.
    caught_up: Millis,
    /// The next such moment, once the vote reaches the offset.
    mark: (Millis, Offset),
}

/// A partition as its leader sees it.
#[derive(Clone, Debug)]
pub struct Leader {
    this: BrokerId,
    assignment: Assignment,
    epoch_start: Offset,
    log_end: Offset,
    vote: Offset,
    high_watermark: Offset,
    followers: BTreeMap<BrokerId, Follower>,
    pending: Option<IsrProposal>,
}

impl Leader {
    /// Begins an epoch.
    pub fn new(start: LeaderStart) -> Self {
        assert!(start.assignment.isr.contains(&start.this), "a leader is in sync with itself");
        assert!(start.durable_end <= start.log_end);
        let mut leader = Leader {
            this: start.this,
            assignment: start.assignment,
            epoch_start: start.log_end,
            log_end: start.log_end,
            vote: start.durable_end,
            high_watermark: start.high_watermark.min(start.log_end),
            followers: BTreeMap::new(),
            pending: None,
        };
        leader.meet_followers(start.now);
        leader.advance();
        leader
    }

    /// What the metadata says, as far as it is known here.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The end of what is safe on every replica in sync.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether the high watermark has reached the first offset of the epoch. Before, an earlier leader may have shown more.
    pub fn is_watermark_sure(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    /// Whether enough replicas are in sync to promise safety (`acks=all`).
    pub fn has_enough_in_sync(&self) -> bool {
        self.assignment.isr.len() >= self.assignment.isr_min
    }

    /// Whether a proposal waits for the controller.
    pub fn is_proposing(&self) -> bool {
        self.pending.is_some()
    }

    /// Whom the controller was asked to take into the in-sync set, and has not answered.
    pub fn joining(&self) -> Vec<BrokerId> {
        let asked = self.pending.iter().flat_map(|pending| pending.isr.iter().map(|(id, _)| *id));
        asked.filter(|id| !self.assignment.isr.contains(id)).collect()
    }

    /// How far a follower has made its log durable, as it last said.
    pub fn vote_of(&self, replica: BrokerId) -> Option<Offset> {
        if replica == self.this { Some(self.vote) } else { Some(self.followers.get(&replica)?.vote) }
    }

    /// The own log has grown, or more of it is durable. The new high watermark, if it moved.
    pub fn local_progress(&mut self, log_end: Offset, durable_end: Offset) -> Option<Offset> {
        assert!(durable_end <= log_end);
        self.log_end = self.log_end.max(log_end);
        self.vote = self.vote.max(durable_end);
        self.advance()
    }

    /// A follower fetches in the leader's epoch. The new high watermark, if it moved; `None` too for a broker that is no
    /// replica or speaks with the epoch of a former start.
    pub fn fetched(&mut self, fetched: Fetched) -> Option<Offset> {
        let log_end = self.log_end;
        let follower = self.followers.get_mut(&fetched.replica)?;
        if fetched.broker_epoch < follower.broker_epoch {
            return None;
        }
        if fetched.broker_epoch > follower.broker_epoch {
            // Another start of the broker: what its log holds is told anew.
            follower.broker_epoch = fetched.broker_epoch;
            follower.vote = Offset::ZERO;
            follower.mark = (fetched.now, log_end);
        }
        // Where it reads on is the end of its log; a vote beyond would be for what it does not have. In one start of a broker
        // and one epoch of a leader a log that was compared with the leader's only grows: what says less is older.
        follower.vote = follower.vote.max(fetched.durable_end.min(fetched.offset));
        if follower.vote >= log_end {
            follower.caught_up = fetched.now;
            follower.mark = (fetched.now, log_end);
        } else if follower.vote >= follower.mark.1 {
            follower.caught_up = follower.caught_up.max(follower.mark.0);
            follower.mark = (fetched.now, log_end);
        }
        self.advance()
    }

    /// A follower tells, between two fetches, what it has made durable. It counts only from one whose log was compared with
    /// this leader's, which its fetches are for.
    pub fn acknowledged(&mut self, acknowledged: Fetched) -> Option<Offset> {
        let follower = self.followers.get(&acknowledged.replica)?;
        if follower.broker_epoch != acknowledged.broker_epoch {
            return None;
        }
        self.fetched(acknowledged)
    }

    /// The set in sync that should be asked for now, if it differs and no question is open: without those that have not
    /// caught up for `lag_max_ms`, with those that have what it takes. `joins` says who may be named to the controller at
    /// all: registered, and not about to leave.
    pub fn propose(
        &mut self,
        now: Millis,
        lag_max_ms: i64,
        joins: impl Fn(BrokerId) -> bool,
    ) -> Option<IsrProposal> {
        if self.pending.is_some() {
            return None;
        }
        let in_sync = |id: &BrokerId| {
            let was_in_sync = self.assignment.isr.contains(id);
            let Some(follower) = self.followers.get(id) else { return *id == self.this };
            if was_in_sync {
                now.0.saturating_sub(follower.caught_up.0) <= lag_max_ms
            } else {
                follower.broker_epoch >= 0
                    && follower.vote >= self.high_watermark
                    && follower.vote >= self.epoch_start
                    && joins(*id)
            }
        };
        let wanted: Vec<BrokerId> = self.assignment.replicas.iter().copied().filter(in_sync).collect();
        let is_same = wanted.len() == self.assignment.isr.len()
            && wanted.iter().all(|id| self.assignment.isr.contains(id));
        if is_same || !wanted.contains(&self.this) {
            return None;
        }
        let isr = wanted
            .into_iter()
            .map(|id| (id, self.followers.get(&id).map(|follower| follower.broker_epoch)))
            .collect();
        let proposal = IsrProposal { isr, partition_epoch: self.assignment.partition_epoch };
        self.pending = Some(proposal.clone());
        Some(proposal)
    }

    /// The controller did not take the proposal, or its answer is lost: whoever was to join no longer holds the high
    /// watermark back, once it is sure that the proposal cannot be taken any more.
    pub fn proposal_refused(&mut self) -> Option<Offset> {
        self.pending = None;
        self.advance()
    }

    /// The partition has changed within the leader's epoch. The new high watermark, if it moved.
    pub fn update(&mut self, assignment: Assignment, now: Millis) -> Option<Offset> {
        assert!(assignment.leader_epoch == self.assignment.leader_epoch, "another epoch is another leader");
        if assignment.partition_epoch < self.assignment.partition_epoch {
            return None;
        }
        if self.pending.as_ref().is_some_and(|pending| pending.partition_epoch < assignment.partition_epoch) {
            // Taken, or overtaken.
            self.pending = None;
        }
        // Whoever the controller took out has to tell anew what it holds before it joins again.
        for left in self.assignment.isr.iter().filter(|id| !assignment.isr.contains(id)) {
            if let Some(follower) = self.followers.get_mut(left) {
                follower.vote = Offset::ZERO;
            }
        }
        self.assignment = assignment;
        self.meet_followers(now);
        self.advance()
    }

    /// Followers that are new are given the time that others have to catch up; those that left are forgotten.
    fn meet_followers(&mut self, now: Millis) {
        let replicas = &self.assignment.replicas;
        self.followers.retain(|id, _| replicas.contains(id));
        for id in replicas.iter().filter(|id| **id != self.this) {
            self.followers.entry(*id).or_insert(Follower {
                broker_epoch: -1,
                vote: Offset::ZERO,
                caught_up: now,
                mark: (now, self.log_end),
            });
        }
    }

    /// Moves the high watermark to what all have that may be asked for it next.
    fn advance(&mut self) -> Option<Offset> {
        if !self.has_enough_in_sync() {
            return None;
        }
        let joining = self.pending.iter().flat_map(|pending| pending.isr.iter().map(|(id, _)| *id));
        let members = self.assignment.isr.iter().copied().chain(joining);
        let safe = members.map(|id| self.vote_of(id).unwrap_or(Offset::ZERO)).min()?;
        assert!(safe <= self.log_end, "nobody has what the leader does not");
        if safe <= self.high_watermark {
            return None;
        }
        self.high_watermark = safe;
        Some(safe)
    }
}
