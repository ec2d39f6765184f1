//! Instances of a sink's near-real-time line, as `ottla sink run` has them: one topic into another, each record once and in order.

use std::sync::Arc;
use std::time::Duration;

use client::ErrorKind;
use sink::{LocalFiles, RunError, Settings, Until};
use tokio::time::sleep;
use wire::ErrorCode;

use super::consuming;
use super::stage::{Life, PARTITIONS as SOURCE_PARTITIONS, SOURCE, Stage};
use crate::load::RETRY;

/// The group of the line.
pub(super) const GROUP: &str = "sink.nearline";
/// Its output.
pub(super) const TOPIC: &str = "sunk";
/// A record keeps the number of its partition.
pub(super) const PARTITIONS: i32 = SOURCE_PARTITIONS;

fn settings() -> Settings {
    let text = format!(
        "name = \"sink\"\ntopics = [{SOURCE:?}]\n[nearline]\ntopic = {TOPIC:?}\nflush_age = \"300ms\"\nflush_rows = 40\n"
    );
    Settings::parse(&text).expect("the simulator's declaration is valid")
}

/// Runs the line, one process after the other.
pub(super) async fn run(stage: Stage, host: &'static str, protocol: &'static [(&'static str, &'static str)]) {
    loop {
        let life = stage.begin_life(host).await;
        live(&life, protocol).await;
        sleep(RETRY).await;
    }
}

/// One process, until it is asked to end, or ends by itself.
async fn live(life: &Life, protocol: &[(&str, &str)]) {
    let mut client =
        vec![("isolation.level", "read_committed"), ("transaction.timeout.ms", "4000"), ("linger.ms", "2")];
    client.extend(protocol);
    let options = life.stage.options(&client);
    let stop = sleep(Duration::from_millis(500 + life.dice.below(12_000)));
    life.note("begins its line");
    let files = Arc::new(LocalFiles);
    let ended = sink::run(&settings(), options, life.stage.environment(), files, Until::Stopped, stop).await;
    match ended {
        Ok(done) => {
            let done = done.iter().map(|done| format!("{} {} to {}", done.partition, done.from, done.to));
            life.note(&format!("ends its line: {}", done.collect::<Vec<_>>().join(", ")));
        }
        Err(error) => {
            life.note(&format!("ends: {error}"));
            if !is_expected(&error) {
                life.anomaly(&format!("ends: {error}"));
            }
        }
    }
}

/// Whether faults of brokers and networks end a line so. What is about positions and topics never is.
fn is_expected(error: &RunError) -> bool {
    match error {
        RunError::TakenOver { .. } => true,
        RunError::Client(error) => {
            // A coordinator that is cut off says what may be long over.
            let is_over = error.code() == Some(ErrorCode::INVALID_TXN_STATE);
            is_over || error.kind() == ErrorKind::Fenced || consuming::is_expected(error)
        }
        _ => false,
    }
}
