//! A process that reads one topic, writes another and commits how far it has read, all in one transaction, with the product's
//! consumer and producer.

use std::time::Duration;

use client::{Consumer, Error, ErrorKind, Producer, ProducerRecord, Records};
use tokio::time::{sleep, timeout};
use wire::{ErrorCode, PartitionId};

use super::consuming::{self, values};
use super::stage::{CLOSE_MAX, Life, SOURCE, Stage};
use crate::load::RETRY;

/// What it is called in the history, and its group.
pub(super) const ROLE: &str = "copier";
/// The topic that it writes.
pub(super) const TOPIC: &str = "copies";
/// Its partitions.
pub(super) const PARTITIONS: i32 = 2;

/// Copies, one process after the other.
pub(super) async fn run(stage: Stage, host: &'static str, protocol: &'static [(&'static str, &'static str)]) {
    loop {
        let life = stage.begin_life(host).await;
        if let Err(error) = live(&life, protocol).await {
            life.note(&format!("ends: {error}"));
            // A coordinator that is cut off says what may be long over.
            let is_over = error.code() == Some(ErrorCode::INVALID_TXN_STATE);
            if !is_over && !consuming::is_expected(&error) {
                life.anomaly(&format!("ends: {error}"));
            }
        }
        sleep(RETRY).await;
    }
}

/// One process: what it does not know the outcome of ends it, and the next one begins where the group stands.
async fn live(life: &Life, protocol: &[(&str, &str)]) -> Result<(), Error> {
    let dice = &life.dice;
    let records_max = (1 + dice.below(30)).to_string();
    let writes = [("transactional.id", life.host), ("transaction.timeout.ms", "4000"), ("linger.ms", "2")];
    let producer = Producer::new(life.stage.cluster(life.stage.options(&writes)))?;
    producer.init_transactions().await?;
    let mut settings = vec![
        ("group.id", ROLE),
        ("enable.auto.commit", "false"),
        ("isolation.level", "read_committed"),
        ("max.poll.records", &records_max),
    ];
    settings.extend(protocol);
    life.note("begins to copy");
    let mut consumer = Consumer::new(life.stage.cluster(life.stage.options(&settings)));
    consumer.subscribe([SOURCE])?;
    let batches = 20 + dice.below(300);
    for _ in 0..batches {
        match timeout(Duration::from_millis(1_000), consumer.next()).await {
            Err(_) => {}
            Ok(Some(Ok(records))) => copy(life, &producer, &consumer, records).await?,
            Ok(Some(Err(error @ Error::PollInterval { .. }))) => life.note(&format!("is told: {error}")),
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => break,
        }
        life.awake().await;
    }
    if dice.percent(50) {
        let closed = timeout(CLOSE_MAX + RETRY, consumer.close(CLOSE_MAX)).await;
        life.note(&format!("closes: {:?}", closed.map_err(|_| "too late")));
        let closed = producer.close(CLOSE_MAX).await;
        life.note(&format!("closes its producer: {closed:?}"));
    }
    Ok(())
}

/// Copies records in one transaction. An error is an outcome that is not known, or the end of this process.
async fn copy(life: &Life, producer: &Producer, consumer: &Consumer, records: Records) -> Result<(), Error> {
    let source = records.partition().partition.0;
    let values = values(&records);
    let first = values[0].0;
    life.stage.seen.given(ROLE, &life.name, (source, records.position().0), &values);
    life.work().await;
    let outcome = transact(life, producer, consumer, &records, &values).await;
    life.note(&format!("copied {source}/{first} to {}: {outcome:?}", records.next_offset()));
    match outcome {
        Ok(true) => {
            records.done();
            Ok(())
        }
        Ok(false) => {
            life.stage.seen.drops(&life.name, source, first);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Abortable => {
            life.note(&format!("aborts the copy of {source}/{first}: {error}"));
            life.stage.seen.drops(&life.name, source, first);
            Ok(())
        }
        Err(error) => {
            life.stage.seen.drops(&life.name, source, first);
            Err(error)
        }
    }
}

/// Whether it is committed.
async fn transact(
    life: &Life,
    producer: &Producer,
    consumer: &Consumer,
    records: &Records,
    values: &[(i64, String)],
) -> Result<bool, Error> {
    let source = records.partition().partition.0;
    let transaction = producer.begin().await?;
    for (offset, _) in values {
        let mut record = ProducerRecord::new(TOPIC, format!("{source}/{offset}"));
        record.partition = Some(PartitionId(source % PARTITIONS));
        drop(transaction.enqueue(record).await?);
    }
    life.awake().await;
    // What is another's by now is not to be committed.
    let Some(member) = consumer.group_metadata([records]) else {
        transaction.abort().await?;
        return Ok(false);
    };
    transaction.send_offsets([(records.partition().clone(), records.next_offset())], &member).await?;
    if life.dice.percent(5) {
        transaction.abort().await?;
        return Ok(false);
    }
    life.awake().await;
    // It may be so from here on, whatever is heard of it.
    for (offset, _) in values {
        life.stage.seen.handled(ROLE, (source, *offset));
    }
    transaction.commit().await?;
    Ok(true)
}
