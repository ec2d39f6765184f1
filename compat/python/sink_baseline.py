"""What `ottla sink` is measured beside: a topic of JSON objects into Parquet files as somebody would write it in Python.

confluent-kafka reads, json parses, pyarrow makes columns of 100,000 records at a time and writes them with zstd, and offsets are
committed when a file is closed, so that a record is in a file at least once. The columns are those of the sink's table. It reads to where the
partitions end and says `records=… bytes=… files=…`.
"""

import argparse
import json
import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

BATCH_ROWS = 100_000
FILE_ROWS = 1_000_000
POLL_ROWS = 10_000
SILENCE_SECONDS_MAX = 30

PLAIN = {"id": pa.int64(), "user": pa.string(), "city": pa.string(), "price": pa.float64(), "note": pa.string()}
PLACES = {"kafka_partition": pa.int32(), "kafka_offset": pa.int64()}
TIME = pa.timestamp("us", tz="UTC")


def batch(messages):
    rows = [json.loads(message.value()) for message in messages]
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in PLAIN.items()}
    columns["at"] = pc.cast(pa.array([row.get("at") for row in rows], pa.string()), TIME)
    places = zip(*((message.partition(), message.offset()) for message in messages))
    columns |= {name: pa.array(place, kind) for (name, kind), place in zip(PLACES.items(), places)}
    columns["kafka_timestamp"] = pc.cast(
        pa.array([message.timestamp()[1] for message in messages], pa.timestamp("ms", tz="UTC")), TIME
    )
    return pa.table(columns)


class Files:
    """One after the other, each under its own name when it is whole."""

    def __init__(self, folder, consumer):
        self.folder, self.consumer = folder, consumer
        self.writer, self.rows, self.count = None, 0, 0

    def path(self, ending):
        return os.path.join(self.folder, f"part-{self.count}.{ending}")

    def write(self, messages):
        table = batch(messages)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path("open"), table.schema, compression="zstd", compression_level=1)
        self.writer.write_table(table)
        self.rows += len(messages)
        if self.rows >= FILE_ROWS:
            self.close()

    def close(self):
        if self.writer is None:
            return
        self.writer.close()
        os.rename(self.path("open"), self.path("parquet"))
        # Everything that was read is in a file: what is in hand was written before.
        self.consumer.commit(asynchronous=False)
        self.writer, self.rows, self.count = None, 0, self.count + 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("topic")
    parser.add_argument("folder")
    args = parser.parse_args()

    consumer = Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": args.group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "check.crcs": True,
        }
    )
    consumer.assign([TopicPartition(args.topic, p, OFFSET_BEGINNING) for p in range(args.partitions)])
    os.makedirs(args.folder)
    files = Files(args.folder, consumer)
    reading, in_hand, records, size = set(range(args.partitions)), [], 0, 0
    while reading:
        messages = consumer.consume(POLL_ROWS, timeout=0.1)
        if not messages and not (messages := consumer.consume(1, timeout=SILENCE_SECONDS_MAX)):
            raise SystemExit(f"nothing came in {SILENCE_SECONDS_MAX} s, partitions {sorted(reading)} are not at their end")
        for message in messages:
            if not message.error():
                in_hand.append(message)
                size += len(message.value())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                reading.discard(message.partition())
            else:
                raise SystemExit(str(message.error()))
        if len(in_hand) >= BATCH_ROWS:
            records += len(in_hand)
            files.write(in_hand)
            in_hand = []
    if in_hand:
        records += len(in_hand)
        files.write(in_hand)
    files.close()
    consumer.close()
    print(f"records={records} bytes={size} files={files.count}")


if __name__ == "__main__":
    main()
