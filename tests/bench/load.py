#!/usr/bin/env python3
"""How requests get on beside others, on a running model of one's own:

    load.py crowd    one uid's 32 batch requests beside another's single stream
    load.py prompt   a prompt of 4,000 tokens among four streams, and such streams without it

Runs are interleaved and ratios are printed, so that a busy machine distorts all alike; gaps it
lengthens one by one: the worst of them means something beside nothing else only. Root starts
the second uid's client in a child; others see one uid's two flows instead."""

import argparse
import os
import pathlib
import selectors
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import zephd  # noqa: E402


def stream(daemon, prompt, tokens, times, **options):
    """Runs one request and notes when each notification of tokens came."""
    with daemon.connect(600) as c:
        number = c.send("complete", prompt=prompt, max_new_tokens=tokens, stream=True,
                        temperature=0, logit_bias=[[2, -100], [0, -100]], **options)
        while True:
            message = c.receive()
            if message[0] == 2 and message[1] == "token":
                times.append(time.monotonic())
            elif message[0] == 1 and message[1] == number:
                return message[3]


def other_uid(function, uid=65533):
    """In a child of another uid, if we may; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        if os.geteuid() == 0:
            os.setresuid(uid, uid, uid)
        function()
    finally:
        os._exit(0)


def ids(seed, n):
    return [(seed * 7919 + i * 31) % 40000 + 1000 for i in range(n)]


def single(daemon, seed, tokens):
    """First token in seconds, tokens per second after it."""
    times = []
    begin = time.monotonic()
    stream(daemon, ids(seed, 60), tokens, times)
    return times[0] - begin, (len(times) - 1) / (times[-1] - times[0])


def crowd(daemon, rounds, tokens):
    figures = {"alone": [], "one": [], "crowd": []}
    for r in range(rounds):
        for name, n in (("alone", 0), ("one", 1), ("crowd", 32)):
            def batch():
                threads = [threading.Thread(target=stream, daemon=True, args=(
                    daemon, ids(1000 * r + i, 60), 2000, []),
                    kwargs={"priority": "batch"} if n > 1 else {}) for i in range(n)]
                for t in threads:
                    t.start()
                time.sleep(600)
            child = other_uid(batch) if n else None
            time.sleep(3 if n else 0)
            figures[name].append(single(daemon, 100000 + 10 * r + n, tokens))
            if child:
                os.kill(child, 9)
                os.waitpid(child, 0)
                time.sleep(0.5)
    median = {k: [statistics.median(f[i] for f in v) for i in (0, 1)] for k, v in figures.items()}
    for name, (first, rate) in median.items():
        print(f"{name:6} first token {first * 1e3:7.1f} ms, {rate:6.1f} tokens/s")
    print(f"beside 32 batch requests, against one competitor: first token "
          f"{median['crowd'][0] / median['one'][0]:.2f}x, rate "
          f"{median['crowd'][1] / median['one'][1]:.2f}x")


def ask(daemon, prompt, tokens):
    client = daemon.connect(600)
    client.send("complete", prompt=prompt, max_new_tokens=tokens, stream=True, temperature=0,
                logit_bias=[[2, -100], [0, -100]])
    return client


def watch(clients, times, until=float("inf")):
    """Notes when each client hears of tokens, all in this one thread, until a request is answered
    (returns its client) or the time has come."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, 600)):
                client, now = key.data, time.monotonic()
                client.unpacker.feed(client.socket.recv(1 << 16))
                for message in client.unpacker:
                    if message[0] == 2 and message[1] == "token":
                        times[client].append(now)
                    elif message[0] == 1:
                        return client
    return None


def beside(daemon, seed, among, seconds):
    """Four streams for 4 s, then meanwhile a prompt of 4,000 tokens, or nothing for so many seconds.
    Returns how long that took, the streams' median gap in the 2 s before and, as ratios to it in
    ascending order, the gaps during it."""
    streams = [ask(daemon, ids(4 * seed + i, 30), 7000) for i in range(4)]
    times = {c: [] for c in streams}
    watch(streams, times, time.monotonic() + 4)
    at = time.monotonic()
    if among:
        with ask(daemon, ids(seed, 4000), 1) as c:
            assert watch([*streams, c], {**times, c: []}) is c, "a stream has ended"
    else:
        assert watch(streams, times, at + seconds) is None, "a stream has ended"
    end = time.monotonic()
    for c in streams:
        c.socket.close()
    gaps = [(b, b - a) for t in times.values() for a, b in zip(t, t[1:])]
    before = statistics.median(gap for b, gap in gaps if at - 2 <= b <= at)
    time.sleep(0.5)
    return end - at, before, sorted(gap / before for b, gap in gaps if at < b <= end)


def prompt(daemon, rounds, tokens):
    found = {"among": [], "without": []}
    times = []
    for r in range(rounds):
        begin = time.monotonic()
        with ask(daemon, ids(7000 + r, 4000), 1) as c:
            watch([c], {c: []})
        alone = time.monotonic() - begin
        took, *among = beside(daemon, 8000 + 2 * r, True, 0)
        times.append(took / alone)
        print(f"prompt alone {alone:.2f} s, among four {took:.2f} s ({times[-1]:.2f}x)", flush=True)
        without = beside(daemon, 8001 + 2 * r, False, took)[1:]
        for name, (before, gaps) in (("among", among), ("without", without)):
            found[name].append([statistics.median(gaps), gaps[int(len(gaps) * 0.99)], gaps[-1]])
            print("    gaps of {}: {:.1f} ms before, then median {:.2f}x, 99% {:.2f}x, worst "
                  "{:.2f}x, over 3x {} of {}".format(
                      {"among": "the streams", "without": "streams without it"}[name],
                      before * 1e3, *found[name][-1], sum(gap > 3 for gap in gaps), len(gaps)),
                  flush=True)
    print(f"medians: the prompt takes {statistics.median(times):.2f}x its time alone")
    for name, rows in found.items():
        print("    gaps {} prompt: median {:.2f}x, 99% {:.2f}x, worst {:.2f}x".format(
            {"among": "beside the", "without": "with no"}[name],
            *map(statistics.median, zip(*rows))))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["crowd", "prompt"])
    parser.add_argument("--build", default="build", type=pathlib.Path)
    parser.add_argument("--model", default=pathlib.Path(
        "~/.cache/zeph/models/SmolLM2-135M-Instruct.Q4_1.gguf").expanduser(), type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=100)
    a = parser.parse_args()
    config = 'socket: { mode = "0666"; }; limits: { connections_per_uid = 256; };'
    with zephd.Zephd(a.build, a.model, "--context", "8192", config=config) as d:
        os.chmod(d.directory, 0o755)
        time.sleep(3)  # a resident daemon is asked, which has found the memory of its pages
        {"crowd": crowd, "prompt": prompt}[a.what](d, a.rounds, a.tokens)


if __name__ == "__main__":
    main()
