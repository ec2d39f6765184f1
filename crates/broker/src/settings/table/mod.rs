//! The settings table: one row per key, grouped by subject.
//! A row reads `"key" KIND bounds = default, scope importance => field: type;` under its document sentence. The struct
//! that code reads, the parser, DescribeConfigs, the listing and `docs/settings.md` all come out of these rows; there is
//! no second list of keys.

use super::row::Setting;

/// Turns rows into a struct with one field per row and into the `Setting`s that describe them.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:ident, $rows:ident;
        $(
            $(#[doc = $doc:literal])+
            $key:literal $kind:ident $allowed:ident $(($($bound:expr),+))? = $default:tt, $scope:ident $importance:ident
                $(, awaits $awaited:literal)?
                $(, inert $why:literal)?
                $(, from [$($synonym:literal $(* $factor:literal)?),+])?
                => $field:ident: $ty:ty;
        )+
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $section {
            $($(#[doc = $doc])+ pub $field: $ty,)+
        }

        impl $section {
            /// Reads every field; `value` answers with the checked value of a key, `None` for null.
            pub(in crate::settings) fn read(
                value: impl Fn(&'static str) -> Option<crate::settings::value::Value>,
            ) -> Self {
                $section {
                    $($field: crate::settings::value::FieldType::from_value(value($key).as_ref()),)+
                }
            }
        }

        pub(in crate::settings) const $rows: &[crate::settings::row::Setting] = &[$(
            crate::settings::row::Setting {
                key: $key,
                field: stringify!($field),
                kind: crate::settings::row::Kind::$kind,
                allowed: crate::settings::row::Allowed::$allowed $(($($bound),+))?,
                default: section!(@default $default),
                scope: crate::settings::row::Scope::$scope,
                importance: crate::settings::row::Importance::$importance,
                effect: section!(@effect $(awaits $awaited)? $(inert $why)?),
                synonyms: &[$($(crate::settings::row::Synonym {
                    key: $synonym,
                    factor: section!(@factor $($factor)?),
                }),+)?],
                doc: concat!($($doc),+),
            },
        )+];
    };
    (@default null) => { None };
    (@default $text:literal) => { Some($text) };
    (@effect) => { crate::settings::row::Effect::Honoured };
    (@effect awaits $part:literal) => { crate::settings::row::Effect::Awaits($part) };
    (@effect inert $why:literal) => { crate::settings::row::Effect::Inert($why) };
    (@factor) => { 1 };
    (@factor $factor:literal) => { $factor };
}

mod node;
mod network;
mod defaults;
mod log;
mod groups;
mod replication;
mod share;
mod topic;
mod group;
mod client_metrics;
pub(super) mod foreign;

pub use client_metrics::ClientMetricsSettings;
pub use defaults::TopicDefaults;
pub use group::GroupConfigs;
pub use groups::GroupSettings;
pub use log::LogSettings;
pub use network::NetworkSettings;
pub use node::NodeSettings;
pub use replication::{RACK_AWARE, ReplicationSettings};
pub use share::ShareSettings;
pub use topic::TopicSettings;

/// A titled group of rows.
pub struct Section {
    /// Heading on the reference page.
    pub title: &'static str,
    /// The rows, in the order people should meet them.
    pub rows: &'static [Setting],
}

/// Every broker setting, by subject.
pub const BROKER: &[Section] = &[
    Section { title: "Node", rows: node::ROWS },
    Section { title: "Listeners and connections", rows: network::ROWS },
    Section { title: "Topics: creation and defaults", rows: defaults::ROWS },
    Section { title: "Log", rows: log::ROWS },
    Section { title: "Consumer groups and offsets", rows: groups::ROWS },
    Section { title: "Share groups", rows: share::ROWS },
    Section { title: "Replication, transactions, controller", rows: replication::ROWS },
];

/// Every topic setting.
pub const TOPIC: &[Setting] = topic::ROWS;

/// Every setting of a group.
pub const GROUP: &[Setting] = group::ROWS;

/// Every setting of a subscription to client metrics.
pub const CLIENT_METRICS: &[Setting] = client_metrics::ROWS;

/// The broker settings as one list.
pub fn broker_rows() -> impl Iterator<Item = &'static Setting> {
    BROKER.iter().flat_map(|section| section.rows)
}

/// The broker setting of this key.
#[must_use]
pub fn broker_row(key: &str) -> Option<&'static Setting> {
    broker_rows().find(|row| row.key == key)
}

/// The topic setting of this key.
#[must_use]
pub fn topic_row(key: &str) -> Option<&'static Setting> {
    TOPIC.iter().find(|row| row.key == key)
}

/// The group setting of this key.
#[must_use]
pub fn group_row(key: &str) -> Option<&'static Setting> {
    GROUP.iter().find(|row| row.key == key)
}

/// The client metrics setting of this key.
#[must_use]
pub fn client_metrics_row(key: &str) -> Option<&'static Setting> {
    CLIENT_METRICS.iter().find(|row| row.key == key)
}
