"""Counts what `ottla sink` has made of a topic: rows of the table, by DuckDB, or records of the output topic, by librdkafka with
read_committed, against what the producer was told.

The producer's file has a line `partition offset number` for each acknowledgement (an offset of -1 where it was told that the record is
there and not where). What is read has to have each of these once, at its place; what was never acknowledged may be there once.

Prints one line of figures, `read places numbers unacknowledged missing double`; before it some of what is missing and double. The exit code
is 0 in any case: the caller looks at the figures.
"""

import argparse
import glob
import json
from collections import Counter

import duckdb
from confluent_kafka import Consumer, KafkaError, TopicPartition

SHOWN_MAX = 10
SILENCE_SECONDS_MAX = 30


def read_acknowledged(path):
    with open(path) as lines:
        # The producer may have been killed in the middle of a line.
        whole = [line.split() for line in lines if line.endswith("\n")]
    return [tuple(map(int, words)) for words in whole]


def read_table(table):
    """(partition, offset, number) of each row."""
    files = glob.glob(f"{table}/dt=*/hour=*/*.parquet")
    if not files:
        return []
    columns = "kafka_partition, kafka_offset, number"
    return duckdb.sql(f"SELECT {columns} FROM read_parquet({files!r}, union_by_name = true)").fetchall()


def read_topic(bootstrap, topic, line):
    """(partition, offset, number) of each committed record that the line has written, with the place that it was read at."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "sink-count",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "check.crcs": True,
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    reading = set(partitions)
    found = []
    while reading:
        messages = consumer.consume(1000, timeout=SILENCE_SECONDS_MAX if not found else 5)
        if not messages:
            messages = consumer.consume(1, timeout=SILENCE_SECONDS_MAX)
        if not messages:
            raise SystemExit(f"{topic}: nothing came in {SILENCE_SECONDS_MAX} s, partitions {sorted(reading)} are not at their end")
        for message in messages:
            if message.error():
                if message.error().code() != KafkaError._PARTITION_EOF:
                    raise SystemExit(f"{topic}: {message.error()}")
                reading.discard(message.partition())
                continue
            headers = dict(message.headers() or [])
            if headers.get("ottla.line") != line.encode():
                continue
            _, partition, offset = headers["ottla.source"].decode().rsplit(":", 2)
            found.append((int(partition), int(offset), json.loads(message.value())["number"]))
    consumer.close()
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--acknowledged", required=True)
    parser.add_argument("--table", help="the table's directory")
    parser.add_argument("--bootstrap")
    parser.add_argument("--topic", help="the output topic")
    parser.add_argument("--line", help="which line's records there")
    args = parser.parse_args()

    acknowledged = read_acknowledged(args.acknowledged)
    found = read_table(args.table) if args.table else read_topic(args.bootstrap, args.topic, args.line)
    places = Counter((partition, offset) for partition, offset, _ in found)
    numbers = Counter(number for _, _, number in found)
    rows = set(found)
    placeless = {(partition, number) for partition, _, number in found}

    def is_there(partition, offset, number):
        return (partition, number) in placeless if offset < 0 else (partition, offset, number) in rows

    missing = [record for record in acknowledged if not is_there(*record)]
    # A number that the producer has sent once is there once, whatever the place.
    double = len(found) - min(len(places), len(numbers))
    unacknowledged = len(numbers.keys() - {number for _, _, number in acknowledged})
    for record in missing[:SHOWN_MAX]:
        print("missing: partition %d, offset %d, number %d" % record)
    for what, counts in (("place", places), ("number", numbers)):
        for item, count in [(item, count) for item, count in counts.items() if count > 1][:SHOWN_MAX]:
            print(f"double: {what} {item}, {count} times")
    print(len(found), len(places), len(numbers), unacknowledged, len(missing), double)


if __name__ == "__main__":
    main()
