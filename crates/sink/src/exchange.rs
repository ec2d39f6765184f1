//! A directory of a table in place of another, in one step, which whoever places files there can take back.
//!
//! `_staging/.exchange/DIRECTORY,TOKEN` is made first, filled with what the directory is to hold instead, and exchanged with it: readers see the
//! one or the other. What lies there is never needed: before the exchange it was never in the table, and afterwards it is what was
//! taken out of it. So what a crash leaves is removed by the next one, and there is nothing to finish or to undo.
//!
//! A line does not wait for it. Who has placed a file takes away all exchanges of its directory that were begun, and sees whether the
//! file is still there ([`settle`], [`Table::place`]). One that begins later lists the file.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::files::{Entry, make_dirs};
use crate::key::FileName;
use crate::layout::NAME_BYTES_MAX;
use crate::staging::{self, GONE, empty, unless_missing};
use crate::table::Table;
use crate::verify::Finding;

/// The directory within that of what is not finished: no line is called so. One deeper than the table's own files, so that what
/// looks for `*/*/*.parquet` finds nothing of it.
const DIRECTORY: &str = ".exchange";

/// An exchange that was begun.
pub(crate) struct Exchange<'a> {
    table: &'a Table,
    /// Within the table.
    directory: PathBuf,
    /// What comes in its place.
    pub(crate) own: PathBuf,
    /// What the directory holds.
    pub(crate) found: Vec<Entry>,
}

fn place(table: &Table) -> PathBuf {
    table.root.join(staging::DIRECTORY).join(DIRECTORY)
}

/// What stands for a `,` within a directory's name: no table's directory has it by itself.
const COMMA: &str = "%2C";

/// What the exchanges of a directory are called.
fn name(directory: &Path, token: u64) -> String {
    let parts: Vec<_> = directory.iter().map(|part| part.to_string_lossy().replace(',', COMMA)).collect();
    format!("{},{token:016x}", parts.join(","))
}

/// What a name says: which directory, and whether somebody has taken the exchange back.
fn parse(name: &str) -> Option<(PathBuf, bool)> {
    let (directory, token) = name.rsplit_once(',')?;
    Some((directory.split(',').map(|part| part.replace(COMMA, ",")).collect(), token.ends_with(GONE)))
}

/// Why a directory cannot be exchanged, if its name does not let it.
pub(crate) fn too_long(directory: &Path) -> Option<Finding> {
    let bytes = name(directory, 0).len() + GONE.len();
    (bytes > NAME_BYTES_MAX).then(|| Finding {
        place: directory.display().to_string(),
        problem: format!(
            "its name is too long for another to be put in its place, {bytes} bytes of {NAME_BYTES_MAX} with what belongs to it: it is left as it is"
        ),
    })
}

fn list(table: &Table) -> io::Result<Vec<String>> {
    match table.files.list(&place(table)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => Ok(entries?.into_iter().map(|entry| entry.name).collect()),
    }
}

/// Takes back all exchanges of a directory that were begun, and of those above it, but for this one. When this returns, none of them
/// is carried out any more, and those that were are durable.
pub(crate) fn settle(table: &Table, directory: &Path, but_for: Option<&Path>) -> io::Result<()> {
    for name in list(table)? {
        let path = place(table).join(&name);
        let Some((other, is_gone)) = parse(&name).filter(|(other, _)| directory.starts_with(other)) else {
            continue;
        };
        if but_for == Some(&*path) {
            continue;
        }
        if !is_gone {
            // The exchange itself finds it under no path from here on.
            unless_missing(table.files.rename(&path, &place(table).join(format!("{name}{GONE}"))))?;
        }
        sync_above(table, &other)?;
    }
    Ok(())
}

fn sync_above(table: &Table, directory: &Path) -> io::Result<()> {
    let above = directory.parent().unwrap_or(Path::new(""));
    unless_missing(table.files.sync_dir(&table.root.join(above)))
}

/// Removes what earlier exchanges have left. One that is at work somewhere is taken back.
pub(crate) fn clean(table: &Table) -> io::Result<()> {
    let names = list(table)?;
    for name in names.iter().filter(|name| parse(name).is_some_and(|(_, is_gone)| !is_gone)) {
        unless_missing(
            table.files.rename(&place(table).join(name), &place(table).join(format!("{name}{GONE}"))),
        )?;
    }
    for name in list(table)? {
        if let Some((directory, true)) = parse(&name) {
            // Before the other of the two is removed.
            sync_above(table, &directory)?;
            empty(table, &place(table).join(name))?;
        }
    }
    Ok(())
}

impl<'a> Exchange<'a> {
    /// Begins one. Whatever is placed in the directory from here on takes it back.
    pub(crate) fn begin(table: &'a Table, directory: &Path, token: u64) -> io::Result<Self> {
        let files = &*table.files;
        make_dirs(files, &table.root, &Path::new(staging::DIRECTORY).join(DIRECTORY))?;
        let own = place(table).join(name(directory, token));
        files.make_dir(&own)?;
        // Of two, the one that lists first is not carried out last.
        settle(table, directory, Some(&own))?;
        let found = files.list(&table.root.join(directory))?;
        Ok(Self { table, directory: directory.to_owned(), own, found })
    }

    /// What lies in the directory that is not the sink's, if something does: nothing is known of whoever writes it.
    pub(crate) fn foreign(&self) -> Option<Finding> {
        let foreign = self.found.iter().find(|entry| {
            entry.is_dir || FileName::parse(&entry.name).is_none() && !entry.name.starts_with(['_', '.'])
        })?;
        let place = self.directory.join(&foreign.name).display().to_string();
        Some(Finding { place, problem: "it is not the sink's: the directory is left as it is".to_owned() })
    }

    /// Takes over a file as it is.
    pub(crate) fn keep(&self, name: &str) -> io::Result<()> {
        self.table.files.link(&self.table.root.join(&self.directory).join(name), &self.own.join(name))
    }

    /// Puts it in place of the directory, and removes what was there.
    pub(crate) fn carry_out(self) -> io::Result<()> {
        let Self { table, directory, own, .. } = self;
        let path = table.root.join(&directory);
        table.files.sync_dir(&own)?;
        // Whoever has placed a file that was listed makes it durable in the one directory or the other.
        table.files.sync_dir(&path)?;
        table.files.exchange(&own, &path)?;
        sync_above(table, &directory)?;
        table.files.sync_dir(&place(table))?;
        empty(table, &own)
    }

    /// Gives it up.
    pub(crate) fn give_up(self) -> io::Result<()> {
        empty(self.table, &self.own)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{name, parse, too_long};

    #[test]
    fn an_exchange_is_of_the_directory_that_it_is_called_after() {
        for directory in ["dt=2023-11-14/hour=22", "dt=2023-11-14/city=a, b%2F,c/shop=1"] {
            let name = name(Path::new(directory), 7);
            assert_eq!(parse(&name), Some((directory.into(), false)), "{name}");
            assert_eq!(parse(&format!("{name}.gone")), Some((directory.into(), true)));
        }
    }

    #[test]
    fn a_name_that_would_be_too_long_is_told() {
        let of = |bytes: usize| too_long(Path::new(&format!("dt=2023-11-14/city={}", "x".repeat(bytes))));
        assert_eq!(of(214), None);
        let problem = of(215).unwrap().problem;
        assert!(problem.contains("256 bytes of 255"), "{problem}");
    }
}
