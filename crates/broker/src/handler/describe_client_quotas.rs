//! DescribeClientQuotas: quotas of users, client ids and addresses as they are set, by a filter (KIP-546).
//! Any broker answers from its copy of the metadata.

use std::sync::Arc;

use state::metadata::QuotaFilter;
use wire::messages::describe_client_quotas::{
    DescribeClientQuotasRequest, DescribeClientQuotasResponse, EntityData, EntryData, ValueData,
};
use wire::{ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;

/// Answers with every entity that the filter selects.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    let components = request.components.iter();
    let components = components.map(|part| (&part.entity_type, part.match_type, part.r#match.as_ref()));
    let filter = match QuotaFilter::new(components, request.strict) {
        Ok(filter) => filter,
        Err(refusal) => {
            return DescribeClientQuotasResponse {
                error_code: ErrorCode::from(&refusal),
                error_message: Some(Str::from(refusal.to_string())),
                entries: None,
                ..Default::default()
            };
        }
    };
    let image = broker.metadata.image();
    let entries = image.quotas(&filter).map(|(entity, quotas)| {
        let parts = entity
            .parts()
            .map(|(kind, name)| EntityData { entity_type: Str::from(kind), entity_name: name.to_wire() });
        let values = quotas.into_iter().map(|(key, value)| ValueData { key: key.clone(), value });
        EntryData { entity: parts.collect(), values: values.collect() }
    });
    let entries = Some(entries.collect());
    DescribeClientQuotasResponse { error_message: None, entries, ..Default::default() }
}
