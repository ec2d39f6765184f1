//! Which records of a range are dead letters, kept beside the table from before the range is frozen until it is committed.
//!
//! `_letters/LINE/TOPIC-PARTITION/EPOCH-START-END.json` is durable before the freeze, under the epoch of whoever freezes first. So
//! whoever repeats the range sends the same letters and writes the same rows, also by a declaration that has changed meanwhile. A range
//! without letters has no file. A holder removes what earlier ones left, and never what a later one wrote.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wire::Offset;

use crate::columns::Unconvertible;
use crate::files::make_dirs;
use crate::key::{Key, Range};
use crate::store::Frozen;
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

/// What was kept of a range that was found frozen; nothing, if it has no letters.
pub(crate) fn find(table: &Table, key: &Key, frozen: &Frozen) -> io::Result<Verdicts> {
    let path = table.root.join(place(key)).join(name(frozen));
    match table.files.read(&path) {
        Ok(bytes) => decode(&bytes).map_err(|problem| {
            let problem = format!("{} cannot be read: {problem}; it is left as it is", path.display());
            io::Error::new(ErrorKind::InvalidData, problem)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Verdicts::new()),
        Err(error) => Err(error),
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

/// Removes what is left of ranges other than this one of holders before `epoch`.
pub(crate) fn clear(table: &Table, key: &Key, epoch: i64, frozen: Option<&Frozen>) -> io::Result<()> {
    let directory = table.root.join(place(key));
    let entries = match table.files.list(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let kept = frozen.map(name);
    for entry in entries {
        let is_earlier = entry
            .name
            .split_once('-')
            .and_then(|(number, _)| number.parse::<i64>().ok())
            .is_some_and(|number| number < epoch);
        if is_earlier && Some(&entry.name) != kept.as_ref() {
            remove(table, &directory.join(&entry.name))?;
        }
    }
    Ok(())
}

/// Removes that of a range which was committed.
pub(crate) fn forget(table: &Table, key: &Key, frozen: &Frozen) -> io::Result<()> {
    remove(table, &table.root.join(place(key)).join(name(frozen)))
}

fn remove(table: &Table, path: &Path) -> io::Result<()> {
    match table.files.remove(path) {
        // By a successor.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
