//! What holds for one share group: its own settings within what the brokers allow by now, and theirs where it has none.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::Str;

use super::value::iso_duration;
use super::{GroupConfigs, Settings};

/// Where a group begins with a partition that it has not read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffsetReset {
    Earliest,
    Latest,
    /// So long ago.
    ByDuration(Duration),
}

/// What one share group goes by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShareGroupSettings {
    pub(crate) session_timeout_ms: i32,
    pub(crate) heartbeat_interval_ms: i32,
    pub(crate) lock_ms: i64,
    pub(crate) delivery_count_max: i16,
    pub(crate) in_flight_max: i64,
    pub(crate) offset_reset: OffsetReset,
    pub(crate) committed_only: bool,
    pub(crate) renew_enabled: bool,
    /// Where what is given up goes, if the group has such a topic.
    pub(crate) dead_letter_topic: Option<Str>,
    /// Whether key and value go along.
    pub(crate) dead_letters_copied: bool,
}

/// A setting of a group, and the broker's bounds on it.
type Bound = (&'static str, i64, i64);

impl Settings {
    /// What holds for a share group; `own` is what the group itself has, as the metadata stores it. A value outside of what the
    /// broker allows by now counts as the nearest that is allowed.
    pub(crate) fn share_group<'a>(
        &self,
        own: impl IntoIterator<Item = (&'a Str, &'a Str)>,
    ) -> ShareGroupSettings {
        let own: BTreeMap<&Str, &Str> = own.into_iter().collect();
        let GroupConfigs {
            share_session_timeout,
            share_heartbeat_interval,
            share_record_lock_duration,
            share_delivery_count_max,
            share_in_flight_max,
            share_offset_reset,
            share_isolation_level,
            share_renew_enabled,
            dead_letter_topic,
            dead_letters_copied,
            ..
        } = self.group(own.iter());
        let [session, heartbeat, lock, deliveries, in_flight] = self.share_bounds();
        let within = |(key, low, high): Bound, value: i64| match own.keys().any(|own| ***own == *key) {
            true => value.clamp(low, high.max(low)),
            false => value,
        };
        let int = |value: i64| i32::try_from(value).unwrap_or(i32::MAX);
        ShareGroupSettings {
            session_timeout_ms: int(within(session, share_session_timeout.0)),
            heartbeat_interval_ms: int(within(heartbeat, share_heartbeat_interval.0)),
            lock_ms: within(lock, share_record_lock_duration.0),
            delivery_count_max: i16::try_from(within(deliveries, share_delivery_count_max.into()))
                .unwrap_or(i16::MAX),
            in_flight_max: within(in_flight, share_in_flight_max.into()),
            offset_reset: match share_offset_reset.strip_prefix("by_duration:").and_then(iso_duration) {
                Some(ago) => OffsetReset::ByDuration(ago),
                None if share_offset_reset == "earliest" => OffsetReset::Earliest,
                None => OffsetReset::Latest,
            },
            committed_only: share_isolation_level == "read_committed",
            renew_enabled: share_renew_enabled,
            dead_letter_topic: (!dead_letter_topic.is_empty()).then(|| Str::from(dead_letter_topic)),
            dead_letters_copied,
        }
    }

    fn share_bounds(&self) -> [Bound; 5] {
        let share = &self.broker().share;
        let bound = |key, low: i32, high: i32| (key, i64::from(low), i64::from(high));
        [
            bound("share.session.timeout.ms", share.session_timeout_ms_min, share.session_timeout_ms_max),
            bound(
                "share.heartbeat.interval.ms",
                share.heartbeat_interval_ms_min,
                share.heartbeat_interval_ms_max,
            ),
            bound("share.record.lock.duration.ms", share.lock_ms_min, share.lock_ms_max),
            bound("share.delivery.count.limit", share.delivery_count_max_min, share.delivery_count_max_max),
            bound("share.partition.max.record.locks", share.in_flight_max_min, share.in_flight_max_max),
        ]
    }

    /// Whether a share group's own values lie within what the broker allows.
    pub(super) fn check_share_bounds(&self, values: &BTreeMap<Str, Str>) -> Result<(), String> {
        for (key, low, high) in self.share_bounds() {
            let value = values.get(key).and_then(|text| text.trim().parse::<i64>().ok());
            if let Some(value) = value.filter(|value| *value < low || *value > high) {
                let about = key.strip_prefix("share.").unwrap_or(key);
                return Err(format!(
                    "{key} must lie between {low} and {high} (group.share.min.{about}, group.share.max.{about}), not at {value}"
                ));
            }
        }
        Ok(())
    }
}
