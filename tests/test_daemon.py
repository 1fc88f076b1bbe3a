"""Every method of zephd over its socket, with a client made of a socket and msgpack.

The model is a tiny random one: what it says is noise, which is all that the protocol's rules need.
What a real model says is test_golden.py's matter."""

import collections
import os
import re
import threading
import time

import msgpack
import pytest

from zephd import Refused, Zephd

pytestmark = pytest.mark.daemon

NO_END = [[2, -1e6]]  # the tiny model's end token is never drawn: replies run to their limit
LONG = dict(prompt=[5, 6, 7], logit_bias=NO_END, seed=1, temperature=1)
RESULT = {"text", "tokens", "finish", "usage", "timing", "receipt"}


@pytest.fixture
def client(daemon):
    with daemon.connect() as c:
        yield c


def refused(client, method, **params):
    with pytest.raises(Refused) as e:
        client.call(method, **params)
    return str(e.value)


def ended_charges(client):
    """The caller's row of status once nothing of it is in flight."""
    end = time.monotonic() + 20
    while True:
        status = client.call("status")
        if not status["requests"]["mine"] or time.monotonic() > end:
            return status, next(u for u in status["users"] if u["uid"] == os.getuid())
        time.sleep(0.02)


def test_hello_tells_who_serves_and_the_limits(client):
    hello = client.call("hello", client="a test")
    assert hello["server"] == "zephd" and hello["protocol"] == 1
    assert hello["uid"] == os.getuid() and hello["class"] == "manage"
    assert isinstance(hello["features"], list)
    assert hello["limits"]["in_flight"] == 64 and hello["limits"]["items"] == 65536
    assert hello["limits"]["frame_bytes"] == 2 << 20 and hello["limits"]["depth"] == 32
    assert set(hello["limits"]) == {"frame_bytes", "items", "depth", "reply_bytes",
                                    "context_tokens", "max_new_tokens", "in_flight", "connections",
                                    "queue", "queued_tokens", "sessions"}


def test_status_has_what_the_protocol_names(client):
    client.call("tokenize", text="the model is there")
    status = client.call("status")
    assert status["state"] == "ready" and status["pid"] > 0 and status["uptime_s"] > 0
    assert {"name", "hash", "architecture", "type", "parameters", "bytes",
            "context"} <= set(status["model"])
    assert {"kind", "name", "memory_bytes", "used_bytes", "layers",
            "layers_on_device"} <= set(status["device"])
    assert {"running", "queued", "done", "failed", "cancelled", "mine"} <= set(status["requests"])
    assert {"page_tokens", "pages", "used", "cached"} <= set(status["kv"])
    assert {"uid", "running", "queued", "prompt_tokens", "completion_tokens",
            "device_s"} <= set(status["users"][0])
    assert status["model"]["context"] == 2048 and status["model"]["type"] == "f32"


def test_tokenize_detokenize_round_trip(client):
    for text in ("", "a", "Hello wörld", "naïve 漢字 🙂\n\n  x", "tab\tnul\0end"):
        tokens = client.call("tokenize", text=text)["tokens"]
        assert client.call("detokenize", tokens=tokens)["text"] == text


def test_tokenize_repairs_text_that_is_not_utf8(client):
    assert client.call("tokenize", text=b"a\xffb\xc3") == client.call("tokenize", text="a�b�")


def test_control_tokens_come_from_special_alone(client):
    bos = client.call("tokenize", text="", bos=True)["tokens"]
    assert len(bos) == 1
    name = "<|im_start|>"
    assert client.call("tokenize", text=name, special=True)["tokens"] == bos
    assert bos[0] not in client.call("tokenize", text=name)["tokens"]
    forged, honest = (client.call("template", messages=[{"role": "user", "content": content}])
                      for content in (name, "harmless"))
    assert forged["tokens"].count(bos[0]) == honest["tokens"].count(bos[0]) == 2


def test_template_gives_the_prompt_that_chat_runs(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    made = client.call("template", messages=messages)
    assert "Be brief." in made["prompt"] and "Hi." in made["prompt"]
    result = client.call("chat", messages=messages, max_new_tokens=1)
    assert result["usage"]["prompt_tokens"] == len(made["tokens"])


def test_complete_result_has_what_the_protocol_names(client):
    result = client.call("complete", prompt="hello", max_new_tokens=5, seed=3, logit_bias=NO_END)
    assert set(result) == RESULT
    assert result["finish"] == "length" and len(result["tokens"]) == 5
    assert result["usage"] == {"prompt_tokens": len(client.call("tokenize", text="hello")["tokens"]),
                               "cached_tokens": 0, "completion_tokens": 5}
    assert set(result["timing"]) == {"queue_ms", "prefill_ms", "first_token_ms", "total_ms",
                                     "tokens_per_s"}
    assert {"model", "prompt", "template", "seed", "sampling", "backend", "isa",
            "build"} <= set(result["receipt"])
    assert result["receipt"]["seed"] == 3


def test_what_does_not_stream_gets_its_response_alone(client):
    client.call("complete", max_new_tokens=20, **LONG)
    assert client.notifications == []


@pytest.mark.parametrize("method, params", [
    ("complete", LONG),
    ("chat", dict(messages=[{"role": "user", "content": "Hi."}], seed=2, temperature=1)),
])
def test_a_stream_adds_up_to_its_result(client, method, params):
    result = client.call(method, stream=True, tag="t", logprobs=2, max_new_tokens=100, **params)
    tokens = [p for name, (p,) in client.notifications if name == "token"]
    assert all(p["tag"] == "t" for _, (p,) in client.notifications)
    assert "".join(p["text"] for p in tokens) == result["text"]
    assert sum((p["tokens"] for p in tokens), []) == result["tokens"]
    assert sum((p["logprobs"] for p in tokens if "logprobs" in p), []) == result["logprobs"]
    index = 0
    for p in tokens:
        assert p["index"] == index
        index += len(p["tokens"])
    assert any(name == "progress" and p["phase"] == "prefill" and p["done"] == p["total"]
               for name, (p,) in client.notifications)


def test_the_same_seed_gives_the_same_bytes(client):
    first = client.call("complete", max_new_tokens=60, **LONG)
    receipt = first["receipt"]
    again = client.call("complete", prompt=LONG["prompt"], logit_bias=NO_END, seed=receipt["seed"],
                        **receipt["sampling"])
    assert again["tokens"] == first["tokens"] and again["text"] == first["text"]
    drawn = client.call("complete", prompt=[5, 6, 7], max_new_tokens=1)["receipt"]["seed"]
    assert 0 <= drawn < 2**53
    other = client.call("complete", **{**LONG, "seed": 2}, max_new_tokens=60)
    assert other["tokens"] != first["tokens"]


def test_logprobs_are_of_the_model_itself(client):
    plain = client.call("complete", prompt=[5, 6, 7], max_new_tokens=4, temperature=0, logprobs=3)
    hot = client.call("complete", prompt=[5, 6, 7], max_new_tokens=4, temperature=0, logprobs=3,
                      logit_bias=[[plain["tokens"][0], 50]])
    assert len(plain["logprobs"]) == len(plain["tokens"])
    for entry, token in zip(plain["logprobs"], plain["tokens"]):
        assert entry["token"] == token and set(entry) == {"token", "text", "logprob", "top"}
        values = [t["logprob"] for t in entry["top"]]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        assert entry["top"][0]["logprob"] == entry["logprob"] < 0  # greedy takes the likeliest
    assert hot["logprobs"][0] == plain["logprobs"][0]  # a bias is no part of them


def test_echo_gives_the_prompts_logprobs_without_generating(client):
    prompt = client.call("tokenize", text="some text to be weighed", bos=True)["tokens"]
    result = client.call("complete", prompt=prompt, max_new_tokens=0, echo=True, logprobs=1)
    assert result["tokens"] == [] and result["text"] == "" and result["finish"] == "length"
    assert [e["token"] for e in result["logprobs"]] == prompt
    assert result["logprobs"][0]["logprob"] is None
    assert all(e["logprob"] < 0 and len(e["top"]) == 1 for e in result["logprobs"][1:])


def test_stop_text_ends_the_reply_and_is_left_out(client):
    full = client.call("complete", max_new_tokens=80, **LONG)
    # noise is full of broken characters: the stop text is of whole ones
    stop = next(m for m in re.findall("[ -~]{2,}", full["text"][10:]))
    result = client.call("complete", max_new_tokens=80, stop=["\0never", stop], **LONG)
    assert result["finish"] == "stop" and result["stop"] == stop
    assert result["text"] == full["text"][:full["text"].index(stop)]


def test_logit_bias_forces_and_the_last_word_counts(client):
    result = client.call("complete", prompt=[5], max_new_tokens=3, temperature=0,
                         logit_bias=[[9, -1e6], [9, 1e6]])
    assert result["tokens"] == [9, 9, 9]


def test_types_as_real_clients_send_them(client):
    result = client.call("complete", prompt=[5.0, 6], max_new_tokens=2.0, temperature=0,
                         top_k=None, stop=[], tag=7, stream=False)
    assert len(result["tokens"]) <= 2
    assert client.call("complete", prompt=b"bin for text", max_new_tokens=1)["finish"]
    client.socket.sendall(msgpack.packb([0, 900, "status", []]))
    assert client.wait(900)["state"] == "ready"
    client.socket.sendall(msgpack.packb([0, 901, "status", [[]]]))
    assert client.wait(901)["state"] == "ready"


@pytest.mark.parametrize("method, params, error, words", [
    ("nonsense", {}, "E_METHOD", ["nonsense"]),
    ("sing", {}, "E_METHOD", ["sing"]),
    ("chat", {}, "E_PARAMS", ["messages"]),
    ("complete", {"prompt": "x", "max_tokens": 3}, "E_PARAMS", ["max_tokens"]),
    ("complete", {"prompt": "x", "temperature": "hot"}, "E_PARAMS", ["temperature", "hot"]),
    ("complete", {"prompt": "x", "top_p": 1.5}, "E_PARAMS", ["top_p", "1.5"]),
    ("complete", {"prompt": "x", "seed": 2**53}, "E_PARAMS", ["seed"]),
    ("complete", {"prompt": [512]}, "E_PARAMS", ["prompt[0]", "512", "511"]),
    ("complete", {"prompt": [-1]}, "E_PARAMS", ["prompt"]),
    ("complete", {"prompt": [5], "logit_bias": [[512, 1]]}, "E_PARAMS", ["logit_bias", "512"]),
    ("detokenize", {"tokens": [512]}, "E_PARAMS", ["tokens[0]", "512"]),
    ("chat", {"messages": [{"role": "robot", "content": ""}]}, "E_PARAMS", ["role", "robot"]),
    ("complete", {"prompt": [5] * 2048}, "E_TOO_LARGE", ["2048"]),
    ("cancel", {}, "E_PARAMS", ["tag", "id"]),
])
def test_a_refusal_names_what_was_wrong(client, method, params, error, words):
    text = refused(client, method, **params)
    assert text.startswith(error + ": ")
    assert all(word in text for word in words), text
    assert client.call("status")["state"] == "ready"  # and the connection lives on


def test_the_context_is_the_bound(client):
    assert client.call("complete", prompt=[5] * 2047, max_new_tokens=9, logit_bias=NO_END)[
        "usage"]["completion_tokens"] == 1
    result = client.call("complete", **LONG)
    assert result["finish"] == "length" and result["usage"]["completion_tokens"] == 2048 - 3


def test_a_reply_that_would_be_too_large_is_refused_before_it_runs(build, tiny):
    with Zephd(build, tiny, config="limits: { reply_bytes = 65536; };") as d, d.connect() as c:
        text = refused(c, "complete", logprobs=100, max_new_tokens=2000, **LONG)
        assert text.startswith("E_TOO_LARGE: ") and "65536" in text
        result = c.call("complete", logprobs=100, **LONG)  # unsaid: as much as fits
        assert len(msgpack.packb(result)) <= 65536 and result["finish"] == "length"


def test_responses_come_in_any_order(client):
    long = client.send("complete", **LONG)
    short = client.send("tokenize", text="quick")
    assert client.wait(short)["tokens"]
    assert long not in client.responses
    assert client.wait(long)["finish"] == "length"


def test_cancel_by_id_gives_the_text_so_far(client):
    number = client.send("complete", stream=True, **LONG)
    while not any(name == "token" for name, _ in client.notifications):
        client.notifications.append(client.receive()[1:])
    assert client.call("cancel", id=number) == {"cancelled": 1}
    result = client.wait(number)
    assert result["finish"] == "cancelled"
    assert 0 < len(result["tokens"]) < 2045
    assert result["usage"]["completion_tokens"] >= len(result["tokens"])
    text = "".join(p["text"] for name, (p,) in client.notifications if name == "token")
    assert text == result["text"]


@pytest.mark.parametrize("tag", [17, "a text tag", -5])
def test_cancel_by_tag_from_a_second_connection(daemon, client, tag):
    number = client.send("complete", tag=tag, **LONG)
    with daemon.connect() as other:
        end = time.monotonic() + 10
        while other.call("cancel", tag=tag)["cancelled"] == 0 and time.monotonic() < end:
            pass
        assert client.wait(number)["finish"] == "cancelled"
        assert other.call("cancel", tag=tag) == {"cancelled": 0}
        assert other.call("cancel", id=number) == {"cancelled": 0}  # ids are a connection's own


def test_cancel_as_a_notification_acts_and_is_not_answered(client):
    number = client.send("complete", tag="n", **LONG)
    client.socket.sendall(msgpack.packb([2, "cancel", [{"tag": "n"}]]) +
                          msgpack.packb([2, "cancel", [{"bad": 1}]]) +
                          msgpack.packb([2, "nvim_error_event", [0, "Invalid method"]]))
    assert client.wait(number)["finish"] == "cancelled"
    assert client.call("status")["state"] == "ready"
    assert client.notifications == []


def test_cancel_ends_a_prefill(daemon, client):
    """Thirty prompts of the whole context that no other test sends: when the cancel comes, one is at
    work and most have not begun."""
    ids = [client.send("complete", prompt=[100 + i] * 2000, max_new_tokens=1, tag="p")
           for i in range(30)]
    number = client.send("cancel", tag="p")
    cancelled = client.wait(number)["cancelled"]
    results = [client.wait(i) for i in ids]
    assert cancelled >= 25  # a few may be done
    assert [r["finish"] for r in results].count("cancelled") == cancelled
    assert all(r["usage"]["completion_tokens"] == 0 for r in results
               if r["finish"] == "cancelled")


def test_deadline(client):
    text = refused(client, "complete", deadline_ms=50, **LONG)
    assert text.startswith("E_TIMEOUT: ") and "deadline" in text


def test_half_closed_client_gets_all_its_answers(daemon):
    with daemon.connect() as c:
        numbers = [c.send("complete", prompt=[5, n], max_new_tokens=30, stream=True)
                   for n in range(6, 10)]
        numbers.append(c.send("tokenize", text="and this"))
        c.socket.shutdown(1)
        assert all(c.wait(n) for n in numbers)
        with pytest.raises(EOFError):
            c.receive()


def test_a_closed_client_is_cancelled(daemon, client):
    with daemon.connect() as c:
        c.send("complete", stream=True, **LONG)
        c.receive()
    before = time.monotonic()
    status, mine = ended_charges(client)
    assert time.monotonic() - before < 1.0  # it would have run for longer
    assert status["requests"]["mine"] == [] and status["kv"]["used"] == 0
    assert mine["running"] == mine["queued"] == 0


def test_the_65th_request_in_flight_is_busy(client):
    numbers = [client.send("complete", prompt=[5, 6], max_new_tokens=200, logit_bias=NO_END)
               for _ in range(65)]
    with pytest.raises(Refused) as e:
        client.wait(numbers[-1])
    assert e.value.name == "E_BUSY" and "64" in str(e.value)
    assert client.call("status")["state"] == "ready"  # what answers at once is never in flight
    for n in numbers[:-1]:
        client.call("cancel", id=n)
    assert all(client.wait(n)["finish"] for n in numbers[:-1])


def test_a_full_queue_of_a_uid_is_busy(build, tiny):
    with Zephd(build, tiny, config="limits: { queue_per_uid = 2; };") as d, d.connect() as c:
        numbers = [c.send("complete", **LONG) for _ in range(3)]
        with pytest.raises(Refused) as e:
            c.wait(numbers[2])
        assert str(e.value) == f"E_BUSY: the queue for uid {os.getuid()} is full (2 of 2)"
        assert c.wait(numbers[0])["finish"] == c.wait(numbers[1])["finish"] == "length"


def test_prompts_beyond_a_uid_s_queue_of_tokens_are_busy(build, tiny):
    config = "limits: { prompt_tokens_per_uid = 100; };"
    with Zephd(build, tiny, config=config) as d, d.connect() as c:
        long = {**LONG, "prompt": [7] * 90}
        first, second = c.send("complete", **long), c.send("complete", **long)
        with pytest.raises(Refused) as e:
            c.wait(second)
        assert str(e.value) == (f"E_BUSY: the queue for uid {os.getuid()} is full (90 prompt "
                                "tokens, and this one's 90 would exceed 100)")
        assert c.wait(first)["finish"] == "length"
        # one request is always taken
        assert c.call("complete", prompt=[7] * 200, max_new_tokens=1)["finish"] == "length"
        user, = c.call("status")["users"]
        assert user["queued_tokens"] == 0 and user["cached_tokens"] >= 80
        assert user["device_s"] > 0


def test_the_journal_gets_a_line_for_each_request(build, tiny, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    with Zephd(build, tiny) as d, d.connect() as c:
        c.call("complete", prompt=[31] * 20, max_new_tokens=3, logit_bias=[[2, -100]])
        line, = (x for x in d.log().splitlines() if "request 1 " in x)
    assert re.fullmatch(
        rf"<6>request 1 of uid {os.getuid()}: complete, length, 20 prompt tokens \(0 cached\), "
        r"3 new, \d+\.\d{3} s of the device, \d+\.\d{3} s in all", line), line


def test_who_waits_is_told_the_place(build, tiny):
    with Zephd(build, tiny, config="engine: { max_sequences = 1; };") as d, d.connect() as c:
        first = c.send("complete", tag="first", **LONG)
        second = c.send("complete", stream=True, tag="second", max_new_tokens=3, **LONG)
        third = c.send("complete", stream=True, tag="third", max_new_tokens=3, **LONG)
        c.wait(third)
        places = collections.defaultdict(list)
        for name, (p,) in c.notifications:
            if name == "progress" and p["phase"] == "queued":
                places[p["tag"]].append(p["position"])
        assert places["second"] == [0] and places["third"] == [1, 0]
        assert c.wait(first)["finish"] == c.wait(second)["finish"] == "length"


def test_requests_sent_while_the_model_loads_wait_for_it(build, model):
    with Zephd(build, model) as d, d.connect() as c:
        number = c.send("chat", messages=[{"role": "user", "content": "Hi."}], max_new_tokens=2,
                        stream=True)
        assert c.call("status")["state"] in ("loading", "ready")
        assert c.wait(number)["usage"]["completion_tokens"] <= 2
        phases = [p["phase"] for name, (p,) in c.notifications if name == "progress"]
        assert phases[0] == "loading" and phases[-1] == "prefill"


def test_status_shows_running_requests_with_their_tags(daemon, client):
    number = client.send("complete", tag="seen", stream=True, **LONG)
    client.receive()
    with daemon.connect() as other:
        mine = other.call("status")["requests"]["mine"]
    assert [r["tag"] for r in mine] == ["seen"] and mine[0]["method"] == "complete"
    assert mine[0]["phase"] in ("prefill", "generate") and mine[0]["age_ms"] >= 0
    client.call("cancel", id=number)
    client.wait(number)


def test_many_clients_at_once_get_their_own_answers(daemon):
    expected, seen, failures = {}, {}, []
    with daemon.connect() as c:
        for n in range(8):
            expected[n] = c.call("complete", prompt=[5, 20 + n], seed=n, max_new_tokens=40)["tokens"]

    def run(n):
        try:
            with daemon.connect() as c:
                seen[n] = c.call("complete", prompt=[5, 20 + n], seed=n, max_new_tokens=40)["tokens"]
        except Exception as e:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(e)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures and seen == expected  # whoever else is being served


def test_nothing_stays_charged(daemon, client):
    status, mine = ended_charges(client)
    assert status["requests"]["mine"] == [] and status["kv"]["used"] == 0
    # the buffers of this connection and of nothing else
    assert mine["connections"] == 1 and mine["charged_bytes"] <= 256 << 10
