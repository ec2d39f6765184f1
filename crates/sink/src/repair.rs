//! Positions from the table's own files, where the store has lost them.
//!
//! Each file's footer says which range of which partition it is a part of, and how many files and rows that range has. So the
//! position is the end of the ranges that are there whole, one behind the other. What is not so is refused, with the file named:
//! nothing is guessed. A store that is ahead of the table is refused too: going back might double what was only moved elsewhere.
//! The dead letters of the last range may not have been sent: unless their position says so, that range is frozen again, and the next
//! run repeats it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use client::{Admin, Cluster, Environment, Execution};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use wire::{Offset, Str, TopicPartition};

use crate::files::Files;
use crate::key::{Key, Layout, Range};
use crate::partition::{PartitionError, words};
use crate::positions::open_store;
use crate::run::RunError;
use crate::settings::{Line, Settings};
use crate::source::sources;
use crate::staging::{self, NotClaimed};
use crate::store::{Acquire, Frozen, PositionStore, Rebuild, Stored};
use crate::table::{Listing, Table, TableFile};
use crate::verdicts;
use crate::verify::Finding;
use crate::writer::FILES;

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

/// Looks what the table says of each partition of the topics, and gives it to a store that says less. Nothing is changed if anything
/// is refused, or if it is only validated.
///
/// It takes hold of what it changes: a line that runs ends.
pub async fn repair(
    settings: &Settings,
    cluster: &Cluster,
    environment: &dyn Environment,
    files: Arc<dyn Files>,
    execution: Execution,
) -> Result<Vec<Repair>, RunError> {
    let offline = settings.offline.as_ref().ok_or(RunError::NoTable)?;
    let store = open_store(offline, Arc::clone(&files)).await?;
    let table = Table::new(files, &offline.table);
    let (stored, listing) = look(settings, &*store, &table).await?;
    let sent =
        Admin::new(cluster.clone()).group_offsets(&Str::copy_from(&settings.dead_letters_group())).await?;
    let sent = |partition: &TopicPartition| {
        let expired = || sent.expired.get(partition).map(|expired| expired.offset);
        sent.committed.get(partition).map(|committed| committed.offset).or_else(expired)
    };
    let mut all = Vec::new();
    for source in sources(settings, Line::Offline, cluster).await? {
        let stored = stored.iter().find(|(key, _)| key.partition == source.key.partition);
        let log = Log { start: source.log.start, sent: sent(&source.key.partition) };
        let (mut repair, epoch) =
            examine(&table, &source.key, stored.map(|(_, stored)| stored), &listing, log);
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
    settings: &Settings,
    store: &dyn PositionStore,
    table: &Table,
) -> Result<(Vec<(Key, Stored)>, Listing), RunError> {
    let line = settings.offline_name();
    let mut before = store.list(&line).await?;
    for _ in 1..LOOKS_MAX {
        let listing = list(table)?;
        let after = store.list(&line).await?;
        if before == after {
            return Ok((after, listing));
        }
        before = after;
    }
    Ok((before, list(table)?))
}

fn list(table: &Table) -> Result<Listing, RunError> {
    match table.list() {
        // It was never run.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Listing::default()),
        listed => {
            listed.map_err(|source| RunError::Files { doing: "list", path: table.root().to_owned(), source })
        }
    }
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
    let (mut again, _) = examine(table, key, Some(&held.stored), &list(table)?, log);
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
fn examine(table: &Table, key: &Key, stored: Option<&Stored>, listing: &Listing, log: Log) -> (Repair, i64) {
    let mut by_range: BTreeMap<Range, Vec<&TableFile>> = BTreeMap::new();
    for file in listing.files.iter().filter(|file| file.name.partition == key.partition) {
        by_range.entry(file.name.range).or_default().push(file);
    }
    let mut repair = Repair {
        partition: key.partition.clone(),
        stored: stored.copied(),
        table: None,
        action: RepairAction::Keep,
        is_done: false,
        findings: Vec::new(),
    };
    let mut epoch_max = 0;
    let last = by_range.keys().next_back().copied();
    // Of what the store has committed, letters were sent.
    let committed = stored.map_or(Offset::ZERO, |stored| stored.committed.next);
    let mut frozen = None;
    for (range, files) in by_range {
        let place = path(files[0]);
        let mut said = RangeSaid::read(table, key, range, &files);
        epoch_max = epoch_max.max(said.epoch);
        repair.findings.append(&mut said.foreign);
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
        // What is on its way is repeated by the next run, as much of it as is there already.
        let is_on_its_way = stored.is_some_and(|stored| {
            Some(range) == last
                && stored.frozen.is_some_and(|frozen| {
                    frozen.range == range && files.iter().all(|file| file.is_laid_out_as(frozen.layout))
                })
        });
        let is_last = Some(range) == last;
        let is_whole = said.incomplete.is_none();
        let is_sent = said.letters == 0 || range.end <= committed.max(log.sent.unwrap_or(Offset::ZERO));
        let unrepeatable = is_last.then(|| said.unrepeatable(table, key, range, files[0], log)).flatten();
        // Unless it cannot be repeated and need not be.
        let is_left = is_on_its_way && !(unrepeatable.is_some() && is_whole && is_sent);
        if is_left && repair.table.is_none_or(|before| before.end == range.start) {
            repair.findings.extend(unrepeatable.map(|why| {
                let problem = format!("{range} is frozen, and cannot be repeated: {why}");
                Finding { place, problem }
            }));
            continue;
        }
        if is_last && is_whole && !is_sent {
            frozen = said.frozen(range, files[0]);
            repair.findings.extend(unrepeatable.map(|why| {
                let letters = said.letters;
                let problem = format!(
                    "{range} has {letters} dead letters of which it is not known that they were sent, and cannot be repeated: {why}"
                );
                Finding { place: place.clone(), problem }
            }));
        }
        repair.findings.extend(said.incomplete.map(|problem| match is_last {
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
    (repair, epoch_max)
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

fn path(file: &TableFile) -> String {
    file.directory.join(file.name.to_string()).display().to_string()
}

/// What the footers of a range's files say together.
struct RangeSaid {
    /// The highest epoch.
    epoch: i64,
    /// How many of its records are dead letters.
    letters: u64,
    /// What does not belong here.
    foreign: Vec<Finding>,
    /// Why it is not whole, if so.
    incomplete: Option<String>,
}

impl RangeSaid {
    fn read(table: &Table, key: &Key, range: Range, files: &[&TableFile]) -> Self {
        let mut said = Self { epoch: 0, letters: 0, foreign: Vec::new(), incomplete: None };
        let (mut rows, mut rows_said) = (0, None);
        let expected = words::of(key, range);
        for file in files {
            let mut find = |problem| said.foreign.push(Finding { place: path(file), problem });
            let footer = match Footer::read(table, file) {
                Ok(footer) => footer,
                Err(problem) => {
                    find(problem);
                    continue;
                }
            };
            for (word, expected) in &expected {
                let found = footer.said(word);
                if found != expected {
                    find(format!("its footer says {word} is {found}, and it is {expected}"));
                }
            }
            if footer.said(FILES) != files.len().to_string() {
                said.incomplete = Some(format!(
                    "{range} is in {} files, says its footer, and there are {}: put back what is missing",
                    footer.said(FILES),
                    files.len()
                ));
            }
            said.epoch = said.epoch.max(footer.said(words::EPOCH).parse().unwrap_or(0));
            said.letters = footer.said(words::LETTERS).parse().unwrap_or(0);
            rows_said = footer.said(words::ROWS).parse::<u64>().ok();
            rows += footer.rows;
        }
        if said.incomplete.is_none() && said.foreign.is_empty() && rows_said != Some(rows) {
            let of = rows_said.map_or_else(|| "nothing".to_owned(), |rows| rows.to_string());
            said.incomplete = Some(format!("{range} has {of} rows, says its footer, and there are {rows}"));
        }
        said
    }

    /// Why the next run could not repeat the range, if so.
    fn unrepeatable(
        &self,
        table: &Table,
        key: &Key,
        range: Range,
        file: &TableFile,
        log: Log,
    ) -> Option<String> {
        if range.start < log.start {
            return Some(format!("the log begins at {} by now", log.start));
        }
        let Some(frozen) = self.frozen(range, file) else {
            return Some("it is in no directory of the table".to_owned());
        };
        verdicts::find(table, key, &frozen).err().map(|error| error.to_string())
    }

    /// The range as it was frozen, going by the footers and where its files are.
    fn frozen(&self, range: Range, file: &TableFile) -> Option<Frozen> {
        let layout = Layout::of_depth(file.directory.components().count())?;
        Some(Frozen { range, epoch: self.epoch, layout, letters: self.letters })
    }
}

struct Footer {
    words: BTreeMap<String, String>,
    rows: u64,
}

impl Footer {
    fn read(table: &Table, file: &TableFile) -> Result<Self, String> {
        let path = table.root.join(&file.directory).join(file.name.to_string());
        let metadata = metadata(&*table.files, &path)?;
        let footer = metadata.file_metadata();
        let words = footer.key_value_metadata().into_iter().flatten();
        let words = words.filter_map(|word| Some((word.key.clone(), word.value.clone()?))).collect();
        Ok(Self { words, rows: u64::try_from(footer.num_rows()).unwrap_or(0) })
    }

    fn said(&self, word: &str) -> &str {
        self.words.get(word).map_or("nothing", String::as_str)
    }
}

/// What most footers fit in.
const FOOTER_BYTES: usize = 64 << 10;

/// What stands at the end of a file, of which no more is read than that.
fn metadata(files: &dyn Files, path: &Path) -> Result<ParquetMetaData, String> {
    let mut wanted = FOOTER_BYTES;
    loop {
        let read = files.read_end(path, wanted);
        let (len, end) = read.map_err(|error| format!("it cannot be read: {error}"))?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&Bytes::from(end), len) {
            Ok(()) => return reader.finish().map_err(|error| format!("it is no Parquet file: {error}")),
            Err(ParquetError::NeedMoreData(more)) if more > wanted && more as u64 <= len => wanted = more,
            Err(error) => return Err(format!("it is no Parquet file: {error}")),
        }
    }
}
