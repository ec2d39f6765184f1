//! Members read through a socket: what a fetch waits for, and what becomes of records that it was given.

use std::time::Duration;

use wire::messages::share_fetch::{FetchPartition, FetchTopic, ShareFetchRequest};
use wire::{ErrorCode, Str, Uuid};

use crate::member::{
    Member, acquired, batch_of, broker, broker_with, configure, initialize, now, summary, topic_id,
};
use crate::support::{TestClient, wait_until};

#[test]
fn two_members_share_a_partition_and_what_is_released_goes_to_the_other() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(10));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    assert_eq!(two.takes(4), [(3, 6, 1)]);
    assert_eq!(one.says(&[(0, 2, &[1, 2, 3])]), ErrorCode::NONE);
    assert_eq!(two.takes(2), [(1, 1, 2), (7, 7, 1)]);
    assert_eq!(one.says(&[(3, 3, &[1])]), ErrorCode::INVALID_RECORD_STATE);
    // What is said with a fetch counts as well.
    let data = two.fetch(1, &[(1, 1, &[1]), (3, 6, &[1]), (7, 7, &[1])]);
    assert_eq!((data.acknowledge_error_code, acquired(&data)), (ErrorCode::NONE, vec![(8, 8, 1)]));
    wait_until(|| summary(&mut client, topic) == (8, 0));
}

#[test]
fn a_fetch_waits_for_records_and_for_those_that_come_back() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(one.ask(1, &[], 0).responses[0].partitions[0].acquired_records, []);
    let given = meanwhile(&mut one, || {
        client.append("jobs", 0, batch_of(1));
    });
    assert_eq!(given, [(0, 0, 1)]);
    let given = meanwhile(&mut two, || assert_eq!(one.says(&[(0, 0, &[2])]), ErrorCode::NONE));
    assert_eq!(given, [(0, 0, 2)]);
    // A member that is gone leaves what it has to others, as if it had not had it.
    assert_eq!(meanwhile(&mut one, || drop(two)), [(0, 0, 2)]);
}

/// What a member gets that waits for a record while something happens.
fn meanwhile(member: &mut Member, happens: impl FnOnce()) -> Vec<(i64, i64, i16)> {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| member.takes(1));
        happens();
        waiting.join().unwrap()
    })
}

#[test]
fn a_fetch_that_acknowledges_waits_as_any_other() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(3));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    let began = now();
    let mut answer = one.ask(3, &[(0, 0, &[1])], 500);
    assert!(began.elapsed() >= Duration::from_millis(500));
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!((data.acknowledge_error_code, acquired(&data)), (ErrorCode::NONE, vec![]));

    // What was said counts meanwhile, and is told with what comes.
    let began = now();
    let data = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.fetch(3, &[(1, 1, &[1])]));
        wait_until(|| summary(&mut client, topic) == (2, 0));
        client.append("jobs", 0, batch_of(1));
        waiting.join().unwrap()
    });
    assert_eq!((data.acknowledge_error_code, acquired(&data)), (ErrorCode::NONE, vec![(3, 3, 1)]));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    // So is a refusal.
    let began = now();
    let mut answer = one.ask(3, &[(4, 4, &[1])], 500);
    assert!(began.elapsed() >= Duration::from_millis(500));
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!(data.acknowledge_error_code, ErrorCode::INVALID_RECORD_STATE);

    // A session that ends waits for nothing.
    one.epoch = -1;
    let began = now();
    let mut answer = one.ask(0, &[(2, 3, &[1])], 60_000);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!(data.acknowledge_error_code, ErrorCode::NONE);
    assert_eq!(summary(&mut client, topic), (4, 0));
}

#[test]
fn a_fetch_waits_for_as_much_as_it_wants_and_no_longer_than_it_said() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    for _ in 0..3 {
        client.append("jobs", 0, batch_of(4));
    }
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut request = one.request(12, &[], 500);
    (request.min_bytes, request.batch_size, request.share_acquire_mode) = (100_000, 5, 0);
    let began = now();
    let answer = one.client.ask(request);
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!(acquired(&answer.responses[0].partitions[0]), [(0, 7, 1), (8, 11, 1)]);

    client.append("jobs", 0, batch_of(4));
    let mut request = one.request(12, &[], 60_000);
    request.min_bytes = 50;
    assert_eq!(acquired(&one.client.ask(request).responses[0].partitions[0]), [(12, 15, 1)]);
}

#[test]
fn a_partition_in_error_does_not_keep_a_fetch_from_waiting_for_the_others() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    let unknown = |mut request: ShareFetchRequest| {
        let place = FetchPartition::default();
        request.topics.push(FetchTopic { topic_id: Uuid([9; 16]), partitions: vec![place] });
        request
    };
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let request = unknown(one.request(1, &[], 500));
    let began = now();
    let answer = one.client.ask(request);
    assert!(began.elapsed() >= Duration::from_millis(500));
    let told: Vec<_> = answer.responses.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!(told.iter().filter(|told| **told == ErrorCode::UNKNOWN_TOPIC_ID).count(), 1, "{told:?}");

    // Records come at once, and the error with them.
    client.append("jobs", 0, batch_of(1));
    let request = unknown(one.request(1, &[], 60_000));
    let answer = one.client.ask(request);
    assert_eq!(answer.responses.len(), 2);
    assert!(answer.responses.iter().any(|topic| !topic.partitions[0].acquired_records.is_empty()));

    // Where there is nothing but errors these are told soon, and not as fast as they are asked for.
    let mut two = Member::new("two", Uuid([9; 16]), TestClient::connect(&broker));
    assert_eq!(two.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    let began = now();
    assert_eq!(two.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_lock_ends_and_the_delivery_limit_gives_a_record_up() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    let configs = [("share.record.lock.duration.ms", "1000"), ("share.delivery.count.limit", "2")];
    assert_eq!(configure(&mut client, &configs), (ErrorCode::NONE, None));
    client.append("jobs", 0, batch_of(2));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(1), [(0, 0, 1)]);
    assert_eq!(two.takes(2), [(1, 1, 1)]);
    assert_eq!(two.says(&[(1, 1, &[1])]), ErrorCode::NONE);
    assert_eq!(two.takes(2), [(0, 0, 2)]);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::INVALID_RECORD_STATE);
    wait_until(|| summary(&mut client, topic) == (2, 0));
    assert_eq!(two.says(&[(0, 0, &[1])]), ErrorCode::NONE, "what is done with anyway can be acknowledged");
}

#[test]
fn what_was_acknowledged_survives_the_broker() {
    let (mut broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(6));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(5), [(0, 4, 1)]);
    assert_eq!(one.says(&[(0, 0, &[1]), (2, 3, &[1, 2])]), ErrorCode::NONE);
    broker.kill(|| ());
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut taken = Vec::new();
    wait_until(|| {
        one.epoch = 0;
        let data = one.fetch(9, &[]);
        taken = acquired(&data);
        data.error_code.is_ok() && !taken.is_empty()
    });
    assert_eq!(taken, [(1, 1, 1), (3, 3, 2), (4, 5, 1)]);
}

#[test]
fn a_group_begins_where_it_is_told_to() {
    let (broker, _) = broker();
    let mut client = TestClient::connect(&broker);
    for (topic, reset, expected) in
        [("latest", "latest", 3), ("earliest", "earliest", 0), ("ago", "by_duration:PT1H", 0)]
    {
        assert_eq!(configure(&mut client, &[("share.auto.offset.reset", reset)]), (ErrorCode::NONE, None));
        client.create_topic(topic, 1);
        client.append(topic, 0, batch_of(3));
        let id = topic_id(&mut client, topic);
        initialize(&mut client, id, 0, -1);
        let mut member = Member::new("one", id, TestClient::connect(&broker));
        assert!(member.ask(0, &[], 0).error_code.is_ok());
        let _ = member.ask(1, &[], 0);
        wait_until(|| summary(&mut client, id).0 == expected);
    }
    for (key, value) in [
        ("share.auto.offset.reset", "sometimes"),
        ("share.record.lock.duration.ms", "999"),
        ("share.record.lock.duration.ms", "60001"),
        ("share.isolation.level", "serializable"),
        ("share.nonsense", "1"),
        ("share.session.timeout.ms", "1000"),
    ] {
        let (error, message) = configure(&mut client, &[(key, value)]);
        assert_eq!(error, ErrorCode::INVALID_CONFIG, "{key}={value}");
        assert!(message.is_some_and(|message| message.contains(key)), "{key}={value}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(3));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::INVALID_SHARE_SESSION_EPOCH);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::SHARE_SESSION_NOT_FOUND);
    one.epoch = 0;
    assert_eq!(one.ask(1, &[(0, 0, &[1])], 0).error_code, ErrorCode::INVALID_REQUEST);
    one.epoch = 0;
    assert_eq!(one.takes(1), [(0, 0, 1)]);
    assert_eq!(one.says(&[(0, 0, &[9])]), ErrorCode::INVALID_REQUEST);
    assert_eq!(one.says(&[(0, 0, &[1, 1])]), ErrorCode::INVALID_REQUEST);
    assert_eq!(one.says(&[(1, 0, &[1])]), ErrorCode::INVALID_REQUEST);
    assert_eq!(one.says_in(7, &[(0, 0, &[1])]), ErrorCode::INVALID_SHARE_SESSION_EPOCH);
    assert_eq!(one.says(&[(0, 0, &[4])]), ErrorCode::NONE);
    assert_eq!(one.says_in(-1, &[(0, 0, &[1])]), ErrorCode::NONE);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::SHARE_SESSION_NOT_FOUND);

    let mut other = Member::new("one", Uuid([9; 16]), TestClient::connect(&broker));
    assert_eq!(other.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    for (group, member) in
        [(None, Some("m")), (Some(""), Some("m")), (Some("g"), None), (Some("g"), Some(""))]
    {
        let request = ShareFetchRequest {
            group_id: group.map(Str::from),
            member_id: member.map(Str::from),
            ..Default::default()
        };
        assert_eq!(client.ask(request).error_code, ErrorCode::INVALID_REQUEST);
    }
    // A group whose share state nobody has begun.
    client.create_topic("others", 1);
    let others = topic_id(&mut client, "others");
    let mut stranger = Member::new("one", others, TestClient::connect(&broker));
    assert_eq!(stranger.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_SERVER_ERROR);
}

#[test]
fn what_nobody_reads_is_let_go_of() {
    let (broker, topic) = broker_with(&["admin.listener=127.0.0.1:0"]);
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(2));
    let is_let_go_of = || broker.metrics().contains("ottla_share_partitions 0\n");
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(1), [(0, 0, 1)]);
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(two.takes(1), [(1, 1, 1)]);
    drop(one);
    assert_eq!(two.says(&[(1, 1, &[1])]), ErrorCode::NONE);
    assert!(!is_let_go_of());
    drop(two);
    wait_until(is_let_go_of);
    // Nor does it stay when whoever asked for it does not wait until it is loaded.
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.ask(1, &[], 0).error_code, ErrorCode::NONE);
    drop(one);
    wait_until(is_let_go_of);
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(2), [(0, 0, 1)]);
}
