//! The life of a generation: from a change of membership over the joining phase to the leader's turn.
//!
//! A generation number is used once, for one set of members that all joined it. Members that do not rejoin within the
//! group's rebalance timeout are left behind, static ones excepted, which stay until their session ends. Every request
//! that a removed member had parked is answered.

use wire::Str;

use super::{Group, JoinWait, Refusal, State, Step, join_refused, sync_refused};

impl Group {
    /// After a change of membership: starts a rebalance, or sees whether it completes the one in flight.
    pub(super) fn rebalance_or_complete_join(&mut self, step: &mut Step<'_>) {
        match self.state {
            State::PreparingRebalance(_) => self.complete_join_if_all_joined(step),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(step),
        }
    }

    /// Asks all members to join again.
    pub(super) fn prepare_rebalance(&mut self, step: &mut Step<'_>) {
        if self.state == State::CompletingRebalance {
            self.abandon_assignment(step);
        }
        self.pending_syncs.clear();
        step.timers.cancel(&self.sync_alarm());
        let was_empty = self.state == State::Empty;
        if was_empty {
            let delay_ms = step.config.initial_rebalance_delay_ms.max(0);
            let remaining_ms = (self.members.rebalance_timeout_ms() - delay_ms).max(0);
            self.wait_for_joins(
                JoinWait::Initial { delay_ms, remaining_ms, joined_meanwhile: false },
                delay_ms,
                step,
            );
        } else if self.have_all_joined() {
            self.complete_join(step);
        } else {
            self.wait_for_joins(JoinWait::Rejoin, self.members.rebalance_timeout_ms(), step);
        }
    }

    fn wait_for_joins(&mut self, wait: JoinWait, timeout_ms: i64, step: &mut Step<'_>) {
        self.state = State::PreparingRebalance(wait);
        if timeout_ms == 0 {
            self.complete_join(step);
        } else {
            step.timers.set(self.join_alarm(), step.now.plus(timeout_ms));
        }
    }

    /// An initial delay is sat out even when everybody known is there; it exists for those who are not known yet.
    pub(super) fn complete_join_if_all_joined(&mut self, step: &mut Step<'_>) {
        if self.state == State::PreparingRebalance(JoinWait::Rejoin) && self.have_all_joined() {
            self.complete_join(step);
        }
    }

    fn have_all_joined(&self) -> bool {
        self.pending_joins.is_empty() && self.members.all_joined()
    }

    /// The time for joining is over.
    pub(super) fn join_wait_over(&mut self, step: &mut Step<'_>) {
        match self.state {
            State::PreparingRebalance(JoinWait::Initial {
                delay_ms,
                remaining_ms,
                joined_meanwhile: true,
            }) if remaining_ms > 0 => {
                let next_ms = delay_ms.min(remaining_ms);
                let wait = JoinWait::Initial {
                    delay_ms: next_ms,
                    remaining_ms: (remaining_ms - delay_ms).max(0),
                    joined_meanwhile: false,
                };
                self.wait_for_joins(wait, next_ms, step);
            }
            State::PreparingRebalance(_) => self.complete_join(step),
            State::Empty | State::CompletingRebalance | State::Stable => {}
        }
    }

    /// Forms the next generation out of those who joined.
    fn complete_join(&mut self, step: &mut Step<'_>) {
        step.timers.cancel(&self.join_alarm());
        let late =
            self.members.iter().filter(|member| member.parked_join.is_none() && member.instance_id.is_none());
        let late: Vec<Str> = late.map(|member| member.id.clone()).collect();
        for member_id in late {
            self.remove_member(&member_id, step);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Only static members are left, and none of them is here: their sessions decide.
            self.state = State::PreparingRebalance(JoinWait::Rejoin);
            let again = step.now.plus(self.members.rebalance_timeout_ms());
            step.timers.set(self.join_alarm(), again);
            return;
        }
        // Generations are never negative: -1 on the wire means that there is none.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.pending_syncs.clear();
        self.protocol_name = self.members.elect_protocol();
        if self.members.is_empty() {
            self.store(step, |member| member.assignment.clone());
            assert!(self.state == State::Empty);
            return;
        }
        self.subscribed_topics = self.compute_subscribed_topics();
        self.state = State::CompletingRebalance;
        let ids: Vec<Str> = self.members.ids().cloned().collect();
        for id in ids {
            if let Some(token) = self.members.take_join(&id) {
                step.reply(token, self.joined(&id));
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            self.restart_session(&id, step);
            self.pending_syncs.insert(id);
        }
        step.timers.set(self.sync_alarm(), step.now.plus(self.members.rebalance_timeout_ms()));
    }

    /// Makes sure that the leader is one who joined. False when nobody did.
    fn elect_leader(&mut self) -> bool {
        let joined = |id: &Str| self.members.get(id).is_some_and(|member| member.parked_join.is_some());
        if self.leader.as_ref().is_some_and(joined) {
            return true;
        }
        let successor = self.members.iter().find(|member| member.parked_join.is_some());
        match successor.map(|member| member.id.clone()) {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    /// Members that did not ask for their assignment in time are removed, and the rest rebalances.
    pub(super) fn sync_wait_over(&mut self, step: &mut Step<'_>) {
        let late = std::mem::take(&mut self.pending_syncs);
        match self.state {
            State::CompletingRebalance | State::Stable if !late.is_empty() => {
                for member_id in &late {
                    self.remove_member(member_id, step);
                }
                self.prepare_rebalance(step);
            }
            State::Empty | State::PreparingRebalance(_) | State::CompletingRebalance | State::Stable => {}
        }
    }

    /// A member, or an id that was handed out, has not been heard of.
    pub(super) fn session_expired(&mut self, member_id: &Str, step: &mut Step<'_>) {
        match self.members.get(member_id) {
            None if !self.pending_joins.contains(member_id) => return,
            Some(member) if member.is_excused_from_heartbeats() => return,
            None | Some(_) => {}
        }
        let was_member = self.remove_member(member_id, step);
        match self.state {
            State::CompletingRebalance | State::Stable if was_member => self.prepare_rebalance(step),
            // Unlike a join, a loss ends the initial delay early: there may be nobody left to wait for.
            State::PreparingRebalance(_) if self.have_all_joined() => self.complete_join(step),
            State::Empty | State::PreparingRebalance(_) | State::CompletingRebalance | State::Stable => {}
        }
    }

    /// Who waits is told to join again: the group goes on as another.
    pub(super) fn send_everybody_back(&mut self, step: &mut Step<'_>) {
        for (token, _) in self.take_parked_syncs() {
            step.reply(token, sync_refused(Refusal::RebalanceInProgress));
        }
        for id in self.members.ids().cloned().collect::<Vec<_>>() {
            if let Some(token) = self.members.take_join(&id) {
                step.reply(token, join_refused(id, Refusal::RebalanceInProgress));
            }
        }
    }

    /// Takes a member, or an id that was handed out, out of the group and answers what it has parked. True if it was a
    /// member. What that means for the generation is the caller's business.
    pub(super) fn remove_member(&mut self, member_id: &Str, step: &mut Step<'_>) -> bool {
        self.pending_joins.remove(member_id);
        self.pending_syncs.remove(member_id);
        step.timers.cancel(&self.session_alarm(member_id));
        let Some(member) = self.members.remove(member_id) else { return false };
        if let Some(token) = member.parked_join {
            step.reply(token, join_refused(Str::default(), Refusal::UnknownMember));
        }
        if let Some(token) = member.parked_sync {
            step.reply(token, sync_refused(Refusal::UnknownMember));
        }
        if self.leader.as_ref() == Some(member_id) {
            self.leader = self.members.ids().next().cloned();
        }
        true
    }
}
