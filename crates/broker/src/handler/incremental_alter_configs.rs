//! IncrementalAlterConfigs: sets, unsets, or edits the list in single keys; the others stay as they are (KIP-339).

use std::sync::Arc;

use state::metadata::{AlterConfigs, ConfigOp, Mode};
use wire::ErrorCode;
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};

use super::alter_configs::{outcomes, target};
use super::describe_configs::Refused;
use crate::broker::Broker;
use crate::context::RequestContext;

/// Changes the settings, or says what would come of it.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mode = if request.validate_only { Mode::ValidateOnly } else { Mode::Apply };
    let read: Vec<_> = request.resources.iter().map(|resource| read(&broker, resource)).collect();
    let changes = read.iter().filter_map(|read| read.as_ref().ok().cloned()).collect();
    let answers = broker.topics.alter_configs(&broker, changes, mode).await;
    let resources = read.into_iter().map(|read| read.map(|change| change.resource)).collect();
    let outcomes = outcomes(resources, answers);
    let responses = request.resources.into_iter().zip(outcomes).map(|(resource, (error_code, message))| {
        AlterConfigsResourceResponse {
            error_code,
            error_message: message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        }
    });
    IncrementalAlterConfigsResponse { responses: responses.collect(), ..Default::default() }
}

fn read(broker: &Broker, resource: &AlterConfigsResource) -> Result<AlterConfigs, Refused> {
    let target = target(broker, resource.resource_type, &resource.resource_name)?;
    let ops = resource.configs.iter().map(|config| {
        let op = ConfigOp::from_wire(config.config_operation, &config.name, config.value.clone());
        let op = op.map_err(|refusal| (ErrorCode::from(&refusal), refusal.to_string()))?;
        Ok((config.name.clone(), op))
    });
    Ok(AlterConfigs { resource: target, ops: ops.collect::<Result<_, _>>()? })
}
