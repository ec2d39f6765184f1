//! Administration: topics, their settings and offsets, groups, the cluster.
//!
//! Each operation asks the broker that can answer, tries again until `default.api.timeout.ms` where that can
//! help, and returns one outcome per thing it was asked about, so that one refusal does not hide the rest.

mod cluster;
mod configs;
mod groups;
mod lag;
mod log_dirs;
mod offsets;
mod quorum;
mod quotas;
mod replicas;
mod topics;
mod transactions;

pub use cluster::{BrokerInfo, ClusterInfo};
pub use configs::{AlterOperation, ConfigEntry, ConfigSource, ResourceKind};
pub use groups::{CommittedOffset, ExpiredOffset, GroupInfo, GroupListing, GroupMember, GroupOffsets, SHARE};
pub use lag::{Lag, Progress};
pub use offsets::{ListedOffset, OffsetSpec, Unread};
pub use quorum::{QuorumInfo, QuorumMember};
pub use quotas::{EntityQuotas, QuotaEntity, QuotaMatch};
pub use replicas::{Election, OngoingReassignment, Reassignment, ReplicationFactor};
pub use topics::{CreatedTopic, Execution, NewTopic, PartitionInfo, TopicInfo};
pub use transactions::{ProducerInfo, TransactionFilter, TransactionInfo, TransactionListing, holding};

use std::time::Duration;

use wire::{BrokerId, ErrorCode, Str};

use crate::api::Call;
use crate::cluster::{Cluster, Lane, Topics};
use crate::error::Error;

/// Administers a cluster. Clones share it.
#[derive(Clone)]
pub struct Admin {
    cluster: Cluster,
}

/// What was asked about, and how that went.
pub type Outcomes<K, T> = Vec<(K, Result<T, Error>)>;

impl Admin {
    /// Administers this cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// Connects to a broker of the map, or finds that a connection stands. What keeps some broker from
    /// answering the others need not keep it from answering here, and the other way round.
    pub async fn reach(&self, broker: BrokerId, wait: Duration) -> Result<(), Error> {
        match tokio::time::timeout(wait, self.cluster.connection(broker, Lane::Requests)).await {
            Ok(connected) => connected.map(drop),
            Err(_) => Err(Error::Timeout {
                doing: format!("connecting to broker {broker}"),
                after: wait,
                last: None,
            }),
        }
    }

    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.cluster.options().request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Sends to the controller until one answers; `codes` finds the one that says the controller is another.
    async fn ask_controller<C: Call + Clone>(
        &self,
        doing: &str,
        request: C,
        codes: impl Fn(&C::Response) -> Vec<ErrorCode>,
    ) -> Result<C::Response, Error> {
        self.cluster
            .retrying(doing, || async {
                let response = match self.cluster.call_controller(request.clone()).await {
                    // The controller of the map may be gone, and another be elected.
                    Err(error @ (Error::Connect { .. } | Error::Disconnected { .. })) => {
                        self.cluster.refresh(Topics::None).await?;
                        return Err(error);
                    }
                    outcome => outcome?,
                };
                if codes(&response).contains(&ErrorCode::NOT_CONTROLLER) {
                    self.cluster.refresh(Topics::None).await?;
                    return Err(Error::kafka(ErrorCode::NOT_CONTROLLER, doing, None));
                }
                Ok(response)
            })
            .await
    }
}

/// One thing's error code as its outcome.
fn outcome<T>(code: ErrorCode, doing: String, message: Option<&Str>, value: T) -> Result<T, Error> {
    if code.is_ok() { Ok(value) } else { Err(Error::kafka(code, doing, message.map(Str::as_str))) }
}
