"""aiokafka through every step of compat/README.md.

Two members of a group are two tasks of one event loop, each with its own consumer.
"""

import asyncio
import sys
import time
import traceback

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError, TopicAlreadyExistsError, for_code

import records
from steps import CODECS, RETENTION_MS, SEGMENT_BYTES, Acknowledgements, InOrderOnce, Suite, Tally, require

WAIT = 60


async def main():
    suite = Suite("aiokafka")
    admin = AIOKafkaAdminClient(bootstrap_servers=suite.bootstrap)
    await admin.start()
    await step(suite, "create", create(suite, admin))
    for codec in CODECS:
        await step(suite, f"produce:{codec}", produce(suite, codec))
    await step(suite, "offsets", offsets(suite))
    await step(suite, "group", group(suite))
    await step(suite, "idempotent", idempotent(suite, admin))
    await step(suite, "configs", configs(suite, admin))
    await step(suite, "delete", delete(suite, admin))
    await admin.close()


async def step(suite, name, run):
    """`Suite.step` for a coroutine."""
    start = time.monotonic()
    try:
        count, size, note = await run
    except Exception as error:
        traceback.print_exc()
        suite.line(name, "FAIL", 0, 0, start, f"{type(error).__name__}: {error}")
        sys.exit(1)
    suite.line(name, "ok", count, size, start, note)


async def wait_for(what, condition):
    """Polls `condition`, for facts that a broker spreads in its own time (metadata, deletion)."""
    deadline = time.monotonic() + WAIT
    while not await condition():
        require(time.monotonic() < deadline, f"{what}: not within {WAIT} s")
        await asyncio.sleep(0.05)


def partitions(topic):
    return [TopicPartition(topic, p) for p in range(records.PARTITIONS)]


async def create_topic(admin, name):
    """Creates a topic; aiokafka's admin reports refusals in the answer instead of raising them."""
    # It knows no way of asking for the broker's own replication factor.
    copies = min(3, len((await admin.describe_cluster())["brokers"]))
    topic = NewTopic(name, records.PARTITIONS, copies, topic_configs={"segment.bytes": str(SEGMENT_BYTES)})
    answer = await admin.create_topics([topic])
    for _, code, *_ in answer.topic_errors:
        if code:
            raise for_code(code)()


async def create(suite, admin):
    await create_topic(admin, suite.topic)
    try:
        await create_topic(admin, suite.topic)
        raise AssertionError("a topic could be created twice")
    except TopicAlreadyExistsError:
        pass

    async def complete():
        (topic,) = await admin.describe_topics([suite.topic])
        return len(topic["partitions"]) == records.PARTITIONS

    await wait_for("6 partitions in the metadata", complete)
    return 0, 0, f"aiokafka {aiokafka.__version__}"


async def produce(suite, codec):
    producer = AIOKafkaProducer(
        bootstrap_servers=suite.bootstrap,
        compression_type=None if codec == "none" else codec,
        linger_ms=20,
        acks="all",
    )
    await producer.start()
    acknowledged = Acknowledgements()
    share = suite.share(codec, CODECS)
    size = 0
    sent = []
    for i in share:
        r = suite.record(i)
        size += len(r.value or b"")
        future = await producer.send(
            suite.topic,
            value=r.value,
            key=r.key,
            partition=r.partition,
            timestamp_ms=r.timestamp,
            headers=r.headers,
        )
        sent.append((i, future))
    for i, future in sent:
        metadata = await future
        acknowledged.record(i, metadata.partition, metadata.offset)
    await producer.stop()
    acknowledged.check(len(share))
    return len(share), size, ""


async def offsets(suite):
    n = suite.records
    consumer = AIOKafkaConsumer(bootstrap_servers=suite.bootstrap)
    await consumer.start()
    for tp, start in (await consumer.beginning_offsets(partitions(suite.topic))).items():
        require(start == 0, f"{tp.partition} starts at {start}")
    for tp, end in (await consumer.end_offsets(partitions(suite.topic))).items():
        require(end == records.end_offset(tp.partition, n), f"{tp.partition} ends at {end}")
    for timestamp, answer in suite.expected_offsets_at():
        found = await consumer.offsets_for_times({tp: timestamp for tp in partitions(suite.topic)})
        for tp in partitions(suite.topic):
            got = found.get(tp).offset if found.get(tp) else None
            want = answer[tp.partition]
            require(got == want, f"offset of {timestamp} in {tp.partition} is {got}, not {want}")
    await consumer.stop()
    return 0, 0, ""


class Member(ConsumerRebalanceListener):
    """One consumer of the group; it commits what it has taken when it loses partitions and when it leaves."""

    def __init__(self, suite, tally, name):
        self.topic = suite.topic
        self.tally = tally
        self.name = name
        self.next = {}
        self.assigned = set()
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=suite.bootstrap,
            group_id=suite.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=500,
        )

    async def join(self):
        self.consumer.subscribe([self.topic], listener=self)
        await self.consumer.start()

    async def on_partitions_assigned(self, assigned):
        self.assigned = set(assigned)
        print(self.name, "is assigned", sorted(tp.partition for tp in assigned), file=sys.stderr)

    async def on_partitions_revoked(self, revoked):
        print(self.name, "loses", sorted(tp.partition for tp in revoked), file=sys.stderr)
        await self.commit()
        self.assigned = set()
        self.next = {}

    async def commit(self):
        if self.next:
            await self.consumer.commit(dict(self.next))

    async def take(self):
        """Takes what one poll brings, returning it."""
        batches = await self.consumer.getmany(timeout_ms=200, max_records=100)
        taken = [m for batch in batches.values() for m in batch]
        for m in taken:
            self.tally.take(self.name, m.partition, m.offset, m.timestamp, m.key, m.value, m.headers)
            self.next[TopicPartition(m.topic, m.partition)] = m.offset + 1
        return taken

    async def read_while(self, allowed):
        """Stays in the group in any case, but takes records only if `allowed`."""
        if allowed:
            self.consumer.resume(*self.consumer.paused())
        else:
            self.consumer.pause(*self.consumer.assignment())
        await self.take()

    async def leave(self):
        await self.commit()
        await self.consumer.stop()


async def group(suite):
    tally = Tally(suite)

    async def member_b():
        b = Member(suite, tally, "B")
        await b.join()
        while not tally.b_done(b.assigned):
            await b.read_while(tally.b_reads(b.assigned))
            tally.b_joined = tally.b_joined or bool(b.assigned)
        await b.leave()

    a = Member(suite, tally, "A")
    await a.join()
    while not tally.reached(1, 4):
        await a.take()
    b = asyncio.create_task(member_b())
    while not b.done() and not tally.a_done():
        await a.read_while(tally.a_reads())
    await a.leave()
    await b

    consumer = AIOKafkaConsumer(bootstrap_servers=suite.bootstrap, group_id=suite.group)
    await consumer.start()
    committed = {tp.partition: await consumer.committed(tp) or 0 for tp in partitions(suite.topic)}
    await consumer.stop()
    tally.check_committed(committed)

    c = Member(suite, tally, "C")
    await c.join()
    first = {}
    while tally.distinct < suite.records:
        for m in await c.take():
            first.setdefault(m.partition, m.offset)
    await c.leave()
    tally.check_restart(first, committed)
    return suite.records, tally.bytes, tally.note()


async def idempotent(suite, admin):
    n = suite.idempotent_records
    await create_topic(admin, suite.idempotent_topic)
    producer = AIOKafkaProducer(
        bootstrap_servers=suite.bootstrap, enable_idempotence=True, linger_ms=5, max_batch_size=2000
    )
    await producer.start()
    sent = []
    for i in range(n):
        sent.append(await producer.send(suite.idempotent_topic, value=b"%d" % i, key=b"key-%d" % (i % 100)))
    await asyncio.gather(*sent)
    await producer.stop()

    consumer = AIOKafkaConsumer(bootstrap_servers=suite.bootstrap, auto_offset_reset="earliest")
    consumer.assign(partitions(suite.idempotent_topic))
    await consumer.start()
    once = InOrderOnce(n)
    while not once.complete():
        for batch in (await consumer.getmany(timeout_ms=1000)).values():
            for m in batch:
                once.take(m.partition, m.value)
    ends = sum((await consumer.end_offsets(partitions(suite.idempotent_topic))).values())
    await consumer.stop()
    return once.check(ends)


async def configs(suite, admin):
    """aiokafka knows AlterConfigs only: what is not named goes back to its default."""

    async def described():
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, suite.topic)])
        ((code, message, _, _, entries),) = answer.resources
        require(code == 0, message)
        # name, value, read-only, source (1: the topic's own), ...
        return {entry[0]: (entry[1], entry[3]) for entry in entries}

    async def settled(as_wanted):
        """Apache Kafka acknowledges a changed setting before its broker has taken notice of it."""
        deadline = time.monotonic() + 10
        while not as_wanted(answer := await described()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return answer

    async def alter(settings):
        resource = ConfigResource(ConfigResourceType.TOPIC, suite.topic, settings)
        (answer,) = await admin.alter_configs([resource])
        return answer.resources[0][0]

    before = await described()
    require(len(before) > 20, f"only {len(before)} settings are described")
    require(before["segment.bytes"] == (str(SEGMENT_BYTES), 1), f"segment.bytes={before['segment.bytes']}")
    require(before["retention.ms"][1] != 1, "retention.ms is already a topic's own setting")

    kept = {"segment.bytes": str(SEGMENT_BYTES)}
    require(await alter({**kept, "retention.ms": str(RETENTION_MS)}) == 0, "retention.ms was refused")
    after = await settled(lambda d: d["retention.ms"][1] == 1)
    require(after["retention.ms"] == (str(RETENTION_MS), 1), f"retention.ms={after['retention.ms']}")
    code = await alter({**kept, "retention.ms": "soon"})
    require(code == 40, f"retention.ms=soon: error {code}, not 40 (INVALID_CONFIG)")

    require(await alter({**kept, "max.message.bytes": "2000"}) == 0, "max.message.bytes was refused")
    restored = await settled(lambda d: d["max.message.bytes"][0] == "2000")
    require(restored["retention.ms"] == before["retention.ms"], "retention.ms did not go back")
    producer = AIOKafkaProducer(bootstrap_servers=suite.bootstrap)
    await producer.start()
    try:
        await producer.send_and_wait(suite.topic, value=records.POOL[:3000], partition=0)
        raise AssertionError("3,000 bytes were accepted past max.message.bytes=2000")
    except MessageSizeTooLargeError:
        pass
    finally:
        await producer.stop()
    require(await alter(kept) == 0, "going back was refused")
    return 0, 0, f"{len(before)} settings"


async def delete(suite, admin):
    tp = TopicPartition(suite.topic, 0)
    low = (await admin.delete_records({tp: RecordsToDelete(10)}))[tp]
    require(low == 10, f"the log starts at {low} after deleting what is before 10")
    groups = [name for name, *_ in await admin.list_consumer_groups()]
    require(suite.group in groups, "the group is not listed")

    topics = [suite.topic, suite.idempotent_topic]
    for name, code in (await admin.delete_topics(topics)).topic_error_codes:
        require(code == 0, f"{name} could not be deleted: error {code}")

    async def gone():
        return not set(topics) & set(await admin.list_topics())

    await wait_for("the topics to be gone", gone)
    return 0, 0, "its admin cannot delete groups"


if __name__ == "__main__":
    asyncio.run(main())
