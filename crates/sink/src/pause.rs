//! A pause: a mark in the cluster that holds a line's instances, those that run and those that are started later.
//!
//! It is an offset of the group `LINE.control`, which has no members, in partition 0 of each topic that is read: 1 is paused, and 0 or none
//! is not. So it is where both lines have something in common, it says nothing about positions and takes no fence, and each change is
//! the same when it is made twice. A broker that forgets an offset which nobody renews, and remembers what it was, still says that
//! the line is paused.

use client::{Admin, Cluster, Error, GroupOffsets};
use wire::{Offset, PartitionId, Str, TopicPartition};

use crate::key::LineName;
use crate::run::RunError;
use crate::settings::{Line, Settings};

const PAUSED: Offset = Offset(1);
const GOING: Offset = Offset(0);

/// What is wanted of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// They commit what they have in hand, and read nothing more.
    Pause,
    /// They go on.
    Resume,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The line.
    pub line: Line,
    /// Whether it was paused.
    pub was_paused: bool,
    /// Whether it is.
    pub is_paused: bool,
}

/// Pauses the lines that are declared, or lets them go on. It is durable when this returns; instances see it some seconds later.
pub async fn hold(settings: &Settings, cluster: &Cluster, hold: Hold) -> Result<Vec<Held>, RunError> {
    let admin = Admin::new(cluster.clone());
    let wanted = match hold {
        Hold::Pause => PAUSED,
        Hold::Resume => GOING,
    };
    let marks: Vec<_> = marks(settings).map(|mark| (mark, wanted)).collect();
    let mut all = Vec::new();
    for line in settings.lines() {
        let was_paused = is_paused(&admin, settings, line).await?;
        for (_, set) in admin.set_group_offsets(&group(&settings.line_name(line)), &marks).await? {
            set?;
        }
        all.push(Held { line, was_paused, is_paused: wanted == PAUSED });
    }
    Ok(all)
}

/// Whether a line is paused.
pub(crate) async fn is_paused(admin: &Admin, settings: &Settings, line: Line) -> Result<bool, Error> {
    let offsets = admin.group_offsets(&group(&settings.line_name(line))).await?;
    Ok(says_paused(settings, &offsets))
}

fn says_paused(settings: &Settings, offsets: &GroupOffsets) -> bool {
    marks(settings).any(|mark| {
        let committed = offsets.committed.get(&mark).map(|committed| committed.offset);
        let forgotten = offsets.expired.get(&mark).map(|expired| expired.offset);
        committed.or(forgotten).is_some_and(|offset| offset != GOING)
    })
}

fn group(line: &LineName) -> Str {
    Str::copy_from(&format!("{line}.control"))
}

/// In each topic, so that the mark stays while topics come and go.
fn marks(settings: &Settings) -> impl Iterator<Item = TopicPartition> {
    settings.topics.iter().map(|topic| TopicPartition::new(topic.clone(), PartitionId(0)))
}

#[cfg(test)]
mod tests {
    use client::{CommittedOffset, ExpiredOffset};
    use wire::{LeaderEpoch, Millis};

    use super::*;

    fn check(committed: &[(&str, i64)], expired: &[(&str, i64)], expected: bool) {
        let text = "name = \"s\"\ntopics = [\"a\", \"b\"]\n[nearline]\ntopic = \"out\"\n";
        let settings = Settings::parse(text).unwrap();
        let place = |topic: &str| TopicPartition::new(Str::copy_from(topic), PartitionId(0));
        let mut offsets = GroupOffsets::default();
        for &(topic, offset) in committed {
            let (offset, leader_epoch) = (Offset(offset), LeaderEpoch::NONE);
            offsets.committed.insert(place(topic), CommittedOffset { offset, leader_epoch, metadata: None });
        }
        for &(topic, offset) in expired {
            let expired = ExpiredOffset { offset: Offset(offset), expired_at: Millis(7) };
            offsets.expired.insert(place(topic), expired);
        }
        assert_eq!(says_paused(&settings, &offsets), expected, "{committed:?} {expired:?}");
    }

    #[test]
    fn a_mark_counts_in_any_topic_and_when_it_was_forgotten_too() {
        check(&[], &[], false);
        check(&[("a", 1), ("b", 1)], &[], true);
        check(&[("a", 0), ("b", 0)], &[], false);
        // A topic was added, or one of them was made anew.
        check(&[("b", 1)], &[], true);
        check(&[("c", 1)], &[], false);
        check(&[], &[("a", 1)], true);
        check(&[("a", 0)], &[("a", 1)], false);
    }
}
