//! Positions of the near-real-time line: a consumer group's offsets, each with metadata that says of what it is a position.
//!
//! A group's offset is one of a topic's name. The metadata beside it names the cluster, the topic itself and the output, and where the
//! line began, so that an offset of another topic of that name, one of another output, and one that somebody has set by hand are
//! refused and never gone on from.

use client::CommittedOffset;
use offsets::Position;
use wire::{Offset, Str, Uuid};

use crate::key::Key;
use crate::run::RunError;

/// The first word of the metadata, in case others follow.
const FORM: &str = "ottla.sink/1";

/// A line's position in a partition, and where it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Where it began.
    pub(crate) begun: Offset,
    /// Up to where everything is in the output.
    pub(crate) position: Position,
}

impl Kept {
    /// What is committed. `output` is the output's topic id.
    pub(crate) fn committed(&self, key: &Key, output: Uuid) -> CommittedOffset {
        let (topic_id, begun) = (key.topic_id, self.begun);
        let metadata =
            format!("{FORM} topic={topic_id} output={output} begun={begun} cluster={}", key.cluster_id);
        CommittedOffset {
            offset: self.position.next,
            leader_epoch: self.position.leader_epoch,
            metadata: Some(Str::copy_from(&metadata)),
        }
    }

    /// What was committed, if it is a position in this partition.
    pub(crate) fn read(committed: &CommittedOffset, key: &Key, output: Uuid) -> Result<Self, RunError> {
        let metadata = committed.metadata.as_deref().unwrap_or_default();
        let problem = match parse(metadata) {
            None => format!(
                "was not committed by the line: {} with the metadata {metadata:?}; to begin anew, give the sink another name",
                committed.offset
            ),
            Some(said) if said.cluster_id != key.cluster_id => {
                format!("is of cluster {}, and this one is {}", said.cluster_id, key.cluster_id)
            }
            Some(said) if said.topic_id != key.topic_id => format!(
                "is of topic id {}, and the topic has {}: it was deleted and created again",
                said.topic_id, key.topic_id
            ),
            Some(said) if said.output != output => format!(
                "is of what is in the output topic with id {}, and the output has {output}: it is another, or was deleted and created again",
                said.output
            ),
            Some(Said { begun, .. }) => {
                let position = Position { next: committed.offset, leader_epoch: committed.leader_epoch };
                return Ok(Self { begun, position });
            }
        };
        Err(RunError::Committed { key: Box::new(key.clone()), problem })
    }
}

struct Said<'a> {
    cluster_id: &'a str,
    topic_id: Uuid,
    output: Uuid,
    begun: Offset,
}

fn parse(metadata: &str) -> Option<Said<'_>> {
    let mut words = metadata.splitn(5, ' ');
    if words.next()? != FORM {
        return None;
    }
    Some(Said {
        topic_id: words.next()?.strip_prefix("topic=")?.parse().ok()?,
        output: words.next()?.strip_prefix("output=")?.parse().ok()?,
        begun: Offset(words.next()?.strip_prefix("begun=")?.parse().ok()?),
        cluster_id: words.next()?.strip_prefix("cluster=")?,
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use wire::{LeaderEpoch, PartitionId, TopicPartition};

    use super::*;

    fn key(cluster_id: &str, topic_id: u128) -> Key {
        let partition = TopicPartition::new(Str::from("orders"), PartitionId(0));
        let (line, cluster_id) = ("orders.nearline".parse().unwrap(), cluster_id.to_owned());
        Key { line, cluster_id, partition, topic_id: Uuid(topic_id.to_be_bytes()) }
    }

    fn check(committed: &CommittedOffset, key: &Key, output: u128, expected: Expect) {
        expected.assert_eq(&match Kept::read(committed, key, Uuid(output.to_be_bytes())) {
            Ok(kept) => format!("from {} to {}", kept.begun, kept.position.next),
            Err(error) => error.to_string(),
        });
    }

    #[test]
    fn a_position_is_gone_on_from_where_it_is_one_and_refused_elsewhere() {
        let position = Position { next: Offset(42), leader_epoch: LeaderEpoch(3) };
        let kept = Kept { begun: Offset(7), position };
        let committed = kept.committed(&key("c", 1), Uuid(2_u128.to_be_bytes()));
        check(&committed, &key("c", 1), 2, expect!["from 7 to 42"]);
        check(
            &committed,
            &key("d", 1),
            2,
            expect![
                "orders-0 of line orders.nearline: the position that group orders.nearline has in it is of cluster c, and this one is d"
            ],
        );
        check(
            &committed,
            &key("c", 3),
            2,
            expect![
                "orders-0 of line orders.nearline: the position that group orders.nearline has in it is of topic id AAAAAAAAAAAAAAAAAAAAAQ, and the topic has AAAAAAAAAAAAAAAAAAAAAw: it was deleted and created again"
            ],
        );
        check(
            &committed,
            &key("c", 1),
            3,
            expect![
                "orders-0 of line orders.nearline: the position that group orders.nearline has in it is of what is in the output topic with id AAAAAAAAAAAAAAAAAAAAAg, and the output has AAAAAAAAAAAAAAAAAAAAAw: it is another, or was deleted and created again"
            ],
        );
        let by_hand = CommittedOffset { metadata: None, ..committed };
        check(
            &by_hand,
            &key("c", 1),
            2,
            expect![[
                r#"orders-0 of line orders.nearline: the position that group orders.nearline has in it was not committed by the line: 42 with the metadata ""; to begin anew, give the sink another name"#
            ]],
        );
    }
}
