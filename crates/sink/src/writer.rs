//! The files of the range in hand, one for each directory that its rows belong to, or one of no rows: each range has a file.
//!
//! Rows go to a staged file as they come, so that memory holds no more than what Parquet needs to finish a row group; and a row group
//! is finished early where memory is wanted. What a file holds depends on its range and the declaration alone: the same records in
//! the same order give the same rows. A file that is not finished is no file; nothing here puts one where readers see it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Fields};
use arrow_select::take::take_record_batch;
use client::ConsumedRecord;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use wire::Millis;

use crate::columns::{Columns, Shape, Unconvertible};
use crate::encodings::properties;
use crate::files::NewFile;
use crate::layout::{Layout, Misplaced, known};
use crate::placement::Placement;
use crate::staging::Staging;
use crate::table::{At, Staged, Table};

/// Rows that are encoded at once.
const BATCH_ROWS_MAX: usize = 8192;
/// Or as many as take so much: they stay in the processor's cache until they are.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// What a row group takes before it is written out, encoded.
pub(crate) const ROW_GROUP_BYTES_MAX: usize = 32 << 20;
/// What an encoder takes of a column besides its values, mostly for compressing. Rows of a row group gather until they take as much,
/// as many partitions never have more than a few.
const ENCODER_BYTES: usize = 320 << 10;
/// What is kept of a row group's column until the file is finished, for its footer.
const CHUNK_BYTES: usize = 1 << 10;

/// What is in memory, about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Until it is spilled.
    pub rows: usize,
    /// Until the range is written.
    pub kept: usize,
}

impl Memory {
    /// Both.
    pub fn total(self) -> usize {
        self.rows + self.kept
    }
}

/// Files that are being written.
pub(crate) struct RangeWriter {
    table: Table,
    shape: Arc<Shape>,
    layout: Layout,
    files_max: usize,
    /// By bucket of time.
    open: BTreeMap<i64, Gathering>,
    /// What places rows in a table that is laid out by fields.
    sorter: Option<Sorter>,
}

/// A file, and its rows that are not in it yet.
struct Gathering {
    file: OpenFile,
    columns: Columns,
}

/// Files, and the rows of all of them that are in none yet: where a row belongs is known once it is converted.
struct Sorter {
    placement: Placement,
    columns: Columns,
    /// To which file each of these rows goes.
    to: Vec<usize>,
    files: Vec<OpenFile>,
    /// Which file each directory has.
    by_directory: HashMap<String, usize>,
    /// Of the record that is taken.
    directory: String,
}

struct OpenFile {
    directory: String,
    rows: u64,
    /// Of a row group that is not begun.
    gathered: Vec<RecordBatch>,
    gathered_bytes: usize,
    /// Once there is something to write.
    file: Option<Begun>,
}

struct Begun {
    at: At,
    writer: ArrowWriter<Box<dyn NewFile>>,
    /// Columns.
    leaves: usize,
}

impl From<Unconvertible> for NotTaken {
    fn from(unconvertible: Unconvertible) -> Self {
        Self::Unconvertible(unconvertible)
    }
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// It belongs to one file more than may be open.
    Full,
    Unconvertible(Unconvertible),
    Failed(io::Error),
}

impl RangeWriter {
    pub(crate) fn new(
        table: Table,
        shape: Arc<Shape>,
        layout: Layout,
        files_max: usize,
    ) -> Result<Self, Misplaced> {
        let sorter = Placement::new(layout, &shape)?.map(|placement| Sorter {
            placement,
            columns: Columns::new(Arc::clone(&shape)),
            to: Vec::new(),
            files: Vec::new(),
            by_directory: HashMap::new(),
            directory: String::new(),
        });
        Ok(Self { table, shape, layout, files_max, open: BTreeMap::new(), sorter })
    }

    /// Takes a record, and gives its time; files are begun in the staging directory as they are needed.
    pub(crate) fn append(
        &mut self,
        record: &ConsumedRecord,
        staging: &mut Staging,
    ) -> Result<Option<Millis>, NotTaken> {
        if let Some(sorter) = &mut self.sorter {
            return sorter.append(record, self.files_max, &self.table, staging);
        }
        let bucket = self.layout.bucket(record.timestamp);
        if !self.open.contains_key(&bucket) {
            if self.open.len() >= self.files_max {
                return Err(NotTaken::Full);
            }
            let file = OpenFile::new(self.layout.directory(record.timestamp));
            self.open.insert(bucket, Gathering { file, columns: Columns::new(Arc::clone(&self.shape)) });
        }
        let gathering = self.open.get_mut(&bucket).expect("it is open");
        if let Err(unconvertible) = gathering.columns.append(record) {
            // It may have left some of its fields, which end with the batch.
            gathering.encode(&self.table, staging).map_err(NotTaken::Failed)?;
            return Err(NotTaken::Unconvertible(unconvertible));
        }
        gathering.file.rows += 1;
        if is_batch(&gathering.columns) {
            gathering.encode(&self.table, staging).map_err(NotTaken::Failed)?;
        }
        Ok(known(record.timestamp).map(|_| record.timestamp))
    }

    /// What is in memory, about.
    pub(crate) fn memory(&self) -> Memory {
        let files =
            || self.open.values().map(|open| &open.file).chain(self.sorter.iter().flat_map(|s| &s.files));
        let columns =
            self.open.values().map(|open| &open.columns).chain(self.sorter.iter().map(|s| &s.columns));
        let gathering: usize = columns.map(Columns::memory).sum();
        let rows: usize = files().map(OpenFile::memory).sum();
        Memory { rows: gathering + rows, kept: files().map(OpenFile::kept).sum() }
    }

    /// Has the rows of every file in the staging directory, as row groups that end here.
    pub(crate) fn spill(&mut self, staging: &mut Staging) -> io::Result<()> {
        for Gathering { file, columns } in self.open.values_mut() {
            file.take(columns.finish(), &self.table, staging)?;
            file.end_row_group(&self.table, staging)?;
            *columns = Columns::new(Arc::clone(&self.shape));
        }
        if let Some(sorter) = &mut self.sorter {
            sorter.encode(&self.table, staging)?;
            for file in &mut sorter.files {
                file.end_row_group(&self.table, staging)?;
            }
            sorter.columns = Columns::new(Arc::clone(&self.shape));
        }
        Ok(())
    }

    /// Finishes the files and makes them durable where they are, each with these words in its footer and how many there are. Where
    /// nothing is a row there is a file of no rows, in the directory of `otherwise`: it says that the range is there.
    pub(crate) fn finish(
        self,
        footer: &[(&str, String)],
        otherwise: Millis,
        staging: &mut Staging,
    ) -> io::Result<Vec<Staged>> {
        let Self { table, shape, layout, open, sorter, .. } = self;
        let mut written = Vec::new();
        let nowhere = match sorter {
            Some(mut sorter) => {
                sorter.encode(&table, staging)?;
                written = sorter.files;
                // In one order, whichever came first.
                written.sort_by(|one, other| one.directory.cmp(&other.directory));
                let kept = sorter.columns.finish().project(sorter.placement.kept());
                (sorter.placement.nowhere(otherwise), kept.expect(PROJECTED))
            }
            None => {
                // One that was opened for a record which turned out to be no row holds nothing.
                for mut open in open.into_values().filter(|open| open.file.rows > 0) {
                    open.encode(&table, staging)?;
                    written.push(open.file);
                }
                (layout.directory(otherwise), Columns::new(shape).finish())
            }
        };
        if written.is_empty() {
            let (directory, none) = nowhere;
            let begun = Begun::new(&none, &table, staging)?;
            written.push(OpenFile { file: Some(begun), ..OpenFile::new(directory) });
        }
        let files = written.len();
        let mut staged = Vec::with_capacity(files);
        for mut file in written {
            file.encode(&table, staging)?;
            let Begun { at, mut writer, .. } = file.file.expect("its rows are encoded");
            let words = footer.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
            for (key, value) in words.chain([(FILES.to_owned(), files.to_string())]) {
                writer.append_key_value_metadata(KeyValue::new(key, value));
            }
            let mut written = writer.into_inner().map_err(io_error)?;
            written.sync()?;
            staged.push(Staged { at, directory: file.directory });
        }
        Ok(staged)
    }
}

/// Whether there are enough rows to be encoded at once.
fn is_batch(columns: &Columns) -> bool {
    columns.rows() >= BATCH_ROWS_MAX || columns.bytes() >= BATCH_BYTES_MAX
}

impl Gathering {
    fn encode(&mut self, table: &Table, staging: &mut Staging) -> io::Result<()> {
        self.file.take(self.columns.finish(), table, staging)
    }
}

const PROJECTED: &str = "columns that are kept are there";

impl Sorter {
    fn append(
        &mut self,
        record: &ConsumedRecord,
        files_max: usize,
        table: &Table,
        staging: &mut Staging,
    ) -> Result<Option<Millis>, NotTaken> {
        let mut time = None;
        let Self { placement, columns, to, files, by_directory, directory } = self;
        let appended = columns.append_if(record, |values| {
            time = placement.place(record, values, directory)?;
            let file = match by_directory.get(&*directory) {
                Some(&file) => file,
                None if files.len() >= files_max => return Err(NotTaken::Full),
                None => {
                    files.push(OpenFile::new(directory.clone()));
                    by_directory.insert(directory.clone(), files.len() - 1);
                    files.len() - 1
                }
            };
            to.push(file);
            Ok(())
        });
        // What is no row of this range may have left some of its fields, which end with the batch.
        if appended.is_err() || is_batch(&self.columns) {
            self.encode(table, staging).map_err(NotTaken::Failed)?;
        }
        appended.map(|()| time)
    }

    /// Puts the rows into their files, in the order in which they came.
    fn encode(&mut self, table: &Table, staging: &mut Staging) -> io::Result<()> {
        let batch = self.columns.finish().project(self.placement.kept()).expect(PROJECTED);
        let to = std::mem::take(&mut self.to);
        assert_eq!(to.len(), batch.num_rows(), "each row has a file");
        let mut rows: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (row, file) in (0..).zip(to) {
            rows.entry(file).or_default().push(row);
        }
        for (file, rows) in rows {
            let file = &mut self.files[file];
            file.rows += rows.len() as u64;
            match rows.len() == batch.num_rows() {
                true => file.take(batch.clone(), table, staging)?,
                false => {
                    let rows = take_record_batch(&batch, &UInt32Array::from(rows));
                    file.take(rows.map_err(io::Error::other)?, table, staging)?;
                }
            }
        }
        Ok(())
    }
}

impl OpenFile {
    fn new(directory: String) -> Self {
        Self { directory, rows: 0, gathered: Vec::new(), gathered_bytes: 0, file: None }
    }

    /// What is in memory until the row group has ended.
    fn memory(&self) -> usize {
        let begun = self.file.as_ref().filter(|begun| begun.writer.in_progress_rows() > 0);
        let encoders = |begun: &Begun| begun.writer.memory_size() + begun.leaves * ENCODER_BYTES;
        self.gathered_bytes + begun.map_or(0, encoders)
    }

    /// What is in memory until the file is finished.
    fn kept(&self) -> usize {
        let kept = |begun: &Begun| begun.writer.flushed_row_groups().len() * begun.leaves * CHUNK_BYTES;
        self.file.as_ref().map_or(0, kept)
    }

    /// Takes rows, which are encoded once there is enough for a row group.
    fn take(&mut self, batch: RecordBatch, table: &Table, staging: &mut Staging) -> io::Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.gathered_bytes += batch.get_array_memory_size();
        let is_begun = self.file.as_ref().is_some_and(|begun| begun.writer.in_progress_rows() > 0);
        let is_enough = is_begun || self.gathered_bytes >= leaves(batch.schema().fields()) * ENCODER_BYTES;
        self.gathered.push(batch);
        if is_enough { self.encode(table, staging) } else { Ok(()) }
    }

    fn encode(&mut self, table: &Table, staging: &mut Staging) -> io::Result<()> {
        self.gathered_bytes = 0;
        for batch in self.gathered.drain(..) {
            let begun = match &mut self.file {
                Some(begun) => begun,
                empty => empty.insert(Begun::new(&batch, table, staging)?),
            };
            begun.writer.write(&batch).map_err(io_error)?;
            if begun.writer.in_progress_size() >= ROW_GROUP_BYTES_MAX {
                begun.writer.flush().map_err(io_error)?;
            }
        }
        Ok(())
    }

    fn end_row_group(&mut self, table: &Table, staging: &mut Staging) -> io::Result<()> {
        self.encode(table, staging)?;
        self.file.as_mut().map_or(Ok(()), |begun| begun.writer.flush().map_err(io_error))
    }
}

/// How many columns a file has, where those of nested types count and they themselves do not.
fn leaves(fields: &Fields) -> usize {
    let of = |field: &Arc<Field>| match field.data_type() {
        DataType::Struct(fields) => leaves(fields),
        DataType::List(item) | DataType::Map(item, _) => leaves(&Fields::from(vec![Arc::clone(item)])),
        _ => 1,
    };
    fields.iter().map(of).sum()
}

impl Begun {
    fn new(first: &RecordBatch, table: &Table, staging: &mut Staging) -> io::Result<Self> {
        let (at, file) = match table.files.bucket() {
            Some(bucket) => {
                let file = Arc::new(bucket.spool()?);
                let writing: Box<dyn NewFile> = Box::new(Spooled(Arc::clone(&file)));
                (At::Spooled(file), writing)
            }
            None => {
                // No name that readers of Parquet look for.
                let path = staging.dir.join(format!("{}.part", staging.files));
                staging.files += 1;
                let file = table.files.create(&path)?;
                (At::Beside(path), file)
            }
        };
        let writer = ArrowWriter::try_new(file, first.schema(), Some(properties(first))).map_err(io_error)?;
        Ok(Self { at, writer, leaves: leaves(first.schema().fields()) })
    }
}

/// A local file that is put once it is whole: what of it is durable before does not matter.
struct Spooled(Arc<File>);

impl io::Write for Spooled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

impl NewFile for Spooled {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In how many files a range is, in the footer of each.
pub(crate) const FILES: &str = "ottla.range.files";

/// What the disk said, where it did.
pub(crate) fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        error => io::Error::other(error),
    }
}
