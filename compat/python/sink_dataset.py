"""Real text through `ottla sink`: makes the input, and digests of it, of the table and of the output topic, which must be the same text.

`lines` prints the lines of text_lines.py as `partition {"line": number, "text": line}`, one partition after the other in turn, and writes
its digest to a file. `table` reads the table with DuckDB, ordered by partition and offset; `topic` reads the output topic with librdkafka
(read_committed), in the order of its offsets. A digest is a line `partition records bytes BLAKE2b` for each partition, of all numbers and lines in
their order: a record that is missing, double, changed or out of place makes it another one.
"""

import argparse
import glob
import json
import sys
from hashlib import blake2b

import duckdb
from confluent_kafka import Consumer, KafkaError, TopicPartition
from text_lines import lines

CHUNK_LINES = 10_000
SILENCE_SECONDS_MAX = 30


class Digest:
    def __init__(self, partitions):
        self.partitions = [[0, 0, blake2b(digest_size=16)] for _ in range(partitions)]

    def add(self, partition, line, text):
        text = text.encode()
        digest = self.partitions[partition]
        digest[0] += 1
        digest[1] += len(text)
        digest[2].update(b"%d %d %b\n" % (line, len(text), text))

    def __str__(self):
        rows = enumerate(self.partitions)
        return "".join(f"{p} {records} {size} {digest.hexdigest()}\n" for p, (records, size, digest) in rows)


def make(args, digest):
    sys.stdout.reconfigure(encoding="utf-8")
    chunk = []
    for number, line in enumerate(lines(args.roots, args.bytes)):
        partition, text = number % args.partitions, line.decode()
        digest.add(partition, number, text)
        chunk.append("%d %s\n" % (partition, json.dumps({"line": number, "text": text}, ensure_ascii=False)))
        if len(chunk) == CHUNK_LINES:
            sys.stdout.write("".join(chunk))
            chunk = []
    sys.stdout.write("".join(chunk))
    sys.stdout.flush()
    with open(args.summary, "w") as summary:
        summary.write(str(digest))


def read_table(args, digest):
    files = glob.glob(f"{args.table}/dt=*/hour=*/*.parquet")
    if not files:
        raise SystemExit(f"{args.table} has no files")
    database = duckdb.connect()
    for partition in range(args.partitions):
        query = (
            f"SELECT line, text FROM read_parquet({files!r}, union_by_name = true) "
            f"WHERE kafka_partition = {partition} ORDER BY kafka_offset"
        )
        rows = database.execute(query)
        while chunk := rows.fetchmany(CHUNK_LINES):
            for line, text in chunk:
                digest.add(partition, line, text)


def read_topic(args, digest):
    consumer = Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": "sink-dataset",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "check.crcs": True,
            "queued.max.messages.kbytes": 65536,
        }
    )
    consumer.assign([TopicPartition(args.topic, p, 0) for p in range(args.partitions)])
    reading = set(range(args.partitions))
    while reading:
        messages = consumer.consume(CHUNK_LINES, timeout=1)
        if not messages and not (messages := consumer.consume(1, timeout=SILENCE_SECONDS_MAX)):
            raise SystemExit(f"nothing came in {SILENCE_SECONDS_MAX} s, partitions {sorted(reading)} are not at their end")
        for message in messages:
            if not message.error():
                value = json.loads(message.value())
                digest.add(message.partition(), value["line"], value["text"])
            elif message.error().code() == KafkaError._PARTITION_EOF:
                reading.discard(message.partition())
            else:
                raise SystemExit(str(message.error()))
    consumer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--partitions", type=int, required=True)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("lines")
    command.set_defaults(run=make)
    command.add_argument("--bytes", type=int, required=True)
    command.add_argument("--summary", required=True)
    command.add_argument("roots", nargs="+")
    command = commands.add_parser("table")
    command.set_defaults(run=read_table)
    command.add_argument("table")
    command = commands.add_parser("topic")
    command.set_defaults(run=read_topic)
    command.add_argument("--bootstrap", required=True)
    command.add_argument("topic")
    args = parser.parse_args()

    digest = Digest(args.partitions)
    args.run(args, digest)
    if args.run is not make:
        print(digest, end="")


if __name__ == "__main__":
    main()
