//! Pages that can go stale are made from the tables and compared here; `UPDATE_EXPECT=1` writes them.

#[path = "documents/protocol.rs"]
mod protocol;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use broker::settings::{Effect, TOPIC, broker_rows};
use expect_test::expect_file;
use wire::ApiKey;

#[test]
fn the_settings_page_is_what_the_table_says() {
    expect_file!["../../../docs/settings.md"].assert_eq(&broker::settings::reference_page());
}

#[test]
fn the_protocol_page_is_what_the_table_of_apis_says() {
    expect_file!["../../../docs/protocol.md"].assert_eq(&protocol::page());
}

#[test]
fn every_api_of_kafka_is_implemented_or_planned_and_none_is_both() {
    let planned: BTreeSet<i16> = protocol::PLANNED.iter().map(|planned| planned.code).collect();
    let public = ApiKey::ALL.iter().filter(|api| !api.is_private());
    let implemented: BTreeSet<i16> = public.map(|api| api.code()).collect();
    assert_eq!(planned.intersection(&implemented).collect::<Vec<_>>(), Vec::<&i16>::new());
    let all: BTreeSet<i16> = planned.union(&implemented).copied().collect();
    let missing: Vec<i16> = (0..=protocol::LAST_CODE).filter(|code| !all.contains(code)).collect();
    assert_eq!(missing, protocol::NOT_FOR_CLIENTS);
}

/// The table promises an effect for every row that does not say otherwise.
#[test]
fn a_setting_that_nothing_reads_says_so() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in crates/");
    let mut code = String::new();
    read_code(&crates.join("broker/src"), &mut code);
    read_code(&crates.join("ottla/src"), &mut code);
    let inherited: BTreeSet<&str> =
        TOPIC.iter().flat_map(|row| row.synonyms).map(|synonym| synonym.key).collect();
    let own = broker_rows().filter(|row| !inherited.contains(row.key));
    let promised = own.chain(TOPIC).filter(|row| row.effect == Effect::Honoured);
    let unread: Vec<&str> = promised.filter(|row| !is_read(&code, row.field)).map(|row| row.key).collect();
    assert_eq!(unread, Vec::<&str>::new(), "read them, or mark them as inert in the table");
}

/// All code below a directory, without the table itself and without tests.
fn read_code(directory: &Path, code: &mut String) {
    for entry in fs::read_dir(directory).expect("the directory can be listed") {
        let path = entry.expect("the entry can be read").path();
        if path.ends_with("settings/table") || path.ends_with("settings/tests.rs") {
            continue;
        } else if path.is_dir() {
            read_code(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(&path).expect("the file can be read"));
        }
    }
}

fn is_read(code: &str, field: &str) -> bool {
    let access = format!(".{field}");
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(&access).any(|(at, found)| ends(&code[at + found.len()..]))
}
