//! The table as the metadata's decisions ask for it: may a resource have these values, and what is in a list.
//! A resource is checked as a whole, as it would be after the change. Messages are Kafka's in meaning, because its tools
//! show them; a key that does not exist is answered with the one that may have been meant. Nothing is stored here.

use std::collections::BTreeMap;

use state::metadata::{ConfigResource, ConfigRules, Image, MIN_ISR_KEY, ResourceKind, TopicRule, TopicRules};
use wire::{BrokerId, Str};

use super::layers::read_dynamic;
use super::problem::shown;
use super::row::{Kind, Scope, Setting};
use super::suggest::nearest;
use super::table::foreign::{Foreign, foreign};
use super::table::{
    CLIENT_METRICS, GROUP, GroupConfigs, TOPIC, broker_row, broker_rows, client_metrics_row, group_row,
    topic_row,
};
use super::{BrokerSettings, Settings, check_together};

impl ConfigRules for Settings {
    fn check(&self, resource: &ConfigResource, values: &BTreeMap<Str, Str>) -> Result<(), String> {
        match resource.kind {
            ResourceKind::Topic => self.check_topic(values),
            ResourceKind::Broker => self.check_broker(&resource.name, values),
            ResourceKind::ClientMetrics => check_all("client metrics", CLIENT_METRICS, values),
            ResourceKind::Group => {
                check_all("group", GROUP, values)?;
                self.check_share_bounds(values)?;
                check_group(&self.group(values))
            }
        }
    }

    fn is_list(&self, kind: ResourceKind, key: &str) -> bool {
        row(kind, key).is_some_and(|row| row.kind == Kind::List)
    }

    fn list_default(&self, kind: ResourceKind, key: &str) -> Option<Str> {
        let row = row(kind, key)?;
        let inherited = match kind {
            ResourceKind::Topic | ResourceKind::Group => self.layers.inherited(row),
            ResourceKind::ClientMetrics => row.default_value(),
            _ => self.layers.effective(row),
        };
        inherited.map(|value| Str::from(value.text()))
    }
}

impl TopicRules for Settings {
    /// What all brokers have to agree on comes from the image, as does what belongs to the topic: what this broker has taken
    /// over may be older or newer.
    fn rule(&self, image: &Image, topic: &Str) -> TopicRule {
        let of_all = image.config(&ConfigResource::cluster_default(), MIN_ISR_KEY);
        let of_all = of_all.map(|value| (MIN_ISR_KEY, value)).into_iter();
        let own = ConfigResource::topic(topic.clone());
        let own = image.configs(&own).map(|(key, value)| (&**key, value));
        // The later of two counts.
        let settings = self.topic(of_all.chain(own));
        TopicRule {
            min_insync_replicas: usize::try_from(settings.min_insync_replicas).unwrap_or(1),
            unclean_election: settings.unclean_leader_election,
            flush_before_ack: settings.flush_before_ack,
        }
    }
}

impl Settings {
    fn check_topic(&self, values: &BTreeMap<Str, Str>) -> Result<(), String> {
        for (key, text) in values {
            check_value(topic_row(key).ok_or_else(|| unknown("topic", key, TOPIC.iter()))?, text)?;
        }
        let topic = self.topic(values);
        let (min, max) = (topic.min_compaction_lag_ms, topic.max_compaction_lag_ms);
        if min > max {
            let (min, max) = (min.0, max.0);
            return Err(format!(
                "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
            ));
        }
        if topic.remote_storage {
            let why = "Tiered Storage functionality is disabled in the broker. \
                       Topic cannot be configured with remote log storage.";
            return Err(why.to_owned());
        }
        Ok(())
    }

    /// `name` is a broker's number, or empty for all brokers.
    fn check_broker(&self, name: &str, values: &BTreeMap<Str, Str>) -> Result<(), String> {
        for (key, text) in values {
            let row = broker_row(key).ok_or_else(|| not_a_broker_setting(key))?;
            match row.scope {
                Scope::ReadOnly | Scope::Topic | Scope::Group | Scope::ClientMetrics => {
                    return Err(format!("Cannot update these configs dynamically: [{key}]"));
                }
                Scope::PerBroker if name.is_empty() => {
                    return Err(format!(
                        "Cannot update these configs at default cluster level, broker id must be specified: [{key}]"
                    ));
                }
                Scope::ClusterWide if key == MIN_ISR_KEY && !name.is_empty() => {
                    return Err(format!(
                        "{MIN_ISR_KEY} cannot differ between brokers: set it for all of them (the default entity) or for a topic"
                    ));
                }
                Scope::PerBroker | Scope::ClusterWide => check_value(row, text)?,
            }
        }
        let mut dynamic = self.layers.dynamic().clone();
        let changed = read_dynamic(values, &mut Vec::new());
        match name.parse().map(BrokerId) {
            Err(_) => dynamic.cluster_default = changed,
            Ok(id) if id == self.node_id => dynamic.this_broker = changed,
            // What else another broker was given at start is for that broker to know.
            Ok(_) => return Ok(()),
        }
        let mut problems = Vec::new();
        check_together(&BrokerSettings::read(&self.layers.with_dynamic(dynamic)), &mut problems);
        problems.first().map_or(Ok(()), |problem| Err(problem.to_string()))
    }
}

fn row(kind: ResourceKind, key: &str) -> Option<&'static Setting> {
    match kind {
        ResourceKind::Topic => topic_row(key),
        ResourceKind::Broker => broker_row(key),
        ResourceKind::ClientMetrics => client_metrics_row(key),
        ResourceKind::Group => group_row(key),
    }
}

/// Each value by itself.
fn check_all(what: &str, rows: &'static [Setting], values: &BTreeMap<Str, Str>) -> Result<(), String> {
    let row =
        |key: &Str| rows.iter().find(|row| row.key == &**key).ok_or_else(|| unknown(what, key, rows.iter()));
    values.iter().try_for_each(|(key, text)| check_value(row(key)?, text))
}

/// A member that beats no more often than it has to be heard of is dead half of the time.
fn check_group(group: &GroupConfigs) -> Result<(), String> {
    let pairs = [
        ("consumer", group.consumer_session_timeout, group.consumer_heartbeat_interval),
        ("share", group.share_session_timeout, group.share_heartbeat_interval),
    ];
    for (kind, session, heartbeat) in pairs {
        if session <= heartbeat {
            return Err(format!(
                "{kind}.session.timeout.ms must be greater than {kind}.heartbeat.interval.ms ({session}, {heartbeat})"
            ));
        }
    }
    Ok(())
}

fn check_value(row: &Setting, text: &str) -> Result<(), String> {
    match row.parse(text) {
        Ok(_) => Ok(()),
        Err(violation) => {
            Err(format!("Invalid value {} for configuration {}: {violation}", shown(row, text), row.key))
        }
    }
}

fn unknown(what: &str, key: &str, rows: impl Iterator<Item = &'static Setting>) -> String {
    let near = nearest(key, rows.map(|row| row.key));
    let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    format!("Unknown {what} config name: {key}{near}")
}

fn not_a_broker_setting(key: &str) -> String {
    match foreign(key) {
        Some(Foreign::NoEffect(reason) | Foreign::RefusedUnless(_, reason)) => {
            format!("{key} has no effect here: {reason}")
        }
        None => unknown("broker", key, broker_rows()),
    }
}
