//! Positions from the table's own files, where the store has lost them.
//!
//! Each file's footer says which range of which partition it is a part of, and how many files and rows that range has. So the
//! position is the end of the ranges that are there whole, one behind the other. What is not so is refused, with the file named:
//! nothing is guessed. A store that is ahead of the table is refused too: going back might double what was only moved elsewhere.
//! The dead letters of the last range may not have been sent: unless their position says so, that range is frozen again, and the next
//! run repeats it.
//!
//! In an object store the claim of a range says more: nobody claims a range before everything in front of it is committed.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use client::{Admin, Cluster, Environment, Execution};
use wire::{Offset, Str, TopicPartition};

use crate::claims;
use crate::expired::{self, Expired};
use crate::files::Files;
use crate::footer::{Part, Told, told};
use crate::key::{Key, LineName, Range};
use crate::partition::PartitionError;
use crate::positions::open_store;
use crate::run::RunError;
use crate::settings::{Line, Settings, TableSettings};
use crate::source::sources;
use crate::staging::{self, NotClaimed};
use crate::store::{Acquire, Frozen, PositionStore, Rebuild, Stored};
use crate::table::{self, Listing, Table};
use crate::verdicts;
use crate::verify::Finding;

/// How often store and table are looked at until no line has changed the one before the other was seen.
const LOOKS_MAX: usize = 10;

/// What is done about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairAction {
    /// Nothing: the store and the table say the same, or the next run makes it so.
    Keep,
    /// The store is given what the table says: this is there, and all of it is committed, but for a last range that is frozen.
    Rebuild(Range, Option<Frozen>),
    /// Nothing, in any partition, as something has to be put right by hand.
    Refuse,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The line whose table it is.
    pub line: Line,
    /// The partition.
    pub partition: TopicPartition,
    /// What the store said.
    pub stored: Option<Stored>,
    /// What the table's footers say is there: ranges that are whole, one behind the other.
    pub table: Option<Range>,
    /// What is to be done.
    pub action: RepairAction,
    /// Whether it was done: the store was changed.
    pub is_done: bool,
    /// Why it is refused.
    pub findings: Vec<Finding>,
}

/// Looks what each table that is declared says of each partition of the topics, and gives it to a store that says less. Nothing is
/// changed of a table if anything of it is refused, or if it is only validated.
///
/// It takes hold of what it changes: a line that runs ends.
pub async fn repair(
    settings: &Settings,
    cluster: &Cluster,
    environment: &dyn Environment,
    files: Arc<dyn Files>,
    execution: Execution,
) -> Result<Vec<Repair>, RunError> {
    let mut all = Vec::new();
    for (line, table) in settings.tables_there()? {
        all.extend(
            repair_table(settings, line, table, cluster, environment, Arc::clone(&files), execution).await?,
        );
    }
    Ok(all)
}

async fn repair_table(
    settings: &Settings,
    line: Line,
    declared: &TableSettings,
    cluster: &Cluster,
    environment: &dyn Environment,
    files: Arc<dyn Files>,
    execution: Execution,
) -> Result<Vec<Repair>, RunError> {
    let files = table::files_of(declared, files)?;
    let store = open_store(declared, Arc::clone(&files)).await?;
    let table = Table::new(files, &declared.table);
    let (stored, listing) = look(&settings.line_name(line), &*store, &table).await?;
    let group = Str::copy_from(&settings.dead_letters_group(line));
    let sent = Admin::new(cluster.clone()).group_offsets(&group).await?;
    let sent = |partition: &TopicPartition| {
        let expired = || sent.expired.get(partition).map(|expired| expired.offset);
        sent.committed.get(partition).map(|committed| committed.offset).or_else(expired)
    };
    let mut all = Vec::new();
    for source in sources(settings, line, cluster).await? {
        let stored = stored.iter().find(|(key, _)| key.partition == source.key.partition);
        let log = Log { start: source.log.start, sent: sent(&source.key.partition) };
        let claimed = claimed(&table, &source.key)?;
        let (mut repair, epoch) =
            examine((line, &table), &source.key, stored.map(|(_, stored)| stored), claimed, &listing, log);
        if let Some((key, _)) = stored
            && *key != source.key
        {
            let problem =
                format!("the store knows it as topic id {} of cluster {}", key.topic_id, key.cluster_id);
            repair.refuse(source.key.partition.to_string(), problem);
        }
        all.push((source.key, log, repair, epoch));
    }
    let is_refused = all.iter().any(|(_, _, repair, _)| repair.action == RepairAction::Refuse);
    if execution == Execution::Apply && !is_refused {
        for (key, log, repair, epoch) in &mut all {
            apply(key, *log, *epoch, repair, &*store, &table, environment).await?;
        }
    }
    Ok(all.into_iter().map(|(_, _, repair, _)| repair).collect())
}

/// What the brokers say of a partition.
#[derive(Clone, Copy)]
struct Log {
    /// Where it begins.
    start: Offset,
    /// Up to where dead letters were sent. It only moves on.
    sent: Option<Offset>,
}

/// What the store and the table hold at one moment, unless a line is too busy.
async fn look(
    line: &LineName,
    store: &dyn PositionStore,
    table: &Table,
) -> Result<(Vec<(Key, Stored)>, (Listing, Expired)), RunError> {
    let mut before = store.list(line).await?;
    for _ in 1..LOOKS_MAX {
        let listing = list(table, line)?;
        let after = store.list(line).await?;
        if before == after {
            return Ok((after, listing));
        }
        before = after;
    }
    Ok((before, list(table, line)?))
}

/// What is there, and what was removed for its age.
fn list(table: &Table, line: &LineName) -> Result<(Listing, Expired), RunError> {
    let failed = |doing, source| RunError::Files { doing, path: table.root().to_owned(), source };
    let listing = match table.list() {
        // It was never run.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Default::default()),
        listed => listed.map_err(|source| failed("list", source))?,
    };
    // Behind the listing: what is neither listed nor written down is missing.
    let expired = expired::read(table, line).map_err(|source| failed("read what is expired of", source))?;
    Ok((listing, expired))
}

/// The range that was claimed last, in a table that has claims.
fn claimed(table: &Table, key: &Key) -> Result<Option<Frozen>, RunError> {
    claims::newest(table, key).map_err(|source| RunError::Files {
        doing: "read which range is claimed in",
        path: table.root().to_owned(),
        source,
    })
}

/// Takes hold of a partition, looks again, as from here on nobody else adds anything, and changes the store.
async fn apply(
    key: &Key,
    log: Log,
    epoch: i64,
    repair: &mut Repair,
    store: &dyn PositionStore,
    table: &Table,
    environment: &dyn Environment,
) -> Result<(), RunError> {
    let RepairAction::Rebuild(Range { start: begin, .. }, _) = repair.action else { return Ok(()) };
    let failed = |source: io::Error| PartitionError::Files {
        key: Box::new(key.clone()),
        doing: "prepare",
        path: table.root().join(staging::DIRECTORY),
        source,
    };
    let number_min = staging::highest(table, key).map_err(failed)?.max(epoch).saturating_add(1);
    // Two halves of a random number are one.
    let (token, now) = (environment.random() as i64, environment.now());
    let acquire = Acquire { key: key.clone(), begin, number_min, token, now };
    let held = store.acquire(&acquire).await?;
    staging::claim(table, key, held.fence).map_err(|error| match error {
        NotClaimed::Fenced(epoch) => PartitionError::TakenOver {
            key: Box::new(key.clone()),
            how: format!("epoch {} is behind {epoch}", held.fence.number),
        },
        NotClaimed::Shared(path) => PartitionError::Shared { key: Box::new(key.clone()), path },
        NotClaimed::Failed(source) => failed(source),
    })?;
    let listing = list(table, &key.line)?;
    let claimed = claimed(table, key)?;
    let (mut again, _) = examine((repair.line, table), key, Some(&held.stored), claimed, &listing, log);
    if let RepairAction::Rebuild(range, frozen) = again.action {
        let (begun, committed) = (range.start, frozen.map_or(range.end, |frozen| frozen.range.start));
        let (fence, now) = (held.fence, environment.now());
        let rebuild = Rebuild { key: key.clone(), fence, begun, committed, frozen, now };
        store.rebuild(&rebuild).await?;
        again.is_done = true;
    }
    // What was stored is told as it was before.
    *repair = Repair { stored: repair.stored, ..again };
    Ok(())
}

impl Repair {
    fn refuse(&mut self, place: String, problem: String) {
        self.action = RepairAction::Refuse;
        self.findings.push(Finding { place, problem });
    }
}

/// What is to be done about a partition, and the highest epoch in its files' footers.
fn examine(
    (line, table): (Line, &Table),
    key: &Key,
    stored: Option<&Stored>,
    claimed: Option<Frozen>,
    (listing, expired): &(Listing, Expired),
    log: Log,
) -> (Repair, i64) {
    let files = listing.files.iter().filter(|file| file.name.partition == key.partition);
    let all: Vec<_> = files.map(|file| Told::read(table, key, file)).collect();
    // What was removed for its age has no file.
    let mut by_range: BTreeMap<Range, Vec<(Option<&Told<'_>>, Part)>> = BTreeMap::new();
    for told in &all {
        for part in &told.parts {
            by_range.entry(part.range).or_default().push((Some(told), *part));
        }
    }
    for part in expired.gone(key, &expired::there(&all)) {
        by_range.entry(part.range).or_default().push((None, part));
    }
    let mut repair = Repair {
        line,
        partition: key.partition.clone(),
        stored: stored.copied(),
        table: None,
        action: RepairAction::Keep,
        is_done: false,
        findings: all.iter().flat_map(|told| told.problems.clone()).collect(),
    };
    let epoch_max = all.iter().flat_map(|told| &told.parts).map(|part| part.epoch).max().unwrap_or(0);
    let last = by_range.keys().next_back().copied();
    // Of what the store has committed, letters were sent.
    let committed = stored.map_or(Offset::ZERO, |stored| stored.committed.next);
    let mut frozen = None;
    for (range, parts) in by_range {
        let file =
            parts.iter().find_map(|(told, _)| *told).map(|told| told.file.path().display().to_string());
        let place = file.unwrap_or_else(|| format!("{} {range}, which is expired", key.partition));
        let incomplete = incomplete(range, &parts);
        // What comes next is claimed once this is committed and its letters are sent, whatever the store has forgotten since.
        let is_followed = claimed.is_some_and(|claim| claim.range.start == range.end);
        let letters = parts.iter().map(|(_, part)| part.letters).max().unwrap_or(0);
        match repair.table {
            Some(before) if range.start > before.end => {
                let problem = format!("before it, nothing is there from {} to {}", before.end, range.start);
                repair.findings.push(Finding { place: place.clone(), problem });
            }
            Some(before) if range.start < before.end => {
                let problem = format!("it overlaps what ends at {}", before.end);
                repair.findings.push(Finding { place: place.clone(), problem });
            }
            _ => {}
        }
        // What is on its way is repeated by the next run, as much of it as is there already; so is what is claimed, also if the store
        // has lost that it is frozen. What was merged was committed.
        let is_its = |frozen: Frozen| {
            let is_its = |(told, _): &(Option<&Told<'_>>, Part)| {
                told.is_some_and(|told| !told.is_merged && told.is_laid_out_as(frozen.layout))
            };
            frozen.range == range && parts.iter().all(is_its)
        };
        let is_last = Some(range) == last;
        let is_on_its_way = is_last && stored.and_then(|stored| stored.frozen).is_some_and(is_its);
        let is_claimed =
            is_last && claimed.is_some_and(|claim| claim.range.start >= committed && is_its(claim));
        let is_whole = incomplete.is_none();
        // Of what was merged or removed for its age, all was committed.
        let was_committed =
            is_followed || parts.iter().any(|(told, _)| told.is_none_or(|told| told.is_merged));
        let is_sent =
            letters == 0 || was_committed || range.end <= committed.max(log.sent.unwrap_or(Offset::ZERO));
        let unrepeatable = is_last.then(|| unrepeatable(table, key, range, &parts, log)).flatten();
        // Unless it cannot be repeated and need not be.
        let is_left = is_on_its_way && !(unrepeatable.is_some() && is_whole && is_sent)
            || is_claimed && !(is_whole && is_sent);
        if is_left && !is_followed && repair.table.is_none_or(|before| before.end == range.start) {
            repair.findings.extend(unrepeatable.map(|why| {
                let problem = format!("{range} is frozen, and cannot be repeated: {why}");
                Finding { place, problem }
            }));
            continue;
        }
        if is_last && is_whole && !is_sent {
            frozen = as_frozen(range, &parts);
            repair.findings.extend(unrepeatable.map(|why| {
                let problem = format!(
                    "{range} has {letters} dead letters of which it is not known that they were sent, and cannot be repeated: {why}"
                );
                Finding { place: place.clone(), problem }
            }));
        }
        repair.findings.extend(incomplete.map(|problem| match is_last && !is_followed {
            // Of any other, what is behind it would be read again as well, and be there twice.
            false => Finding { place, problem },
            true => {
                let what =
                    "or remove what is there of this range, which is the last one, so that it is read again";
                Finding { place, problem: format!("{problem}; {what}") }
            }
        }));
        let start = repair.table.map_or(range.start, |before| before.start);
        let end = repair.table.map_or(range.end, |before| before.end.max(range.end));
        repair.table = Some(Range::new(start, end));
    }
    decide(&mut repair, frozen);
    if let Some(claim) = claimed {
        check_claim(&mut repair, &claims::place(table, key, claim.range.start), claim.range, log);
    }
    (repair, epoch_max)
}

/// The rows of a range, file by file; of what was removed for its age there is no file.
type Parts<'a> = [(Option<&'a Told<'a>>, Part)];

/// Why a range is not whole, if so.
fn incomplete(range: Range, parts: &Parts<'_>) -> Option<String> {
    let files = parts.len() as u64;
    if let Some((_, part)) = parts.iter().find(|(_, part)| part.files != Some(files)) {
        return Some(format!(
            "{range} is in {} files, says its footer, and there are {files}: put back what is missing",
            told(part.files)
        ));
    }
    let rows: u64 = parts.iter().fold(0, |rows, (_, part)| rows.saturating_add(part.rows));
    let part = parts.iter().find(|(_, part)| part.range_rows != Some(rows));
    part.map(|(_, part)| {
        format!("{range} has {} rows, says its footer, and there are {rows}", told(part.range_rows))
    })
}

/// Why the next run could not repeat a range, if so.
fn unrepeatable(table: &Table, key: &Key, range: Range, parts: &Parts<'_>, log: Log) -> Option<String> {
    if range.start < log.start {
        return Some(format!("the log begins at {} by now", log.start));
    }
    let Some(frozen) = as_frozen(range, parts) else {
        return Some("it is in no directory of the table".to_owned());
    };
    verdicts::find(table, key, &frozen).err().map(|error| error.to_string())
}

/// A range as it was frozen, going by the footers and where its files are.
fn as_frozen(range: Range, parts: &Parts<'_>) -> Option<Frozen> {
    let layout = parts.iter().find_map(|(told, _)| *told)?.layout()?;
    let most = |of: fn(&Part) -> u64| parts.iter().map(|(_, part)| of(part)).max().unwrap_or(0);
    let epoch = parts.iter().map(|(_, part)| part.epoch).max().unwrap_or(0);
    Some(Frozen { range, epoch, layout, letters: most(|part| part.letters) })
}

/// Refuses a claim that is neither of what is committed then nor of what comes next, which no run would go on beside: what it was put
/// behind is not there any more.
fn check_claim(repair: &mut Repair, object: &Path, claim: Range, log: Log) {
    let committed = match (repair.action, repair.stored) {
        (RepairAction::Refuse, _) => return,
        (RepairAction::Rebuild(range, frozen), _) => frozen.map_or(range.end, |frozen| frozen.range.start),
        (RepairAction::Keep, Some(stored)) => stored.committed.next,
        (RepairAction::Keep, None) => log.start,
    };
    if claim.end <= committed || claim.start == committed {
        return;
    }
    let problem = match claim.start > committed {
        true if matches!((repair.action, repair.stored), (RepairAction::Keep, None)) => format!(
            "it claims {claim}, and nothing else is there of the partition, in the table and in the store: put back the files before {}; \
             or, if there are none or they are gone for good, end the line, remove this object, and say with `ottla sink reset` \
             where it is to begin",
            claim.start
        ),
        true => format!(
            "it claims {claim}, which is done once all before it is committed, and what is there ends at {committed}: put back the \
             files from {committed} to {}; or, if they are gone for good, end the line, remove this object and repair, so that \
             they are read again",
            claim.start
        ),
        false => format!(
            "it claims {claim}, and {committed}, which is within that, is committed: put back the files of that range; or, if what is \
             there is as it should be, end the line and remove this object"
        ),
    };
    repair.refuse(object.display().to_string(), problem);
}

fn decide(repair: &mut Repair, frozen: Option<Frozen>) {
    if !repair.findings.is_empty() {
        repair.action = RepairAction::Refuse;
        return;
    }
    // One under which nothing was ever committed is that of a run that found the store empty.
    let vouched =
        repair.stored.filter(|stored| stored.begun < stored.committed.next || stored.frozen.is_some());
    let place = repair.partition.to_string();
    match (vouched, repair.table) {
        (None, None) => {}
        (None, Some(range)) => repair.action = RepairAction::Rebuild(range, frozen),
        (Some(Stored { begun, committed, .. }), range) => {
            let end = range.map_or(begun, |range| range.end);
            let committed = committed.next;
            if committed > end {
                let problem = format!(
                    "{committed} is committed, and the table ends at {end}: put the files back, or remove the partition from \
                     the store to have what is missing read again"
                );
                repair.refuse(place, problem);
            } else if let Some(range) = range {
                if range.start > committed {
                    let problem =
                        format!("nothing is there from {committed}, which is committed, to {}", range.start);
                    repair.refuse(place, problem);
                } else if committed < end || range.start < begun {
                    repair.action = RepairAction::Rebuild(Range::new(begun.min(range.start), end), frozen);
                }
            }
        }
    }
}
