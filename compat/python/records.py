"""The records that every client writes and checks (compat/README.md, "The records").

Record `i` is a pure function of `i`; two programs in different languages that agree on this file's checksum agree on
every byte. Nothing here talks to a broker.
"""

import hashlib
import struct
from typing import NamedTuple, Optional

PARTITIONS = 6
POOL_BYTES = 1 << 21
CHECKSUM = "b305a75994f132ff9d617daf0c5694daf52fa1d3662c5c7737b6b2a1815e6646"
MASK = 0xFFFFFFFF


class Record(NamedTuple):
    partition: int
    offset: int
    timestamp: int
    key: Optional[bytes]
    value: Optional[bytes]
    headers: list


def mix(x):
    x &= MASK
    x ^= x >> 16
    x = x * 0x85EBCA6B & MASK
    x ^= x >> 13
    x = x * 0xC2B2AE35 & MASK
    return x ^ x >> 16


def _make_pool():
    words = []
    x = 0x9E3779B9
    for w in range(POOL_BYTES // 4):
        if w // 16 % 2:
            words.append(words[w % 16])
        else:
            x ^= x << 13 & MASK
            x ^= x >> 17
            x ^= x << 5 & MASK
            words.append(x)
    return struct.pack(f"<{len(words)}I", *words)


POOL = _make_pool()


def value(i):
    h = mix(i + 0x5EED)
    g = mix(h + 1)
    kind = h % 1000
    if i % 2500 == 0:
        size = 921600
    elif kind < 50:
        return None if i % 2 == 0 and i % 13 else b""
    elif kind < 650:
        size = 1 + g % 200
    elif kind < 950:
        size = 200 + g % 1800
    elif kind < 994:
        size = 2000 + g % 18000
    elif kind < 999:
        size = 20000 + g % 80000
    else:
        size = 100000 + g % 821601
    start = mix(h + 2) % (1 << 20)
    if size < 4:
        return POOL[start : start + size]
    return struct.pack("<I", i) + POOL[start + 4 : start + size]


def record(i, base_ms, null_headers=True):
    """Record `i`; without the header whose value is null for clients that cannot send one."""
    key = None if i % 13 == 0 else b"" if i % 13 == 1 else b"key-%d" % (i % 1000)
    headers = [("i", b"%d" % i)]
    if i % 5 == 0:
        headers += [("dup", b""), ("dup", b"second")] + [("nil", None)] * null_headers
    elif i % 5 == 1:
        headers.append(("bytes", b"\x00\xff\x80"))
    return Record(i % PARTITIONS, i // PARTITIONS, base_ms + 10 * i, key, value(i), headers)


def first_at(partition, i):
    """The smallest record number of `partition` that is not below `i`."""
    return i + (partition - i) % PARTITIONS


def end_offset(partition, records):
    """How many of the first `records` records belong to `partition`."""
    return (records - partition + PARTITIONS - 1) // PARTITIONS


def checksum():
    digest = hashlib.sha256()
    for i in range(1000):
        digest.update(value(i) or b"")
    return digest.hexdigest()


def check_generator():
    if checksum() != CHECKSUM:
        raise SystemExit(f"the generator differs from compat/README.md: {checksum()}")


def compare(i, base_ms, null_headers, partition, offset, timestamp, key, got, headers):
    """Raises AssertionError with the first field in which a record that was read is not record `i`."""
    want = record(i, base_ms, null_headers)
    headers = [(k, bytes(v) if v is not None else None) for k, v in headers]
    for name, expected, actual in (
        ("partition", want.partition, partition),
        ("offset", want.offset, offset),
        ("timestamp", want.timestamp, timestamp),
        ("key", want.key, key),
        ("headers", want.headers, headers),
    ):
        if expected != actual:
            raise AssertionError(f"record {i} at {partition}/{offset}: {name} is {actual!r}, not {expected!r}")
    if want.value != got:
        sizes = [None if v is None else len(v) for v in (got, want.value)]
        raise AssertionError(f"record {i} at {partition}/{offset}: its value differs (bytes read, expected: {sizes})")
