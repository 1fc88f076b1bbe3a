"""zeph --choose and --is: what they ask, print and exit with."""

import json
import math
import subprocess

import pytest

from fake_daemon import FakeDaemon
from test_zeph import zeph  # noqa: F401 (a fixture)
from zephd import Zephd

pytestmark = pytest.mark.daemon

WAYS = ["Yes", "yes", "YES", "No", "no", "NO"]


def scores(*logprobs, finish="stop", **changes):
    """A script: the choices have these logprobs."""
    def serve(peer, _):
        request = peer.receive()
        choices = [{"text": t, "logprob": x, "tokens": [i]} for i, (t, x) in enumerate(
            zip(request[3][0]["choices"], logprobs))]
        best = max(range(len(choices)), key=lambda i: choices[i]["logprob"] or -1e9)
        peer.send([1, request[1], None, {
            "choices": choices, "best": best, "end": 2, "finish": finish,
            "usage": {"prompt_tokens": 7, "cached_tokens": 2, "completion_tokens": 0},
            "timing": {"queue_ms": 0.5, "prefill_ms": 1.5, "first_token_ms": None, "total_ms": 4,
                       "tokens_per_s": 0}, "receipt": {"model": "ab"}, **changes}])
        peer.receive()
    return serve


def asked(daemon):
    (request,) = [m for m in daemon.seen() if m[0] == 0]
    assert request[2] == "score"
    return request[3][0]


@pytest.mark.parametrize("words,choices", [
    (["--choose", "bug,feature,question"], ["bug", "feature", "question"]),
    (["--choose", " bug , a new feature\t,q"], ["bug", "a new feature", "q"]),
    (["--choose", "yes, it is", "--choose", " no"], ["yes, it is", " no"]),
    (["--choose=a,a"], ["a", "a"]),
])
def test_choices_as_they_are_given(zeph, words, choices):
    with FakeDaemon(scores(*range(-9, -9 + len(choices)))) as daemon:
        done = zeph(daemon, *words, "hi", stdin=b"more\n")
        assert done.stdout.decode() == choices[-1] + "\n" and done.stderr == b""
        params = asked(daemon)
        assert params["choices"] == choices
        assert params["messages"] == [{"role": "user", "content": "hi\n\nmore"}]
        assert set(params) == {"messages", "choices", "tag", "stream"} and params["stream"] is True


def test_raw_and_system_and_timeout(zeph):
    with FakeDaemon(scores(-1, -2)) as daemon:
        assert zeph(daemon, "--raw", "--choose", "a,b", "--timeout", "9", "hi").stdout == b"a\n"
        assert asked(daemon)["prompt"] == "hi" and asked(daemon)["deadline_ms"] == 9000
    with FakeDaemon(scores(-1, -2)) as daemon:
        zeph(daemon, "-s", "be", "--choose", "a,b", "hi")
        assert asked(daemon)["messages"][0] == {"role": "system", "content": "be"}


@pytest.mark.parametrize("logprobs,code", [
    ((-1, -20, -20, -2, -20, -20), 0),
    ((-2, -20, -20, -1, -20, -20), 1),
    ((-2, -2, -2, -1.5, -20, -20), 0),   # three likely ways against one likelier
    ((-2, -2.5, -3, -2, -2.5, -3), 1),   # as likely is not yes
    ((-800, -801, -802, -900, -901, -902), 1),  # nothing is known
    ((0, -1, -2, -3.4e38, -3.4e38, -3.4e38), 0),
])
def test_is_answers_by_its_exit_status(zeph, logprobs, code):
    with FakeDaemon(scores(*logprobs)) as daemon:
        done = zeph(daemon, "--is", "hi", check=code)
        assert done.stdout == b"" and done.stderr == b""
        assert asked(daemon)["choices"] == WAYS
    with FakeDaemon(scores(*logprobs)) as daemon:
        told = json.loads(zeph(daemon, "--is", "--json", "hi", check=code).stdout)
        assert told["is"] is (code == 0)
        for key, three in (("yes", logprobs[:3]), ("no", logprobs[3:])):
            wanted = sum(math.exp(x) for x in three if x > -700)
            assert math.isclose(told[key], wanted, rel_tol=1e-12)
        assert [c["logprob"] for c in told["choices"]] == list(logprobs)
        assert told["request"]["method"] == "score"


def test_json_shows_the_scores(zeph):
    with FakeDaemon(scores(-1.25, -0.5)) as daemon:
        told = json.loads(zeph(daemon, "--choose", "a,b", "--json", "hi").stdout)
        assert told["best"] == 1 and told["choices"][0] == {"text": "a", "logprob": -1.25, "tokens": [0]}
        assert told["request"]["params"]["choices"] == ["a", "b"] and told["receipt"] == {"model": "ab"}


def test_stats_show_the_shares(zeph):
    with FakeDaemon(scores(math.log(0.03), math.log(0.01))) as daemon:
        done = zeph(daemon, "--choose", "a,b", "--stats", "hi")
        assert done.stdout == b"a\n"
        assert done.stderr.decode().splitlines()[:2] == ["zeph:  75.0% a", "zeph:  25.0% b"]
        assert b"7 prompt tokens (2 cached)" in done.stderr
    with FakeDaemon(scores(math.log(0.03), -900, -900, math.log(0.01), -900, -900)) as daemon:
        assert zeph(daemon, "--is", "--stats", "hi").stderr.startswith(b"zeph: yes 75.0%, no 25.0%\n")


def test_map_chooses_for_each_line(zeph):
    def serve(peer, _):
        while (request := peer.receive()) is not None:
            if request[2] != "score":
                continue
            text = request[3][0]["messages"][0]["content"]
            peer.send([1, request[1], None, {"choices": [{}, {}], "best": int("b" in text)}])
    with FakeDaemon(serve) as daemon:
        done = zeph(daemon, "--map", "is {}?", "--choose", "x,y", stdin=b"a\nb\na\n")
        assert done.stdout == b"x\ny\nx\n"


@pytest.mark.parametrize("words", [
    ["--choose", "a"], ["--choose", ""], ["--choose", "a,,b"], ["--choose", "a,b,"],
    ["--choose", "a", "--choose", ""], ["--choose", "x" * 70000, "--choose", "y"],
    ["--choose", ",".join("x" * 1025)], ["--choose", "a,b", "--is"], ["--choose", "a,b", "-x"],
    ["--choose", "a,b", "-t", "1"], ["--choose", "a,b", "--greedy"], ["--is", "-m", "3"],
    ["--is", "--stop", "x"], ["--is", "-c"], ["--choose", "a,b", "-n", "x"], ["--is", "-x"], ["--choose"]])
def test_impossible_combinations_are_usage_errors(zeph, words):
    done = zeph(None, *words, *(["hi"] if words != ["--choose"] else []), check=2)
    assert done.stderr.startswith((b"zeph: --choose: ", b"zeph: --is: ")) and done.stdout == b""


def test_is_beside_map_is_a_usage_error(zeph):
    assert zeph(None, "--is", "--map", "{}", check=2).stderr.startswith(b"zeph: --is: found beside --map")


@pytest.mark.parametrize("changes,code", [
    ({"finish": "cancelled"}, 6), ({"best": None}, 5), ({"best": 2}, 5), ({"choices": [{}]}, 5),
    ({"choices": 3}, 5)])
def test_results_that_are_no_answer(zeph, changes, code):
    with FakeDaemon(scores(-1, -2, **changes)) as daemon:
        assert zeph(daemon, "--choose", "a,b", "hi", check=code).stdout == b""


def test_errors_have_their_exit_codes(zeph):
    def serve(peer, _):
        request = peer.receive()
        peer.send([1, request[1], "E_METHOD: there is no method \"score\"", None])
        peer.receive()
    with FakeDaemon(serve) as daemon:
        assert zeph(daemon, "--is", "hi", check=4).stderr == b"zeph: E_METHOD: there is no method \"score\"\n"


def test_against_a_daemon(zeph, build, model):
    with Zephd(build, model) as d:
        def run(*words, **options):
            return subprocess.run([build / "client/zeph", "-S", d.socket, *words], text=True,
                                  capture_output=True, check=False, **options)
        assert run("--choose", "London,Paris,Rome", "What is the capital of France?",
                   stdin=subprocess.DEVNULL).stdout == "Paris\n"
        done = run("--is", "--json", "Is fire hot?", stdin=subprocess.DEVNULL)
        assert done.returncode == (0 if json.loads(done.stdout)["is"] else 1)
        assert run("--choose", "French,German", input="Bonjour, comment allez-vous?").returncode == 0
