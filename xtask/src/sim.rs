//! `cargo xtask sim`: whole clusters in one thread, from seeds, and the bugs that they must find.

mod mutations;

use crate::arguments::Arguments;
use crate::shell;
use std::path::PathBuf;
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask sim [--seeds N] [--first SEED] [--seconds N] [--group KIND | --clients | --sink]
       cargo xtask sim --seed SEED [--seconds N] [--group KIND | --clients | --sink]
       cargo xtask sim --mutations [--seeds N]

  --seeds N       how many stories to tell [2000]; with --mutations, the most for one bug [1000]
  --first SEED    the seed of the first [1]
  --seed SEED     tell one story again, byte for byte, and show what happened in it
  --seconds N     for how long faults come, in the story's time [12]
  --group KIND    the group that every story has: classic, consumer, mixed or share [as the seed says, mostly none]
  --clients       only stories of the product's own clients: producers, members of groups, readers with a store of their own
                  [one of these behind every five others]
  --sink          only stories of a sink's near-real-time line [one behind every twenty others]
  --mutations     the bugs of crates/sim/MUTATIONS.md, one at a time, each of which some story must find

With --seed, OTTLA_LOG=broker=info,sim=info shows what the brokers log, between what happens to them.

Examples:
  cargo xtask sim --seeds 200
  OTTLA_LOG=broker=info,sim=info cargo xtask sim --seed 17
";

/// The page of bugs, from the root.
pub(crate) const MUTATIONS: &str = "crates/sim/MUTATIONS.md";

/// Seeds that CI runs.
const SEEDS: u64 = 2_000;
/// So many stories of the load that speaks the protocol by itself have one of the product's own clients beside them.
const STORIES_PER_CLIENTS: u64 = 5;
/// And so many, one of a sink's near-real-time line.
const STORIES_PER_SINK: u64 = 20;
/// Seeds that one bug is given.
const MUTATION_SEEDS: u64 = 1_000;

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let mutations = arguments.flag("--mutations");
    let clients = arguments.flag("--clients").then_some("--clients");
    let cast = clients.or(arguments.flag("--sink").then_some("--sink"));
    let seeds = arguments.number("--seeds", if mutations { MUTATION_SEEDS } else { SEEDS })?;
    let first = arguments.number("--first", 1)?;
    let seconds = arguments.number("--seconds", 12)?.to_string();
    let seed = arguments.value("--seed")?;
    let group = arguments.value("--group")?;
    arguments.finish()?;
    if mutations {
        return mutations::run(seeds);
    }
    let simulator = build()?;
    let tell = |cast: Option<&str>, seeds: u64| {
        let mut command = Command::new(&simulator);
        command.args(["--seconds", &seconds]);
        if let Some(group) = &group {
            command.args(["--group", group]);
        }
        command.args(cast);
        match &seed {
            Some(seed) => command.args(["--seed", seed]),
            None => command.args(["--seeds", &seeds.to_string(), "--first", &first.to_string()]),
        };
        shell::run(&mut command)
    };
    let told = tell(cast, seeds);
    match cast.is_some() || seed.is_some() || group.is_some() {
        true => told,
        false => {
            let clients = tell(Some("--clients"), seeds / STORIES_PER_CLIENTS);
            told.and(clients).and(tell(Some("--sink"), seeds / STORIES_PER_SINK))
        }
    }
}

/// Builds the simulator as tests are built: every assertion is in it.
fn build() -> Result<PathBuf, String> {
    let mut command = Command::new("cargo");
    command
        .current_dir(shell::root())
        .args(["build", "--quiet", "--profile", "test", "--package", "ottla-sim"])
        .env("CARGO_TARGET_DIR", shell::target());
    shell::run(&mut command)?;
    Ok(shell::target().join("debug").join("ottla-sim"))
}
