"""Reads a topic with librdkafka as one member of a group, and appends one line `partition offset number` per record that it has
handled. What it has come to it says on standard output; it ends when its standard input does.

`--commit auto` is librdkafka as it comes; `--commit after` commits by hand, once a batch is handled, and waits for that.
"""

import argparse
import os
import queue
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException

BATCH = 500
IDLE_SECONDS = 1.0


def main():
    parser = argparse.ArgumentParser()
    for option in ("--bootstrap", "--topic", "--name", "--into"):
        parser.add_argument(option, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--commit", choices=("auto", "after"), default="auto")
    parser.add_argument("--delay-ms", type=int, default=0)
    parser.add_argument("--say-after", type=int)
    parser.add_argument("--slow-after", type=int)
    parser.add_argument("--slow-ms", type=int, default=0)
    parser.add_argument("--hang-after", type=int)
    parser.add_argument("--close-after", type=int)
    parser.add_argument("--queue", action="store_true")
    args = parser.parse_args()

    ended = threading.Event()

    def wait_for_end():
        # Unbuffered: a thread that holds a buffer's lock keeps the interpreter from ending.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    settings = {"bootstrap.servers": args.bootstrap, "group.id": args.name, "auto.offset.reset": "earliest"}
    if args.commit == "after":
        settings["enable.auto.commit"] = False
    settings.update(setting.split("=", 1) for setting in args.set)
    consumer = Consumer(settings)
    consumer.subscribe([args.topic])
    handled = 0
    file = open(args.into, "a", buffering=1)

    def say(*words):
        print(*words, flush=True)

    def handle(message):
        nonlocal handled
        if handled == args.slow_after:
            say("slow")
            time.sleep(args.slow_ms / 1000)
            say("slow no more")
        if args.delay_ms:
            time.sleep(args.delay_ms / 1000)
        number = message.value().split(b" ", 1)[0].decode()
        file.write(f"{message.partition()} {message.offset()} {number}\n")
        handled += 1
        if handled == args.say_after:
            say("so far")
        if args.hang_after is not None and handled >= args.hang_after:
            say("hanging")
            threading.Event().wait()

    work = handle
    if args.queue:
        queued = queue.Queue()

        def worker():
            while True:
                handle(queued.get())

        threading.Thread(target=worker, daemon=True).start()
        work = queued.put

    is_idle = False
    last = time.monotonic()
    while not ended.is_set() and not (args.close_after is not None and handled >= args.close_after):
        messages = consumer.consume(BATCH, timeout=0.1)
        for message in messages:
            if message.error():
                say("error:", message.error())
                continue
            work(message)
        if messages:
            last, is_idle = time.monotonic(), False
            if args.commit == "after":
                try:
                    consumer.commit(asynchronous=False)
                except KafkaException as error:
                    say("error: commit:", error)
        elif time.monotonic() > last + IDLE_SECONDS and not is_idle:
            is_idle = True
            say("idle")
    if args.close_after is not None:
        consumer.unsubscribe()
    consumer.close()


if __name__ == "__main__":
    main()
