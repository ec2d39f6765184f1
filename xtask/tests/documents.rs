//! What the documents name exists: paths, links, and the commands that the README tells people to type.
//! A document that lies is worse than none, and only a test keeps it from starting to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents that people are sent to.
const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "compat/README.md"];

/// What stands between backticks on one line.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter(|line| !line.starts_with("    "))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// The targets of links within the repository.
fn linked(text: &str) -> BTreeSet<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

/// Whether a word is meant as a path: it begins with a folder that the repository has.
fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let folders = ["crates/", "xtask/", "compat/", "docs/", "bench/", ".ci/"];
    plain && folders.iter().any(|folder| word.starts_with(folder))
}

#[test]
fn paths_and_links_in_the_documents_exist() {
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let folder = root().join(document);
        let folder = folder.parent().expect("a document lies in a folder");
        let paths =
            quoted(&text).into_iter().filter(|word| is_path(word)).map(|word| (word, root().join(word)));
        let links = linked(&text).into_iter().map(|target| (target, folder.join(target)));
        missing.extend(
            paths
                .chain(links)
                .filter(|(_, path)| !path.exists())
                .map(|(word, _)| format!("{document}: {word}")),
        );
    }
    assert!(missing.is_empty(), "documents name what does not exist:\n{}", missing.join("\n"));
}

#[test]
fn architecture_names_every_crate() {
    let text = read("ARCHITECTURE.md");
    for entry in fs::read_dir(root().join("crates")).expect("there are crates") {
        let name = entry.expect("a crate has a name").file_name();
        let path = format!("crates/{}", name.to_string_lossy());
        assert!(text.contains(&path), "ARCHITECTURE.md does not say what {path} is for");
    }
}

/// Lines between ``` fences that begin with `program`.
fn typed<'a>(text: &'a str, program: &'a str) -> impl Iterator<Item = &'a str> {
    let fenced = text.split("```").skip(1).step_by(2).flat_map(str::lines);
    fenced.filter(move |line| line.split_whitespace().next() == Some(program))
}

#[test]
fn the_readme_has_two_commands_and_they_exist() {
    let readme = read("README.md");
    let commands: Vec<&str> =
        typed(&readme, "cargo").map(|line| line.split('#').next().unwrap_or_default().trim()).collect();
    assert_eq!(commands, ["cargo run --release -- dev", "cargo xtask test"]);
    assert!(
        read("Cargo.toml").contains("default-members = [\"crates/ottla\"]"),
        "cargo run must find the binary"
    );
    assert!(read(".cargo/config.toml").contains("xtask = \"run"), "cargo xtask is an alias");
    assert!(read(".ci/run").contains("cargo xtask test"), "CI runs what people run");
}

#[test]
fn xtask_commands_in_the_documents_exist() {
    let main = read("xtask/src/main.rs");
    for document in DOCUMENTS {
        let text = read(document);
        let words = text.split("cargo xtask ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        for word in words.map(|word| word.trim_matches(|c: char| !c.is_ascii_lowercase())) {
            let arm = format!("\"{word}\" => ");
            // "`cargo xtask` also has ..." is prose.
            assert!(word.is_empty() || main.contains(&arm), "{document}: there is no cargo xtask {word}");
        }
    }
}

#[test]
fn ottla_commands_in_the_readme_exist() {
    let text = read("README.md");
    let help = fs::read_dir(root().join("crates/ottla/src")).expect("the binary has sources");
    let sources: String = help
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect::<String>()
        .to_lowercase();
    for line in text.split("```").skip(1).step_by(2).flat_map(str::lines) {
        let Some(rest) = line.split("ottla ").nth(1) else { continue };
        let command = rest.split_whitespace().next().unwrap_or_default();
        if command.chars().all(|c| c.is_ascii_lowercase()) {
            assert!(sources.contains(command), "README.md: there is no ottla {command}");
        }
    }
}

#[test]
fn each_client_program_checks_the_generator_that_the_specification_names() {
    let specification = read("compat/README.md");
    let checksum = specification
        .split('`')
        .find(|word| word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit()))
        .expect("the specification names a SHA-256");
    for generator in [
        "compat/java/src/main/java/compat/Records.java",
        "compat/python/records.py",
        "compat/node/records.js",
        "compat/go/internal/records/records.go",
    ] {
        assert!(read(generator).contains(checksum), "{generator} checks another sum");
    }
}
