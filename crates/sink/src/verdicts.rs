//! Which records of a range are dead letters, kept beside the table from before the range is frozen until the next one is committed.
//!
//! `_letters/LINE/TOPIC-PARTITION/EPOCH-START-END.json` is durable before the freeze, under the epoch of whoever freezes first. So
//! whoever repeats the range sends the same letters and writes the same rows, also by a declaration that has changed meanwhile. A range
//! without letters has no file; of any other, that it is gone is an error. The file of the last range that was committed stays, should the
//! store forget the commit. A holder removes what earlier ones left, and never what a later one wrote.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wire::Offset;

use crate::columns::Unconvertible;
use crate::files::make_dirs;
use crate::key::{Key, Range};
use crate::store::{Frozen, Stored};
use crate::table::Table;

const DIRECTORY: &str = "_letters";
const FORM: i64 = 1;

/// The records that are no rows, and why.
pub(crate) type Verdicts = BTreeMap<Offset, Unconvertible>;

fn place(key: &Key) -> PathBuf {
    Path::new(DIRECTORY).join(key.line.as_str()).join(key.partition.to_string())
}

fn name(Frozen { range: Range { start, end }, epoch, .. }: &Frozen) -> String {
    format!("{epoch}-{start}-{end}.json")
}

/// Keeps them; durable when this returns.
pub(crate) fn keep(table: &Table, key: &Key, frozen: &Frozen, verdicts: &Verdicts) -> io::Result<()> {
    let files = &*table.files;
    make_dirs(files, &table.root, &place(key))?;
    let directory = table.root.join(place(key));
    let letters = verdicts.iter().map(|(offset, Unconvertible { field, problem })| {
        json!({ "offset": offset.0, "field": field, "problem": problem })
    });
    let text = json!({ "form": FORM, "letters": letters.collect::<Vec<_>>() }).to_string();
    let mut file = files.create(&directory.join(name(frozen)))?;
    file.write_all(text.as_bytes())?;
    file.sync()?;
    files.sync_dir(&directory)
}

/// Where those of a range are.
pub(crate) fn path(table: &Table, key: &Key, frozen: &Frozen) -> PathBuf {
    table.root.join(place(key)).join(name(frozen))
}

/// What was kept of a range that was found frozen.
pub(crate) fn find(table: &Table, key: &Key, frozen: &Frozen) -> io::Result<Verdicts> {
    if frozen.letters == 0 {
        return Ok(Verdicts::new());
    }
    let path = path(table, key, frozen);
    let invalid = |problem| {
        let problem = format!("{} cannot be read: {problem}; it is left as it is", path.display());
        io::Error::new(ErrorKind::InvalidData, problem)
    };
    let bytes = table.files.read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let problem =
                format!("{} is gone, which says what {} dead letters are", path.display(), frozen.letters);
            // Not as the staging directory is missing to whoever was taken over.
            io::Error::other(problem)
        }
        _ => error,
    })?;
    let verdicts = decode(&bytes).map_err(invalid)?;
    match verdicts.len() as u64 == frozen.letters {
        true => Ok(verdicts),
        false => {
            Err(invalid(format!("it lists {} letters, and the range has {}", verdicts.len(), frozen.letters)))
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Verdicts, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if value["form"].as_i64() != Some(FORM) {
        return Err(format!("it has form {}, and this version of ottla reads form {FORM}", value["form"]));
    }
    let letters = value["letters"].as_array().ok_or("it lists no letters")?;
    let letter = |letter: &Value| {
        let offset = letter["offset"].as_i64().ok_or("a letter has no offset")?;
        let problem = letter["problem"].as_str().ok_or("a letter has no problem")?.to_owned();
        let field = letter["field"].as_str().map(str::to_owned);
        Ok((Offset(offset), Unconvertible { field, problem }))
    };
    letters.iter().map(letter).collect()
}

/// Removes what holders before `epoch` have left of ranges that are behind the one that was committed last. Tells where that one's
/// is. What is of a range further on may be needed yet: a store forgets, and who slept goes on.
pub(crate) fn clear(table: &Table, key: &Key, epoch: i64, stored: &Stored) -> io::Result<Vec<PathBuf>> {
    let directory = table.root.join(place(key));
    let entries = match table.files.list(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut last = Vec::new();
    for entry in entries {
        let Some((_, end)) = said(&entry.name).filter(|(number, _)| *number < epoch) else { continue };
        let path = directory.join(&entry.name);
        match end.cmp(&stored.committed.next) {
            Ordering::Less => forget(table, &path)?,
            Ordering::Equal => last.push(path),
            Ordering::Greater => {}
        }
    }
    Ok(last)
}

/// The epoch and the range's end in a file's name.
fn said(name: &str) -> Option<(i64, Offset)> {
    let mut parts = name.strip_suffix(".json")?.split('-');
    let (epoch, _start, end) = (parts.next()?, parts.next()?, parts.next()?);
    Some((epoch.parse().ok()?, Offset(end.parse().ok()?)))
}

/// Removes those that nobody can need any more.
pub(crate) fn forget(table: &Table, path: &Path) -> io::Result<()> {
    match table.files.remove(path) {
        // By a successor.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
