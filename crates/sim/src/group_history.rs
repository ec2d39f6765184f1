//! What members of groups were told, and whether it fits together.
//!
//! A committed offset is a register that many write and read: whoever asks is given what was committed last, or by a commit that
//! nobody heard of, and never what was before. A partition is in one member's hands. What is committed was read, all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::history::History;
use crate::world::elapsed;

/// A group's partition.
pub(crate) type Part = (&'static str, i32);

/// A moment: no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

/// What became of a commit, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Done,
    /// For certain not.
    Refused,
    NotKnown,
}

/// A member, as it is called here and as its group knows it: who comes back by the same id may speak for what it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) id: String,
}

/// A commit that may have been done.
#[derive(Debug)]
struct Commit {
    who: Who,
    epoch: i32,
    offset: i64,
    sent: Moment,
    /// By when it was done at the latest.
    done_by: Option<Moment>,
}

/// Names a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitId(Part, usize);

/// A member that was given a partition.
#[derive(Debug)]
struct Owner {
    who: Who,
    epoch: i32,
    given: Moment,
    /// It has it until then if it is not heard of; `None` once it let go.
    lease: Option<Duration>,
}

#[derive(Debug, Default)]
struct Records {
    commits: Vec<Commit>,
    owners: Vec<Owner>,
    read: BTreeSet<i64>,
}

#[derive(Debug, Default)]
struct Events {
    now: u64,
    parts: BTreeMap<Part, Records>,
}

/// The record of all groups. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupHistory {
    pub(crate) history: History,
    events: Arc<Mutex<Events>>,
}

impl GroupHistory {
    pub(crate) fn new(history: History) -> Self {
        GroupHistory { history, events: Arc::default() }
    }

    /// The moment that is now.
    pub(crate) fn now(&self) -> Moment {
        let mut events = self.events.lock();
        events.now += 1;
        Moment(events.now)
    }

    /// A member was given a partition, in an epoch. It has it until it lets go, or `lease` ends.
    pub(crate) fn given(&self, part: Part, who: &Who, epoch: i32, lease: Duration) {
        let given = self.now();
        let at = elapsed();
        let mut events = self.events.lock();
        let owners = &mut events.parts.entry(part).or_default().owners;
        let other = owners
            .iter()
            .find(|owner| owner.who.name != who.name && owner.lease.is_some_and(|lease| lease > at));
        let anomaly = other.map(|other| {
            format!(
                "{} of group {} is given to {} in epoch {epoch} while {} has it since epoch {}",
                part.1, part.0, who.name, other.who.name, other.epoch
            )
        });
        owners.retain(|owner| owner.who.name != who.name);
        owners.push(Owner { who: who.clone(), epoch, given, lease: Some(lease) });
        drop(events);
        if let Some(anomaly) = anomaly {
            self.history.anomaly(anomaly);
        }
    }

    /// A member of a group was heard of: it has what it has until `lease` ends.
    pub(crate) fn heard(&self, group: &str, who: &Who, lease: Duration) {
        self.each_of(group, who, |_, held| *held = (*held).map(|before| before.max(lease)));
    }

    /// A member lets go of all partitions but these.
    pub(crate) fn keeps(&self, group: &str, who: &Who, kept: &BTreeSet<i32>) {
        self.each_of(group, who, |partition, held| {
            if !kept.contains(&partition) {
                *held = None;
            }
        });
    }

    fn each_of(&self, group: &str, who: &Who, mut change: impl FnMut(i32, &mut Option<Duration>)) {
        for (part, records) in self.events.lock().parts.iter_mut().filter(|(part, _)| part.0 == group) {
            for owner in records.owners.iter_mut().filter(|owner| owner.who.name == who.name) {
                change(part.1, &mut owner.lease);
            }
        }
    }

    /// A member has read records of a partition.
    pub(crate) fn has_read(&self, part: Part, offset: i64) {
        self.events.lock().parts.entry(part).or_default().read.insert(offset);
    }

    /// A member asks to commit.
    pub(crate) fn commits(&self, part: Part, who: &Who, epoch: i32, offset: i64) -> CommitId {
        let sent = self.now();
        let mut events = self.events.lock();
        let commits = &mut events.parts.entry(part).or_default().commits;
        commits.push(Commit { who: who.clone(), epoch, offset, sent, done_by: None });
        CommitId(part, commits.len() - 1)
    }

    /// What it was told of that. Whoever is `fenced` has been told before that it speaks for an epoch that is over.
    pub(crate) fn committed(&self, id: CommitId, told: Told, fenced: bool) {
        let CommitId(part, index) = id;
        let now = self.now();
        let mut events = self.events.lock();
        let Records { commits, owners, .. } = events.parts.entry(part).or_default();
        let commit = &mut commits[index];
        match told {
            Told::NotKnown => return,
            // Nobody can be given what nobody has committed.
            Told::Refused => {
                commit.offset = REFUSED;
                return;
            }
            Told::Done => commit.done_by = Some(now),
        }
        let own = owners.iter().find(|owner| owner.who.name == commit.who.name).map(|owner| owner.given);
        let is_later = |owner: &&Owner| {
            owner.who.id != commit.who.id
                && own.is_some_and(|own| owner.given > own)
                && owner.given < commit.sent
        };
        let what = format!(
            "{} commits {} for {} of group {} in epoch {}",
            commit.who.name, commit.offset, part.1, part.0, commit.epoch
        );
        let anomaly = match owners.iter().find(is_later) {
            Some(later) => {
                Some(format!("{what} after it was given to {} in epoch {}", later.who.name, later.epoch))
            }
            None if fenced => Some(format!("{what}, which is over for it")),
            None => None,
        };
        drop(events);
        if let Some(anomaly) = anomaly {
            self.history.anomaly(anomaly);
        }
    }

    /// Somebody asked at a moment for what is committed, and was told: -1 is nothing. Where the coordinator `leads`, it must be the
    /// last.
    pub(crate) fn offset_read(&self, part: Part, offset: i64, asked: Moment, leads: bool) {
        let now = self.now();
        let mut events = self.events.lock();
        let commits = &mut events.parts.entry(part).or_default().commits;
        // What began after that was done, and was done itself when this was asked.
        let after = |done: Moment| {
            commits.iter().rev().find(|commit| {
                commit.sent > done && commit.offset != REFUSED && commit.done_by.is_some_and(|by| by < asked)
            })
        };
        let of_commits = || commits.iter().enumerate().filter(|(_, commit)| commit.offset == offset);
        let may_be: Vec<usize> = of_commits()
            .filter(|(_, commit)| commit.done_by.is_none_or(|done| after(done).is_none()))
            .map(|(index, _)| index)
            .collect();
        let what = || format!("group {} is said to have committed {offset} for {}", part.0, part.1);
        let but = |later: &Commit| {
            format!("{} after {} committed {} in epoch {}", what(), later.who.name, later.offset, later.epoch)
        };
        let anomaly = if offset != NOTHING && of_commits().next().is_none() {
            Some(format!("{}, which nobody did", what()))
        } else if leads && may_be.is_empty() {
            after(Moment(0)).map(but)
        } else {
            None
        };
        if let ([only], true) = (&may_be[..], leads) {
            let done = &mut commits[*only].done_by;
            *done = Some(done.map_or(now, |done| done.min(now)));
        }
        drop(events);
        if let Some(anomaly) = anomaly {
            self.history.anomaly(anomaly);
        }
    }

    /// What is committed in the end was read.
    pub(crate) fn check_read(&self, part: Part, committed: i64) {
        let events = self.events.lock();
        let missed = match events.parts.get(&part) {
            Some(records) => (0..committed).find(|offset| !records.read.contains(offset)),
            None => (committed > 0).then_some(0),
        };
        drop(events);
        if let Some(missed) = missed {
            self.history.anomaly(format!(
                "group {} has committed {committed} for {}, and no member has read {missed}",
                part.0, part.1
            ));
        }
    }
}

/// What is read where nothing was committed.
const NOTHING: i64 = -1;
/// Stands for the offset of a commit that was refused.
const REFUSED: i64 = -2;
