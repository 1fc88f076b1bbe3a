#!/usr/bin/env python3
"""Zephyr's size on this machine: a random bf16 directory in its shape, loaded with --quantize, and made a
file of by zephctl quantize. Prints how long each takes and the most memory that each had resident.

    $(tests/python-env tests/requirements.txt) tests/bench/seven_billion.py [--type q4_k_m] [--build DIR]
                                                                           [--work DIR] [--model DIR]

--model is such a directory that exists already; otherwise one is made in --work and removed, which takes
19 GB of disk. Ends with 1 where an answer is missing or more than 6 GB were resident.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import mistral_common

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from compare import peak_bytes  # noqa: E402
from zephd import Zephd  # noqa: E402

TOKENIZER = pathlib.Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
LIMIT = 6e9
MESSAGES = [{"role": "user", "content": "How many helicopters can a human eat in one sitting?"}]


def run(what, *command):
    """Prints seconds and peak; returns the peak in bytes."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    tell(what, start, usage.ru_maxrss * 1024)
    return usage.ru_maxrss * 1024


def tell(what, start, peak):
    print(f"{what}: {time.monotonic() - start:.0f} s, peak {peak / 1e9:.2f} GB resident, load "
          f"{os.getloadavg()[0]:.1f}", flush=True)


def ask(what, build, model, *options):
    start = time.monotonic()
    with Zephd(build, model, "--context", "1024", *options, seconds=3600) as zephd, \
            zephd.connect(3600) as client:
        answer = client.call("chat", messages=MESSAGES, temperature=0, max_new_tokens=8)
        peak = peak_bytes(zephd.process.pid)
        tell(what, start, peak)
        status = client.call("status")["model"]
    print(f"  {status['bytes'] / 1e9:.2f} GB of weights; {answer['usage']['prompt_tokens']} tokens in, "
          f"{json.dumps(answer['tokens'])} out")
    if not answer["tokens"]:
        sys.exit("no answer")
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seven-", dir=a.work) as folder:
        folder = pathlib.Path(folder)
        model, file = a.model or folder / "zephyr", folder / "zephyr.gguf"
        if not a.model:
            run("making the directory", a.build / "engine/zeph-mkmodel", "--shape", "zephyr-7b", "--type",
                "bf16", "--seed", "1", "--tokenizer", TOKENIZER, model)
        peaks = [
            ask(f"zephd --quantize {a.type}, until the answer", a.build, model, "--quantize", a.type),
            run(f"zephctl quantize --type {a.type}", a.build / "engine/zeph-quantize", model, file, "--type",
                a.type),
            ask("zephd with that file, until the answer", a.build, file)]
    return 0 if max(peaks) < LIMIT else 1


sys.exit(main())
