//! DescribeCluster: the brokers, for tools that ask for nothing else.
//! Only brokers can be described here; who wants controllers has to ask one (KIP-919).

use std::sync::Arc;

use wire::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};
use wire::{ErrorCode, Str};

use super::metadata::{CLUSTER_OPERATIONS, address_of, operations};
use crate::broker::Broker;
use crate::context::RequestContext;

const ENDPOINT_BROKERS: i8 = 1;
const ENDPOINT_CONTROLLERS: i8 = 2;

/// Answers with the cluster's brokers.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    match request.endpoint_type {
        ENDPOINT_BROKERS => describe(&broker, &context, &request),
        ENDPOINT_CONTROLLERS => refused(
            ErrorCode::MISMATCHED_ENDPOINT_TYPE,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER".into(),
        ),
        other => {
            let message = Str::from(format!("Unsupported endpoint type {other}"));
            refused(ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, message)
        }
    }
}

fn describe(
    broker: &Broker,
    context: &RequestContext,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let image = broker.metadata.image();
    let wanted = image.brokers().filter(|other| request.include_fenced_brokers || !other.fenced);
    let brokers = wanted.filter_map(|other| {
        let (host, port) = address_of(broker, context, other)?;
        Some(DescribeClusterBroker {
            broker_id: other.id.0,
            host,
            port,
            rack: other.rack.clone(),
            is_fenced: other.fenced,
        })
    });
    DescribeClusterResponse {
        cluster_id: broker.cluster_id.clone(),
        controller_id: broker.controller_id(),
        brokers: brokers.collect(),
        cluster_authorized_operations: operations(
            request.include_cluster_authorized_operations,
            CLUSTER_OPERATIONS,
        ),
        ..Default::default()
    }
}

fn refused(error_code: ErrorCode, message: Str) -> DescribeClusterResponse {
    DescribeClusterResponse { error_code, error_message: Some(message), ..Default::default() }
}
