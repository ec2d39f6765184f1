"""Compares a table of `ottla sink` with the JSON lines that it was made of: each line is a row, once, with the same values.

The table is read by DuckDB, the lines by Python; nothing of ours is asked. Columns are the names in the lines; text of the column `at` is
a time in UTC. Prints `rows files`; exits with 1 and what differs otherwise.
"""

import argparse
import glob
import json
import sys
from collections import Counter
from datetime import datetime, timedelta, timezone

import duckdb

SHOWN_MAX = 10
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def micros(text):
    """Microseconds since 1970 of a time in UTC, as in 2024-05-01T12:00:00Z."""
    return (datetime.fromisoformat(text.replace("Z", "+00:00")) - EPOCH) // timedelta(microseconds=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", required=True)
    parser.add_argument("--table", required=True)
    args = parser.parse_args()

    with open(args.lines) as lines:
        wanted = [json.loads(line) for line in lines]
    names = list(wanted[0])
    want = Counter(tuple(micros(row[name]) if name == "at" else row[name] for name in names) for row in wanted)
    files = glob.glob(f"{args.table}/dt=*/hour=*/*.parquet")
    columns = ", ".join(f'epoch_us("{name}")' if name == "at" else f'"{name}"' for name in names)
    rows = duckdb.sql(f"SELECT {columns} FROM read_parquet({files!r}, hive_partitioning = true)").fetchall()
    got = Counter(rows)
    for what, rest in (("missing", want - got), ("double or strange", got - want)):
        for row, count in list(rest.items())[:SHOWN_MAX]:
            print(f"{what}: {row}, {count} times")
    if got != want or not rows:
        sys.exit(1)
    print(len(rows), len(files))


if __name__ == "__main__":
    main()
