"""A thousand connections that are opened, abandoned or killed in the middle of a stream leave
nothing behind: charges, descriptors and pages in use go back to zero, `zephctl cache drop` takes
the rest, what is remembered of replies included."""

import os
import random
import socket
import struct
import subprocess
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import zephd

pytestmark = pytest.mark.daemon

CONNECTIONS = 1000
LIMITS = ("limits: { connections = 2000; connections_per_uid = 2000; queue_per_uid = 4000; "
          "stall_seconds = 3600; };")


@pytest.fixture(scope="module")
def daemon(build, tiny):
    with zephd.Zephd(build, tiny, config=LIMITS) as d:
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
    """One connection with up to three requests, left in one of many ways; a chat's reply is
    remembered even if nobody waits for it."""
    c = d.connect()
    for _ in range(r.randrange(4)):
        n = r.choice([1, 15, 16, 17, 100, 400])
        options = {"max_new_tokens": r.choice([0, 1, 1000]), "stream": r.random() < 0.7,
                   "priority": r.choice(["interactive", "batch"])}
        if r.random() < 0.2:
            options.update(logprobs=3, echo=True)
        if r.random() < 0.2:
            c.send("chat", messages=[{"role": "user", "content": "a" * n}], **options)
        else:
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


def gauges(client):
    """What metrics say of what is held now."""
    families = text_string_to_metric_families(client.call("metrics")["text"])
    values = {f.name: f.samples[0].value for f in families if f.type == "gauge"}
    return {name: values["zeph_" + name] for name in
            ("connections", "requests_running", "requests_queued", "pages_used", "pages_cached",
             "swap_bytes", "reply_memory_bytes")}


def test_nothing_is_left_of_a_thousand_connections(daemon, build):
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
        held = gauges(root)
        assert held["pages_cached"] == after["kv"]["cached"] > 0
        assert held["reply_memory_bytes"] == user["reply_memory_bytes"] > 0
        dropped = subprocess.run([build / "client/zephctl", "-S", daemon.socket, "cache", "drop"],
                                 capture_output=True, text=True, check=True).stdout
        assert dropped.startswith(f"dropped {after['kv']['cached']} pages and the ids of ")
        assert not dropped.endswith(" of 0 replies\n")
        until(10, lambda: root.call("status")["connections"] == 1)
        assert gauges(root) == {**dict.fromkeys(held, 0), "connections": 1}
        kv, rows = (root.call("status")[key] for key in ("kv", "users"))
        assert kv["used"] == kv["cached"] == kv["swap_bytes"] == 0
        user, = (u for u in rows if u["uid"] == os.getuid())
        assert user["reply_memory_bytes"] == user["queued_tokens"] == 0


@pytest.mark.parametrize("how", ["cancel", "disconnect"])
def test_a_request_that_ends_in_prefill_gives_the_pages_back_at_once(build, model, how):
    """With a model that is busy with such a prompt for long after its first chunk."""
    requests, tokens = 4, 4000
    with zephd.Zephd(build, model) as d, d.connect() as root:
        for i in range(requests):
            with d.connect() as c:
                number = c.send("complete", prompt=[1000 + i] * tokens, max_new_tokens=400, tag=i,
                                stream=True)
                while c.receive()[2][0]["phase"] != "prefill":
                    pass
                if how == "cancel":
                    assert root.call("cancel", tag=i)["cancelled"] == 1
                    assert c.wait(number)["finish"] == "cancelled"
                    assert root.call("status")["kv"]["used"] == 0
            until(10, lambda: not root.call("status")["requests"]["mine"])
            assert root.call("status")["kv"]["used"] == 0
        # none was computed to its end
        assert root.call("status")["tokens"]["prompt"] < requests * tokens / 2
        assert d.stop() == 0, d.log()
