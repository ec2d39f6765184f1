//! The APIs of groups of the consumer protocol (KIP-848): each is a step of the pure state machine of the group's shard, which is
//! given the cluster's topics to assign.

use std::collections::HashSet;
use std::sync::Arc;

use state::group::ConsumerView;
use wire::messages::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup,
};
use wire::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};
use wire::{ErrorCode, Response, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::handler::group::{GROUP_OPERATIONS, client_info};
use crate::handler::metadata::operations;
use crate::node::fresh_id;

/// The name of the protocol in `group.coordinator.rebalance.protocols`.
const PROTOCOL: &str = "consumer";

fn is_offered(broker: &Broker) -> bool {
    let settings = broker.settings();
    settings.broker().groups.rebalance_protocols.iter().any(|protocol| protocol == PROTOCOL)
}

/// ConsumerGroupHeartbeat.
pub(crate) async fn heartbeat(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> Response {
    if !is_offered(&broker) {
        return Response::ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse {
            error_code: ErrorCode::UNSUPPORTED_VERSION,
            error_message: Some(Str::from("group.coordinator.rebalance.protocols leaves out consumer")),
            ..Default::default()
        });
    }
    let client = client_info(&context);
    let environment = Arc::clone(&broker.environment);
    let image = broker.metadata.image();
    let own = |key| image.group_config(&request.group_id, key)?.parse().ok();
    let around = ConsumerView {
        image: &image,
        session_timeout_ms: own("consumer.session.timeout.ms"),
        heartbeat_interval_ms: own("consumer.heartbeat.interval.ms"),
    };
    let mut ids = || fresh_id(&*environment);
    let heard = broker
        .groups
        .run(&request.group_id, |groups, token, now| {
            groups.consumer_heartbeat(token, &client, &request, &around, now, &mut ids)
        })
        .await;
    heard.unwrap_or_else(|error_code| {
        Response::ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse { error_code, ..Default::default() })
    })
}

/// ConsumerGroupDescribe.
pub(crate) async fn describe(
    broker: Arc<Broker>,
    _: RequestContext,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let image = broker.metadata.image();
    let mut groups = Vec::with_capacity(request.group_ids.len());
    // A group named twice is answered once: answers can be large.
    let mut seen = HashSet::new();
    for group_id in request.group_ids.into_iter().filter(|group_id| seen.insert(group_id.clone())) {
        if group_id.is_empty() {
            let error_code = ErrorCode::INVALID_GROUP_ID;
            groups.push(DescribedGroup { error_code, group_id, ..Default::default() });
            continue;
        }
        let described = broker
            .groups
            .ask(&group_id, |groups, _now| (vec![], groups.describe_consumer(&group_id, &image)));
        groups.push(match described.await {
            Ok(described) => {
                let is_included = request.include_authorized_operations && described.error_code.is_ok();
                DescribedGroup {
                    authorized_operations: operations(is_included, GROUP_OPERATIONS),
                    ..described
                }
            }
            Err(error_code) => DescribedGroup { error_code, group_id, ..Default::default() },
        });
    }
    ConsumerGroupDescribeResponse { groups, ..Default::default() }
}
