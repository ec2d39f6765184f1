//! What a member of a group does next, in both protocols.
//!
//! Pure: what was heard goes in, what is to be done with partitions comes out. Two things hold in both: a partition is given
//! up (released: drained, committed) before the coordinator is told so, and what was lost is dropped at once, since
//! somebody else may read it already.

use std::collections::BTreeSet;

use wire::{ErrorCode, Str, TopicPartition};

/// A member, or one that wants to be.
#[derive(Debug)]
pub(super) struct Membership {
    protocol: Protocol,
    phase: Phase,
    /// In the classic protocol empty until the coordinator gives one.
    member_id: Str,
    /// The generation, -1 without; in the consumer protocol the member's epoch, 0 to join.
    epoch: i32,
    /// What the coordinator wants it to read (consumer protocol).
    target: BTreeSet<TopicPartition>,
    /// It has to join again although nobody asked: what it wants to read is another.
    is_changed: bool,
    /// The coordinator is to hear from it now, not after an interval.
    is_urgent: bool,
    /// Counts its losses and leaves: an answer to a question of before is about somebody else.
    stint: u64,
}

/// How partitions change hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The members assign; all is given up before joining again.
    Eager,
    /// The members assign; only what moves is given up.
    Cooperative,
    /// The coordinator assigns (KIP-848).
    Consumer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    Stable,
    /// Partitions are being given up; the coordinator is told afterwards.
    Releasing,
    /// Not a member.
    Outside,
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Join,
    Heartbeat,
}

/// What the coordinator said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Heard {
    /// Join again under this id.
    MemberId(Str),
    /// It joined.
    Joined {
        member_id: Str,
        epoch: i32,
        assignment: BTreeSet<TopicPartition>,
    },
    /// It is alive; in the consumer protocol, in this epoch and with what it is to read, if that changed.
    Alive {
        epoch: Option<i32>,
        target: Option<BTreeSet<TopicPartition>>,
    },
    Refused(ErrorCode),
    /// It has not been heard for as long as a session lasts. It joins again as another member, under this id: what it had
    /// under way as the one it was must not count for what it is given then, and the coordinator may know nothing of a break.
    Silence {
        anew: Str,
    },
}

/// What to do with partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Begin(BTreeSet<TopicPartition>),
    Release(BTreeSet<TopicPartition>),
    /// All of them are somebody else's.
    Lose,
    /// There is no way on.
    Fail(ErrorCode),
}

impl Membership {
    /// Joins. In the consumer protocol the member makes its own id.
    pub(super) fn new(protocol: Protocol, member_id: Str) -> Self {
        Self {
            protocol,
            phase: Phase::Joining,
            member_id,
            epoch: no_epoch(protocol),
            target: BTreeSet::new(),
            is_changed: false,
            is_urgent: true,
            stint: 0,
        }
    }

    pub(super) fn stint(&self) -> u64 {
        self.stint
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn member_id(&self) -> &Str {
        &self.member_id
    }

    pub(super) fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Whether the epoch stays what it is unless something is heard.
    pub(super) fn is_settled(&self) -> bool {
        self.phase != Phase::Joining
    }

    /// Whether there is anything to take leave from.
    pub(super) fn is_known(&self) -> bool {
        self.phase != Phase::Outside && !self.member_id.is_empty()
    }

    /// What to send next; nothing outside of the group.
    pub(super) fn ask(&self) -> Option<Ask> {
        match self.phase {
            Phase::Joining => Some(Ask::Join),
            Phase::Stable | Phase::Releasing => Some(Ask::Heartbeat),
            Phase::Outside => None,
        }
    }

    /// Whether that is to go out at once. Asked once for each time.
    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    pub(super) fn sent(&mut self) {
        self.is_urgent = false;
    }

    /// Takes in what the coordinator said to a member that owns these partitions.
    pub(super) fn heard(&mut self, heard: Heard, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        match heard {
            _ if self.phase == Phase::Outside => Vec::new(),
            Heard::MemberId(member_id) => {
                self.member_id = member_id;
                self.is_urgent = true;
                Vec::new()
            }
            Heard::Joined { member_id, epoch, assignment } => {
                (self.member_id, self.epoch, self.phase) = (member_id, epoch, Phase::Stable);
                let actions = self.follow(&assignment, owned);
                match std::mem::take(&mut self.is_changed) && self.phase == Phase::Stable {
                    // What it was given until now counts as begun.
                    true => [actions, self.rebalance(&assignment)].concat(),
                    false => actions,
                }
            }
            Heard::Alive { epoch, target } => {
                if let Some(epoch) = epoch {
                    self.epoch = epoch;
                    if self.phase == Phase::Joining {
                        self.phase = Phase::Stable;
                    }
                }
                match target {
                    Some(target) => {
                        self.target = target;
                        self.reconcile(owned)
                    }
                    None => Vec::new(),
                }
            }
            Heard::Refused(code) => self.refused(code, owned),
            Heard::Silence { anew } => {
                self.member_id = anew;
                self.lose()
            }
        }
    }

    fn refused(&mut self, code: ErrorCode, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        match code {
            ErrorCode::REBALANCE_IN_PROGRESS => self.rebalance(owned),
            ErrorCode::UNKNOWN_MEMBER_ID if self.protocol != Protocol::Consumer => {
                self.member_id = Str::default();
                self.lose()
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH | ErrorCode::ILLEGAL_GENERATION => {
                self.lose()
            }
            code => {
                self.phase = Phase::Outside;
                vec![Action::Lose, Action::Fail(code)]
            }
        }
    }

    /// Partitions are to change hands.
    fn rebalance(&mut self, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        match (self.phase, self.protocol) {
            (Phase::Stable, Protocol::Eager) if !owned.is_empty() => {
                self.phase = Phase::Releasing;
                vec![Action::Release(owned.clone())]
            }
            (Phase::Stable | Phase::Joining, _) => {
                self.phase = Phase::Joining;
                self.is_urgent = true;
                Vec::new()
            }
            // It joins when they are given up.
            (Phase::Releasing | Phase::Outside, _) => Vec::new(),
        }
    }

    /// From what it owns to what it is assigned, in the classic protocol.
    fn follow(
        &mut self,
        assigned: &BTreeSet<TopicPartition>,
        owned: &BTreeSet<TopicPartition>,
    ) -> Vec<Action> {
        let added: BTreeSet<_> = assigned.difference(owned).cloned().collect();
        let moving: BTreeSet<_> = owned.difference(assigned).cloned().collect();
        let mut actions = Vec::new();
        if !added.is_empty() {
            actions.push(Action::Begin(added));
        }
        if !moving.is_empty() {
            self.phase = Phase::Releasing;
            actions.push(Action::Release(moving));
        }
        actions
    }

    /// From what it owns to what the coordinator wants, in the consumer protocol; one step at a time.
    fn reconcile(&mut self, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        if self.phase != Phase::Stable {
            return Vec::new();
        }
        let target = std::mem::take(&mut self.target);
        let actions = self.follow(&target, owned);
        self.target = target;
        // The coordinator hears what it owns once there is nothing to give up any more.
        self.is_urgent |= self.phase == Phase::Stable && !actions.is_empty();
        actions
    }

    /// What was to be given up is.
    pub(super) fn released(&mut self, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        if self.phase != Phase::Releasing {
            return Vec::new();
        }
        self.is_urgent = true;
        match self.protocol {
            Protocol::Consumer => {
                self.phase = Phase::Stable;
                self.reconcile(owned)
            }
            Protocol::Eager | Protocol::Cooperative => {
                self.phase = Phase::Joining;
                self.is_changed = false;
                Vec::new()
            }
        }
    }

    /// What it wants to read is another, or what there is to read.
    pub(super) fn changed(&mut self, owned: &BTreeSet<TopicPartition>) -> Vec<Action> {
        self.is_urgent = true;
        match (self.protocol, self.phase) {
            (Protocol::Consumer, _) => Vec::new(),
            (_, Phase::Joining) => {
                self.is_changed = true;
                Vec::new()
            }
            _ => self.rebalance(owned),
        }
    }

    fn lose(&mut self) -> Vec<Action> {
        self.stint += 1;
        self.phase = Phase::Joining;
        self.epoch = no_epoch(self.protocol);
        self.target.clear();
        self.is_urgent = true;
        vec![Action::Lose]
    }

    /// It is no member any more.
    pub(super) fn leave(&mut self) {
        self.stint += 1;
        self.phase = Phase::Outside;
        self.epoch = no_epoch(self.protocol);
        self.target.clear();
    }

    /// It wants to be one again, another one: that it left may not have arrived.
    pub(super) fn enter(&mut self, anew: Str) {
        if self.phase == Phase::Outside {
            self.phase = Phase::Joining;
            self.is_urgent = true;
            self.member_id = anew;
        }
    }
}

fn no_epoch(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Eager | Protocol::Cooperative => -1,
        Protocol::Consumer => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use expect_test::{Expect, expect};
    use wire::{ErrorCode, PartitionId, Str, TopicPartition};

    use super::{Action, Heard, Membership, Protocol};

    fn partitions(numbers: &str) -> BTreeSet<TopicPartition> {
        let partition = |number: char| TopicPartition::new("t", PartitionId(number as i32 - '0' as i32));
        numbers.chars().filter(char::is_ascii_digit).map(partition).collect()
    }

    fn numbers(partitions: &BTreeSet<TopicPartition>) -> String {
        partitions.iter().map(|partition| partition.partition.to_string()).collect()
    }

    /// `joined 5 012`, `alive`, `alive 3 01`, `released`, `changed`, `silence`, `leave`, `enter`, or an error's name. What
    /// is released stays owned until `released`.
    fn check(protocol: Protocol, story: &[&str], expected: Expect) {
        let mut member = Membership::new(protocol, Str::from("m"));
        let (mut owned, mut releasing) = (BTreeSet::new(), BTreeSet::new());
        let mut shown = String::new();
        for line in story {
            let words: Vec<&str> = line.split(' ').collect();
            let epoch = words.get(1).map(|word| word.parse().unwrap());
            let told = words.get(2).map(|word| partitions(word));
            member.sent();
            let actions = match words[0] {
                "joined" => member.heard(
                    Heard::Joined { member_id: "m".into(), epoch: epoch.unwrap(), assignment: told.unwrap() },
                    &owned,
                ),
                "alive" => member.heard(Heard::Alive { epoch, target: told }, &owned),
                "released" => {
                    owned.retain(|partition| !releasing.contains(partition));
                    member.released(&owned)
                }
                "changed" => member.changed(&owned),
                "silence" => member.heard(Heard::Silence { anew: "another".into() }, &owned),
                "leave" => {
                    member.leave();
                    Vec::new()
                }
                "enter" => {
                    member.enter("another".into());
                    Vec::new()
                }
                name => {
                    let code = (0..200).map(ErrorCode).find(|code| code.name() == name).unwrap();
                    member.heard(Heard::Refused(code), &owned)
                }
            };
            shown += &format!("{line}:");
            for action in actions {
                shown += &match action {
                    Action::Begin(added) => {
                        owned.extend(added.iter().cloned());
                        format!(" begin {}", numbers(&added))
                    }
                    Action::Release(moving) => {
                        let said = format!(" release {}", numbers(&moving));
                        releasing = moving;
                        said
                    }
                    Action::Lose => {
                        owned.clear();
                        " lose all".to_owned()
                    }
                    Action::Fail(code) => format!(" fail with {}", code.name()),
                };
            }
            let now = if member.is_urgent() { " now" } else { "" };
            let next = member.ask().map_or("nothing".to_owned(), |ask| format!("{ask:?}{now}"));
            shown += &format!(" -> {next}, epoch {}, owns {}\n", member.epoch(), numbers(&owned));
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn eagerly_all_is_given_up_before_joining_again() {
        check(
            Protocol::Eager,
            &[
                "joined 1 01",
                "alive",
                "REBALANCE_IN_PROGRESS",
                "REBALANCE_IN_PROGRESS",
                "released",
                "joined 2 0",
            ],
            expect![[r#"
                joined 1 01: begin 01 -> Heartbeat, epoch 1, owns 01
                alive: -> Heartbeat, epoch 1, owns 01
                REBALANCE_IN_PROGRESS: release 01 -> Heartbeat, epoch 1, owns 01
                REBALANCE_IN_PROGRESS: -> Heartbeat, epoch 1, owns 01
                released: -> Join now, epoch 1, owns 
                joined 2 0: begin 0 -> Heartbeat, epoch 2, owns 0
            "#]],
        );
    }

    #[test]
    fn cooperatively_only_what_moves_is_given_up_and_then_joined_again() {
        check(
            Protocol::Cooperative,
            &["joined 1 01", "REBALANCE_IN_PROGRESS", "joined 2 02", "alive", "released", "joined 3 02"],
            expect![[r#"
                joined 1 01: begin 01 -> Heartbeat, epoch 1, owns 01
                REBALANCE_IN_PROGRESS: -> Join now, epoch 1, owns 01
                joined 2 02: begin 2 release 1 -> Heartbeat, epoch 2, owns 012
                alive: -> Heartbeat, epoch 2, owns 012
                released: -> Join now, epoch 2, owns 02
                joined 3 02: -> Heartbeat, epoch 3, owns 02
            "#]],
        );
    }

    #[test]
    fn who_is_unknown_or_silent_loses_all_and_joins_again() {
        check(
            Protocol::Cooperative,
            &[
                "joined 1 01",
                "UNKNOWN_MEMBER_ID",
                "joined 2 0",
                "silence",
                "joined 3 1",
                "ILLEGAL_GENERATION",
            ],
            expect![[r#"
                joined 1 01: begin 01 -> Heartbeat, epoch 1, owns 01
                UNKNOWN_MEMBER_ID: lose all -> Join now, epoch -1, owns 
                joined 2 0: begin 0 -> Heartbeat, epoch 2, owns 0
                silence: lose all -> Join now, epoch -1, owns 
                joined 3 1: begin 1 -> Heartbeat, epoch 3, owns 1
                ILLEGAL_GENERATION: lose all -> Join now, epoch -1, owns 
            "#]],
        );
        check(
            Protocol::Eager,
            &[
                "joined 1 01",
                "REBALANCE_IN_PROGRESS",
                "silence",
                "released",
                "joined 2 0",
                "FENCED_INSTANCE_ID",
                "alive",
            ],
            expect![[r#"
                joined 1 01: begin 01 -> Heartbeat, epoch 1, owns 01
                REBALANCE_IN_PROGRESS: release 01 -> Heartbeat, epoch 1, owns 01
                silence: lose all -> Join now, epoch -1, owns 
                released: -> Join, epoch -1, owns 
                joined 2 0: begin 0 -> Heartbeat, epoch 2, owns 0
                FENCED_INSTANCE_ID: lose all fail with FENCED_INSTANCE_ID -> nothing, epoch 2, owns 
                alive: -> nothing, epoch 2, owns 
            "#]],
        );
    }

    #[test]
    fn another_subscription_while_joining_is_joined_with_afterwards() {
        check(
            Protocol::Cooperative,
            &["changed", "joined 1 01", "joined 2 01", "changed"],
            expect![[r#"
            changed: -> Join now, epoch -1, owns 
            joined 1 01: begin 01 -> Join now, epoch 1, owns 01
            joined 2 01: -> Heartbeat, epoch 2, owns 01
            changed: -> Join now, epoch 2, owns 01
        "#]],
        );
        check(
            Protocol::Eager,
            &["changed", "joined 1 01", "released"],
            expect![[r#"
            changed: -> Join now, epoch -1, owns 
            joined 1 01: begin 01 release 01 -> Heartbeat, epoch 1, owns 01
            released: -> Join now, epoch 1, owns 
        "#]],
        );
    }

    #[test]
    fn in_the_consumer_protocol_the_coordinator_hears_when_all_is_given_up() {
        check(
            Protocol::Consumer,
            &["alive 1 01", "alive 1", "alive 2 02", "alive 2 23", "released", "released", "alive 3"],
            expect![[r#"
                alive 1 01: begin 01 -> Heartbeat now, epoch 1, owns 01
                alive 1: -> Heartbeat, epoch 1, owns 01
                alive 2 02: begin 2 release 1 -> Heartbeat, epoch 2, owns 012
                alive 2 23: -> Heartbeat, epoch 2, owns 012
                released: begin 3 release 0 -> Heartbeat now, epoch 2, owns 023
                released: -> Heartbeat now, epoch 2, owns 23
                alive 3: -> Heartbeat, epoch 3, owns 23
            "#]],
        );
        check(
            Protocol::Consumer,
            &["alive 1 01", "FENCED_MEMBER_EPOCH", "alive 4 0", "leave", "alive 5 1", "enter", "alive 6 1"],
            expect![[r#"
                alive 1 01: begin 01 -> Heartbeat now, epoch 1, owns 01
                FENCED_MEMBER_EPOCH: lose all -> Join now, epoch 0, owns 
                alive 4 0: begin 0 -> Heartbeat now, epoch 4, owns 0
                leave: -> nothing, epoch 0, owns 0
                alive 5 1: -> nothing, epoch 0, owns 0
                enter: -> Join now, epoch 0, owns 0
                alive 6 1: begin 1 release 0 -> Heartbeat, epoch 6, owns 01
            "#]],
        );
        check(
            Protocol::Consumer,
            &["INVALID_REGULAR_EXPRESSION"],
            expect![[r#"
            INVALID_REGULAR_EXPRESSION: lose all fail with INVALID_REGULAR_EXPRESSION -> nothing, epoch 0, owns 
        "#]],
        );
    }
}
