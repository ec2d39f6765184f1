//! The mutation gate: the bugs of `crates/sim/MUTATIONS.md`, each in a switch's reach, in a copy of the sources.

use crate::shell;
use crate::table::{Side, Table};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The page, from the root.
const PAGE: &str = "crates/sim/MUTATIONS.md";
/// What the copy needs to be built: the whole workspace.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "crates", "compat/rust", "xtask"];
/// The variable that switches a bug on.
const SWITCH: &str = "OTTLA_MUTATION";
/// Stands in the page for whether the bug is switched on.
const SWITCHED: &str = "MUTATED";

/// One bug.
#[derive(Debug)]
struct Mutation {
    name: String,
    /// The group whose members find it, or `clients`, where only they can.
    group: Option<String>,
    edits: Vec<Edit>,
}

/// A place where it is made.
#[derive(Debug)]
struct Edit {
    file: String,
    before: String,
    after: String,
}

/// Makes all bugs in one copy of the sources, and looks for a story that finds each.
pub(super) fn run(seeds: u64) -> Result<(), String> {
    let mutations = of_page()?;
    let copy = shell::scratch("mutations")?;
    for name in SOURCES {
        copy_all(&shell::root().join(name), &copy.join(name))?;
    }
    for mutation in &mutations {
        mutation.make(&copy)?;
    }
    println!("building the simulator with {} bugs in it", mutations.len());
    // Cargo takes two copies of a workspace for one: in one target directory, the bugs would get into the real one.
    let simulator = super::build(&copy, &shell::target().join("mutations"))?;
    let mut table =
        Table::new(&[("bug", Side::Left), ("seed", Side::Right), ("what went wrong", Side::Left)]);
    let mut escaped = Vec::new();
    for mutation in &mutations {
        println!("{}", mutation.name);
        match mutation.find(&simulator, seeds)? {
            Some((seed, anomaly)) => table.row(vec![mutation.name.clone(), seed, anomaly]),
            None => {
                table.row(vec![mutation.name.clone(), "-".to_owned(), format!("nothing in {seeds} stories")]);
                escaped.push(mutation.name.as_str());
            }
        }
    }
    println!();
    table.print();
    if escaped.is_empty() { Ok(()) } else { Err(format!("not found: {}", escaped.join(", "))) }
}

impl Mutation {
    /// Makes it in the copy.
    fn make(&self, copy: &Path) -> Result<(), String> {
        for edit in &self.edits {
            let path = copy.join(&edit.file);
            let at = |error: std::io::Error| format!("{}: {error}", path.display());
            let source = fs::read_to_string(&path).map_err(at)?;
            fs::write(&path, self.edited(edit, &source)?).map_err(at)?;
        }
        Ok(())
    }

    /// The source with one of its edits made.
    fn edited(&self, edit: &Edit, source: &str) -> Result<String, String> {
        let Edit { file, before, after } = edit;
        let count = source.matches(before.as_str()).count();
        if count != 1 {
            return Err(format!(
                "{PAGE}: {}: the first part of its block is {count} times in {file}, and must be there once:\n{before}",
                self.name
            ));
        }
        let switched = format!("matches!(std::env::var(\"{SWITCH}\").as_deref(), Ok(\"{}\"))", self.name);
        Ok(source.replace(before.as_str(), &after.replace(SWITCHED, &switched)))
    }

    /// The first seed that finds it, and how.
    fn find(&self, simulator: &Path, seeds: u64) -> Result<Option<(String, String)>, String> {
        let cast: &[&str] = match self.group.as_deref() {
            Some("clients") => &["--clients"],
            Some(group) => &["--group", group],
            None => &[],
        };
        let output = Command::new(simulator)
            .args(["--until-bad", "--seeds", &seeds.to_string()])
            .args(cast)
            .env(SWITCH, &self.name)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{}: {error}", simulator.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        // `seed 7: what went wrong`
        let found = said.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
        Ok(found.map(|(seed, anomaly)| (seed.to_owned(), first_words(anomaly))))
    }
}

/// As much of a text as fits into a row.
fn first_words(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn of_page() -> Result<Vec<Mutation>, String> {
    let page = shell::root().join(PAGE);
    let text = fs::read_to_string(&page).map_err(|error| format!("{}: {error}", page.display()))?;
    parse(&text).map_err(|reason| format!("{PAGE}: {reason}"))
}

/// The bugs of the page.
fn parse(text: &str) -> Result<Vec<Mutation>, String> {
    let mut mutations: Vec<Mutation> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("## ") {
            let (name, group) = match name.strip_suffix(')').and_then(|name| name.split_once(" (")) {
                Some((name, group)) => (name, Some(group.to_owned())),
                None => (name, None),
            };
            mutations.push(Mutation { name: name.to_owned(), group, edits: Vec::new() });
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

fn copy_all(from: &Path, to: &Path) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", from.display());
    if !from.is_dir() {
        return fs::copy(from, to).map(drop).map_err(at);
    }
    fs::create_dir_all(to).map_err(at)?;
    for entry in fs::read_dir(from).map_err(at)? {
        let name = entry.map_err(at)?.file_name();
        copy_all(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{SOURCES, of_page, parse};
    use crate::shell;
    use std::collections::BTreeMap;
    use std::fs;

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

    /// What the mutations stage finds only once it has built them all: a line of the sources was changed, and the page was not.
    #[test]
    fn what_the_page_quotes_stands_in_the_sources() {
        let mut sources: BTreeMap<String, String> = BTreeMap::new();
        let mut wrong = Vec::new();
        for mutation in of_page().unwrap() {
            for edit in &mutation.edits {
                let source = sources.entry(edit.file.clone()).or_insert_with(|| {
                    let path = shell::root().join(&edit.file);
                    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
                });
                // As in the copy, each on top of those before it.
                match mutation.edited(edit, source) {
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
        assert_eq!(mutations[0].group.as_deref(), Some("share"));
        assert!(parse("## late\n").is_err());
        assert!(parse("## late\n```rust in a.rs\none\n```\n").is_err());
    }
}
