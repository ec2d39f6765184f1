"""Compares a topic with what its interrupted producers were told.

Every acknowledged record must lie at its offset with its value, no value may lie at two offsets, and the values of one
producer must rise within a partition. Values that were never acknowledged may lie there, once. Prints one line of
figures; exits with 1 and the anomalies otherwise.
"""

import argparse
import sys

from confluent_kafka import Consumer, TopicPartition

SHOWN_MAX = 20


def read_topic(bootstrap, topic):
    """Yields (partition, offset, value) of everything between the log start and the end."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "crash-verify", "check.crcs": True})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    for p in sorted(partitions):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)
        consumer.assign([TopicPartition(topic, p, low)])
        position = low
        while position < high:
            # It waits until it has as many as were asked for.
            messages = consumer.consume(min(1000, high - position), timeout=30)
            if not messages:
                raise SystemExit(f"{topic}-{p}: nothing came in 30 s at {position}, the end is {high}")
            for m in messages:
                if m.error():
                    raise SystemExit(f"{topic}-{p} at {position}: {m.error()}")
                position = m.offset() + 1
                yield p, m.offset(), m.value().decode()
    consumer.close()


def number(value):
    name, rest = value.rstrip(".").rsplit("-", 1)
    return name, int(rest)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("logs", nargs="+")
    args = parser.parse_args()

    anomalies = []
    acknowledged = {}
    for path in args.logs:
        with open(path) as lines:
            for line in lines:
                p, offset, value = line.rstrip("\n").split(" ", 2)
                place = (int(p), int(offset))
                if place in acknowledged:
                    anomalies.append(f"two acknowledgements name {place}: {number(value)}, {number(acknowledged[place])}")
                acknowledged[place] = value

    count = len(acknowledged)
    found = 0
    seen = {}
    last = {}
    ends = {}
    for p, offset, value in read_topic(args.bootstrap, args.topic):
        place = (p, offset)
        name, i = number(value)
        if offset != ends.get(p, 0):
            anomalies.append(f"gap: {p}/{offset} follows {p}/{ends.get(p, 0) - 1}")
        ends[p] = offset + 1
        if value in seen:
            anomalies.append(f"duplicate: {name}-{i} lies at {seen[value]} and {place}")
        seen[value] = place
        if i < last.get((p, name), -1):
            anomalies.append(f"out of order: {name}-{i} lies behind {name}-{last[p, name]} at {place}")
        last[p, name] = i
        expected = acknowledged.pop(place, None)
        if expected == value:
            found += 1
        elif expected is not None:
            anomalies.append(f"wrong value: {name}-{i} lies at {place}, acknowledged was {number(expected)}")
    for place, value in acknowledged.items():
        where = seen.get(value)
        anomalies.append(f"lost: {number(value)} was acknowledged at {place}" + (f", lies at {where}" if where else ""))

    for anomaly in anomalies[:SHOWN_MAX]:
        print(anomaly)
    print(
        f"acknowledged={count} found={found} in_log={len(seen)} unacknowledged_in_log={len(seen) - found} "
        f"anomalies={len(anomalies)}"
    )
    sys.exit(1 if anomalies or count == 0 else 0)


if __name__ == "__main__":
    main()
