//! The files of the range in hand, one for each directory that its rows belong to, or one of no rows: each range has a file.
//!
//! Rows go to a staged file as they come, so that memory holds no more than what Parquet needs to finish a row group. What a file
//! holds depends on its range and the declaration alone: the same records in the same order give the same rows. A file that is not
//! finished is no file; nothing here puts one where readers see it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use client::ConsumedRecord;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use wire::Millis;

use crate::columns::{Columns, Shape, Unconvertible};
use crate::encodings::properties;
use crate::files::NewFile;
use crate::key::Layout;
use crate::staging::Staging;
use crate::table::{At, Staged, Table};

/// Rows that are encoded at once.
const BATCH_ROWS_MAX: usize = 8192;
/// Or as many as take so much: they stay in the processor's cache until they are.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// What a row group takes before it is written out, encoded.
pub(crate) const ROW_GROUP_BYTES_MAX: usize = 32 << 20;

/// Files that are being written.
pub(crate) struct RangeWriter {
    table: Table,
    shape: Arc<Shape>,
    layout: Layout,
    files_max: usize,
    /// By bucket of time.
    open: BTreeMap<i64, OpenFile>,
}

struct OpenFile {
    directory: String,
    columns: Columns,
    rows: u64,
    /// Once there is something to write.
    file: Option<Begun>,
}

struct Begun {
    at: At,
    writer: ArrowWriter<Box<dyn NewFile>>,
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
    pub(crate) fn new(table: Table, shape: Arc<Shape>, layout: Layout, files_max: usize) -> Self {
        Self { table, shape, layout, files_max, open: BTreeMap::new() }
    }

    /// Takes a record; files are begun in the staging directory as they are needed.
    pub(crate) fn append(&mut self, record: &ConsumedRecord, staging: &mut Staging) -> Result<(), NotTaken> {
        let bucket = self.layout.bucket(record.timestamp);
        if !self.open.contains_key(&bucket) {
            if self.open.len() >= self.files_max {
                return Err(NotTaken::Full);
            }
            let (directory, columns) =
                (self.layout.directory(record.timestamp), Columns::new(Arc::clone(&self.shape)));
            self.open.insert(bucket, OpenFile { directory, columns, rows: 0, file: None });
        }
        let file = self.open.get_mut(&bucket).expect("it is open");
        if let Err(unconvertible) = file.columns.append(record) {
            // It may have left some of its fields, which end with the batch.
            file.encode(&self.table, staging).map_err(NotTaken::Failed)?;
            return Err(NotTaken::Unconvertible(unconvertible));
        }
        file.rows += 1;
        if file.columns.rows() >= BATCH_ROWS_MAX || file.columns.bytes() >= BATCH_BYTES_MAX {
            file.encode(&self.table, staging).map_err(NotTaken::Failed)?;
        }
        Ok(())
    }

    /// What is in memory, about.
    pub(crate) fn memory(&self) -> usize {
        let encoded = |file: &OpenFile| file.file.as_ref().map_or(0, |begun| begun.writer.memory_size());
        self.open.values().map(|file| file.columns.bytes() + encoded(file)).sum()
    }

    /// Finishes the files and makes them durable where they are, each with these words in its footer and how many there are. Where
    /// nothing is a row there is a file of no rows, in the directory of `otherwise`: it says that the range is there.
    pub(crate) fn finish(
        self,
        footer: &[(&str, String)],
        otherwise: Millis,
        staging: &mut Staging,
    ) -> io::Result<Vec<Staged>> {
        // One that was opened for a record which turned out to be no row holds nothing.
        let mut open: Vec<_> = self.open.into_values().filter(|file| file.rows > 0).collect();
        if open.is_empty() {
            let (directory, mut columns) = (self.layout.directory(otherwise), Columns::new(self.shape));
            let file = Some(Begun::new(&columns.finish(), &self.table, staging)?);
            open.push(OpenFile { directory, columns, rows: 0, file });
        }
        let files = open.len();
        let mut staged = Vec::with_capacity(files);
        for mut file in open {
            file.encode(&self.table, staging)?;
            let Begun { at, mut writer } = file.file.expect("its rows are encoded");
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

impl OpenFile {
    fn encode(&mut self, table: &Table, staging: &mut Staging) -> io::Result<()> {
        let batch = self.columns.finish();
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let begun = match &mut self.file {
            Some(begun) => begun,
            empty => empty.insert(Begun::new(&batch, table, staging)?),
        };
        begun.writer.write(&batch).map_err(io_error)?;
        if begun.writer.in_progress_size() >= ROW_GROUP_BYTES_MAX {
            begun.writer.flush().map_err(io_error)?;
        }
        Ok(())
    }
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
        Ok(Self { at, writer })
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
