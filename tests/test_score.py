"""Method score: which tokens a choice has, what they are worth, and that nothing else moves it."""

import json
import math
import subprocess
import time

import pytest

from conftest import REPOSITORY
from zephd import Refused, Zephd

pytestmark = pytest.mark.daemon

TOLERANCE = 3e-4  # of the deviation of each position's logits, as of every logprob
GOLDEN = REPOSITORY / "tests/golden/score-smollm2.json"
CHAT = {"messages": [{"role": "user", "content": "Is the sky blue, yes or no."}]}
NO_END = [[2, -1e6]]  # the tiny models' end token is never drawn


@pytest.fixture(scope="module", params=[("tiny", ""), ("mistral-tiny", ""),
                                        ("mistral-tiny", "mistral-instruct"), ("mistral-tiny", "llama-2")],
                ids=lambda param: "-".join(filter(None, param)))
def daemon(build, tmp_path_factory, request):
    """Two kinds of tokenizer, and templates that write a space before a reply or behind it."""
    shape, template = request.param
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", shape, "--type", "f32", "--seed",
                    "1", path], check=True)
    with Zephd(build, path, config=f'model: {{ template = "{template}"; }};' if template else "") as d:
        yield d
        assert d.stop() == 0, d.log()


@pytest.fixture
def client(daemon):
    with daemon.connect() as c:
        yield c


def refused(client, **params):
    with pytest.raises(Refused) as e:
        client.call("score", **params)
    return str(e.value)


def worth(client, prompt, tokens):
    """The sum of the logprobs of tokens behind prompt, as echo tells them."""
    told = client.call("complete", prompt=prompt + tokens, max_new_tokens=0, logprobs=0, echo=True)
    return sum(entry["logprob"] for entry in told["logprobs"][len(prompt):])


def test_a_chats_choices_are_what_the_template_writes(client):
    choices = ["Yes", "no", "  two words", "über 12", "Yes"]
    r = client.call("score", **CHAT, choices=choices)
    prompt = client.call("template", **CHAT)["tokens"]
    assert [c["text"] for c in r["choices"]] == choices
    for c in r["choices"]:
        reply = {"role": "assistant", "content": c["text"]}
        whole = client.call("template", messages=CHAT["messages"] + [reply])
        n = len(prompt) + len(c["tokens"])
        assert c["logprob"] == worth(client, prompt, c["tokens"] + [r["end"]])
        if c["text"] in whole["prompt"]:  # llama-2 strips
            assert whole["tokens"][:n] == prompt + c["tokens"]
            assert r["end"] in whole["tokens"][n:n + 2]  # llama-2 writes a space before it
    assert r["best"] == [c["logprob"] for c in r["choices"]].index(
        max(c["logprob"] for c in r["choices"]))
    assert r["choices"][0]["logprob"] == r["choices"][4]["logprob"]
    assert r["finish"] == "stop"
    assert r["usage"] == {"prompt_tokens": len(prompt), "cached_tokens": 0, "completion_tokens": 0}
    assert r["timing"]["total_ms"] > 0
    assert {"model", "prompt", "template", "backend", "kv_type", "build"} <= set(r["receipt"])


def test_a_prompts_choices_are_tokens_behind_it_and_no_end(client):
    for prompt in ("Once upon a time", [5, 6, 7, 8, 9, 10]):
        r = client.call("score", prompt=prompt, choices=[" there was", "x"])
        ids = prompt if isinstance(prompt, list) else client.call(
            "complete", prompt=prompt, max_new_tokens=0, logprobs=0, echo=True)
        if not isinstance(ids, list):
            ids = [entry["token"] for entry in ids["logprobs"]]
        assert r["end"] is None
        for c in r["choices"]:
            assert client.call("detokenize", tokens=ids + c["tokens"])["text"].endswith(c["text"])
            assert c["logprob"] == worth(client, ids, c["tokens"])


def test_the_first_of_equals_is_best_and_bad_bytes_are_repaired(client):
    r = client.call("score", prompt=[5, 6], choices=[b"a\xff", "a\ufffd", "a\ufffd"])
    assert [c["text"] for c in r["choices"]] == ["a\ufffd"] * 3
    assert len({c["logprob"] for c in r["choices"]}) == 1 and r["best"] == 0


def test_control_tokens_in_a_choice_are_text(client):
    r = client.call("score", **CHAT, choices=["</s>", "<|im_end|>"])
    assert all(r["end"] not in c["tokens"] and len(c["tokens"]) > 1 for c in r["choices"])


def test_an_empty_choice_is_a_turn_that_ends_at_once(client):
    r = client.call("score", **CHAT, choices=[""])
    tokens = r["choices"][0]["tokens"]
    assert len(tokens) <= 1 and not client.call("detokenize", tokens=tokens)["text"].strip()
    assert r["choices"][0]["logprob"] == worth(
        client, client.call("template", **CHAT)["tokens"], tokens + [r["end"]])


@pytest.mark.parametrize("params,error", [
    ({"choices": ["a"]}, "E_PARAMS: messages or prompt: found neither, score needs one of them"),
    ({**CHAT, "prompt": "x", "choices": ["a"]}, "E_PARAMS: messages or prompt: found both, score "
     "needs one of them"),
    (CHAT, "E_PARAMS: choices: not found, score needs it"),
    ({**CHAT, "choices": []}, "E_PARAMS: choices: found an empty list, wanted a list of 1 to 1024 texts"),
    ({**CHAT, "choices": ["a"] * 1025}, "E_PARAMS: choices: found a list of 1025, wanted a list of 1 "
     "to 1024 texts"),
    ({**CHAT, "choices": "a"}, "E_PARAMS: choices: found \"a\", wanted a list of 1 to 1024 texts"),
    ({**CHAT, "choices": ["a", 5]}, "E_PARAMS: choices[1]: found 5, wanted text of 0 to 65536 bytes"),
    ({"prompt": "x", "choices": ["a", ""]}, "E_PARAMS: choices[1]: found no token at all, wanted at "
     "least one"),
    ({**CHAT, "choices": ["a"], "temperature": 1}, "E_PARAMS: temperature: found in score, wanted "
     "only in chat, complete"),
    ({"prompt": [], "choices": ["a"]}, "E_PARAMS: prompt: found an empty list, wanted text or a list "
     "of one or more token ids"),
    ({"prompt": [1 << 20], "choices": ["a"]}, "E_PARAMS: prompt[0]: found 1048576, wanted a token id"),
])
def test_a_refusal_names_the_key(client, params, error):
    assert refused(client, **params).startswith(error)


def test_the_context_is_the_bound(client):
    context = client.call("hello")["limits"]["context_tokens"]
    n = len(client.call("score", prompt=[5], choices=["a" * 50])["choices"][0]["tokens"])
    assert client.call("score", prompt=[5] * (context - n), choices=["a" * 50])["best"] == 0
    for over in (n - 1, 0):
        said = refused(client, prompt=[5] * (context - over), choices=["b", "a" * 50])
        assert said.startswith("E_TOO_LARGE: the prompt has")


def test_the_results_bytes_are_bounded(build, tmp_path):
    model = tmp_path / "tiny.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--type", "f32", model], check=True)
    with Zephd(build, model, config="limits: { reply_bytes = 8192; };") as d, d.connect() as c:
        assert c.call("score", prompt=[5], choices=["a"] * 10)["best"] == 0
        assert refused(c, prompt=[5], choices=["a"] * 100).startswith(
            "E_TOO_LARGE: the result could exceed 8192 bytes")


def test_hello_names_the_feature(client):
    assert "score" in client.call("hello")["features"]


def test_cancel_gives_what_there_is_and_a_deadline_is_an_error(daemon, client):
    context = client.call("hello")["limits"]["context_tokens"]
    long = {"prompt": [(7 * i) % 400 + 5 for i in range(context - 60)],
            "choices": [f"choice number {i}" for i in range(1000)]}
    number = client.send("score", **long, tag="t", stream=True)
    with daemon.connect() as other:
        end = time.monotonic() + 20
        while other.call("cancel", tag="t")["cancelled"] == 0:
            assert time.monotonic() < end
    r = client.wait(number)
    assert r["finish"] == "cancelled" and r["best"] is None
    assert all(c["logprob"] is None or c["logprob"] < 0 for c in r["choices"])
    assert all(note[0] == "progress" and note[1][0]["tag"] == "t" for note in client.notifications)
    assert refused(client, **long, deadline_ms=1).startswith("E_TIMEOUT: deadline_ms passed")
    end = time.monotonic() + 20
    while client.call("status")["kv"]["used"] > 0:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_scores_are_the_same_bits_beside_eight_streams(daemon, client):
    request = {"prompt": [(11 * i) % 400 + 5 for i in range(70)], "priority": "interactive",
               "choices": [f"the {i}th" + " word" * (i % 9) for i in range(40)]}
    alone = [c["logprob"] for c in client.call("score", **request)["choices"]]
    with daemon.connect() as load:
        streams = [load.send("complete", prompt=[9 + i] * (3 + 17 * i), seed=i, temperature=1,
                             logit_bias=NO_END, stream=True, tag=i) for i in range(8)]
        started = set()
        while len(started) < 8:
            note = load.receive()
            if note[:2] == [2, "token"]:
                started.add(note[2][0]["tag"])
        client.call("cache.drop")
        beside = client.call("score", **request)
        again = client.call("score", **request)
        for i in range(8):
            load.send("cancel", tag=i)
        for number in streams:
            load.wait(number)
    assert [c["logprob"] for c in beside["choices"]] == alone
    assert [c["logprob"] for c in again["choices"]] == alone
    assert beside["usage"]["cached_tokens"] == 0 and again["usage"]["cached_tokens"] == 64


def compare(client, case):
    found = client.call("score", **case["request"])
    assert [c["tokens"] for c in found["choices"]] == [c["tokens"] for c in case["choices"]]
    for mine, theirs in zip(found["choices"], case["choices"]):
        assert math.isclose(mine["logprob"], theirs["logprob"], rel_tol=0,
                            abs_tol=TOLERANCE * theirs["deviation"]), mine
    assert found["best"] == max(range(len(found["choices"])),
                                key=lambda i: case["choices"][i]["logprob"])


def test_the_reference_backend_gives_the_scores_of_transformers(build, model):
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(cases) >= 5 and {"messages", "prompt"} == {k for c in cases for k in c["request"]} - {"choices"}
    with Zephd(build, model, "--device", "reference") as d, d.connect() as c:
        for case in cases:
            compare(c, case)


@pytest.mark.reference
def test_scores_are_those_of_transformers_live(build, model, seed):
    import random
    import sys
    sys.path.insert(0, str(REPOSITORY / "tests/golden"))
    import make_score

    draw = random.Random(seed)
    words = (REPOSITORY / "tests/golden/essay.txt").read_text(encoding="utf-8").split()

    def some(most):
        at = draw.randrange(len(words) - most)
        return " ".join(words[at:at + draw.randrange(1, most + 1)])

    requests = [{"messages": make_score.user(some(40)), "choices": [some(5) for _ in range(4)]},
                {"prompt": some(40), "choices": [" " + some(5) for _ in range(4)]}]
    text, oracle = make_score.Text(model), make_score.Oracle(model)
    with Zephd(build, model, "--device", "reference") as d, d.connect() as c:
        for request in requests:
            compare(c, {"request": request, "choices": make_score.score(text, oracle, request)})
