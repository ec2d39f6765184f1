//! A process with the product's producer: records in bursts, several on their way at a time, and every handle is asked.

use std::time::Duration;

use client::{Producer, ProducerRecord};
use tokio::task::JoinSet;
use tokio::time::sleep;
use wire::PartitionId;

use super::stage::{CLOSE_MAX, Life, PARTITIONS, SOURCE, Stage};
use crate::load::RETRY;

/// Handles that are waited for at a time.
const OPEN_MAX: usize = 60;

/// Sends until the story's faults end, one process after the other.
pub(super) async fn run(stage: Stage, host: &'static str) {
    loop {
        let life = stage.begin_life(host).await;
        if stage.has_finished(host) {
            return;
        }
        live(&life).await;
        if stage.is_ending() {
            life.note("has sent everything");
            stage.finish(host);
            return;
        }
        sleep(RETRY).await;
    }
}

/// One process, until it ends in order.
async fn live(life: &Life) {
    let dice = &life.dice;
    let batch_bytes = (100 + dice.below(400)).to_string();
    let linger = dice.below(20).to_string();
    // Shorter than some faults last: what is given up may be there, or not, and never after what was sent later.
    let delivery = (2_500 + dice.below(6_000)).to_string();
    let options = life.stage.options(&[
        ("batch.size", &batch_bytes),
        ("linger.ms", &linger),
        ("delivery.timeout.ms", &delivery),
    ]);
    life.note("begins to send");
    let producer = Producer::new(life.stage.cluster(options)).expect("the settings fit together");
    let mut open = JoinSet::new();
    let (mut number, bursts) = (0, 20 + dice.below(200));
    for _ in 0..bursts {
        if life.stage.is_ending() {
            break;
        }
        let partition = i32::try_from(dice.below(PARTITIONS.unsigned_abs().into())).expect("a few");
        for _ in 0..=dice.below(6) {
            let value = life.stage.seen.sends(&life.name, number, partition);
            number += 1;
            let mut record = ProducerRecord::new(SOURCE, value.clone());
            record.partition = Some(PartitionId(partition));
            let handle = match producer.enqueue(record).await {
                Ok(handle) => handle,
                Err(error) => {
                    life.note(&format!("cannot send {value}: {error}"));
                    continue;
                }
            };
            let life = life.clone();
            open.spawn(async move {
                match handle.await {
                    Ok(delivery) => {
                        let offset = delivery.offset.map(|offset| offset.0);
                        life.stage.seen.acknowledged(&value, delivery.partition.partition.0, offset);
                    }
                    Err(error) => life.note(&format!("does not know of {value}: {error}")),
                }
            });
        }
        while open.try_join_next().is_some() {}
        while open.len() > OPEN_MAX {
            open.join_next().await;
        }
        if dice.percent(3) {
            producer.flush().await;
        }
        sleep(Duration::from_millis(10 + dice.below(120))).await;
        life.awake().await;
    }
    let closed = producer.close(CLOSE_MAX * 3).await;
    life.note(&format!("closes its producer: {closed:?}"));
    while open.join_next().await.is_some() {}
}
