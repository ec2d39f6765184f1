//! Who the others are, out of settings: voters, bootstrap servers, and where this node is found by them.
//! Whatever would keep a cluster from forming, and can be seen on one node, is refused here by name.

use std::collections::BTreeMap;

use client::Address;
use wire::BrokerId;

use super::BrokerSettings;
use super::endpoint::{HostPort, Listener};
use super::problem::Problem;
use super::table::{NetworkSettings, ReplicationSettings};

const VOTERS: &str = "controller.quorum.voters";
const BOOTSTRAP: &str = "controller.quorum.bootstrap.servers";

/// Reads `id@host:port` items.
pub(super) fn voters(
    replication: &ReplicationSettings,
    problems: &mut Vec<Problem>,
) -> BTreeMap<BrokerId, Address> {
    let mut voters: BTreeMap<BrokerId, Address> = BTreeMap::new();
    for text in &replication.quorum_voters {
        let parsed = text.split_once('@').and_then(|(id, address)| {
            let id = id.trim().parse().ok().filter(|id| *id >= 0).map(BrokerId)?;
            Some((id, address))
        });
        let mut refuse =
            |reason| problems.push(Problem::Conflict { key: VOTERS, value: text.clone(), reason });
        let Some((id, address)) = parsed else {
            refuse("expected id@host:port, with a node.id before the @".to_owned());
            continue;
        };
        match address.parse::<Address>() {
            Err(reason) => refuse(reason),
            Ok(_) if voters.contains_key(&id) => refuse(format!("node {id} stands there twice")),
            Ok(address) => match voters.iter().find(|(_, other)| **other == address) {
                Some((other, _)) => refuse(format!("node {other} has the same address")),
                None => drop(voters.insert(id, address)),
            },
        }
    }
    voters
}

/// Reads `host:port` items. This node itself is left out, under whatever listener it is named: a file written for a lone
/// Kafka node names its own controller.
pub(super) fn bootstrap_servers(
    replication: &ReplicationSettings,
    network: &NetworkSettings,
    problems: &mut Vec<Problem>,
) -> Vec<Address> {
    let mut servers = Vec::new();
    for text in &replication.quorum_bootstrap_servers {
        match text.parse() {
            Ok(address) if is_own(network, &address) => {}
            Ok(address) => servers.push(address),
            Err(reason) => problems.push(Problem::Conflict { key: BOOTSTRAP, value: text.clone(), reason }),
        }
    }
    servers
}

fn is_own(network: &NetworkSettings, address: &Address) -> bool {
    let is_local = ["localhost", "127.0.0.1", "::1"].contains(&address.host.as_str());
    let named = network.listeners.iter().chain(&network.advertised_listeners);
    let mut own = named.filter_map(|text| HostPort::parse(text.split_once("://")?.1).ok());
    own.any(|own| own.port == address.port && (own.host == address.host || (own.is_wildcard() && is_local)))
}

/// What has to fit together before a node can be one of several.
pub(super) fn check(
    broker: &BrokerSettings,
    node: BrokerId,
    voters: &BTreeMap<BrokerId, Address>,
    bootstrap: &[Address],
    listeners: &[Listener],
    problems: &mut Vec<Problem>,
) {
    let (interval, session) = (broker.replication.heartbeat_interval, broker.replication.session_timeout);
    if interval.saturating_mul(2) > session {
        problems.push(Problem::Conflict {
            key: "broker.heartbeat.interval.ms",
            value: interval.as_millis().to_string(),
            reason: format!(
                "broker.session.timeout.ms is {}; a broker has to be heard at least twice in that time",
                session.as_millis()
            ),
        });
    }
    let is_one_of_several = voters.len() > 1 || (!bootstrap.is_empty() && !voters.contains_key(&node));
    if !is_one_of_several {
        return;
    }
    if broker.node.cluster_id.is_none() {
        problems.push(Problem::Missing {
            key: "cluster.id",
            reason: "nodes of one cluster have to be told apart from those of another: give all of them the same",
        });
    }
    let Some(own) = voters.get(&node) else { return };
    let ports: Vec<u16> = listeners
        .iter()
        .flat_map(|listener| {
            [Some(listener.bind.port), listener.advertised.as_ref().map(|address| address.port)]
        })
        .flatten()
        .collect();
    if !ports.contains(&own.port) {
        let shown: Vec<String> =
            listeners.iter().map(|listener| format!("{}://{}", listener.name, listener.bind)).collect();
        problems.push(Problem::Conflict {
            key: VOTERS,
            value: format!("{node}@{own}"),
            reason: format!(
                "this is node {node}, and it listens at {}: others would not find it (the quorum uses the brokers' listener)",
                shown.join(",")
            ),
        });
    }
}

/// Where others are told to find a listener: as it is advertised, else as it is bound, and where that is every interface,
/// as the node is called among the voters.
pub(super) fn registered_address(listener: &Listener, own: Option<&Address>) -> HostPort {
    match (&listener.advertised, own) {
        (Some(advertised), _) => advertised.clone(),
        (None, Some(own)) if listener.bind.is_wildcard() => {
            HostPort { host: own.host.clone(), port: listener.bind.port }
        }
        (None, _) => listener.bind.clone(),
    }
}
