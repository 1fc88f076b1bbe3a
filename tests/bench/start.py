#!/usr/bin/env python3
"""From the start of zephd to its first token, against reading the model's file from the page cache.

    $(tests/python-env tests/requirements.txt) tests/bench/start.py MODEL [--build DIR] [--rounds 5]

A round is the file read once in pieces of 8 MiB, a zephd that packs the weights as it loads
(keep_packed = false), and one that takes the weights that were kept by an earlier one. All on the
processor, with a context of 1,024 tokens; the prompt is one token, and so is the answer. The cache of
packed weights is a folder of this run's own (--cache FOLDER: where), removed at the end.
"""

import argparse
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from zephd import Zephd  # noqa: E402

KEPT, TAKEN = "are kept for the next load", "taken as they had been packed"


def read_seconds(path):
    piece = bytearray(8 << 20)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as f:
        while f.readinto(piece):
            pass
    return time.perf_counter() - start


def start_zephd(arguments, cache, config=""):
    return Zephd(arguments.build, arguments.model, "--device", "cpu", "--context", "1024",
                 config=config, environment={"XDG_CACHE_HOME": cache}, seconds=600)


def first_token(arguments, cache, config=""):
    """Seconds, MB resident after it, and whether kept weights were taken."""
    start = time.perf_counter()
    with start_zephd(arguments, cache, config) as d, d.connect(600) as c:
        c.call("complete", prompt=[1], max_new_tokens=1)
        seconds = time.perf_counter() - start
        status = pathlib.Path(f"/proc/{d.process.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0]) / 1000
        return seconds, resident, TAKEN in d.log()


def keep(arguments, cache):
    """Seconds until the weights were kept, or None where they are not."""
    start = time.perf_counter()
    with start_zephd(arguments, cache) as d, d.connect(600) as c:
        c.call("complete", prompt=[1], max_new_tokens=1)
        for _ in range(6000):
            log = d.log()
            if KEPT in log:
                return time.perf_counter() - start
            if "not kept" in log:
                sys.exit(log)
            time.sleep(0.1)
    return None


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=pathlib.Path)
    arguments = parser.parse_args()

    cache = tempfile.mkdtemp(prefix="zeph-start-", dir=arguments.cache)
    try:
        seconds = keep(arguments, cache)
        if seconds is None:
            sys.exit("this kernel or file system does not map files on huge pages: nothing is kept")
        print(f"kept {seconds:.1f} s after the start")
        reads, packs, takes = [], [], []
        for _ in range(arguments.rounds):
            reads.append(read_seconds(arguments.model))
            packs.append(first_token(arguments, cache, "model: { keep_packed = false; };"))
            takes.append(first_token(arguments, cache))
        assert all(taken for _, _, taken in takes) and not any(taken for _, _, taken in packs)
    finally:
        shutil.rmtree(cache)

    size = arguments.model.stat().st_size
    print(f"{arguments.model.name}, {size / 1e9:.2f} GB; medians of {arguments.rounds} rounds\n")
    print("| | seconds | of reading the file | resident |")
    print("|---|---|---|---|")
    print(f"| the file read from the page cache | {spread(reads)} | | |")
    for what, results in (("first token, weights packed", packs),
                          ("first token, packed weights taken", takes)):
        times = [s for s, _, _ in results]
        ratios = [s / r for s, r in zip(times, reads)]
        resident = statistics.median(mb for _, mb, _ in results)
        print(f"| {what} | {spread(times)} | {spread(ratios)} | {resident:.0f} MB |")


if __name__ == "__main__":
    main()
