"""Real text for the console producer: the lines of source files, and what they add up to.

Prints every line of the .rs files under the given folders (UTF-8, without carriage returns; others are left out) to
standard output, the whole set again behind a numbered line until the size is reached, and writes `lines bytes digest` to a file. The digest is
the sum of each line's 128-bit BLAKE2b modulo 2^128, so the order in which partitions are read does not matter.
"""

import argparse
import os
import sys
from hashlib import blake2b

CHUNK_LINES = 10_000


def text_files(roots):
    """Yields the content of every usable file, in an order that does not depend on the file system."""
    for root in roots:
        for directory, directories, names in os.walk(root):
            directories.sort()
            for name in sorted(names):
                if not name.endswith(".rs"):
                    continue
                with open(os.path.join(directory, name), "rb") as file:
                    data = file.read()
                try:
                    data.decode()
                except UnicodeDecodeError:
                    continue
                if b"\r" not in data:
                    yield data


def lines(roots, bytes_min):
    size = 0
    repetition = 0
    while True:
        header = b"// repetition %d" % repetition
        yield header
        before = size
        for data in text_files(roots):
            found = data.split(b"\n")
            if not found[-1]:
                found.pop()
            yield from found
            size += sum(map(len, found))
            if size >= bytes_min:
                return
        if size == before:
            raise SystemExit(f"no text files under {roots}")
        repetition += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--summary", required=True)
    parser.add_argument("roots", nargs="+")
    args = parser.parse_args()

    count = size = digest = 0
    chunk = []
    out = sys.stdout.buffer
    for line in lines(args.roots, args.bytes):
        count += 1
        size += len(line)
        digest += int.from_bytes(blake2b(line, digest_size=16).digest(), "little")
        chunk.append(line)
        if len(chunk) == CHUNK_LINES:
            chunk.append(b"")
            out.write(b"\n".join(chunk))
            chunk = []
    if chunk:
        out.write(b"\n".join(chunk) + b"\n")
    out.flush()
    with open(args.summary, "w") as summary:
        print(count, size, f"{digest % (1 << 128):032x}", file=summary)


if __name__ == "__main__":
    main()
