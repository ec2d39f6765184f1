//! The deadlines of all groups of a shard, in order.
//!
//! Each alarm has at most one deadline; setting it again moves it. Cost is logarithmic in the number of members, so that
//! a thousand groups of ten members tick cheaply. The clock is not here: the caller says what time it is.

use std::collections::{BTreeMap, BTreeSet};

use wire::{Millis, Str};

/// Something to do for a group at a certain time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A member, or an id that was handed out, has not been heard of for its session timeout.
    Session { group: Str, member: Str },
    /// The joining phase is over.
    Join { group: Str },
    /// The members that have not asked for their assignment are late.
    Sync { group: Str },
    /// A member of a group of the consumer protocol has not done in time what it was told.
    Progress { group: Str, member: Str },
}

impl Alarm {
    pub(super) fn group(&self) -> &Str {
        match self {
            Alarm::Session { group, .. }
            | Alarm::Join { group }
            | Alarm::Sync { group }
            | Alarm::Progress { group, .. } => group,
        }
    }
}

/// Alarms by time, and times by alarm.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Millis, Alarm)>,
    times: BTreeMap<Alarm, Millis>,
}

impl Timers {
    pub(super) fn set(&mut self, alarm: Alarm, at: Millis) {
        if let Some(before) = self.times.insert(alarm.clone(), at) {
            if before == at {
                return;
            }
            let (_, alarm) = self.take_entry(before, alarm);
            self.by_time.insert((at, alarm));
        } else {
            self.by_time.insert((at, alarm));
        }
        assert!(self.by_time.len() == self.times.len());
    }

    pub(super) fn cancel(&mut self, alarm: &Alarm) {
        if let Some(at) = self.times.remove(alarm) {
            self.take_entry(at, alarm.clone());
        }
    }

    pub(super) fn cancel_group<'a>(&mut self, group: &Str, members: impl Iterator<Item = &'a Str>) {
        self.cancel(&Alarm::Join { group: group.clone() });
        self.cancel(&Alarm::Sync { group: group.clone() });
        for member in members {
            self.cancel(&Alarm::Session { group: group.clone(), member: member.clone() });
        }
    }

    /// Takes one alarm whose time has come, the earliest first.
    pub(super) fn pop_due(&mut self, now: Millis) -> Option<Alarm> {
        let (at, _) = self.by_time.first()?;
        if *at > now {
            return None;
        }
        let (_, alarm) = self.by_time.pop_first()?;
        self.times.remove(&alarm);
        Some(alarm)
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    pub(super) fn contains(&self, alarm: &Alarm) -> bool {
        self.times.contains_key(alarm)
    }

    #[cfg(test)]
    pub(super) fn alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.times.keys()
    }

    fn take_entry(&mut self, at: Millis, alarm: Alarm) -> (Millis, Alarm) {
        let entry = (at, alarm);
        let present = self.by_time.remove(&entry);
        assert!(present, "every time has its alarm");
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_alarm_rings_once_at_its_new_time() {
        let mut timers = Timers::default();
        let join = Alarm::Join { group: Str::from("g") };
        timers.set(join.clone(), Millis(10));
        timers.set(join.clone(), Millis(30));
        timers.set(Alarm::Sync { group: Str::from("g") }, Millis(20));
        assert_eq!(timers.next_deadline(), Some(Millis(20)));
        assert_eq!(timers.pop_due(Millis(19)), None);
        assert_eq!(timers.pop_due(Millis(30)), Some(Alarm::Sync { group: Str::from("g") }));
        assert_eq!(timers.pop_due(Millis(30)), Some(join));
        assert_eq!(timers.pop_due(Millis(30)), None);
        assert_eq!(timers.next_deadline(), None);
    }
}
