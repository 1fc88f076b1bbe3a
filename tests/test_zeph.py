"""zeph against a daemon that follows a script: options, output, exit codes, and every way in which a
connection, a terminal or a pipe can fail."""

import json
import os
import pty
import select
import signal
import socket
import stat
import subprocess
import termios
import threading
import time

import msgpack
import pytest

from fake_daemon import FakeDaemon, result

pytestmark = pytest.mark.daemon


def answer(*texts, finish="stop", **more):
    """A script: every request is answered with these tokens."""
    def serve(peer, _):
        while (request := peer.receive()) is not None:
            if request[0] != 0:
                continue
            if request[2] == "cancel":
                peer.send([1, request[1], None, {"cancelled": 0}])
                continue
            if request[3][0].get("stream"):
                peer.tokens(request, *texts)
            peer.finish(request, "".join(texts), finish, **more)
    return serve


def refuse(error):
    def serve(peer, _):
        request = peer.receive()
        peer.send([1, request[1], error, None])
        peer.receive()
    return serve


@pytest.fixture
def zeph(build, tmp_path):
    """Runs zeph with a home of its own."""
    def run(daemon, *words, stdin=None, check=0, **options):
        environment = dict(os.environ, HOME=str(tmp_path), TERM="xterm",
                           XDG_RUNTIME_DIR=str(tmp_path))
        for name in ("ZEPH_SOCKET", "ZEPH_HOST", "XDG_CONFIG_HOME", "NO_COLOR"):
            environment.pop(name, None)
        environment.update(options.pop("env", {}))
        socket_words = ["-S", daemon.path] if daemon else []
        done = subprocess.run(
            [build / "client/zeph", *socket_words, *words], capture_output=True, timeout=60,
            env=environment, check=False,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}), **options)
        assert done.returncode == check, done
        return done
    run.home = tmp_path
    return run


def asked(daemon):
    """The params of the one request that asks."""
    requests = [m for m in daemon.seen() if m[0] == 0 and m[2] in ("chat", "complete")]
    assert len(requests) == 1
    return requests[0][3][0]


def user_text(daemon):
    messages = asked(daemon)["messages"]
    assert [m["role"] for m in messages] == ["user"]
    return messages[0]["content"]


# ---- the answer ----

def test_streams_the_answer_and_ends_it_with_a_newline(zeph):
    with FakeDaemon(answer("Hel", "lo", " wörld")) as daemon:
        done = zeph(daemon, "hi")
        assert done.stdout == "Hello wörld\n".encode() and done.stderr == b""
        assert asked(daemon)["stream"] is True


@pytest.mark.parametrize("text,printed", [("", "\n"), ("a", "a\n"), ("a\n", "a\n"),
                                          ("a\n\n", "a\n\n"), ("\n", "\n")])
@pytest.mark.parametrize("option", ["--color=never", "--no-stream"])
def test_the_last_newline_is_added_only_where_it_is_missing(zeph, text, printed, option):
    with FakeDaemon(answer(text)) as daemon:
        assert zeph(daemon, option, "hi").stdout == printed.encode()


def test_tokens_come_while_the_daemon_still_writes(build):
    def serve(peer, _):
        request = peer.receive()
        peer.tokens(request, "first")
        more.recv(1)
        peer.finish(request, "first and last")
        peer.receive()

    more, go = socket.socketpair()
    with FakeDaemon(serve) as daemon, subprocess.Popen(
            [build / "client/zeph", "-S", daemon.path, "hi"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE) as process:
        assert os.read(process.stdout.fileno(), 100) == b"first"
        go.send(b"x")
        assert process.stdout.read() == b" and last\n"
    assert process.returncode == 0


def test_bytes_pass_unchanged_into_a_pipe(zeph):
    text = "\x1b]0;title\x07\x00\x9b31m\r\t€😀"
    with FakeDaemon(answer(text)) as daemon:
        assert zeph(daemon, "hi").stdout == text.encode() + b"\n"


def test_a_daemon_that_dribbles_single_bytes(zeph):
    def serve(peer, _):
        request = peer.receive()
        token = [2, "token", [{"id": request[1], "index": 0, "tokens": [1], "text": "drop "}]]
        for byte in msgpack.packb(token) + msgpack.packb([1, request[1], None, result("drop by")]):
            peer.socket.sendall(bytes([byte]))
        peer.receive()

    with FakeDaemon(serve) as daemon:
        assert zeph(daemon, "hi").stdout == b"drop by\n"


def test_unknown_notifications_results_and_ids_are_ignored(zeph):
    def serve(peer, _):
        request = peer.receive()
        peer.send([2, "weather", [{"id": request[1]}]], [2, "token", []], [2, "token", "x"],
                  [2, "token", [{"id": request[1] + 1, "text": "not mine", "tokens": []}]],
                  [1, request[1] + 7, "E_BUSY: not mine", None])
        peer.finish(request, "mine", new_key=[1, {2: 3}])
        peer.receive()

    with FakeDaemon(serve) as daemon:
        assert zeph(daemon, "hi").stdout == b"mine\n"


def test_no_stream_asks_for_none(zeph):
    with FakeDaemon(answer("whole")) as daemon:
        assert zeph(daemon, "--no-stream", "hi").stdout == b"whole\n"
        assert asked(daemon)["stream"] is False


def test_json_is_one_object_with_request_and_result(zeph):
    text = "a\"\\\n\t\x00\x1b\x7f\u0085é😀"
    with FakeDaemon(answer(text, logprobs=[{"token": 1, "logprob": -0.1, "nan": float("nan")}],
                           exact=2**53 - 1, negative=-5, third=1 / 3, blob=b"\xff")) as daemon:
        out = zeph(daemon, "--json", "-t", "0.5", "hi").stdout
    assert out.count(b"\n") == 1 and out.endswith(b"}\n")
    assert not any(byte < 0x20 for byte in out[:-1]) and b"\x7f" not in out
    got = json.loads(out)
    assert got["text"] == text and got["finish"] == "stop"
    assert got["usage"] == {"prompt_tokens": 7, "cached_tokens": 2, "completion_tokens": len(text)}
    assert got["logprobs"] == [{"token": 1, "logprob": -0.1, "nan": None}]
    assert (got["exact"], got["negative"], got["third"]) == (2**53 - 1, -5, 1 / 3)
    assert got["blob"] == "\ufffd" and got["receipt"]["seed"] == 5
    assert got["request"]["method"] == "chat"
    assert got["request"]["params"]["temperature"] == 0.5
    assert got["request"]["params"]["messages"] == [{"role": "user", "content": "hi"}]


def test_stats_go_to_stderr(zeph):
    with FakeDaemon(answer("abc")) as daemon:
        done = zeph(daemon, "--stats", "hi")
    assert done.stdout == b"abc\n"
    assert b"7 prompt tokens (2 cached), 3 new (stop)" in done.stderr
    assert b"250.2 tokens/s" in done.stderr


@pytest.mark.parametrize("text,block", [
    ("talk\n```c\nint x;\n```\nmore\n```\nno\n```", "int x;\n"),
    ("~~~~\n```\na\n~~~\n~~~~\n", "```\na\n~~~\n"),
    ("   ```\n  a\n  ```  \n", "  a\n"),
    ("```\nopen to the end", "open to the end\n"),
    ("```\n```\n", ""),
    ("a ``` b\n```x`y\n```\nz\n```", "z\n"),
])
def test_extract_prints_the_first_code_block_alone(zeph, text, block):
    with FakeDaemon(answer(text)) as daemon:
        assert zeph(daemon, "-x", "hi").stdout.decode() == block


@pytest.mark.parametrize("text,finish", [("none", "stop"), ("", "stop"), ("    ```\na\n", "stop"),
                                         ("``\na\n``\n", "stop"), ("```\ncut", "length")])
def test_extract_without_a_whole_block_exits_7(zeph, text, finish):
    with FakeDaemon(answer(text, finish=finish)) as daemon:
        done = zeph(daemon, "-x", "hi", check=7)
    assert done.stdout == b"" and b"code block" in done.stderr


def test_a_large_answer_into_a_slow_pipe_loses_nothing(build):
    parts = [f"{i:07d} " * 512 for i in range(400)]  # 1.6 MB
    with FakeDaemon(answer(*parts)) as daemon, subprocess.Popen(
            [build / "client/zeph", "-S", daemon.path, "hi"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE) as process:
        time.sleep(0.3)  # the pipe fills, then the sockets
        got = b""
        while chunk := os.read(process.stdout.fileno(), 50000):
            got += chunk
            if len(got) < 400000:
                time.sleep(0.01)
    assert got == "".join(parts).encode() + b"\n" and process.returncode == 0


# ---- the request ----

def test_options_become_parameters(zeph):
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, "-m", "5", "-t", "0.25", "--top-k", "3", "--top-p", "0.5", "--min-p", "0.125",
             "--repeat-penalty", "1.5", "--seed", "-7", "--greedy", "--stop", "END", "--stop", "\n",
             "hi")
        params = asked(daemon)
    assert len(params.pop("tag")) <= 64
    assert params == {
        "stream": True, "messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 5,
        "temperature": 0.25, "top_k": 3, "top_p": 0.5, "min_p": 0.125, "repetition_penalty": 1.5,
        "seed": -7, "do_sample": False, "stop": ["END", "\n"]}


def test_what_is_not_given_is_left_to_the_daemon(zeph):
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, "hi")
        assert sorted(asked(daemon)) == ["messages", "stream", "tag"]


def test_raw_completes_without_a_template(zeph):
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, "--raw", "Once", "upon")
        assert asked(daemon)["prompt"] == "Once upon"
        assert "messages" not in asked(daemon)


def test_timeout_is_the_deadline_too(zeph):
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, "--timeout", "2.5", "hi")
        assert asked(daemon)["deadline_ms"] == 2500


def test_system_and_role(zeph):
    roles = zeph.home / ".config/zeph/roles"
    roles.mkdir(parents=True)
    (roles / "poet").write_text("You are a poet.\n")
    for words, system in ((["-s", "Be brief."], "Be brief."), (["--role", "poet"], "You are a poet."),
                          (["--role", "poet", "-s", "Be brief."], "You are a poet.\n\nBe brief."),
                          (["-s", ""], "")):
        with FakeDaemon(answer("x")) as daemon:
            zeph(daemon, *words, "hi")
            assert asked(daemon)["messages"] == [{"role": "system", "content": system},
                                                 {"role": "user", "content": "hi"}]
    config = zeph.home / "elsewhere"
    (config / "zeph/roles").mkdir(parents=True)
    (config / "zeph/roles/cook").write_text("You cook.")
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, "--role", "cook", "hi", env={"XDG_CONFIG_HOME": str(config)})
        assert asked(daemon)["messages"][0]["content"] == "You cook."


@pytest.mark.parametrize("role", ["none", "../poet", ".hidden", ""])
def test_a_role_that_is_not_there_is_a_usage_error(zeph, role):
    assert zeph(None, "--role", role, "hi", check=2).stderr.startswith(b"zeph: ")


@pytest.mark.parametrize("words,stdin,prompt", [
    (["a", "b  c"], None, "a b  c"),
    (["a"], b"", "a"),
    (["a"], b"\n", "a"),
    (["a"], b"text\n", "a\n\ntext"),
    (["a"], b"text\n\n", "a\n\ntext\n"),
    ([], b"only\nstdin\n", "only\nstdin"),
    (["a", "-", "b", "c"], b"text\n", "a\n\ntext\n\nb c"),
    (["-", "b"], b"text", "text\n\nb"),
    (["a", "-"], b"", "a"),
    (["--no-stdin", "a"], b"text", "a"),
    (["a", "--", "-", "--seed"], b"", "a - --seed"),
    (["--", "-"], b"text", "-\n\ntext"),
    (["--no-stdin", "--", "-"], b"text", "-"),
    (["a", "--top-k", "3", "b"], None, "a b"),
    (["a"], "ä\xff\x00€".encode("utf-8", "surrogateescape"), "a\n\nä\xff\x00€"),
])
def test_words_and_stdin(zeph, words, stdin, prompt):
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, *words, stdin=stdin)
        assert user_text(daemon) == prompt


def test_invalid_utf8_is_sent_as_it_is(zeph):
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, b"a\xff", stdin=b"\xfe\xc3")
        assert user_text(daemon).encode("utf-8", "surrogateescape") == b"a\xff\n\n\xfe\xc3"


def test_files_come_between_words_and_stdin(zeph):
    one, two = zeph.home / "one", zeph.home / "two"
    one.write_text("first file\n")
    two.write_text("second\nfile")
    with FakeDaemon(answer("x")) as daemon:
        zeph(daemon, "-f", one, "words", "--file", two, stdin=b"stdin")
        assert user_text(daemon) == "words\n\nfirst file\n\nsecond\nfile\n\nstdin"
    done = zeph(None, "-f", zeph.home / "none", "hi", check=2)
    assert b"none: No such file" in done.stderr


def test_a_prompt_larger_than_a_frame_asks_how_large_it_may_be(zeph):
    def serve(peer, _):
        while (request := peer.receive()) is not None:
            if request[2] == "hello":
                peer.send([1, request[1], None, {"limits": {"frame_bytes": limit}}])
            else:
                peer.finish(request, str(len(request[3][0]["messages"][0]["content"])))

    limit = 2 << 20
    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, stdin=b"x" * (3 << 20), check=4)
        assert done.stderr.startswith(b"zeph: E_TOO_LARGE: the prompt has 3145728 bytes")
    limit = 4 << 20
    with FakeDaemon(serve) as daemon:
        assert zeph(daemon, stdin=b"x" * (3 << 20)).stdout == b"3145728\n"


# ---- usage ----

@pytest.mark.parametrize("words", [
    ["--nonsense", "hi"], ["-Q", "hi"], ["-n"], ["-m"], ["-m", "x", "hi"],
    ["-m", "1.5", "hi"], ["-t", "hot", "hi"], ["-t", "nan", "hi"], ["-t", "0x1", "hi"],
    ["--seed", "9007199254740992", "hi"], ["--seed", "", "hi"], ["--timeout", "0", "hi"],
    ["--timeout", "-1", "hi"], ["--color", "red", "hi"], [], [""], ["-", "-"],
    ["--no-stdin", "-"], ["--raw", "-s", "x", "hi"], ["--json", "-x", "hi"],
    ["--map", "no braces"], ["--map", "{}", "word"], ["--map", "{}", "--no-stdin"],
    ["hi", *["--stop", "x"] * 17],
])
def test_usage_errors_exit_2_with_a_sentence(zeph, words):
    done = zeph(None, *words, check=2)
    assert done.stdout == b""
    assert done.stderr.startswith(b"zeph: ") and done.stderr.count(b"\n") == 1


def test_version_and_help(zeph):
    assert zeph(None, "--version").stdout.startswith(b"zeph 0.")
    for word in ("--help", "-h"):
        text = zeph(None, word).stdout
        assert text.startswith(b"usage: zeph [options] [--] [prompt words...]\n")
        assert all(len(line) <= 100 for line in text.splitlines())
    assert zeph(None, "--version", stdin=b"unread").returncode == 0


def test_zeph_links_libc_and_msgpack_only(build):
    if "asan" in build.name:
        pytest.skip("sanitizers add their libraries")
    out = subprocess.run(["ldd", build / "client/zeph"], check=True, capture_output=True, text=True)
    names = sorted(line.split()[0].split("/")[-1] for line in out.stdout.splitlines())
    assert [n.split(".")[0] for n in names] == ["ld-linux-x86-64", "libc", "libmsgpackc", "linux-vdso"]


# ---- exit codes ----

@pytest.mark.parametrize("error,code", [
    ("E_PARAMS: top_k: found -1", 4), ("E_TOO_LARGE: x", 4), ("E_PERMISSION: x", 4),
    ("E_NOT_FOUND: x", 4), ("E_METHOD: x", 4), ("E_MODEL: x", 5), ("E_ENGINE: x", 5),
    ("E_PROTOCOL: x", 5), ("E_NEWER: x", 5), ("nonsense", 5), ("E_BUSY: x", 6), ("E_TIMEOUT: x", 6),
    ("E_CANCELLED: x", 6),
])
def test_each_error_has_its_exit_code(zeph, error, code):
    with FakeDaemon(refuse(error)) as daemon:
        done = zeph(daemon, "hi", check=code)
        assert done.stdout == b"" and done.stderr == f"zeph: {error}\n".encode()
        assert len(daemon.peers) == 1  # an error is an answer: not tried again


def test_an_errors_text_cannot_command_a_terminal(zeph):
    with FakeDaemon(refuse("E_BUSY: \x1b]0;x\x07\n\x9b2J")) as daemon:
        assert zeph(daemon, "hi", check=6).stderr == b"zeph: E_BUSY: ^[]0;x^G^J^[2J\n"


def test_an_error_after_tokens_keeps_them(zeph):
    def serve(peer, _):
        request = peer.receive()
        peer.tokens(request, "half")
        peer.send([1, request[1], "E_ENGINE: the device failed", None])
        peer.receive()

    with FakeDaemon(serve) as daemon:
        assert zeph(daemon, "hi", check=5).stdout == b"half\n"


def test_cancelled_from_elsewhere_is_6_with_the_text_so_far(zeph):
    with FakeDaemon(answer("so", " far", finish="cancelled")) as daemon:
        done = zeph(daemon, "hi", check=6)
        assert done.stdout == b"so far\n" and b"E_CANCELLED" in done.stderr


def test_cut_at_the_token_limit_is_no_failure(zeph):
    with FakeDaemon(answer("cut", finish="length")) as daemon:
        zeph(daemon, "hi", check=0)


@pytest.mark.parametrize("text", ["E_BUSY: too many connections", "E_PROTOCOL: bad frame"])
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"text": t}])
def test_a_daemon_that_complains_and_closes(zeph, text, wrap):
    def serve(peer, _):
        peer.send([2, "error", [wrap(text)]])
        peer.close()

    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, "hi", check=6 if "BUSY" in text else 5)
        assert done.stderr == f"zeph: {text}\n".encode()


@pytest.mark.parametrize("data", [b"\xc1", b"\xdd\x1f\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
                                  b"\x91" * 100, b"\x94\x01\x00\xc0", b"\x07", b"\xd4\x00\x00"])
def test_a_daemon_that_breaks_the_protocol_is_5(zeph, data):
    def serve(peer, _):
        peer.receive()
        peer.socket.sendall(data + b"\xc0" * 64)
        peer.receive()

    with FakeDaemon(serve) as daemon:
        assert b"E_PROTOCOL" in zeph(daemon, "hi", check=5).stderr


@pytest.mark.parametrize("answered", [None, [], "text", {}, {"text": 5}])
def test_a_result_without_text_is_5(zeph, answered):
    def serve(peer, _):
        request = peer.receive()
        peer.send([1, request[1], None, answered])
        peer.receive()

    with FakeDaemon(serve) as daemon:
        zeph(daemon, "hi", check=5)


# ---- the connection ----

def test_no_daemon_is_3_and_names_the_path(zeph):
    path = zeph.home / "none.sock"
    assert str(path).encode() in zeph(None, "-S", path, "hi", check=3).stderr
    done = zeph(None, "hi", check=3)
    assert str(zeph.home / "zeph/zeph.sock").encode() in done.stderr
    assert b"/run/zeph/zeph.sock" in done.stderr


def test_a_dead_socket_is_3(zeph):
    path = zeph.home / "dead.sock"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    assert b"nobody listens" in zeph(None, "-S", path, "hi", check=3).stderr


def test_a_path_too_long_for_a_socket_is_named(zeph):
    done = zeph(None, "-S", "/" + "p" * 120, "hi", check=3)
    assert b"121 bytes, at most 107" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
def test_no_permission_is_4_and_names_the_group(zeph):
    with FakeDaemon(answer("x")) as daemon:
        os.chmod(daemon.folder.name, 0o755)
        os.chmod(daemon.path, 0o660)
        os.chown(daemon.path, 0, 4)
        done = zeph(daemon, "hi", check=4, user=65534, group=65534, extra_groups=[])
    assert done.stderr.startswith(b"zeph: E_PERMISSION: ") and b"the group adm" in done.stderr


def test_the_environment_names_the_socket(zeph):
    with FakeDaemon(answer("x")) as daemon:
        assert zeph(None, "hi", env={"ZEPH_SOCKET": str(daemon.path)}).stdout == b"x\n"


def test_a_connection_that_ends_before_the_first_token_is_tried_once_more(zeph):
    def serve(peer, number):
        request = peer.receive()
        if number > 0:
            peer.finish(request, "second try")
            peer.receive()
        peer.close()

    with FakeDaemon(serve) as daemon:
        assert zeph(daemon, "hi").stdout == b"second try\n"
        first, second = [peer.seen[0] for peer in daemon.peers]
        assert first[3] == second[3]


def test_twice_lost_is_3(zeph):
    def serve(peer, _):
        peer.receive()
        peer.close()

    with FakeDaemon(serve) as daemon:
        assert b"connection was lost" in zeph(daemon, "hi", check=3).stderr
        assert len(daemon.peers) == 2


def test_lost_after_a_token_is_3_and_not_tried_again(zeph):
    def serve(peer, _):
        request = peer.receive()
        peer.tokens(request, "half an ans")
        peer.close()

    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, "hi", check=3)
        assert done.stdout == b"half an ans\n" and b"connection was lost" in done.stderr
        assert len(daemon.peers) == 1


def test_a_reply_sent_before_the_close_is_taken(zeph):
    """The daemon answers and closes without reading all of a large request."""
    def serve(peer, _):
        peer.socket.recv(1000)
        peer.send([1, 0, "E_TOO_LARGE: too long", None])
        peer.close()

    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, "hi", stdin=b"x" * (1 << 20), check=4)
        assert done.stderr == b"zeph: E_TOO_LARGE: too long\n"


def test_a_full_queue_is_tried_again(zeph):
    with FakeDaemon(answer("patience"), backlog=0, accepting=False) as daemon:
        others = []
        while True:
            other = socket.socket(socket.AF_UNIX)
            other.setblocking(False)
            try:
                other.connect(str(daemon.path))
            except BlockingIOError:
                break
            others.append(other)
        done = zeph(daemon, "--timeout", "0.2", "hi", check=3)
        assert b"no further connections" in done.stderr
        threading.Timer(0.2, daemon.accept).start()
        assert zeph(daemon, "hi").stdout == b"patience\n"


def test_a_silent_daemon_ends_with_the_timeout(zeph):
    def serve(peer, _):
        while peer.receive() is not None:
            pass

    start = time.monotonic()
    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, "--timeout", "0.3", "hi", check=6)
        assert done.stderr == b"zeph: E_TIMEOUT: no answer within 0.3 s\n"
        assert 1.2 < time.monotonic() - start < 10  # a second of grace for the daemon's own word
        tag = asked(daemon)["tag"]
        daemon.wait_for(lambda m: m[0] == 0 and m[2] == "cancel" and m[3] == [{"tag": tag}])


# ---- signals and pipes ----

def wait_for_request(daemon):
    return daemon.wait_for(lambda m: m[0] == 0 and m[2] == "chat")


def never(peer, _):
    request = peer.receive()
    peer.tokens(request, "begun")
    while peer.receive() is not None:
        pass


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_by_tag_and_kills(build, signo):
    with FakeDaemon(never) as daemon, subprocess.Popen(
            [build / "client/zeph", "-S", daemon.path, "hi"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert os.read(process.stdout.fileno(), 100) == b"begun"
        tag = wait_for_request(daemon)[3][0]["tag"]
        process.send_signal(signo)
        assert process.wait(10) == -signo
        assert process.stderr.read() == b""
        daemon.wait_for(lambda m: m[0] == 0 and m[2] == "cancel" and m[3] == [{"tag": tag}])


def test_a_signal_while_stdin_is_read(build):
    with subprocess.Popen([build / "client/zeph", "hi"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        process.stdin.write(b"half of it")
        process.stdin.flush()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


def test_a_signal_while_stdout_is_full(build):
    with FakeDaemon(answer("x" * 1000000)) as daemon, subprocess.Popen(
            [build / "client/zeph", "-S", daemon.path, "hi"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE) as process:
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


def test_a_gone_reader_cancels_and_kills_by_sigpipe(build):
    """While the daemon is silent, too: the closed pipe itself is seen."""
    with FakeDaemon(never) as daemon, subprocess.Popen(
            [build / "client/zeph", "-S", daemon.path, "hi"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert os.read(process.stdout.fileno(), 100) == b"begun"
        process.stdout.close()
        assert process.wait(10) == -signal.SIGPIPE
        daemon.wait_for(lambda m: m[0] == 0 and m[2] == "cancel")


def test_a_full_disk_is_told(zeph, build):
    with FakeDaemon(answer("x" * 100)) as daemon, open("/dev/full", "wb") as full:
        done = subprocess.run([build / "client/zeph", "-S", daemon.path, "hi"], stdout=full,
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 3 and b"No space left" in done.stderr


def test_closed_standard_descriptors_are_never_the_socket(build):
    with FakeDaemon(answer("x")) as daemon:
        done = subprocess.run(["sh", "-c", f"exec {build}/client/zeph -S {daemon.path} hi <&- >&-"],
                              stderr=subprocess.PIPE, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert wait_for_request(daemon)[3][0]["messages"][0]["content"] == "hi"


# ---- terminals ----

def on_terminal(build, daemon, *words, stdin_too=False, until=None):
    """Runs zeph with stdout and stderr on a terminal; what came there, raw, and the status."""
    master, slave = pty.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    process = subprocess.Popen([build / "client/zeph", "-S", daemon.path, *words], stdout=slave,
                               stderr=slave, stdin=slave if stdin_too else subprocess.DEVNULL,
                               env=dict(os.environ, TERM="xterm"))
    os.close(slave)
    got = b""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        if not data:
            break
        got += data
        if until and until in got:
            process.send_signal(signal.SIGINT)
            until = None
    os.close(master)
    return got, process.wait(10)


def test_on_a_terminal_control_characters_are_shown(build):
    text = "a\x1b]52;c;QQ==\x07b\x00\x7f\r\x08\tc\nd\x9bx\u0085\x90é€😀"
    for n in range(0, 5):  # held characters: the text in two parts, cut anywhere
        with FakeDaemon(answer(text[:n], text[n:])) as daemon:
            got, code = on_terminal(build, daemon, "hi")
        assert code == 0
        assert got.decode() == "a^[]52;c;QQ==^Gb^@^?^M^H\tc\nd^[x^E^Pé€😀\n"


def test_on_a_terminal_split_and_broken_characters(build):
    def serve(peer, _):
        request = peer.receive()
        for piece in (b"\xc2", b"\x9b", b"\xf0\x9f", b"\x98\x80", b"\xff", b"\xe2\x82", b"x",
                      b"\xe2"):
            body = {"id": request[1], "index": 0, "tokens": [], "text": piece}
            peer.send([2, "token", [body]])
        peer.finish(request, "x" * 11)  # as many bytes as came
        peer.receive()

    with FakeDaemon(serve) as daemon:
        got, code = on_terminal(build, daemon, "hi")
    assert code == 0 and got.decode() == "^[😀\ufffd\ufffdx\ufffd\n"


def test_progress_comes_and_goes_on_a_terminal(build):
    def serve(peer, _):
        request = peer.receive()
        note = {"id": request[1], "tag": request[3][0]["tag"]}
        peer.send([2, "progress", [dict(note, phase="loading", done=1, total=4)]],
                  [2, "progress", [dict(note, phase="queued", position=3)]],
                  [2, "progress", [dict(note, phase="prefill", done=50, total=200)]],
                  [2, "progress", [dict(note, phase="dancing")]])
        peer.tokens(request, "done")
        peer.finish(request, "done")
        peer.receive()

    with FakeDaemon(serve) as daemon:
        got, code = on_terminal(build, daemon, "hi")
        assert code == 0
        line = b"\r\x1b[K"
        assert got == (line + b"loading the model: 25%" + line + b"waiting: place 3" + line +
                       b"reading the prompt: 25%" + line + b"done\n")
    with FakeDaemon(serve) as daemon:
        assert on_terminal(build, daemon, "-q", "hi") == (b"done\n", 0)


def test_the_terminal_is_clean_after_ctrl_c(build):
    def serve(peer, _):
        request = peer.receive()
        peer.send([2, "progress", [{"id": request[1], "phase": "queued", "position": 1}]])
        while peer.receive() is not None:
            pass

    with FakeDaemon(serve) as daemon:
        got, code = on_terminal(build, daemon, "hi", until=b"place 1")
        assert code == -signal.SIGINT and got.endswith(b"place 1\r\x1b[K")


def test_words_and_a_terminal_leave_stdin_alone(build):
    with FakeDaemon(answer("ok")) as daemon:
        assert on_terminal(build, daemon, "hi", stdin_too=True) == (b"ok\n", 0)


def test_color_marks_complaints(zeph):
    with FakeDaemon(refuse("E_BUSY: x")) as daemon:
        done = zeph(daemon, "--color", "always", "hi", check=6)
        assert done.stderr == b"\x1b[1;31mzeph:\x1b[0m E_BUSY: x\n"


# ---- --map ----

def test_map_asks_for_each_line_and_prints_in_order(zeph):
    def serve(peer, _):
        waiting = []
        most = 0
        while (request := peer.receive()) is not None:
            waiting.append(request)
            most = max(most, len(waiting))
            if len(waiting) == min(32, 100 - serve.answered):
                for other in reversed(waiting):
                    peer.finish(other, other[3][0]["messages"][0]["content"].upper())
                serve.answered += len(waiting)
                waiting = []

    serve.answered = 0
    lines = [f"line {i}" for i in range(100)]
    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, "--map", "say {} {}", stdin="\n".join(lines).encode() + b"\n")
        assert done.stdout.decode().splitlines() == [f"SAY {x} {x}".upper() for x in lines]
        assert len({m[3][0]["tag"] for m in daemon.seen()}) == 1
        assert {m[3][0]["priority"] for m in daemon.seen()} == {"batch"}


def test_map_with_json_is_one_object_a_line(zeph):
    with FakeDaemon(answer("a\nb")) as daemon:
        out = zeph(daemon, "--json", "--map", "{}", stdin=b"1\n\n3").stdout.splitlines()
        assert [json.loads(line)["request"]["params"]["messages"][0]["content"]
                for line in out] == ["1", "", "3"]


def test_map_of_nothing_asks_nothing(zeph):
    with FakeDaemon(answer("x")) as daemon:
        assert zeph(daemon, "--map", "{}", stdin=b"").stdout == b""
        assert daemon.seen() == []


def test_map_stops_at_an_error_after_what_came_before(zeph):
    def serve(peer, _):
        requests = [peer.receive() for _ in range(3)]
        peer.send([1, requests[1][1], "E_BUSY: full", None])
        peer.finish(requests[2], "third")
        peer.finish(requests[0], "first")
        peer.receive()

    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, "--map", "{}", stdin=b"1\n2\n3\n", check=6)
        assert (done.stdout, done.stderr) == (b"first\n", b"zeph: E_BUSY: full\n")
        daemon.wait_for(lambda m: m[0] == 0 and m[2] == "cancel")


def test_map_lost_before_any_answer_is_tried_once_more(zeph):
    def serve(peer, number):
        if number == 0:
            peer.receive()
            peer.close()
        else:
            answer("again")(peer, number)

    with FakeDaemon(serve) as daemon:
        assert zeph(daemon, "--map", "{}", stdin=b"1\n2\n").stdout == b"again\nagain\n"


# ---- ssh ----

def test_dial_stdio_carries_bytes_both_ways(build):
    big = "y" * 3000000
    with FakeDaemon(answer(big)) as daemon:
        request = msgpack.packb([0, 5, "chat", [{"messages": [], "x": "z" * 1000000}]])
        done = subprocess.run([build / "client/zeph", "--dial-stdio", "-S", daemon.path],
                              input=request, capture_output=True, timeout=60, check=True)
        assert msgpack.unpackb(done.stdout)[3]["text"] == big and done.stderr == b""


def test_dial_stdio_ends_when_its_reader_goes(build):
    with FakeDaemon(never) as daemon, subprocess.Popen(
            [build / "client/zeph", "--dial-stdio", "-S", daemon.path], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE) as process:
        process.stdin.write(msgpack.packb([0, 5, "chat", [{"tag": "t"}]]))
        process.stdin.flush()
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(10) == 3


def test_zeph_host_goes_through_ssh(zeph, build):
    """An ssh that notes its words and runs the far command here."""
    ssh = zeph.home / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{zeph.home}/words\n'
                   f'while [ "$1" != -- ]; do shift; done\nexec sh -c "$3"\n')
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    path = f"{ssh.parent}:{build}/client:{os.environ['PATH']}"
    with FakeDaemon(answer("from afar")) as daemon:
        done = zeph(daemon, "hi", env={"ZEPH_HOST": "ssh://me@box:2222", "PATH": path})
        assert done.stdout == b"from afar\n"
        assert (zeph.home / "words").read_text().splitlines() == [
            "-T", "-p", "2222", "--", "me@box", f"exec zeph --dial-stdio -S '{daemon.path}'"]


@pytest.mark.parametrize("host", ["box", "http://box", "ssh://", "ssh://-oProxyCommand=x",
                                  "ssh://box:x", "ssh://box/path"])
def test_a_host_that_is_none_is_told(zeph, host):
    done = zeph(None, "hi", check=3, env={"ZEPH_HOST": host})
    assert b"wanted ssh://" in done.stderr


# ---- conversations ----

def serve_session(messages):
    """A daemon with one session, "s"; None: without it."""
    def serve(peer, _):
        while (request := peer.receive()) is not None:
            if request[2] == "session.get":
                error = 'E_NOT_FOUND: there is no session "s"' if messages is None else None
                peer.send([1, request[1], error, None if error else {"messages": messages}])
            else:
                peer.tokens(request, "yes")
                peer.finish(request, "yes", saved=True)
    return serve


def test_session_goes_with_the_request(zeph):
    with FakeDaemon(answer("a")) as daemon:
        zeph(daemon, "-n", "s.1:x-Y_", "hi")
        assert asked(daemon)["session"] == "s.1:x-Y_"
        assert asked(daemon)["messages"] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("history,sent", [
    (None, ["system", "user"]), ([], ["system", "user"]),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}], ["user"])])
def test_a_system_prompt_is_sent_to_a_new_session_alone(zeph, history, sent):
    with FakeDaemon(serve_session(history)) as daemon:
        zeph(daemon, "-n", "s", "-s", "Be brief.", "hi")
        assert [m["role"] for m in asked(daemon)["messages"]] == sent


@pytest.mark.parametrize("first,had", [({"role": "system", "content": "Be long."}, b"another"),
                                       ({"role": "user", "content": "Be brief."}, b"no")])
def test_another_system_prompt_is_refused(zeph, first, had):
    with FakeDaemon(serve_session([first])) as daemon:
        done = zeph(daemon, "-n", "s", "-s", "Be brief.", "hi", check=4)
        assert done.stderr == (
            b"zeph: E_PARAMS: the session s began with " + had + b" system prompt; leave it out, "
            b"or drop the session (zephctl sessions drop s)\n")
        assert not [m for m in daemon.seen() if m[2] == "chat"]


def test_without_a_terminal_continue_is_the_session_last(zeph):
    with FakeDaemon(answer("a")) as daemon:
        zeph(daemon, "-c", "hi", start_new_session=True)
        assert asked(daemon)["session"] == "last"


def test_on_a_terminal_continue_is_that_terminals_session(build):
    with FakeDaemon(answer("a")) as daemon:
        pid, fd = pty.fork()
        if pid == 0:
            # a shell that stays: zeph is not the leader itself
            os.execv("/bin/sh", ["sh", "-c", f"{build}/client/zeph -S {daemon.path} -c hi </dev/null;"
                                             f" {build}/client/zeph -S {daemon.path} -c ho; :"])
        while True:
            try:
                if not os.read(fd, 4096):
                    break
            except OSError:
                break
        os.close(fd)
        os.waitpid(pid, 0)
        names = [m[3][0]["session"] for m in daemon.seen() if m[0] == 0 and m[2] == "chat"]
    kind, leader, start = names[0].split(":")
    assert names == [names[0]] * 2 and (kind, leader) == ("tty", str(pid)) and int(start) > 0


def test_a_session_that_is_not_saved_is_told(zeph):
    with FakeDaemon(answer("a", saved=False)) as daemon:
        done = zeph(daemon, "-n", "s", "hi")
        assert done.stdout == b"a\n"
        assert done.stderr == \
            b"zeph: the session is not on disk: it lasts as long as the daemon\n"


@pytest.mark.parametrize("words,sentence", [
    (["-n", "a/b"], b'--session: found "a/b", wanted 1 to 64 of A-Z a-z 0-9 . _ : -'),
    (["-n", ""], b'--session: found "", wanted 1 to 64 of A-Z a-z 0-9 . _ : -'),
    (["-c", "-n", "s"], b"--continue: found beside --session, which names another"),
    (["--raw", "-c"], b"--continue: found beside --raw, which has no conversation"),
    (["--map", "{}", "-n", "s"], b"--session: found beside --map, which has no conversation")])
def test_sessions_that_cannot_be(zeph, words, sentence):
    done = zeph(None, *words, *([] if "--map" in words else ["hi"]), check=2)
    assert done.stderr == b"zeph: " + sentence + b"\n"


def test_a_session_is_not_asked_twice_where_nothing_streams(zeph):
    """The daemon may have it already when the connection ends."""
    def serve(peer, _):
        peer.receive()
    with FakeDaemon(serve) as daemon:
        zeph(daemon, "-n", "s", "--no-stream", "hi", check=3)
        assert len(daemon.peers) == 1
