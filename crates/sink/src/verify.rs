//! Whether a table holds what the log holds, each record once, and whether both lines hold the same.
//!
//! Trusts nothing that the sink believes: it reads the footers of all files and, where the table has them, the offsets of all rows,
//! the dead letters, and the log itself beside them, range by range. What retention has removed from the log since is counted, and
//! cannot be compared. Looks only.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::DataType;
use bytes::Bytes;
use client::Cluster;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use wire::{Offset, TopicPartition, Uuid};

use crate::columns::OFFSET_COLUMN;
use crate::digest::Digest;
use crate::expired::{self, Expired};
use crate::files::Files;
use crate::footer::{Part, Told, told};
use crate::key::{Key, Range};
use crate::log_reader::LogReader;
use crate::positions::open_store;
use crate::replay::{DeadLetter, Which, each};
use crate::run::RunError;
use crate::settings::{Line, NearlineOutput, Settings, TableSettings};
use crate::source::{Source, sources};
use crate::store::{PositionStore, Stored};
use crate::table::{self, Table, TableFile};
use crate::{verify_nearline, verify_stream};

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where: a file, or a range.
    pub place: String,
    /// What.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// One partition, compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The line.
    pub line: Line,
    /// The partition.
    pub partition: TopicPartition,
    /// Where the line began, and up to where it has committed.
    pub committed: Option<Range>,
    /// Files in the table.
    pub files: u64,
    /// Rows in them, or records in the output topic.
    pub rows: u64,
    /// Records among the dead letters.
    pub letters: u64,
    /// Records in the log, where it still has them.
    pub records: u64,
    /// Rows of records that the log does not have any more, and records that the output topic does not have any more.
    pub passed: u64,
    /// Rows that were removed from the table for their age: their records are not compared.
    pub expired: u64,
    /// The latest directory of which some were removed.
    pub expired_to: Option<PathBuf>,
    /// Records of the log that are not in the output.
    pub missing: u64,
    /// Rows that are there again, or of no record.
    pub double: u64,
    /// Where both lines were compared with each other; told with the near-real-time one.
    pub common: Option<Range>,
    /// Whatever else is wrong.
    pub findings: Vec<Finding>,
}

impl Verified {
    pub(crate) fn new(line: Line, partition: &TopicPartition) -> Self {
        Self {
            line,
            partition: partition.clone(),
            committed: None,
            files: 0,
            rows: 0,
            letters: 0,
            records: 0,
            passed: 0,
            expired: 0,
            expired_to: None,
            missing: 0,
            double: 0,
            common: None,
            findings: Vec::new(),
        }
    }

    /// Whether each record is there, once.
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.double == 0 && self.findings.is_empty()
    }
}

/// Compares every partition of the topics in every line that is declared with the log, and the lines with each other where both
/// have been.
pub async fn verify(
    settings: &Settings,
    cluster: &Cluster,
    files: Arc<dyn Files>,
) -> Result<Vec<Verified>, RunError> {
    // The stores first: what comes into a table meanwhile is behind what is compared.
    let mut offline = match settings.table(Line::Offline) {
        Some(table) => Some(TableLine::open(settings, Line::Offline, table, &files).await?),
        None => None,
    };
    let offline_range = |key: &Key| offline.as_ref()?.range(key);
    // This one says from where on it still has what both have read.
    let nearline = match &settings.nearline {
        Some(NearlineOutput::Topic(topic)) => {
            verify_nearline::verify(settings, topic, cluster, offline_range).await?
        }
        Some(NearlineOutput::Table(table)) => {
            let table = TableLine::open(settings, Line::Nearline, table, &files).await?;
            let within = |(key, _): &(Key, Stored)| {
                let both = both(table.range(key)?, offline_range(key)?);
                Some((key.partition.clone(), Digest::new(both)))
            };
            let mut digests: BTreeMap<_, _> = table.stored.iter().filter_map(within).collect();
            let all = table.verify(settings, cluster, &mut digests).await?;
            let mut digest = |verified: Verified| {
                let digest = digests.remove(&verified.partition).unwrap_or_else(|| Digest::new(None));
                (verified, digest)
            };
            all.into_iter().map(&mut digest).collect()
        }
        Some(NearlineOutput::Stream(stream)) => {
            verify_stream::verify(settings, stream, cluster, offline_range).await?
        }
        None => Vec::new(),
    };
    let mut digests: BTreeMap<_, _> = nearline
        .iter()
        .map(|(verified, digest)| (verified.partition.clone(), Digest::new(digest.within)))
        .collect();
    let mut all = match offline.take() {
        Some(offline) => offline.verify(settings, cluster, &mut digests).await?,
        None => Vec::new(),
    };
    let output = match &settings.nearline {
        Some(NearlineOutput::Table(_)) => "near-real-time one",
        Some(NearlineOutput::Stream(_)) => "stream",
        _ => "output topic",
    };
    for (mut verified, digest) in nearline {
        let other = digests.remove(&verified.partition).filter(|other| other.within.is_some());
        if let (Some(within), Some(other)) = (digest.within, other) {
            verified.common = Some(within);
            if let Some(what) = digest.difference(&other) {
                let place = format!("{} {within}", verified.partition);
                let problem = format!(
                    "the lines do not hold the same records: {what} differ, with {} in the table and {} in the {output}",
                    other.records, digest.records
                );
                verified.findings.push(Finding { place, problem });
            }
        }
        all.push(verified);
    }
    Ok(all)
}

/// What lies in both ranges.
pub(crate) fn both(one: Range, other: Range) -> Option<Range> {
    let (start, end) = (one.start.max(other.start), one.end.min(other.end));
    (start < end).then(|| Range::new(start, end))
}

/// A line into a table, and what its store said before anything else was looked at.
struct TableLine<'a> {
    line: Line,
    declared: &'a TableSettings,
    table: Table,
    store: Arc<dyn PositionStore>,
    stored: Vec<(Key, Stored)>,
}

impl<'a> TableLine<'a> {
    async fn open(
        settings: &Settings,
        line: Line,
        declared: &'a TableSettings,
        files: &Arc<dyn Files>,
    ) -> Result<Self, RunError> {
        let files = table::files_of(declared, Arc::clone(files))?;
        let store = open_store(declared, Arc::clone(&files)).await?;
        let stored = store.list(&settings.line_name(line)).await?;
        Ok(Self { line, declared, table: Table::new(files, &declared.table), store, stored })
    }

    /// From where up to where it has committed, in the words of whichever line.
    fn range(&self, key: &Key) -> Option<Range> {
        let is_it = |stored: &&(Key, Stored)| {
            let (other, _) = stored;
            (&other.cluster_id, other.topic_id, &other.partition)
                == (&key.cluster_id, key.topic_id, &key.partition)
        };
        let (_, stored) = self.stored.iter().find(is_it)?;
        let (begun, committed) = (stored.begun, stored.committed.next);
        (begun < committed).then(|| Range::new(begun, committed))
    }

    async fn verify(
        self,
        settings: &Settings,
        cluster: &Cluster,
        digests: &mut BTreeMap<TopicPartition, Digest>,
    ) -> Result<Vec<Verified>, RunError> {
        let Self { line, declared, table, store, stored } = self;
        verify_table(settings, (line, declared), cluster, &table, &*store, &stored, digests).await
    }
}

async fn verify_table(
    settings: &Settings,
    (line, declared): (Line, &TableSettings),
    cluster: &Cluster,
    table: &Table,
    store: &dyn PositionStore,
    stored: &[(Key, Stored)],
    digests: &mut BTreeMap<TopicPartition, Digest>,
) -> Result<Vec<Verified>, RunError> {
    let name = settings.line_name(line);
    let listing = table.list();
    let listing =
        listing.map_err(|source| RunError::Files { doing: "list", path: declared.table.clone(), source })?;
    // Behind the listing: what is neither listed nor written down is missing.
    let expired = expired::read(table, &name);
    let expired = expired.map_err(|source| RunError::Files {
        doing: "read what is expired of",
        path: declared.table.clone(),
        source,
    })?;
    // Also behind it: what the line has added meanwhile is known then.
    let since = store.list(&name).await?;
    let mut letters: BTreeMap<TopicPartition, Vec<(Option<Uuid>, i64)>> = BTreeMap::new();
    each(settings, line, cluster, Which::All, |letter| {
        let DeadLetter { partition, offset, topic_id, .. } = letter;
        letters.entry(partition).or_default().push((topic_id, offset.0));
    })
    .await?;
    let mut all = Vec::new();
    let sources = sources(settings, line, cluster).await?;
    // Readers take them for the sink's.
    let is_parquet = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    let foreign = listing.foreign.iter().filter(is_parquet).map(|path| Finding {
        place: path.display().to_string(),
        problem: "it is not the sink's, and readers of the table see its rows".to_owned(),
    });
    let is_known =
        |file: &&TableFile| sources.iter().any(|source| source.key.partition == file.name.partition);
    let unknown = listing.files.iter().filter(|file| !is_known(file)).map(|file| Finding {
        place: file.directory.join(file.name.to_string()).display().to_string(),
        problem: format!(
            "{} is no partition of the topics, and readers of the table see its rows",
            file.name.partition
        ),
    });
    let mut foreign: Vec<Finding> = foreign.chain(unknown).collect();
    for source in sources {
        let partition = &source.key.partition;
        let of_topic = letters.remove(partition).unwrap_or_default().into_iter();
        // Others are of a topic of that name that was there before.
        let of_topic = of_topic.filter(|(topic_id, _)| *topic_id == Some(source.key.topic_id));
        let mut letters: Vec<_> = of_topic.map(|(_, offset)| offset).collect();
        letters.sort_unstable();
        let stored = stored.iter().find(|(key, _)| key.partition == *partition);
        let files = listing.files.iter().filter(|file| file.name.partition == *partition).collect();
        let found = Found { line, table, files, expired: &expired, since: &since };
        let mut none = Digest::new(None);
        let digest = digests.get_mut(partition).unwrap_or(&mut none);
        if !declared.line.shape.is_bytes() {
            // A field of an object may be bytes as well, and be called as the column of values is.
            digest.leave_values_out();
        }
        // The other line has them as they were.
        letters.iter().for_each(|&offset| digest.add(Offset(offset), None));
        let mut verified = compare(cluster, found, &source, stored, letters, digest).await?;
        // What is of no partition is told with the first one.
        verified.findings.append(&mut foreign);
        all.push(verified);
    }
    Ok(all)
}

/// What the table has of a partition.
struct Found<'a> {
    line: Line,
    table: &'a Table,
    files: Vec<&'a TableFile>,
    expired: &'a Expired,
    /// What the store said when it was listed.
    since: &'a [(Key, Stored)],
}

async fn compare(
    cluster: &Cluster,
    Found { line, table, files, expired, since }: Found<'_>,
    source: &Source,
    stored: Option<&(Key, Stored)>,
    letters: Vec<i64>,
    digest: &mut Digest,
) -> Result<Verified, RunError> {
    let mut verified = Verified::new(line, &source.key.partition);
    let since = since.iter().find(|(key, _)| *key == source.key).map(|(_, since)| since);
    let is_known = |range: Range| {
        since.is_some_and(|since| {
            range.start < since.committed.next || since.frozen.is_some_and(|frozen| frozen.range == range)
        })
    };
    let Some((key, stored)) = stored else {
        if let Some(file) = files.iter().find(|file| !is_known(file.name.range)) {
            let problem = "the store knows nothing of the partition".to_owned();
            verified.findings.push(Finding { place: file.name.to_string(), problem });
        }
        return Ok(verified);
    };
    if (&key.cluster_id, key.topic_id) != (&source.key.cluster_id, source.key.topic_id) {
        let problem =
            format!("the store knows it as topic id {} of cluster {}", key.topic_id, key.cluster_id);
        verified.findings.push(Finding { place: source.key.partition.to_string(), problem });
        return Ok(verified);
    }
    let committed = stored.committed.next;
    if stored.begun < committed {
        verified.committed = Some(Range::new(stored.begun, committed));
    }
    let mut rows = TableRows { table, digest, all: Vec::new(), merged: BTreeMap::new() };
    let mut by_range: BTreeMap<Range, Parts> = BTreeMap::new();
    for (at, file) in files.into_iter().enumerate() {
        let told = Told::read(table, key, file);
        for part in &told.parts {
            by_range.entry(part.range).or_default().here.push((at, *part));
        }
        rows.all.push(told);
    }
    for part in expired.gone(key, &expired::there(&rows.all)) {
        by_range.entry(part.range).or_default().gone.push(part);
        // The other line may have them.
        rows.digest.within = None;
        verified.expired_to = expired.up_to(key);
    }
    let mut log = RangeReader::new(cluster, source, stored.begun, letters)?;
    let mut expected = stored.begun;
    for (range, parts) in by_range {
        let place = format!("{} {range}", source.key.partition);
        if range.start >= committed {
            if stored.frozen.map(|frozen| frozen.range) != Some(range) && !is_known(range) {
                let problem = format!("it is in the table, and only {committed} is committed");
                verified.findings.push(Finding { place, problem });
            }
            continue;
        }
        if range.start < expected {
            let problem = format!("it overlaps what ends at {expected}");
            verified.findings.push(Finding { place: place.clone(), problem });
        }
        // A gap in the files is one in the table only if the log has records there.
        if range.start > expected {
            log.compare_gap(Range::new(expected, range.start), &mut verified).await?;
        }
        let (count, offsets) = rows.read_range(range, &parts, &mut verified);
        verified.rows += count;
        verified.expired += parts.rows_gone();
        if range.start >= expected {
            let missing = verified.missing;
            log.compare(range, offsets.as_deref(), count, &mut verified).await?;
            // So many of its records need not be there.
            verified.missing -= parts.rows_gone().min(verified.missing - missing);
        } else {
            verified.double += count;
        }
        expected = expected.max(range.end);
    }
    if expected < committed {
        log.compare_gap(Range::new(expected, committed), &mut verified).await?;
    }
    log.reader.close().await;
    Ok(verified)
}

/// What there is of a range.
#[derive(Default)]
struct Parts {
    /// By the number of the file.
    here: Vec<(usize, Part)>,
    /// What was removed for its age.
    gone: Vec<Part>,
}

impl Parts {
    fn len(&self) -> u64 {
        (self.here.len() + self.gone.len()) as u64
    }

    fn rows_gone(&self) -> u64 {
        self.gone.iter().fold(0, |rows, part| rows.saturating_add(part.rows))
    }
}

/// Reads the rows of a partition's files, each file once.
struct TableRows<'a> {
    table: &'a Table,
    digest: &'a mut Digest,
    all: Vec<Told<'a>>,
    /// Of merged files that were read, what belongs to ranges further on.
    merged: BTreeMap<(usize, Range), FileRows>,
}

impl TableRows<'_> {
    /// The rows of a range, and their offsets if all of its files have a column of them. Says where its files are not what they have
    /// to be.
    fn read_range(
        &mut self,
        range: Range,
        parts: &Parts,
        verified: &mut Verified,
    ) -> (u64, Option<Vec<i64>>) {
        let (mut count, mut offsets) = (0, Some(Vec::new()));
        for (at, part) in &parts.here {
            let place = self.all[*at].file.path().display().to_string();
            if part.files != Some(parts.len()) {
                let (said, is) = (told(part.files), parts.len());
                let problem = format!("its footer says that {range} is in {said} files, and it is in {is}");
                verified.findings.push(Finding { place: place.clone(), problem });
            }
            let put_aside = self.merged.remove(&(*at, range));
            let Some(rows) = put_aside.or_else(|| self.read(*at, range, verified)) else { continue };
            count += rows.rows;
            match (&mut offsets, rows.offsets) {
                (Some(offsets), Some(more)) => offsets.extend(more),
                (offsets, _) => *offsets = None,
            }
        }
        let all = count.saturating_add(parts.rows_gone());
        let mut footers = parts.here.iter().map(|(_, part)| part).chain(&parts.gone);
        if let Some(part) = footers.find(|part| part.range_rows != Some(all)) {
            let problem = format!("its footers say {} rows, and there are {all}", told(part.range_rows));
            verified.findings.push(Finding { place: format!("{} {range}", verified.partition), problem });
        }
        if let Some(offsets) = &mut offsets {
            offsets.sort_unstable();
        }
        (count, offsets)
    }

    /// Reads a file, and puts aside what of it is of other ranges.
    fn read(&mut self, at: usize, range: Range, verified: &mut Verified) -> Option<FileRows> {
        let told = &mut self.all[at];
        verified.files += 1;
        verified.findings.append(&mut told.problems);
        if !told.is_readable {
            return None;
        }
        let path = told.file.path();
        let mut find = |problem| {
            verified.findings.push(Finding { place: path.display().to_string(), problem });
        };
        let read = match read_file(self.table, &path, self.digest) {
            Ok(read) if !told.is_merged => return Some(read),
            Ok(read) => read,
            Err(problem) => {
                find(problem);
                return None;
            }
        };
        let mut offsets = read.offsets;
        offsets.iter_mut().for_each(|offsets| offsets.sort_unstable());
        let mut of_parts = 0;
        for part in &told.parts {
            let of_part = offsets.as_ref().map(|offsets| {
                let before = |end: Offset| offsets.partition_point(|&offset| offset < end.0);
                offsets[before(part.range.start)..before(part.range.end)].to_vec()
            });
            let rows = of_part.as_ref().map_or(part.rows, |offsets| offsets.len() as u64);
            of_parts += rows;
            self.merged.insert((at, part.range), FileRows { rows, offsets: of_part });
        }
        if of_parts < read.rows {
            let left = read.rows - of_parts;
            find(format!("{left} of its rows are of no range that its footer lists"));
            verified.double += left;
        }
        self.merged.remove(&(at, range))
    }
}

/// Rows of a file.
struct FileRows {
    rows: u64,
    /// If there is a column of them.
    offsets: Option<Vec<i64>>,
}

fn read_file(table: &Table, path: &Path, digest: &mut Digest) -> Result<FileRows, String> {
    let bytes =
        table.files.read(&table.root.join(path)).map_err(|error| format!("it cannot be read: {error}"))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes));
    let reader = reader.map_err(|error| format!("it is no Parquet file: {error}"))?;
    let rows = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
    let schema = Arc::clone(reader.schema());
    let Some((at, _)) = schema.column_with_name(OFFSET_COLUMN) else {
        // Which of its rows both lines have is not known.
        digest.within = None;
        return Ok(FileRows { rows, offsets: None });
    };
    // Only of bytes a value is what it was.
    let value = schema.column_with_name("value").filter(|(_, field)| *field.data_type() == DataType::Binary);
    let mut columns = vec![at];
    columns.extend(value.map(|(at, _)| at).filter(|_| digest.within.is_some()));
    let mask = ProjectionMask::roots(reader.parquet_schema(), columns);
    let mut offsets = Vec::new();
    let batches =
        reader.with_projection(mask).build().map_err(|error| format!("it cannot be read: {error}"))?;
    for batch in batches {
        let batch = batch.map_err(|error| format!("its rows cannot be read: {error}"))?;
        let column = batch.column_by_name(OFFSET_COLUMN);
        let Some(column) = column.and_then(|column| column.as_primitive_opt::<Int64Type>()) else {
            return Err(format!("its column {OFFSET_COLUMN} holds no numbers"));
        };
        let values = batch.column_by_name("value").and_then(|column| column.as_binary_opt::<i32>());
        for (row, &offset) in column.values().iter().enumerate() {
            let value = values.map(|values| values.is_valid(row).then(|| values.value(row)));
            digest.add(Offset(offset), value);
        }
        offsets.extend_from_slice(column.values());
    }
    Ok(FileRows { rows, offsets: Some(offsets) })
}

/// Reads the log forward, range by range.
struct RangeReader {
    reader: LogReader,
    partition: TopicPartition,
    log_start: Offset,
    /// Where what readers see ends.
    visible_end: Offset,
    /// Offsets that came and belong to ranges further on.
    ahead: VecDeque<i64>,
    /// Offsets of dead letters, in order.
    letters: Vec<i64>,
}

impl RangeReader {
    fn new(cluster: &Cluster, source: &Source, begun: Offset, letters: Vec<i64>) -> Result<Self, RunError> {
        let partition = source.key.partition.clone();
        let reader = LogReader::new(cluster, &partition, begun.max(source.log.start))?;
        let (log_start, visible_end) = (source.log.start, source.visible_end);
        Ok(Self { reader, partition, log_start, visible_end, ahead: VecDeque::new(), letters })
    }

    /// Compares a range of which no file is there: what the log has in it is missing, but for dead letters. What the log has no more
    /// cannot be counted, and was to be in the table.
    async fn compare_gap(&mut self, gap: Range, verified: &mut Verified) -> Result<(), RunError> {
        if gap.start < self.log_start {
            let end = gap.end.min(self.log_start);
            let problem = format!(
                "no file is there from {} to {end}, and the log begins at {}: what was there is in neither of them",
                gap.start, self.log_start
            );
            verified.findings.push(Finding { place: format!("{} {gap}", self.partition), problem });
        }
        let start = gap.start.max(self.log_start);
        match start < gap.end {
            true => self.compare(Range::new(start, gap.end), Some(&[]), 0, verified).await,
            false => Ok(()),
        }
    }

    /// Compares the rows and letters of a range with its records, as far as the log still has them.
    async fn compare(
        &mut self,
        range: Range,
        offsets: Option<&[i64]>,
        rows: u64,
        verified: &mut Verified,
    ) -> Result<(), RunError> {
        if range.end > self.visible_end {
            let problem =
                format!("it is committed, and what is to be seen of the log ends at {}", self.visible_end);
            verified.findings.push(Finding { place: format!("{} {range}", self.partition), problem });
            return Ok(());
        }
        let log_start = self.log_start;
        let from = self.letters.partition_point(|&offset| offset < range.start.0);
        let to = self.letters.partition_point(|&offset| offset < range.end.0);
        let letters = self.letters[from..to].to_vec();
        verified.letters += letters.len() as u64;
        let Some(offsets) = offsets else {
            // Which of them are of records that the log still has is not known; there are as many at least.
            let read = self.read_beside(range.end, &[]).await?.records;
            let held = rows + letters.len() as u64;
            verified.records += read;
            verified.missing += read.saturating_sub(held);
            match range.start < log_start {
                true => verified.passed += rows.saturating_sub(read),
                false => verified.double += held.saturating_sub(read),
            }
            return Ok(());
        };
        verified.passed += offsets.partition_point(|&offset| offset < log_start.0) as u64;
        let mut held = [offsets, &letters].concat();
        held.sort_unstable();
        let (passed, held) = held.split_at(held.partition_point(|&offset| offset < log_start.0));
        verified.double += passed.windows(2).filter(|two| two[0] == two[1]).count() as u64;
        let Beside { records, missing, double } = self.read_beside(range.end, held).await?;
        verified.records += records;
        verified.missing += missing;
        verified.double += double;
        Ok(())
    }

    /// Reads from where it stands up to `end`, beside offsets that are in order. Keeps no more than what comes at once.
    async fn read_beside(&mut self, end: Offset, mut held: &[i64]) -> Result<Beside, RunError> {
        let mut beside = Beside::default();
        loop {
            let count = self.ahead.partition_point(|&offset| offset < end.0);
            let read: Vec<i64> = self.ahead.drain(..count).collect();
            if let Some(&last) = read.last() {
                let (until, behind) = held.split_at(held.partition_point(|&offset| offset <= last));
                let (missing, double) = difference(&read, until);
                beside.records += read.len() as u64;
                beside.missing += missing;
                beside.double += double;
                held = behind;
            }
            let Some(records) = self.reader.next(end).await? else { break };
            self.ahead.extend(records.iter().map(|record| record.offset.0));
            records.done();
        }
        beside.double += held.len() as u64;
        Ok(beside)
    }
}

/// Offsets that are held, beside records of the log.
#[derive(Default)]
struct Beside {
    records: u64,
    missing: u64,
    double: u64,
}

/// How many of the first, which are in order and all different, are not among the second, which are in order; and how many of the
/// second are there again or not among the first.
fn difference(records: &[i64], rows: &[i64]) -> (u64, u64) {
    let mut rows = rows.iter().peekable();
    let (mut missing, mut double) = (0, 0);
    for record in records {
        while rows.next_if(|row| *row < record).is_some() {
            double += 1;
        }
        match rows.next_if_eq(&record) {
            Some(_) => {}
            None => missing += 1,
        }
    }
    (missing, double + rows.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn what_is_missing_and_what_is_double_are_counted_apart() {
        assert_eq!(difference(&[1, 2, 5], &[1, 2, 5]), (0, 0));
        assert_eq!(difference(&[1, 2, 5], &[1, 5]), (1, 0));
        assert_eq!(difference(&[1, 2, 5], &[1, 1, 2, 3, 5, 5, 9]), (0, 4));
        assert_eq!(difference(&[], &[4]), (0, 1));
        assert_eq!(difference(&[4], &[]), (1, 0));
    }
}
