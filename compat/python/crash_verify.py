"""Compares a topic with what its interrupted producers and readers were told.

Every acknowledged record must lie at its offset with its value, or anywhere in its partition if the producer was told that it
is there and not where (a negative offset, for DUPLICATE_SEQUENCE_NUMBER); no value may lie at two offsets, and the values of
one producer must rise within a partition. Values that were never acknowledged may lie there, once. A value may lie there again
only if its producer has given itself a higher epoch in between (`--epochs`): librdkafka does that when the second of two
requests in flight is refused because the first was, for all partitions, and sends there again what it has no answer for.

The members of a group (`--readers`) must have read each offset with the value that lies there, one after the other while
they had the partition, from what was committed before, and all of them together everything.

Prints one line of figures; exits with 1 and the anomalies otherwise.
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


def read_epochs(path):
    """Finds the producer's epoch of an offset: 0 where the file has nothing."""
    epochs = {}
    if path:
        with open(path) as lines:
            for line in lines:
                p, first, last, epoch = map(int, line.split())
                epochs.update(((p, offset), epoch) for offset in range(first, last + 1))
    return lambda place: epochs.get(place, 0)


def read_events(paths):
    """All members' events in the order in which they happened, as (member, words)."""
    events = []
    for member, path in enumerate(paths):
        with open(path) as lines:
            events += ((float(line.split(" ", 1)[0]), member, line.split()[1:]) for line in lines if line.endswith("\n"))
    events.sort(key=lambda event: event[0])
    return [(member, words) for _, member, words in events]


def check_readers(events, log, anomalies):
    """Compares what members of a group have seen with the log, a list of (name, number) per partition."""
    position = {}
    committed = {}
    read = {p: bytearray(len(values)) for p, values in log.items()}
    for member, (kind, p, *rest) in events:
        p = int(p)
        have = (member, p)
        if kind == "assigned":
            # Not known before the first record; what was committed by now must not come again.
            position[have] = (None, committed.get(p, 0))
        elif kind == "revoked":
            position.pop(have, None)
        elif kind == "committed":
            committed[p] = max(committed.get(p, 0), int(rest[0]))
        elif kind == "record":
            offset, value = int(rest[0]), rest[1]
            expected, least = position.get(have, (None, 0))
            if expected is None and offset < least:
                anomalies.append(f"going back: member {member} begins with {p}/{offset}, {least} was committed")
            elif expected not in (None, offset):
                anomalies.append(f"poll skip: member {member} reads {p}/{offset} where {expected} follows")
            position[have] = (offset + 1, least)
            if offset >= len(log[p]):
                anomalies.append(f"read and gone: {value} at {p}/{offset}, the log ends at {len(log[p])}")
            elif "%s-%d" % log[p][offset] != value:
                anomalies.append(f"inconsistent offset: {value} was read at {p}/{offset}, {log[p][offset]} lies there")
            else:
                read[p][offset] = 1
    for p, offsets in sorted(read.items()):
        missed = len(offsets) - sum(offsets)
        if missed:
            anomalies.append(f"unread: {missed} of partition {p}, the first at {offsets.index(0)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--epochs", help="lines of: partition, first offset, last offset, producer epoch")
    parser.add_argument("--readers", nargs="*", default=[], help="what the members of a group have written down")
    parser.add_argument("logs", nargs="+")
    args = parser.parse_args()

    anomalies = []
    epoch_of = read_epochs(args.epochs)
    acknowledged = {}
    placeless = {}
    for path in args.logs:
        with open(path) as lines:
            for line in lines:
                p, offset, value = line.rstrip("\n").split(" ", 2)
                place = (int(p), int(offset))
                if place[1] < 0:
                    placeless[value] = place[0]
                    continue
                if place in acknowledged:
                    anomalies.append(f"two acknowledgements name {place}: {number(value)}, {number(acknowledged[place])}")
                acknowledged[place] = value

    count = len(acknowledged) + len(placeless)
    found = 0
    seen = {}
    last = {}
    ends = {}
    log = {}
    repeated = 0
    for p, offset, value in read_topic(args.bootstrap, args.topic):
        place = (p, offset)
        name, i = number(value)
        if offset != ends.get(p, 0):
            anomalies.append(f"gap: {p}/{offset} follows {p}/{ends.get(p, 0) - 1}")
        ends[p] = offset + 1
        log.setdefault(p, []).append((name, i))
        if value in seen and epoch_of(place) > epoch_of(seen[value]):
            repeated += 1
        elif value in seen:
            anomalies.append(f"duplicate: {name}-{i} lies at {seen[value]} and {place}")
        seen[value] = place
        sender = (p, name, epoch_of(place))
        if i < last.get(sender, -1):
            anomalies.append(f"out of order: {name}-{i} lies behind {name}-{last[sender]} at {place}")
        last[sender] = i
        expected = acknowledged.pop(place, None)
        if expected == value or placeless.pop(value, None) == p:
            found += 1
        elif expected is not None:
            anomalies.append(f"wrong value: {name}-{i} lies at {place}, acknowledged was {number(expected)}")
    for place, value in acknowledged.items():
        where = seen.get(value)
        anomalies.append(f"lost: {number(value)} was acknowledged at {place}" + (f", lies at {where}" if where else ""))

    for value, p in placeless.items():
        anomalies.append(f"lost: {number(value)} was acknowledged in partition {p}, lies at {seen.get(value)}")

    if args.readers:
        check_readers(read_events(args.readers), log, anomalies)

    for anomaly in anomalies[:SHOWN_MAX]:
        print(anomaly)
    print(
        f"acknowledged={count} found={found} in_log={len(seen)} unacknowledged_in_log={len(seen) - found} "
        f"repeated_in_a_new_epoch={repeated} anomalies={len(anomalies)}"
    )
    sys.exit(1 if anomalies or count == 0 else 0)


if __name__ == "__main__":
    main()
