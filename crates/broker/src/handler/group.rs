//! The group APIs: each is a step of the pure state machine of the group's shard.
//! What the machine does not know is added here: which topics exist, and their names where a request speaks of ids.

use std::collections::HashSet;
use std::sync::Arc;

use state::group::{ClientInfo, Groups};
use wire::messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};
use wire::messages::describe_groups::{DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup};
use wire::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use wire::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use wire::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse};
use wire::messages::list_groups::{ListGroupsRequest, ListGroupsResponse};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use wire::{ErrorCode, Response, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::handler::metadata::operations;
use crate::handler::share_group;
use crate::node::fresh_id;

/// Bits of the operations that exist on a group: read, delete, describe, describe and alter configs.
pub(super) const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

pub(super) fn client_info(context: &RequestContext) -> ClientInfo {
    ClientInfo {
        client_id: context.client_id.clone().unwrap_or_default(),
        client_host: Str::from(context.client_host()),
        api_version: context.version,
    }
}

/// JoinGroup.
pub(crate) async fn join(
    broker: Arc<Broker>,
    context: RequestContext,
    request: JoinGroupRequest,
) -> Response {
    let client = client_info(&context);
    let environment = Arc::clone(&broker.environment);
    let image = broker.metadata.image();
    let mut ids = || fresh_id(&*environment);
    let joined = broker
        .groups
        .run(&request.group_id, |groups, token, now| {
            groups.join(token, &client, &request, &image, now, &mut ids)
        })
        .await;
    joined.unwrap_or_else(|error_code| {
        let member_id = request.member_id.clone();
        Response::JoinGroup(JoinGroupResponse {
            error_code,
            member_id,
            generation_id: -1,
            ..Default::default()
        })
    })
}

/// SyncGroup.
pub(crate) async fn sync(broker: Arc<Broker>, _: RequestContext, request: SyncGroupRequest) -> Response {
    let image = broker.metadata.image();
    let synced = broker
        .groups
        .run(&request.group_id, |groups, token, now| groups.sync(token, &request, &image, now))
        .await;
    synced.unwrap_or_else(|error_code| {
        Response::SyncGroup(SyncGroupResponse { error_code, ..Default::default() })
    })
}

/// Heartbeat.
pub(crate) async fn heartbeat(broker: Arc<Broker>, _: RequestContext, request: HeartbeatRequest) -> Response {
    let image = broker.metadata.image();
    let alive = broker
        .groups
        .run(&request.group_id, |groups, token, now| groups.heartbeat(token, &request, &image, now))
        .await;
    alive.unwrap_or_else(|error_code| {
        // Sessions begin anew when the group is loaded: until then nobody is late (Kafka answers so too, and clients
        // take the error for fatal).
        let error_code = match error_code {
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => ErrorCode::NONE,
            other => other,
        };
        Response::Heartbeat(HeartbeatResponse { error_code, ..Default::default() })
    })
}

/// LeaveGroup.
pub(crate) async fn leave(
    broker: Arc<Broker>,
    context: RequestContext,
    request: LeaveGroupRequest,
) -> Response {
    let version = context.version;
    let left = broker
        .groups
        .run(&request.group_id, |groups, token, now| groups.leave(token, version, &request, now))
        .await;
    left.unwrap_or_else(|error_code| {
        Response::LeaveGroup(LeaveGroupResponse { error_code, ..Default::default() })
    })
}

/// DescribeGroups.
pub(crate) async fn describe(
    broker: Arc<Broker>,
    context: RequestContext,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    // A group named twice is answered once: answers can be large.
    let mut seen = HashSet::new();
    for group_id in request.groups.into_iter().filter(|group_id| seen.insert(group_id.clone())) {
        let described = broker
            .groups
            .ask(&group_id, |groups, _now| (vec![], groups.describe(context.version, &group_id)));
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
    DescribeGroupsResponse { groups, ..Default::default() }
}

/// ListGroups.
pub(crate) async fn list(
    broker: Arc<Broker>,
    _: RequestContext,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let list = |groups: &Groups| [groups.list(&request), groups.share_list(&request)].concat();
    match broker.groups.ask_all(list).await {
        Ok(lists) => {
            ListGroupsResponse { groups: lists.into_iter().flatten().collect(), ..Default::default() }
        }
        Err(error_code) => ListGroupsResponse { error_code, ..Default::default() },
    }
}

/// DeleteGroups.
pub(crate) async fn delete(
    broker: Arc<Broker>,
    _: RequestContext,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let deleted = match share_group::delete(&broker, &group_id).await {
            Some(error_code) => Ok(DeletableGroupResult { group_id: group_id.clone(), error_code }),
            None => broker.groups.ask(&group_id, |groups, _now| groups.delete(&group_id)).await,
        };
        // Where no offset was ever committed and nobody joined, there is no coordinator and no group either.
        results.push(deleted.unwrap_or_else(|error_code| {
            let error_code = match error_code {
                ErrorCode::COORDINATOR_NOT_AVAILABLE => ErrorCode::GROUP_ID_NOT_FOUND,
                other => other,
            };
            DeletableGroupResult { group_id, error_code }
        }));
    }
    DeleteGroupsResponse { results, ..Default::default() }
}
