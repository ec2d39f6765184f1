"""Reads a topic as one member of a group while brokers are broken, commits what it has read, and writes down what happened:
by the line, each with the time in front, `assigned p`, `revoked p`, `record p offset name-number`, `committed p offset`.

When its standard input ends it reads on until nothing has come for a while.
"""

import argparse
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

COMMIT_SECONDS = 0.5
# At the end of the topic; longer than a rebalance takes.
QUIET_SECONDS = 12


def main():
    parser = argparse.ArgumentParser()
    for option in ("--bootstrap", "--topic", "--group", "--log"):
        parser.add_argument(option, required=True)
    args = parser.parse_args()

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    consumer = Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": args.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 10_000,
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 500,
            "check.crcs": True,
            # Brokers are gone for seconds at a time: that is the experiment, not news.
            "log_level": 2,
        }
    )
    # The next offset to commit of each partition that it has.
    positions = {}
    with open(args.log, "w", buffering=1) as log:

        def note(*words):
            print(f"{time.time():.6f}", *words, file=log)

        def commit():
            offsets = [TopicPartition(args.topic, p, offset) for p, offset in positions.items()]
            if not offsets:
                return
            try:
                for done in consumer.commit(offsets=offsets, asynchronous=False):
                    if done.error is None:
                        note("committed", done.partition, done.offset)
            except KafkaException as error:
                # Unknown whether it was: nothing is claimed.
                print(time.time(), "commit:", error, file=sys.stderr)

        def assigned(_, partitions):
            for p in partitions:
                note("assigned", p.partition)

        def revoked(_, partitions):
            commit()
            for p in partitions:
                positions.pop(p.partition, None)
                note("revoked", p.partition)

        def lost(_, partitions):
            for p in partitions:
                positions.pop(p.partition, None)
                note("revoked", p.partition)

        consumer.subscribe([args.topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)
        last_commit = last_record = time.monotonic()
        is_ending = False
        while not (is_ending and time.monotonic() > last_record + QUIET_SECONDS):
            for message in consumer.consume(500, timeout=0.1):
                if message.error():
                    print(time.time(), message.error(), file=sys.stderr)
                    continue
                note("record", message.partition(), message.offset(), message.value().decode().rstrip("."))
                positions[message.partition()] = message.offset() + 1
                last_record = time.monotonic()
            if time.monotonic() > last_commit + COMMIT_SECONDS:
                commit()
                last_commit = time.monotonic()
            if not is_ending:
                # A commit may have waited for a cluster that was down: what came meanwhile is still to be read.
                is_ending = ended.is_set()
                last_record = time.monotonic()
        consumer.close()


if __name__ == "__main__":
    main()
