//! What stands in a file's footer: of which partition it is, and how many rows of which ranges it has.
//!
//! A file as it is written has rows of one range, and its footer says how many files and rows that range has. A file that was merged
//! from others lists what each of them said. So however files are merged, the parts of a range are known, and whether they
//! are all there. Nothing is believed about rows that the file itself does not have.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataReader};
use serde_json::{Value, json};
use wire::Offset;

use crate::files::Files;
use crate::key::{FileName, Key, Range};
use crate::layout::Layout;
use crate::partition::words;
use crate::table::{Table, TableFile};
use crate::verify::Finding;
use crate::writer::FILES;

/// What a merged file was merged from.
pub(crate) const MERGED: &str = "ottla.merged";
/// The form of a merged file's footer.
pub(crate) const MERGED_FORM: &str = "2";

/// The rows of one range in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) range: Range,
    /// Of whoever froze the range.
    pub(crate) epoch: i64,
    /// How many files the range was written to, one for each directory.
    pub(crate) files: Option<u64>,
    /// How many rows it has in all of them.
    pub(crate) range_rows: Option<u64>,
    /// Those that are here.
    pub(crate) rows: u64,
    /// How many of the range's records are dead letters.
    pub(crate) letters: u64,
}

impl Part {
    pub(crate) fn encode(&self) -> Value {
        let Self { range: Range { start, end }, epoch, files, range_rows, rows, letters } = self;
        json!({ "start": start.0, "end": end.0, "epoch": epoch, "files": files, "range_rows": range_rows, "rows": rows, "letters": letters })
    }

    pub(crate) fn decode(value: &Value) -> Option<Self> {
        let (start, end) = (Offset(value["start"].as_i64()?), Offset(value["end"].as_i64()?));
        if start.0 < 0 || start >= end {
            return None;
        }
        Some(Self {
            range: Range::new(start, end),
            epoch: value["epoch"].as_i64()?,
            files: value["files"].as_u64(),
            range_rows: value["range_rows"].as_u64(),
            rows: value["rows"].as_u64()?,
            letters: value["letters"].as_u64()?,
        })
    }
}

/// How a number is told that may not be there.
pub(crate) fn told(number: Option<u64>) -> String {
    number.map_or_else(|| "nothing".to_owned(), |number| number.to_string())
}

/// A footer.
pub(crate) struct Footer {
    pub(crate) words: BTreeMap<String, String>,
    pub(crate) rows: u64,
}

impl Footer {
    pub(crate) fn new(footer: &FileMetaData) -> Self {
        let words = footer.key_value_metadata().into_iter().flatten();
        let words = words.filter_map(|word| Some((word.key.clone(), word.value.clone()?))).collect();
        Self { words, rows: u64::try_from(footer.num_rows()).unwrap_or(0) }
    }

    pub(crate) fn said(&self, word: &str) -> &str {
        self.words.get(word).map_or("nothing", String::as_str)
    }

    /// The parts of a file of this name.
    fn parts(&self, name: &FileName) -> Result<Vec<Part>, String> {
        let Some(merged) = self.words.get(MERGED) else {
            let number = |word| self.said(word).parse().ok();
            let epoch = self.said(words::EPOCH).parse().unwrap_or(0);
            let (files, range_rows) = (number(FILES), number(words::ROWS));
            let letters = number(words::LETTERS).unwrap_or(0);
            return Ok(vec![Part { range: name.range, epoch, files, range_rows, rows: self.rows, letters }]);
        };
        let form = self.said(words::FORM);
        if form != MERGED_FORM {
            return Err(format!(
                "its footer has form {form}, and this version of ottla reads form {MERGED_FORM}"
            ));
        }
        let parts: Value = serde_json::from_str(merged)
            .map_err(|error| format!("its footer does not say what it was merged from: {error}"))?;
        let parts: Option<Vec<Part>> =
            parts.as_array().and_then(|parts| parts.iter().map(Part::decode).collect());
        let parts = parts.ok_or("its footer does not say what it was merged from")?;
        let is_in_order = parts.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start);
        let span = parts.first().zip(parts.last()).map(|(first, last)| (first.range.start, last.range.end));
        if !is_in_order || span != Some((name.range.start, name.range.end)) {
            return Err("what its footer says it was merged from is not what its name says".to_owned());
        }
        let rows = parts.iter().try_fold(0u64, |rows, part| rows.checked_add(part.rows));
        if rows != Some(self.rows) {
            return Err(format!(
                "it has {} rows, and {} were merged, says its footer",
                self.rows,
                told(rows)
            ));
        }
        Ok(parts)
    }
}

/// A file of a partition, and what its footer says.
pub(crate) struct Told<'a> {
    pub(crate) file: &'a TableFile,
    /// At least one: of a file whose footer cannot be read, what its name says.
    pub(crate) parts: Vec<Part>,
    pub(crate) is_merged: bool,
    pub(crate) is_readable: bool,
    /// How its range is laid out, as far as it is known.
    layout: Option<Layout>,
    /// What does not belong here.
    pub(crate) problems: Vec<Finding>,
}

impl<'a> Told<'a> {
    /// Reads no more of a file than its end.
    pub(crate) fn read(table: &Table, key: &Key, file: &'a TableFile) -> Self {
        let path = table.root.join(&file.directory).join(file.name.to_string());
        match metadata(&*table.files, &path) {
            Ok(metadata) => Self::of(key, file, &Footer::new(metadata.file_metadata())),
            Err(problem) => {
                let mut told = Self {
                    file,
                    parts: Vec::new(),
                    is_merged: false,
                    is_readable: false,
                    layout: by_depth(file),
                    problems: Vec::new(),
                };
                told.find(problem);
                told.parts.push(told.unknown());
                told
            }
        }
    }

    pub(crate) fn of(key: &Key, file: &'a TableFile, footer: &Footer) -> Self {
        let is_merged = footer.words.contains_key(MERGED);
        let (parts, layout) = (Vec::new(), by_depth(file));
        let mut told = Self { file, parts, is_merged, is_readable: true, layout, problems: Vec::new() };
        if let Some(word) = footer.words.get(words::LAYOUT) {
            told.layout = match word.parse::<Layout>() {
                Ok(layout) => Some(layout),
                Err(problem) => {
                    told.find(format!("its footer says {}: {problem}", words::LAYOUT));
                    None
                }
            };
        }
        for (word, expected) in words::of(key, file.name.range) {
            let found = footer.said(word);
            if found != expected {
                told.find(format!("its footer says {word} is {found}, and it is {expected}"));
            }
        }
        match footer.parts(&file.name) {
            Ok(parts) => told.parts = parts,
            Err(problem) => {
                told.find(problem);
                told.parts.push(told.unknown());
            }
        }
        told
    }

    /// How its range is laid out, if its directory is called as that layout has it.
    pub(crate) fn layout(&self) -> Option<Layout> {
        self.layout.filter(|&layout| self.file.is_laid_out_as(layout))
    }

    /// Whether a repeat of its range by this layout puts a file in its place, or none.
    pub(crate) fn is_laid_out_as(&self, layout: Layout) -> bool {
        self.layout() == Some(layout)
    }

    fn find(&mut self, problem: String) {
        self.problems.push(Finding { place: self.file.path().display().to_string(), problem });
    }

    fn unknown(&self) -> Part {
        Part { range: self.file.name.range, epoch: 0, files: None, range_rows: None, rows: 0, letters: 0 }
    }
}

/// The layout of a file whose footer says nothing of it.
fn by_depth(file: &TableFile) -> Option<Layout> {
    Layout::of_depth(file.directory.components().count())
}

/// In what two files of one range differ that are to be the same but for their columns, if in something.
pub(crate) fn difference(found: &ParquetMetaData, expected: &ParquetMetaData) -> Option<String> {
    let (found, expected) = (Footer::new(found.file_metadata()), Footer::new(expected.file_metadata()));
    // What says the columns is not ours.
    for word in expected.words.keys().filter(|word| word.starts_with("ottla.")) {
        let (found, expected) = (found.said(word), expected.said(word));
        if found != expected {
            return Some(format!("its footer says {word} is {found}, and it is {expected}"));
        }
    }
    if found.words.contains_key(MERGED) {
        return Some("it was merged from others".to_owned());
    }
    (found.rows != expected.rows).then(|| format!("it has {} rows, and not {}", found.rows, expected.rows))
}

/// What stands at the end of a file that is in memory.
pub(crate) fn metadata_of(content: &Bytes) -> Result<ParquetMetaData, String> {
    let mut reader = ParquetMetaDataReader::new();
    let parsed = reader.try_parse(content).and_then(|()| reader.finish());
    parsed.map_err(|error| format!("it is no Parquet file: {error}"))
}

/// What most footers fit in.
const FOOTER_BYTES: usize = 64 << 10;

/// What stands at the end of a file, of which no more is read than that.
pub(crate) fn metadata(files: &dyn Files, path: &Path) -> Result<ParquetMetaData, String> {
    let read = read_metadata(files, path);
    read.unwrap_or_else(|error| Err(format!("it cannot be read: {error}")))
}

/// The same, where it makes a difference whether it could be read.
pub(crate) fn read_metadata(files: &dyn Files, path: &Path) -> io::Result<Result<ParquetMetaData, String>> {
    let foreign = |error| format!("it is no Parquet file: {error}");
    let mut wanted = FOOTER_BYTES;
    loop {
        let (len, end) = files.read_end(path, wanted)?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&Bytes::from(end), len) {
            Ok(()) => return Ok(reader.finish().map_err(foreign)),
            Err(ParquetError::NeedMoreData(more)) if more > wanted && more as u64 <= len => wanted = more,
            Err(error) => return Ok(Err(foreign(error))),
        }
    }
}
