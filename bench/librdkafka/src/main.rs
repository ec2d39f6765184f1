//! Load from librdkafka against a broker or a cluster: `load COMMAND --key value …`, see the usage below.
//! Each command prints its figures as one line of `name=value` words on standard output, which is all that `cargo xtask
//! bench` reads (`pulse` adds a line per record); it keeps librdkafka's defaults unless told otherwise with `--set name=value`.
//! It never decides whether a figure is good, and it never measures the broker's process: that is the caller's.

mod admin;
mod arguments;
mod commits;
mod consume;
mod latency;
mod offsets;
mod produce;
mod pulse;

use arguments::Arguments;
use std::process::ExitCode;

const USAGE: &str = "\
usage: load COMMAND --bootstrap HOST:PORT --topic NAME [options]

  create   --partitions N [--topics N] [--replication N] [--config name=value]…
                                                                create topics and wait until every partition has a leader
  delete   [--topics N]                                         delete topics
  produce  --partitions N --size BYTES --records N [--keys N]   records as fast as the broker takes them, spread evenly
  consume  --partitions N --records N                           every partition from its start, until N records are read
  commits  --partitions N --size BYTES --seconds N --commit-ms N [--rate N]
                                                                transactions that end every N ms; 0: an idempotent producer's records
  offsets  --groups N --seconds N                               offsets of partition 0 committed by so many groups at a time
  latency  --partitions N --size BYTES --rate N --seconds N     end-to-end latency at a fixed rate
  fill     --partitions N --topics N --size BYTES --records N   N records into each partition of each topic
  await    --partitions N --topics N                            until every partition has a leader and the last answers its offsets
  served   --partitions N --topics N                            until the leader of every partition answers its end offset
  in-sync  --partitions N --replication N                       until every partition has so many replicas in sync
  leaders                                                       the leader of each partition, as p0=1 p1=2 …
  pulse    --partitions N --size BYTES --rate N                 a line per record acknowledged, until standard input ends

  --set name=value   a librdkafka property, may be repeated
  --topics N         N topics named NAME-0, NAME-1, …
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let outcome = Arguments::parse(words).and_then(|arguments| match command.as_str() {
        "create" => admin::create(&arguments),
        "delete" => admin::delete(&arguments),
        "await" => admin::wait_until_served(&arguments),
        "served" => admin::wait_until_all_served(&arguments),
        "in-sync" => admin::wait_until_in_sync(&arguments),
        "leaders" => admin::leaders(&arguments),
        "pulse" => pulse::pulse(&arguments),
        "produce" => produce::produce(&arguments),
        "fill" => produce::fill(&arguments),
        "consume" => consume::consume(&arguments),
        "commits" => commits::commits(&arguments),
        "offsets" => offsets::offsets(&arguments),
        "latency" => latency::latency(&arguments),
        _ => Err(format!("unknown command {command:?}\n{USAGE}")),
    });
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("load {command}: {reason}");
            ExitCode::FAILURE
        }
    }
}
