"""A thousand connections that are opened, abandoned or killed in the middle of a stream leave
nothing behind: charges, descriptors and pages in use go back to zero, `cache drop` takes the
rest."""

import os
import random
import socket
import struct
import subprocess
import time

import pytest

import zephd

pytestmark = pytest.mark.daemon

CONNECTIONS = 1000
LIMITS = ("limits: { connections = 2000; connections_per_uid = 2000; queue_per_uid = 4000; "
          "stall_seconds = 3600; };")


@pytest.fixture(scope="module")
def daemon(build, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--type", "q8_0", "--seed",
                    "1", path], check=True)
    with zephd.Zephd(build, path, config=LIMITS) as d:
        yield d
        assert d.stop() == 0, d.log()


def descriptors(d):
    return len(os.listdir(f"/proc/{d.process.pid}/fd"))


def until(seconds, true):
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it did not come to rest"
        time.sleep(0.05)
    return value


def abandon(d, r):
    """One connection with up to three requests, left in one of many ways."""
    c = d.connect()
    for _ in range(r.randrange(4)):
        n = r.choice([1, 15, 16, 17, 100, 400])
        options = {"max_new_tokens": r.choice([0, 1, 1000]), "stream": r.random() < 0.7,
                   "priority": r.choice(["interactive", "batch"])}
        if r.random() < 0.2:
            options.update(logprobs=3, echo=True)
        c.send("complete", prompt=[r.randrange(5, 200) for _ in range(n)], **options)
    way = r.randrange(5)
    if way == 0:  # half a frame, then nothing
        c.socket.sendall(b"\x94\x00\x07\xa4")
    elif way == 1:  # some of the stream is read
        c.socket.settimeout(0.02)
        try:
            for _ in range(r.randrange(20)):
                c.receive()
        except (TimeoutError, EOFError):
            pass
    elif way == 2:  # the other side resets
        c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif way == 3:  # it sends no more, and goes a little later
        c.socket.shutdown(socket.SHUT_WR)
    return c


def test_nothing_is_left_of_a_thousand_connections(daemon):
    r = random.Random(11)
    with daemon.connect() as root:
        root.call("model.load")
        root.call("cache.drop")
        until(60, lambda: root.call("status")["model"]["hash"])  # its file is closed again
        before = root.call("status")
        descriptors_before = descriptors(daemon)
        held = []
        for _ in range(CONNECTIONS):
            held.append(abandon(daemon, r))
            while len(held) > r.choice([0, 1, 5, 40]):
                held.pop(r.randrange(len(held))).socket.close()
        for c in held:
            c.socket.close()

        def rest():
            s = root.call("status")
            return s if s["connections"] == 1 and s["requests"]["running"] == 0 and \
                s["requests"]["queued"] == 0 and s["kv"]["used"] == 0 else None

        after = until(60, rest)
        user, = (u for u in after["users"] if u["uid"] == os.getuid())
        user_before, = (u for u in before["users"] if u["uid"] == os.getuid())
        for key in ("running", "queued", "connections", "charged_bytes", "queued_tokens"):
            assert user[key] == user_before[key], key
        assert descriptors(daemon) == descriptors_before
        assert after["kv"]["swap_bytes"] == 0
        assert after["requests"]["cancelled"] > before["requests"]["cancelled"] + 100
        assert root.call("cache.drop")["pages"] == after["kv"]["cached"] > 0
        kv = root.call("status")["kv"]
        assert kv["used"] == kv["cached"] == 0


def test_a_cancel_in_prefill_gives_the_pages_back_at_once(daemon):
    with daemon.connect() as root, daemon.connect() as c:
        root.call("cache.drop")
        for i in range(20):
            number = c.send("complete", prompt=[5 + i] * 1500, max_new_tokens=400, tag=i,
                            logit_bias=[[0, -100], [1, -100], [2, -100]])
            until(10, lambda: root.call("cancel", tag=i)["cancelled"])
            assert c.wait(number)["finish"] == "cancelled"
            assert root.call("status")["kv"]["used"] == 0
