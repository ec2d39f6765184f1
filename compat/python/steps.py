"""What the Python programs share: arguments, the report lines that xtask reads, and the tally of what a group has read.

It knows no client library.
"""

import argparse
import sys
import threading
import time
import traceback

import records

SEGMENT_BYTES = 4 << 20
RETENTION_MS = 3 * 24 * 3600 * 1000
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class Suite:
    """One run of one client: names, sizes, and a report line per step."""

    def __init__(self, client, null_headers=True):
        parser = argparse.ArgumentParser()
        parser.add_argument("--bootstrap", required=True)
        parser.add_argument("--records", type=int, default=5000)
        parser.add_argument("--base-ms", type=int, required=True)
        parser.add_argument("--run", required=True)
        args = parser.parse_args()
        self.null_headers = null_headers
        self.bootstrap = args.bootstrap
        self.records = args.records
        self.base_ms = args.base_ms
        self.topic = f"compat-{client}-{args.run}"
        self.idempotent_topic = f"{self.topic}-idempotent"
        self.group = f"{self.topic}-group"
        self.idempotent_records = max(1000, self.records // 20)
        records.check_generator()

    def step(self, name, run):
        """Runs a step; `run` returns (records, bytes, note). A failure is reported and ends the program."""
        start = time.monotonic()
        try:
            count, size, note = run()
        except Exception as error:
            traceback.print_exc()
            self.line(name, "FAIL", 0, 0, start, f"{type(error).__name__}: {error}")
            sys.stdout.flush()
            sys.stderr.flush()
            sys.exit(1)
        self.line(name, "ok", count, size, start, note)

    @staticmethod
    def line(name, verdict, count, size, start, note):
        note = " ".join(str(note).split())[:300]
        print(f"STEP\t{name}\t{verdict}\t{count}\t{size}\t{time.monotonic() - start:.2f}\t{note}", flush=True)

    def record(self, i):
        return records.record(i, self.base_ms, self.null_headers)

    def share(self, codec, codecs):
        """The consecutive range of records that `codec` gets."""
        at = codecs.index(codec)
        return range(self.records * at // len(codecs), self.records * (at + 1) // len(codecs))

    def expected_offsets_at(self):
        """Yields (record number, {partition: offset or None, ...}) for lookups `base + 10 i - 5`."""
        n = self.records
        for i in (0, 1, n // 3, n // 2 + 1, n - 1, n, n + 5000):
            answer = {}
            for p in range(records.PARTITIONS):
                first = records.first_at(p, i)
                answer[p] = first // records.PARTITIONS if first < n else None
            yield self.base_ms + 10 * i - 5, answer


class Acknowledgements:
    """Checks that each record was acknowledged once, at the place that the generator implies."""

    def __init__(self):
        self.count = 0
        self.error = None

    def record(self, i, partition, offset):
        self.count += 1
        want = (i % records.PARTITIONS, i // records.PARTITIONS)
        if (partition, offset) != want and self.error is None:
            self.error = f"record {i} was acknowledged at {partition}/{offset}, not {want[0]}/{want[1]}"

    def check(self, count):
        if self.error:
            raise AssertionError(self.error)
        if self.count != count:
            raise AssertionError(f"{self.count} of {count} records were acknowledged")


class Tally:
    """What the members of a group have read together. Members may be threads."""

    def __init__(self, suite):
        self.suite = suite
        self.lock = threading.Lock()
        self.seen = bytearray(suite.records)
        self.distinct = 0
        self.duplicates = 0
        self.bytes = 0
        self.by_member = {}
        self.b_joined = False

    def take(self, member, partition, offset, timestamp, key, value, headers):
        """Checks one record; its number comes from its first header."""
        if not headers or headers[0][0] != "i":
            raise AssertionError(f"the record at {partition}/{offset} has headers {headers!r}")
        i = int(bytes(headers[0][1]))
        records.compare(
            i, self.suite.base_ms, self.suite.null_headers, partition, offset, timestamp, key, value, headers
        )
        with self.lock:
            if self.seen[i]:
                self.duplicates += 1
            else:
                self.distinct += 1
            self.seen[i] = 1
            self.bytes += len(value or b"")
            self.by_member[member] = self.by_member.get(member, 0) + 1

    def reached(self, numerator, denominator):
        return self.distinct >= self.suite.records * numerator // denominator

    # The play: A reads a quarter and waits for B. Both read until half is read and B had a share in it. A leaves, B waits
    # until it has every partition and reads to three quarters. Without the waiting a fast reader would be through before
    # the group changes.

    def half_is_shared(self):
        return self.reached(1, 2) and self.by_member.get("B", 0) > 0

    def a_reads(self):
        return self.b_joined

    def a_done(self):
        return self.half_is_shared()

    def b_reads(self, assigned):
        return not self.half_is_shared() or len(assigned) == records.PARTITIONS

    def b_done(self, assigned):
        return self.reached(3, 4) and len(assigned) == records.PARTITIONS

    def check_committed(self, committed):
        """After A and B have left: what is committed is what they have read. Below 0 stands for no commit."""
        for p, offset in committed.items():
            read = bytes(self.seen[p :: records.PARTITIONS]).count(1)
            require(max(offset, 0) == read, f"partition {p}: {read} records read, {offset} committed")

    def check_restart(self, first, committed):
        """After C has read the rest: it began where the others had committed."""
        for p, offset in first.items():
            require(offset == max(committed[p], 0), f"C started at {p}/{offset}, committed was {committed[p]}")
        require(self.duplicates == 0, f"{self.duplicates} records came twice")

    def note(self):
        shares = " ".join(f"{name}={count}" for name, count in sorted(self.by_member.items()))
        return f"{shares} twice={self.duplicates}"


class InOrderOnce:
    """The idempotent step's reading side: `count` numbers, each once, rising within a partition."""

    def __init__(self, count):
        self.count = count
        self.last = {}
        self.seen = set()

    def take(self, partition, value):
        i = int(value)
        require(i not in self.seen, f"{i} came twice")
        require(i > self.last.get(partition, -1), f"{i} came after {self.last.get(partition)}")
        self.last[partition] = i
        self.seen.add(i)

    def complete(self):
        return len(self.seen) >= self.count

    def check(self, in_log):
        """`in_log` is the sum of the end offsets: nothing may lie there that was not produced."""
        require(in_log == self.count, f"the log holds {in_log} records, {self.count} were produced")
        return self.count, sum(len(b"%d" % i) for i in range(self.count)), f"partitions used={len(self.last)}"


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def wait_for(what, condition, seconds=60):
    """Polls `condition`, for facts that a broker spreads in its own time (metadata, deletion)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def settled(read, as_wanted, seconds=10):
    """Reads until the answer is as wanted or time is up, and gives the last answer for the checks to judge.

    Apache Kafka acknowledges a changed setting before its broker has taken notice of it.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = read()
        if as_wanted(answer) or time.monotonic() > deadline:
            return answer
        time.sleep(0.02)
