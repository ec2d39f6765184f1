//! Metadata: the brokers, the topics, and who leads which partition.
//! A topic that is not there is created before the answer, if both the client and the broker want that, so that the
//! first answer already names its leaders. The broker's address is the one that the client itself has dialled, unless
//! `advertised.listeners` says otherwise.

use std::collections::HashSet;
use std::sync::Arc;

use state::metadata::{Image, Refusal, Topic, check_topic_name};
use wire::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use wire::{BrokerId, ErrorCode, Str, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::topics::TopicError;

/// An empty list asks for all topics below this version, for none from it on.
const EMPTY_LIST_VERSION_MIN: i16 = 1;
/// Topics can be asked for by id from this version on (KIP-516).
const TOPIC_ID_VERSION_MIN: i16 = 12;

/// Bits of the operations that exist on a topic: read, write, create, delete, alter, describe, describe and alter
/// configs.
pub(crate) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// Bits of the operations that exist on the cluster: create, alter, describe, cluster action, describe and alter
/// configs, idempotent write.
pub(crate) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// What stands for "not asked for".
pub(crate) const OPERATIONS_OMITTED: i32 = i32::MIN;

/// Answers with the cluster and the topics that are asked for.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: MetadataRequest,
) -> MetadataResponse {
    let wanted = Wanted::read(request.topics, context.version);
    let refused = match &wanted {
        Wanted::All => Vec::new(),
        Wanted::Some(topics) => create_missing(&broker, topics, request.allow_auto_topic_creation).await,
    };
    let image = broker.metadata.image();
    let describe = Describe {
        broker: &broker,
        image: &image,
        refused: &refused,
        operations: operations(request.include_topic_authorized_operations, TOPIC_OPERATIONS),
    };
    let topics = match wanted {
        Wanted::All => image.topics().map(|topic| describe.topic(topic)).collect(),
        Wanted::Some(topics) => topics.into_iter().map(|named| describe.named(named)).collect(),
    };
    MetadataResponse {
        brokers: live_brokers(&broker, &context, &image),
        cluster_id: Some(broker.cluster_id.clone()),
        controller_id: broker.controller_id(),
        topics,
        cluster_authorized_operations: operations(
            request.include_cluster_authorized_operations,
            CLUSTER_OPERATIONS,
        ),
        ..Default::default()
    }
}

/// The bits, for those who asked for them.
pub(crate) fn operations(included: bool, bits: i32) -> i32 {
    if included { bits } else { OPERATIONS_OMITTED }
}

/// What a client may call a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Named {
    Name(Str),
    Id(Uuid),
    /// Neither, or both in a version that takes one.
    Unclear(Str),
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
enum Wanted {
    All,
    /// Each once, in the order of the request.
    Some(Vec<Named>),
}

impl Wanted {
    fn read(topics: Option<Vec<MetadataRequestTopic>>, version: i16) -> Wanted {
        let Some(topics) = topics else { return Wanted::All };
        if topics.is_empty() && version < EMPTY_LIST_VERSION_MIN {
            return Wanted::All;
        }
        let mut seen = HashSet::with_capacity(topics.len());
        let named = topics.into_iter().map(|topic| Named::read(topic, version));
        Wanted::Some(named.filter(|named| seen.insert(named.clone())).collect())
    }
}

impl Named {
    fn read(topic: MetadataRequestTopic, version: i16) -> Named {
        match topic.name {
            // The id is what the client means where it has one: a name may have been given to another topic since.
            _ if !topic.topic_id.is_zero() && version >= TOPIC_ID_VERSION_MIN => Named::Id(topic.topic_id),
            Some(name) if topic.topic_id.is_zero() => Named::Name(name),
            name => Named::Unclear(name.unwrap_or_default()),
        }
    }
}

/// Creates what is missing, if that is wanted, and returns why some of it could not be created.
async fn create_missing(broker: &Arc<Broker>, topics: &[Named], is_allowed: bool) -> Vec<(Str, TopicError)> {
    let names: Vec<Str> = {
        let image = broker.metadata.image();
        let missing = topics.iter().filter_map(|topic| match topic {
            Named::Name(name) if image.topic(name).is_none() => Some(name.clone()),
            Named::Name(_) | Named::Id(_) | Named::Unclear(_) => None,
        });
        missing.filter(|name| check_topic_name(name).is_ok()).collect()
    };
    if names.is_empty() || !is_allowed || !broker.settings().broker().topics.auto_create {
        return Vec::new();
    }
    let refused = broker.topics.create_auto(broker, names).await;
    for (name, error) in &refused {
        tracing::warn!(topic = %name, %error, "a topic could not be created for a client that named it");
    }
    refused
}

/// Brokers that clients may talk to, this one where the client itself has found it.
pub(crate) fn live_brokers(
    broker: &Broker,
    context: &RequestContext,
    image: &Image,
) -> Vec<MetadataResponseBroker> {
    let live = image.brokers().filter(|other| !other.fenced).filter_map(|other| {
        let (host, port) = address_of(broker, context, other)?;
        Some(MetadataResponseBroker { node_id: other.id.0, host, port, rack: other.rack.clone() })
    });
    live.collect()
}

/// Where a client that came over this connection finds a broker; `None` if the broker lacks the connection's listener.
pub(crate) fn address_of(
    broker: &Broker,
    context: &RequestContext,
    other: &state::metadata::Broker,
) -> Option<(Str, i32)> {
    if other.id == broker.node_id {
        return Some(broker.advertised(context));
    }
    let listener = &context.connection.listener;
    let endpoint = other.endpoints.iter().find(|endpoint| endpoint.listener == *listener)?;
    Some((endpoint.host.clone(), i32::from(endpoint.port)))
}

/// Broker ids as the protocol writes them.
pub(crate) fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|id| id.0).collect()
}

/// What the description of topics is made from.
struct Describe<'a> {
    broker: &'a Broker,
    image: &'a Image,
    refused: &'a [(Str, TopicError)],
    operations: i32,
}

impl Describe<'_> {
    fn named(&self, named: Named) -> MetadataResponseTopic {
        match named {
            Named::Name(name) => match self.image.topic(&name) {
                Some(topic) => self.topic(topic),
                None => self.missing(name),
            },
            Named::Id(id) => match self.image.topic_by_id(id) {
                Some(topic) => self.topic(topic),
                None => MetadataResponseTopic {
                    error_code: ErrorCode::UNKNOWN_TOPIC_ID,
                    topic_id: id,
                    name: None,
                    ..Default::default()
                },
            },
            Named::Unclear(name) => MetadataResponseTopic {
                error_code: ErrorCode::INVALID_REQUEST,
                name: Some(name),
                ..Default::default()
            },
        }
    }

    fn missing(&self, name: Str) -> MetadataResponseTopic {
        let refused = self.refused.iter().find(|(refused, _)| *refused == name).map(|(_, error)| error);
        let error_code = match refused {
            _ if check_topic_name(&name).is_err() => ErrorCode::INVALID_TOPIC_EXCEPTION,
            // Deleted again between its creation and this answer.
            Some(TopicError::Refused(Refusal::TopicExists(_))) | None => {
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            }
            Some(error) => error.error_code(),
        };
        MetadataResponseTopic {
            error_code,
            is_internal: self.broker.is_internal_topic(&name),
            name: Some(name),
            ..Default::default()
        }
    }

    fn topic(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = topic.partitions().map(|(id, partition)| MetadataResponsePartition {
            error_code: leader_error(partition),
            partition_index: id.0,
            leader_id: partition.leader.map_or(-1, |leader| leader.0),
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: ids(&partition.replicas),
            isr_nodes: ids(&partition.isr),
            offline_replicas: offline(self.image, &partition.replicas),
        });
        MetadataResponseTopic {
            name: Some(topic.name.clone()),
            topic_id: topic.id,
            is_internal: self.broker.is_internal_topic(&topic.name),
            partitions: partitions.collect(),
            topic_authorized_operations: self.operations,
            ..Default::default()
        }
    }
}

/// What a client is told about a partition that nobody leads.
pub(crate) fn leader_error(partition: &state::metadata::Partition) -> ErrorCode {
    if partition.leader.is_some() { ErrorCode::NONE } else { ErrorCode::LEADER_NOT_AVAILABLE }
}

/// Replicas whose brokers are not there.
pub(crate) fn offline(image: &Image, replicas: &[BrokerId]) -> Vec<i32> {
    let is_live = |id: &BrokerId| image.broker(*id).is_some_and(|broker| !broker.fenced);
    replicas.iter().filter(|id| !is_live(id)).map(|id| id.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: Option<&'static str>, id: u128) -> MetadataRequestTopic {
        let topic_id = Uuid::from_u128(id);
        MetadataRequestTopic { topic_id, name: name.map(Str::from) }
    }

    #[test]
    fn all_topics_are_asked_for_in_two_ways() {
        assert_eq!(Wanted::read(Some(Vec::new()), 0), Wanted::All);
        assert_eq!(Wanted::read(Some(Vec::new()), 1), Wanted::Some(Vec::new()));
        assert_eq!(Wanted::read(None, 1), Wanted::All);
    }

    #[test]
    fn a_topic_is_meant_by_id_where_it_has_one_and_answered_once() {
        let topics = vec![
            named(Some("a"), 0),
            named(Some("a"), 0),
            named(Some("a"), 7),
            named(None, 7),
            named(None, 0),
        ];
        let wanted = Wanted::read(Some(topics), 13);
        let expected =
            vec![Named::Name("a".into()), Named::Id(Uuid::from_u128(7)), Named::Unclear(Str::default())];
        assert_eq!(wanted, Wanted::Some(expected));
    }

    #[test]
    fn an_id_in_a_version_that_takes_none_is_refused() {
        assert_eq!(Named::read(named(Some(""), 7), 11), Named::Unclear(Str::default()));
    }

    #[test]
    fn operations_are_kafkas_bits() {
        assert_eq!(TOPIC_OPERATIONS, 3576);
        assert_eq!(CLUSTER_OPERATIONS, 8096);
    }
}
