//! Stories of a producer and a cluster that fails, in virtual time.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use wire::{ErrorCode, Offset, PartitionId, TopicPartition};

use super::stage::{Fate, Stage};
use super::{ConsumerGroupMetadata, DeliveryHandle, Producer};
use crate::error::{Error, ErrorKind};
use crate::record::ProducerRecord;

fn record(partition: i32, value: &str) -> ProducerRecord {
    let value = Bytes::copy_from_slice(value.as_bytes());
    ProducerRecord { partition: Some(PartitionId(partition)), ..ProducerRecord::new("t", value) }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

async fn enqueue(producer: &Producer, values: &[String]) -> Vec<DeliveryHandle> {
    let mut handles = Vec::new();
    for value in values {
        handles.push(producer.enqueue(record(0, value)).await.unwrap());
    }
    handles
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_gone_for_longer_than_a_retry_costs_nothing_but_time() {
    let stage = Stage::new(1, 2);
    let producer = stage.producer(&[
        ("compression.type", "gzip"),
        ("linger.ms", "50"),
        ("acks", "all"),
        ("retries", "30"),
        ("reconnect.backoff.ms", "20000"),
        ("retry.backoff.ms", "20000"),
    ]);
    let begun = Instant::now();
    let outage = async {
        sleep(Duration::from_secs(1)).await;
        // Batches are on their way when it goes.
        stage.fate(|_| Fate::AnswerLost);
        sleep(Duration::from_millis(100)).await;
        stage.kill(1);
        stage.fate(|_| Fate::Served);
        sleep(Duration::from_secs(65)).await;
        stage.revive(1);
    };
    let sending = async {
        let mut handles = Vec::new();
        for number in 0..400 {
            handles.push((number, producer.enqueue(record(number % 2, &number.to_string())).await.unwrap()));
            sleep(Duration::from_millis(10)).await;
        }
        for (number, handle) in handles {
            let delivery = handle.await.unwrap();
            assert_eq!(delivery.offset.unwrap().0, i64::from(number / 2), "record {number}");
        }
    };
    tokio::join!(outage, sending);
    assert!(begun.elapsed() > Duration::from_secs(66), "{:?}", begun.elapsed());
    for partition in 0..2 {
        let sent: Vec<_> = (0..200).map(|number| (2 * number + partition).to_string()).collect();
        assert_eq!(stage.values(partition), sent);
        assert!(stage.codecs(partition).iter().all(|&codec| codec == 1), "all are packed by gzip");
    }
    let dialled = stage.world().dialled.clone();
    let pauses = dialled.windows(2).map(|pair| pair[1].0 - pair[0].0);
    let failing: Vec<_> = pauses.filter(|pause| *pause > Duration::from_secs(10)).collect();
    assert!((3..=6).contains(&failing.len()), "a gone broker is dialled every 20 s: {dialled:?}");
    producer.close(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn five_batches_on_their_way_stay_in_order_whatever_fails() {
    for seed in 0..60_u64 {
        let stage = Stage::new(2, 3);
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        stage.fate(move |count| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            match dice % 8 {
                _ if count > 150 => Fate::Served,
                0 => Fate::AnswerLost,
                1 => Fate::Lost,
                2 => Fate::Refused(ErrorCode::NOT_ENOUGH_REPLICAS),
                3 => Fate::Refused(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                _ => Fate::Served,
            }
        });
        let producer = stage.producer(&[("linger.ms", "0"), ("batch.size", "1")]);
        let elections = async {
            for turn in 0..6 {
                sleep(Duration::from_millis(150)).await;
                stage.elect(turn % 3, turn as i32 % 2 + 1);
            }
        };
        let sending = async {
            let mut handles = Vec::new();
            for number in 0..240 {
                let record = record(number % 3, &(number / 3).to_string());
                handles.push((number, producer.enqueue(record).await.unwrap()));
            }
            for (number, handle) in handles {
                let delivery = handle.await.unwrap();
                if let Some(offset) = delivery.offset {
                    assert_eq!(offset.0, i64::from(number / 3), "seed {seed}");
                }
            }
        };
        tokio::join!(elections, sending);
        for partition in 0..3 {
            assert_eq!(stage.values(partition), numbers(80), "seed {seed}, partition {partition}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_numbers_order_still_holds() {
    for acks in ["1", "all"] {
        let stage = Stage::new(1, 1);
        stage.fate(|count| match count % 5 {
            1 => Fate::Lost,
            3 => Fate::Refused(ErrorCode::NOT_ENOUGH_REPLICAS),
            _ => Fate::Served,
        });
        let settings =
            [("acks", acks), ("enable.idempotence", "false"), ("linger.ms", "0"), ("batch.size", "1")];
        let producer = stage.producer(&settings);
        for handle in enqueue(&producer, &numbers(50)).await {
            handle.await.unwrap();
        }
        assert_eq!(stage.values(0), numbers(50));
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_names_the_leader_saves_the_pause_and_the_question() {
    let stage = Stage::new(2, 1);
    stage.world().is_hinting = true;
    let producer = stage.producer(&[("linger.ms", "0"), ("retry.backoff.ms", "10000")]);
    producer.send(record(0, "0")).await.unwrap();
    let asked = stage.world().metadata_requests;
    stage.elect(0, 2);
    let begun = Instant::now();
    let delivery = producer.send(record(0, "1")).await.unwrap();
    assert_eq!(delivery.offset.unwrap().0, 1);
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(stage.world().metadata_requests, asked);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_lost_records_gets_the_next_ones_under_another_epoch() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("linger.ms", "0"), ("batch.size", "1")]);
    for handle in enqueue(&producer, &numbers(10)).await {
        handle.await.unwrap();
    }
    stage.truncate(0, 2);
    for handle in enqueue(&producer, &numbers(30)[10..]).await {
        handle.await.unwrap();
    }
    let expected: Vec<_> = (0..8).chain(10..30).map(|number| number.to_string()).collect();
    assert_eq!(stage.values(0), expected);
}

/// One record to a batch, sent at once.
const SINGLY: [(&str, &str); 2] = [("linger.ms", "0"), ("batch.size", "1")];

#[tokio::test(start_paused = true)]
async fn a_broker_that_forgot_an_idle_producer_is_met_with_one_batch() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&SINGLY);
    producer.send(record(0, "0")).await.unwrap();
    stage.forget_producers(0);
    sleep(Duration::from_secs(60)).await;
    // Were the next one sent behind it, the broker would take that for the first.
    stage.fate(|count| match count {
        2 => Fate::Refused(ErrorCode::NOT_ENOUGH_REPLICAS),
        4 => Fate::AnswerLost,
        _ => Fate::Served,
    });
    for handle in enqueue(&producer, &numbers(8)[1..]).await {
        handle.await.unwrap();
    }
    assert_eq!(stage.values(0), numbers(8));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_forgets_a_busy_producer_doubles_and_reorders_nothing() {
    for lost in [Fate::Served, Fate::AnswerLost] {
        let stage = Stage::new(1, 1);
        let producer = stage.producer(&SINGLY);
        producer.send(record(0, "0")).await.unwrap();
        stage.forget_producers(0);
        stage.fate(move |count| match count {
            2 => Fate::Refused(ErrorCode::NOT_ENOUGH_REPLICAS),
            3 => lost,
            _ => Fate::Served,
        });
        let mut handles = enqueue(&producer, &numbers(6)[1..]).await;
        let error = handles.remove(0).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), "{lost:?}: {error}");
        for handle in handles {
            handle.await.unwrap();
        }
        assert_eq!(stage.values(0), ["0", "2", "3", "4", "5"], "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_broker_lost_with_answers_on_their_way_is_sent_again_once() {
    for fate in [Fate::Lost, Fate::AnswerLost] {
        let stage = Stage::new(1, 1);
        let producer = stage.producer(&SINGLY);
        for handle in enqueue(&producer, &numbers(10)).await {
            handle.await.unwrap();
        }
        let sent = stage.world().produces;
        stage.fate(move |count| if count == sent + 3 { fate } else { Fate::Served });
        let handles = enqueue(&producer, &numbers(15)[10..]).await;
        while stage.world().produces < sent + 3 {
            sleep(Duration::from_millis(1)).await;
        }
        // The leader is gone, and another one has all but the last three of what it had.
        let had = stage.values(0).len();
        stage.truncate(0, 3);
        for handle in handles {
            handle.await.unwrap();
        }
        // What was acknowledged and lost cannot come again; what was not, came once and in order.
        let values = stage.values(0);
        let again = &values[had - 3..];
        assert_eq!(values[..had - 3], numbers(had - 3), "{fate:?}");
        let expected: Vec<_> = numbers(15)[15 - again.len()..].to_vec();
        assert_eq!(again, expected, "{fate:?}: {values:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_may_be_there_is_not_split() {
    let stage = Stage::new(1, 1);
    stage.fate(|count| if count == 1 { Fate::AnswerLost } else { Fate::Served });
    let producer = stage.producer(&[]);
    let handles = enqueue(&producer, &numbers(40)).await;
    while stage.world().produces == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    // The topic's limit is lowered before the second try.
    stage.world().batch_bytes_max = 100;
    for handle in handles {
        let error = handle.await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::MESSAGE_TOO_LARGE));
        assert!(error.to_string().contains("an earlier try may have been appended"), "{error}");
    }
    producer.send(record(0, "40")).await.unwrap();
    assert_eq!(stage.values(0), numbers(41));
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_made_anew_with_fewer_partitions_hangs_nobody() {
    let stage = Stage::new(1, 3);
    let producer = stage.producer(&[("linger.ms", "0"), ("metadata.max.age.ms", "60000")]);
    for partition in 0..3 {
        producer.send(record(partition, "old")).await.unwrap();
    }
    stage.recreate(2);
    let begun = Instant::now();
    let error = producer.send(record(2, "nowhere")).await.unwrap_err();
    assert_eq!(error.to_string(), "t-2 does not exist: the topic's partitions are 0 to 1");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(producer.enqueue(record(2, "nowhere")).await.is_err(), "and that is known by now");
    for value in numbers(5) {
        producer.send(record(0, &value)).await.unwrap();
    }
    assert_eq!((stage.values(0), stage.values(1)), (numbers(5), Vec::new()));
    // It grows again.
    stage.recreate(3);
    while let Err(error) = producer.send(record(2, "back")).await {
        assert!(matches!(error, Error::UnknownPartition { .. }), "{error}");
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(stage.values(2), ["back"]);
}

#[tokio::test(start_paused = true)]
async fn who_holds_an_older_transaction_has_no_say_in_a_newer_one() {
    for end in ["commit", "abort", "drop"] {
        let stage = Stage::new(1, 1);
        let producer = stage.producer(&[("transactional.id", "a"), ("linger.ms", "0")]);
        producer.init_transactions().await.unwrap();
        let older = producer.begin().await.unwrap();
        stage.fate(|count| if count == 1 { Fate::Refused(ErrorCode::INVALID_RECORD) } else { Fate::Served });
        older.send(record(0, "refused")).await.unwrap_err();
        let newer = producer.begin().await.unwrap();
        let offsets = [(TopicPartition::new("t", PartitionId(0)), Offset(1))];
        let mut outcomes = vec![
            older.send(record(0, "of the older")).await.map(drop),
            older.send_offsets(offsets, &ConsumerGroupMetadata::of_group("g")).await,
        ];
        match end {
            "commit" => outcomes.push(older.commit().await),
            "abort" => outcomes.push(older.abort().await),
            _ => drop(older),
        }
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Abortable, "{end}");
            assert!(error.to_string().ends_with("another transaction was begun since"), "{end}: {error}");
        }
        newer.send(record(0, "of the newer")).await.unwrap();
        newer.commit().await.unwrap();
        assert_eq!(stage.values(0), ["of the newer"], "{end}");
        assert_eq!(stage.world().ended, [false, true], "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_whose_call_was_dropped_are_not_left_out_of_a_commit() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("transactional.id", "a"), ("linger.ms", "0")]);
    producer.init_transactions().await.unwrap();
    let offsets = || [(TopicPartition::new("t", PartitionId(0)), Offset(1))];
    let group = ConsumerGroupMetadata::of_group("g");
    let txn = producer.begin().await.unwrap();
    txn.send(record(0, "read at 0")).await.unwrap();
    let sending = timeout(Duration::from_millis(100), txn.send_offsets(offsets(), &group)).await;
    assert!(sending.is_err(), "it takes longer");
    let error = txn.commit().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the transaction was aborted: sending offsets: it was dropped before it was answered"
    );
    let txn = producer.begin().await.unwrap();
    txn.send_offsets(offsets(), &group).await.unwrap();
    txn.commit().await.unwrap();
    assert_eq!(stage.world().ended, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_transaction_leaves_in_the_moment_in_which_it_fails() {
    const LINGER: Duration = Duration::from_secs(1);
    const DELIVERY: Duration = Duration::from_secs(40);
    let stage = Stage::new(2, 2);
    let settings = [("transactional.id", "a"), ("linger.ms", "1000"), ("delivery.timeout.ms", "40000")];
    let producer = stage.producer(&settings);
    producer.init_transactions().await.unwrap();
    let txn = producer.begin().await.unwrap();
    // The queues are looked at in this order.
    txn.send(record(0, "first")).await.unwrap();
    stage.kill(2);
    let late = txn.enqueue(record(1, "late")).await.unwrap();
    sleep(DELIVERY - LINGER).await;
    // Its company has come in the same instant in which the other one has waited too long.
    let ready = txn.enqueue(record(0, "ready")).await.unwrap();
    assert!(matches!(late.await, Err(Error::Timeout { .. })));
    assert!(matches!(ready.await, Err(Error::Aborted { .. })));
    assert!(matches!(txn.commit().await, Err(Error::Aborted { .. })));
    let txn = producer.begin().await.unwrap();
    let next = timeout(DELIVERY * 2, txn.send(record(0, "next"))).await;
    next.expect("the task lives").unwrap();
    txn.commit().await.unwrap();
    assert_eq!(stage.values(0), ["first", "next"]);
    assert_eq!(stage.world().ended, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_still_being_ended_costs_no_try() {
    let stage = Stage::new(1, 1);
    stage.fate(|count| match count {
        1..=20 => Fate::Refused(ErrorCode::CONCURRENT_TRANSACTIONS),
        21..=23 => Fate::Refused(ErrorCode::NOT_ENOUGH_REPLICAS),
        _ => Fate::Served,
    });
    let producer = stage.producer(&[("retries", "3"), ("linger.ms", "0"), ("transactional.id", "a")]);
    producer.init_transactions().await.unwrap();
    let begun = Instant::now();
    let txn = producer.begin().await.unwrap();
    txn.send(record(0, "0")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    txn.commit().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_pause_between_tries_the_task_still_breathes() {
    let stage = Stage::new(1, 1);
    let settings = [("retry.backoff.ms", "0"), ("retry.backoff.max.ms", "0"), ("linger.ms", "0")];
    let producer = stage.producer(&settings);
    producer.send(record(0, "0")).await.unwrap();
    stage.kill(1);
    let handle = enqueue(&producer, &["1".to_owned()]).await.remove(0);
    sleep(Duration::from_secs(5)).await;
    stage.revive(1);
    handle.await.unwrap();
    assert_eq!(stage.values(0), numbers(2));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_left_a_batch_unanswered_is_not_used_again() {
    for fate in [Fate::Silence, Fate::Garbled] {
        let stage = Stage::new(1, 1);
        let producer = stage.producer(&[("request.timeout.ms", "5000"), ("linger.ms", "0")]);
        producer.send(record(0, "0")).await.unwrap();
        let dialled = stage.world().dialled.len();
        stage.fate(move |count| if count == 2 { fate } else { Fate::Served });
        let begun = Instant::now();
        match producer.send(record(0, "1")).await {
            Ok(_) => assert!(fate == Fate::Silence && begun.elapsed().as_secs() == 5),
            Err(error) => {
                assert!(fate == Fate::Garbled && matches!(error, Error::Malformed { .. }), "{error}")
            }
        }
        producer.send(record(0, "2")).await.unwrap();
        assert!(stage.world().dialled.len() > dialled, "another one was opened");
        assert_eq!(stage.values(0), numbers(3));
    }
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_request_that_nobody_waits_for() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("delivery.timeout.ms", "35000"), ("linger.ms", "0")]);
    stage.fate(|_| Fate::Silence);
    // The second try is under way for 25 s more.
    producer.send(record(0, "0")).await.unwrap_err();
    let begun = Instant::now();
    producer.close(Duration::from_secs(3)).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_goes_in_halves() {
    let stage = Stage::new(1, 1);
    stage.world().batch_bytes_max = 100;
    let producer = stage.producer(&[]);
    let handles = enqueue(&producer, &numbers(40)).await;
    for (number, handle) in handles.into_iter().enumerate() {
        assert_eq!(handle.await.unwrap().offset.unwrap().0, number as i64);
    }
    assert_eq!(stage.values(0), numbers(40));
    let large = producer.send(record(0, &"x".repeat(200))).await.unwrap_err();
    assert_eq!(large.code(), Some(ErrorCode::MESSAGE_TOO_LARGE));
    producer.send(record(0, "40")).await.unwrap();
    assert_eq!(stage.values(0), numbers(41));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_delivered_fails_in_time_and_says_why() {
    let stage = Stage::new(1, 1);
    let settings = [("delivery.timeout.ms", "40000"), ("linger.ms", "0"), ("max.request.size", "1000")];
    let producer = stage.producer(&settings);
    producer.send(record(0, "0")).await.unwrap();
    stage.kill(1);
    let begun = Instant::now();
    let error = producer.send(record(0, "1")).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 40);
    assert!(matches!(&error, Error::Timeout { .. }));
    let said = error.to_string();
    assert!(said.starts_with("timed out after 40000 ms while delivering a record: "), "{said}");
    assert!(said.contains("broker:9001"), "{said}");
    stage.revive(1);
    producer.send(record(0, "2")).await.unwrap();
    assert_eq!(stage.values(0), ["0", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_does_not_keep_a_record_longer_than_it_may_take() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("delivery.timeout.ms", "35000"), ("linger.ms", "0")]);
    producer.send(record(0, "0")).await.unwrap();
    stage.fate(|_| Fate::Silence);
    let begun = Instant::now();
    producer.send(record(0, "1")).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 35);
    stage.fate(|_| Fate::Served);
    producer.send(record(0, "2")).await.unwrap();
    assert_eq!(stage.values(0), ["0", "1", "2"], "the first try of 1 was appended, and nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_producer_is_given_up_after_so_many_retries() {
    let stage = Stage::new(1, 1);
    stage.fate(|_| Fate::Refused(ErrorCode::NOT_ENOUGH_REPLICAS));
    let producer = stage.producer(&[("retries", "3"), ("linger.ms", "0")]);
    let error = producer.send(record(0, "0")).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NOT_ENOUGH_REPLICAS));
    assert_eq!(stage.world().produces, 4);
}

#[tokio::test(start_paused = true)]
async fn sending_waits_while_the_buffer_is_full() {
    let stage = Stage::new(1, 1);
    let settings = [("buffer.memory", "1024"), ("max.request.size", "500"), ("batch.size", "500")];
    let producer = stage.producer(&settings);
    let value = "x".repeat(400);
    let mut handles = enqueue(&producer, &[value.clone(), value.clone()]).await;
    stage.kill(1);
    let third = producer.enqueue(record(0, &value));
    tokio::pin!(third);
    assert!(timeout(Duration::from_secs(30), &mut third).await.is_err(), "there is no room");
    stage.revive(1);
    handles.push(third.await.unwrap());
    for handle in handles {
        handle.await.unwrap();
    }
    assert_eq!(stage.values(0).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_shaped_at_its_source() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("producer.rate.records", "100")]);
    producer.send(record(0, "first")).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let handles = enqueue(&producer, &numbers(200)).await;
    let taken = begun.elapsed();
    assert!((1850..=2000).contains(&taken.as_millis()), "{taken:?}");
    for handle in handles {
        handle.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn flushing_and_closing_wait_for_what_was_sent_before() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("linger.ms", "60000"), ("delivery.timeout.ms", "120000")]);
    let handles = enqueue(&producer, &numbers(3)).await;
    producer.flush().await;
    assert_eq!(stage.values(0), numbers(3));
    drop(handles);
    drop(enqueue(&producer, &["3".to_owned()]).await);
    producer.close(Duration::from_secs(1)).await.unwrap();
    assert_eq!(stage.values(0), numbers(4));
}

#[tokio::test(start_paused = true)]
async fn closing_never_hangs() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[]);
    producer.send(record(0, "0")).await.unwrap();
    stage.kill(1);
    let left = enqueue(&producer, &["1".to_owned()]).await.remove(0);
    let begun = Instant::now();
    let error = producer.close(Duration::from_secs(7)).await.unwrap_err();
    assert_eq!(error.to_string(), "timed out after 7000 ms while closing the producer");
    assert_eq!(begun.elapsed().as_secs(), 7);
    assert!(matches!(left.await, Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_producer_takes_nothing_back() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("linger.ms", "1000")]);
    let handle = enqueue(&producer, &numbers(1)).await.remove(0);
    drop(producer);
    handle.await.unwrap();
    assert_eq!(stage.values(0), numbers(1));
}

#[tokio::test(start_paused = true)]
async fn records_without_a_key_are_spread_batch_by_batch() {
    let stage = Stage::new(1, 4);
    let producer = stage.producer(&[("linger.ms", "0"), ("partitioner", "sticky")]);
    for number in 0..40 {
        let record = ProducerRecord {
            key: Some(Bytes::from_static(b"the same")),
            ..ProducerRecord::new("t", number.to_string().into_bytes())
        };
        producer.send(record).await.unwrap();
    }
    let counts: Vec<_> = (0..4).map(|partition| stage.values(partition).len()).collect();
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_reached_is_named_with_the_reason() {
    let stage = Stage::new(1, 1);
    stage.kill(1);
    let one = stage.cluster(&[]).reach().await.unwrap_err();
    assert_eq!(one.to_string(), "cannot connect to broker:9001: connection refused");
    let cluster = stage.cluster(&[("bootstrap.servers", "broker:9001,broker:9002")]);
    let both = cluster.reach().await.unwrap_err().to_string();
    let mut said = both.strip_prefix("no broker can be reached: ").unwrap().split("; ").collect::<Vec<_>>();
    said.sort_unstable();
    let expected = ["1", "2"].map(|id| format!("cannot connect to broker:900{id}: connection refused"));
    assert_eq!(said, expected);
    let begun = Instant::now();
    let cluster = stage.cluster(&[("default.api.timeout.ms", "3000")]);
    let waited = cluster.id().await.unwrap_err();
    assert!(begun.elapsed() <= Duration::from_secs(3));
    let said = waited.to_string();
    assert!(said.ends_with("cluster's id: cannot connect to broker:9001: connection refused"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn when_all_known_brokers_are_gone_the_bootstrap_servers_are_asked() {
    for (strategy, comes_back) in [("rebootstrap", true), ("none", false)] {
        let stage = Stage::new(2, 1);
        stage.kill(2);
        let settings = [("metadata.recovery.strategy", strategy), ("bootstrap.servers", "broker:9001")];
        let cluster = stage.cluster(&settings);
        let reach = async || {
            while cluster.reach().await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        cluster.reach().await.unwrap();
        stage.revive(2);
        reach().await;
        stage.kill(1);
        // Broker 2 is asked and knows of nobody but itself.
        reach().await;
        stage.kill(2);
        stage.revive(1);
        let outcome = timeout(Duration::from_secs(60), reach()).await;
        assert_eq!(outcome.is_ok(), comes_back, "{strategy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_may_ask_to_bootstrap_again() {
    let stage = Stage::new(2, 1);
    let cluster = stage.cluster(&[("bootstrap.servers", "broker:9001")]);
    assert_eq!(&*cluster.id().await.unwrap(), "stage");
    stage.world().metadata_error = ErrorCode::REBOOTSTRAP_REQUIRED;
    let dialled = stage.world().dialled.len();
    let error = cluster.reach().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::REBOOTSTRAP_REQUIRED));
    assert!(stage.world().dialled[dialled..].iter().any(|&(_, id)| id == 1), "it dialled anew");
    stage.world().metadata_error = ErrorCode::NONE;
    cluster.reach().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn brokers_that_give_no_map_for_long_are_forgotten() {
    let stage = Stage::new(2, 1);
    let settings = [
        ("bootstrap.servers", "broker:9002"),
        ("metadata.recovery.rebootstrap.trigger.ms", "5000"),
        ("default.api.timeout.ms", "20000"),
    ];
    let cluster = stage.cluster(&settings);
    cluster.reach().await.unwrap();
    stage.world().metadata_error = ErrorCode::COORDINATOR_NOT_AVAILABLE;
    let dialled = stage.world().dialled.len();
    let begun = Instant::now();
    let ask = || cluster.look_at(crate::cluster::Topics::None);
    cluster.retrying("asking", ask).await.map(drop).unwrap_err();
    let anew = stage.world().dialled[dialled..].to_vec();
    let first = anew.iter().find(|(when, _)| *when > begun).expect("it bootstrapped again");
    let after = (first.0 - begun).as_secs();
    assert!(first.1 == 2 && (5..=7).contains(&after), "{anew:?} after {after} s");
}

#[test]
fn what_callers_wait_for_can_be_waited_for_on_any_thread() {
    fn check<T: Send>(_: impl FnOnce(Producer) -> T) {}
    check(|producer| async move {
        producer.init_transactions().await?;
        let txn = producer.begin().await?;
        txn.send(record(0, "a")).await?;
        txn.send_offsets([], &super::ConsumerGroupMetadata::of_group("g")).await?;
        txn.commit().await?;
        producer.begin().await?.abort().await?;
        producer.flush().await;
        producer.close(Duration::ZERO).await
    });
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_refreshed_in_the_background() {
    let stage = Stage::new(1, 1);
    let producer = stage.producer(&[("metadata.max.age.ms", "10000"), ("linger.ms", "0")]);
    for number in numbers(60) {
        let begun = Instant::now();
        producer.send(record(0, &number)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(100));
        sleep(Duration::from_secs(1)).await;
    }
    let asked = stage.world().metadata_requests;
    assert!((6..=9).contains(&asked), "{asked}");
    sleep(Duration::from_secs(600)).await;
    let idle = stage.world().metadata_requests - asked;
    assert!(idle <= 1, "what nobody uses is not asked for: {idle}");
}
