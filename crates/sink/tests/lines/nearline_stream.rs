//! The near-real-time line into streams of a real Redis that is killed, set back and written to by others, beside a table: each record
//! is there once, or the line stops and says what it has found.

use std::collections::BTreeMap;

use crate::servers::Redis;
use crate::support::world::{PATIENCE, World};
use client::{Header, ProducerRecord};
use sink::{Line, Until, Verified};
use tokio::time::timeout;
use wire::{Millis, Offset, PartitionId, TopicPartition};

const STREAM: &str = "ottla:stream:orders:orders:0";
const POSITION: &str = "{ottla:stream:orders:orders:0}:position";

fn streams(redis: &Redis) -> String {
    format!("[nearline]\nstream = \"{}0\"\n", redis.address())
}

fn both(world: &World, redis: &Redis) -> String {
    let table = world.path("orders");
    format!("[offline]\ntable = {table:?}\nroll_rows = 100\n{}", streams(redis))
}

/// The entries of a partition as any client gets them.
async fn entries(redis: &Redis, partition: i32) -> Vec<(String, Vec<String>)> {
    redis.ask(&["XRANGE", &format!("ottla:stream:orders:orders:{partition}"), "-", "+"]).await
}

/// Each offset of the partition up to `end` has one entry, in order.
async fn assert_offsets(redis: &Redis, partition: i32, end: i64) {
    let ids: Vec<_> = entries(redis, partition).await.into_iter().map(|(id, _)| id).collect();
    let expected: Vec<_> = (0..end).map(|offset| format!("{offset}-1")).collect();
    assert_eq!(ids, expected);
}

async fn position(redis: &Redis) -> BTreeMap<String, String> {
    redis.ask(&["HGETALL", POSITION]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_lines_have_each_record_once_while_they_and_redis_are_killed_again_and_again() {
    let world = World::new(2).await;
    let mut redis = Redis::start().await;
    let both = both(&world, &redis);
    for round in 0..6 {
        world.send(0, 0..300).await;
        world.send(1, 0..130).await;
        let running = world.start(Until::Stopped, &both);
        if round % 3 == 1 {
            redis.kill_and_restart().await;
        }
        world.until_committed(&both, Line::Nearline, i64::from(round) * 430 + 150).await;
        if round % 3 == 2 {
            // Under a line that goes on.
            redis.kill_and_restart().await;
            world.send(0, 0..0).await;
            world.until_committed(&both, Line::Nearline, i64::from(round) * 430 + 430).await;
        }
        running.abort();
        let _ = running.await;
    }
    let done = world.run_to_end(&both).await.unwrap();
    let lines: Vec<_> = done.iter().map(|done| (done.line, done.partition.partition.0, done.to.0)).collect();
    let expected = [
        (Line::Offline, 0, 1800),
        (Line::Offline, 1, 780),
        (Line::Nearline, 0, 1800),
        (Line::Nearline, 1, 780),
    ];
    assert_eq!(lines, expected);
    assert_offsets(&redis, 0, 1800).await;
    assert_offsets(&redis, 1, 780).await;
    world.assert_whole(&both, 6 * 430).await;
    let status = world.status(&both).await.unwrap();
    assert!(status.iter().all(|one| (one.lag, one.ahead) == (0, Some(0))), "{status:?}");
    assert!(status.iter().all(|one| one.output == one.committed && one.read == one.committed), "{status:?}");
    let common: Vec<_> =
        world.verified(&both).await.iter().map(|one| one.common.map(|range| range.end.0)).collect();
    assert_eq!(common, [None, None, Some(1800), Some(780)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_says_all_of_its_record() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let record = |key: Option<&'static str>, value: Option<&'static str>| {
        let mut record = ProducerRecord::new("orders", "");
        record.partition = Some(PartitionId(0));
        (record.key, record.value) = (key.map(Into::into), value.map(Into::into));
        record.timestamp = Some(Millis(1_700_000_000_000));
        record
    };
    let mut with_headers = record(Some("k"), Some("v"));
    let header = |key: &str, value: Option<&'static str>| Header {
        key: wire::Str::copy_from(key),
        value: value.map(Into::into),
    };
    with_headers.headers = vec![header("b", Some("x")), header("a", None), header("b", Some(""))];
    world.send_all([record(None, None), record(Some(""), Some("")), with_headers].into_iter()).await;
    world.run_to_end(&streams(&redis)).await.unwrap();
    let shown: Vec<_> = entries(&redis, 0)
        .await
        .into_iter()
        .map(|(id, fields)| format!("{id} {}", fields.join("|")))
        .collect();
    assert_eq!(
        shown,
        [
            "0-1 timestamp|1700000000000",
            "1-1 timestamp|1700000000000|key||value|",
            r#"2-1 timestamp|1700000000000|key|k|value|v|headers|[["b","eA=="],["a",null],["b",""]]"#,
        ]
    );
    // Who reads on from an offset gets the record of that offset first.
    type Entry = (String, Vec<String>);
    let read: Vec<(String, Vec<Entry>)> = redis.ask(&["XREAD", "COUNT", "1", "STREAMS", STREAM, "1"]).await;
    assert_eq!(read[0].1[0].0, "1-1");
    let kept = position(&redis).await;
    let told = ["begun", "next", "last", "fence"].map(|name| kept[name].as_str());
    assert_eq!(told, ["0", "3", "2-1", "1"]);
    world.assert_whole(&streams(&redis), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_lost_its_last_second_is_gone_on_with_from_there() {
    let world = World::new(1).await;
    let mut redis = Redis::start().await;
    let lines = both(&world, &redis);
    world.send(0, 0..120).await;
    let running = world.start(Until::Stopped, &lines);
    world.until_committed(&streams(&redis), Line::Nearline, 120).await;
    for round in 1..=3 {
        let copy = redis.copy_of_its_files();
        world.send(0, 0..200).await;
        world.until_committed(&streams(&redis), Line::Nearline, 120 + round * 201 - 1).await;
        redis.kill_and_set_back(&copy).await;
        // The next record is one that Redis has not lost, and shows what it has.
        world.send(0, 0..1).await;
        world.until_committed(&streams(&redis), Line::Nearline, 120 + round * 201).await;
    }
    let end = 120 + 3 * 201;
    assert_offsets(&redis, 0, end).await;
    running.abort();
    let _ = running.await;
    // And at rest, to before what the line has seen last.
    let copy = redis.copy_of_its_files();
    world.send(0, 0..90).await;
    world.run_to_end(&lines).await.unwrap();
    redis.kill_and_set_back(&copy).await;
    world.send(0, 0..10).await;
    world.run_to_end(&lines).await.unwrap();
    assert_offsets(&redis, 0, end + 100).await;
    world.assert_whole(&lines, u64::try_from(end).unwrap() + 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_file_of_redis_is_cut_stream_and_position_are_of_one_another() {
    let world = World::new(1).await;
    let mut redis = Redis::start().await;
    let lines = streams(&redis);
    world.send(0, 0..300).await;
    world.run_to_end(&lines).await.unwrap();
    for bytes in [1, 10, 100, 777, 2_500, 9_999] {
        redis.kill_and_cut(bytes).await;
        let kept = position(&redis).await;
        let next: i64 = kept["next"].parse().unwrap();
        assert!(next < 300, "something is lost: {kept:?}");
        assert_offsets(&redis, 0, next).await;
        world.run_to_end(&lines).await.unwrap();
        assert_offsets(&redis, 0, 300).await;
    }
    world.assert_whole(&lines, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_paused_adds_nothing_once_it_is_taken_over() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = streams(&redis);
    world.send(0, 0..150).await;
    let first = world.start_that_can_pause("one", &lines);
    world.until_committed(&lines, Line::Nearline, 150).await;
    first.pause();
    world.send(0, 150..300).await;
    let second = world.start(Until::Stopped, &lines);
    world.until_committed(&lines, Line::Nearline, 300).await;
    let kept = position(&redis).await;
    assert_eq!(kept["fence"], "2");
    first.go_on();
    let refused = first.ended().await.unwrap_err().to_string();
    assert!(refused.contains("another instance"), "{refused}");
    world.send(0, 300..400).await;
    world.until_committed(&lines, Line::Nearline, 400).await;
    second.abort();
    let _ = second.await;
    assert_offsets(&redis, 0, 400).await;
    world.assert_whole(&lines, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_fenced_in_redis_alone_lets_go_and_redis_refuses_what_it_adds() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = streams(&redis);
    world.send(0, 0..100).await;
    let running = world.start(Until::Stopped, &lines);
    world.until_committed(&lines, Line::Nearline, 100).await;
    // Another holder, of whom the group knows nothing.
    redis.command(&["HSET", POSITION, "fence", "7", "holder", "5"]).await;
    world.send(0, 100..200).await;
    let refused = timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap_err().to_string();
    assert_eq!(refused, "orders-0 of line orders.nearline is held by another instance: epoch 1 is behind 7");
    assert_offsets(&redis, 0, 100).await;
    world.run_to_end(&lines).await.unwrap();
    assert_offsets(&redis, 0, 200).await;
    assert_eq!(position(&redis).await["fence"], "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_partitions_and_take_over_from_one_another() {
    let world = World::new(4).await;
    let redis = Redis::start().await;
    let lines = streams(&redis);
    let first = world.start_as("a", Until::Stopped, &lines);
    let second = world.start_as("b", Until::Stopped, &lines);
    for round in 0..3 {
        for partition in 0..4 {
            world.send(partition, 100 * round..100 * (round + 1)).await;
        }
        world.until_committed(&lines, Line::Nearline, 400 * (i64::from(round) + 1)).await;
    }
    first.abort();
    let _ = first.await;
    for partition in 0..4 {
        world.send(partition, 300..400).await;
    }
    world.until_committed(&lines, Line::Nearline, 1_600).await;
    second.abort();
    let _ = second.await;
    for partition in 0..4 {
        assert_offsets(&redis, partition, 400).await;
    }
    world.assert_whole(&lines, 1_600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_took_back_is_left_out_and_its_end_is_passed() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = streams(&redis);
    let producer = world.producer(Some("t"));
    producer.init_transactions().await.unwrap();
    for round in 0..6 {
        let transaction = producer.begin().await.unwrap();
        for number in 0..40 {
            transaction.send(crate::support::world::record(0, number)).await.unwrap();
        }
        match round % 2 {
            0 => transaction.commit().await.unwrap(),
            _ => transaction.abort().await.unwrap(),
        }
    }
    producer.close(PATIENCE).await.unwrap();
    let done = world.run_to_end(&lines).await.unwrap();
    assert_eq!((done[0].records, done[0].to), (120, Offset(6 * 41)));
    world.assert_whole(&lines, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_or_a_position_that_is_gone_and_what_is_not_the_lines_stop_it() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = streams(&redis);
    // A group of consumers that was there before the line.
    redis.command(&["XGROUP", "CREATE", STREAM, "readers", "$", "MKSTREAM"]).await;
    world.send(0, 0..50).await;
    world.run_to_end(&lines).await.unwrap();

    redis.command(&["RENAME", POSITION, "aside"]).await;
    let refused = world.refused(&lines).await;
    assert_eq!(
        refused,
        "orders-0 of line orders.nearline: the position of stream ottla:stream:orders:orders:0 is gone, and the stream has had \
         entries up to 49-1: put the hash {ottla:stream:orders:orders:0}:position back, or, to begin anew, remove the stream too \
         (DEL ottla:stream:orders:orders:0)"
    );
    assert!(!world.verified(&lines).await[0].is_clean());
    redis.command(&["RENAME", "aside", POSITION]).await;

    redis.command(&["RENAME", STREAM, "aside"]).await;
    let refused = world.refused(&lines).await;
    assert_eq!(
        refused,
        "orders-0 of line orders.nearline: stream ottla:stream:orders:orders:0 is gone, and its position says that it has had \
         entries up to 49-1: put the stream back, or, to begin anew, remove the stream and its position (DEL \
         ottla:stream:orders:orders:0 {ottla:stream:orders:orders:0}:position)"
    );
    redis.command(&["RENAME", "aside", STREAM]).await;
    world.run_to_end(&lines).await.unwrap();

    // Under a line that runs: somebody else's entry.
    let running = world.start(Until::Stopped, &lines);
    world.send(0, 50..60).await;
    world.until_committed(&lines, Line::Nearline, 60).await;
    redis.command(&["XADD", STREAM, "70-0", "a", "b"]).await;
    world.send(0, 60..90).await;
    let refused = timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap_err().to_string();
    assert!(
        refused.contains("has had entries up to 70-0, and its position says up to 59-1: somebody else has"),
        "{refused}"
    );
    // All of it is taken away, as that says, and it begins anew.
    redis.command(&["DEL", STREAM, POSITION]).await;
    world.run_to_end(&lines).await.unwrap();
    assert_offsets(&redis, 0, 90).await;

    // What cannot be a position, and what is none at all.
    redis.command(&["HSET", POSITION, "next", "-4"]).await;
    let refused = world.refused(&lines).await;
    assert!(refused.ends_with("next is -4, which is no offset; it is left as it is"), "{refused}");
    redis.command(&["DEL", POSITION]).await;
    redis.command(&["SET", POSITION, "90"]).await;
    let refused = world.refused(&lines).await;
    assert!(refused.contains("it is left as it is"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_lost_everything_under_a_line_stops_it() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = streams(&redis);
    world.send(0, 0..50).await;
    let running = world.start(Until::Stopped, &lines);
    world.until_committed(&lines, Line::Nearline, 50).await;
    redis.command(&["FLUSHALL"]).await;
    world.send(0, 50..60).await;
    let refused = timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap_err().to_string();
    assert!(refused.contains("are both gone while the line was at work"), "{refused}");
    world.run_to_end(&lines).await.unwrap();
    world.assert_whole(&lines, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_and_records_that_were_removed_unread_stop_it() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = streams(&redis);
    world.send(0, 0..50).await;
    world.run_to_end(&lines).await.unwrap();
    world.send(0, 0..50).await;
    let partition = TopicPartition::new("orders", PartitionId(0));
    world.admin().delete_records(&[(partition, Offset(70))]).await.unwrap();
    let refused = world.refused(&lines).await;
    assert!(refused.contains("committed 50, found 70, log 70 to 100"), "{refused}");
    world.delete("orders").await;
    world.create("orders", 1).await;
    world.send(0, 0..80).await;
    let refused = world.refused(&lines).await;
    assert!(refused.contains("was deleted and created again"), "{refused}");
    redis.command(&["HSET", POSITION, "cluster_id", "another"]).await;
    let refused = world.refused(&lines).await;
    assert!(refused.contains("was read from cluster another into ottla:stream:orders:orders:0"), "{refused}");
    assert_offsets(&redis, 0, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_an_entry_that_was_removed_one_that_was_changed_and_one_that_is_foreign() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = both(&world, &redis);
    world.send(0, 0..100).await;
    world.run_to_end(&lines).await.unwrap();
    let sums = |all: &[Verified]| {
        let one = all.iter().find(|one| one.line == Line::Nearline).unwrap();
        (one.rows, one.records, one.missing, one.double, one.passed)
    };
    assert_eq!(sums(&world.verified(&lines).await), (100, 100, 0, 0, 0));

    redis.command(&["XDEL", STREAM, "40-1"]).await;
    let all = world.verified(&lines).await;
    assert_eq!(sums(&all), (99, 100, 1, 0, 0));
    assert_eq!(
        all[1].findings[0].to_string(),
        "orders-0 [0, 100): the lines do not hold the same records: their numbers differ, with 100 in the table and 99 in the \
         stream"
    );
    // The first one, too: nothing was trimmed.
    redis.command(&["XDEL", STREAM, "0-1"]).await;
    assert_eq!(sums(&world.verified(&lines).await), (98, 100, 2, 0, 0));

    redis.command(&["XADD", STREAM, "1000-0", "a", "b"]).await;
    let all = world.verified(&lines).await;
    assert_eq!(sums(&all), (99, 100, 2, 1, 0));
    let found: Vec<_> = all[1].findings.iter().map(ToString::to_string).collect();
    let foreign = format!("{STREAM} 1000-0: it is no entry of the line's, and readers of the stream get it");
    assert!(found.contains(&foreign), "{found:?}");

    // Another stream with the same ids: one entry is changed.
    let copied = entries(&redis, 0).await;
    redis.command(&["DEL", STREAM]).await;
    for (id, fields) in copied.iter().filter(|(id, _)| id != "1000-0") {
        let mut words = vec!["XADD", STREAM, id];
        let is_changed = id == "41-1";
        words.extend(
            fields.iter().map(|field| if is_changed && field == "value 41" { "forged" } else { field }),
        );
        redis.command(&words).await;
    }
    let all = world.verified(&lines).await;
    assert_eq!(sums(&all), (98, 100, 2, 0, 0));
    assert_eq!(
        all[1].findings[0].to_string(),
        format!("{STREAM} 41-1: it is not what orders-0 at offset 41 is")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_line_trims_is_passed_and_nothing_else() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = format!("{}stream_max_len = 150\n", both(&world, &redis));
    world.send(0, 0..1000).await;
    world.run_to_end(&lines).await.unwrap();
    let there = entries(&redis, 0).await;
    assert!((150..500).contains(&there.len()), "{}", there.len());
    let trimmed = 1000 - there.len() as u64;
    let kept = position(&redis).await;
    assert_eq!(kept["trimmed_to"], trimmed.to_string());
    let verified = world.verified(&lines).await;
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    let one = &verified[1];
    assert_eq!((one.rows, one.records, one.passed), (there.len() as u64, there.len() as u64, trimmed));
    assert_eq!(one.common.map(|range| range.start.0), Some(trimmed as i64));
    // The first that is there.
    redis.command(&["XDEL", STREAM, &there[0].0]).await;
    let verified = world.verified(&lines).await;
    assert_eq!((verified[1].missing, verified[1].passed), (1, trimmed));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_beside_a_line_that_trims_finds_nothing() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let lines = format!("{}stream_max_len = 150\n", streams(&redis));
    let running = world.start(Until::Stopped, &lines);
    for round in 1..=10 {
        world.send(0, 0..300).await;
        let verified = world.verified(&lines).await;
        assert!(verified[0].is_clean(), "{round}: {verified:?}");
    }
    world.until_committed(&lines, Line::Nearline, 3_000).await;
    running.abort();
    let _ = running.await;
    let one = &world.verified(&lines).await[0];
    assert!(one.is_clean() && one.rows + one.passed == 3_000, "{one:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_a_stream_needs_no_more_than_is_documented() {
    let world = World::new(1).await;
    let redis = Redis::start().await;
    let user = ["ACL", "SETUSER", "sink", "on", ">word", "~ottla:stream:*", "~{ottla:stream:*"];
    redis.command(&[&user[..], &["+@hash", "+@stream", "+@scripting", "+exists"]].concat()).await;
    let lines = streams(&redis).replace("://", "://sink:word@") + "stream_max_len = 50\n";
    world.send(0, 0..300).await;
    world.run_to_end(&lines).await.unwrap();
    let verified = world.verified(&lines).await;
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    redis.command(&["ACL", "SETUSER", "sink", "resetkeys"]).await;
    let refused = world.refused(&lines).await;
    assert!(refused.contains("; allow the user the streams") && !refused.contains("word"), "{refused}");
}
