"""Commits and aborts transactions over several partitions with librdkafka while brokers are broken, and writes down how each
ended: a line `partition offset value` for each record once its transaction is committed, `aborted number` once nobody can commit
it any more, and nothing where it does not know. Ends when its standard input does.
"""

import argparse
import random
import sys
import threading
import time

from confluent_kafka import KafkaException, Producer

# Shorter than some faults, so that some transactions are aborted by the clock.
TRANSACTION_TIMEOUT_MS = 15_000
CALL_SECONDS = 30


def patiently(call):
    """Calls again for as long as that is all that is wrong."""
    while True:
        try:
            return call(CALL_SECONDS)
        except KafkaException as error:
            if not error.args[0].retriable():
                raise


class Transactional:
    def __init__(self, args, log):
        self.args = args
        self.log = log
        self.random = random.Random(args.name)
        # Of the next transaction.
        self.number = 0

    def produce(self, ended):
        """One producer, from its start to what it cannot get over."""
        producer = Producer(
            {
                "bootstrap.servers": self.args.bootstrap,
                "transactional.id": self.args.name,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "delivery.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "socket.timeout.ms": 10_000,
                "reconnect.backoff.max.ms": 500,
                "linger.ms": 2,
                # The brokers are down for seconds at a time: that is the experiment, not news.
                "log_level": 2,
            }
        )
        patiently(producer.init_transactions)
        partitions = list(producer.list_topics(self.args.topic, timeout=CALL_SECONDS).topics[self.args.topic].partitions)
        due = time.monotonic()
        while not ended.is_set():
            self.random.shuffle(partitions)
            records = 2 + self.random.randrange(4)
            self.transaction(producer, partitions, records)
            due += records / self.args.rate
            time.sleep(max(0.0, due - time.monotonic()))

    def transaction(self, producer, partitions, records):
        """Begins a transaction of so many records, in these partitions in turn, and ends it."""
        t = self.number
        self.number += 1
        commits = self.random.randrange(3) > 0
        delivered = []
        may_be_committed = False
        producer.begin_transaction()
        try:
            for i in range(records):
                producer.produce(
                    self.args.topic,
                    # Two neighbours lie in two partitions.
                    partition=partitions[i % max(2, len(partitions) // 2)],
                    value=f"{self.args.name}-{t}-{i}-{records}",
                    on_delivery=lambda error, message: error or delivered.append(message),
                )
            if not commits:
                if self.random.randrange(2):
                    producer.flush(CALL_SECONDS)
                self.note("aborted", t)
                patiently(producer.abort_transaction)
                return
            may_be_committed = True
            patiently(producer.commit_transaction)
        except KafkaException as error:
            print("transaction", t, "committing" if may_be_committed else "", error, file=sys.stderr)
            if not may_be_committed:
                self.note("aborted", t)
            if not error.args[0].txn_requires_abort():
                raise
            patiently(producer.abort_transaction)
            self.note("aborted", t)
            return
        if len(delivered) != records:
            raise SystemExit(f"transaction {t} is committed with {len(delivered)} of {records} records")
        for message in delivered:
            # Acknowledged as a duplicate, it has no offset.
            offset = -1 if message.offset() is None else message.offset()
            self.note(message.partition(), offset, message.value().decode())

    def note(self, *words):
        print(*words, file=self.log)


def main():
    parser = argparse.ArgumentParser()
    for option in ("--bootstrap", "--topic", "--name", "--log"):
        parser.add_argument(option, required=True)
    parser.add_argument("--rate", type=int, required=True)
    args = parser.parse_args()

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    # By the line: others read along to see who is silent.
    with open(args.log, "w", buffering=1) as log:
        transactional = Transactional(args, log)
        while not ended.is_set():
            try:
                transactional.produce(ended)
            except KafkaException as error:
                # What it was in the middle of is decided by the next one's start, one way or the other.
                print("a new producer after transaction", transactional.number, error, file=sys.stderr)
                time.sleep(0.2)


if __name__ == "__main__":
    main()
