//! The cluster as a whole.

use wire::messages::describe_cluster::DescribeClusterRequest;
use wire::messages::unregister_broker::UnregisterBrokerRequest;
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
    /// In the order of their ids, also those that are fenced.
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
    /// Whether it is registered and not counted in: it was not heard of for too long, or is still catching
    /// up. Brokers older than Kafka 4.0 do not name those at all.
    pub is_fenced: bool,
}

impl Admin {
    /// Describes the cluster.
    pub async fn describe_cluster(&self) -> Result<ClusterInfo, Error> {
        const DOING: &str = "describing the cluster";
        let response = self
            .cluster
            .retrying(DOING, || async {
                let request = DescribeClusterRequest { include_fenced_brokers: true, ..Default::default() };
                let response = self.cluster.call_any(request).await?;
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
                is_fenced: broker.is_fenced,
            })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        Ok(ClusterInfo {
            cluster_id: response.cluster_id,
            controller: Some(BrokerId(response.controller_id)).filter(|id| id.0 >= 0),
            brokers,
        })
    }
    /// Makes the cluster forget a broker. One that runs registers anew by itself.
    pub async fn unregister_broker(&self, id: BrokerId) -> Result<(), Error> {
        let doing = format!("unregistering broker {id}");
        let request = UnregisterBrokerRequest { broker_id: id.0 };
        let response = self.ask_controller(&doing, request, |response| vec![response.error_code]).await?;
        outcome(response.error_code, doing, response.error_message.as_ref(), ())
    }
}
