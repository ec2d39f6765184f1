//! Settings of topics and brokers.

use wire::Str;
use wire::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};

use super::{Admin, Outcomes, outcome};
use crate::error::Error;

/// Topics that one request asks about.
const TOPICS_MAX: usize = 500;

/// What has settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceKind {
    /// A topic.
    Topic,
    /// A broker, or all of them when the name is empty.
    Broker,
}

impl ResourceKind {
    fn code(self) -> i8 {
        match self {
            Self::Topic => 2,
            Self::Broker => 4,
        }
    }
}

/// A setting and where its value comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: Str,
    /// Its value; absent when it is sensitive or has none.
    pub value: Option<Str>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be changed this way.
    pub is_read_only: bool,
    /// Whether the value is a secret.
    pub is_sensitive: bool,
    /// What it means, when the broker says.
    pub documentation: Option<Str>,
}

/// Where a setting's value comes from, in Kafka's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    DynamicTopic,
    /// Set on this broker while it runs.
    DynamicBroker,
    /// Set on all brokers while they run.
    DynamicDefaultBroker,
    /// Set in the broker's file or environment.
    StaticBroker,
    /// Nobody set it.
    Default,
    /// A source with a code that this client does not know.
    Other(i8),
}

impl ConfigSource {
    fn from_code(code: i8) -> Self {
        match code {
            1 => Self::DynamicTopic,
            2 => Self::DynamicBroker,
            3 => Self::DynamicDefaultBroker,
            4 => Self::StaticBroker,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }

    /// Kafka's name of the source.
    pub fn name(self) -> &'static str {
        match self {
            Self::DynamicTopic => "DYNAMIC_TOPIC_CONFIG",
            Self::DynamicBroker => "DYNAMIC_BROKER_CONFIG",
            Self::DynamicDefaultBroker => "DYNAMIC_DEFAULT_BROKER_CONFIG",
            Self::StaticBroker => "STATIC_BROKER_CONFIG",
            Self::Default => "DEFAULT_CONFIG",
            Self::Other(_) => "UNKNOWN",
        }
    }
}

/// What to do with a setting.
#[derive(Debug, Clone, PartialEq)]
pub enum AlterOperation {
    /// Give it this value.
    Set(Str),
    /// Take it back to its default.
    Delete,
    /// Add to a list.
    Append(Str),
    /// Take from a list.
    Subtract(Str),
}

impl Admin {
    /// The settings of a topic or broker, in the order of their names.
    pub async fn describe_configs(&self, kind: ResourceKind, name: &Str) -> Result<Vec<ConfigEntry>, Error> {
        let doing = format!("describing the settings of {name}");
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: kind.code(),
                resource_name: name.clone(),
                configuration_keys: None,
            }],
            ..Default::default()
        };
        let result = self
            .cluster
            .retrying(&doing, || async {
                let response = self.cluster.call_any(request.clone()).await?;
                let result = response.results.into_iter().next().ok_or_else(|| Error::Protocol {
                    doing: doing.clone(),
                    problem: "it describes nothing".to_owned(),
                })?;
                outcome(result.error_code, doing.clone(), result.error_message.as_ref(), ())?;
                Ok(result)
            })
            .await?;
        let mut entries: Vec<_> = result
            .configs
            .into_iter()
            .map(|config| ConfigEntry {
                name: config.name,
                value: config.value,
                source: ConfigSource::from_code(config.config_source),
                is_read_only: config.read_only,
                is_sensitive: config.is_sensitive,
                documentation: config.documentation,
            })
            .collect();
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    /// The value of one setting of many topics, in the order of the topics; none where it has none.
    pub async fn topic_setting(
        &self,
        topics: &[Str],
        key: &Str,
    ) -> Result<Outcomes<Str, Option<Str>>, Error> {
        let doing = format!("describing the topics' {key}");
        let resource = |topic: &Str| DescribeConfigsResource {
            resource_type: ResourceKind::Topic.code(),
            resource_name: topic.clone(),
            configuration_keys: Some(vec![key.clone()]),
        };
        let mut outcomes = Vec::new();
        for topics in topics.chunks(TOPICS_MAX) {
            let resources = topics.iter().map(resource).collect();
            let request = DescribeConfigsRequest { resources, ..Default::default() };
            let response = self
                .cluster
                .retrying(&doing, || async { self.cluster.call_any(request.clone()).await })
                .await?;
            outcomes.extend(response.results.into_iter().map(|result| {
                let found = result.configs.into_iter().find(|config| config.name == *key);
                let value = found.and_then(|config| config.value);
                let doing = format!("describing {key} of topic {}", result.resource_name);
                let value = outcome(result.error_code, doing, result.error_message.as_ref(), value);
                (result.resource_name, value)
            }));
        }
        Ok(outcomes)
    }

    /// Changes settings of a topic or broker: all of them or, if one cannot be, none.
    pub async fn alter_configs(
        &self,
        kind: ResourceKind,
        name: &Str,
        changes: &[(Str, AlterOperation)],
    ) -> Result<(), Error> {
        let doing = format!("changing the settings of {name}");
        let change = |(name, operation): &(Str, AlterOperation)| {
            let (config_operation, value) = match operation {
                AlterOperation::Set(value) => (0, Some(value.clone())),
                AlterOperation::Delete => (1, None),
                AlterOperation::Append(value) => (2, Some(value.clone())),
                AlterOperation::Subtract(value) => (3, Some(value.clone())),
            };
            AlterableConfig { name: name.clone(), config_operation, value }
        };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: kind.code(),
                resource_name: name.clone(),
                configs: changes.iter().map(change).collect(),
            }],
            validate_only: false,
        };
        let response = self
            .ask_controller(&doing, request, |response| {
                response.responses.iter().map(|resource| resource.error_code).collect()
            })
            .await?;
        for resource in response.responses {
            outcome(resource.error_code, doing.clone(), resource.error_message.as_ref(), ())?;
        }
        Ok(())
    }
}
