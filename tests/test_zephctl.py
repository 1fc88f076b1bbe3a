"""zephctl against a daemon that follows a script."""

import json
import os
import signal
import subprocess
import time

import pytest

from fake_daemon import FakeDaemon

pytestmark = pytest.mark.daemon

STATUS = {
    "state": "ready", "version": "0.1.0", "pid": 4711, "uptime_s": 3725,
    "model": {"name": "Smollm2 135M\x1b[2J", "hash": "ab" * 32, "architecture": "llama",
              "type": "Q4_1", "parameters": 134515008, "bytes": 98304000, "context": 2048},
    "device": {"kind": "cpu", "name": "AVX2, 2 threads", "memory_bytes": 8 << 30,
               "used_bytes": 3 << 29, "layers": 30, "layers_on_device": 30},
    "requests": {"running": 1, "queued": 2, "done": 3, "failed": 4, "cancelled": 5,
                 "mine": [{"tag": "abc", "method": "chat", "age_ms": 1500, "phase": "decode"},
                          {"tag": 17, "method": "complete", "age_ms": 10, "phase": "queued"},
                          {"tag": None, "method": "chat", "age_ms": 0, "phase": "queued"}]},
    "kv": {"page_tokens": 16, "pages": 512, "used": 9, "cached": 8}, "connections": 6,
    "users": [{"uid": 1000, "running": 1, "queued": 2, "prompt_tokens": 30,
               "completion_tokens": 40, "device_s": 1.25}]}


def answers(results):
    """A script: method to result, or to a function of the params; a string is an error."""
    def serve(peer, _):
        while (request := peer.receive()) is not None:
            got = results[request[2]]
            if callable(got):
                got = got(request[3][0])
            error = got if isinstance(got, str) else None
            peer.send([1, request[1], error, None if error else got])
    return serve


@pytest.fixture
def zephctl(build):
    def run(daemon, *words, stdin=None, check=0, **options):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ZEPH_")}
        done = subprocess.run(
            [build / "client/zephctl", *(["-S", daemon.path] if daemon else []), *words],
            capture_output=True, timeout=60, env=environment, check=False,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}), **options)
        assert done.returncode == check, done
        return done
    return run


def test_status_is_a_table(zephctl):
    with FakeDaemon(answers({"status": STATUS})) as daemon:
        lines = zephctl(daemon, "status").stdout.decode().splitlines()
    assert lines == [
        "state     ready",
        "daemon    zephd 0.1.0, pid 4711, up 1 h 2 min",
        "model     Smollm2 135M\x1b[2J: llama, Q4_1, 134.5 M parameters, 93.8 MiB, context 2048",
        "device    cpu: AVX2, 2 threads, 1.5 GiB of 8.0 GiB used, layers 30 of 30",
        "cache     512 pages of 16 tokens, 9 used, 8 cached",
        "requests  1 running, 2 queued, 3 done, 4 failed, 5 cancelled",
        "          chat abc, decode, 1.5 s",
        "          complete 17, queued, 0.0 s",
        "          chat -, queued, 0.0 s",
        "open      6 connections",
        "user      1000: 1 running, 2 queued, 30 prompt and 40 new tokens, 1.2 s on the device"]


def test_status_tells_what_the_device_does_otherwise(zephctl):
    device = {**STATUS["device"], "note": "10 of 32 layers on Card", "exact": False}
    with FakeDaemon(answers({"status": {**STATUS, "device": device}})) as daemon:
        lines = zephctl(daemon, "status").stdout.decode().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("device"))
    assert lines[at + 1:at + 3] == [
        "          10 of 32 layers on Card",
        "          cuBLASLt serves large prompts (engine.exact is false)"]


def test_status_of_a_daemon_that_says_little(zephctl):
    with FakeDaemon(answers({"status": {"state": "loading"}})) as daemon:
        out = zephctl(daemon, "status").stdout
    assert out.startswith(b"state     loading\n")


def test_status_as_json_is_what_the_daemon_sent(zephctl):
    with FakeDaemon(answers({"status": STATUS})) as daemon:
        out = zephctl(daemon, "--json", "status").stdout
        assert json.loads(out) == STATUS and out.count(b"\n") == 1
        assert zephctl(daemon, "status", "--json").stdout == out


@pytest.mark.parametrize("words,stdin,text", [
    (["a", "b"], None, "a b"), (["a"], b"unread", "a"), ([], b"from stdin\n", "from stdin"),
    (["-"], b"x", "x"), (["--", "-S"], None, "-S"), ([""], None, ""), ([], b"", "")])
def test_tokenize_words_or_stdin(zephctl, words, stdin, text):
    def tokenize(params):
        assert params == {"text": text, "bos": False, "special": False}
        return {"tokens": [1, 2, 49151]}

    with FakeDaemon(answers({"tokenize": tokenize})) as daemon:
        assert zephctl(daemon, "tokenize", *words, stdin=stdin).stdout == b"1 2 49151\n"


def test_tokenize_options(zephctl):
    with FakeDaemon(answers({"tokenize": lambda p: {"tokens": [p["bos"] + 2 * p["special"]]}})) as d:
        assert zephctl(d, "tokenize", "--bos", "x").stdout == b"1\n"
        assert zephctl(d, "tokenize", "--special", "x").stdout == b"2\n"
        assert json.loads(zephctl(d, "tokenize", "--json", "x").stdout) == {"tokens": [0]}


def test_no_tokens_are_an_empty_line(zephctl):
    with FakeDaemon(answers({"tokenize": {"tokens": []}})) as daemon:
        assert zephctl(daemon, "tokenize", "").stdout == b"\n"


def test_cancel_by_tag_and_by_id(zephctl):
    with FakeDaemon(answers({"cancel": {"cancelled": 2}})) as daemon:
        assert zephctl(daemon, "cancel", "my tag").stdout == b"cancelled 2\n"
        assert zephctl(daemon, "cancel", "--id", "7").stdout == b"cancelled 2\n"
        assert json.loads(zephctl(daemon, "--json", "cancel", "x").stdout) == {"cancelled": 2}
        assert [m[3] for m in daemon.seen()] == [[{"tag": "my tag"}], [{"id": 7}], [{"tag": "x"}]]


def test_a_number_may_be_a_tag_of_either_type(zephctl):
    with FakeDaemon(answers({"cancel": lambda p: {"cancelled": int(p["tag"] == 17)}})) as daemon:
        assert zephctl(daemon, "cancel", "17").stdout == b"cancelled 1\n"
        assert [m[3] for m in daemon.seen()] == [[{"tag": "17"}], [{"tag": 17}]]


def test_cancelling_nothing_is_4(zephctl):
    with FakeDaemon(answers({"cancel": {"cancelled": 0}})) as daemon:
        done = zephctl(daemon, "cancel", "x", check=4)
        assert done.stdout == b"" and done.stderr.startswith(b"zephctl: E_NOT_FOUND: ")


@pytest.mark.parametrize("error,code", [("E_PERMISSION: x", 4), ("E_MODEL: x", 5), ("E_BUSY: x", 6)])
def test_errors_have_zephs_exit_codes(zephctl, error, code):
    with FakeDaemon(answers({"status": error})) as daemon:
        assert zephctl(daemon, "status", check=code).stderr == f"zephctl: {error}\n".encode()


@pytest.mark.parametrize("words", [[], ["nonsense"], ["status", "x"], ["cancel"],
                                   ["cancel", "a", "b"], ["cancel", "t" * 65],
                                   ["cancel", "--id", "-1"], ["cancel", "--id", "x"],
                                   ["cancel", "--id", "4294967296"], ["cancel", "--id", "1", "x"],
                                   ["--bad", "status"], ["-Q"], ["status", "-S"],
                                   ["--timeout", "x", "status"], ["--color", "x", "status"]])
def test_usage_errors_exit_2_with_a_sentence(zephctl, words):
    done = zephctl(None, *words, check=2)
    assert done.stderr.startswith(b"zephctl: ") and done.stderr.count(b"\n") == 1


def test_help_and_version(zephctl):
    assert zephctl(None, "--help").stdout.startswith(b"usage: zephctl ")
    assert zephctl(None, "--version").stdout.startswith(b"zephctl 0.")


def test_no_daemon_is_3(zephctl, tmp_path):
    zephctl(None, "-S", tmp_path / "none", "status", check=3)


def test_a_lost_connection_is_tried_once_more(zephctl):
    def serve(peer, number):
        if number > 0:
            answers({"status": STATUS})(peer, number)

    with FakeDaemon(serve) as daemon:
        assert zephctl(daemon, "--json", "status").returncode == 0
        assert len(daemon.peers) == 2


def test_a_silent_daemon_ends_with_the_timeout_or_a_signal(zephctl, build):
    def serve(peer, _):
        while peer.receive() is not None:
            pass

    with FakeDaemon(serve) as daemon:
        assert b"E_TIMEOUT" in zephctl(daemon, "--timeout", "0.1", "status", check=6).stderr
        with subprocess.Popen([build / "client/zephctl", "-S", daemon.path, "status"]) as process:
            daemon.wait_for(lambda m: m[2] == "status")
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == -signal.SIGINT


# ---- sessions ----

def row(name="s", messages=4, tokens=91, ago=0, **more):
    return {"name": name, "messages": messages, "tokens": tokens, "bytes": 710,
            "used_at": int(time.time()) - ago, **more}


def test_sessions_are_listed_with_their_age(zephctl):
    rows = [row("now"), row("x" * 64, 10, 12345, ago=130), row("old", ago=3 * 86400)]
    with FakeDaemon(answers({"session.list": rows})) as daemon:
        lines = zephctl(daemon, "sessions").stdout.decode().splitlines()
        assert json.loads(zephctl(daemon, "sessions", "list", "--json").stdout) == rows
    assert lines[0].startswith("now                          4 messages      91 tokens  ")
    assert lines[1] == "x" * 64 + "    10 messages   12345 tokens  2 min ago"
    assert lines[2].endswith("  3 days ago") and len(lines) == 3


def test_no_sessions_print_nothing(zephctl):
    with FakeDaemon(answers({"session.list": []})) as daemon:
        assert zephctl(daemon, "sessions").stdout == b""
        assert zephctl(daemon, "sessions", "--json").stdout == b"[]\n"


def test_sessions_show_prints_what_was_said(zephctl):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\n"}]
    with FakeDaemon(answers({"session.get": {"messages": messages}})) as daemon:
        assert zephctl(daemon, "sessions", "show", "s").stdout == \
            b"user:\nHi\n\nassistant:\nHello\n"
        done = zephctl(daemon, "--json", "sessions", "get", "s")
        assert json.loads(done.stdout) == {"messages": messages}
        assert [m[3] for m in daemon.seen()] == [[{"name": "s"}]] * 2


def test_sessions_fork_rewind_and_drop(zephctl):
    same = {"session.fork": row("t", saved=True), "session.rewind": row("s", 2, saved=False),
            "session.drop": lambda p: row(p["name"])}
    with FakeDaemon(answers(same)) as daemon:
        assert zephctl(daemon, "sessions", "fork", "s", "t").stdout.startswith(b"t  ")
        done = zephctl(daemon, "sessions", "rewind", "s")
        assert done.stdout.startswith(b"s  ") and b"not on disk" in done.stderr
        zephctl(daemon, "sessions", "rewind", "s", "3")
        assert zephctl(daemon, "sessions", "drop", "s", "t").stdout == b"dropped s\ndropped t\n"
        assert [(m[2], m[3][0]) for m in daemon.seen()] == [
            ("session.fork", {"from": "s", "to": "t"}),
            ("session.rewind", {"name": "s", "turns": 1}),
            ("session.rewind", {"name": "s", "turns": 3}),
            ("session.drop", {"name": "s"}), ("session.drop", {"name": "t"})]


def test_a_missing_session_exits_4(zephctl):
    with FakeDaemon(answers({"session.get": 'E_NOT_FOUND: there is no session "s"'})) as daemon:
        done = zephctl(daemon, "sessions", "show", "s", check=4)
    assert done.stderr == b'zephctl: E_NOT_FOUND: there is no session "s"\n'


@pytest.mark.parametrize("method,words", [("session.rewind", ["rewind", "s"]),
                                          ("session.fork", ["fork", "s", "t"])])
def test_what_may_have_been_done_is_not_asked_twice(zephctl, method, words):
    def serve(peer, _):
        peer.receive()
    with FakeDaemon(serve) as daemon:
        zephctl(daemon, "sessions", *words, check=3)
        assert [m[2] for m in daemon.seen()] == [method]


@pytest.mark.parametrize("words", [["show"], ["fork", "a"], ["rewind", "a", "x"], ["drop"],
                                   ["drop", "a/b"], ["erase", "a"], ["show", "a", "b"]])
def test_sessions_wants_its_words(zephctl, words):
    assert b"wanted" in zephctl(None, "sessions", *words, check=2).stderr
