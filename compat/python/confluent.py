"""confluent-kafka (librdkafka) through every step of compat/README.md.

Two members of a group are two threads, each with its own consumer.
"""

import sys
import threading

from confluent_kafka import (
    AcknowledgeType,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    ShareConsumer,
    TopicPartition,
    libversion,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    OffsetSpec,
)

import records
from steps import CODECS, RETENTION_MS, SEGMENT_BYTES, Acknowledgements, InOrderOnce, Suite, Tally, require, settled, wait_for

WAIT = 30


def main():
    suite = Suite("confluent")
    print("librdkafka", libversion(), file=sys.stderr)
    admin = AdminClient({"bootstrap.servers": suite.bootstrap})
    suite.step("create", lambda: create(suite, admin))
    for codec in CODECS:
        suite.step(f"produce:{codec}", lambda: produce(suite, codec))
    suite.step("offsets", lambda: offsets(suite, admin))
    suite.step("group", lambda: group(suite, suite.group, {"heartbeat.interval.ms": 500}))
    suite.step("consumer-group", lambda: group(suite, suite.group + "-consumer", {"group.protocol": "consumer"}))
    suite.step("idempotent", lambda: idempotent(suite, admin))
    suite.step("transactions", lambda: transactions(suite, admin))
    suite.step("share", lambda: share(suite, admin))
    suite.step("configs", lambda: configs(suite, admin))
    suite.step("delete", lambda: delete(suite, admin))


def create(suite, admin):
    topic = NewTopic(
        suite.topic, records.PARTITIONS, -1, config={"segment.bytes": str(SEGMENT_BYTES)}
    )
    admin.create_topics([topic])[suite.topic].result(WAIT)
    try:
        admin.create_topics([topic])[suite.topic].result(WAIT)
        raise AssertionError("a topic could be created twice")
    except KafkaException as error:
        require(error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, f"creating twice: {error}")
    wait_for(
        "6 partitions in the metadata",
        lambda: len(admin.list_topics(suite.topic, timeout=WAIT).topics[suite.topic].partitions) == records.PARTITIONS,
    )
    return 0, 0, f"librdkafka {libversion()[0]}"


def send(producer, *args, **kwargs):
    """Produces one record, waiting for room in the client's queue."""
    while True:
        try:
            return producer.produce(*args, **kwargs)
        except BufferError:
            producer.poll(0.1)


def produce(suite, codec):
    producer = Producer(
        {
            "bootstrap.servers": suite.bootstrap,
            "compression.type": codec,
            "linger.ms": 20,
            "acks": "all",
            # One request at a time: without idempotence a retried batch may otherwise land behind its successor.
            "max.in.flight": 1,
        }
    )
    acknowledged = Acknowledgements()
    errors = []

    def delivered(i):
        def on_delivery(error, message):
            if error:
                errors.append(f"record {i}: {error}")
            else:
                acknowledged.record(i, message.partition(), message.offset())

        return on_delivery

    share = suite.share(codec, CODECS)
    size = 0
    for i in share:
        r = suite.record(i)
        size += len(r.value or b"")
        send(
            producer,
            suite.topic,
            value=r.value,
            key=r.key,
            partition=r.partition,
            timestamp=r.timestamp,
            headers=r.headers,
            on_delivery=delivered(i),
        )
        producer.poll(0)
    require(producer.flush(120) == 0, "records are still in the queue after two minutes")
    require(not errors, errors[:1])
    acknowledged.check(len(share))
    return len(share), size, ""


def offsets(suite, admin):
    n = suite.records
    partitions = [TopicPartition(suite.topic, p) for p in range(records.PARTITIONS)]
    for spec, expected in (
        (OffsetSpec.earliest(), lambda p: 0),
        (OffsetSpec.latest(), lambda p: records.end_offset(p, n)),
        (OffsetSpec.max_timestamp(), lambda p: records.end_offset(p, n) - 1),
    ):
        answers = admin.list_offsets({p: spec for p in partitions})
        for p, future in answers.items():
            got = future.result(WAIT).offset
            require(got == expected(p.partition), f"{spec} of {p.partition} is {got}, not {expected(p.partition)}")
    consumer = Consumer({"bootstrap.servers": suite.bootstrap, "group.id": suite.group + "-times"})
    for timestamp, answer in suite.expected_offsets_at():
        asked = [TopicPartition(suite.topic, p, timestamp) for p in range(records.PARTITIONS)]
        for got in consumer.offsets_for_times(asked, timeout=WAIT):
            # librdkafka answers "no such record" with the logical end of the partition, -1.
            want = answer[got.partition] if answer[got.partition] is not None else -1
            require(got.offset == want, f"offset of {timestamp} in {got.partition} is {got.offset}, not {want}")
    for p in range(records.PARTITIONS):
        low, high = consumer.get_watermark_offsets(TopicPartition(suite.topic, p), timeout=WAIT)
        require((low, high) == (0, records.end_offset(p, n)), f"watermarks of {p}: {low}, {high}")
    consumer.close()
    return 0, 0, ""


class Member:
    """One consumer of the group; it commits what it has taken when it loses partitions and when it leaves."""

    def __init__(self, suite, tally, name, group, protocol):
        self.tally = tally
        self.name = name
        self.next = {}
        self.assigned = set()
        self.consumer = Consumer(
            {
                "bootstrap.servers": suite.bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                **protocol,
            }
        )
        self.topic = suite.topic
        self.consumer.subscribe([suite.topic], on_assign=self.on_assign, on_revoke=self.on_revoke)

    def on_assign(self, _, partitions):
        # What comes to what it has; with the older protocol it has nothing then.
        self.assigned |= {p.partition for p in partitions}
        print(self.name, "is assigned", sorted(self.assigned), file=sys.stderr)

    def on_revoke(self, _, partitions):
        print(self.name, "loses", sorted(p.partition for p in partitions), file=sys.stderr)
        self.commit()
        for p in partitions:
            self.assigned.discard(p.partition)
            self.next.pop(p.partition, None)

    def commit(self):
        if self.next:
            self.consumer.commit(
                offsets=[TopicPartition(self.topic, p, offset) for p, offset in self.next.items()],
                asynchronous=False,
            )

    def take(self, limit=100):
        """Takes up to `limit` records, returning them."""
        messages = self.consumer.consume(limit, timeout=0.2)
        for m in messages:
            if m.error():
                raise KafkaException(m.error())
            self.tally.take(
                self.name,
                m.partition(),
                m.offset(),
                m.timestamp()[1],
                m.key(),
                m.value(),
                m.headers(),
            )
            self.next[m.partition()] = m.offset() + 1
        return messages

    def read_while(self, allowed):
        """Stays in the group in any case, but takes records only if `allowed`."""
        change = self.consumer.resume if allowed else self.consumer.pause
        change(self.consumer.assignment())
        self.take()

    def leave(self):
        self.commit()
        self.consumer.close()


def group(suite, name, protocol):
    """The play of a group, with the classic protocol or with the consumer protocol (KIP-848)."""
    tally = Tally(suite)
    failures = []

    def member_b():
        try:
            b = Member(suite, tally, "B", name, protocol)
            while not tally.b_done(b.assigned):
                b.read_while(tally.b_reads(b.assigned))
                tally.b_joined = tally.b_joined or bool(b.assigned)
            b.leave()
        except BaseException as error:
            failures.append(error)

    a = Member(suite, tally, "A", name, protocol)
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

    consumer = Consumer({"bootstrap.servers": suite.bootstrap, "group.id": name})
    committed = {
        p.partition: p.offset
        for p in consumer.committed(
            [TopicPartition(suite.topic, p) for p in range(records.PARTITIONS)], timeout=WAIT
        )
    }
    consumer.close()
    tally.check_committed(committed)

    c = Member(suite, tally, "C", name, protocol)
    first = {}
    while tally.distinct < suite.records:
        for m in c.take():
            first.setdefault(m.partition(), m.offset())
    c.leave()
    tally.check_restart(first, committed)
    return suite.records, tally.bytes, tally.note()


def idempotent(suite, admin):
    n = suite.idempotent_records
    topic = NewTopic(suite.idempotent_topic, records.PARTITIONS, -1)
    admin.create_topics([topic])[suite.idempotent_topic].result(WAIT)
    producer = Producer(
        {"bootstrap.servers": suite.bootstrap, "enable.idempotence": True, "linger.ms": 5, "batch.num.messages": 100}
    )
    errors = []
    for i in range(n):
        send(
            producer,
            suite.idempotent_topic,
            value=b"%d" % i,
            key=b"key-%d" % (i % 100),
            on_delivery=lambda error, _: error and errors.append(error),
        )
        producer.poll(0)
    require(producer.flush(120) == 0 and not errors, f"delivery failed: {errors[:1]}")

    consumer = Consumer(
        {"bootstrap.servers": suite.bootstrap, "group.id": suite.group + "-i", "auto.offset.reset": "earliest"}
    )
    consumer.assign([TopicPartition(suite.idempotent_topic, p, 0) for p in range(records.PARTITIONS)])
    once = InOrderOnce(n)
    while not once.complete():
        for m in consumer.consume(100, timeout=0.2):
            require(not m.error(), m.error())
            once.take(m.partition(), m.value())
    ends = sum(
        consumer.get_watermark_offsets(TopicPartition(suite.idempotent_topic, p), timeout=WAIT)[1]
        for p in range(records.PARTITIONS)
    )
    consumer.close()
    return once.check(ends)


TRANSACTIONS = 30
TXN_PARTITIONS = 3


def transactional(suite, name):
    producer = Producer(
        {"bootstrap.servers": suite.bootstrap, "transactional.id": f"{suite.topic}-{name}", "linger.ms": 5}
    )
    producer.init_transactions(WAIT)
    return producer


def transactions(suite, admin):
    source, copied = suite.topic + "-txn", suite.topic + "-txn-copied"
    made = admin.create_topics([NewTopic(topic, TXN_PARTITIONS, -1) for topic in (source, copied)])
    for outcome in made.values():
        outcome.result(WAIT)
    committed = commit_and_abort(suite, source)
    zombie(suite, source, committed)
    check_read(suite, source, committed)
    loops = copy(suite, source, copied, len(committed) * TXN_PARTITIONS)
    check_read(suite, copied, committed)
    return len(committed) * TXN_PARTITIONS, 0, f"{TRANSACTIONS} transactions, copied in {loops} more"


def send_to_each(producer, topic, value):
    for p in range(TXN_PARTITIONS):
        send(producer, topic, value=f"{value}/{p}".encode(), partition=p)


def commit_and_abort(suite, topic):
    """Every third transaction is aborted."""
    producer = transactional(suite, "a")
    committed = []
    for t in range(TRANSACTIONS):
        producer.begin_transaction()
        send_to_each(producer, topic, f"t{t}")
        if t % 3 == 2:
            producer.flush(WAIT)
            producer.abort_transaction(WAIT)
        else:
            producer.commit_transaction(WAIT)
            committed.append(f"t{t}")
    return committed


def zombie(suite, topic, committed):
    """A producer that another one has replaced can commit nothing."""
    first = transactional(suite, "b")
    first.begin_transaction()
    send_to_each(first, topic, "zombie")
    first.flush(WAIT)
    second = transactional(suite, "b")
    try:
        first.commit_transaction(WAIT)
        raise AssertionError("a zombie could commit")
    except KafkaException as error:
        require(error.args[0].fatal(), f"fenced otherwise: {error}")
    second.begin_transaction()
    send_to_each(second, topic, "after the zombie")
    second.commit_transaction(WAIT)
    committed.append("after the zombie")


def reader(suite, **settings):
    return Consumer(
        {
            "bootstrap.servers": suite.bootstrap,
            "group.id": suite.group + "-txn",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            **settings,
        }
    )


def check_read(suite, topic, committed):
    for p in range(TXN_PARTITIONS):
        consumer = reader(suite)
        consumer.assign([TopicPartition(topic, p, 0)])
        values = []
        while True:
            m = consumer.poll(WAIT)
            require(m is not None, f"{topic}-{p}: nothing comes any more")
            if m.error():
                require(m.error().code() == KafkaError._PARTITION_EOF, m.error())
                break
            values.append(m.value().decode())
        consumer.close()
        expected = [f"{value}/{p}" for value in committed]
        require(values == expected, f"read_committed in {topic}-{p}: {values}, not {expected}")


def copy(suite, source, copied, n):
    """From topic to topic, output and position in one transaction; every other try is aborted and done again."""
    consumer = reader(suite)
    consumer.subscribe([source])
    producer = transactional(suite, "copy")
    loops = done = 0
    while done < n:
        taken = [m for m in consumer.consume(10, timeout=1) if not m.error()]
        if not taken:
            continue
        producer.begin_transaction()
        for m in taken:
            send(producer, copied, value=m.value(), partition=m.partition())
        after = {m.partition(): m.offset() + 1 for m in taken}
        offsets = [TopicPartition(source, p, offset) for p, offset in after.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), WAIT)
        loops += 1
        if loops % 2:
            producer.abort_transaction(WAIT)
            first = {}
            for m in taken:
                first.setdefault(m.partition(), m.offset())
            for p, offset in first.items():
                consumer.seek(TopicPartition(source, p, offset))
        else:
            producer.commit_transaction(WAIT)
            done += len(taken)
    consumer.close()
    return loops


SHARED_RECORDS = 400


def share(suite, admin):
    """Two consumers work on one queue: some records are released once and come back, some are rejected, the others accepted once."""
    topic, group = f"{suite.topic}-share", f"{suite.topic}-share-group"
    admin.create_topics([NewTopic(topic, 1, -1)])[topic].result(WAIT)
    read_from_start(admin, group)
    producer = Producer({"bootstrap.servers": suite.bootstrap})
    for i in range(SHARED_RECORDS):
        producer.produce(topic, f"job-{i}")
    require(producer.flush(WAIT) == 0, "jobs are still in the queue")

    accepted, rejected, redelivered = {}, set(), 0
    settings = {"bootstrap.servers": suite.bootstrap, "group.id": group, "share.acknowledgement.mode": "explicit"}
    with ShareConsumer(settings | {"max.poll.records": 20}) as a, ShareConsumer(settings | {"max.poll.records": 20}) as b:
        for consumer in (a, b):
            consumer.subscribe([topic])

        def all_done():
            nonlocal redelivered
            for consumer in (a, b):
                for job in consumer.poll(0.2):
                    require(job.error() is None, job.error())
                    redelivered += job.delivery_count() > 1
                    consumer.acknowledge(job, judge(job, accepted, rejected))
                consumer.commit_sync(WAIT)
            return len(accepted) + len(rejected) == SHARED_RECORDS

        wait_for("all records are done with", all_done)
    require(set(accepted.values()) == {1}, f"accepted twice: {accepted}")
    require(redelivered > 0, "nothing that was released came again")
    return len(accepted), 0, f"{len(rejected)} rejected, {redelivered} delivered again"


def judge(job, accepted, rejected):
    if job.offset() % 10 == 3 and job.delivery_count() == 1:
        return AcknowledgeType.RELEASE
    if job.offset() % 25 == 7:
        rejected.add(job.value())
        return AcknowledgeType.REJECT
    accepted[job.value()] = accepted.get(job.value(), 0) + 1
    return AcknowledgeType.ACCEPT


def read_from_start(admin, group):
    """Has a share group begin with the first record."""
    key = "share.auto.offset.reset"
    entry = ConfigEntry(key, "earliest", incremental_operation=AlterConfigOpType.SET)
    asked = ConfigResource(ConfigResource.Type.GROUP, group, incremental_configs=[entry])
    admin.incremental_alter_configs([asked])[asked].result(WAIT)
    resource = ConfigResource(ConfigResource.Type.GROUP, group)
    settled(
        lambda: admin.describe_configs([resource])[resource].result(WAIT),
        lambda described: key in described and described[key].value == "earliest",
    )


def configs(suite, admin):
    resource = ConfigResource(ConfigResource.Type.TOPIC, suite.topic)

    def described():
        return admin.describe_configs([resource])[resource].result(WAIT)

    def alter(name, value, operation):
        entry = ConfigEntry(name, value, incremental_operation=operation)
        asked = ConfigResource(ConfigResource.Type.TOPIC, suite.topic, incremental_configs=[entry])
        admin.incremental_alter_configs([asked])[asked].result(WAIT)

    def is_topic_setting(entry):
        return ConfigSource(entry.source) == ConfigSource.DYNAMIC_TOPIC_CONFIG

    before = described()
    require(len(before) > 20, f"only {len(before)} settings are described")
    require(before["segment.bytes"].value == str(SEGMENT_BYTES), f"segment.bytes={before['segment.bytes'].value}")
    require(is_topic_setting(before["segment.bytes"]), "segment.bytes is not a topic's own setting")
    require(not is_topic_setting(before["retention.ms"]), "retention.ms is already a topic's own setting")

    alter("retention.ms", str(RETENTION_MS), AlterConfigOpType.SET)
    alter("cleanup.policy", "compact", AlterConfigOpType.APPEND)
    after = settled(described, lambda d: is_topic_setting(d["retention.ms"]) and "compact" in d["cleanup.policy"].value)
    require(after["retention.ms"].value == str(RETENTION_MS), f"retention.ms={after['retention.ms'].value}")
    require(is_topic_setting(after["retention.ms"]), "retention.ms is not a topic's own setting")
    require(
        set(after["cleanup.policy"].value.split(",")) == {"compact", "delete"},
        f"cleanup.policy={after['cleanup.policy'].value}",
    )
    try:
        alter("retention.ms", "soon", AlterConfigOpType.SET)
        raise AssertionError("retention.ms=soon was accepted")
    except KafkaException as error:
        require(error.args[0].code() == KafkaError.INVALID_CONFIG, f"retention.ms=soon: {error}")

    alter("retention.ms", None, AlterConfigOpType.DELETE)
    alter("cleanup.policy", "compact", AlterConfigOpType.SUBTRACT)
    restored = settled(described, lambda d: not is_topic_setting(d["retention.ms"]))
    require(restored["retention.ms"].value == before["retention.ms"].value, "retention.ms did not go back")
    require(not is_topic_setting(restored["retention.ms"]), "retention.ms is still a topic's own setting")

    alter("max.message.bytes", "2000", AlterConfigOpType.SET)
    settled(described, lambda d: d["max.message.bytes"].value == "2000")
    too_large(suite)
    alter("max.message.bytes", None, AlterConfigOpType.DELETE)
    return 0, 0, f"{len(before)} settings"


def too_large(suite):
    """`max.message.bytes` is 2000 now."""
    outcomes = []
    producer = Producer({"bootstrap.servers": suite.bootstrap})
    producer.produce(
        suite.topic, records.POOL[:3000], partition=0, on_delivery=lambda error, _: outcomes.append(error)
    )
    producer.flush(WAIT)
    require(
        outcomes and outcomes[0] is not None and outcomes[0].code() == KafkaError.MSG_SIZE_TOO_LARGE,
        f"3,000 bytes past max.message.bytes=2000: {outcomes}",
    )


def delete(suite, admin):
    before = TopicPartition(suite.topic, 0, 10)
    low = admin.delete_records([before])[before].result(WAIT).low_watermark
    require(low == 10, f"the log starts at {low} after deleting what is before 10")
    consumer = Consumer({"bootstrap.servers": suite.bootstrap, "group.id": suite.group + "-d"})
    consumer.assign([TopicPartition(suite.topic, 0, 10)])
    message = consumer.poll(WAIT)
    require(message and not message.error() and message.offset() == 10, "offset 10 is not the first record left")
    consumer.close()

    admin.delete_consumer_groups([suite.group])[suite.group].result(WAIT)
    left = {g.group_id for g in admin.list_consumer_groups().result(WAIT).valid}
    require(suite.group not in left, "the group is still listed")

    topics = [suite.topic, suite.idempotent_topic]
    for future in admin.delete_topics(topics).values():
        future.result(WAIT)
    wait_for("the topics to be gone", lambda: not set(topics) & set(admin.list_topics(timeout=WAIT).topics))
    return 0, 0, ""


if __name__ == "__main__":
    main()
