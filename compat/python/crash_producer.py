"""Produces unique values idempotently with librdkafka while the broker is killed and restarted under it, and writes down
every acknowledgement. Ends when its standard input does.
"""

import argparse
import sys
import threading
import time

from confluent_kafka import Producer


def main():
    parser = argparse.ArgumentParser()
    for option in ("--bootstrap", "--topic", "--name", "--log"):
        parser.add_argument(option, required=True)
    parser.add_argument("--rate", type=int, required=True)
    args = parser.parse_args()

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    producer = Producer(
        {
            "bootstrap.servers": args.bootstrap,
            "enable.idempotence": True,
            "delivery.timeout.ms": 600_000,
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 500,
            "linger.ms": 2,
            # The broker is down for seconds at a time: that is the experiment, not news.
            "log_level": 2,
        }
    )
    failures = []
    # By the line: others read along to see who is silent.
    with open(args.log, "w", buffering=1) as log:

        def delivered(error, message):
            if error:
                # With a delivery timeout of ten minutes an idempotent producer has no business failing.
                failures.append(error)
                print(message.value()[:20], error, file=sys.stderr)
            else:
                # Acknowledged as a duplicate, it has no offset.
                offset = -1 if message.offset() is None else message.offset()
                print(message.partition(), offset, message.value().decode(), file=log)

        start = time.monotonic()
        i = 0
        while not ended.is_set() and not failures:
            value = f"{args.name}-{i}" + "." * (i * 7919 % 1000)
            try:
                producer.produce(args.topic, key=f"key-{i % 100}", value=value, on_delivery=delivered)
                i += 1
            except BufferError:
                pass
            # Serves deliveries until the next record is due.
            producer.poll(max(0.0, start + i / args.rate - time.monotonic()))
        while producer.flush(10) and not failures:
            pass
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
