//! Whole directories of a table that are old enough, out of it.
//!
//! What goes is written down first (`expired`), and then the directory is exchanged for an empty one: readers see all of an hour or nothing of it. A
//! record that comes into the directory meanwhile keeps all of it, for the next time. Nothing is removed that is not understood.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::{Environment, Execution};

use crate::compact::{UpkeepOutcome, is_over};
use crate::exchange::{self, Exchange};
use crate::expired::{self, Expired, There};
use crate::files::Files;
use crate::footer::Told;
use crate::key::{FileName, Key, LineName};
use crate::positions::open_store;
use crate::run::RunError;
use crate::settings::{Line, Settings, TableSettings};
use crate::staging::{if_there, unless_missing};
use crate::store::Stored;
use crate::success;
use crate::table::{Listing, Table, TableFile};
use crate::verify::Finding;

/// What is to be removed.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// How long ago a directory's time must have ended.
    pub older_than_ms: i64,
    /// Whether it is done, or only told.
    pub execution: Execution,
}

/// A directory that is old enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldDirectory {
    /// The line whose table it is.
    pub line: Line,
    /// Within the table.
    pub directory: PathBuf,
    /// How many files of the line's it has.
    pub files: usize,
    /// How many rows they have.
    pub rows: u64,
    /// What became of it.
    pub outcome: UpkeepOutcome,
}

/// What was removed, and what was left alone because it is not as it must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expiries {
    /// The directories.
    pub directories: Vec<OldDirectory>,
    /// What was left alone.
    pub findings: Vec<Finding>,
}

/// Removes the directories that are old enough, of each table that is declared. What an earlier one has left goes first.
pub async fn expire(
    settings: &Settings,
    environment: &dyn Environment,
    files: Arc<dyn Files>,
    expiry: Expiry,
) -> Result<Expiries, RunError> {
    let tables = settings.tables_there()?;
    // Before anything is done.
    if let Some((_, declared)) = tables.iter().find(|(_, table)| table.s3.is_some()) {
        let why = "an hour's objects cannot be removed in one step, and an instance that slept since it was to put one of them would put it again";
        return Err(RunError::InObjectStore { table: declared.table.clone(), done: "expired", why });
    }
    let mut all = Expiries::default();
    for (line, table) in tables {
        expire_table(settings, line, table, environment, Arc::clone(&files), expiry, &mut all).await?;
    }
    Ok(all)
}

async fn expire_table(
    settings: &Settings,
    of: Line,
    declared: &TableSettings,
    environment: &dyn Environment,
    files: Arc<dyn Files>,
    expiry: Expiry,
    all: &mut Expiries,
) -> Result<(), RunError> {
    let line = settings.line_name(of);
    let store = open_store(declared, Arc::clone(&files)).await?;
    let stored = store.list(&line).await?;
    let table = Table::new(files, &declared.table);
    let failed =
        |doing, path: &Path, source| RunError::Files { doing, path: table.root().join(path), source };
    if expiry.execution == Execution::Apply {
        // Also makes durable what was removed: what is written down of it may be folded.
        exchange::clean(&table).map_err(|source| failed("clean", Path::new(""), source))?;
    }
    let listing = table.list().map_err(|source| failed("list", Path::new(""), source))?;
    let mut directories: BTreeMap<&Path, Vec<&TableFile>> = BTreeMap::new();
    for file in &listing.files {
        directories.entry(&file.directory).or_default().push(file);
    }
    let now = environment.now();
    let already = expired::read(&table, &line);
    let already = already.map_err(|source| failed("read what is expired of", Path::new(""), source))?;
    let there = stored.iter().map(|(key, _)| (key, still_there(&table, &listing, key, &already))).collect();
    let work = Work { of, table: &table, line: &line, stored: &stored, already, there };
    for (directory, files) in directories {
        if is_over(directory, expiry.older_than_ms, now) {
            let token = environment.random();
            let expired = work.expire(directory, &files, expiry.execution, token, all);
            expired.map_err(|source| failed("remove", directory, source))?;
        }
    }
    Ok(())
}

/// What is there of what was written down as removed.
fn still_there(table: &Table, listing: &Listing, key: &Key, already: &Expired) -> There {
    let directories = already.directories(key);
    let files = listing
        .files
        .iter()
        .filter(|file| file.name.partition == key.partition && directories.contains(&*file.directory));
    let told: Vec<_> = files.map(|file| Told::read(table, key, file)).collect();
    expired::there(&told)
}

struct Work<'a> {
    of: Line,
    table: &'a Table,
    line: &'a LineName,
    stored: &'a [(Key, Stored)],
    /// What was gone before, and what of it is there all the same.
    already: Expired,
    there: Vec<(&'a Key, There)>,
}

impl Work<'_> {
    fn expire(
        &self,
        directory: &Path,
        files: &[&TableFile],
        execution: Execution,
        token: u64,
        all: &mut Expiries,
    ) -> io::Result<()> {
        let mut known = Vec::new();
        let findings = all.findings.len();
        all.findings.extend(exchange::too_long(directory));
        for file in files {
            match self.stored.iter().find(|(key, _)| key.partition == file.name.partition) {
                None => {
                    let problem =
                        "it is of a partition that the line knows nothing of: its directory stays".to_owned();
                    all.findings.push(Finding { place: file.path().display().to_string(), problem });
                }
                // It is on its way.
                Some((_, stored)) if file.name.range.end > stored.committed.next => return Ok(()),
                Some((key, _)) => {
                    let mut told = Told::read(self.table, key, file);
                    all.findings.append(&mut told.problems);
                    known.push((key, told));
                }
            }
        }
        if all.findings.len() > findings {
            return Ok(());
        }
        let rows = known.iter().flat_map(|(_, told)| &told.parts).map(|part| part.rows).sum();
        let outcome = match execution {
            Execution::Validate => UpkeepOutcome::Planned,
            Execution::Apply => match self.remove(directory, &known, token, &mut all.findings) {
                Ok(Some(outcome)) => outcome,
                Ok(None) => return Ok(()),
                // Whoever placed a file has taken the exchange back.
                Err(error) if error.kind() == ErrorKind::NotFound => UpkeepOutcome::Disturbed,
                Err(error) => return Err(error),
            },
        };
        all.directories.push(OldDirectory {
            line: self.of,
            directory: directory.to_owned(),
            files: files.len(),
            rows,
            outcome,
        });
        Ok(())
    }

    fn remove(
        &self,
        directory: &Path,
        known: &[(&Key, Told<'_>)],
        token: u64,
        findings: &mut Vec<Finding>,
    ) -> io::Result<Option<UpkeepOutcome>> {
        let exchange = Exchange::begin(self.table, directory, token)?;
        if let Some(foreign) = exchange.foreign() {
            findings.push(foreign);
            exchange.give_up()?;
            return Ok(None);
        }
        let is_known = |name: &FileName| known.iter().any(|(_, told)| told.file.name == *name);
        let names = exchange.found.iter().filter_map(|entry| FileName::parse(&entry.name));
        if !names.clone().all(|name| is_known(&name)) || names.count() != known.len() {
            exchange.give_up()?;
            return Ok(Some(UpkeepOutcome::Disturbed));
        }
        expired::change(self.table, self.line, token, |expired| {
            for (key, there) in &self.there {
                expired.fold(key, &self.already, there);
            }
            for (key, told) in known {
                told.parts.iter().for_each(|part| expired.add(key, directory, *part));
            }
        })?;
        exchange.carry_out()?;
        self.remove_empty(directory)?;
        Ok(Some(UpkeepOutcome::Done))
    }

    /// Also the day's, once it has no hours, and an hour's that has nothing below it but its mark. What comes into one meanwhile keeps it.
    fn remove_empty(&self, directory: &Path) -> io::Result<()> {
        let files = &*self.table.files;
        for above in directory.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
            let path = self.table.root().join(above);
            let mut removed = files.remove(&path);
            let is_full = |error: &io::Error| error.kind() == ErrorKind::DirectoryNotEmpty;
            if above != directory && removed.as_ref().is_err_and(is_full) {
                let mark = path.join(success::NAME);
                let entries = if_there(files.list(&path))?.unwrap_or_default();
                if entries.iter().all(|entry| entry.name == success::NAME)
                    && if_there(files.read(&mark))?.is_none_or(|bytes: Vec<u8>| success::is_mark(&bytes))
                {
                    unless_missing(files.remove(&mark))?;
                    removed = files.remove(&path);
                }
            }
            match removed {
                Err(error) if is_full(&error) => break,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }
}
