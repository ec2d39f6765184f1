//! The ways in which records are doubled or lost behind a broker that keeps them all, each played by a reader.

use super::cell::{Cell, Habits, Outcome, Produce, Stage, Who};

const RECORDS: u64 = 600;
const PARTITIONS: u64 = 2;
/// Handled when it happens.
const HALF: u64 = 300;

/// One way.
pub(super) struct Scenario {
    /// Its letter, which its topics begin with.
    pub(super) letter: &'static str,
    pub(super) title: &'static str,
    /// How it comes about.
    pub(super) story: &'static str,
    /// What keeps it from happening.
    pub(super) closed: &'static str,
    /// Whether there is nothing to read on with, so that a reader that stops and says so does what it should.
    pub(super) may_stop: bool,
    pub(super) play: fn(&Stage<'_>, Who, &str) -> Result<Outcome, String>,
}

pub(super) const SCENARIOS: [Scenario; 9] = [
    Scenario {
        letter: "a",
        title: "Killed after handling, before the commit",
        story: "600 records of two partitions wait; a record takes 10 ms. After 300 records the process is killed (`kill -9`), and \
                another one goes on where the offsets say.",
        closed: "Offsets that are committed behind the results are behind them: what was handled since the last commit comes \
                 again, with every client. With offsets in the store of the results there is no such moment: PostgreSQL has both \
                 or neither, and in Redis a result that comes again stands where it stood.",
        may_stop: false,
        play: killed_before_the_commit,
    },
    Scenario {
        letter: "b",
        title: "Automatic commit, and unsubscribe before close",
        story: "A reader with automatic commit handles at least 300 records, calls `unsubscribe()` and then `close()`, as programs \
                do that end properly, and another one is started.",
        closed: "librdkafka commits when `unsubscribe()` takes the partitions away; Java's consumer leaves its group without that, and \
                 has nothing left to commit when it is closed. Ours finishes what is in hand in `unsubscribe()` and `close()` \
                 alike and commits it, in whatever order they are called.",
        may_stop: false,
        play: unsubscribed_before_close,
    },
    Scenario {
        letter: "c",
        title: "Handler slower than max.poll.interval.ms",
        story: "A record takes 9 s, and `max.poll.interval.ms` is 6 s. The group gives the partitions to another member meanwhile, \
                and the first one goes on with what it has in hand.",
        closed: "Heartbeats do not depend on the handler. A reader that exceeds the interval is told so; what it was done with is \
                 committed before it leaves, and the rest of what was in its hands is not handed to it any more. The one record \
                 that it was in the middle of is handled by both; a store refuses the second.",
        may_stop: false,
        play: slow_handler,
    },
    Scenario {
        letter: "d",
        title: "Read from the beginning: the group's offsets are gone",
        story: "All 600 records are read and committed. Then the group's offsets are gone (deleted here; they expire after \
                `offsets.retention.minutes` without a member), 100 records are written, and the reader comes back with \
                `auto.offset.reset=earliest`.",
        closed: "A position in the reader's own store does not expire. A group has nothing to go by: `earliest` repeats and \
                 loses nothing.",
        may_stop: false,
        play: offsets_are_gone_earliest,
    },
    Scenario {
        letter: "d'",
        title: "The same with auto.offset.reset=latest",
        story: "As before, with the stock clients' default. Our group reader has `auto.offset.reset=none`.",
        closed: "`none` stops the partition and says so, instead of passing over what was never read; nothing is lost that \
                 somebody could not still read. Stock clients can be told the same (`none`; `error` of librdkafka).",
        may_stop: true,
        play: offsets_are_gone_latest,
    },
    Scenario {
        letter: "e",
        title: "A process that blocks misses its heartbeats, and goes on",
        story: "A reader is stopped (`SIGSTOP`, as a long pause of a machine or a collector does) after 100 records, for longer \
                than the session of 6 s; another one reads everything; then the first one goes on (`SIGCONT`) with what it had in \
                hand.",
        closed: "Nothing keeps a process from finishing what it had begun before it hears that it was given up. A store's fence \
                 does: its writes are refused with the position. (A reader that is stopped with a transaction open holds its row \
                 of PostgreSQL until it goes on or its connection ends: `idle_in_transaction_session_timeout` bounds that.)",
        may_stop: false,
        play: zombie,
    },
    Scenario {
        letter: "f",
        title: "Committed while still in memory, then killed",
        story: "Records are handed to a worker through a queue in memory, 20 ms each; the poll loop goes on, and offsets are \
                committed automatically every 5 s. The process is killed after 300 records, and another one goes on. Committing by \
                hand, the reader has no queue.",
        closed: "A record is committed only once its acknowledgement was released, wherever it is until then. librdkafka leaves it to \
                 its user with `enable.auto.offset.store=false`.",
        may_stop: false,
        play: committed_in_memory,
    },
    Scenario {
        letter: "g",
        title: "A burst that outruns the reader",
        story: "The topic keeps 2 MiB (`retention.bytes`); a record of 1 KiB takes 2 ms. 6,000 come in one burst of somebody \
                else's, and retention removes what was not read yet. So that a small burst is as good as a large one, no client \
                keeps more than 1 MiB in memory (librdkafka would 64, ours 50). Our group reader has `auto.offset.reset=none`.",
        closed: "The reader stops its partition and says what is missing: stored position, log, cause, and the command that \
                 resolves it. Nothing is passed over in silence. Stock clients can be told to stop as well (`none`; `error` of \
                 librdkafka).",
        may_stop: true,
        play: burst,
    },
    Scenario {
        letter: "g'",
        title: "The same burst, shaped by its producer",
        story: "The same reader and topic, and 2,000 records from our producer with `producer.rate.records=300`.",
        closed: "The burst waits where it comes from, and whoever reads keeps up.",
        may_stop: false,
        play: shaped_burst,
    },
];

fn all() -> Produce {
    Produce { records: RECORDS, ..Produce::default() }
}

fn quick() -> Habits {
    Habits { delay_ms: 1, ..Habits::default() }
}

fn killed_before_the_commit(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    let cell = Cell::new(stage, who, topic, PARTITIONS, &[])?;
    cell.produce(all())?;
    let mut first =
        cell.read("first", &Habits { delay_ms: 10, hang_after: Some(HALF), ..Habits::default() })?;
    first.wait_for("hanging")?;
    first.kill()?;
    let mut second = cell.read("second", &quick())?;
    cell.wait_until_read(RECORDS, &mut [&mut second])?;
    cell.finish(RECORDS, vec![second])
}

fn unsubscribed_before_close(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    let cell = Cell::new(stage, who, topic, PARTITIONS, &[])?;
    cell.produce(all())?;
    let first = cell.read("first", &Habits { close_after: Some(HALF), ..quick() })?;
    first.ended()?;
    let mut second = cell.read("second", &quick())?;
    cell.wait_until_read(RECORDS, &mut [&mut second])?;
    cell.finish(RECORDS, vec![second])
}

fn slow_handler(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    let cell = Cell::new(stage, who, topic, PARTITIONS, &[])?;
    cell.produce(all())?;
    let habits = Habits { settings: vec!["max.poll.interval.ms=6000".to_owned()], ..quick() };
    let mut first = cell.read("first", &Habits { slow: Some((100, 9_000)), ..habits.clone() })?;
    first.wait_for("slow")?;
    let mut second = cell.read("second", &habits)?;
    first.wait_for("slow no more")?;
    let idle = first.count("idle")?;
    cell.wait_until_read(RECORDS, &mut [&mut first, &mut second])?;
    first.wait_for_more("idle", idle)?;
    cell.finish(RECORDS, vec![first, second])
}

fn offsets_are_gone_earliest(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    offsets_are_gone(stage, who, topic, "earliest")
}

fn offsets_are_gone_latest(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    offsets_are_gone(stage, who, topic, if who == Who::Group { "none" } else { "latest" })
}

fn offsets_are_gone(stage: &Stage<'_>, who: Who, topic: &str, reset: &str) -> Result<Outcome, String> {
    const MORE: u64 = 100;
    let cell = Cell::new(stage, who, topic, PARTITIONS, &[])?;
    cell.produce(all())?;
    let mut first = cell.read("first", &quick())?;
    cell.wait_until_read(RECORDS, &mut [&mut first])?;
    first.stop()?;
    cell.forget_offsets()?;
    cell.produce(Produce { first: RECORDS, records: MORE, ..Produce::default() })?;
    let habits = Habits { settings: vec![format!("auto.offset.reset={reset}")], ..quick() };
    let mut second = cell.read("second", &habits)?;
    cell.wait_until_read(RECORDS + MORE, &mut [&mut second])?;
    if reset == "earliest" {
        // What comes again comes before what is new, but not in every partition.
        second.wait_for("idle")?;
    }
    cell.finish(RECORDS + MORE, vec![second])
}

fn zombie(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    let cell = Cell::new(stage, who, topic, PARTITIONS, &[])?;
    cell.produce(all())?;
    let mut first = cell.read("first", &Habits { delay_ms: 5, say_after: Some(100), ..Habits::default() })?;
    first.wait_for("so far")?;
    first.signal("STOP")?;
    let mut second = cell.read("second", &quick())?;
    cell.wait_until_read(RECORDS, &mut [&mut second])?;
    let idle = first.count("idle")?;
    first.signal("CONT")?;
    first.wait_for_more("idle", idle)?;
    cell.finish(RECORDS, vec![first, second])
}

fn committed_in_memory(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    let cell = Cell::new(stage, who, topic, PARTITIONS, &[])?;
    cell.produce(all())?;
    let habits = Habits { delay_ms: 20, hang_after: Some(HALF), queue: true, ..Habits::default() };
    let mut first = cell.read("first", &habits)?;
    first.wait_for("hanging")?;
    first.kill()?;
    let mut second = cell.read("second", &quick())?;
    cell.wait_until_read(RECORDS, &mut [&mut second])?;
    cell.finish(RECORDS, vec![second])
}

/// The topic keeps so much, in segments as small as they may be.
const KEPT: [&str; 2] = ["retention.bytes=2097152", "segment.bytes=1048576"];
const BYTES: u64 = 1024;

/// A reader whose client has little in memory, so that a small burst is as good as a large one.
fn outrun(cell: &Cell<'_>) -> Habits {
    let settings: &[&str] = match cell.who {
        Who::Librdkafka | Who::LibrdkafkaByHand => {
            &["queued.max.messages.kbytes=1024", "fetch.message.max.bytes=262144"]
        }
        Who::Java => &["max.partition.fetch.bytes=262144"],
        Who::Postgres | Who::Redis => &["max.partition.fetch.bytes=262144", "fetch.max.bytes=524288"],
        Who::Group => {
            &["max.partition.fetch.bytes=262144", "fetch.max.bytes=524288", "auto.offset.reset=none"]
        }
    };
    let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
    Habits { delay_ms: 2, say_after: Some(100), settings, ..Habits::default() }
}

fn burst(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    const BURST: u64 = 6_000;
    let cell = Cell::new(stage, who, topic, 1, &KEPT)?;
    let begin = Produce { records: HALF, bytes: BYTES, ..Produce::default() };
    let mut reader = started_in(&cell, begin)?;
    cell.produce(Produce { first: HALF, records: BURST, ..begin })?;
    cell.wait_until_read(HALF + BURST, &mut [&mut reader])?;
    cell.finish(HALF + BURST, vec![reader])
}

fn shaped_burst(stage: &Stage<'_>, who: Who, topic: &str) -> Result<Outcome, String> {
    const BURST: u64 = 2_000;
    let cell = Cell::new(stage, who, topic, 1, &KEPT)?;
    let begin = Produce { records: HALF, bytes: BYTES, ..Produce::default() };
    let mut reader = started_in(&cell, begin)?;
    cell.produce(Produce { first: HALF, records: BURST, rate: 300, ..begin })?;
    cell.wait_until_read(HALF + BURST, &mut [&mut reader])?;
    cell.finish(HALF + BURST, vec![reader])
}

/// A reader that has read a little of the topic. Our group's has its first position before, as it takes none by itself.
fn started_in(cell: &Cell<'_>, begin: Produce) -> Result<crate::program::Program, String> {
    cell.produce(begin)?;
    if cell.who == Who::Group {
        let habits = Habits { close_after: Some(1), ..Habits::default() };
        cell.read("beginning", &habits)?.ended()?;
    }
    let mut reader = cell.read("first", &outrun(cell))?;
    reader.wait_for("so far")?;
    Ok(reader)
}
