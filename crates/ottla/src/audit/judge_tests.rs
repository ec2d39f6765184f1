//! Streams of stamps, and what the judge makes of them.

use expect_test::{Expect, expect};
use wire::{Millis, Offset, PartitionId};

use super::{Beginning, Bounds, Judge, Judgement, Patience};
use crate::audit::stamp::Stamp;

/// Records in the order in which they are read: `KEY:NUMBER`, `KEY:NUMBER/PARTITION`, with `!` behind it what the producer gave
/// up. One comes every 10 ms and took 5; `RUN.KEY` is of another run.
fn see(judge: &mut Judge, story: &str) {
    for (at, record) in story.split_whitespace().enumerate() {
        let at = i64::try_from(at).unwrap();
        let (key, rest) = record.split_once(':').unwrap();
        let (run, key) = key.split_once('.').unwrap_or(("", key));
        let (rest, void) = rest.strip_suffix('!').map_or((rest, false), |rest| (rest, true));
        let (sequence, partition) = rest.split_once('/').unwrap_or((rest, "0"));
        let time = Millis(at * 10);
        let sequence = sequence.parse().unwrap();
        let stamp = Stamp { run: run.to_owned(), key: key.to_owned(), sequence, time, void };
        judge.see(stamp, PartitionId(partition.parse().unwrap()), Offset(at), Millis(time.0 + 5));
    }
}

fn show(judgement: &Judgement) -> String {
    let total = &judgement.total;
    let mut text = format!(
        "{}: {} records, {} lost, {} doubled, {} reordered",
        if judgement.is_clean() { "clean" } else { "not clean" },
        total.records,
        total.lost,
        total.doubled,
        total.reordered
    );
    for (count, name) in [(judgement.awaited, "awaited"), (judgement.not_judged, "not judged")] {
        if count > 0 {
            text += &format!(", {count} {name}");
        }
    }
    for finding in &judgement.findings {
        let (first, last) = finding.sequences;
        let offset = finding.offset.map_or_else(|| "before".to_owned(), |offset| format!("at {offset}"));
        text += &format!(
            "\n{} {} {first}-{last} {offset} in {} ms {}",
            finding.what.name(),
            finding.key,
            finding.partition,
            finding.time.0
        );
    }
    text
}

fn judged(bounds: Bounds, beginning: Beginning, story: &str) -> Judge {
    let mut judge = Judge::new(bounds, beginning, 1_000);
    see(&mut judge, story);
    judge
}

fn check(story: &str, expected: Expect) {
    let judge = judged(Bounds::default(), Beginning::Zero, story);
    expected.assert_eq(&show(&judge.judgement(Patience::Over, None)));
}

#[test]
fn records_that_come_once_and_in_order_are_clean() {
    check("a:0 b:0 a:1 b:1 a:2", expect!["clean: 5 records, 0 lost, 0 doubled, 0 reordered"]);
    check("", expect!["clean: 0 records, 0 lost, 0 doubled, 0 reordered"]);
}

#[test]
fn a_gap_that_never_fills_is_lost() {
    check(
        "a:0 b:0 a:1 a:4 b:1",
        expect![[r#"
            not clean: 5 records, 2 lost, 0 doubled, 0 reordered
            lost a 2-3 before in 0 ms 30"#]],
    );
    check(
        "a:1 a:2",
        expect![[r#"
            not clean: 2 records, 1 lost, 0 doubled, 0 reordered
            lost a 0-0 before in 0 ms 0"#]],
    );
}

#[test]
fn a_gap_that_fills_late_was_a_reordering() {
    check(
        "a:0 a:2 a:3 a:1 a:4",
        expect![[r#"
            not clean: 5 records, 0 lost, 0 doubled, 1 reordered
            reordered a 1-1 at 3 in 0 ms 30"#]],
    );
}

#[test]
fn a_batch_that_comes_again_is_doubled_and_not_reordered() {
    check(
        "a:0 a:1 a:2 a:1 a:2 a:3",
        expect![[r#"
            not clean: 6 records, 0 lost, 2 doubled, 0 reordered
            doubled a 1-1 at 3 in 0 ms 30
            doubled a 2-2 at 4 in 0 ms 40"#]],
    );
}

#[test]
fn partitions_of_one_key_keep_an_order_each_and_lose_together() {
    check("a:1/1 a:3/1 a:0/0 a:2/0 a:4/0", expect!["clean: 5 records, 0 lost, 0 doubled, 0 reordered"]);
    check(
        "a:1/1 a:0/0 a:4/0 a:2/0",
        expect![[r#"
            not clean: 4 records, 1 lost, 0 doubled, 1 reordered
            lost a 3-3 before in 0 ms 20
            reordered a 2-2 at 3 in 0 ms 30"#]],
    );
}

#[test]
fn each_run_counts_for_itself() {
    check("one.a:0 one.a:1 two.a:0 two.a:1", expect!["clean: 4 records, 0 lost, 0 doubled, 0 reordered"]);
}

#[test]
fn what_the_producer_gave_up_may_be_there_or_not() {
    check("a:0 a:1! a:2", expect!["clean: 2 records, 0 lost, 0 doubled, 0 reordered"]);
    check("a:0 a:1 a:1! a:2", expect!["clean: 3 records, 0 lost, 0 doubled, 0 reordered"]);
    check("a:0 a:1! a:1 a:2", expect!["clean: 3 records, 0 lost, 0 doubled, 0 reordered"]);
    check(
        "a:0 a:1! a:1 a:1",
        expect![[r#"
            not clean: 3 records, 0 lost, 1 doubled, 0 reordered
            doubled a 1-1 at 3 in 0 ms 30"#]],
    );
}

#[test]
fn whoever_begins_in_the_middle_misses_nothing_before() {
    let judge = judged(Bounds::default(), Beginning::FirstSeen, "a:7 a:8 a:10");
    expect![[r#"
        not clean: 3 records, 1 lost, 0 doubled, 0 reordered
        lost a 9-9 before in 0 ms 20"#]]
    .assert_eq(&show(&judge.judgement(Patience::Over, None)));
}

#[test]
fn what_is_missing_is_awaited_before_it_is_lost() {
    let mut judge = judged(Bounds::default(), Beginning::Zero, "a:0 a:2");
    expect!["clean: 2 records, 0 lost, 0 doubled, 0 reordered, 1 awaited"]
        .assert_eq(&show(&judge.judgement(Patience::Until(Millis(15)), None)));
    expect![[r#"
        not clean: 2 records, 1 lost, 0 doubled, 0 reordered
        lost a 1-1 before in 0 ms 10"#]]
    .assert_eq(&show(&judge.judgement(Patience::Until(Millis(16)), None)));
    see(&mut judge, "a:1");
    expect![[r#"
        not clean: 3 records, 0 lost, 0 doubled, 1 reordered
        reordered a 1-1 at 0 in 0 ms 0"#]]
    .assert_eq(&show(&judge.judgement(Patience::Over, None)));
}

#[test]
fn what_was_expected_and_leaves_no_gap_is_lost_at_the_end() {
    let judge = judged(Bounds::default(), Beginning::Zero, "a:0 a:2 b:0 a:3!");
    let over = judge.judgement(Patience::Over, Some(7));
    assert_eq!((over.total.lost, over.lost_at_the_end, over.awaited), (3, 2, 0));
    let waiting = judge.judgement(Patience::Until(Millis(0)), Some(7));
    assert_eq!((waiting.total.lost, waiting.lost_at_the_end, waiting.awaited), (0, 0, 3));
    assert_eq!(judge.judgement(Patience::Over, Some(5)).lost_at_the_end, 0);
}

#[test]
fn more_gaps_than_are_kept_stay_lost_and_what_comes_of_them_is_not_judged() {
    let bounds = Bounds { key_ranges_max: 2, ..Bounds::default() };
    let mut judge = judged(bounds, Beginning::Zero, "a:0 a:2 a:4 a:6");
    expect![[r#"
        not clean: 4 records, 3 lost, 0 doubled, 0 reordered
        lost a 5-5 before in 0 ms 30"#]]
    .assert_eq(&show(&judge.judgement(Patience::Over, None)));
    assert_eq!(judge.judgement(Patience::Over, Some(7)).total.lost, 3);
    see(&mut judge, "a:1 a:0 a:5");
    expect![[r#"
        not clean: 5 records, 2 lost, 0 doubled, 1 reordered, 2 not judged
        reordered a 5-5 at 2 in 0 ms 20"#]]
    .assert_eq(&show(&judge.judgement(Patience::Over, None)));
    // All keys together are bounded, too.
    let bounds = Bounds { ranges_max: 3, ..Bounds::default() };
    let judge = judged(bounds, Beginning::Zero, "a:0 b:0 a:2 b:2 b:4");
    assert!(judge.ranges <= 4, "{} ranges", judge.ranges);
    assert_eq!(judge.judgement(Patience::Over, None).total.lost, 3);
}

#[test]
fn records_of_more_keys_than_are_kept_are_not_judged() {
    let bounds = Bounds { keys_max: 1, ..Bounds::default() };
    let judge = judged(bounds, Beginning::Zero, "a:0 b:0 a:1 b:5");
    expect!["not clean: 2 records, 0 lost, 0 doubled, 0 reordered, 2 not judged"]
        .assert_eq(&show(&judge.judgement(Patience::Over, None)));
}

#[test]
fn more_findings_than_are_kept_are_counted() {
    let bounds = Bounds { findings_max: 2, ..Bounds::default() };
    let judge = judged(bounds, Beginning::Zero, "a:0 a:0 a:0 a:0 a:2");
    let judgement = judge.judgement(Patience::Over, None);
    assert_eq!((judgement.findings.len(), judgement.findings_left_out), (2, 2));
    assert_eq!((judgement.total.doubled, judgement.total.lost), (3, 1));
}

#[test]
fn buckets_grow_when_there_would_be_too_many_and_lose_no_record() {
    let bounds = Bounds { buckets_max: 4, ..Bounds::default() };
    let mut judge = Judge::new(bounds, Beginning::Zero, 10);
    let story: Vec<_> = (0..100).map(|sequence| format!("a:{sequence}/{}", sequence % 2)).collect();
    see(&mut judge, &story.join(" "));
    let judgement = judge.judgement(Patience::Over, None);
    assert!(judgement.buckets.len() <= 4 && judgement.bucket_ms > 10, "{}", judgement.bucket_ms);
    assert_eq!(judgement.buckets.values().map(|tally| tally.records).sum::<u64>(), 100);
    assert_eq!(judgement.buckets.values().map(|tally| tally.delay.len()).sum::<u64>(), 100);
    assert_eq!(judgement.total.delay.max(), 5);
}

#[test]
fn numbers_and_times_at_their_limits_are_numbers_and_times() {
    let mut judge = Judge::new(Bounds::default(), Beginning::Zero, 1);
    for (sequence, time, read) in
        [(u64::MAX, i64::MAX, i64::MIN), (0, i64::MIN, i64::MAX), (u64::MAX, 0, 0), (u64::MAX - 1, -1, 1)]
    {
        let stamp =
            Stamp { run: String::new(), key: String::new(), sequence, time: Millis(time), void: false };
        judge.see(stamp, PartitionId(0), Offset(0), Millis(read));
    }
    let judgement = judge.judgement(Patience::Over, Some(u64::MAX));
    assert_eq!((judgement.total.records, judgement.total.doubled), (4, 1));
    assert_eq!(judgement.total.lost, u64::MAX - 2);
}
