"""zephctl replay: what zeph --json printed is what the model says again, whatever else runs; and what
differs is named."""

import json
import subprocess

import pytest

from fake_daemon import FakeDaemon
from zephd import Zephd

pytestmark = pytest.mark.daemon

NO_END = [[2, -1e6]]  # the tiny model's end token is never drawn


@pytest.fixture(scope="module")
def models(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for seed in (1, 2):
        subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--type", "f32", "--seed",
                        str(seed), folder / f"{seed}.gguf"], check=True)
    return folder


@pytest.fixture(scope="module")
def daemon(build, models):
    with Zephd(build, models / "1.gguf", config="defaults: { temperature = 1.5; top_k = 0; top_p = 1.0; };") as d:
        yield d


@pytest.fixture
def tools(build, tmp_path):
    class Tools:
        @staticmethod
        def ask(daemon, *words, **options):
            return subprocess.run([build / "client/zeph", "-S", daemon.socket, "--json", *words],
                                  stdin=subprocess.DEVNULL, capture_output=True, check=False,
                                  **options).stdout

        @staticmethod
        def replay(socket, text, *words, check=0):
            path = tmp_path / "reply.json"
            path.write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
            done = subprocess.run([build / "client/zephctl", *(["-S", socket] if socket else []), *words,
                                   "replay", path], capture_output=True, check=False, text=True)
            assert done.returncode == check, done
            return done.stdout if check < 2 else done.stderr
    return Tools


def test_a_drawn_reply_is_the_same_beside_eight_streams(daemon, tools):
    said = [tools.ask(daemon, *words) for words in (
        ["-m", "40", "Tell me."], ["-m", "30", "-t", "0.9", "--top-k", "20", "--stop", "qqq", "A."],
        ["-m", "20", "--greedy", "-s", "Be.", "\udcff\x01 \u20ac"], ["--raw", "-m", "20", "--seed", "7", "x"],
        ["--choose", "a,b,c", "Which?"], ["--is", "Is it?"])]
    assert len(json.loads(said[0])["tokens"]) > 0
    with daemon.connect() as load:
        numbers = [load.send("complete", prompt=[9 + i] * (3 + 17 * i), seed=i, temperature=1, tag=i,
                             logit_bias=NO_END, stream=True) for i in range(8)]
        started = set()
        while len(started) < 8:
            note = load.receive()
            if note[:2] == [2, "token"]:
                started.add(note[2][0]["tag"])
        for text in said:
            assert tools.replay(daemon.socket, text) == "same\n"
        assert tools.replay(daemon.socket, b"\n".join(said), "--json") == (
            '{"same":true,"differs":[]}\n' * len(said))
        for i in range(8):
            load.send("cancel", tag=i)
        for number in numbers:
            load.wait(number)


def test_the_options_are_the_receipts_and_not_todays_defaults(build, models, daemon, tools):
    text = tools.ask(daemon, "-m", "30", "Tell me.")
    with Zephd(build, models / "1.gguf", config="defaults: { do_sample = false; };") as other:
        assert tools.replay(other.socket, text) == "same\n"


def test_another_model_is_named_before_the_bytes(build, models, daemon, tools):
    text = tools.ask(daemon, "-m", "30", "Tell me.")
    with Zephd(build, models / "2.gguf") as other:
        lines = tools.replay(other.socket, text, check=1).splitlines()
        told = json.loads(tools.replay(other.socket, text, "--json", check=1))
    assert lines[0] == "different" and lines[1].startswith('model: "')
    assert lines[1].count('"') == 4 and any(line.startswith("tokens: ") for line in lines[2:])
    assert told["same"] is False and told["differs"][0] == "model" and "tokens" in told["differs"]


@pytest.mark.parametrize("key,same", [("model", False), ("template", False), ("prompt", False), ("build", True),
                                      ("isa", True), ("backend", True), ("kv_type", True),
                                      ("activations", True)])
def test_what_a_receipt_says_is_held_against_it(daemon, tools, key, same):
    printed = json.loads(tools.ask(daemon, "-m", "5", "Tell me."))
    printed["receipt"][key] = "another"
    lines = tools.replay(daemon.socket, printed, check=0 if same else 1).splitlines()
    assert lines[0] == ("same" if same else "different")
    assert len(lines) == 2 and lines[1].startswith(f'{key}: "another" in the file, ')


def test_changed_bytes_are_found(daemon, tools):
    printed = json.loads(tools.ask(daemon, "-m", "20", "--seed", "1", "Tell me."))
    n = len(printed["tokens"])
    printed["tokens"][n - 2] ^= 1
    printed["text"] += "x"
    assert tools.replay(daemon.socket, printed, check=1) == (
        f"different\ntokens: {n} in the file, {n} here, the first {n - 2} the same\ntext: another one\n")
    chosen = json.loads(tools.ask(daemon, "--choose", "a,b", "Which?"))
    chosen["choices"][1]["logprob"] += 1e-9
    assert "choices: 2 in the file, 2 here, the first 1 the same" in tools.replay(
        daemon.socket, chosen, check=1)


def changed(printed, *path, to):
    at = printed = json.loads(json.dumps(printed))
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return printed


def test_what_cannot_be_replayed_is_a_usage_error(daemon, tools, tmp_path, build):
    printed = json.loads(tools.ask(daemon, "-m", "5", "Tell me."))
    for wrong, words in (
            (b"", "found nothing"), (b"{", "byte 1: wanted a key"), (b"{}", "wanted what zeph --json prints"),
            (b"[1, 2", "byte 5: wanted a comma or ]"), (b"[01]", "wanted a value"), (b"[1.]", "wanted a digit"),
            (b'"\\ud800x"', "other half"), (b'"a\nb"', "no control character"), (b'"a', "a text that ends"),
            (b"[" * 100, "less nesting"), (b"nul", "wanted a value"), (b"{1:2}", "wanted a key"),
            (changed(printed, "request", "method", to="status"), "wanted what zeph --json prints"),
            (changed(printed, "receipt", to=None), "wanted what zeph --json prints"),
            (changed(printed, "receipt", "seed", to=None), "no seed and sampling"),
            (changed(printed, "receipt", "sampling", "top_p", to=7), "top_p: found 7"),
            (changed(printed, "finish", to="cancelled"), "was cancelled"),
            (changed(printed, "request", "params", "session", to="s"), "history is not in the file"),
            (changed(printed, "request", "params", "nonsense", to=1), "unknown parameter")):
        assert words in tools.replay(None, wrong, check=2), wrong
    done = subprocess.run([build / "client/zephctl", "replay", tmp_path / "missing"], capture_output=True,
                          check=False)
    assert done.returncode == 2 and b"missing" in done.stderr


def test_standard_input_and_every_json_value(build):
    """What the request was goes out again, value by value."""
    params = {"messages": [{"role": "user", "content": "a\"\\/\b\f\n\r\té€😀\u0000"}], "logprobs": 0,
              "logit_bias": [[5, -1.5e-7], [6, 1e2]], "echo": False, "stop": [], "temperature": 0.1,
              "max_new_tokens": 3, "seed": -9007199254740991, "tag": "x", "stream": True, "top_k": None}
    reply = {"text": "é", "tokens": [1], "finish": "length", "logprobs": [{"logprob": -1.0}],
             "receipt": {"seed": 5, "sampling": {"temperature": 0.25}, "model": "m"}}

    def serve(peer, _):
        while (request := peer.receive()) is not None:
            known = {"model": {"hash": "m" if seen else None}}  # not yet, the first time
            seen.append(request)
            peer.send([1, request[1], None, known if request[2] == "status" else reply])

    for escaped in (False, True):
        seen = []
        text = json.dumps({"request": {"method": "chat", "params": params}, **reply}, ensure_ascii=escaped)
        with FakeDaemon(serve) as daemon:
            done = subprocess.run([build / "client/zephctl", "-S", daemon.path, "replay", "-"], text=True,
                                  input=text.replace("-1.0", "-1"), capture_output=True, check=False)
        assert done.returncode == 0 and done.stdout == "same\n", done
        assert [request[2] for request in seen] == ["status", "status", "chat"]
        sent = dict(seen[-1][3][0])
        sent.pop("tag")
        wanted = {k: v for k, v in params.items() if k not in ("tag", "stream", "top_k")}
        assert sent == {**wanted, "seed": 5, "temperature": 0.25}
