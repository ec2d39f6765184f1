//! Settings of single groups: what they may be, and what holds for a group.

use std::collections::BTreeMap;

use wire::Str;

use super::Settings;
use super::rules::{check_value, unknown};
use super::table::{GROUP, ShareGroupSettings, group_row};
use super::value::Value;

/// Where a group begins with a partition that it has not read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffsetReset {
    Earliest,
    Latest,
    /// So many milliseconds ago.
    ByDuration(i64),
}

impl OffsetReset {
    /// Reads `share.auto.offset.reset`.
    pub(crate) fn parse(text: &str) -> Option<OffsetReset> {
        match text {
            "earliest" => Some(OffsetReset::Earliest),
            "latest" => Some(OffsetReset::Latest),
            _ => text.strip_prefix("by_duration:").and_then(duration_ms).map(OffsetReset::ByDuration),
        }
    }
}

/// An ISO 8601 duration as Java reads it, `PnDTnHnMn.nS`, that is not negative; in milliseconds.
fn duration_ms(text: &str) -> Option<i64> {
    let text = text.to_ascii_uppercase();
    let (days, time) = match text.strip_prefix('P')?.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (text.strip_prefix('P')?, ""),
    };
    let mut total: i64 = 0;
    let mut is_given = false;
    let mut rest = days;
    let mut add = |rest: &mut &str, unit: char, ms: i64| -> Option<()> {
        let Some((number, after)) = rest.split_once(unit) else { return Some(()) };
        *rest = after;
        is_given = true;
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) if unit == 'S' => (whole, fraction),
            Some(_) => return None,
            None => (number, ""),
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
            return None;
        }
        let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
        total = total.checked_add(whole.parse::<i64>().ok()?.checked_mul(ms)?)?;
        if unit == 'S' {
            total = total.checked_add(thousandths.parse().ok()?)?;
        }
        Some(())
    };
    add(&mut rest, 'D', 86_400_000)?;
    if !rest.is_empty() {
        return None;
    }
    let mut rest = time;
    add(&mut rest, 'H', 3_600_000)?;
    add(&mut rest, 'M', 60_000)?;
    add(&mut rest, 'S', 1_000)?;
    (rest.is_empty() && is_given).then_some(total)
}

impl Settings {
    /// What holds for a share group; `own` is what the group itself has, as the metadata stores it. A value outside of what the
    /// broker allows by now counts as the nearest that is allowed.
    #[must_use]
    pub fn share_group<K: AsRef<str>, V: AsRef<str>>(
        &self,
        own: impl IntoIterator<Item = (K, V)>,
    ) -> ShareGroupSettings {
        let own = own_group_values(own);
        let mut group = ShareGroupSettings::read(|key| {
            let row = group_row(key).expect("the struct and the rows come from one table");
            own.get(key).cloned().or_else(|| self.layers.inherited(row))
        });
        for (key, low, high) in self.share_bounds() {
            let clamp =
                |value: i64| if own.contains_key(key) { value.clamp(low, high.max(low)) } else { value };
            match key {
                "share.session.timeout.ms" => {
                    group.session_timeout_ms = clamp(group.session_timeout_ms.into()) as i32
                }
                "share.heartbeat.interval.ms" => {
                    group.heartbeat_interval_ms = clamp(group.heartbeat_interval_ms.into()) as i32;
                }
                "share.record.lock.duration.ms" => group.lock_ms = clamp(group.lock_ms),
                "share.delivery.count.limit" => {
                    group.delivery_count_max = clamp(group.delivery_count_max.into()) as i16;
                }
                _ => group.locks_max = clamp(group.locks_max),
            }
        }
        group
    }

    /// Keys whose values the broker bounds, and the bounds.
    fn share_bounds(&self) -> [(&'static str, i64, i64); 5] {
        let share = &self.broker().share;
        let bounds = |low: i32, high: i32| (i64::from(low), i64::from(high));
        let with = |key, (low, high)| (key, low, high);
        [
            with(
                "share.session.timeout.ms",
                bounds(share.session_timeout_ms_min, share.session_timeout_ms_max),
            ),
            with(
                "share.heartbeat.interval.ms",
                bounds(share.heartbeat_interval_ms_min, share.heartbeat_interval_ms_max),
            ),
            with("share.record.lock.duration.ms", bounds(share.lock_ms_min, share.lock_ms_max)),
            with(
                "share.delivery.count.limit",
                bounds(share.delivery_count_max_min, share.delivery_count_max_max),
            ),
            with("share.partition.max.record.locks", bounds(share.locks_max_min, share.locks_max_max)),
        ]
    }

    /// Whether a group may have these values.
    pub(super) fn check_group(&self, name: &str, values: &BTreeMap<Str, Str>) -> Result<(), String> {
        if name.is_empty() {
            return Err("Default group resources are not allowed.".to_owned());
        }
        for (key, text) in values {
            let row = group_row(key).ok_or_else(|| unknown("group", key, GROUP.iter().copied().flatten()))?;
            check_value(row, text)?;
            let Ok(Value::Number(value)) = row.parse(text) else { continue };
            let bounds = self.share_bounds();
            let bound = bounds.iter().find(|(bounded, ..)| **bounded == **key);
            if let Some((_, low, high)) = bound.filter(|(_, low, high)| value < *low || value > *high) {
                let broker_key =
                    format!("group.share.{{min,max}}.{}", key.strip_prefix("share.").unwrap_or(key));
                return Err(format!(
                    "{key} must lie between {low} and {high} ({broker_key}), not at {value}"
                ));
            }
        }
        if let Some(reset) = values.get("share.auto.offset.reset")
            && OffsetReset::parse(reset).is_none()
        {
            return Err(format!(
                "Invalid value {reset} for configuration share.auto.offset.reset: it is latest, earliest, or \
                 by_duration:PnDTnHnMn.nS"
            ));
        }
        let group = self.share_group(values);
        if group.heartbeat_interval_ms >= group.session_timeout_ms {
            return Err(format!(
                "share.session.timeout.ms ({}) must be longer than share.heartbeat.interval.ms ({})",
                group.session_timeout_ms, group.heartbeat_interval_ms
            ));
        }
        Ok(())
    }
}

/// A group's stored values. One that this version cannot read counts as absent.
pub(super) fn own_group_values<K: AsRef<str>, V: AsRef<str>>(
    stored: impl IntoIterator<Item = (K, V)>,
) -> BTreeMap<&'static str, Value> {
    let parsed = stored.into_iter().filter_map(|(key, text)| {
        let row = group_row(key.as_ref())?;
        Some((row.key, row.parse(text.as_ref()).ok()?))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_javas() {
        for (text, ms) in [
            ("PT1S", 1_000),
            ("PT0.5S", 500),
            ("P1DT2H3M4.005S", 93_784_005),
            ("p2d", 172_800_000),
            ("PT90M", 5_400_000),
        ] {
            let reset = OffsetReset::parse(&format!("by_duration:{text}"));
            assert_eq!(reset, Some(OffsetReset::ByDuration(ms)), "{text}");
        }
        for text in [
            "",
            "P",
            "PT",
            "P1DT",
            "PT-1S",
            "P1H",
            "PT1D",
            "PT1.5H",
            "1S",
            "PT1S2S",
            "PT99999999999999999999S",
        ] {
            assert_eq!(OffsetReset::parse(&format!("by_duration:{text}")), None, "{text}");
        }
        assert_eq!(OffsetReset::parse("none"), None);
    }
}
