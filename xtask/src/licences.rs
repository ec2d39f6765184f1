//! The licences of everything that is linked or built: each must offer one that goes with Apache-2.0.
//! It reads `cargo tree`, so it needs no tool of its own.

use crate::shell;
use std::collections::BTreeMap;
use std::process::Command;

/// Licences that may be combined with ours without further conditions than naming them.
const ALLOWED: [&str; 13] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
];

/// Checks all dependencies of the workspace on all platforms; how many there are.
pub(crate) fn check() -> Result<usize, String> {
    let mut command = Command::new("cargo");
    command.current_dir(shell::root()).args([
        "tree",
        "--workspace",
        "--all-features",
        "--target",
        "all",
        "--edges",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ]);
    let output = command.output().map_err(|error| format!("cannot run cargo tree: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut packages = BTreeMap::new();
    for line in text.lines() {
        if let Some((package, licence)) = line.trim_end_matches(" (*)").split_once('|') {
            packages.insert(package.to_owned(), licence.to_owned());
        }
    }
    let refused: Vec<String> = packages
        .iter()
        .filter(|(_, licence)| !allowed(licence))
        .map(|(package, licence)| {
            format!("{package}: {}", if licence.is_empty() { "none stated" } else { licence })
        })
        .collect();
    if refused.is_empty() {
        Ok(packages.len())
    } else {
        Err(format!("licences that are not on the list:\n  {}", refused.join("\n  ")))
    }
}

/// Whether an SPDX expression can be satisfied from the list: each term of some alternative is on it.
fn allowed(expression: &str) -> bool {
    // `A/B` is an old way to write `A OR B`. Parentheses only ever group alternatives within a conjunction, or the other
    // way round: stripping them and looking at AND first answers "no" more often than it should, never "yes".
    let flat = expression.replace('/', " OR ");
    if !flat.contains('(') {
        return flat.split(" OR ").any(|all| all.split(" AND ").all(on_list));
    }
    flat.split(" AND ").all(|part| part.trim_matches(['(', ')']).split(" OR ").any(on_list))
}

fn on_list(licence: &str) -> bool {
    ALLOWED.contains(&licence.trim_matches(['(', ')', ' ']))
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn an_expression_needs_one_alternative_that_is_allowed_as_a_whole() {
        for yes in
            ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "MIT AND ISC"]
        {
            assert!(allowed(yes), "{yes}");
        }
        for no in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
            assert!(!allowed(no), "{no}");
        }
    }
}
