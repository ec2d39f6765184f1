//! Stories of transactions, as text: what is asked, what is answered, which records come of it and which markers are wanted.

use std::collections::BTreeSet;
use std::fmt::Write;

use expect_test::{Expect, expect};
use wire::{Millis, PartitionId, ProducerEpoch, ProducerId, Str, TopicPartition};

use super::record::decode;
use super::{Decision, Producer, Protocol, Refusal, State, Transactions, Txn, TxnConfig};
use crate::coordinator::{CoordinatorRecord, Now, Replayed};

const CONFIG: TxnConfig = TxnConfig { timeout_ms_max: 60_000, id_expiration_ms: 1_000_000 };

/// One shard, told what to do in words.
struct Teller {
    transactions: Transactions,
    log: Vec<CoordinatorRecord>,
    now: Now,
    fresh: i64,
    told: String,
}

#[track_caller]
fn check(story: &str, expected: Expect) {
    let mut teller = Teller {
        transactions: Transactions::new(CONFIG, 7, 0),
        log: Vec::new(),
        now: Now::from(Millis(1_000)),
        fresh: 40,
        told: String::new(),
    };
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(teller.told, "{line}").unwrap();
        teller.step(line);
        teller.tell_markings();
        teller.check_replay();
    }
    expected.assert_eq(&teller.told);
}

fn partitions(words: &[&str]) -> BTreeSet<TopicPartition> {
    let named = words.iter().map(|word| {
        let (topic, index) = word.split_once(':').expect("topic:partition");
        TopicPartition::new(Str::copy_from(topic), PartitionId(index.parse().unwrap()))
    });
    named.collect()
}

/// `id/epoch`
fn producer(word: &str) -> Producer {
    let (id, epoch) = word.split_once('/').expect("id/epoch");
    Producer { id: ProducerId(id.parse().unwrap()), epoch: ProducerEpoch(epoch.parse().unwrap()) }
}

fn tell_producer(producer: Producer) -> String {
    format!("{}/{}", producer.id.0, producer.epoch.0)
}

impl Teller {
    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let id = Str::copy_from(words.get(1).copied().unwrap_or_default());
        let now = self.now;
        match words[0] {
            "init" => {
                let expected = words.get(2).map(|word| producer(word));
                self.init(&id, 5_000, expected);
            }
            "init-for" => self.init(&id, words[2].parse().unwrap(), None),
            "add" | "write" => {
                let protocol = if words[0] == "add" { Protocol::First } else { Protocol::Second };
                let partitions = partitions(&words[3..]);
                let added =
                    self.transactions.add_partitions(&id, producer(words[2]), &partitions, protocol, now);
                self.tell(added, |()| "ok".to_owned());
            }
            "missing" => {
                let missing = self.transactions.missing(&id, producer(words[2]), &partitions(&words[3..]));
                let missing = missing.map(|missing| format!("{missing:?}"));
                self.answer(missing.unwrap_or_else(|refusal| format!("{refusal:?}")));
            }
            "commit" | "abort" | "commit2" | "abort2" => {
                let commit = words[0].starts_with("commit");
                let protocol = if words[0].ends_with('2') { Protocol::Second } else { Protocol::First };
                let end = |teller: &mut Teller, fresh| {
                    teller.transactions.end(&id, producer(words[2]), commit, protocol, fresh, now)
                };
                let mut ended = end(self, None);
                if matches!(ended.1, Err(Refusal::NeedsProducerId)) {
                    let fresh = self.fresh();
                    ended = end(self, Some(fresh));
                }
                self.tell(ended, |next| format!("next {}", tell_producer(next)));
            }
            "marked" => {
                let partitions: Vec<_> = partitions(&words[3..]).into_iter().collect();
                let number = self.transactions.ids.get(&id).filter(|txn| txn.producer == producer(words[2]));
                let number = number.and_then(|txn| txn.marking).expect("it is being ended");
                let records = self.transactions.marked(&id, number, &partitions, now);
                self.tell_records(records);
            }
            "wait" => {
                let ms: i64 = words[1].parse().unwrap();
                self.now = Now { ticks: now.ticks.plus(ms), wall: now.wall.plus(ms) };
                let records = self.transactions.tick(self.now);
                self.tell_records(records);
            }
            "expire" => {
                let records = self.transactions.expire_ids(now.wall);
                self.tell_records(records);
            }
            "restart" => {
                self.transactions = self.replayed();
                self.transactions.loaded(now);
            }
            "age" => {
                // As if so many epochs had been used.
                let mut txn = self.transactions.ids[&id].clone();
                txn.producer.epoch = ProducerEpoch(words[2].parse().unwrap());
                let record = super::record::encode(&id, Some(&txn));
                self.transactions.ids.insert(id, txn);
                self.log.push(record);
            }
            other => panic!("{other}?"),
        }
    }

    fn fresh(&mut self) -> ProducerId {
        self.fresh += 1;
        ProducerId(self.fresh)
    }

    fn init(&mut self, id: &Str, timeout_ms: i32, expected: Option<Producer>) {
        let now = self.now;
        let mut begun = self.transactions.init_producer(id, timeout_ms, expected, None, now);
        if matches!(begun.1, Err(Refusal::NeedsProducerId)) {
            let fresh = self.fresh();
            begun = self.transactions.init_producer(id, timeout_ms, expected, Some(fresh), now);
        }
        self.tell(begun, tell_producer);
    }

    fn tell<T>(
        &mut self,
        (records, answer): (Vec<CoordinatorRecord>, Result<T, Refusal>),
        words: impl FnOnce(T) -> String,
    ) {
        self.tell_records(records);
        self.answer(answer.map_or_else(|refusal| format!("{refusal:?}"), words));
    }

    fn answer(&mut self, text: String) {
        writeln!(self.told, "    -> {text}").unwrap();
    }

    fn tell_records(&mut self, records: Vec<CoordinatorRecord>) {
        for record in records {
            let (id, txn) = decode(&record.key, record.value.as_deref()).unwrap();
            let text = txn.map_or("forgotten".to_owned(), |txn| tell_txn(&txn));
            writeln!(self.told, "    record {id}: {text}").unwrap();
            self.log.push(record);
        }
    }

    fn tell_markings(&mut self) {
        for marking in self.transactions.take_markings() {
            let what = if marking.commit { "commit" } else { "abort" };
            let partitions: Vec<_> = marking.partitions.iter().map(ToString::to_string).collect();
            let (producer, epoch) = (tell_producer(marking.producer), marking.coordinator_epoch);
            let partitions = partitions.join(" ");
            writeln!(self.told, "    mark {what} of {producer} by coordinator {epoch} in {partitions}")
                .unwrap();
        }
    }

    fn replayed(&self) -> Transactions {
        let mut replayed = Transactions::new(CONFIG, 7, 0);
        for record in &self.log {
            let (key, value) = (record.key.as_ref(), record.value.as_deref());
            replayed.load(Replayed::Record { key, value }).unwrap();
        }
        replayed
    }

    /// What was appended is what is believed: markers that were reported aside, and what is not stored.
    fn check_replay(&self) {
        let stored = |transactions: &Transactions| -> Vec<(Str, Txn)> {
            let of = |(id, txn): (&Str, &Txn)| {
                let partitions = match txn.state {
                    State::Preparing(_) => BTreeSet::new(),
                    _ => txn.partitions.clone(),
                };
                let txn = Txn {
                    last_epoch: ProducerEpoch::NONE,
                    deadline: None,
                    marking: None,
                    partitions,
                    ..txn.clone()
                };
                (id.clone(), txn)
            };
            transactions.ids.iter().map(of).collect()
        };
        assert_eq!(stored(&self.replayed()), stored(&self.transactions));
    }
}

fn tell_txn(txn: &Txn) -> String {
    let state = match txn.state {
        State::Empty => "empty".to_owned(),
        State::Ongoing => "ongoing".to_owned(),
        State::Preparing(Decision::Commit) => "prepares commit".to_owned(),
        State::Preparing(Decision::Abort) => "prepares abort".to_owned(),
        State::Complete(Decision::Commit) => "committed".to_owned(),
        State::Complete(Decision::Abort) => "aborted".to_owned(),
    };
    let mut text = format!("{} {state}", tell_producer(txn.producer));
    for partition in &txn.partitions {
        write!(text, " {partition}").unwrap();
    }
    if txn.next_id != ProducerId::NONE {
        write!(text, ", then {}", txn.next_id.0).unwrap();
    }
    text
}

#[test]
fn a_transaction_is_committed_when_every_partition_has_its_marker() {
    check(
        "init a
         add a 41/0 t:0 t:1
         add a 41/0 t:1
         commit a 41/0
         add a 41/0 t:2
         commit a 41/0
         marked a 41/0 t:0
         marked a 41/0 t:1
         commit a 41/0
         abort a 41/0
         add a 41/0 t:2",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            add a 41/0 t:0 t:1
                record a: 41/0 ongoing t-0 t-1
                -> ok
            add a 41/0 t:1
                -> ok
            commit a 41/0
                record a: 41/0 prepares commit t-0 t-1
                -> next 41/0
                mark commit of 41/0 by coordinator 7 in t-0 t-1
            add a 41/0 t:2
                -> ConcurrentTransactions
            commit a 41/0
                -> ConcurrentTransactions
            marked a 41/0 t:0
            marked a 41/0 t:1
                record a: 41/0 committed
            commit a 41/0
                -> next 41/0
            abort a 41/0
                -> InvalidTxnState
            add a 41/0 t:2
                record a: 41/0 ongoing t-2
                -> ok
        "#]],
    );
}

#[test]
fn with_epochs_of_their_own_each_transaction_has_the_next_one() {
    check(
        "init a
         write a 41/0 t:0
         commit2 a 41/0
         commit2 a 41/0
         write a 41/1 t:0
         abort2 a 41/1
         marked a 41/1 t:0
         commit2 a 41/0
         abort2 a 41/0
         write a 41/0 t:0
         write a 41/1 t:1
         abort2 a 41/1
         marked a 41/2 t:1
         abort2 a 41/2
         commit2 a 41/3",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            write a 41/0 t:0
                record a: 41/0 ongoing t-0
                -> ok
            commit2 a 41/0
                record a: 41/1 prepares commit t-0
                -> next 41/1
                mark commit of 41/1 by coordinator 7 in t-0
            commit2 a 41/0
                -> ConcurrentTransactions
            write a 41/1 t:0
                -> ConcurrentTransactions
            abort2 a 41/1
                -> ConcurrentTransactions
            marked a 41/1 t:0
                record a: 41/1 committed
            commit2 a 41/0
                -> next 41/1
            abort2 a 41/0
                -> InvalidTxnState
            write a 41/0 t:0
                -> ProducerFenced
            write a 41/1 t:1
                record a: 41/1 ongoing t-1
                -> ok
            abort2 a 41/1
                record a: 41/2 prepares abort t-1
                -> next 41/2
                mark abort of 41/2 by coordinator 7 in t-1
            marked a 41/2 t:1
                record a: 41/2 aborted
            abort2 a 41/2
                record a: 41/3 prepares abort
                record a: 41/3 aborted
                -> next 41/3
            commit2 a 41/3
                -> InvalidTxnState
        "#]],
    );
}

#[test]
fn a_new_producer_fences_the_old_one_and_aborts_what_it_left() {
    check(
        "init a
         add a 41/0 t:0
         init a
         init a
         commit a 41/0
         marked a 41/1 t:0
         init a
         add a 41/0 t:0
         add a 41/1 t:0
         add a 41/2 t:0",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            add a 41/0 t:0
                record a: 41/0 ongoing t-0
                -> ok
            init a
                record a: 41/1 prepares abort t-0
                -> ConcurrentTransactions
                mark abort of 41/1 by coordinator 7 in t-0
            init a
                -> ConcurrentTransactions
            commit a 41/0
                -> ProducerFenced
            marked a 41/1 t:0
                record a: 41/1 aborted
            init a
                record a: 41/2 empty
                -> 41/2
            add a 41/0 t:0
                -> ProducerFenced
            add a 41/1 t:0
                -> ProducerFenced
            add a 41/2 t:0
                record a: 41/2 ongoing t-0
                -> ok
        "#]],
    );
}

#[test]
fn a_producer_goes_on_after_an_error_and_may_ask_twice() {
    check(
        "init a
         init a 41/0
         init a 41/0
         init a 41/1
         init a 41/0
         init a 9/0
         add a 41/2 t:0
         init a 41/1
         init a 41/2",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            init a 41/0
                record a: 41/1 empty
                -> 41/1
            init a 41/0
                record a: 41/1 empty
                -> 41/1
            init a 41/1
                record a: 41/2 empty
                -> 41/2
            init a 41/0
                -> ProducerFenced
            init a 9/0
                -> ProducerFenced
            add a 41/2 t:0
                record a: 41/2 ongoing t-0
                -> ok
            init a 41/1
                -> ProducerFenced
            init a 41/2
                record a: 41/3 prepares abort t-0
                -> ConcurrentTransactions
                mark abort of 41/3 by coordinator 7 in t-0
        "#]],
    );
}

#[test]
fn epochs_that_are_used_up_go_on_under_a_new_id() {
    check(
        "init a
         age a 32766
         init a
         age a 32766
         init a 42/32766
         init a 42/32766
         age a 32766
         write a 43/32766 t:0
         commit2 a 43/32766
         commit2 a 43/32766
         write a 44/0 t:0
         commit2 a 44/0
         init a 44/0
         marked a 43/32767 t:0
         commit2 a 43/32766
         write a 44/0 t:0",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            age a 32766
            init a
                record a: 42/0 empty
                -> 42/0
            age a 32766
            init a 42/32766
                record a: 43/0 empty
                -> 43/0
            init a 42/32766
                record a: 43/0 empty
                -> 43/0
            age a 32766
            write a 43/32766 t:0
                record a: 43/32766 ongoing t-0
                -> ok
            commit2 a 43/32766
                record a: 43/32767 prepares commit t-0, then 44
                -> next 44/0
                mark commit of 43/32767 by coordinator 7 in t-0
            commit2 a 43/32766
                -> ConcurrentTransactions
            write a 44/0 t:0
                -> ConcurrentTransactions
            commit2 a 44/0
                -> ConcurrentTransactions
            init a 44/0
                -> ConcurrentTransactions
            marked a 43/32767 t:0
                record a: 44/0 committed
            commit2 a 43/32766
                -> next 44/0
            write a 44/0 t:0
                record a: 44/0 ongoing t-0
                -> ok
        "#]],
    );
}

#[test]
fn the_last_epoch_fences_and_is_nobodys() {
    check(
        "init a
         age a 32766
         write a 41/32766 t:0
         wait 5000
         marked a 41/32767 t:0
         abort2 a 41/32766
         init a 41/32766
         init a",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            age a 32766
            write a 41/32766 t:0
                record a: 41/32766 ongoing t-0
                -> ok
            wait 5000
                record a: 41/32767 prepares abort t-0
                mark abort of 41/32767 by coordinator 7 in t-0
            marked a 41/32767 t:0
                record a: 41/32767 aborted
            abort2 a 41/32766
                -> ProducerFenced
            init a 41/32766
                -> ProducerFenced
            init a
                record a: 42/0 empty
                -> 42/0
        "#]],
    );
}

#[test]
fn what_takes_too_long_is_aborted() {
    check(
        "init a
         add a 41/0 t:0
         wait 4999
         add a 41/0 t:1
         wait 1
         add a 41/0 t:1
         wait 10000
         marked a 41/1 t:0 t:1
         init a",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            add a 41/0 t:0
                record a: 41/0 ongoing t-0
                -> ok
            wait 4999
            add a 41/0 t:1
                record a: 41/0 ongoing t-0 t-1
                -> ok
            wait 1
                record a: 41/1 prepares abort t-0 t-1
                mark abort of 41/1 by coordinator 7 in t-0 t-1
            add a 41/0 t:1
                -> ProducerFenced
            wait 10000
            marked a 41/1 t:0 t:1
                record a: 41/1 aborted
            init a
                record a: 41/2 empty
                -> 41/2
        "#]],
    );
}

#[test]
fn a_new_coordinator_carries_on() {
    check(
        "init a
         add a 41/0 t:0
         wait 3000
         restart
         wait 1999
         wait 1
         restart
         marked a 41/1 t:0
         restart
         init b
         add b 42/0 t:0 u:1
         commit b 42/0
         restart",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            add a 41/0 t:0
                record a: 41/0 ongoing t-0
                -> ok
            wait 3000
            restart
            wait 1999
            wait 1
                record a: 41/1 prepares abort t-0
                mark abort of 41/1 by coordinator 7 in t-0
            restart
                mark abort of 41/1 by coordinator 7 in t-0
            marked a 41/1 t:0
                record a: 41/1 aborted
            restart
            init b
                record b: 42/0 empty
                -> 42/0
            add b 42/0 t:0 u:1
                record b: 42/0 ongoing t-0 u-1
                -> ok
            commit b 42/0
                record b: 42/0 prepares commit t-0 u-1
                -> next 42/0
                mark commit of 42/0 by coordinator 7 in t-0 u-1
            restart
                mark commit of 42/0 by coordinator 7 in t-0 u-1
        "#]],
    );
}

#[test]
fn who_has_nothing_to_say_is_refused() {
    check(
        "init-for a 60001
         init-for a 0
         init-for a 60000
         add b 41/0 t:0
         add a 9/0 t:0
         add a 41/7 t:0
         commit a 41/0
         abort a 41/0
         abort2 a 41/0
         missing a 41/0 t:0
         missing a 41/1 t:0
         write a 41/1 t:0
         missing a 41/1 t:0 t:1
         missing b 41/1 t:0
         commit2 a 41/7",
        expect![[r#"
            init-for a 60001
                -> InvalidTimeout { max: 60000 }
            init-for a 0
                -> InvalidTimeout { max: 60000 }
            init-for a 60000
                record a: 41/0 empty
                -> 41/0
            add b 41/0 t:0
                -> InvalidProducerIdMapping
            add a 9/0 t:0
                -> InvalidProducerIdMapping
            add a 41/7 t:0
                -> ProducerFenced
            commit a 41/0
                -> InvalidTxnState
            abort a 41/0
                -> InvalidTxnState
            abort2 a 41/0
                record a: 41/1 prepares abort
                record a: 41/1 aborted
                -> next 41/1
            missing a 41/0 t:0
                -> ProducerFenced
            missing a 41/1 t:0
                -> {TopicPartition { topic: "t", partition: PartitionId(0) }}
            write a 41/1 t:0
                record a: 41/1 ongoing t-0
                -> ok
            missing a 41/1 t:0 t:1
                -> {TopicPartition { topic: "t", partition: PartitionId(1) }}
            missing b 41/1 t:0
                -> InvalidProducerIdMapping
            commit2 a 41/7
                -> ProducerFenced
        "#]],
    );
}

#[test]
fn ids_that_nobody_uses_are_forgotten() {
    check(
        "init a
         init b
         write b 42/0 t:0
         wait 999999
         expire
         wait 1
         expire
         marked b 42/2 t:0
         expire
         init a 41/0",
        expect![[r#"
            init a
                record a: 41/0 empty
                -> 41/0
            init b
                record b: 42/0 empty
                -> 42/0
            write b 42/0 t:0
                record b: 42/0 ongoing t-0
                -> ok
            wait 999999
                record b: 42/2 prepares abort t-0
                mark abort of 42/2 by coordinator 7 in t-0
            expire
            wait 1
            expire
                record a: forgotten
            marked b 42/2 t:0
                record b: 42/2 aborted
            expire
            init a 41/0
                record a: 43/0 empty
                -> 43/0
        "#]],
    );
}
