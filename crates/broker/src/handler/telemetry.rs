//! GetTelemetrySubscriptions and PushTelemetry: what clients measure of themselves (KIP-714).

use std::sync::Arc;

use wire::ErrorCode;
use wire::compression::Compression;
use wire::messages::get_telemetry_subscriptions::{
    GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse,
};
use wire::messages::push_telemetry::{PushTelemetryRequest, PushTelemetryResponse};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::node::fresh_id;
use crate::telemetry::{ClientFacts, Push};

/// In the order of preference.
const COMPRESSIONS: [Compression; 4] =
    [Compression::Zstd, Compression::Lz4, Compression::Gzip, Compression::Snappy];

/// Says what to push, and how often.
pub(crate) async fn subscriptions(
    broker: Arc<Broker>,
    context: RequestContext,
    request: GetTelemetrySubscriptionsRequest,
) -> GetTelemetrySubscriptionsResponse {
    let client = match request.client_instance_id {
        id if id.is_zero() => fresh_id(&*broker.environment),
        id => id,
    };
    let wanted = match broker.telemetry.ask(client, &facts(&context), broker.ticks()) {
        Ok(wanted) => wanted,
        Err(error_code) => return GetTelemetrySubscriptionsResponse { error_code, ..Default::default() },
    };
    GetTelemetrySubscriptionsResponse {
        client_instance_id: wanted.client,
        subscription_id: wanted.subscription,
        accepted_compression_types: COMPRESSIONS.map(|codec| codec as i8).to_vec(),
        push_interval_ms: i32::try_from(wanted.interval.as_millis()).unwrap_or(i32::MAX),
        telemetry_max_bytes: i32::try_from(bytes_max(&broker)).unwrap_or(i32::MAX),
        // Sums are shown as they are, so they are wanted as they are.
        delta_temporality: false,
        requested_metrics: wanted.metrics.into_iter().map(Into::into).collect(),
        ..Default::default()
    }
}

/// Takes what a client pushes.
pub(crate) async fn push(
    broker: Arc<Broker>,
    context: RequestContext,
    request: PushTelemetryRequest,
) -> PushTelemetryResponse {
    let push = Push {
        client: request.client_instance_id,
        subscription: request.subscription_id,
        compression: request.compression_type,
        is_last: request.terminating,
        metrics: &request.metrics,
        bytes_max: bytes_max(&broker),
    };
    let (facts, now) = (facts(&context), broker.ticks());
    let pushed = broker.unpacking.run(|| broker.telemetry.push(push, &facts, now));
    PushTelemetryResponse { error_code: pushed.err().unwrap_or(ErrorCode::NONE), ..Default::default() }
}

fn bytes_max(broker: &Broker) -> usize {
    broker.settings().broker().network.telemetry_bytes_max
}

fn facts(context: &RequestContext) -> ClientFacts {
    let (software_name, software_version) = context.connection.software();
    let peer = context.connection.peer;
    ClientFacts {
        client_id: context.client_id.as_deref().unwrap_or_default().to_owned(),
        software_name,
        software_version,
        address: peer.ip().to_string(),
        port: peer.port().to_string(),
    }
}
