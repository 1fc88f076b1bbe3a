"""zephd from its start to its end: sockets of its own and handed over, readiness, signals."""

import contextlib
import os
import pathlib
import signal
import socket
import stat
import subprocess
import time

import pytest

from zephd import Client, Refused, Zephd

pytestmark = pytest.mark.daemon

LONG = dict(prompt=[5, 6, 7], logit_bias=[[2, -1e6]], seed=1, temperature=1)


class Supervisor:
    """What systemd is to a Type=notify service: a datagram socket that collects assignments."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.settimeout(20)
        self.socket.bind(str(path))
        self.seen = []

    def until(self, assignment):
        """Receives until a message begins with that assignment; all of that message."""
        while True:
            lines = self.socket.recv(65536).decode().splitlines()
            self.seen += lines
            if any(line.startswith(assignment) for line in lines):
                return lines


@pytest.fixture
def supervisor(tmp_path):
    return Supervisor(tmp_path / "notify")


def start(*command, **environment):
    """Runs a command that is or becomes zephd, with no configuration but its options."""
    environment.setdefault("CONFIGURATION_DIRECTORY", "/nonexistent")
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, **{k: str(v) for k, v in environment.items()}})


def activate(build, path, *options):
    """zephd behind a socket that systemd-socket-activate holds."""
    directory = "--setenv=CONFIGURATION_DIRECTORY=/nonexistent"
    process = start("systemd-socket-activate", directory, "-l", path, build / "daemon/zephd", *options)
    wait_for(path, process)
    limit = time.monotonic() + 30
    while not listens(path):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.01)
    return process


def listens(path):
    """The file is there from bind() on; a connection, to find out, would start zephd."""
    rows = map(str.split, pathlib.Path("/proc/net/unix").read_text().splitlines())
    return any(row[-1] == str(path) and row[3] == "00010000" for row in rows)


def end(process):
    process.terminate()
    out, _ = process.communicate(timeout=30)
    return process.returncode, out


def wait_for(path, process):
    limit = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.01)


def test_readiness_is_told_when_the_weights_are_resident(build, model, supervisor, tmp_path):
    path = tmp_path / "zeph.sock"
    process = start(build / "daemon/zephd", "--model", model, "--socket", path, NOTIFY_SOCKET=supervisor.path)
    try:
        ready = supervisor.until("READY=1")
        assert any(line.startswith("STATUS=loading ") and line.endswith("%")
                   for line in supervisor.seen)
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in supervisor.seen)
        assert any(line.startswith("STATUS=ready: ") for line in ready)
        with Client(path) as c:
            assert c.call("status")["state"] == "ready"
    finally:
        code, out = end(process)
    assert code == 0, out
    assert any(line == "STOPPING=1" for line in supervisor.until("STOPPING"))


def test_the_watchdog_is_fed_while_the_engine_lives(build, tiny, supervisor, tmp_path):
    process = start(build / "daemon/zephd", "--model", tiny, "--socket", tmp_path / "s",
                    NOTIFY_SOCKET=supervisor.path, WATCHDOG_USEC=400000)
    try:
        supervisor.until("READY=1")
        for _ in range(5):
            supervisor.until("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        supervisor.socket.setblocking(False)
        try:
            while supervisor.socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        time.sleep(0.6)
        with pytest.raises(BlockingIOError):
            supervisor.socket.recv(65536)  # a stopped daemon is not kept alive by anybody
    finally:
        process.send_signal(signal.SIGCONT)
        assert end(process)[0] == 0


def test_socket_activation(build, tiny, tmp_path):
    """systemd-socket-activate holds the socket and starts zephd at the first connection."""
    path = tmp_path / "activated.sock"
    process = activate(build, path, "--model", tiny)
    try:
        with Client(path) as c:
            assert c.call("complete", prompt=[5], max_new_tokens=3,
                          logit_bias=[[2, -1e6]])["finish"] == "length"
            assert c.call("status")["pid"] == process.pid
    finally:
        code, out = end(process)
    assert code == 0, out
    assert path.exists()  # it belongs to who made it


def test_the_socket_is_the_users_own_and_goes_with_the_daemon(build, tiny):
    with Zephd(build, tiny) as d:
        mode = os.stat(d.socket).st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
        assert d.stop() == 0
        assert not d.socket.exists()


def test_the_mode_of_the_socket(build, tiny):
    with Zephd(build, tiny, config='socket: { mode = "0660"; };') as d:
        assert stat.S_IMODE(os.stat(d.socket).st_mode) == 0o660


def test_a_second_daemon_leaves_a_live_socket_alone(build, tiny):
    with Zephd(build, tiny) as d:
        process = start(build / "daemon/zephd", "--model", tiny, "--socket", d.socket)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 1 and str(d.socket) in out
        with d.connect() as c:
            assert c.call("status")["state"]


def test_a_killed_daemons_socket_is_taken_over(build, tiny, tmp_path):
    path = tmp_path / "s"
    for _ in range(2):
        process = start(build / "daemon/zephd", "--model", tiny, "--socket", path)
        limit = time.monotonic() + 30
        while True:
            try:
                with Client(path) as c:
                    assert c.call("status")["pid"] == process.pid
                break
            except OSError:
                assert time.monotonic() < limit
                time.sleep(0.01)
        process.kill()
        process.communicate()
    assert path.exists()


def test_a_file_in_the_sockets_place_is_not_removed(build, tiny, tmp_path):
    path = tmp_path / "precious"
    path.write_text("not a socket")
    process = start(build / "daemon/zephd", "--model", tiny, "--socket", path)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and str(path) in out
    assert path.read_text() == "not a socket"


def test_the_use_socket_gives_class_use(build, tiny, tmp_path):
    use = tmp_path / "use.sock"
    with Zephd(build, tiny, config=f'socket: {{ use_path = "{use}"; }};') as d:
        wait_for(use, d.process)
        with d.connect() as c, Client(use) as limited:
            assert c.call("hello")["class"] == "manage"
            assert limited.call("hello")["class"] == "use"


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_whoever_waits(build, tiny, signo):
    with Zephd(build, tiny, config="engine: { max_sequences = 1; };") as d:
        with d.connect() as c:
            running = c.send("complete", stream=True, **LONG)
            while not any(name == "token" for name, _ in c.notifications):
                c.notifications.append(c.receive()[1:])
            queued = c.send("complete", **LONG)
            c.call("status")  # by now the second has been taken in
            d.process.send_signal(signo)
            for number in (running, queued):
                with pytest.raises(Refused) as e:
                    c.wait(number)
                assert e.value.name == "E_CANCELLED" and "stopping" in str(e.value)
            with pytest.raises(EOFError):
                c.receive()
        assert d.process.wait(30) == 0, d.log()
        assert not d.socket.exists()


def test_a_stop_does_not_wait_for_a_reader_that_never_reads(build, tiny):
    with Zephd(build, tiny) as d, d.connect() as c:
        c.call("status")
        for _ in range(60):
            c.send("complete", stream=True, **LONG)
        time.sleep(0.5)
        assert d.stop(seconds=15) == 0, d.log()


def test_reload_takes_limits_and_keeps_what_runs(build, tiny):
    with Zephd(build, tiny, config="limits: { max_new_tokens = 50; };") as d, d.connect() as c:
        assert c.call("hello")["limits"]["max_new_tokens"] == 50
        running = c.send("complete", stream=True, max_new_tokens=50, **LONG)
        while not any(name == "token" for name, _ in c.notifications):
            c.notifications.append(c.receive()[1:])
        conf = d.directory / "zephd.conf"
        conf.write_text("limits: { max_new_tokens = 7; };")
        d.process.send_signal(signal.SIGHUP)
        limit = time.monotonic() + 10
        while c.call("hello")["limits"]["max_new_tokens"] != 7:
            assert time.monotonic() < limit
        assert len(c.wait(running)["tokens"]) == 50
        conf.write_text("limits: { nonsense = 1; };")
        d.process.send_signal(signal.SIGHUP)
        while "nonsense" not in d.log():
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert c.call("hello")["limits"]["max_new_tokens"] == 7
        assert "zephd.conf:1: " in d.log()


@pytest.mark.parametrize("damage, why", [
    ("missing", "No such file"), ("directory", "config.json"), ("empty", "0 bytes"),
    ("text", "not a GGUF file"), ("cut", "complete?"),
])
def test_a_model_that_does_not_load_exits_78_after_telling(build, tiny, tmp_path, damage, why):
    bad = tmp_path / "bad.gguf"
    if damage == "directory":
        bad.mkdir()
    elif damage != "missing":
        bad.write_bytes({"empty": b"", "text": b"This is no model.\n",
                         "cut": tiny.read_bytes()[:-4096]}[damage])
    path = tmp_path / "held.sock"
    process = activate(build, path, "--model", bad)
    try:
        with Client(path) as c:
            with pytest.raises(Refused) as e:
                c.call("complete", prompt=[5])
            assert e.value.name == "E_MODEL" and why in str(e.value)
            assert str(tmp_path) not in str(e.value)  # paths are the administrator's
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 78 and "bad.gguf did not load: " in out and why in out


def test_no_prompt_and_no_reply_in_the_log(build, tiny):
    secret = "Rumpelstilzchen"
    with Zephd(build, tiny) as d, d.connect() as c:
        text = c.call("complete", prompt=secret, max_new_tokens=50, temperature=0)["text"]
        c.call("chat", messages=[{"role": "user", "content": secret}], max_new_tokens=5)
        with pytest.raises(Refused):
            c.call("chat", messages=[{"role": secret, "content": secret}])
        with pytest.raises(Refused):
            c.call("complete", prompt=secret, nonsense=1)
        assert d.stop() == 0
        assert secret not in d.log() and (not text.strip() or text not in d.log())


def test_descriptors_are_not_inherited_and_none_leaks(build, tiny):
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            c.call("tokenize", text="loaded")
        fds = pathlib.Path(f"/proc/{d.process.pid}/fd")

        def open_now():
            names = []
            for f in fds.iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                    names.append(os.readlink(f))
            return sorted(names)

        limit = time.monotonic() + 20
        inherited = []
        for name in fds.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                flags = (fds.parent / "fdinfo" / name.name).read_text()
                flags = next(l.split()[1] for l in flags.splitlines() if l.startswith("flags:"))
                if not int(flags, 8) & os.O_CLOEXEC:
                    inherited.append(int(name.name))
        assert sorted(inherited) == [0, 1, 2]
        before = len(open_now())
        for n in range(30):
            with d.connect() as c:
                c.call("complete", prompt=[5, n], max_new_tokens=2)
        while len(open_now()) > before:
            assert time.monotonic() < limit
            time.sleep(0.02)
