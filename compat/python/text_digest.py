"""Reads a topic of text lines with librdkafka and prints `lines bytes digest`, as text_lines.py adds them up."""

import argparse
from hashlib import blake2b

from confluent_kafka import Consumer, TopicPartition


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    args = parser.parse_args()

    consumer = Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": "text-digest",
            "check.crcs": True,
            "queued.max.messages.kbytes": 65536,
        }
    )
    left = {}
    for p in consumer.list_topics(args.topic, timeout=30).topics[args.topic].partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(args.topic, p), timeout=30)
        left[p] = high - low
    consumer.assign([TopicPartition(args.topic, p, 0) for p in left])
    remaining = sum(left.values())
    count = size = digest = 0
    while remaining:
        messages = consumer.consume(min(remaining, 10_000), timeout=30)
        if not messages:
            raise SystemExit(f"nothing came in 30 s, {remaining} lines are missing")
        for m in messages:
            if m.error():
                raise SystemExit(str(m.error()))
            line = m.value()
            size += len(line)
            digest += int.from_bytes(blake2b(line, digest_size=16).digest(), "little")
        count += len(messages)
        remaining -= len(messages)
    consumer.close()
    print(count, size, f"{digest % (1 << 128):032x}")


if __name__ == "__main__":
    main()
