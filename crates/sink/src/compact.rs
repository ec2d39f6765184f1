//! Small files of a table into larger ones, while lines go on writing.
//!
//! In one directory, files of one partition that stand one behind the other become one file, if all of their ranges are committed:
//! nobody writes such a file again. The directory is exchanged for one that has the new file in place of the old ones and all others
//! as they are, so that who lists it finds each row once. A record that comes into the directory meanwhile goes before: then the
//! directory stays as it is, for the next time.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use bytes::Bytes;
use client::{Environment, Execution};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::schema::types::Type;
use wire::Millis;

use crate::encodings::properties;
use crate::exchange::{self, Exchange};
use crate::files::{Files, NewFile};
use crate::footer::{Footer, MERGED, MERGED_FORM, Part, Told, metadata};
use crate::key::{FileName, Key, Range};
use crate::layout::Layout;
use crate::partition::words;
use crate::positions::open_store;
use crate::run::RunError;
use crate::settings::{Line, Settings, TableSettings};
use crate::store::Stored;
use crate::table::{Table, TableFile};
use crate::verify::Finding;
use crate::writer::{ROW_GROUP_BYTES_MAX, io_error};

/// Rows that are read at once.
const BATCH_ROWS: usize = 1024;

/// What is to be merged.
#[derive(Debug, Clone, Copy)]
pub struct Compaction {
    /// How large the files together may be that become one.
    pub target_bytes: u64,
    /// How long ago a directory's time must have ended.
    pub older_than_ms: i64,
    /// Whether it is done, or only told.
    pub execution: Execution,
}

/// What became of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpkeepOutcome {
    /// It would be done.
    Planned,
    /// It is done.
    Done,
    /// Something came into the directory meanwhile, and it is as it was.
    Disturbed,
}

impl UpkeepOutcome {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Done => "done",
            Self::Disturbed => "disturbed",
        }
    }
}

/// Files that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The line whose table it is.
    pub line: Line,
    /// Within the table.
    pub directory: PathBuf,
    /// The file that they become.
    pub into: FileName,
    /// How many they are.
    pub files: usize,
    /// How many rows they have.
    pub rows: u64,
    /// How large they are together.
    pub bytes: u64,
    /// What became of it.
    pub outcome: UpkeepOutcome,
}

/// All that was merged, and what was left alone because it is not as it must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merges {
    /// The merges.
    pub merges: Vec<Merge>,
    /// What was left alone.
    pub findings: Vec<Finding>,
}

/// Merges small files of each table that is declared. What an earlier one has left goes first.
pub async fn compact(
    settings: &Settings,
    environment: &dyn Environment,
    files: Arc<dyn Files>,
    compaction: Compaction,
) -> Result<Merges, RunError> {
    let tables = settings.tables_there()?;
    // Before anything is done.
    if let Some((_, declared)) = tables.iter().find(|(_, table)| table.s3.is_some()) {
        let why = "objects cannot be put in place of others in one step, and who lists them meanwhile would find rows twice or not at all; larger roll_bytes and roll_age make fewer files";
        return Err(RunError::InObjectStore { table: declared.table.clone(), done: "compacted", why });
    }
    let mut all = Merges::default();
    for (line, table) in tables {
        compact_table(settings, line, table, environment, Arc::clone(&files), compaction, &mut all).await?;
    }
    Ok(all)
}

async fn compact_table(
    settings: &Settings,
    line: Line,
    declared: &TableSettings,
    environment: &dyn Environment,
    files: Arc<dyn Files>,
    compaction: Compaction,
    all: &mut Merges,
) -> Result<(), RunError> {
    let store = open_store(declared, Arc::clone(&files)).await?;
    let stored = store.list(&settings.line_name(line)).await?;
    let table = Table::new(files, &declared.table);
    let failed =
        |doing, path: &Path, source| RunError::Files { doing, path: table.root().join(path), source };
    if compaction.execution == Execution::Apply {
        exchange::clean(&table).map_err(|source| failed("clean", Path::new(""), source))?;
    }
    let listing = table.list().map_err(|source| failed("list", Path::new(""), source))?;
    let mut directories: BTreeMap<PathBuf, Vec<TableFile>> = BTreeMap::new();
    for file in listing.files {
        directories.entry(file.directory.clone()).or_default().push(file);
    }
    let now = environment.now();
    for (directory, files) in directories {
        if !is_over(&directory, compaction.older_than_ms, now) {
            continue;
        }
        let token = environment.random();
        let work = Directory { line, table: &table, path: &directory, stored: &stored, token };
        work.compact(&files, compaction, all).map_err(|source| failed("compact", &directory, source))?;
    }
    Ok(())
}

/// Whether a directory's time has ended so long ago. One without a time never ends.
pub(crate) fn is_over(directory: &Path, older_than_ms: i64, now: Millis) -> bool {
    Layout::end(directory).is_some_and(|end| end.0.saturating_add(older_than_ms) <= now.0)
}

/// A file that may be merged with its neighbours.
#[derive(Debug, Clone)]
struct Candidate {
    name: FileName,
    bytes: u64,
    /// Only what looks alike is merged; what is not to be merged looks like nothing.
    looks: Option<Looks>,
    parts: Vec<Part>,
}

/// Columns, to Parquet and to Arrow, and directories.
#[derive(Debug, Clone, PartialEq)]
struct Looks {
    parquet: Option<Type>,
    arrow: Option<String>,
    /// How their ranges are laid out, if not by records' timestamps alone.
    layout: Option<String>,
}

/// Which files become one: those of one partition that stand one behind the other in this directory, look alike and together are no
/// larger than the target. Files of one partition are given in the order of their ranges.
fn groups(candidates: Vec<Candidate>, target_bytes: u64) -> Vec<Vec<Candidate>> {
    let mut groups: Vec<Vec<Candidate>> = Vec::new();
    let mut bytes = 0u64;
    for candidate in candidates {
        let continues = groups.last().and_then(|group| group.last()).is_some_and(|before| {
            before.name.partition == candidate.name.partition
                && before.looks.is_some()
                && before.looks == candidate.looks
                && before.name.range.end <= candidate.name.range.start
                && bytes.saturating_add(candidate.bytes) <= target_bytes
        });
        match groups.last_mut().filter(|_| continues) {
            Some(group) => {
                bytes += candidate.bytes;
                group.push(candidate);
            }
            None => {
                bytes = candidate.bytes;
                groups.push(vec![candidate]);
            }
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// The file that a group becomes.
fn merged(group: &[Candidate]) -> FileName {
    let (first, last) = (&group[0].name, &group[group.len() - 1].name);
    let range = Range::new(first.range.start, last.range.end);
    FileName { partition: first.partition.clone(), range }
}

struct Directory<'a> {
    line: Line,
    table: &'a Table,
    /// Within the table.
    path: &'a Path,
    stored: &'a [(Key, Stored)],
    token: u64,
}

impl Directory<'_> {
    fn compact(&self, files: &[TableFile], compaction: Compaction, all: &mut Merges) -> io::Result<()> {
        let candidates = self.candidates(files, compaction.target_bytes, &mut all.findings);
        let groups = groups(candidates, compaction.target_bytes);
        if groups.is_empty() {
            return Ok(());
        }
        let mut merges: Vec<_> = groups
            .iter()
            .map(|group| Merge {
                line: self.line,
                directory: self.path.to_owned(),
                into: merged(group),
                files: group.len(),
                rows: group.iter().flat_map(|file| &file.parts).map(|part| part.rows).sum(),
                bytes: group.iter().map(|file| file.bytes).sum(),
                outcome: UpkeepOutcome::Planned,
            })
            .collect();
        if let Some(finding) = exchange::too_long(self.path) {
            all.findings.push(finding);
            return Ok(());
        }
        if compaction.execution == Execution::Apply {
            let outcome = match self.merge(&groups, &mut all.findings) {
                Ok(true) => UpkeepOutcome::Done,
                Ok(false) => return Ok(()),
                // Whoever placed a file has taken the exchange back. What was begun is removed by the next compaction.
                Err(error) if error.kind() == ErrorKind::NotFound => UpkeepOutcome::Disturbed,
                Err(error) => return Err(error),
            };
            merges.iter_mut().for_each(|merge| merge.outcome = outcome);
        }
        all.merges.extend(merges);
        Ok(())
    }

    fn key(&self, file: &FileName) -> Option<&(Key, Stored)> {
        self.stored.iter().find(|(key, _)| key.partition == file.partition)
    }

    /// All files, in order. Of those that may be merged it is read what they are.
    fn candidates(
        &self,
        files: &[TableFile],
        target_bytes: u64,
        findings: &mut Vec<Finding>,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for file in files {
            let none = Candidate { name: file.name.clone(), bytes: 0, looks: None, parts: Vec::new() };
            let is_committed = |stored: &Stored| {
                let Range { start, end } = file.name.range;
                stored.begun <= start && end <= stored.committed.next
            };
            let candidate = match self.key(&file.name) {
                Some((key, stored)) if is_committed(stored) => self.look(key, file, target_bytes, findings),
                _ => None,
            };
            candidates.push(candidate.unwrap_or(none));
        }
        candidates
    }

    fn look(
        &self,
        key: &Key,
        file: &TableFile,
        target_bytes: u64,
        findings: &mut Vec<Finding>,
    ) -> Option<Candidate> {
        let path = self.table.root.join(file.path());
        let find = |problem| Finding { place: file.path().display().to_string(), problem };
        let bytes = match self.table.files.read_end(&path, 0) {
            Ok((bytes, _)) if bytes >= target_bytes => return None,
            Ok((bytes, _)) => bytes,
            // By another compaction, into another one.
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                findings.push(find(format!("it cannot be read: {error}")));
                return None;
            }
        };
        let metadata = match metadata(&*self.table.files, &path) {
            Ok(metadata) => metadata,
            Err(problem) => {
                findings.push(find(problem));
                return None;
            }
        };
        let footer = Footer::new(metadata.file_metadata());
        let told = Told::of(key, file, &footer);
        if !told.problems.is_empty() {
            findings.extend(told.problems);
            return None;
        }
        let looks = Looks {
            parquet: Some(metadata.file_metadata().schema().clone()),
            arrow: footer.words.get("ARROW:schema").cloned(),
            layout: footer.words.get(words::LAYOUT).cloned(),
        };
        Some(Candidate { name: file.name.clone(), bytes, looks: Some(looks), parts: told.parts })
    }

    /// Writes the directory anew and puts it in place; not if something lies there that is not the sink's.
    fn merge(&self, groups: &[Vec<Candidate>], findings: &mut Vec<Finding>) -> io::Result<bool> {
        let exchange = Exchange::begin(self.table, self.path, self.token)?;
        if let Some(foreign) = exchange.foreign() {
            findings.push(foreign);
            exchange.give_up()?;
            return Ok(false);
        }
        let sources: Vec<_> = groups.iter().flatten().map(|file| file.name.to_string()).collect();
        for entry in &exchange.found {
            if !sources.contains(&entry.name) {
                exchange.keep(&entry.name)?;
            }
        }
        for group in groups {
            self.write(group, &exchange.own)?;
        }
        exchange.carry_out()?;
        Ok(true)
    }

    /// One file of several; durable but for its name.
    fn write(&self, group: &[Candidate], own: &Path) -> io::Result<()> {
        let name = merged(group);
        let (key, _) = self.key(&name).expect("its files are those of a key");
        let parts: Vec<Part> = group.iter().flat_map(|file| file.parts.clone()).collect();
        let mut writer: Option<ArrowWriter<Box<dyn NewFile>>> = None;
        let mut rows = 0;
        for file in group {
            let path = self.table.root.join(self.path).join(file.name.to_string());
            let bytes = Bytes::from(self.table.files.read(&path)?);
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(io_error)?;
            // What stands in a footer beside the columns stays with its file.
            let schema = Arc::new(Schema::new(reader.schema().fields().clone()));
            let mut batches = reader.with_batch_size(BATCH_ROWS).build().map_err(io_error)?.peekable();
            // Also where there is no row: ranges of nothing but dead letters have files too.
            let writer = match &mut writer {
                Some(writer) => writer,
                empty => {
                    let file = self.table.files.create(&own.join(name.to_string()))?;
                    let none = RecordBatch::new_empty(Arc::clone(&schema));
                    let first = batches.peek().and_then(|batch| batch.as_ref().ok()).unwrap_or(&none);
                    let begun = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties(first)));
                    empty.insert(begun.map_err(io_error)?)
                }
            };
            for batch in batches {
                let batch = batch.map_err(io::Error::other)?;
                let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec());
                let batch = batch.map_err(io::Error::other)?;
                rows += batch.num_rows() as u64;
                writer.write(&batch).map_err(io_error)?;
                if writer.in_progress_size() >= ROW_GROUP_BYTES_MAX {
                    writer.flush().map_err(io_error)?;
                }
            }
        }
        let expected: u64 = parts.iter().map(|part| part.rows).sum();
        let Some(mut writer) = writer.filter(|_| rows == expected) else {
            let problem = format!("{name} would have {rows} rows, and its files say {expected}");
            return Err(io::Error::new(ErrorKind::InvalidData, problem));
        };
        let epoch = parts.iter().map(|part| part.epoch).max().unwrap_or(0);
        let list = serde_json::Value::from(parts.iter().map(Part::encode).collect::<Vec<_>>());
        let said = [
            (words::FORM, MERGED_FORM.to_owned()),
            (words::EPOCH, epoch.to_string()),
            (MERGED, list.to_string()),
        ];
        // The same of all of them.
        let layout = group.iter().find_map(|file| file.looks.as_ref()?.layout.clone());
        let said = said.into_iter().chain(layout.map(|layout| (words::LAYOUT, layout)));
        for (word, value) in said.chain(words::of(key, name.range)) {
            writer.append_key_value_metadata(KeyValue::new(word.to_owned(), value));
        }
        writer.into_inner().map_err(io_error)?.sync()
    }
}

#[cfg(test)]
mod tests {
    use wire::{Offset, PartitionId, TopicPartition};

    use super::{Candidate, FileName, Looks, Range, groups, merged};

    /// Files as `PARTITION:START-END BYTES LOOKS`, and those that become one.
    fn check(files: &str, expected: &[&str]) {
        let candidates = files.split(", ").map(|file| {
            let mut words = file.split([':', '-', ' ']);
            let mut number = || words.next().unwrap().parse::<i64>().unwrap();
            let (partition, start, end, bytes) = (number(), number(), number(), number());
            let looks = words.next().filter(|&looks| looks != "none");
            let partition = TopicPartition::new("orders", PartitionId(i32::try_from(partition).unwrap()));
            let range = Range::new(Offset(start), Offset(end));
            let looks =
                looks.map(|looks| Looks { parquet: None, arrow: Some(looks.to_owned()), layout: None });
            let name = FileName { partition, range };
            Candidate { name, bytes: bytes.unsigned_abs(), looks, parts: Vec::new() }
        });
        let groups = groups(candidates.collect(), 100);
        let told: Vec<_> = groups.iter().map(|group| merged(group).to_string()).collect();
        assert_eq!(told, expected, "{files}");
    }

    #[test]
    fn files_behind_one_another_become_one_up_to_the_target() {
        check(
            "0:0-10 40 a, 0:10-20 40 a, 0:20-30 40 a, 0:30-40 40 a",
            &["orders-0-0-20.parquet", "orders-0-20-40.parquet"],
        );
        // What is between them is elsewhere.
        check("0:0-10 40 a, 0:70-90 40 a", &["orders-0-0-90.parquet"]);
        check("0:0-10 40 a", &[]);
    }

    #[test]
    fn what_is_of_another_partition_or_looks_otherwise_is_between_them() {
        check("0:0-10 10 a, 1:10-20 10 a", &[]);
        check("0:0-10 10 a, 0:10-20 10 b, 0:20-30 10 b", &["orders-0-10-30.parquet"]);
        check("0:0-10 10 a, 0:10-20 10 none, 0:20-30 10 a", &[]);
        check("0:0-10 10 a, 0:10-20 99 a, 0:20-30 10 a", &[]);
        check("0:0-10 10 none, 0:10-20 10 none", &[]);
    }
}
