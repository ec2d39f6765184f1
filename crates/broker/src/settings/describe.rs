//! DescribeConfigs: every setting of a broker or topic with its value, where the value comes from, and what lies under it.
//! A secret's value is never told, not even to say what it overrides. These functions only read; which resource a client
//! may see, and whether it exists, is the handler's affair.

use wire::Str;
use wire::messages::describe_configs::{DescribeConfigsResourceResult, DescribeConfigsSynonym};

use super::layers::ConfigSource;
use super::row::Setting;
use super::table::{CLIENT_METRICS, GROUP, TOPIC, broker_rows, client_metrics_row, group_row, topic_row};
use super::value::Value;
use super::{Settings, own_values};

/// What a client asks to be told.
#[derive(Debug, Clone, Copy, Default)]
pub struct DescribeOptions<'a> {
    /// Keys to describe; `None` or an empty list is all of them.
    pub keys: Option<&'a [Str]>,
    /// Also list the values that the present one overrides.
    pub include_synonyms: bool,
    /// Also give the document sentences.
    pub include_documentation: bool,
}

impl DescribeOptions<'_> {
    fn wants(&self, key: &str) -> bool {
        self.keys.is_none_or(|keys| keys.is_empty() || keys.iter().any(|wanted| &**wanted == key))
    }
}

impl Settings {
    /// This broker's settings, each with the value that holds.
    #[must_use]
    pub fn describe_broker(&self, options: &DescribeOptions<'_>) -> Vec<DescribeConfigsResourceResult> {
        let rows = broker_rows().filter(|row| options.wants(row.key));
        let describe = |row: &'static Setting| {
            let chain = self.layers.chain([row.key].into_iter());
            described(row, chain, self.layers.effective(row), options)
        };
        rows.map(describe).collect()
    }

    /// The dynamic values that hold for all brokers; settings without one are left out, as Kafka does.
    #[must_use]
    pub fn describe_cluster_default(
        &self,
        options: &DescribeOptions<'_>,
    ) -> Vec<DescribeConfigsResourceResult> {
        let rows = broker_rows().filter(|row| options.wants(row.key));
        let describe = |row: &'static Setting| {
            let value = self.layers.dynamic().cluster_default.get(row.key)?.clone();
            let chain = vec![(row.key, ConfigSource::DynamicDefaultBroker, value.clone())];
            Some(described(row, chain, Some(value), options))
        };
        rows.filter_map(describe).collect()
    }

    /// A topic's settings; `own` is what the topic itself has, as the metadata stores it.
    #[must_use]
    pub fn describe_topic<K: AsRef<str>, V: AsRef<str>>(
        &self,
        own: impl IntoIterator<Item = (K, V)>,
        options: &DescribeOptions<'_>,
    ) -> Vec<DescribeConfigsResourceResult> {
        let own = own_values(own, topic_row);
        let rows = TOPIC.iter().filter(|row| options.wants(row.key));
        let describe = |row: &'static Setting| {
            let inherited = self.layers.chain(row.synonyms.iter().map(|synonym| synonym.key));
            let own = own.get(row.key).cloned();
            let value = own.clone().or_else(|| self.layers.inherited(row));
            let own = own.map(|value| (row.key, ConfigSource::DynamicTopic, value));
            described(row, own.into_iter().chain(inherited).collect(), value, options)
        };
        rows.map(describe).collect()
    }
}

impl Settings {
    /// A group's settings; `own` is what the group itself has, as the metadata stores it.
    #[must_use]
    pub fn describe_group<K: AsRef<str>, V: AsRef<str>>(
        &self,
        own: impl IntoIterator<Item = (K, V)>,
        options: &DescribeOptions<'_>,
    ) -> Vec<DescribeConfigsResourceResult> {
        let own = own_values(own, group_row);
        let rows = GROUP.iter().filter(|row| options.wants(row.key));
        let describe = |row: &'static Setting| {
            let inherited = self.layers.chain(row.synonyms.iter().map(|synonym| synonym.key));
            let default = row.default_value().filter(|_| row.synonyms.is_empty());
            let own = own.get(row.key).cloned();
            let value = own.clone().or_else(|| self.layers.inherited(row));
            let own = own.map(|value| (row.key, ConfigSource::DynamicGroup, value));
            let default = default.map(|value| (row.key, ConfigSource::Default, value));
            described(row, own.into_iter().chain(inherited).chain(default).collect(), value, options)
        };
        rows.map(describe).collect()
    }

    /// What is set of a subscription to client metrics; what is not is left out, as Kafka does.
    #[must_use]
    pub fn describe_client_metrics<K: AsRef<str>, V: AsRef<str>>(
        &self,
        own: impl IntoIterator<Item = (K, V)>,
        options: &DescribeOptions<'_>,
    ) -> Vec<DescribeConfigsResourceResult> {
        let own = own_values(own, client_metrics_row);
        let rows = CLIENT_METRICS.iter().filter(|row| options.wants(row.key));
        let describe = |row: &'static Setting| {
            let value = own.get(row.key)?.clone();
            let chain = vec![(row.key, ConfigSource::DynamicClientMetrics, value.clone())];
            Some(described(row, chain, Some(value), options))
        };
        rows.filter_map(describe).collect()
    }
}

/// One entry: the value that holds, its source, and what lies under it, strongest first.
fn described(
    row: &'static Setting,
    chain: Vec<(&'static str, ConfigSource, Value)>,
    value: Option<Value>,
    options: &DescribeOptions<'_>,
) -> DescribeConfigsResourceResult {
    let text = |value: Value| if row.is_sensitive() { None } else { Some(Str::from(value.text())) };
    let source = chain.first().map_or(ConfigSource::Default, |(_, source, _)| *source);
    let synonyms = chain.into_iter().map(|(key, source, value)| DescribeConfigsSynonym {
        name: Str::from(key),
        value: text(value),
        source: source.code(),
    });
    DescribeConfigsResourceResult {
        name: Str::from(row.key),
        value: value.and_then(text),
        read_only: !row.scope.is_dynamic(),
        config_source: source.code(),
        is_sensitive: row.is_sensitive(),
        synonyms: if options.include_synonyms { synonyms.collect() } else { Vec::new() },
        config_type: row.kind.code(),
        documentation: options.include_documentation.then(|| Str::from(row.documentation())),
    }
}
