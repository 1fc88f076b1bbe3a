"""The stages of the GPU suite. Each takes the suite and the report, and may fail by an exception."""

import array
import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import time

from wire import Zephd

# What issue and design ask of an H200 with the 7B shape: shares of its read bandwidth at batch 1.
H200_DECODE = {"bf16": 0.80, "q8_0": 0.70, "q4_k_m": 0.60}
H200_PREFILL_512_MS = 2 * 9.1  # bf16, twice the floor
H200_FIRST_TOKEN_MS = 8.0      # bf16, a prompt of 20 tokens, through the socket

SIZES = {
    "zephyr-7b": dict(prompts=[128, 512, 2048, 8192], depths=[0, 512, 4096], generate=64,
                      batches=[1, 2, 4, 8, 16, 32, 64], repeat=3, types=["bf16", "q8_0", "q4_k_m"],
                      latencies=21, positions=1000, rows=48, beside=8, stride=29, reply=50,
                      large=600, large_prompts=[512, 2048, 8192],
                      model="mistral-tiny",
                      oracle=dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=8,
                                  num_attention_heads=16, num_key_value_heads=4, head_dim=64,
                                  vocab_size=8192)),
    "tiny": dict(prompts=[16, 40], depths=[0, 20], generate=4, batches=[1, 2], repeat=1,
                 types=["bf16", "q8_0", "q4_k_m"], latencies=3, positions=40, rows=6, beside=3,
                 stride=7, reply=3, large=16, large_prompts=[40], model="tiny",
                 oracle=dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                             vocab_size=256)),
}


class OutOfTime(Exception):
    """The stage's time was over; the text says before what."""


class Suite:
    def __init__(self, build, work, shape):
        self.build = build
        self.work = work
        self.shape = shape
        self.sizes = SIZES[shape]
        self.deadline = time.monotonic() + 600

    def program(self, path):
        found = self.build / path
        if not found.exists():
            raise RuntimeError(f"{found} is missing: build zeph first (--build)")
        return str(found)

    def left(self, what):
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise OutOfTime(f"not begun: {what}")
        return seconds

    def run(self, what, *command, check=True, environment=None):
        """A program to its end, at most until the stage's deadline."""
        try:
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True,
                                  timeout=self.left(what),
                                  env={**os.environ, **(environment or {})})
        except subprocess.TimeoutExpired:
            raise OutOfTime(f"cut short: {what}") from None
        if check and done.returncode:
            raise RuntimeError(f"{what}: exit {done.returncode}: {done.stderr.strip()[-600:]}")
        return done

    def model(self, shape, dtype):
        path = self.work / f"{shape}-{dtype}.gguf"
        if not path.exists():
            part = path.with_name("part-" + path.name)
            self.run(f"making {path.name}", self.program("engine/zeph-mkmodel"), "--shape", shape,
                     "--type", dtype, "--seed", "1", part)
            part.rename(path)
        return path

    def zephd(self, model, device="cuda", *options):
        return Zephd(self.program("daemon/zephd"), model, "--device", device, *options,
                     seconds=self.left("starting zephd"))

    def device(self):
        """status' device of a small model on the card: that there is one at all."""
        with self.zephd(self.model("tiny", "f32")) as d, d.connect() as c:
            c.call("model.load")
            return c.call("status")["device"]


# --- ops

TAP = re.compile(r"^(not ok|ok) \d+ - (.*)$", re.MULTILINE)


def ops(suite, report):
    for name in ("test-ops-card", "test-attention-card"):
        done = suite.run(name, suite.program(f"tests/unit/{name}"), check=False,
                         environment={"CMOCKA_MESSAGE_OUTPUT": "TAP"})
        claims = TAP.findall(done.stdout)
        for verdict, claim in claims:
            report.check(claim, verdict == "ok",
                         "" if verdict == "ok" else first_words(done.stdout + done.stderr, claim))
        report.check(f"{name} ran to its end", claims and done.returncode in (0, 1)
                     or done.returncode == 0, f"exit {done.returncode}")


def first_words(text, claim):
    after = text[text.find(claim):]
    return " ".join(after.split("\n", 6)[1:6])[:300]


# --- tokens

def logits(suite, model, device, ids, vocab, *options):
    """Rows of logits, one for each token."""
    tokens, out = suite.work / "tokens", suite.work / "logits"
    tokens.write_bytes(struct.pack(f"<{len(ids)}I", *ids))
    suite.run(f"logits of {model.name} on {device}", suite.program("tests/tool/zeph-logits"),
              "--model", model, "--device", device, "--tokens", tokens, "--out", out, *options)
    values = array.array("f")
    values.frombytes(out.read_bytes())
    assert len(values) == len(ids) * vocab
    return [values[i * vocab:(i + 1) * vocab] for i in range(len(ids))]


def log_softmax(row):
    most = max(row)
    total = math.log(sum(math.exp(x - most) for x in row)) + most
    return [x - total for x in row]


def divergence(wanted, got):
    """Mean KL(wanted || got) in nats, and how many rows choose another token."""
    kl, flips = [], 0
    for w, g in zip(wanted, got):
        w, g = log_softmax(w), log_softmax(g)
        kl.append(sum(math.exp(a) * (a - b) for a, b in zip(w, g)))
        flips += max(range(len(w)), key=w.__getitem__) != max(range(len(g)), key=g.__getitem__)
    return statistics.fmean(kl), flips


def random_ids(n, vocab, seed=1):
    state, ids = seed, []
    for _ in range(n):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        ids.append((state >> 33) % vocab)
    return ids


def tokens(suite, report):
    vocab = None
    rows = []
    for dtype in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q2_k",
                  "q3_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"):
        model = suite.model(suite.sizes["model"], dtype)
        if vocab is None:
            vocab = vocabulary(suite, model)
        ids = random_ids(suite.sizes["rows"], vocab)
        wanted = logits(suite, model, "reference", ids, vocab, "--kv", "f16")
        exact = logits(suite, model, "cuda", ids, vocab, "--kv", "f16", "--activations", "exact")
        fast = logits(suite, model, "cuda", ids, vocab, "--activations", "fast")
        e, f = divergence(wanted, exact), divergence(wanted, fast)
        rows.append([dtype, e[0], e[1], f[0], f[1]])
        report.check(f"{dtype}, exact: as the reference", e[0] < 1e-6, f"KL {e[0]:.3g}")
        report.check(f"{dtype}, fast: near the reference", f[0] < 2e-2, f"KL {f[0]:.3g}")
    report.table(f"Mean KL against the f32 reference, {suite.sizes['rows']} positions",
                 ["type", "KL exact", "flips exact", "KL fast", "flips fast"], rows)
    eight_bits(suite, report)
    inexact(suite, report, vocab)
    same_bytes(suite, report, vocab)


def eight_bits(suite, report):
    """Keys and values in q8_0: heads of a multiple of 32, which the smallest shape has not."""
    model = suite.model("mistral-tiny", "f32")
    vocab = vocabulary(suite, model)
    ids = random_ids(suite.sizes["rows"], vocab)
    options = ["--activations", "exact", "--kv"]
    wanted = logits(suite, model, "reference", ids, vocab, "--kv", "q8_0")
    got = divergence(wanted, logits(suite, model, "cuda", ids, vocab, *options, "q8_0"))
    plain = divergence(logits(suite, model, "cuda", ids, vocab, *options, "f16"), wanted)
    # A sum that differs in its last bit may round a key to the next number: not so small as exact.
    report.check("keys and values in q8_0: as the reference's", got[0] < 1e-3, f"KL {got[0]:.3g}")
    report.check("keys and values in q8_0: near f16's", plain[0] < 1e-2, f"KL {plain[0]:.3g}")


def inexact(suite, report, vocab):
    """engine.exact = false: one prompt that is large enough for cuBLASLt, if it is installed."""
    rows = []
    for dtype in suite.sizes["types"]:
        model = suite.model(suite.sizes["model"], dtype)
        ids = random_ids(suite.sizes["large"], vocab)
        chunk = ["--chunk", suite.sizes["large"]]
        wanted = logits(suite, model, "cpu", ids, vocab, "--activations", "exact", *chunk)
        one = logits(suite, model, "cuda", ids, vocab, *chunk)
        other = logits(suite, model, "cuda", ids, vocab, "--inexact", *chunk)
        e, i = divergence(wanted, one), divergence(wanted, other)
        rows.append([dtype, e[0], e[1], i[0], i[1], "no" if one == other else "yes"])
        report.check(f"{dtype}, inexact: near the processor's f32", i[0] < 2e-2, f"KL {i[0]:.3g}")
    report.table(f"{suite.sizes['large']} rows at once, mean KL against the processor's f32",
                 ["type", "KL exact order", "flips", "KL inexact", "flips", "other bits"], rows)


def vocabulary(suite, model):
    """Columns of one row of logits."""
    one, out = suite.work / "one", suite.work / "row"
    one.write_bytes(struct.pack("<I", 1))
    suite.run("one row of logits", suite.program("tests/tool/zeph-logits"), "--model", model,
              "--device", "cpu", "--tokens", one, "--out", out)
    return out.stat().st_size // 4


def same_bytes(suite, report, vocab):
    """A reply is the same alone, beside others, and again; in bf16 and quantised."""
    s = suite.sizes
    for dtype in ("bf16", "q8_0", "q4_k_m"):
        with suite.zephd(suite.model(suite.sizes["model"], dtype)) as d, d.connect() as c:
            asks = [dict(prompt=random_ids(3 + s["stride"] * i, vocab, i + 1), seed=i,
                         temperature=1.0, max_new_tokens=s["reply"], logprobs=1)
                    for i in range(s["beside"])]
            alone = [c.call("complete", **ask) for ask in asks]
            numbers = [c.send("complete", **ask) for ask in asks]
            together = [c.wait(number) for number in numbers]
            report.check(f"{dtype}: {s['beside']} replies together are those alone, to the bit",
                         all(a["tokens"] == t["tokens"] and a["logprobs"] == t["logprobs"]
                             for a, t in zip(alone, together)))
            c.call("model.unload")
            again = c.call("complete", **asks[-1])
            report.check(f"{dtype}: the same after unload and load",
                         again["tokens"] == alone[-1]["tokens"]
                         and again["logprobs"] == alone[-1]["logprobs"])


# --- speed

def bench(suite, model, *options):
    done = suite.run(f"zeph-bench {model.name}", suite.program("engine/zeph-bench"), "--model",
                     model, "--device", "cuda", "--json", "--repeat", suite.sizes["repeat"],
                     *options)
    return json.loads(done.stdout), done.stderr.strip()


def joined(numbers):
    return ",".join(map(str, numbers))


def speed(suite, report):
    s, h200 = suite.sizes, None
    for dtype in s["types"]:
        model = suite.model(suite.shape, dtype)
        prompts = ["--prompt", joined(s["prompts"])]
        found, said = bench(suite, model, *prompts, "--depth", joined(s["depths"]), "--batch",
                            joined(s["batches"]), "--generate", s["generate"])
        if h200 is None:
            h200 = "H200" in found["device"]["name"] and suite.shape == "zephyr-7b"
        tests = {t["name"]: t for t in found["tests"]}
        report.check(f"{dtype}: measured", len(tests) ==
                     len(s["prompts"]) + len(s["depths"]) + len(s["batches"]) - 1,
                     f"read {found['bandwidth_gbps']:.0f} GB/s" + (f"; {said}" if said else ""))
        report.table(f"{dtype}, read bandwidth {found['bandwidth_gbps']:.0f} GB/s",
                     ["test", "tokens/s", "min", "max", "GB/s", "fraction", "cuBLASLt tokens/s"],
                     [[t["name"], t["tokens_per_s"]["median"], t["tokens_per_s"]["min"],
                       t["tokens_per_s"]["max"], t["gbps"] or None, t["fraction"],
                       t["blas_tokens_per_s"] or None] for t in found["tests"]])
        if h200:
            share = tests[f"tg{s['generate']}"]["fraction"]
            report.check(f"{dtype}: decode reaches {H200_DECODE[dtype]:.0%} of read bandwidth",
                         share >= H200_DECODE[dtype], f"{share:.1%}")
            if dtype == "bf16":
                ms = 512e3 / tests["pp512"]["tokens_per_s"]["median"]
                report.check(f"bf16: 512 tokens of prompt in {H200_PREFILL_512_MS} ms",
                             ms <= H200_PREFILL_512_MS, f"{ms:.1f} ms")


    large_prompts(suite, report)
    long_context(suite, report)


def large_prompts(suite, report):
    """engine.exact = false, beside the rate of cuBLASLt's products alone."""
    rows = []
    for dtype in suite.sizes["types"]:
        found, said = bench(suite, suite.model(suite.shape, dtype), "--inexact", "--prompt",
                            joined(suite.sizes["large_prompts"]), "--generate", 0)
        if found["device"]["exact"]:
            report.skip("prompts by cuBLASLt", found["device"]["note"] or said)
            return
        rows += [[dtype, t["name"], t["tokens_per_s"]["median"], t["fraction"]]
                 for t in found["tests"]]
        report.check(f"{dtype}, inexact: measured",
                     len(found["tests"]) == len(suite.sizes["large_prompts"]))
    report.table("Prompts with engine.exact = false",
                 ["type", "test", "tokens/s", "share of cuBLASLt alone"], rows)


def long_context(suite, report):
    """What keys and values in q8_0 save where there are many of them."""
    rows, depth = [], suite.sizes["depths"][-1]
    shape = suite.shape if suite.shape != "tiny" else "mistral-tiny"
    for kv_type in ("f16", "q8_0"):
        found, _ = bench(suite, suite.model(shape, suite.sizes["types"][1]), "--kv-type", kv_type,
                         "--prompt", 0, "--generate", suite.sizes["generate"], "--depth", depth)
        test = found["tests"][0]
        rows.append([kv_type, test["tokens_per_s"]["median"], test["gbps"], test["fraction"]])
    report.table(f"{suite.sizes['types'][1]}, decoding after {depth} tokens by type of keys and values",
                 ["keys and values", "tokens/s", "GB/s", "fraction"], rows)
    report.check("keys and values of both types: measured", len(rows) == 2)


# --- socket

def first_token_ms(client, prompt):
    began = time.perf_counter()
    number = client.send("complete", prompt=prompt, stream=True, max_new_tokens=4, temperature=0,
                         logit_bias=[[2, -1e9]])
    while True:
        message = client.receive()
        if message[0] == 2 and message[1] == "token":
            break
    ms = (time.perf_counter() - began) * 1e3
    client.wait(number)
    return ms


def socket(suite, report):
    rows = []
    for dtype in suite.sizes["types"]:
        with suite.zephd(suite.model(suite.shape, dtype)) as d, d.connect() as c:
            c.call("model.load")
            device = c.call("status")["device"]
            report.check(f"{dtype}: all layers on the card",
                         device["layers_on_device"] == device["layers"], device["note"] or "")
            first_token_ms(c, random_ids(20, 200, 99))
            times = [first_token_ms(c, random_ids(20, 200, i + 1))
                     for i in range(suite.sizes["latencies"])]
            rows.append([dtype, statistics.median(times), min(times), max(times)])
            if dtype == "bf16" and "H200" in device["name"] and suite.shape == "zephyr-7b":
                report.check(f"bf16: first token of 20 in {H200_FIRST_TOKEN_MS} ms",
                             rows[-1][1] < H200_FIRST_TOKEN_MS, f"{rows[-1][1]:.2f} ms")
            else:
                report.check(f"{dtype}: first tokens came", True, f"{rows[-1][1]:.2f} ms")
    report.table("First token of a 20-token prompt through the socket, ms",
                 ["type", "median", "min", "max"], rows)


# --- transformers

def transformers(suite, report):
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            report.skip("against transformers", f"Python's {name} is not installed")
            return
    directory = suite.work / "mistral"
    result = suite.work / "oracle.json"
    oracle = os.path.join(os.path.dirname(os.path.abspath(__file__)), "oracle.py")
    suite.run("transformers makes the model", sys.executable, oracle, "make", directory,
              json.dumps(suite.sizes["oracle"]), suite.sizes["positions"])
    tokens, out = directory / "tokens", suite.work / "zeph.f32"
    suite.run("zeph on the card", suite.program("tests/tool/zeph-logits"), "--model", directory,
              "--device", "cuda", "--activations", "fast", "--tokens", tokens, "--out", out)
    suite.run("transformers in f32 and bf16", sys.executable, oracle, "compare", directory, out,
              result)
    found = json.loads(result.read_text())
    report.table("Teacher-forced, against transformers in f32", ["run", "mean KL", "flips", "of"],
                 [[k, found[k]["kl"], found[k]["flips"], found["positions"]]
                  for k in ("zeph", "transformers bf16")])
    ours, theirs = found["zeph"], found["transformers bf16"]
    report.check("mean KL no larger than transformers' own bf16", ours["kl"] <= theirs["kl"],
                 f"{ours['kl']:.3g} and {theirs['kl']:.3g}")
    report.check("no more flipped choices than transformers' own bf16",
                 ours["flips"] <= theirs["flips"], f"{ours['flips']} and {theirs['flips']}")


# --- sanitize

def sanitize(suite, report):
    sanitizer = shutil.which("compute-sanitizer") or \
        next((p for p in ("/usr/local/cuda/bin/compute-sanitizer",) if os.path.exists(p)), None)
    if not sanitizer:
        report.skip("memcheck and racecheck", "compute-sanitizer is not installed")
        return
    for tool in ("memcheck", "racecheck"):
        for name in ("test-ops-card", "test-attention-card"):
            done = suite.run(f"{tool} {name}", sanitizer, "--tool", tool, "--error-exitcode", "99",
                             suite.program(f"tests/unit/{name}"), check=False)
            said = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*$", done.stdout, re.MULTILINE)
            report.check(f"{tool} of {name}: nothing found", done.returncode == 0,
                         said[-1] if said else f"exit {done.returncode}")


# --- peers

def peers(suite, report):
    llama = shutil.which("llama-bench")
    if llama:
        rows = []
        for dtype in suite.sizes["types"]:
            done = suite.run(f"llama-bench {dtype}", llama, "-m", suite.model(suite.shape, dtype),
                             "-p", "512", "-n", suite.sizes["generate"], "-ngl", "99", "-o", "json")
            rows += [[dtype, "pp" if t["n_prompt"] else "tg", t["avg_ts"]]
                     for t in json.loads(done.stdout)]
        report.table("llama-bench, the same files", ["type", "test", "tokens/s"], rows)
        report.check("llama-bench ran", True)
    else:
        report.skip("llama.cpp", "llama-bench is not on the path")
    if None in map(importlib.util.find_spec, ("torch", "transformers")):
        report.skip("transformers' speed", "torch or transformers is not installed")
        return
    oracle = os.path.join(os.path.dirname(os.path.abspath(__file__)), "oracle.py")
    done = suite.run("transformers' speed", sys.executable, oracle, "speed", suite.shape,
                     suite.sizes["generate"], check=False)
    if done.returncode == 77:
        report.skip("transformers' speed", "torch sees no card")
        return
    found = json.loads(done.stdout.splitlines()[-1])
    report.table("transformers, bf16, random weights of the same shape",
                 ["test", "tokens/s"], [[k, v] for k, v in found.items()])
    report.check("transformers ran", True)


STAGES = {"ops": ops, "tokens": tokens, "speed": speed, "socket": socket,
          "transformers": transformers, "sanitize": sanitize, "peers": peers}
