//! Where a follower cuts its log so that it is a prefix of its leader's (KIP-101, KIP-279).
//!
//! The leader of the follower's own epoch answers with the largest epoch that it knows, up to the follower's last one, and
//! where that epoch ended in its log. A follower never cuts at its own high watermark.

use wire::{LeaderEpoch, Offset};

/// An epoch and the offset after its last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end: Offset,
}

/// The offset from which on the follower's log is not the leader's. `local` is the largest epoch in the follower's log that
/// is at most the leader's answer, and its end there; `None` when the follower knows no such epoch. After the cut the
/// follower asks again: where the two know different epochs, several steps lead back to the common one.
pub fn truncation(leader: EpochEnd, local: Option<EpochEnd>, log_start: Offset, log_end: Offset) -> Offset {
    let cut = match local {
        Some(local) if local.epoch == leader.epoch => local.end.min(leader.end),
        // The leader's epoch is not known here: nothing above the last older one can be common.
        Some(local) => local.end,
        None => log_start,
    };
    cut.min(log_end).max(log_start.min(log_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(leader: (i32, i64), local: Option<(i32, i64)>, expected: i64) {
        let end = |(epoch, end)| EpochEnd { epoch: LeaderEpoch(epoch), end: Offset(end) };
        assert_eq!(truncation(end(leader), local.map(end), Offset(5), Offset(100)), Offset(expected));
    }

    #[test]
    fn the_shorter_end_of_a_common_epoch_is_the_cut() {
        check((3, 40), Some((3, 60)), 40);
        check((3, 60), Some((3, 40)), 40);
    }

    #[test]
    fn an_epoch_that_only_the_leader_knows_leads_back_to_the_one_before() {
        check((3, 90), Some((2, 30)), 30);
        check((3, 90), None, 5);
    }

    #[test]
    fn the_cut_lies_inside_the_log() {
        check((3, 300), Some((3, 200)), 100);
        check((3, 1), Some((3, 2)), 5);
    }
}
