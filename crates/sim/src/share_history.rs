//! What members of a share group were told, and whether it fits together.
//!
//! A record that somebody has done with is not delivered any more; until then it is with one member at a time, comes again when
//! that one gives it up or is too slow, as often as the group allows, and does not vanish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::group_history::{Moment, Told};
use crate::history::History;
use crate::truth::Leads;
use crate::world::{DELIVERIES_MAX, SHARE_LOCK, elapsed};

/// What a client's clock and a broker's may differ by.
const SLOP: Duration = Duration::from_millis(10);

/// When something was asked for: in the order of all that happened, and by the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    moment: Moment,
    at: Duration,
}

#[derive(Debug)]
struct Delivery {
    to: String,
    /// Who led the partition all the time, and gave the record; `None` where it was not that one.
    term: Option<Leads>,
    asked: Asked,
    got: Moment,
    has_let_go: bool,
}

#[derive(Debug, Default)]
struct Record {
    deliveries: Vec<Delivery>,
    /// How many have said that it is done with, and were not refused for certain.
    said: u32,
    /// From when on it is, for certain, and by whose word.
    done: Option<(Moment, String)>,
}

#[derive(Debug, Default)]
struct Partition {
    records: BTreeMap<i64, Record>,
    /// Fetches without an answer: each may have delivered any record once more.
    unanswered: usize,
}

#[derive(Debug, Default)]
struct Events {
    now: u64,
    partitions: BTreeMap<i32, Partition>,
}

/// The record of a share group. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ShareHistory {
    pub(crate) history: History,
    events: Arc<Mutex<Events>>,
}

impl Events {
    fn next(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }
}

impl ShareHistory {
    pub(crate) fn new(history: History) -> Self {
        ShareHistory { history, events: Arc::default() }
    }

    /// Something is asked for now.
    pub(crate) fn ask(&self) -> Asked {
        Asked { moment: self.events.lock().next(), at: elapsed() }
    }

    /// A fetch of a partition was not answered.
    pub(crate) fn unanswered(&self, partition: i32) {
        self.events.lock().partitions.entry(partition).or_default().unanswered += 1;
    }

    /// A member was given a record, for the `count`th time.
    pub(crate) fn delivered(
        &self,
        (partition, offset): (i32, i64),
        count: i16,
        to: &str,
        (asked, term): (Asked, Option<Leads>),
    ) {
        let mut events = self.events.lock();
        let got = events.next();
        let record = events.partitions.entry(partition).or_default().records.entry(offset).or_default();
        let what = format!("{partition}/{offset} is delivered to {to} for the {count}th time");
        let holder = record.deliveries.iter().find(|before| {
            let in_lock = elapsed() + SLOP < before.asked.at + SHARE_LOCK;
            in_lock && !before.has_let_go && before.term == term && before.got < asked.moment
        });
        let anomaly = if !(1..=DELIVERIES_MAX).contains(&count) {
            Some(format!("{what}, of {DELIVERIES_MAX}"))
        } else if term.is_none() {
            None
        } else if let Some((_, by)) = record.done.as_ref().filter(|(done, _)| *done < asked.moment) {
            Some(format!("{what} after {by} was told that it is done with"))
        } else {
            holder.map(|holder| format!("{what} while {} has it", holder.to))
        };
        record.deliveries.push(Delivery { to: to.to_owned(), term, asked, got, has_let_go: false });
        drop(events);
        if let Some(anomaly) = anomaly {
            self.history.anomaly(anomaly);
        }
    }

    /// A member says, or is about to say, what is to become of a record.
    pub(crate) fn says(&self, (partition, offset): (i32, i64), who: &str, is_done: bool) {
        let mut events = self.events.lock();
        let record = events.partitions.entry(partition).or_default().records.entry(offset).or_default();
        record.said += u32::from(is_done);
        record.deliveries.iter_mut().filter(|delivery| delivery.to == who).for_each(|d| d.has_let_go = true);
    }

    /// What it was told of that.
    pub(crate) fn said(
        &self,
        (partition, offset): (i32, i64),
        who: &str,
        is_done: bool,
        (asked, told): (Asked, Told),
    ) {
        let mut events = self.events.lock();
        let now = events.next();
        let Partition { records, unanswered } = events.partitions.entry(partition).or_default();
        let record = records.entry(offset).or_default();
        if told == Told::Refused {
            record.said -= u32::from(is_done);
        }
        if told != Told::Done {
            return;
        }
        // Whatever is said of a record that is left behind is heard.
        let may_be_left_behind = record.said > u32::from(is_done)
            || record.deliveries.len() + *unanswered >= usize::from(DELIVERIES_MAX.unsigned_abs());
        let own = record.deliveries.iter().rev().find(|delivery| delivery.to == who);
        let other = record.deliveries.iter().find(|other| {
            let is_later = own.is_some_and(|own| other.asked.moment > own.got);
            is_later && other.to != who && other.term.is_some() && other.got < asked.moment
        });
        let anomaly = other.filter(|_| !may_be_left_behind).map(|other| {
            format!("{who} has its say on {partition}/{offset}, which was delivered to {} since", other.to)
        });
        if is_done && record.done.is_none() {
            record.done = Some((now, who.to_owned()));
        }
        drop(events);
        if let Some(anomaly) = anomaly {
            self.history.anomaly(anomaly);
        }
    }

    /// A member has nothing any more.
    pub(crate) fn lets_go(&self, who: &str) {
        let mut events = self.events.lock();
        let records = events.partitions.values_mut().flat_map(|partition| partition.records.values_mut());
        let deliveries = records.flat_map(|record| &mut record.deliveries);
        deliveries.filter(|delivery| delivery.to == who).for_each(|delivery| delivery.has_let_go = true);
    }

    /// Nothing is delivered any more: everything up to `end` is done with, or was delivered as often as may be.
    pub(crate) fn check_all(&self, partition: i32, end: i64) {
        let mut events = self.events.lock();
        let Partition { records, unanswered } = events.partitions.entry(partition).or_default();
        let mut lost = (0..end).filter_map(|offset| {
            let (said, count) = match records.get(&offset) {
                Some(record) => (record.said, record.deliveries.len()),
                None => (0, 0),
            };
            let is_well = said > 0 || count + *unanswered >= usize::from(DELIVERIES_MAX.unsigned_abs());
            (!is_well).then_some((offset, count))
        });
        let anomaly = lost.next().map(|(offset, count)| {
            format!(
                "{partition}/{offset} was delivered {count} times to the share group, is done with for nobody, and is not \
                 delivered any more; so are {} others",
                lost.count()
            )
        });
        drop(events);
        if let Some(anomaly) = anomaly {
            self.history.anomaly(anomaly);
        }
    }
}
