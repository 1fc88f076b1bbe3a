#!/usr/bin/env python3
"""zeph's engine and llama.cpp's on one file and one processor, interleaved, as a markdown table.

    tests/bench/processor.py --model FILE.gguf --llama PYTHON [--build DIR] [--threads 1,2]
                             [--prompt 512] [--generate 64] [--depth 0,2048] [--rounds 5] [--apart]

PYTHON is an interpreter with llama-cpp-python, built on this machine (`pip install
llama-cpp-python==0.3.36` compiles it for the processor at hand); without --llama zeph is told alone.
llama.cpp gets its own best: flash attention on and off and, for a prompt, micro-batches of 128 and 512
tokens are tried in the first round, and the fastest of them runs in every round.

A round is zeph-bench, then llama.cpp; both stay loaded, or with --apart each is loaded anew for its
turn, where memory does not hold the model twice. What is told of each is the median, and of their
ratio the median of the rounds' ratios with the least and the largest. Shares are of the bandwidth and
the int8 or bf16 peak that zeph-bench measured before and after each of its tests.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent

# Runs in the other interpreter: a test a line on stdin, tokens per second on stdout.
LLAMA = r"""
import ctypes, json, sys, time
import llama_cpp as L

@L.llama_log_callback
def quiet(level, text, user):
    pass

L.llama_log_set(quiet, None)
path, threads = sys.argv[1], int(sys.argv[2])
params = L.llama_model_default_params()
params.n_gpu_layers = 0
model = L.llama_model_load_from_file(path.encode(), params)
vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))

def feed(context, tokens):
    array = (L.llama_token * len(tokens))(*tokens)
    if L.llama_decode(context, L.llama_batch_get_one(array, len(tokens))) != 0:
        sys.exit("llama_decode failed")
    L.llama_synchronize(context)

print("ready", flush=True)
for line in sys.stdin:
    test = json.loads(line)
    params = L.llama_context_default_params()
    params.n_ctx = test["depth"] + test["prompt"] + test["generate"] + 8
    params.n_batch = params.n_ubatch = test["batch"]
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = 1 if test["flash"] else 0
    context = L.llama_init_from_model(model, params)
    ids = [(7 * i + 11) % vocab for i in range(max(test["depth"], test["prompt"], 8))]
    for at in range(0, test["depth"], test["batch"]):
        feed(context, ids[at:min(at + test["batch"], test["depth"])])
    if test["depth"] == 0:
        feed(context, ids[:8])  # the first pass pays for memory
        L.llama_memory_clear(L.llama_get_memory(context), True)
    start = time.perf_counter()
    n = test["prompt"] or test["generate"]
    if test["prompt"]:
        for at in range(0, n, test["batch"]):
            feed(context, ids[at:min(at + test["batch"], n)])
    else:
        for i in range(n):
            feed(context, [ids[i % 8]])
    print(n / (time.perf_counter() - start), flush=True)
    L.llama_free(context)
"""


class Llama:
    """llama.cpp with the model loaded, in a process of its own."""

    def __init__(self, python, model, threads):
        self.process = subprocess.Popen([python, "-c", LLAMA, model, str(threads)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit("llama-cpp-python did not load the model")

    def rate(self, **test):
        self.process.stdin.write(json.dumps(test) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def numbers(text):
    return [int(x) for x in text.split(",")]


def tests_of(arguments):
    """Name as zeph-bench has it, and what llama.cpp is to run, in the ways that may be its best."""
    tests = {}
    for n in filter(None, arguments.prompt):
        tests[f"pp{n}"] = [dict(prompt=n, generate=0, depth=0, batch=b, flash=f)
                           for b in (128, 512) for f in (False, True)]
    for depth in arguments.depth:
        name = f"tg{arguments.generate}" + (f"@d{depth}" if depth else "")
        tests[name] = [dict(prompt=0, generate=arguments.generate, depth=depth, batch=512, flash=f)
                       for f in (False, True)]
    return tests


class Zeph:
    """zeph-bench with the model loaded."""

    def __init__(self, arguments, threads):
        self.process = subprocess.Popen(
            [arguments.build / "engine" / "zeph-bench", "--model", arguments.model, "--device", "cpu",
             "--threads", str(threads), "--repeat", "1", "--json", "--step",
             "--prompt", ",".join(map(str, arguments.prompt)),
             "--generate", str(arguments.generate), "--depth", ",".join(map(str, arguments.depth))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        text = ""
        while not text.endswith("\n}\n"):
            line = self.process.stdout.readline()
            if not line:
                sys.exit("zeph-bench ended")
            text += line
        return json.loads(text)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama")
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--prompt", type=numbers, default=[512])
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--depth", type=numbers, default=[0, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--apart", action="store_true")
    arguments = parser.parse_args()
    tests = tests_of(arguments)

    print("| test | threads | zeph, tokens/s | share of the limit | llama.cpp, tokens/s | ratio |")
    print("|---|---|---|---|---|---|")
    for threads in arguments.threads:
        zeph = llama = None
        ours = {name: [] for name in tests}
        shares = {name: [] for name in tests}
        theirs = {name: [] for name in tests}
        best = {}
        for _ in range(arguments.rounds):
            zeph = zeph or Zeph(arguments, threads)
            machine = zeph.round()
            if arguments.apart:
                zeph = zeph.close()
            for test in machine["tests"]:
                ours[test["name"]].append(test["tokens_per_s"]["median"])
                shares[test["name"]].append(test["fraction"])
            if not arguments.llama:
                continue
            llama = llama or Llama(arguments.llama, arguments.model, threads)
            for name, ways in tests.items():
                if name not in best:
                    best[name] = max(ways, key=lambda way: llama.rate(**way))
                theirs[name].append(llama.rate(**best[name]))
            if arguments.apart:
                llama = llama.close()
        for one in filter(None, (zeph, llama)):
            one.close()
        for name in tests:
            told = "– | –"
            if arguments.llama:
                ratios = [a / b for a, b in zip(ours[name], theirs[name])]
                told = f"{statistics.median(theirs[name]):.1f} | {spread(ratios)}"
            print(f"| {name} | {threads} | {statistics.median(ours[name]):.2f} "
                  f"| {100 * statistics.median(shares[name]):.0f}% | {told} |", flush=True)
    print(f"\n{machine['device']['name']}, {arguments.rounds} rounds; the last one measured "
          f"{machine['bandwidth_gbps']:.1f} GB/s")


if __name__ == "__main__":
    main()
