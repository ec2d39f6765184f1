//! DescribeTopicPartitions: topics by name, a page at a time (KIP-966).
//! Topics are answered in the order of their names, so that a cursor says where the next page begins even when topics
//! come and go between two pages. A page ends at its limit of partitions, in the middle of a topic if need be.

use std::collections::BTreeSet;
use std::sync::Arc;

use state::metadata::{Image, Topic, check_topic_name};
use wire::messages::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use wire::{ErrorCode, Str};

use super::metadata::{TOPIC_OPERATIONS, ids, leader_error, offline};
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::groups::OFFSETS_TOPIC;
use crate::share_coordinator::SHARE_STATE_TOPIC;
use crate::transactions::TRANSACTIONS_TOPIC;

/// Answers with one page.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let limit_max = broker.settings().broker().network.describe_partitions_max;
    page(&broker.metadata.image(), request, limit_max)
}

fn page(
    image: &Image,
    request: DescribeTopicPartitionsRequest,
    limit_max: usize,
) -> DescribeTopicPartitionsResponse {
    let asked = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut page = Page { image, left: asked.min(limit_max).max(1), topics: Vec::new(), next: None };
    let cursor = request.cursor.as_deref();
    if request.topics.is_empty() {
        if cursor.is_some_and(|cursor| cursor.partition_index < 0) {
            return DescribeTopicPartitionsResponse::default();
        }
        page.fill(image.topics().map(|topic| topic.name.clone()), cursor);
    } else {
        let names: BTreeSet<Str> = request.topics.iter().map(|topic| topic.name.clone()).collect();
        let is_valid =
            cursor.is_none_or(|cursor| cursor.partition_index >= 0 && names.contains(&cursor.topic_name));
        if !is_valid {
            let refused = names.into_iter().map(|name| DescribeTopicPartitionsResponseTopic {
                error_code: ErrorCode::INVALID_REQUEST,
                name: Some(name),
                ..Default::default()
            });
            return DescribeTopicPartitionsResponse { topics: refused.collect(), ..Default::default() };
        }
        page.fill(names.into_iter(), cursor);
    }
    DescribeTopicPartitionsResponse {
        topics: page.topics,
        next_cursor: page.next.map(Box::new),
        ..Default::default()
    }
}

struct Page<'a> {
    image: &'a Image,
    left: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<Cursor>,
}

impl Page<'_> {
    /// Describes topics in the order of `names`, which are sorted, from the cursor on.
    fn fill(&mut self, names: impl Iterator<Item = Str>, cursor: Option<&Cursor>) {
        let begin = cursor.map_or("", |cursor| &*cursor.topic_name);
        for name in names.skip_while(|name| &**name < begin) {
            if self.left == 0 {
                self.next = Some(Cursor { topic_name: name, partition_index: 0 });
                return;
            }
            let first =
                cursor.filter(|cursor| cursor.topic_name == name).map_or(0, |cursor| cursor.partition_index);
            match self.image.topic(&name) {
                Some(topic) => self.describe(topic, first),
                None => self.topics.push(missing(name)),
            }
            if self.next.is_some() {
                return;
            }
        }
    }

    fn describe(&mut self, topic: &Topic, first: i32) {
        let mut described = DescribeTopicPartitionsResponseTopic {
            name: Some(topic.name.clone()),
            topic_id: topic.id,
            is_internal: is_internal(&topic.name),
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..Default::default()
        };
        for (id, partition) in topic.partitions().skip_while(|(id, _)| id.0 < first) {
            if self.left == 0 {
                self.next = Some(Cursor { topic_name: topic.name.clone(), partition_index: id.0 });
                break;
            }
            self.left -= 1;
            described.partitions.push(DescribeTopicPartitionsResponsePartition {
                error_code: leader_error(partition),
                partition_index: id.0,
                leader_id: partition.leader.map_or(-1, |leader| leader.0),
                leader_epoch: partition.leader_epoch.0,
                replica_nodes: ids(&partition.replicas),
                isr_nodes: ids(&partition.isr),
                eligible_leader_replicas: Some(ids(&partition.elr)),
                last_known_elr: Some(ids(&partition.last_known_elr)),
                offline_replicas: offline(self.image, &partition.replicas),
            });
        }
        self.topics.push(described);
    }
}

fn missing(name: Str) -> DescribeTopicPartitionsResponseTopic {
    let is_name = check_topic_name(&name).is_ok();
    DescribeTopicPartitionsResponseTopic {
        error_code: if is_name {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        } else {
            ErrorCode::INVALID_TOPIC_EXCEPTION
        },
        is_internal: is_internal(&name),
        name: Some(name),
        ..Default::default()
    }
}

fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == TRANSACTIONS_TOPIC || name == SHARE_STATE_TOPIC
}

#[cfg(test)]
mod tests {
    use state::metadata::MetadataRecord;
    use wire::Uuid;
    use wire::messages::describe_topic_partitions::TopicRequest;
    use wire::messages::partition_record::PartitionRecord;
    use wire::messages::topic_record::TopicRecord;

    use super::*;

    /// Topics `a`, `b` and `c` with 2, 3 and 1 partitions.
    fn image() -> Image {
        let mut image = Image::default();
        for (id, (name, partitions)) in [("a", 2), ("b", 3), ("c", 1)].into_iter().enumerate() {
            let topic_id = Uuid::from_u128(id as u128 + 1);
            image.apply(&MetadataRecord::Topic(TopicRecord { name: name.into(), topic_id }));
            for partition_id in 0..partitions {
                image.apply(&MetadataRecord::Partition(PartitionRecord {
                    partition_id,
                    topic_id,
                    replicas: vec![1],
                    isr: vec![1],
                    leader: 1,
                    ..Default::default()
                }));
            }
        }
        image
    }

    fn check(topics: &[&'static str], limit: i32, cursor: Option<(&'static str, i32)>, expected: &str) {
        let cursor = cursor
            .map(|(topic, partition_index)| Box::new(Cursor { topic_name: topic.into(), partition_index }));
        let topics = topics.iter().map(|name| TopicRequest { name: Str::from(*name) });
        let request = DescribeTopicPartitionsRequest {
            topics: topics.collect(),
            response_partition_limit: limit,
            cursor,
        };
        let answer = page(&image(), request, 1_000);
        let mut seen: Vec<String> = Vec::new();
        for topic in answer.topics {
            let partitions: Vec<_> = topic.partitions.iter().map(|p| p.partition_index.to_string()).collect();
            let error =
                if topic.error_code.is_ok() { String::new() } else { format!(" {}", topic.error_code.0) };
            seen.push(format!("{}[{}]{error}", topic.name.unwrap_or_default(), partitions.join(",")));
        }
        if let Some(next) = answer.next_cursor {
            seen.push(format!("next {}-{}", next.topic_name, next.partition_index));
        }
        assert_eq!(seen.join(" "), expected);
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        check(&[], 3, None, "a[0,1] b[0] next b-1");
        check(&[], 3, Some(("b", 1)), "b[1,2] c[0]");
        check(&[], 2, None, "a[0,1] next b-0");
        check(&[], 0, None, "a[0] next a-1");
        check(&["c", "a", "a"], 10, None, "a[0,1] c[0]");
    }

    #[test]
    fn a_cursor_whose_topic_is_gone_goes_on_behind_it() {
        check(&[], 10, Some(("aa", 7)), "b[0,1,2] c[0]");
        check(&[], 10, Some(("c", 9)), "c[]");
    }

    #[test]
    fn a_cursor_outside_of_the_topics_that_are_asked_for_is_refused() {
        check(&["a"], 10, Some(("b", 0)), "a[] 42");
        check(&["a"], 10, Some(("a", -1)), "a[] 42");
    }

    #[test]
    fn topics_that_are_not_there_say_why() {
        check(&["nope", "a/b"], 10, None, "a/b[] 17 nope[] 3");
    }
}
