//! A process with the product's consumer as a member of a group: what it was given it handles, or drops undone, or dies with.

use std::time::Duration;

use client::{Consumer, Error, ErrorKind, Records};
use tokio::time::{sleep, timeout};

use super::stage::{CLOSE_MAX, Life, SOURCE, Stage};
use crate::load::RETRY;

/// What members of the group are called in the history, and their group.
pub(super) const ROLE: &str = "group";

/// Reads as a member, one process after the other.
pub(super) async fn run(stage: Stage, host: &'static str, protocol: &'static [(&'static str, &'static str)]) {
    loop {
        let life = stage.begin_life(host).await;
        live(&life, protocol).await;
        sleep(RETRY).await;
    }
}

/// Whether an error is one that faults of brokers and networks bring about.
pub(super) fn is_expected(error: &Error) -> bool {
    match error {
        Error::Stopped { reason, .. } => is_expected(reason),
        Error::PollInterval { .. } => true,
        error => matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Abortable | ErrorKind::Fenced),
    }
}

/// One process, until it ends in order.
async fn live(life: &Life, protocol: &[(&str, &str)]) {
    let dice = &life.dice;
    let records_max = (1 + dice.below(30)).to_string();
    let mut settings = vec![("group.id", ROLE), ("max.poll.records", &records_max)];
    settings.extend(protocol);
    life.note("begins to read");
    let mut consumer = Consumer::new(life.stage.cluster(life.stage.options(&settings)));
    consumer.subscribe([SOURCE]).expect("it has a group");
    let batches = 20 + dice.below(300);
    for _ in 0..batches {
        // Given up in the middle: nothing is lost.
        let wait = Duration::from_millis(if dice.percent(20) { dice.below(20) } else { 1_000 });
        match timeout(wait, consumer.next()).await {
            Err(_) => {}
            Ok(Some(Ok(records))) => handle(life, records).await,
            Ok(Some(Err(error))) => {
                life.note(&format!("is told: {error}"));
                if !is_expected(&error) {
                    life.anomaly(&format!("is told: {error}"));
                }
                if !matches!(error, Error::PollInterval { .. }) {
                    break;
                }
            }
            Ok(None) => {
                life.note("is given nothing any more");
                break;
            }
        }
        life.awake().await;
        if dice.percent(5) {
            match consumer.commit().await {
                Ok(committed) => told(life, &committed),
                Err(error) => life.note(&format!("cannot commit: {error}")),
            }
        }
    }
    match dice.below(3) {
        0 => {
            if let Ok(committed) = consumer.unsubscribe().await {
                told(life, &committed);
            }
            drop(consumer);
        }
        1 => drop(consumer),
        _ => match timeout(CLOSE_MAX + RETRY, consumer.close(CLOSE_MAX)).await {
            Ok(Ok(committed)) => told(life, &committed),
            Ok(Err(error)) => life.note(&format!("cannot close: {error}")),
            Err(_) => life.anomaly("does not come to the end of closing"),
        },
    }
    life.note("ends in order");
}

/// Deals with records, all or a part of them.
async fn handle(life: &Life, mut records: Records) {
    let (seen, partition) = (&life.stage.seen, records.partition().partition.0);
    let values = values(&records);
    seen.given(ROLE, &life.name, (partition, records.position().0), &values);
    life.work().await;
    let count = match life.dice.below(100) {
        0..4 => 0,
        4..10 => usize::try_from(life.dice.below(values.len() as u64)).unwrap_or(0),
        _ => values.len(),
    };
    for (offset, _) in &values[..count] {
        seen.handled(ROLE, (partition, *offset));
    }
    // Between the deed and its acknowledgement lies an await, where it may be killed.
    sleep(Duration::from_millis(life.dice.below(3))).await;
    if count == values.len() {
        records.done();
        return;
    }
    if let Some((last, _)) = values[..count].last() {
        records.done_through(wire::Offset(*last));
    }
    let from = values[count].0;
    life.note(&format!("drops {partition}/{from} and what follows"));
    seen.drops(&life.name, partition, from);
}

/// The values of records, by their offsets.
pub(super) fn values(records: &Records) -> Vec<(i64, String)> {
    let value = |record: &client::ConsumedRecord| {
        String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
    };
    records.iter().map(|record| (record.offset.0, value(record))).collect()
}

fn told(life: &Life, committed: &client::Committed) {
    for (partition, offset) in &committed.offsets {
        life.stage.seen.committed(ROLE, partition.partition.0, offset.0, true);
    }
}
