//! The settings as text for people: a listing for the terminal and the reference page `docs/settings.md`.
//! Both are made from the table; a test compares the page in the repository with what comes out of here.

use std::fmt::Write;

use super::row::Setting;
use super::table::foreign::{Foreign, listed};
use super::table::{BROKER, CLIENT_METRICS, GROUP, TOPIC};

/// Every setting with its default and sentence, as `ottla settings` prints it.
#[must_use]
pub fn listing() -> String {
    let mut out = String::new();
    let others = [
        ("Topic settings", TOPIC),
        ("Group settings", GROUP),
        ("Subscriptions to client metrics", CLIENT_METRICS),
    ];
    for (title, rows) in BROKER.iter().map(|section| (section.title, section.rows)).chain(others) {
        let _ = writeln!(out, "{title}\n");
        for row in rows {
            let default = row.default.map_or("unset", |text| if text.is_empty() { "empty" } else { text });
            let (key, kind) = (row.key, row.kind.name().to_lowercase());
            let _ = writeln!(out, "  {key}  ({kind}, {}, default {default})", row.scope.name());
            let _ = writeln!(out, "      {}\n", row.documentation());
        }
    }
    out
}

/// The reference page.
#[must_use]
pub fn reference_page() -> String {
    let mut page = String::from(INTRODUCTION);
    for section in BROKER {
        let _ = writeln!(page, "\n### {}\n", section.title);
        table(&mut page, section.rows);
    }
    page.push_str(TOPICS);
    table(&mut page, TOPIC);
    page.push_str(GROUPS);
    table(&mut page, GROUP);
    page.push_str(SUBSCRIPTIONS);
    table(&mut page, CLIENT_METRICS);
    page.push_str(FOREIGN);
    for (key, foreign) in listed() {
        let (verdict, reason) = match foreign {
            Foreign::NoEffect(reason) => ("accepted, no effect".to_owned(), reason),
            Foreign::RefusedUnless([""], reason) => ("refused unless empty".to_owned(), reason),
            Foreign::RefusedUnless(harmless, reason) => {
                (format!("refused unless {}", harmless.join(", ")), reason)
            }
        };
        let _ = writeln!(page, "| `{key}` | {verdict} | {reason} |");
    }
    page
}

const INTRODUCTION: &str = "\
# Settings

This page is made from the settings table in `crates/broker/src/settings/table`; `UPDATE_EXPECT=1 cargo test -p
ottla-broker --test documents` writes it.

Keys, types and defaults are Apache Kafka's unless the sentence says otherwise. A setting comes from, the later winning:

1. its default;
2. the file given with `--config`, in the syntax of `server.properties`;
3. the environment, as Kafka's container image reads it: `KAFKA_LOG_DIRS` is `log.dirs`; `_` stands for `.`, `__` for `_`,
   `___` for `-`; `CLUSTER_ID` is `cluster.id`;
4. `--set key=value` on the command line;
5. a dynamic value for all brokers (`kafka-configs --entity-type brokers --entity-default`);
6. a dynamic value for one broker (`--entity-name ID`).

A key that neither Ottla nor Kafka knows, a value out of bounds or two settings that contradict each other refuse the
start with exit code 2; all of them are reported at once. Variables of the environment that name no setting are only
reported.

**Scope** says when a value can change: *read-only* at start, *per-broker* and *cluster-wide* while the broker runs,
*topic*, *group* and *client metrics* per topic, group and subscription while it runs.

## Broker settings
";

const TOPICS: &str = "
## Topic settings

A topic that does not set a key inherits it from the broker settings named with it; the first of them that is set wins.

";

const GROUPS: &str = "
## Group settings

`kafka-configs --entity-type groups --entity-name GROUP` sets them. They stay when their group is gone.

";

const SUBSCRIPTIONS: &str = "
## Subscriptions to client metrics

`kafka-client-metrics --name NAME` sets them (KIP-714). What clients push is shown at `/metrics`.

";

const FOREIGN: &str = "
## Keys of Kafka without effect

A file written for Kafka may hold these. They are accepted and reported in the log, or refused where ignoring them would
allow what they forbid.

| key | what happens | why |
|---|---|---|
";

fn table(page: &mut String, rows: &[Setting]) {
    page.push_str(
        "| key | type | default | allowed | scope | importance | meaning |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let default = row.default.map_or("unset".to_owned(), |text| {
            if text.is_empty() { "empty".to_owned() } else { format!("`{text}`") }
        });
        let kind = row.kind.name().to_lowercase();
        let (scope, importance) = (row.scope.name(), row.importance.name());
        let (key, allowed, meaning) = (row.key, row.allowed, row.documentation());
        let _ = writeln!(
            page,
            "| `{key}` | {kind} | {default} | {allowed} | {scope} | {importance} | {meaning} |"
        );
    }
}
