"""kafka-python through every step of compat/README.md.

Two members of a group are two threads, each with its own consumer.
"""

import sys
import threading

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, OffsetSpec
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import MessageSizeTooLargeError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

import records
from steps import CODECS, RETENTION_MS, SEGMENT_BYTES, Acknowledgements, InOrderOnce, Suite, Tally, require, settled, wait_for


def main():
    suite = Suite("kafka-python", null_headers=False)
    admin = KafkaAdminClient(bootstrap_servers=suite.bootstrap)
    suite.step("create", lambda: create(suite, admin))
    for codec in CODECS:
        suite.step(f"produce:{codec}", lambda: produce(suite, codec))
    suite.step("offsets", lambda: offsets(suite, admin))
    suite.step("group", lambda: group(suite))
    suite.step("idempotent", lambda: idempotent(suite, admin))
    suite.step("configs", lambda: configs(suite, admin))
    suite.step("delete", lambda: delete(suite, admin))
    admin.close()


def partitions(topic):
    return [TopicPartition(topic, p) for p in range(records.PARTITIONS)]


def new_topic(name):
    return {
        name: {
            "num_partitions": records.PARTITIONS,
            "replication_factor": -1,
            "configs": {"segment.bytes": str(SEGMENT_BYTES)},
        }
    }


def create(suite, admin):
    admin.create_topics(new_topic(suite.topic))
    try:
        admin.create_topics(new_topic(suite.topic))
        raise AssertionError("a topic could be created twice")
    except TopicAlreadyExistsError:
        pass
    wait_for(
        "6 partitions in the metadata",
        lambda: len(admin.describe_topics([suite.topic])[0]["partitions"]) == records.PARTITIONS,
    )
    return 0, 0, f"kafka-python {kafka.__version__}"


def produce(suite, codec):
    producer = KafkaProducer(
        bootstrap_servers=suite.bootstrap,
        compression_type=None if codec == "none" else codec,
        linger_ms=20,
        acks="all",
        enable_idempotence=False,
        # One request at a time: without idempotence a retried batch may otherwise land behind its successor.
        max_in_flight_requests_per_connection=1,
    )
    acknowledged = Acknowledgements()
    errors = []
    share = suite.share(codec, CODECS)
    size = 0
    for i in share:
        r = suite.record(i)
        size += len(r.value or b"")
        future = producer.send(
            suite.topic,
            value=r.value,
            key=r.key,
            headers=r.headers,
            partition=r.partition,
            timestamp_ms=r.timestamp,
        )
        future.add_callback(lambda metadata, i=i: acknowledged.record(i, metadata.partition, metadata.offset))
        future.add_errback(errors.append)
    producer.flush(120)
    producer.close()
    require(not errors, errors[:1])
    acknowledged.check(len(share))
    return len(share), size, ""


def offsets(suite, admin):
    n = suite.records
    for spec, expected in (
        (OffsetSpec.EARLIEST, lambda p: 0),
        (OffsetSpec.LATEST, lambda p: records.end_offset(p, n)),
        (OffsetSpec.MAX_TIMESTAMP, lambda p: records.end_offset(p, n) - 1),
    ):
        answers = admin.list_partition_offsets({tp: spec for tp in partitions(suite.topic)})
        for tp, got in answers.items():
            want = expected(tp.partition)
            require(got.offset == want, f"{spec} of {tp.partition} is {got.offset}, not {want}")
    consumer = KafkaConsumer(bootstrap_servers=suite.bootstrap)
    for timestamp, answer in suite.expected_offsets_at():
        found = consumer.offsets_for_times({tp: timestamp for tp in partitions(suite.topic)})
        for tp, got in found.items():
            got = None if got is None or got.offset < 0 else got.offset
            want = answer[tp.partition]
            require(got == want, f"offset of {timestamp} in {tp.partition} is {got}, not {want}")
    ends = consumer.end_offsets(partitions(suite.topic))
    for tp, end in ends.items():
        require(end == records.end_offset(tp.partition, n), f"{tp.partition} ends at {end}")
    consumer.close()
    return 0, 0, ""


class Member(AsyncConsumerRebalanceListener):
    """One consumer of the group; it commits what it has taken when it loses partitions and when it leaves."""

    def __init__(self, suite, tally, name):
        self.tally = tally
        self.name = name
        self.next = {}
        self.assigned = set()
        self.consumer = KafkaConsumer(
            bootstrap_servers=suite.bootstrap,
            group_id=suite.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=500,
            max_poll_records=100,
        )
        self.consumer.subscribe([suite.topic], listener=self)

    async def on_partitions_assigned(self, assigned):
        self.assigned |= set(assigned)
        print(self.name, "is assigned", sorted(tp.partition for tp in assigned), file=sys.stderr)

    async def on_partitions_revoked(self, revoked):
        print(self.name, "loses", sorted(tp.partition for tp in revoked), file=sys.stderr)
        # This runs on the client's own I/O thread, which a blocking commit would stop.
        if self.next:
            await self.consumer.commit_async(self.positions())
        self.assigned -= set(revoked)
        for tp in revoked:
            self.next.pop(tp, None)

    def positions(self):
        return {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in self.next.items()}

    def commit(self):
        if self.next:
            self.consumer.commit(self.positions())

    def take(self):
        """Takes what one poll brings, returning it."""
        taken = [m for batch in self.consumer.poll(timeout_ms=200).values() for m in batch]
        for m in taken:
            self.tally.take(self.name, m.partition, m.offset, m.timestamp, m.key, m.value, m.headers)
            self.next[TopicPartition(m.topic, m.partition)] = m.offset + 1
        return taken

    def read_while(self, allowed):
        """Stays in the group in any case, but takes records only if `allowed`."""
        if allowed:
            self.consumer.resume(*self.consumer.paused())
        else:
            self.consumer.pause(*self.consumer.assignment())
        self.take()

    def leave(self):
        self.commit()
        self.consumer.close()


def group(suite):
    tally = Tally(suite)
    failures = []

    def member_b():
        try:
            b = Member(suite, tally, "B")
            while not tally.b_done(b.assigned):
                b.read_while(tally.b_reads(b.assigned))
                tally.b_joined = tally.b_joined or bool(b.assigned)
            b.leave()
        except BaseException as error:
            failures.append(error)

    a = Member(suite, tally, "A")
    while not tally.reached(1, 4):
        a.take()
    thread = threading.Thread(target=member_b, name="member B", daemon=True)
    thread.start()
    while not failures and not tally.a_done():
        a.read_while(tally.a_reads())
    a.leave()
    thread.join()
    if failures:
        raise failures[0]

    consumer = KafkaConsumer(bootstrap_servers=suite.bootstrap, group_id=suite.group)
    committed = {tp.partition: consumer.committed(tp) or 0 for tp in partitions(suite.topic)}
    consumer.close()
    tally.check_committed(committed)

    c = Member(suite, tally, "C")
    first = {}
    while tally.distinct < suite.records:
        for m in c.take():
            first.setdefault(m.partition, m.offset)
    c.leave()
    tally.check_restart(first, committed)
    return suite.records, tally.bytes, tally.note()


def idempotent(suite, admin):
    n = suite.idempotent_records
    admin.create_topics(new_topic(suite.idempotent_topic))
    producer = KafkaProducer(
        bootstrap_servers=suite.bootstrap, enable_idempotence=True, acks="all", linger_ms=5, batch_size=2000
    )
    errors = []
    for i in range(n):
        producer.send(suite.idempotent_topic, value=b"%d" % i, key=b"key-%d" % (i % 100)).add_errback(errors.append)
    producer.flush(120)
    producer.close()
    require(not errors, errors[:1])

    consumer = KafkaConsumer(bootstrap_servers=suite.bootstrap)
    consumer.assign(partitions(suite.idempotent_topic))
    consumer.seek_to_beginning()
    once = InOrderOnce(n)
    while not once.complete():
        for batch in consumer.poll(timeout_ms=1000).values():
            for m in batch:
                once.take(m.partition, m.value)
    ends = sum(consumer.end_offsets(partitions(suite.idempotent_topic)).values())
    consumer.close()
    return once.check(ends)


def configs(suite, admin):
    def described():
        answer = admin.describe_configs([ConfigResource("TOPIC", suite.topic)], config_filter="all")
        return answer["topic"][suite.topic]

    def alter(settings):
        answer = admin.alter_configs([ConfigResource("TOPIC", suite.topic, settings)])
        return answer["topic"][suite.topic]

    before = described()
    require(len(before) > 20, f"only {len(before)} settings are described")
    require(before["segment.bytes"]["value"] == str(SEGMENT_BYTES), f"segment.bytes={before['segment.bytes']}")
    changed = alter({"retention.ms": str(RETENTION_MS), "cleanup.policy": ("APPEND", "compact")})
    require(changed == "OK", changed)
    after = settled(
        described,
        lambda d: d["retention.ms"]["value"] == str(RETENTION_MS) and "compact" in d["cleanup.policy"]["value"],
    )
    require(after["retention.ms"]["value"] == str(RETENTION_MS), f"retention.ms={after['retention.ms']}")
    require(
        set(after["cleanup.policy"]["value"].split(",")) == {"compact", "delete"},
        f"cleanup.policy={after['cleanup.policy']}",
    )
    refused = alter({"retention.ms": "soon"})
    require("InvalidConfiguration" in refused, f"retention.ms=soon: {refused}")
    admin.reset_configs([ConfigResource("TOPIC", suite.topic, ["retention.ms", "cleanup.policy"])])
    restored = settled(described, lambda d: d["retention.ms"] == before["retention.ms"])
    require(restored["retention.ms"] == before["retention.ms"], "retention.ms did not go back")

    changed = alter({"max.message.bytes": "2000"})
    require(changed == "OK", changed)
    settled(described, lambda d: d["max.message.bytes"]["value"] == "2000")
    producer = KafkaProducer(bootstrap_servers=suite.bootstrap)
    try:
        producer.send(suite.topic, value=records.POOL[:3000], partition=0).get(30)
        raise AssertionError("3,000 bytes were accepted past max.message.bytes=2000")
    except MessageSizeTooLargeError:
        pass
    finally:
        producer.close()
    admin.reset_configs([ConfigResource("TOPIC", suite.topic, ["max.message.bytes"])])
    return 0, 0, f"{len(before)} settings"


def delete(suite, admin):
    tp = TopicPartition(suite.topic, 0)
    admin.delete_records({tp: 10})
    consumer = KafkaConsumer(bootstrap_servers=suite.bootstrap)
    start = consumer.beginning_offsets([tp])[tp]
    consumer.close()
    require(start == 10, f"the log starts at {start} after deleting what is before 10")

    print(admin.delete_groups([suite.group]), file=sys.stderr)
    left = {group["group_id"] for group in admin.list_groups()}
    require(suite.group not in left, "the group is still listed")

    topics = [suite.topic, suite.idempotent_topic]
    admin.delete_topics(topics)
    wait_for("the topics to be gone", lambda: not set(topics) & set(admin.list_topics()))
    return 0, 0, ""


if __name__ == "__main__":
    main()
