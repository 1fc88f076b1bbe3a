"""Peers that break the rules: they are told, they are closed, and nobody else notices."""

import os
import pathlib
import socket
import struct
import subprocess
import time

import msgpack
import pytest

from zephd import Client, Refused, Zephd

pytestmark = pytest.mark.daemon

CONFIG = "limits: { frame_seconds = 1; stall_seconds = 2; connections_per_uid = 40; };"
LONG = dict(prompt=[5, 6, 7], logit_bias=[[2, -1e6]], seed=1, temperature=1)


@pytest.fixture(scope="module")
def daemon(build, tiny):
    with Zephd(build, tiny, config=CONFIG) as d:
        with d.connect() as c:
            c.call("tokenize", text="loaded")
        yield d
        assert d.stop() == 0, d.log()


def resident_kib(daemon):
    for line in pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def messages_until_close(path, data, timeout=10):
    with Client(path, timeout) as c:
        if data:
            c.socket.sendall(data)
        received = []
        try:
            while True:
                received.append(c.receive())
        except (EOFError, ConnectionResetError):
            return received


def connect_when_there_is_room(daemon, seconds=5):
    """A connection that is served: those that ended before may still have to be given back."""
    end = time.monotonic() + seconds
    while True:
        c = daemon.connect()
        try:
            c.call("status")
            return c
        except (EOFError, BrokenPipeError, ConnectionResetError):
            c.socket.close()
            assert time.monotonic() < end, "the connections were not given back"
            time.sleep(0.05)


DEEP = b"\x91" * 10000
NO_ID = [
    pytest.param(bytes.fromhex("dd1fffffff"), id="array of 512 Mi"),
    pytest.param(DEEP, id="10,000 deep"),
    pytest.param(b"\x94\x00\xdb\xff\xff\xff\xff", id="4 GB text in place of the id"),
    pytest.param(b"\xdb\xff\xff\xff\xff", id="4 GB text"),
    pytest.param(b"\xc6\xff\xff\xff\xff", id="4 GB binary"),
    pytest.param(b"\xdf\xff\xff\xff\xff", id="map of 4 Gi"),
    pytest.param(b"\xc1", id="a byte that means nothing"),
    pytest.param(b"\xc7\x01\x01x", id="an ext type"),
    pytest.param(msgpack.packb({"a": 1}), id="no array"),
    pytest.param(msgpack.packb([7, 1, "status", []]), id="no message type"),
    pytest.param(msgpack.packb([2, "x"]), id="a notification of two"),
    pytest.param(b"\x90", id="empty"),
]


@pytest.mark.parametrize("data", NO_ID)
def test_a_bad_frame_gets_the_error_notification_and_the_end(daemon, data):
    with daemon.connect() as other:
        before = resident_kib(daemon)
        received = messages_until_close(daemon.socket, data)
        assert [m[:2] for m in received] == [[2, "error"]]
        assert received[0][2][0]["text"].startswith("E_PROTOCOL: ")
        assert other.call("status")["state"] == "ready"
        assert resident_kib(daemon) - before < 4096


WITH_ID = [
    pytest.param(b"\x94\x00\x07\xdb\xff\xff\xff\xff", id="4 GB method"),
    pytest.param(b"\x94\x00\x07\xa6status" + DEEP, id="10,000 deep params"),
    pytest.param(b"\x94\x00\x07\xa6status\xdd\x1f\xff\xff\xff", id="512 Mi params"),
    pytest.param(msgpack.packb([0, 7, 5, []]), id="a number for the method"),
    pytest.param(msgpack.packb([0, 7, "status"]), id="three items"),
    pytest.param(b"\x94\x00\x07\xa8tokenize\x91\x81\xa4text\xdb\x00\x30\x00\x00", id="3 MiB text"),
]


@pytest.mark.parametrize("data", WITH_ID)
def test_a_bad_frame_whose_id_was_read_is_answered(daemon, data):
    received = messages_until_close(daemon.socket, data)
    assert [m[:2] for m in received] == [[1, 7]]
    assert received[0][2].startswith("E_PROTOCOL: ") and received[0][3] is None


def test_half_a_frame_has_its_time(daemon):
    start = time.monotonic()
    received = messages_until_close(daemon.socket, b"\x94\x00\x07\xa6sta")
    assert 0.8 < time.monotonic() - start < 5
    assert [m[:2] for m in received] == [[1, 7]] and received[0][2].startswith("E_PROTOCOL: ")


def test_a_frame_dribbled_byte_by_byte_within_its_time_is_served(daemon):
    with daemon.connect() as c:
        for byte in msgpack.packb([0, 0, "tokenize", [{"text": "drip"}]]):
            c.socket.sendall(bytes([byte]))
            time.sleep(0.005)
        assert c.wait(0)["tokens"]


def test_many_frames_in_one_write_and_one_frame_in_many(daemon):
    with daemon.connect() as c:
        stream = b"".join(msgpack.packb([0, n, "tokenize", [{"text": "x" * n}]]) for n in range(50))
        for at in range(0, len(stream), 143):
            c.socket.sendall(stream[at:at + 143])
        lengths = [len(c.wait(n)["tokens"]) for n in range(50)]
        assert lengths[0] == 0 and lengths == sorted(lengths)


def test_an_id_in_flight_used_again_is_a_protocol_error(daemon):
    data = msgpack.packb([0, 5, "complete", [{**LONG, "stream": True}]]) + \
        msgpack.packb([0, 5, "status", []])
    received = messages_until_close(daemon.socket, data)
    answer = [m for m in received if m[:2] == [1, 5]]
    assert len(answer) == 1 and answer[0][2].startswith("E_PROTOCOL: ")


def test_an_id_may_be_used_again_once_answered(daemon):
    with daemon.connect() as c:
        for _ in range(3):
            c.socket.sendall(msgpack.packb([0, 0, "status", []]))
            assert c.wait(0)["state"] == "ready"


def until_it_moves_no_more(client):
    """Nobody reads the stream: after a while its bytes are as many as before."""
    held, end = None, time.monotonic() + 15
    while True:
        time.sleep(0.3)
        before, held = held, client.call("status")["users"][0]["charged_bytes"]
        if held == before:
            return held
        assert time.monotonic() < end


def steps(client):
    """The engine's steps so far: those of one sequence, and all."""
    rows = dict(line.split(" ") for line in client.call("metrics")["text"].splitlines()
                if line.startswith("zeph_batch_sequences_"))
    return (int(rows['zeph_batch_sequences_bucket{le="1.0"}']),
            int(rows["zeph_batch_sequences_count"]))


def test_a_slow_reader_leaves_the_batch_and_loses_nothing(build, tiny):
    with Zephd(build, tiny) as d, d.connect() as slow, d.connect() as other:
        number = slow.send("complete", stream=True, tag="slow", logprobs=5, **LONG)
        held = until_it_moves_no_more(other)
        status = other.call("status")
        assert [r["tag"] for r in status["requests"]["mine"]] == ["slow"]
        assert held < 4 << 20  # not the whole reply, which is larger than the pause's mark
        undisturbed = other.call("complete", logprobs=5, **LONG)
        result = slow.wait(number)
        assert result["finish"] == "length" and len(result["tokens"]) == 2045
        assert result["tokens"] == undisturbed["tokens"] and result["text"] == undisturbed["text"]
        assert result["logprobs"] == undisturbed["logprobs"]
        text = "".join(p["text"] for name, (p,) in slow.notifications if name == "token")
        assert text == result["text"]


def test_a_reader_that_never_reads_harms_nobody_and_ends_with_a_timeout(build, tiny):
    """That it costs another stream nothing is counted: each step is that stream's alone."""
    with Zephd(build, tiny, config="limits: { stall_seconds = 5; };") as d, \
            d.connect() as slow, d.connect() as other:
        begin = time.monotonic()
        number = slow.send("complete", stream=True, logprobs=5, **LONG)
        until_it_moves_no_more(other)
        alone, before = steps(other)
        assert other.call("complete", max_new_tokens=400, stream=True, **LONG)["finish"] == "length"
        alone_now, now = steps(other)
        assert now - before == alone_now - alone >= 400
        assert len(other.call("status")["requests"]["mine"]) == 1  # it is still there
        while other.call("status")["requests"]["mine"]:
            assert time.monotonic() < begin + 60
            time.sleep(0.02)
        assert time.monotonic() - begin >= 5
        with pytest.raises(Refused) as e:
            slow.wait(number)
        assert str(e.value) == "E_TIMEOUT: the reader took no byte for 5 s"
        # what was sent before is whole
        tokens = [p for name, (p,) in slow.notifications if name == "token"]
        told = sum((p["tokens"] for p in tokens), [])
        whole = other.call("complete", **LONG)
        assert told == whole["tokens"][:len(told)]
        assert other.call("status")["kv"]["used"] == 0


def test_zeph_into_a_pipe_that_is_read_late_loses_nothing(build, tiny):
    """zeph | (sleep 3; cat), with a pipe so small (a pair of sockets) that zeph has to wait for cat;
    the bytes are those of an undisturbed run."""
    with Zephd(build, tiny) as d:
        command = [build / "client/zeph", "-S", d.socket, "--raw", "--greedy", "once"]
        undisturbed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                                     check=True).stdout
        assert len(undisturbed) > 300
        read_end, write_end = socket.socketpair()
        write_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=write_end) as zeph:
            write_end.close()
            time.sleep(3)
            assert zeph.poll() is None
            with read_end, read_end.makefile("rb") as f:
                late = f.read()
            assert zeph.wait(60) == 0
    assert late == undisturbed


def test_a_client_that_only_sends_cannot_fill_the_memory(build, tiny, monkeypatch):
    """Unread answers are charged to the uid, which has its limit."""
    # what a sanitizer keeps of freed memory is not the daemon's
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1")
    config = "limits: { bytes_per_uid = 2097152; };"
    with Zephd(build, tiny, config=config) as d:
        with d.connect(timeout=20) as c, d.connect() as other:
            other.call("tokenize", text="loaded")
            before = resident_kib(d)
            data = b"".join(msgpack.packb([0, n, "nonsense", []]) for n in range(1000))
            c.socket.settimeout(5)
            try:
                for _ in range(2000):
                    c.socket.sendall(data)
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                pass
            assert resident_kib(d) - before < 16384
            assert other.call("status")["state"] == "ready"


def test_a_connection_over_the_uids_limit_is_told_and_closed(daemon):
    clients = []
    try:
        for _ in range(40):
            clients.append(daemon.connect())
        clients[-1].call("status")
        received = messages_until_close(daemon.socket, b"")
        assert [m[:2] for m in received] == [[2, "error"]]
        assert "E_BUSY: " in received[0][2][0]["text"] and "40" in received[0][2][0]["text"]
        assert clients[0].call("status")["state"] == "ready"
    finally:
        for c in clients:
            c.socket.close()
    connect_when_there_is_room(daemon).socket.close()


def test_resets_and_disconnects_leave_nothing_behind(daemon):
    for n in range(60):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.connect(str(daemon.socket))
        try:
            s.sendall(msgpack.packb([0, n, "complete", [{**LONG, "stream": bool(n % 2)}]]))
        except BrokenPipeError:  # the daemon has not seen yet that others went: over the limit
            pass
        if n % 3 == 0:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    with connect_when_there_is_room(daemon) as c:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            status = c.call("status")
            if status["kv"]["used"] == 0 and not status["requests"]["mine"]:
                break
            time.sleep(0.05)
        assert status["kv"]["used"] == 0 and status["requests"]["mine"] == []
        assert status["connections"] == 1
        assert status["users"][0]["charged_bytes"] <= 256 << 10


def test_a_full_table_of_descriptors_neither_spins_nor_ends_the_daemon(build, tiny):
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            c.call("tokenize", text="loaded")
        pid = d.process.pid
        n_open = len(os.listdir(f"/proc/{pid}/fd"))
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={n_open + 3}"], check=True)

        def ticks():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        clients = [d.connect() for _ in range(8)]
        before = ticks()
        time.sleep(1)
        assert ticks() - before < 0.3 * os.sysconf("SC_CLK_TCK")
        assert clients[0].call("status")["state"] == "ready"
        for c in clients[:6]:
            c.socket.close()
        assert clients[7].call("status")["state"] == "ready"  # was waiting, is served now
        for c in clients[6:]:
            c.socket.close()
