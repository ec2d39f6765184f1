//! The bugs of `crates/sim/MUTATIONS.md`, each of which some story must find.

use crate::mutations::{self, Mutation, SWITCH, first_words};
use crate::table::{Side, Table};
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes all bugs in one copy of the sources, and looks for a story that finds each.
pub(super) fn run(seeds: u64) -> Result<(), String> {
    let mutations = mutations::of_page(super::MUTATIONS)?;
    println!("building the simulator with {} bugs in it", mutations.len());
    let simulator = mutations::build()?.simulator;
    let mut table =
        Table::new(&[("bug", Side::Left), ("seed", Side::Right), ("what went wrong", Side::Left)]);
    let mut escaped = Vec::new();
    for mutation in &mutations {
        println!("{}", mutation.name);
        match find(mutation, &simulator, seeds)? {
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

/// The first seed that finds a bug, and how. Its note is the group whose members find it, or `clients` or `sink`, where only they can.
fn find(mutation: &Mutation, simulator: &Path, seeds: u64) -> Result<Option<(String, String)>, String> {
    let cast: &[&str] = match mutation.note.as_deref() {
        Some("clients") => &["--clients"],
        Some("sink") => &["--sink"],
        Some(group) => &["--group", group],
        None => &[],
    };
    let output = Command::new(simulator)
        .args(["--until-bad", "--seeds", &seeds.to_string()])
        .args(cast)
        .env(SWITCH, &mutation.name)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", simulator.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    // `seed 7: what went wrong`
    let found = said.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
    Ok(found.map(|(seed, anomaly)| (seed.to_owned(), first_words(anomaly))))
}
