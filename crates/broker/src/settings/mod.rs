//! Settings under Kafka's names: one declarative table, and everything that is made from it.
//! `table` holds the rows; `sources` and `layers` find out what was given and what holds; `describe` and `rules` are the
//! admin protocol's view; `reference` is the documentation's. A `Settings` is immutable and already checked: a change
//! makes a new one. Nothing outside `table` lists keys.

mod row;
mod value;
mod table;
mod properties;
mod sources;
mod suggest;
mod problem;
mod layers;
mod endpoint;
mod client_match;
mod cluster;
mod describe;
mod rules;
pub(crate) mod group;
mod log_config;
mod reference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use client::Address;
use wire::{BrokerId, Str};

pub(crate) use client_match::{Selector, patterns};
pub use describe::DescribeOptions;
pub use endpoint::{HostPort, Listener};
pub use layers::ConfigSource;
pub use problem::{EXIT_CODE, Notice, Problem, SettingsError};
pub use reference::{listing, reference_page};
pub use row::{Allowed, Effect, Importance, Kind, Scope, Setting, Synonym};
pub use sources::{Origin, Sources};
pub use table::{
    BROKER, CLIENT_METRICS, ClientMetricsSettings, GROUP, GroupConfigs, GroupSettings, LogSettings,
    NetworkSettings, NodeSettings, RACK_AWARE, ReplicationSettings, Section, ShareSettings, TOPIC,
    TopicDefaults, TopicSettings, broker_row, broker_rows, client_metrics_row, group_row, topic_row,
};
pub(crate) use value::per_address;
pub use value::{Value, Violation};

use layers::{Dynamic, Layers, read_dynamic};

/// Everything the broker reads, by subject.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerSettings {
    /// Who this node is and what it runs on.
    pub node: NodeSettings,
    /// Addresses, connections and their bounds.
    pub network: NetworkSettings,
    /// How topics come into being.
    pub topics: TopicDefaults,
    /// The log on disk.
    pub log: LogSettings,
    /// Consumer groups and offsets.
    pub groups: GroupSettings,
    /// Share groups.
    pub share: ShareSettings,
    /// Several brokers, and transactions.
    pub replication: ReplicationSettings,
}

/// Checked settings of one broker at one moment.
#[derive(Debug, Clone)]
pub struct Settings {
    layers: Layers,
    broker: BrokerSettings,
    node_id: BrokerId,
    log_dirs: Vec<PathBuf>,
    listeners: Vec<Listener>,
    admin_listener: Option<HostPort>,
    quorum_voters: BTreeMap<BrokerId, Address>,
    bootstrap_servers: Vec<Address>,
    notices: Vec<Notice>,
}

impl Settings {
    /// Reads and checks what was given.
    ///
    /// # Errors
    /// Every problem at once; a broker that cannot honour its settings must not start.
    pub fn load(sources: Sources) -> Result<Settings, SettingsError> {
        let mut notices = Vec::new();
        let (mut layers, mut error) = Layers::from_sources(sources, &mut notices);
        layers.fix_if_absent("node.id", "broker.id");
        layers.fix_if_absent("broker.id", "node.id");
        layers.fix_if_absent("log.dirs", "log.dir");
        let broker = BrokerSettings::read(&layers);
        let problems = &mut error.problems;
        let node_id = node_id(&broker.node, problems);
        let log_dirs = log_dirs(&broker.node, problems);
        let controllers = &broker.replication.controller_listeners;
        let listeners = endpoint::listeners(&broker.network, &layers, controllers, problems, &mut notices);
        let admin = broker.node.admin_listener.as_deref();
        let admin_listener = admin.and_then(|text| endpoint::admin_listener(text, &listeners, problems));
        let quorum_voters = cluster::voters(&broker.replication, problems);
        let bootstrap_servers = cluster::bootstrap_servers(&broker.replication, &broker.network, problems);
        cluster::check(&broker, node_id, &quorum_voters, &bootstrap_servers, &listeners, problems);
        check_together(&broker, problems);
        if !error.problems.is_empty() {
            return Err(error);
        }
        assert!(!listeners.is_empty());
        Ok(Settings {
            layers,
            broker,
            node_id,
            log_dirs,
            listeners,
            admin_listener,
            quorum_voters,
            bootstrap_servers,
            notices,
        })
    }

    /// The same settings under other dynamic values, each a key and a value as the metadata stores them.
    #[must_use]
    pub fn with_dynamic<K: AsRef<str>, V: AsRef<str>>(
        &self,
        cluster_default: impl IntoIterator<Item = (K, V)>,
        this_broker: impl IntoIterator<Item = (K, V)>,
    ) -> Settings {
        let mut notices = Vec::new();
        let cluster_default = read_dynamic(cluster_default, &mut notices);
        let this_broker = read_dynamic(this_broker, &mut notices);
        let layers = self.layers.with_dynamic(Dynamic { cluster_default, this_broker });
        let broker = BrokerSettings::read(&layers);
        Settings { layers, broker, notices, ..self.clone() }
    }

    /// What the broker reads.
    #[must_use]
    pub fn broker(&self) -> &BrokerSettings {
        &self.broker
    }

    /// This node's number.
    #[must_use]
    pub fn node_id(&self) -> BrokerId {
        self.node_id
    }

    /// The cluster's identity, if it was given.
    #[must_use]
    pub fn cluster_id(&self) -> Option<Str> {
        self.broker.node.cluster_id.as_deref().map(Str::copy_from)
    }

    /// The data directories, at least one.
    #[must_use]
    pub fn log_dirs(&self) -> &[PathBuf] {
        &self.log_dirs
    }

    /// The directory of the metadata log: one of [`Settings::log_dirs`], or another one.
    #[must_use]
    pub fn metadata_log_dir(&self) -> &Path {
        match &self.broker.node.metadata_log_dir {
            Some(dir) => Path::new(dir),
            None => self.log_dirs.first().map(PathBuf::as_path).unwrap_or(Path::new("")),
        }
    }

    /// Listeners for clients, at least one.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Where `/livez`, `/readyz` and `/metrics` are served, if anywhere.
    #[must_use]
    pub fn admin_listener(&self) -> Option<&HostPort> {
        self.admin_listener.as_ref()
    }

    /// The nodes that begin the cluster; nobody where this node is told of it by others, or is a cluster of its own.
    #[must_use]
    pub fn quorum_voters(&self) -> &BTreeMap<BrokerId, Address> {
        &self.quorum_voters
    }

    /// Whom a node asks for the cluster that is no voter.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &[Address] {
        &self.bootstrap_servers
    }

    /// Where others are told to find a listener.
    #[must_use]
    pub fn registered_address(&self, listener: &Listener) -> HostPort {
        cluster::registered_address(listener, self.quorum_voters.get(&self.node_id))
    }

    /// What was given and does not do what its writer may expect, for the log.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// A topic's settings; `own` is what the topic itself has, as the metadata stores it.
    #[must_use]
    pub fn topic<K: AsRef<str>, V: AsRef<str>>(
        &self,
        own: impl IntoIterator<Item = (K, V)>,
    ) -> TopicSettings {
        let own = own_values(own, topic_row);
        TopicSettings::read(|key| {
            let row = topic_row(key).expect("the struct and the rows come from one table");
            own.get(key).cloned().or_else(|| self.layers.inherited(row))
        })
    }

    /// A group's settings; `own` is what the group itself has, as the metadata stores it.
    #[must_use]
    pub fn group<K: AsRef<str>, V: AsRef<str>>(&self, own: impl IntoIterator<Item = (K, V)>) -> GroupConfigs {
        let own = own_values(own, group_row);
        GroupConfigs::read(|key| {
            let row = group_row(key).expect("the struct and the rows come from one table");
            own.get(key).cloned().or_else(|| self.layers.inherited(row))
        })
    }

    /// A subscription to client metrics, likewise.
    #[must_use]
    pub fn client_metrics<K: AsRef<str>, V: AsRef<str>>(
        &self,
        own: impl IntoIterator<Item = (K, V)>,
    ) -> ClientMetricsSettings {
        let own = own_values(own, client_metrics_row);
        ClientMetricsSettings::read(|key| {
            own.get(key).cloned().or_else(|| client_metrics_row(key)?.default_value())
        })
    }

    /// What `__consumer_offsets` is created with.
    #[must_use]
    pub fn offsets_topic_configs(&self) -> Vec<(Str, Str)> {
        compacted(self.broker.groups.offsets_topic_segment_bytes, &[])
    }

    /// What `__transaction_state` is created with.
    #[must_use]
    pub fn transactions_topic_configs(&self) -> Vec<(Str, Str)> {
        let replication = &self.broker.replication;
        let in_sync_min = replication.transaction_topic_min_insync_replicas.to_string();
        let others = [
            ("min.insync.replicas", in_sync_min.as_str()),
            // Who may have been told of a commit that this replica has not heard of would take it back.
            ("unclean.leader.election.enable", "false"),
        ];
        compacted(replication.transaction_topic_segment_bytes, &others)
    }

    /// What `__share_group_state` is created with. Its coordinators let go of its records by themselves: an update that is not
    /// the last of its key counts all the same.
    #[must_use]
    pub fn share_state_topic_configs(&self) -> Vec<(Str, Str)> {
        let share = &self.broker.share;
        let configs = [
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", "-1".to_owned()),
            ("compression.type", "producer".to_owned()),
            ("segment.bytes", share.topic_segment_bytes.to_string()),
            ("min.insync.replicas", share.topic_min_insync_replicas.to_string()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ];
        configs.into_iter().map(|(key, value)| (Str::from(key), Str::from(value))).collect()
    }
}

/// The configs of a topic of the broker's own.
fn compacted(segment_bytes: u32, others: &[(&str, &str)]) -> Vec<(Str, Str)> {
    let segment_bytes = segment_bytes.to_string();
    let configs = [
        ("cleanup.policy", "compact"),
        ("compression.type", "producer"),
        ("segment.bytes", segment_bytes.as_str()),
    ];
    let configs = configs.iter().chain(others);
    configs.map(|(key, value)| (Str::copy_from(key), Str::copy_from(value))).collect()
}

/// Stored values of a topic, a group or a subscription. They were checked on their way in; one that this version cannot read counts as absent.
fn own_values<K: AsRef<str>, V: AsRef<str>>(
    stored: impl IntoIterator<Item = (K, V)>,
    row: fn(&str) -> Option<&'static Setting>,
) -> BTreeMap<&'static str, Value> {
    let parsed = stored.into_iter().filter_map(|(key, text)| {
        let row = row(key.as_ref())?;
        Some((row.key, row.parse(text.as_ref()).ok()?))
    });
    parsed.collect()
}

impl BrokerSettings {
    fn read(layers: &Layers) -> BrokerSettings {
        let value =
            |key| layers.effective(broker_row(key).expect("the structs and the rows come from one table"));
        BrokerSettings {
            node: NodeSettings::read(value),
            network: NetworkSettings::read(value),
            topics: TopicDefaults::read(value),
            log: LogSettings::read(value),
            groups: GroupSettings::read(value),
            share: ShareSettings::read(value),
            replication: ReplicationSettings::read(value),
        }
    }
}

fn node_id(node: &NodeSettings, problems: &mut Vec<Problem>) -> BrokerId {
    match (node.node_id, node.broker_id) {
        (Some(id), Some(older)) if id != older => problems.push(Problem::Conflict {
            key: "broker.id",
            value: older.to_string(),
            reason: format!("node.id is {id}; give one of them, or both the same"),
        }),
        (None, None)
            if !problems.iter().any(|problem| matches!(problem, Problem::Invalid { key: "node.id", .. })) =>
        {
            problems
                .push(Problem::Missing { key: "node.id", reason: "every node needs a number of its own" });
        }
        _ => {}
    }
    BrokerId(node.node_id.or(node.broker_id).unwrap_or(-1))
}

fn log_dirs(node: &NodeSettings, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let given = if node.log_dirs.is_empty() { &node.log_dir } else { &node.log_dirs };
    let mut dirs: Vec<PathBuf> = Vec::with_capacity(given.len());
    for dir in given.iter().map(PathBuf::from) {
        if dirs.contains(&dir) {
            let reason = format!("{} is given twice", dir.display());
            problems.push(Problem::Conflict { key: "log.dirs", value: given.join(","), reason });
            break;
        }
        dirs.push(dir);
    }
    dirs
}

/// Values that are fine alone and not together.
fn check_together(broker: &BrokerSettings, problems: &mut Vec<Problem>) {
    let mut conflict =
        |key, value: String, reason: String| problems.push(Problem::Conflict { key, value, reason });
    if !broker.node.roles.iter().any(|role| role == "broker") {
        let roles = broker.node.roles.join(",");
        conflict(
            "process.roles",
            roles,
            "a node without the role broker is not available in this version".into(),
        );
    }
    let (min, max) = (broker.groups.session_timeout_min, broker.groups.session_timeout_max);
    if min > max {
        let reason = format!("group.max.session.timeout.ms is {max}, which is less");
        conflict("group.min.session.timeout.ms", min.to_string(), reason);
    }
    let (min, max) = (broker.log.min_compaction_lag, broker.log.max_compaction_lag);
    if min > max {
        let reason = format!("log.cleaner.max.compaction.lag.ms is {}, which is less", max.as_millis());
        conflict("log.cleaner.min.compaction.lag.ms", min.as_millis().to_string(), reason);
    }
    if !broker.groups.rebalance_protocols.iter().any(|protocol| protocol == "classic") {
        let protocols = broker.groups.rebalance_protocols.join(",");
        conflict("group.coordinator.rebalance.protocols", protocols, "classic cannot be left out".into());
    }
    let is_id = |id: &str| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(id) = broker.node.cluster_id.as_deref().filter(|id| !is_id(id)) {
        conflict("cluster.id", id.to_owned(), "expected 1 to 64 visible ASCII characters".into());
    }
}

#[cfg(test)]
mod tests;
