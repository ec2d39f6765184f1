//! The mutation gates: the bugs of all pages, each in a switch's reach, in one copy of the sources, built once.
//!
//! A page says of each bug what stands in the source and what takes its place. What finds them is for the page's own command to
//! know: stories of the simulator (`sim`), tests of the sink's crash points (`sink`).

use crate::check::FEATURES;
use crate::shell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pages, from the root.
const PAGES: [&str; 2] = [crate::sim::MUTATIONS, crate::sink::MUTATIONS];
/// What the copy needs to be built: the whole workspace.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "crates", "compat/rust", "xtask"];
/// Where in the copy members of the workspace are: not where the real ones are in the real one, for which cargo would take them.
const MEMBERS: &str = "mutated";
/// What the simulator is called in the copy, beside the real one.
const SIMULATOR: &str = "ottla-sim-mutated";
/// The test binary of the sink.
const TESTS: &str = "crash_points";
/// The variable that switches a bug on.
pub(crate) const SWITCH: &str = "OTTLA_MUTATION";
/// Stands in the page for whether the bug is switched on.
const SWITCHED: &str = "MUTATED";

/// What was built of the copy.
pub(crate) struct Built {
    pub(crate) simulator: PathBuf,
    /// The crash points of the sink.
    pub(crate) tests: PathBuf,
}

/// One bug.
#[derive(Debug)]
pub(crate) struct Mutation {
    /// What switches it on.
    pub(crate) name: String,
    /// What stands in parentheses behind it.
    pub(crate) note: Option<String>,
    edits: Vec<Edit>,
}

/// A place where it is made.
#[derive(Debug)]
struct Edit {
    file: String,
    before: String,
    after: String,
}

/// The bugs of a page, which is named from the root.
pub(crate) fn of_page(page: &str) -> Result<Vec<Mutation>, String> {
    let path = shell::root().join(page);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|reason| format!("{page}: {reason}"))
}

/// Builds a copy of the sources with all bugs of all pages in it. What was built of it before, and of the dependencies with the
/// unit tests, is not built again.
pub(crate) fn build() -> Result<Built, String> {
    let copy = shell::target().join("xtask").join("mutations");
    let mut sources = Vec::new();
    for name in SOURCES {
        collect(Path::new(name), &mut sources)?;
    }
    let mut texts: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for path in sources {
        let from = shell::root().join(&path);
        texts.push((path, fs::read(&from).map_err(|error| format!("{}: {error}", from.display()))?));
    }
    for page in PAGES {
        for mutation in of_page(page)? {
            mutation.make(page, &mut texts)?;
        }
    }
    let texts = texts.into_iter().map(|(path, text)| placed(&path, text));
    write(&copy, texts.collect::<Result<Vec<_>, _>>()?)?;
    let mut command = Command::new("cargo");
    command
        .current_dir(&copy)
        .args(["build", "--profile", "test", "--workspace", "--features", FEATURES])
        .args(["--bin", SIMULATOR, "--test", TESTS, "--message-format", "json"])
        .env("CARGO_TARGET_DIR", shell::target())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output =
        command.output().map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
    if !output.status.success() {
        return Err(format!("{}: {}", shell::words(&command), output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let found =
        |name| executable(&messages, name).ok_or_else(|| format!("cargo does not say where {name} is"));
    Ok(Built { simulator: found(SIMULATOR)?, tests: found(TESTS)? })
}

/// Where cargo's messages say that a program is.
fn executable(messages: &str, program: &str) -> Option<PathBuf> {
    const WORD: &str = "\"executable\":\"";
    let name = format!("\"name\":\"{program}\"");
    let message = messages.lines().find(|line| line.contains(&name) && line.contains(WORD))?;
    let (_, behind) = message.split_once(WORD)?;
    behind.split('"').next().map(PathBuf::from)
}

/// Where a source is in the copy, and what it says there of where members are and what the simulator is called.
fn placed(path: &Path, text: Vec<u8>) -> Result<(PathBuf, Vec<u8>), String> {
    let replaced = |text: Vec<u8>, pairs: &[(String, String)]| {
        let mut text = String::from_utf8(text).map_err(|error| format!("{}: {error}", path.display()))?;
        for (before, after) in pairs {
            if !text.contains(before.as_str()) {
                return Err(format!("{} does not say {before}", path.display()));
            }
            text = text.replace(before.as_str(), after);
        }
        Ok(text.into_bytes())
    };
    let name = [("name = \"ottla-sim\"".to_owned(), format!("name = \"{SIMULATOR}\""))];
    let members = ["crates/", "compat/rust\"", "xtask\""];
    let members = members.map(|member| (format!("\"{member}"), format!("\"{MEMBERS}/{member}")));
    match path.to_str() {
        Some("Cargo.toml") => Ok((path.to_owned(), replaced(text, &members)?)),
        Some("Cargo.lock") => Ok((path.to_owned(), replaced(text, &name)?)),
        Some("crates/sim/Cargo.toml") => Ok((Path::new(MEMBERS).join(path), replaced(text, &name)?)),
        _ => Ok((Path::new(MEMBERS).join(path), text)),
    }
}

/// All files below a path, which is named from the root.
fn collect(path: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let from = shell::root().join(path);
    let at = |error: std::io::Error| format!("{}: {error}", from.display());
    if !from.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&from).map_err(at)? {
        collect(&path.join(entry.map_err(at)?.file_name()), found)?;
    }
    Ok(())
}

/// Has a directory hold these files and no others. Those that are there already stay as old as they are, and so does what was built of
/// them.
fn write(copy: &Path, files: Vec<(PathBuf, Vec<u8>)>) -> Result<(), String> {
    let mut wanted = BTreeSet::new();
    for (path, text) in files {
        let path = copy.join(path);
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        if fs::read(&path).ok().as_ref() != Some(&text) {
            fs::create_dir_all(path.parent().expect("it is below the copy")).map_err(at)?;
            fs::write(&path, text).map_err(at)?;
        }
        wanted.insert(path);
    }
    let mut left = vec![copy.to_owned()];
    while let Some(directory) = left.pop() {
        let at = |error: std::io::Error| format!("{}: {error}", directory.display());
        for entry in fs::read_dir(&directory).map_err(at)? {
            let path = entry.map_err(at)?.path();
            match path.is_dir() {
                true => left.push(path),
                false if wanted.contains(&path) => {}
                false => fs::remove_file(&path).map_err(at)?,
            }
        }
    }
    Ok(())
}

impl Mutation {
    /// Makes it in the sources.
    fn make(&self, page: &str, sources: &mut [(PathBuf, Vec<u8>)]) -> Result<(), String> {
        for edit in &self.edits {
            let name = &edit.file;
            let source = sources.iter_mut().find(|(path, _)| path == Path::new(name));
            let (_, source) = source.ok_or_else(|| format!("{page}: {}: there is no {name}", self.name))?;
            let text = std::str::from_utf8(source).map_err(|error| format!("{name}: {error}"))?;
            *source = self.edited(page, edit, text)?.into_bytes();
        }
        Ok(())
    }

    /// The source with one of its edits made.
    fn edited(&self, page: &str, edit: &Edit, source: &str) -> Result<String, String> {
        let Edit { file, before, after } = edit;
        let count = source.matches(before.as_str()).count();
        if count != 1 {
            return Err(format!(
                "{page}: {}: the first part of its block is {count} times in {file}, and must be there once:\n{before}",
                self.name
            ));
        }
        let switched = format!("matches!(std::env::var(\"{SWITCH}\").as_deref(), Ok(\"{}\"))", self.name);
        Ok(source.replace(before.as_str(), &after.replace(SWITCHED, &switched)))
    }
}

/// As much of a text as fits into a row.
pub(crate) fn first_words(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The bugs of a page's text.
fn parse(text: &str) -> Result<Vec<Mutation>, String> {
    let mut mutations: Vec<Mutation> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("## ") {
            let (name, note) = match name.strip_suffix(')').and_then(|name| name.split_once(" (")) {
                Some((name, note)) => (name, Some(note.to_owned())),
                None => (name, None),
            };
            mutations.push(Mutation { name: name.to_owned(), note, edits: Vec::new() });
        } else if let Some(file) = line.strip_prefix("```rust in ") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let (before, after) = block
                .join("\n")
                .split_once("\n=>\n")
                .map(|(before, after)| (before.to_owned(), after.to_owned()))
                .ok_or_else(|| format!("a block for {file} has no line =>"))?;
            let mutation = mutations.last_mut().ok_or("a block stands before the first headline")?;
            mutation.edits.push(Edit { file: file.to_owned(), before, after });
        }
    }
    match mutations.iter().find(|mutation| mutation.edits.is_empty()) {
        Some(mutation) => Err(format!("{} has no block", mutation.name)),
        None => Ok(mutations),
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGES, SOURCES, executable, of_page, parse, placed};
    use crate::shell;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_copy_has_every_member_of_the_workspace() {
        let manifest = fs::read_to_string(shell::root().join("Cargo.toml")).unwrap();
        let members =
            manifest.lines().find_map(|line| line.strip_prefix("members = [")?.strip_suffix(']')).unwrap();
        for member in members.split(", ") {
            let folder = member.trim_matches('"').trim_end_matches("/*");
            assert!(SOURCES.contains(&folder), "{folder} is not copied");
        }
    }

    /// What the stages of mutations find only once they have built them all: a line of the sources was changed, and the page was not.
    #[test]
    fn what_the_pages_quote_stands_in_the_sources() {
        let mut sources: BTreeMap<String, String> = BTreeMap::new();
        let mut wrong = Vec::new();
        let mutations = PAGES
            .into_iter()
            .flat_map(|page| of_page(page).unwrap().into_iter().map(move |mutation| (page, mutation)));
        for (page, mutation) in mutations {
            for edit in &mutation.edits {
                let source = sources.entry(edit.file.clone()).or_insert_with(|| {
                    let path = shell::root().join(&edit.file);
                    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
                });
                // As in the copy, each on top of those before it.
                match mutation.edited(page, edit, source) {
                    Ok(edited) => *source = edited,
                    Err(reason) => wrong.push(reason),
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_block_is_what_stands_there_and_what_takes_its_place() {
        let page = "# x\n\n## late (share)\n\nWhy.\n\n```rust in a.rs\n  one\n=>\n  two\n  three\n```\n";
        let mutations = parse(page).unwrap();
        let edit = &mutations[0].edits[0];
        assert_eq!((mutations[0].name.as_str(), edit.file.as_str()), ("late", "a.rs"));
        assert_eq!((edit.before.as_str(), edit.after.as_str()), ("  one", "  two\n  three"));
        assert_eq!(mutations[0].note.as_deref(), Some("share"));
        assert!(parse("## late\n").is_err());
        assert!(parse("## late\n```rust in a.rs\none\n```\n").is_err());
    }

    #[test]
    fn cargo_says_where_the_programs_are() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"sink"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"crash_points"},"executable":"/t/crash_points-1"}"#
        );
        assert_eq!(executable(messages, "crash_points").as_deref(), Some(Path::new("/t/crash_points-1")));
        assert_eq!(executable(messages, "sink"), None);
    }

    #[test]
    fn the_copy_has_its_members_elsewhere() {
        for name in ["Cargo.toml", "Cargo.lock", "crates/sim/Cargo.toml"] {
            let text = fs::read(shell::root().join(name)).unwrap();
            let (path, copied) = placed(Path::new(name), text.clone()).unwrap();
            assert!(copied != text && path.ends_with(name), "{name} is as it was");
        }
    }
}
