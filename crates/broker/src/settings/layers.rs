//! The broker's values by layer, and the walk through them that answers "what holds, and where does it come from?".
//! Precedence is Kafka's: dynamic for this broker, dynamic for all brokers, static (file, environment, command line),
//! default. Every value stored here has passed its row's check; texts are kept as given for DescribeConfigs.

use std::collections::BTreeMap;

use super::problem::{Notice, Problem, SettingsError};
use super::row::{Effect, Setting, Synonym};
use super::sources::{Given, Origin, Sources};
use super::suggest::nearest;
use super::table::foreign::{Foreign, foreign};
use super::table::{broker_row, broker_rows};
use super::value::Value;

pub(super) const CONNECTIONS_MAX: &str = "max.connections";
pub(super) const CONNECTION_RATE_MAX: &str = "max.connection.creation.rate";
const OF_LISTENERS: [&str; 2] = [CONNECTIONS_MAX, CONNECTION_RATE_MAX];

/// Where a value comes from, as DescribeConfigs numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigSource {
    /// The topic's own.
    DynamicTopic,
    /// Dynamic, for this broker.
    DynamicBroker,
    /// Dynamic, for all brokers.
    DynamicDefaultBroker,
    /// Given at start.
    StaticBroker,
    /// The default.
    Default,
    /// The subscription's own.
    DynamicClientMetrics,
    /// The group's own.
    DynamicGroup,
}

impl ConfigSource {
    /// The number that stands for it on the wire.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            ConfigSource::DynamicTopic => 1,
            ConfigSource::DynamicBroker => 2,
            ConfigSource::DynamicDefaultBroker => 3,
            ConfigSource::StaticBroker => 4,
            ConfigSource::Default => 5,
            ConfigSource::DynamicClientMetrics => 7,
            ConfigSource::DynamicGroup => 8,
        }
    }
}

/// The broker's values by layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    fixed: BTreeMap<&'static str, (Value, Origin)>,
    /// What was given for a single listener at start, by its name in upper case and the setting's key.
    of_listeners: BTreeMap<(String, &'static str), Value>,
    dynamic: Dynamic,
}

/// The values that the cluster's metadata holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Dynamic {
    pub(super) cluster_default: BTreeMap<&'static str, Value>,
    pub(super) this_broker: BTreeMap<&'static str, Value>,
}

impl Layers {
    /// Reads what was given at start. Every problem is collected; values that are fine are kept, so that the checks
    /// between settings can go on and find the rest.
    pub(super) fn from_sources(sources: Sources, notices: &mut Vec<Notice>) -> (Layers, SettingsError) {
        let mut layers = Layers::default();
        let mut problems = sources.problems;
        for given in [sources.program, sources.file, sources.environment, sources.command_line] {
            let mut here: BTreeMap<&'static str, Origin> = BTreeMap::new();
            for given in given {
                match (broker_row(&given.key), of_listener(&given.key)) {
                    (Some(row), _) => layers.give(row, given, &mut here, &mut problems, notices),
                    (None, Some((listener, row))) => match row.parse(&given.value) {
                        Ok(value) => drop(layers.of_listeners.insert((listener, row.key), value)),
                        Err(violation) => {
                            problems.push(Problem::invalid(row, &given.value, &given.origin, violation));
                        }
                    },
                    (None, None) => not_in_table(given, &mut problems, notices),
                }
            }
        }
        for (key, (_, origin)) in &layers.fixed {
            let origin = origin.clone();
            match broker_row(key).map_or(Effect::Honoured, |row| row.effect) {
                _ if origin == Origin::Program => {}
                Effect::Honoured => {}
                Effect::Awaits(part) => notices.push(Notice::Awaits { key, origin, part }),
                Effect::Inert(reason) => {
                    notices.push(Notice::NoEffect { key: (*key).to_owned(), origin, reason });
                }
            }
        }
        (layers, SettingsError { problems })
    }

    fn give(
        &mut self,
        row: &'static Setting,
        given: Given,
        here: &mut BTreeMap<&'static str, Origin>,
        problems: &mut Vec<Problem>,
        notices: &mut Vec<Notice>,
    ) {
        if let Some(origin) = here.insert(row.key, given.origin.clone()) {
            notices.push(Notice::Overridden { key: row.key, origin, by: given.origin.clone() });
        }
        match row.parse(&given.value) {
            Ok(value) => {
                self.fixed.insert(row.key, (value, given.origin));
            }
            Err(violation) => problems.push(Problem::invalid(row, &given.value, &given.origin, violation)),
        }
    }

    /// Lets `name` stand for `row.key` as well, unless that is given itself.
    pub(super) fn fix_if_absent(&mut self, key: &'static str, from: &'static str) {
        if let (false, Some(given)) = (self.fixed.contains_key(key), self.fixed.get(from).cloned()) {
            self.fixed.insert(key, given);
        }
    }

    /// The same static values under other dynamic ones.
    pub(super) fn with_dynamic(&self, dynamic: Dynamic) -> Layers {
        Layers { fixed: self.fixed.clone(), of_listeners: self.of_listeners.clone(), dynamic }
    }

    /// What was given for a single listener, by its name in upper case and the setting's key.
    pub(super) fn of_listeners(&self) -> &BTreeMap<(String, &'static str), Value> {
        &self.of_listeners
    }

    /// The dynamic values.
    pub(super) fn dynamic(&self) -> &Dynamic {
        &self.dynamic
    }

    /// What holds for a broker setting; `None` is null.
    pub(super) fn effective(&self, row: &Setting) -> Option<Value> {
        let dynamic =
            self.dynamic.this_broker.get(row.key).or_else(|| self.dynamic.cluster_default.get(row.key));
        let given = dynamic.or_else(|| self.fixed.get(row.key).map(|(value, _)| value));
        given.cloned().or_else(|| row.default_value())
    }

    /// What a topic setting inherits when the topic itself says nothing.
    pub(super) fn inherited(&self, row: &Setting) -> Option<Value> {
        let from = |synonym: &Synonym| {
            let value = self.effective(broker_row(synonym.key)?)?;
            Some(in_topic_units(value, synonym.factor))
        };
        row.synonyms.iter().find_map(from).or_else(|| row.default_value())
    }

    /// Everything that is set under these keys, strongest first.
    pub(super) fn chain(
        &self,
        keys: impl Iterator<Item = &'static str> + Clone,
    ) -> Vec<(&'static str, ConfigSource, Value)> {
        let mut chain = Vec::new();
        let mut add = |source, value: &dyn Fn(&'static str) -> Option<Value>| {
            chain.extend(keys.clone().filter_map(|key| Some((key, source, value(key)?))));
        };
        add(ConfigSource::DynamicBroker, &|key| self.dynamic.this_broker.get(key).cloned());
        add(ConfigSource::DynamicDefaultBroker, &|key| self.dynamic.cluster_default.get(key).cloned());
        add(ConfigSource::StaticBroker, &|key| self.fixed.get(key).map(|(value, _)| value.clone()));
        add(ConfigSource::Default, &|key| broker_row(key)?.default_value());
        chain
    }
}

/// Checks stored dynamic values. One that is no longer valid is left out with a notice: a broker must start with what an
/// older or newer version has stored.
pub(super) fn read_dynamic<K: AsRef<str>, V: AsRef<str>>(
    stored: impl IntoIterator<Item = (K, V)>,
    notices: &mut Vec<Notice>,
) -> BTreeMap<&'static str, Value> {
    let read = |key: &str, text: &str| {
        let row = broker_row(key).filter(|row| row.scope.is_dynamic());
        let row = row.ok_or_else(|| "it is no dynamic setting of this version".to_owned())?;
        Ok((row.key, row.parse(text).map_err(|violation| violation.to_string())?))
    };
    let mut values = BTreeMap::new();
    for (key, text) in stored {
        match read(key.as_ref(), text.as_ref()) {
            Ok((key, value)) => {
                values.insert(key, value);
            }
            Err(reason) => notices.push(Notice::Unreadable { key: key.as_ref().to_owned(), reason }),
        }
    }
    values
}

/// Hours and minutes to milliseconds; negative stays "no bound".
fn in_topic_units(value: Value, factor: i64) -> Value {
    match value {
        Value::Number(number) if number < 0 && factor != 1 => Value::Number(-1),
        Value::Number(number) => Value::Number(number.saturating_mul(factor)),
        other => other,
    }
}

/// The listener and the setting behind `listener.name.NAME.KEY`, of those that a listener can have for itself.
fn of_listener(key: &str) -> Option<(String, &'static Setting)> {
    let rest = key.strip_prefix("listener.name.")?;
    OF_LISTENERS.iter().find_map(|own| {
        let name = rest.strip_suffix(own)?.strip_suffix('.')?;
        Some((name.to_ascii_uppercase(), broker_row(own)?))
    })
}

fn not_in_table(given: Given, problems: &mut Vec<Problem>, notices: &mut Vec<Notice>) {
    let Given { key, value, origin } = given;
    match foreign(&key) {
        Some(Foreign::NoEffect(reason)) => notices.push(Notice::NoEffect { key, origin, reason }),
        Some(Foreign::RefusedUnless(harmless, _)) if harmless.contains(&value.trim()) => {}
        Some(Foreign::RefusedUnless(harmless, reason)) => {
            let allowed = harmless.iter().map(|word| if word.is_empty() { "nothing" } else { word });
            let allowed = allowed.collect::<Vec<_>>().join(", ");
            problems.push(Problem::Refused { key, value, origin, reason, allowed });
        }
        None => {
            let nearest = nearest(&key, broker_rows().map(|row| row.key));
            match origin {
                Origin::Environment(variable) => notices.push(Notice::UnknownVariable { variable, nearest }),
                origin => {
                    let value = if looks_secret(&key) { "[hidden]".to_owned() } else { value };
                    problems.push(Problem::Unknown { key, value, origin, nearest });
                }
            }
        }
    }
}

/// A mistyped key is still somebody's secret.
fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["pass", "secret", "jaas", "credential", "token"].iter().any(|word| key.contains(word))
}
