"""Compares a topic of transactions, and its copy, with how the producers' transactions ended.

A transaction is there as a whole or not at all. One whose commit was acknowledged is there, each record at its offset (or anywhere in its
partition where the producer was not told the offset); one that was aborted is not. No value lies twice. The copy has in each
partition what is committed in the original, in its order, and each record that it was acknowledged. Nothing holds readers of
committed records back at the end.

Prints one line of figures for each topic; exits with 1 and the anomalies otherwise.
"""

import argparse
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

SHOWN_MAX = 20
# For markers to reach all partitions, and for what was left open to be aborted.
STABLE_SECONDS_MAX = 60


def read_committed(bootstrap, topic, anomalies):
    """What a reader of committed records sees of each partition: a list of (offset, value)."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "transactional-verify", "check.crcs": True}
    ends = Consumer({**settings, "isolation.level": "read_uncommitted"})
    consumer = Consumer({**settings, "isolation.level": "read_committed", "enable.partition.eof": True})
    log = {}
    deadline = time.monotonic() + STABLE_SECONDS_MAX
    for p in sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions):
        log[p] = []
        _, end = ends.get_watermark_offsets(TopicPartition(topic, p), timeout=30)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING)])
        # The end of the partition has an offset too, behind markers that are no messages.
        reached = 0
        while reached < end:
            message = consumer.poll(1)
            if message is None:
                if time.monotonic() > deadline:
                    anomalies.append(f"hung: {topic}-{p}: readers come to {reached} of {end}")
                    break
            elif not message.error():
                log[p].append((message.offset(), message.value().decode()))
                reached = message.offset() + 1
            elif message.error().code() == KafkaError._PARTITION_EOF:
                reached = message.offset()
            else:
                raise SystemExit(f"{topic}-{p} at {reached}: {message.error()}")
    consumer.close()
    ends.close()
    return log


def read_logs(paths):
    """What producers have written down: places of values, and names of transactions that were aborted."""
    acknowledged = {}
    aborted = set()
    for path in paths:
        with open(path) as lines:
            for line in lines:
                # One that was killed may have left a part of a line.
                if not line.endswith("\n"):
                    continue
                words = line.split()
                if words[0] == "aborted":
                    aborted.add((path, words[1]))
                else:
                    acknowledged[words[2]] = (int(words[0]), int(words[1]))
    return acknowledged, aborted


def transaction_of(value):
    name, t, i, records = value.rsplit("-", 3)
    return (name, t), int(i), int(records)


def check_places(topic, acknowledged, log, anomalies):
    """Every value once, and where it was acknowledged; the places."""
    places = {}
    for p, records in log.items():
        for offset, value in records:
            if value in places:
                anomalies.append(f"duplicate: {value} lies at {topic}-{places[value]} and {p, offset}")
            places[value] = (p, offset)
    for value, (p, offset) in acknowledged.items():
        found = places.get(value)
        if found is None:
            anomalies.append(f"lost: {value} was committed at {topic}-{p}/{offset}")
        elif found != (p, offset) and (offset >= 0 or found[0] != p):
            anomalies.append(f"elsewhere: {value} was committed at {topic}-{p}/{offset}, lies at {found}")
    return places


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--copied", nargs="+", required=True, help="what the copying programs have written down")
    parser.add_argument("logs", nargs="+", metavar="NAME=LOG", help="what a producer of that name has written down")
    args = parser.parse_args()

    anomalies = []
    names = dict(reversed(log.split("=", 1)) for log in args.logs)
    acknowledged, aborted = read_logs(names)
    aborted = {(names[path], t) for path, t in aborted}
    log = read_committed(args.bootstrap, args.topic, anomalies)
    places = check_places(args.topic, acknowledged, log, anomalies)
    there = {}
    for value in places:
        transaction, i, records = transaction_of(value)
        there.setdefault(transaction, (records, set()))[1].add(i)
    for transaction, (records, parts) in there.items():
        if len(parts) != records:
            anomalies.append(f"torn: of {transaction} {sorted(parts)} of {records} records are there")
        if transaction in aborted:
            anomalies.append(f"aborted and there: {transaction}")
    committed = {transaction_of(value)[0] for value in acknowledged}
    print(
        f"{args.topic}: committed={len(committed)} aborted={len(aborted)} unknown_and_there={len(there.keys() - committed)} "
        f"records={len(places)}"
    )

    topic = f"{args.topic}-copied"
    copied_acknowledged, _ = read_logs(args.copied)
    copied = read_committed(args.bootstrap, topic, anomalies)
    check_places(topic, copied_acknowledged, copied, anomalies)
    for p, records in log.items():
        original = [value for _, value in records]
        copy = [value for _, value in copied[p]]
        if original != copy:
            at = next((i for i, (a, b) in enumerate(zip(original, copy)) if a != b), min(len(original), len(copy)))
            anomalies.append(
                f"copied wrongly: partition {p} has {len(copy)} of {len(original)} records; at {at} the copy has "
                f"{copy[at : at + 3]}, the original {original[at : at + 3]}"
            )
    print(f"{topic}: acknowledged={len(copied_acknowledged)} records={sum(map(len, copied.values()))}")
    for anomaly in anomalies[:SHOWN_MAX]:
        print(anomaly)
    print(f"anomalies={len(anomalies)}")
    sys.exit(1 if anomalies or not places else 0)


if __name__ == "__main__":
    main()
