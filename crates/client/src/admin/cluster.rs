//! The cluster as a whole.

use wire::messages::describe_cluster::DescribeClusterRequest;
use wire::{BrokerId, Str};

use super::{Admin, outcome};
use crate::error::Error;

/// The cluster and its brokers.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterInfo {
    /// The name it gave itself when it was formatted.
    pub cluster_id: Str,
    /// The broker to send administrative requests to.
    pub controller: Option<BrokerId>,
    /// In the order of their ids.
    pub brokers: Vec<BrokerInfo>,
}

/// A broker.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerInfo {
    /// Its id.
    pub id: BrokerId,
    /// Where clients reach it.
    pub host: Str,
    /// The port there.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<Str>,
}

impl Admin {
    /// Describes the cluster.
    pub async fn describe_cluster(&self) -> Result<ClusterInfo, Error> {
        const DOING: &str = "describing the cluster";
        let response = self
            .cluster
            .retrying(DOING, || async {
                let response = self.cluster.call_any(DescribeClusterRequest::default()).await?;
                outcome(response.error_code, DOING.to_owned(), response.error_message.as_ref(), ())?;
                Ok(response)
            })
            .await?;
        let mut brokers: Vec<_> = response
            .brokers
            .into_iter()
            .map(|broker| BrokerInfo {
                id: BrokerId(broker.broker_id),
                host: broker.host,
                port: broker.port,
                rack: broker.rack,
            })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        Ok(ClusterInfo {
            cluster_id: response.cluster_id,
            controller: Some(BrokerId(response.controller_id)).filter(|id| id.0 >= 0),
            brokers,
        })
    }
}
