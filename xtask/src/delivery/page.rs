//! docs/delivery.md, written from a run.

use super::Played;
use super::cell::{Outcome, Who};
use super::scenario::SCENARIOS;
use crate::shell;
use std::fmt::Write as _;
use std::fs;

const PAGE: &str = "docs/delivery.md";

/// In a few words.
pub(super) fn told(outcome: &Outcome) -> String {
    let tally = &outcome.tally;
    let lost = match outcome.stopped.is_empty() {
        true => format!("{} lost", tally.lost),
        false => format!("{} passed over, stopped", tally.passed_over),
    };
    let again = match outcome.again {
        Some(again) if again > 0 => format!(" ({again} came again)"),
        _ => String::new(),
    };
    format!("{} doubled, {lost}{again}", tally.duplicates)
}

/// A cell of the table: doubled / lost.
pub(super) fn cell(played: &[Played], letter: &str, who: Who) -> String {
    let found = played.iter().find(|played| played.scenario.letter == letter && played.who == who);
    match found.map(|played| &played.outcome) {
        None => String::new(),
        Some(Err(_)) => "?".to_owned(),
        Some(Ok(outcome)) if outcome.stopped.is_empty() => {
            format!("{} / {}", outcome.tally.duplicates, outcome.tally.lost)
        }
        Some(Ok(outcome)) => {
            format!("{} / {}, stops", outcome.tally.duplicates, outcome.tally.passed_over)
        }
    }
}

fn headline(who: Who) -> &'static str {
    match who {
        Who::Librdkafka => "librdkafka",
        Who::LibrdkafkaByHand => "librdkafka, commit by hand",
        Who::Java => "Java",
        Who::Group => "ours, group",
        Who::Postgres => "ours, PostgreSQL",
        Who::Redis => "ours, Redis",
    }
}

pub(super) fn write(played: &[Played]) -> Result<(), String> {
    let path = shell::root().join(PAGE);
    let text = text(played)?;
    fs::write(&path, text).map_err(|error| format!("{PAGE}: {error}"))
}

fn text(played: &[Played]) -> Result<String, String> {
    let root = shell::root();
    let read = |path: &str| fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"));
    let (requirements, pom) = (read("compat/python/requirements.txt")?, read("compat/java/pom.xml")?);
    let python = requirements.lines().find_map(|line| line.strip_prefix("confluent-kafka=="));
    let java = pom.split("<kafka.version>").nth(1).and_then(|rest| rest.split('<').next());
    let (python, java) = (python.unwrap_or("?"), java.unwrap_or("?"));

    let mut page = format!(
        "# Delivery: what is doubled and what is lost behind the broker

A broker that keeps every record does not keep a reader from handling one twice or never. These are the known ways to
that. Each was played against three brokers by a stock client and by ours; what is counted is what the readers left behind - lines
of a file, rows of a table, fields of a hash, all of which outlive the process - against what was produced. `cargo xtask delivery
--docs` plays them and writes this page; `--quick` plays ours alone, in a minute, and is a stage of `cargo xtask test`.

```
 handled    ──────────────────●
 committed  ────────○               offsets behind the results: from ○ to ● is handled twice (a, b, c, d, e)

 handled    ────────●
 committed  ──────────────────○     offsets ahead of the results: from ● to ○ is never handled (d', f, g)

 a store    ──────────────────◉     results and position are written together: there is nothing between
```

Each cell is *doubled / lost*. *stops* means that the reader reads no further and says why, with nothing passed over before it.

|   | way |"
    );
    for who in Who::ALL {
        let _ = write!(page, " {} |", headline(who));
    }
    page += "\n|---|---|";
    for _ in Who::ALL {
        page += "---|";
    }
    page += "\n";
    for scenario in &SCENARIOS {
        let _ = write!(page, "| {} | {} |", scenario.letter, scenario.title);
        for who in Who::ALL {
            let _ = write!(page, " {} |", cell(played, scenario.letter, who));
        }
        page += "\n";
    }
    let _ = write!(
        page,
        "
How many are doubled depends on when it happens: the stock clients' figures, and those of our group reader, are those of one run. That
ours are zero where they must be does not, and a run in which they are not fails. A reader *in a group* handles records at least once:
it may double and must not lose. A reader *with a store* does neither.

| reader | |
|---|---|
| librdkafka | confluent-kafka {python} for Python, `consume(500)` and a handler, everything by default but `auto.offset.reset=earliest` and `session.timeout.ms=6000` (`compat/python/delivery_reader.py`) |
| librdkafka, commit by hand | the same with `enable.auto.commit=false` and a synchronous `commit()` behind each batch that was handled |
| Java | Apache Kafka's consumer {java}, `poll()` and a handler, everything by default but the same two settings (`compat/java`, `delivery-reader`) |
| ours, group | `Consumer` of `crates/client` with the same two settings, record by record, each acknowledged once it is handled (`compat/rust`) |
| ours, PostgreSQL | `Reader` of `crates/offsets`: a batch's results and its position in one transaction |
| ours, Redis | `Reader` of `crates/offsets`: results by partition and offset (`HSETNX`), then the position |

Everywhere a reader that died is given up after 6 s instead of 45, so that a run takes minutes. The group protocol is the classic
one.
"
    );
    for scenario in &SCENARIOS {
        let _ = write!(page, "\n## {}: {}\n\n{}\n\n", scenario.letter, scenario.title, scenario.story);
        for who in Who::ALL {
            let found = played.iter().find(|one| one.scenario.letter == scenario.letter && one.who == who);
            if let Some(Ok(outcome)) = found.map(|one| &one.outcome) {
                let _ = writeln!(page, "- {}: {}", headline(who), told(outcome));
            }
        }
        let _ = write!(page, "\n{}\n", scenario.closed);
    }
    page += "
## All of it at once, a hundred times

`cargo xtask delivery --kills 100` runs a producer, two readers with PostgreSQL and two with Redis on three brokers, and kills (`kill
-9`) a reader, a broker, Redis or PostgreSQL at random moments, a hundred times. At the end each number that was produced must be in
PostgreSQL's table once and in Redis once, in order. It takes about five minutes; a seed says what is killed when. A reader that was
killed is started again and goes on by itself, as does one whose store was gone for a while.
";
    Ok(page)
}
