#!/usr/bin/env python3
"""Concurrent streams of a model through zephd's socket, beside llama-cpp-python's own server:

    $(tests/python-env tests/requirements.txt) tests/bench/streams.py MODEL.gguf [--llama PYTHON]
           [--clients 1,4,16] [--tokens 64] [--threads N] [--rounds 3] [--build DIR]

PYTHON is an interpreter of an environment made with `pip install "llama-cpp-python[server]"`; left
out, zeph runs alone. Both have the same file, threads and prompts, both are greedy and never end
early. Rounds are interleaved, so that a busy machine is as unkind to both. Printed for each number of
clients, as medians of the rounds: tokens a second in all, first-token and inter-token times (p50, p99,
of all streams of a round), and the ratio of zeph's tokens a second to the other's. Then how soon the first
token of a prompt of 20 tokens comes, how soon that of a prompt that is cached (connecting included),
against the time of a token, and how much of its rate a stream keeps beside one whose reader never reads.

load.py measures a long prompt among streams, and a crowd of batch requests beside one stream.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

import zephd  # noqa: E402

CONTEXT = 2048
FIRSTS = 24


def question(seed):
    """Messages that no other stream begins with."""
    return [{"role": "user", "content": f"Number {seed * 7919 % 100003}: tell me a story of the sea, "
                                        "a ship, a storm and those who came home."}]


def digits(seed, n):
    """A prompt of n tokens, a digit each, that begins as no other one does."""
    return "".join(str((seed * 7919 + i * i) * 31 // 7 % 10) for i in range(n))


class Zeph:
    name = "zeph"

    def __init__(self, arguments):
        self.daemon = zephd.Zephd(arguments.build, arguments.model, "--threads", str(arguments.threads),
                                  "--context", str(CONTEXT), "--device", "cpu",
                                  config="engine: { max_sequences = 16; };")

    def stream(self, seed, tokens):
        """The times at which tokens came, from the request on."""
        times, begin = [], time.monotonic()
        with self.daemon.connect(600) as c:
            number = c.send("chat", messages=question(seed), max_new_tokens=tokens, temperature=0,
                            stream=True, logit_bias=[[0, -100], [2, -100]])
            while (message := c.receive())[0] != 1:
                if message[1] == "token":
                    times += [time.monotonic() - begin] * len(message[2][0]["tokens"])
            assert message[1] == number and message[2] is None, message
            assert len(times) == tokens, message[3]
        return times

    def first(self, text, n):
        """The times of the first and of the other tokens of a continuation."""
        begin, times = time.monotonic(), []
        with self.daemon.connect(600) as c:
            c.send("complete", prompt=text, max_new_tokens=8, temperature=0, stream=True,
                   logit_bias=[[0, -100], [2, -100]])
            while (message := c.receive())[0] != 1:
                if message[1] == "token":
                    times += [time.monotonic() - begin] * len(message[2][0]["tokens"])
        assert message[3]["usage"]["prompt_tokens"] == n, message[3]
        return times

    def stop(self):
        self.daemon.__exit__()


class Llama:
    name = "llama-cpp-python"

    def __init__(self, arguments):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [arguments.llama, "-m", "llama_cpp.server", "--model", arguments.model, "--host", "127.0.0.1",
             "--port", str(self.port), "--n_threads", str(arguments.threads), "--n_threads_batch",
             str(arguments.threads), "--n_ctx", str(CONTEXT), "--interrupt_requests", "False"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + 120
        while True:
            try:
                self.get("/v1/models")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.log.seek(0)
                    sys.exit(self.log.read().decode(errors="replace")[-2000:])
                time.sleep(0.2)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", path)
        connection.getresponse().read()

    def stream(self, seed, tokens):
        times, begin = [], time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps({
            "messages": question(seed), "max_tokens": tokens, "temperature": 0, "stream": True,
            "logit_bias": {"0": -100, "2": -100}}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: {"):
                choice = json.loads(line[6:])["choices"][0]
                if choice["delta"].get("content"):
                    times.append(time.monotonic() - begin)
        # bytes of a character that came in several tokens are one piece
        assert tokens // 2 < len(times) <= tokens, len(times)
        return times

    def first(self, text, n):
        begin, times = time.monotonic(), []
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps({
            "prompt": text, "max_tokens": 8, "temperature": 0, "stream": True,
            "logit_bias": {"0": -100, "2": -100}}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
                times.append(time.monotonic() - begin)
        return times

    def stop(self):
        self.process.terminate()
        self.process.wait()


def crowd(server, n, tokens, seed):
    """n streams at once: tokens a second in all, first-token and inter-token times."""
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        streams = list(pool.map(lambda i: server.stream(seed * 100 + i, tokens), range(n)))
    return (n * tokens / (time.monotonic() - begin), [times[0] for times in streams],
            [b - a for times in streams for a, b in zip(times, times[1:])])


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))]


def compare(servers, arguments):
    for n in arguments.clients:
        found = {server: [] for server in servers}
        for seed in range(arguments.rounds):
            for server in servers:
                found[server].append(crowd(server, n, arguments.tokens, seed * 17 + n))
        rates = {}
        for server, rounds in found.items():
            rates[server] = statistics.median(r[0] for r in rounds)
            line = f"{n:3} streams  {server.name:17} {rates[server]:8.1f} tokens/s"
            for what, at in (("first", 1), ("next", 2)):
                for p in (0.5, 0.99):
                    ms = 1000 * statistics.median(percentile(r[at], p) for r in rounds)
                    line += f"  {what} p{p * 100:.0f} {ms:.1f} ms"
            print(line, flush=True)
        if len(servers) > 1:
            print(f"{n:3} streams  ratio {rates[servers[0]] / rates[servers[1]]:.2f}", flush=True)


def latency(servers, arguments):
    """First tokens of short prompts: new to both, and cached in zeph."""
    zeph, hits = servers[0], []
    found = {server: [] for server in servers}
    for seed in range(FIRSTS + 1):
        for server in servers:
            found[server].append(server.first(digits(seed, 20), 20)[0])
        # two whole pages and the one token whose logits are wanted
        zeph.first(digits(seed + 500, 33), 33)
        times = zeph.first(digits(seed + 500, 33), 33)
        hits.append((times[0], statistics.median(b - a for a, b in zip(times, times[1:]))))
    for server in servers:
        del found[server][0]  # warms up
        print(f"20 tokens    {server.name:17} first token {1000 * statistics.median(found[server]):.1f} ms",
              flush=True)
    if len(servers) > 1:
        ratios = [b / a for a, b in zip(*found.values())]
        print(f"20 tokens    first token {statistics.median(ratios):.2f} times as soon")
    first, token = (1000 * statistics.median(times) for times in zip(*hits[1:]))
    ratios = [first / token for first, token in hits[1:]]
    print(f"a cached prompt's first token takes {statistics.median(ratios):.2f} times what a token takes, "
          f"{first:.2f} ms against {token:.2f} ms; at worst {max(ratios):.2f} times", flush=True)


def never_reads(zeph, arguments):
    """The median of rate beside a reader that never reads over rate beside nobody."""
    ratios = []
    for seed in range(arguments.rounds):
        rate = {}
        for beside in (False, True):
            with zeph.daemon.connect(600) as c:
                if beside:  # logprobs fill what may be unsent soon
                    c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    c.send("chat", messages=question(seed + 5000), stream=True, logprobs=100,
                           max_new_tokens=1500, logit_bias=[[0, -100], [2, -100]])
                    time.sleep(3)
                times = zeph.stream(seed * 2 + beside + 9000, arguments.tokens)
                rate[beside] = (len(times) - 1) / (times[-1] - times[0])
        ratios.append(rate[True] / rate[False])
    print(f"beside a reader that never reads a stream keeps {100 * statistics.median(ratios):.1f}% of its "
          "rate", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama")
    parser.add_argument("--clients", type=lambda s: [int(n) for n in s.split(",")], default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    arguments = parser.parse_args()
    zeph = Zeph(arguments)
    servers = [zeph] + ([Llama(arguments)] if arguments.llama else [])
    try:
        compare(servers, arguments)
        latency(servers, arguments)
        never_reads(zeph, arguments)
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
