"""zephctl top on a terminal of its own, and once where there is none."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from fake_daemon import FakeDaemon
from test_zephctl import STATUS, answers, zephctl  # noqa: F401 (zephctl is a fixture)
from zephd import Zephd

pytestmark = pytest.mark.daemon

ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l\x1b[?7l", b"\x1b[?7h\x1b[?25h\x1b[?1049l"


def status(n):
    """The n-th answer: 50 tokens more than the one before."""
    users = [{"uid": 1000, "device_s": 1.5, "running": 1, "queued": 0},
             {"uid": 2000, "device_s": 4.5, "running": 0, "queued": 2, "completion_tokens": 77},
             {"uid": 3000, "device_s": 0, "running": 0, "queued": 0}]
    requests = {**STATUS["requests"], "mine": [
        {"tag": "evil\x1b[2J\x07\x9b31m\n", "method": "chat", "age_ms": 1500, "phase": "generate", "uid": 1000},
        {"tag": 17, "method": "score", "age_ms": 10, "phase": "queued", "uid": 2000}]}
    return {**STATUS, "tokens": {"prompt": 7000 * n, "generated": 50 * n}, "users": users,
            "requests": requests}


def counting(peer, _):
    """A script: answers every status."""
    n = 0
    while (request := peer.receive()) is not None:
        n += 1
        peer.send([1, request[1], None, status(n)])


class Terminal:
    """zephctl top with a pseudo terminal of so many rows and columns."""

    def __init__(self, build, path, rows=40, columns=100, **env):
        self.master, slave = pty.openpty()
        self.size(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [build / "client/zephctl", "-S", path, "top"], stdin=slave, stdout=slave,
            stderr=slave, start_new_session=True, env={**os.environ, "TERM": "xterm", **env})
        self.seen = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def size(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def read(self, until, seconds=10):
        """What came up to a text."""
        end = time.monotonic() + seconds
        while until not in self.seen:
            assert select.select([self.master], [], [], max(0, end - time.monotonic()))[0], self.seen
            self.seen += os.read(self.master, 65536)
        at = self.seen.index(until) + len(until)
        got, self.seen = self.seen[:at], self.seen[at:]
        return got

    def ended(self, code):
        """It has ended so, and the terminal is what it was."""
        got = self.read(LEAVE)
        assert self.process.wait(20) == code
        assert termios.tcgetattr(self.slave) == self.before
        return got


def screen(drawn):
    """One drawing as lines."""
    text = drawn[drawn.rindex(b"\x1b[H"):].decode()
    return re.split("\r+\n", re.sub(r"\x1b\[[HJK]", "", text))  # the terminal adds a \\r


def test_a_terminal_shows_it_and_gets_itself_back(build):
    with FakeDaemon(counting) as daemon, Terminal(build, daemon.path) as terminal:
        first = terminal.read(b"\x1b[J")
        assert first.startswith(ENTER)
        lines = screen(terminal.read(b"\x1b[J"))
        assert termios.tcgetattr(terminal.slave)[3] & (termios.ICANON | termios.ECHO) == 0
        os.write(terminal.master, b"xq")
        terminal.ended(0)
    assert lines[0] == "zephd 0.1.0: ready, up 1 h 2 min, pid 4711, 6 connections"
    assert lines[1] == "model    Smollm2 135M^[[2J, Q4_1, context 2048"
    assert lines[3] == "memory   #####------------------- 1.5 GiB of 8.0 GiB"
    assert lines[4] == "pages    ------------------------ 9 used, 8 cached of 512"
    new, prompt = re.fullmatch(r"tokens/s ([0-9.]+) new, ([0-9.]+) of prompts", lines[5]).groups()
    assert 10 < float(new) <= 50 and abs(float(prompt) / float(new) - 140) < 5
    assert [line.split()[0] for line in lines[8:12]] == ["UID", "2000", "1000", "3000"]
    assert lines[9].split()[3:5] == ["4.5", "75.0"] and lines[9].split()[-1] == "77"
    assert lines[14].split()[:5] == ["1000", "generate", "1.5", "chat", "evil^[[2J^G^[31m"]
    assert lines[-2].split() == ["2000", "queued", "0.0", "score", "17"] or lines[-1].split()[-1] == "17"


def test_nothing_but_its_own_sequences_reaches_the_terminal(build):
    with FakeDaemon(counting) as daemon, Terminal(build, daemon.path) as terminal:
        drawn = terminal.read(b"\x1b[J")[len(ENTER):]
        os.write(terminal.master, b"q")
        terminal.ended(0)
    assert b"evil" in drawn
    rest = re.sub(rb"\x1b\[[HJK]", b"", drawn)
    rest = re.sub(rb"\r+\n", b"", rest).decode()
    assert not [c for c in rest if ord(c) < 0x20 or 0x7f <= ord(c) <= 0x9f]


def test_it_fits_the_window_and_follows_it(build):
    with FakeDaemon(counting) as daemon, Terminal(build, daemon.path, 5, 20) as terminal:
        lines = screen(terminal.read(b"\x1b[J"))
        assert len(lines) == 5 and max(map(len, lines)) == 20
        terminal.size(12, 60)
        terminal.process.send_signal(signal.SIGWINCH)
        lines = screen(terminal.read(b"\x1b[J"))
        assert len(lines) == 12 and 20 < max(map(len, lines)) <= 60
        os.write(terminal.master, b"Q")
        terminal.ended(0)


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back_and_kills(build, signo):
    with FakeDaemon(counting) as daemon, Terminal(build, daemon.path) as terminal:
        terminal.read(b"\x1b[J")
        terminal.process.send_signal(signo)
        terminal.ended(-signo)


def test_stopped_and_continued(build):
    with FakeDaemon(counting) as daemon, Terminal(build, daemon.path) as terminal:
        terminal.read(b"\x1b[J")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.read(LEAVE)
        assert os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED).si_status == signal.SIGSTOP
        assert termios.tcgetattr(terminal.slave) == terminal.before
        terminal.process.send_signal(signal.SIGCONT)
        terminal.read(ENTER)
        terminal.read(b"\x1b[J")
        os.write(terminal.master, b"q")
        terminal.ended(0)


@pytest.mark.parametrize("serve,code,words", [
    (answers({"status": "E_PERMISSION: not you\x1b[2J"}), 4, b"zephctl: E_PERMISSION: not you^[[2J"),
    (lambda peer, _: peer.receive() and None, 3, b"zephctl: ")])
def test_a_complaint_comes_after_the_terminal_is_back(build, serve, code, words):
    with FakeDaemon(serve) as daemon, Terminal(build, daemon.path, NO_COLOR="1") as terminal:
        terminal.ended(code)
        terminal.read(words)


def test_no_terminal_gets_it_once(zephctl):
    with FakeDaemon(counting) as daemon:
        lines = zephctl(daemon, "top").stdout.decode().splitlines()
    assert lines[0].startswith("zephd 0.1.0: ready") and lines[5].startswith("tokens/s ")
    assert float(lines[5].split()[1]) > 10 and not any("\x1b[H" in line for line in lines)
    with FakeDaemon(counting) as daemon:
        told = json.loads(zephctl(daemon, "--json", "top").stdout)
    assert told["status"] == status(2) and 10 < told["tokens_per_s"]["generated"] <= 50


def test_a_daemon_that_says_little(zephctl):
    with FakeDaemon(answers({"status": {"state": "loading"}})) as daemon:
        assert b": loading, " in zephctl(daemon, "top").stdout


def test_the_speed_of_a_daemon(zephctl, build, tmp_path):
    model = tmp_path / "tiny.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--type", "f32", model], check=True)
    with Zephd(build, model) as d, d.connect() as c:
        d.path = d.socket
        stop = []

        def load():
            with d.connect() as other:
                while not stop:
                    other.call("complete", prompt=[5] * 50, max_new_tokens=100, logit_bias=[[2, -1e6]])
        import threading
        thread = threading.Thread(target=load)
        thread.start()
        told = json.loads(zephctl(d, "--json", "top").stdout)
        stop.append(1)
        thread.join()
        assert told["tokens_per_s"]["generated"] > 20
        tokens = c.call("status")["tokens"]
        users = c.call("status")["users"]
        assert tokens["generated"] == sum(u["completion_tokens"] for u in users)
