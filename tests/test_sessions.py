"""Sessions over the socket, and the ids of replies: the next prompt of a conversation begins with the
ids of the last prompt and of its reply, whether the daemon keeps the conversation or the client sends
it again.

The model is a tiny random one whose replies are noise, bad UTF-8 included: text that no tokenizer
would cut as it was written."""

import hashlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

from zephd import Refused, Zephd, as_uid

pytestmark = pytest.mark.daemon

NO_END = [[2, -1e6]]  # the tiny model's end token is never drawn: replies run to their limit
NOISE = dict(logit_bias=NO_END, temperature=1)


def make_model(build, path, seed, shape="tiny"):
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", shape, "--type", "f32", "--seed",
                    str(seed), path], check=True)
    return path


@pytest.fixture
def client(daemon):
    """Its sessions are gone before the next test."""
    with daemon.connect() as c:
        for row in c.call("session.list"):
            c.call("session.drop", name=row["name"])
        yield c


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def hashed(ids):
    """As the receipt's prompt."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


def chat(client, text, session=None, tokens=20, seed=1, **more):
    named = {} if session is None else {"session": session}
    return client.call("chat", messages=[user(text)], max_new_tokens=tokens, seed=seed,
                       **NOISE, **named, **more)


def refused(client, method, **params):
    with pytest.raises(Refused) as e:
        client.call(method, **params)
    return str(e.value)


def history(client, name):
    return client.call("session.get", name=name)["messages"]


def stored(daemon, uid=None):
    """The folder of the sessions' files."""
    return daemon.directory / "state/zeph/sessions" / str(os.getuid() if uid is None else uid)


def restart(build, model, before):
    """Another daemon with the state of one that has stopped."""
    after = Zephd(build, model, environment={"XDG_STATE_HOME": str(before.directory / "state")})
    return after


# ---- ids ----

def test_a_prompt_begins_with_the_last_prompt_and_its_reply(client):
    messages, expected = [], []
    for turn in range(4):
        messages.append(user(f"Question {turn}?"))
        made = client.call("template", messages=messages)
        assert made["tokens"][:len(expected)] == expected
        kept = chat(client, f"Question {turn}?", session="s", seed=turn, tokens=40)
        again = client.call("chat", messages=messages, max_new_tokens=40, seed=turn, **NOISE)
        assert kept["receipt"]["prompt"] == again["receipt"]["prompt"] == hashed(made["tokens"])
        assert kept["tokens"] == again["tokens"] and kept["saved"] is True
        assert "saved" not in again
        # the same ids, not merely the same text
        retold = client.call("tokenize", text=kept["text"])["tokens"]
        assert retold != kept["tokens"]
        messages.append(assistant(kept["text"]))
        expected = made["tokens"] + kept["tokens"]
    assert history(client, "s") == messages


@pytest.mark.parametrize("shape,template", [
    ("mistral-tiny", "zephyr"), ("mistral-tiny", "chatml"), ("mistral-tiny", "llama-3"),
    ("tiny", "zephyr")])
def test_the_same_with_other_tokenizers_and_templates(build, tmp_path, shape, template):
    """mistral-tiny's tokenizer is SentencePiece's kind, with its spaces in front."""
    model = make_model(build, tmp_path / "model.gguf", 1, shape)
    with Zephd(build, model, config=f'model: {{ template = "{template}"; }};') as d, \
            d.connect() as c:
        messages, expected = [], []
        for turn in range(3):
            messages.append(user(f"Q{turn}"))
            made = c.call("template", messages=messages)["tokens"]
            assert made[:len(expected)] == expected
            reply = chat(c, f"Q{turn}", session="s", seed=turn, tokens=30)
            assert reply["receipt"]["prompt"] == hashed(made)
            # llama-3's template trims what it is given
            assert reply["text"].strip() == reply["text"] or template != "llama-3"
            messages.append(assistant(reply["text"]))
            expected = made + reply["tokens"]


@pytest.mark.parametrize("template", ["mistral-instruct", "llama-2"])
def test_a_space_that_the_template_writes_may_be_the_replys_own(build, tmp_path, template):
    """These write ' ' and the reply, whose first token has that space already: of a client that
    resends the reply without it, or where the template trims it away."""
    model = make_model(build, tmp_path / "model.gguf", 1, "mistral-tiny")
    with Zephd(build, model, config=f'model: {{ template = "{template}"; }};') as d, \
            d.connect() as c:
        first = c.call("template", messages=[user("a")])["tokens"]
        reply = next(r for r in (chat(c, "a", seed=seed, tokens=12) for seed in range(300))
                     if r["text"][0] == " " and r["text"][1:].strip() == r["text"][1:])
        resent = assistant(reply["text"][1:] if template == "mistral-instruct" else reply["text"])
        made = c.call("template", messages=[user("a"), resent, user("b")])
        assert made["tokens"][:len(first) + 12] == first + reply["tokens"]
        # all the text is there, once
        back = c.call("detokenize", tokens=made["tokens"])["text"]
        assert back.count(reply["text"][1:]) == 1 and back.rstrip().endswith("[/INST]")
        # one that does not begin with a space does not get it
        other = next(r for r in (chat(c, "a", seed=seed, tokens=12) for seed in range(300))
                     if r["text"][0] != " " and r["text"].strip() == r["text"])
        made = c.call("template", messages=[user("a"), assistant(other["text"]), user("b")])
        assert made["tokens"][:len(first) + 12] != first + other["tokens"]


def test_what_follows_a_reply_is_the_templates_text(client):
    first = client.call("template", messages=[user("a")])["tokens"]
    reply = chat(client, "a", tokens=30)
    second = client.call("template", messages=[user("a"), assistant(reply["text"]), user("b")])
    rest = second["tokens"][len(first) + len(reply["tokens"]):]
    honest = client.call("template", messages=[user("a"), assistant("x"), user("b")])["prompt"]
    tail = honest[honest.rindex("x<") + 1:]
    assert second["prompt"].endswith(reply["text"] + tail)
    assert rest == client.call("tokenize", text=tail, special=True)["tokens"]


def test_a_changed_reply_or_beginning_is_read_as_text(client):
    reply = chat(client, "a", tokens=30)
    for messages in ([user("a"), assistant(reply["text"] + "."), user("b")],
                     [user("A"), assistant(reply["text"]), user("b")],
                     [user("a"), user(reply["text"]), user("b")]):
        made = client.call("template", messages=messages)
        plain = client.call("tokenize", text=made["prompt"], special=True)["tokens"]
        assert made["tokens"] == plain


@pytest.mark.parametrize("how", ["length", "stop", "cancelled"])
def test_replies_that_end_early_keep_their_ids(client, daemon, how):
    if how == "cancelled":
        number = client.send("chat", messages=[user("a")], session="s", stream=True, tag="x",
                             **NOISE, seed=3)
        while client.receive()[1] != "token":
            pass
        with daemon.connect() as other:
            assert other.call("cancel", tag="x")["cancelled"] == 1
        reply = client.wait(number)
    elif how == "stop":
        whole = chat(client, "a", tokens=60, seed=5, logprobs=0)
        pieces = [p["text"] for p in whole["logprobs"]]
        cut = next(p for i, p in enumerate(pieces) if i > 8 and p.isascii() and p.isprintable() and
                   len(p) > 1 and whole["text"].index(p) == len("".join(pieces[:i])))
        reply = chat(client, "a", session="s", tokens=60, seed=5, stop=[cut])
        assert reply["stop"] == cut
    else:
        reply = chat(client, "a", session="s", tokens=25, seed=3)
    assert reply["finish"] == how and reply["saved"] is True and reply["text"]
    assert history(client, "s") == [user("a"), assistant(reply["text"])]
    first = client.call("template", messages=[user("a")])["tokens"]
    made = client.call("template", messages=history(client, "s") + [user("b")])
    kept = next((i for i, (x, y) in enumerate(zip(reply["tokens"], made["tokens"][len(first):]))
                 if x != y), len(reply["tokens"]))
    if how == "stop":  # the ids of the stop text are no part of the text
        assert client.call("detokenize", tokens=reply["tokens"][:kept])["text"] == reply["text"]
    assert kept == len(reply["tokens"]) - (how == "stop")
    follow = chat(client, "b", session="s", tokens=1)
    assert follow["receipt"]["prompt"] == hashed(made["tokens"])


def test_names_of_control_tokens_in_messages_stay_text(client):
    """… also where somebody writes a message that looks like a conversation that took place."""
    reply = chat(client, "a", tokens=30)
    prompt = client.call("template", messages=[user("a"), assistant(reply["text"])])["prompt"]
    inner = prompt[prompt.index("a<"):prompt.index(reply["text"])]  # a, end of turn, assistant's
    forged = client.call("template", messages=[user(inner + reply["text"])])
    control = client.call("tokenize", text="<|im_start|>", special=True)["tokens"][0]
    honest = client.call("template", messages=[user("a")])["tokens"].count(control)
    assert forged["tokens"].count(control) == honest


def test_another_uids_replies_are_not_used(client, daemon):
    if os.getuid() != 0:
        pytest.skip("needs root to be another user")
    first = client.call("template", messages=[user("a")])["tokens"]
    reply = chat(client, "a", tokens=30)
    messages = [user("a"), assistant(reply["text"]), user("b")]
    mine = client.call("template", messages=messages)["tokens"]
    assert mine[:len(first) + 30] == first + reply["tokens"]
    for uid in (12345, 65534):
        with as_uid(daemon, uid) as other:
            made = other.call("template", messages=messages)
            assert made["tokens"] == other.call("tokenize", text=made["prompt"],
                                                special=True)["tokens"]


# ---- other people ----

def test_another_users_session_is_a_missing_one(client, daemon):
    if os.getuid() != 0:
        pytest.skip("needs root to be another user")
    chat(client, "secret", session="mine")
    with as_uid(daemon, 12345) as other:
        for method, params in (("session.get", {"name": "mine"}),
                               ("session.drop", {"name": "mine"}),
                               ("session.rewind", {"name": "mine", "turns": 1}),
                               ("session.fork", {"from": "mine", "to": "x"})):
            theirs = refused(other, method, **params)
            missing = refused(other, method, **{k: "nope" if v == "mine" else v
                                                for k, v in params.items()})
            assert theirs == missing.replace("nope", "mine")
            assert theirs == 'E_NOT_FOUND: there is no session "mine"'
        assert other.call("session.list") == []
        chat(other, "hello", session="mine")
        assert [m["content"] for m in history(other, "mine")][0] == "hello"
        other.call("session.drop", name="mine")
    assert history(client, "mine")[0] == user("secret")


def test_the_overflow_uid_has_no_sessions(daemon):
    if os.getuid() != 0:
        pytest.skip("needs root to be another user")
    with as_uid(daemon, 65534) as nobody:
        for method, params in (("session.list", {}), ("session.get", {"name": "x"}),
                               ("chat", {"messages": [user("a")], "session": "x"})):
            assert refused(nobody, method, **params).startswith("E_PERMISSION: uid 65534 ")
        assert nobody.call("chat", messages=[user("a")], max_new_tokens=1)["text"] is not None


# ---- methods ----

def test_hello_names_the_feature(client):
    assert "session" in client.call("hello")["features"]


def test_list_says_what_there_is(client):
    assert client.call("session.list") == []
    before = int(time.time())
    reply = chat(client, "a", session="one")
    chat(client, "b", session="two")
    chat(client, "c", session="one")
    two, one = sorted(client.call("session.list"), key=lambda row: row["messages"])
    history(client, "two")  # looking is not using
    assert [row["name"] for row in client.call("session.list")] == ["one", "two"]  # used last
    assert set(one) == {"name", "messages", "tokens", "bytes", "used_at"}
    assert (one["messages"], two["messages"]) == (4, 2)
    assert two["tokens"] == reply["usage"]["prompt_tokens"] + 20 < one["tokens"]
    assert before <= two["used_at"] <= one["used_at"] <= time.time()
    assert one["bytes"] > two["bytes"] > 0


def test_a_fork_goes_its_own_way(client):
    chat(client, "a", session="s")
    row = client.call("session.fork", **{"from": "s", "to": "t"})
    assert row["name"] == "t" and row["messages"] == 2 and row["saved"] is True
    assert history(client, "s") == history(client, "t")
    same = [chat(client, "b", session=name, seed=7) for name in ("s", "t")]
    assert same[0]["tokens"] == same[1]["tokens"]
    assert same[0]["receipt"]["prompt"] == same[1]["receipt"]["prompt"]
    chat(client, "c", session="t")
    assert len(history(client, "s")) == 4 and len(history(client, "t")) == 6
    client.call("session.drop", name="s")
    assert len(history(client, "t")) == 6
    assert refused(client, "session.fork", **{"from": "t", "to": "t"}) == \
        'E_PARAMS: to: there is a session "t" already'
    assert refused(client, "session.fork", **{"from": "s", "to": "u"}) == \
        'E_NOT_FOUND: there is no session "s"'


def test_rewind_takes_turns_back(client):
    client.call("chat", messages=[{"role": "system", "content": "x"}, user("a")], session="s",
                max_new_tokens=5, seed=1, **NOISE)
    first = client.call("session.list")[0]
    second = chat(client, "b", session="s")
    chat(client, "c", session="s")
    assert refused(client, "session.rewind", name="s", turns=4) == \
        "E_PARAMS: turns: found 4, the session has 3"
    row = client.call("session.rewind", name="s", turns=2)
    assert {k: row[k] for k in ("messages", "tokens", "bytes")} == \
        {k: first[k] for k in ("messages", "tokens", "bytes")}
    # the same question again is the same prompt
    assert chat(client, "b", session="s")["receipt"]["prompt"] == second["receipt"]["prompt"]
    row = client.call("session.rewind", name="s", turns=2)
    assert row["messages"] == 0 and row["tokens"] == 0 and history(client, "s") == []
    chat(client, "z", session="s")
    assert history(client, "s")[0] == user("z")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a b", "x" * 65, "ä", "a\0", 5, ["a"]])
def test_names_are_plain(client, name):
    if name in ("..", "."):  # nothing special: no path is made of a bare name
        chat(client, "a", session=name)
        assert [r["name"] for r in client.call("session.list")] == [name]
        return
    for params in ({"messages": [user("a")], "session": name},):
        assert refused(client, "chat", **params).startswith("E_PARAMS: session: found ")
    assert refused(client, "session.get", name=name).startswith("E_PARAMS: name: found ")


def test_complete_has_no_session(client):
    assert refused(client, "complete", prompt="a", session="s") == \
        "E_PARAMS: session: found in complete, wanted only in chat"


def test_an_error_adds_nothing_and_makes_nothing(client):
    assert refused(client, "chat", messages=[user("a" * 40000)], session="new").startswith(
        "E_TOO_LARGE: the prompt has ")
    assert client.call("session.list") == []
    assert refused(client, "session.get", name="new").startswith("E_NOT_FOUND")
    chat(client, "a", session="s")
    before = history(client, "s")
    assert refused(client, "chat", messages=[user("a" * 40000)], session="s").startswith(
        "E_TOO_LARGE")
    assert refused(client, "chat", messages=[{"role": "boss", "content": "a"}],
                   session="s").startswith("E_PARAMS: messages[0].role")
    assert refused(client, "chat", messages=[user("a")], session="s", deadline_ms=1,
                   **NOISE).startswith("E_TIMEOUT")
    assert history(client, "s") == before


def test_a_history_that_outgrows_the_context_is_too_large(client):
    for _ in range(40):
        try:
            chat(client, "some more words " * 30, session="s", tokens=5)
        except Refused as e:
            assert str(e).startswith("E_TOO_LARGE: the prompt has ")
            break
    else:
        pytest.fail("a context of 2048 held all of that")
    client.call("session.rewind", name="s", turns=1)
    chat(client, "a", session="s", tokens=5)


# ---- one at a time ----

def test_a_second_request_waits_for_the_first(client, daemon):
    with daemon.connect() as other:
        first = client.send("chat", messages=[user("a")], session="s", seed=1, stream=True,
                            **NOISE)  # to the context's end, unless it is stopped
        while client.receive()[1] != "token":
            pass
        assert refused(other, "session.get", name="s").startswith("E_NOT_FOUND")  # not yet there
        waiting = [other.send("chat", messages=[user(text)], session="s", max_new_tokens=5,
                              seed=1, stream=True, **NOISE) for text in "bcd"]
        note = other.receive()
        assert note[1] == "progress" and note[2][0]["phase"] == "queued"
        assert note[2][0]["id"] == waiting[0] and note[2][0]["position"] == 0
        assert {r["phase"] for r in other.call("status")["requests"]["mine"]} >= {"session"}
        client.call("cancel", id=first)
        one = client.wait(first)
        assert one["finish"] == "cancelled"
        replies = [other.wait(number) for number in waiting]
    texts = [m["content"] for m in history(client, "s")]
    assert texts == ["a", one["text"], *(t for pair in zip("bcd", (r["text"] for r in replies))
                                         for t in pair)]


def test_who_waits_can_be_cancelled_or_run_out_of_time(client, daemon):
    with daemon.connect() as other:
        first = client.send("chat", messages=[user("a")], session="s", seed=1, stream=True,
                            **NOISE)
        while client.receive()[1] != "token":
            pass
        number = other.send("chat", messages=[user("b")], session="s", tag="w")
        late = other.send("chat", messages=[user("c")], session="s", deadline_ms=20)
        with pytest.raises(Refused, match="E_TIMEOUT: deadline_ms passed"):
            other.wait(late)
        gone = daemon.connect()
        gone.send("chat", messages=[user("d")], session="s")
        gone.socket.close()
        assert other.call("cancel", tag="w")["cancelled"] == 1
        cancelled = other.wait(number)
        assert cancelled["finish"] == "cancelled" and cancelled["text"] == ""
        client.call("cancel", id=first)
        assert client.wait(first)["finish"] == "cancelled"
    assert [m["content"] for m in history(client, "s")][0::2] == ["a"]


def test_two_sessions_do_not_wait_for_each_other(client, daemon):
    with daemon.connect() as other:
        first = client.send("chat", messages=[user("a")], session="s", seed=1, stream=True, **NOISE)
        while client.receive()[1] != "token":
            pass
        second = other.send("chat", messages=[user("b")], session="t", seed=1, stream=True,
                            max_new_tokens=3, **NOISE)
        while other.receive()[1] != "token":
            pass
        client.call("cancel", id=first)
        assert client.wait(first)["finish"] == "cancelled"
        assert other.wait(second)["finish"] == "length"


def test_what_waits_sees_what_the_one_before_it_has_made(client):
    """All sent before any answer: a new session is told, taken back, dropped."""
    numbers = [client.send("chat", messages=[user("a")], session="s", max_new_tokens=5, seed=1,
                           **NOISE),
               client.send("session.rewind", name="s", turns=1),
               client.send("chat", messages=[user("b")], session="s", max_new_tokens=5, seed=1,
                           **NOISE),
               client.send("session.drop", name="s"),
               client.send("session.drop", name="s")]
    told, rewound, again, dropped = [client.wait(n) for n in numbers[:4]]
    assert told["saved"] and rewound["messages"] == 0 and again["saved"]
    assert dropped["messages"] == 2
    with pytest.raises(Refused, match="E_NOT_FOUND"):
        client.wait(numbers[4])
    assert client.call("session.list") == []


def test_many_at_once_lose_nothing(daemon, client):
    """Eight connections, each with its turns, on one session and on its own."""
    def talk(i):
        with daemon.connect() as c:
            for turn in range(3):
                chat(c, f"{i}.{turn}", session="all", tokens=3)
                chat(c, f"{i}.{turn}", session=f"own{i}", tokens=3)

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    said = [m["content"] for m in history(client, "all")][0::2]
    assert len(history(client, "all")) == 48
    assert sorted(said) == sorted(f"{i}.{turn}" for i in range(8) for turn in range(3))
    for i in range(8):
        assert [t for t in said if t.startswith(f"{i}.")] == [f"{i}.{n}" for n in range(3)]
        assert [m["content"] for m in history(client, f"own{i}")][0::2] == \
            [f"{i}.{n}" for n in range(3)]


# ---- limits ----

def test_limits_of_count_and_size(build, tiny):
    config = "limits: { sessions_per_uid = 2; session_bytes = 1500; };"
    with Zephd(build, tiny, config=config) as d, d.connect() as c:
        chat(c, "a", session="one", tokens=2)
        chat(c, "a", session="two", tokens=2)
        assert refused(c, "chat", messages=[user("a")], session="three") == \
            f"E_BUSY: uid {os.getuid()} has 2 sessions, all that it may have " \
            "(zephctl sessions drop)"
        assert refused(c, "session.fork", **{"from": "one", "to": "three"}).startswith("E_BUSY")
        c.call("session.drop", name="two")
        c.call("session.fork", **{"from": "one", "to": "three"})
        assert refused(c, "chat", messages=[user("b" * 1400)], session="one").startswith(
            "E_TOO_LARGE: the session has ")
    config = "limits: { session_bytes_per_uid = 2000; };"
    with Zephd(build, tiny, config=config) as d, d.connect() as c:
        chat(c, "a" * 900, session="one", tokens=2)
        assert refused(c, "chat", messages=[user("b" * 900)], session="two").startswith(
            f"E_BUSY: the sessions of uid {os.getuid()} have ")
        assert [r["name"] for r in c.call("session.list")] == ["one"]


# ---- on disk ----

def test_files_are_their_owners_alone(client, daemon):
    chat(client, "a", session="x:y.z")
    path = stored(daemon) / "x:y.z.session"
    assert path.stat().st_mode & 0o7777 == 0o600
    for folder in (path.parent, path.parent.parent):
        assert folder.stat().st_mode & 0o7777 == 0o700
    assert [p.name for p in stored(daemon).iterdir()] == ["x:y.z.session"]  # no leftovers
    client.call("session.drop", name="x:y.z")
    assert list(stored(daemon).iterdir()) == []


def test_after_a_restart_the_session_goes_on(build, tiny):
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            first = c.call("template", messages=[user("a")])["tokens"]
            reply = chat(c, "a", session="s", tokens=40)
            chat(c, "x", session="other")
            rows = c.call("session.list")
            expected = c.call("template", messages=[user("a"), assistant(reply["text"]),
                                                    user("b")])["tokens"]
            assert expected[:len(first) + 40] == first + reply["tokens"]
        assert d.stop() == 0
        with restart(build, tiny, d) as again, again.connect() as c:
            assert sorted(c.call("session.list"), key=str) == sorted(rows, key=str)
            assert history(c, "s") == [user("a"), assistant(reply["text"])]
            # the ids are kept as well: no client could tell them from the text
            assert chat(c, "b", session="s")["receipt"]["prompt"] == hashed(expected)


def test_with_another_model_the_text_is_used(build, tiny, tmp_path):
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            reply = chat(c, "a", session="s", tokens=40)
        d.stop()
        other = make_model(build, tmp_path / "other.gguf", seed=2)
        with restart(build, other, d) as again, again.connect() as c:
            plain = c.call("template", messages=[user("a"), assistant(reply["text"]), user("b")])
            assert plain["tokens"] == c.call("tokenize", text=plain["prompt"],
                                             special=True)["tokens"]
            assert chat(c, "b", session="s")["receipt"]["prompt"] == hashed(plain["tokens"])


def test_killed_between_writes_the_old_or_the_new_is_there(build, tiny):
    """SIGKILL at twelve moments of a session that is being written all the time."""
    with Zephd(build, tiny) as d:
        pass
    state = d.directory.parent / (d.directory.name + "-kept")
    try:
        least = 0
        for moment in range(12):
            with Zephd(build, tiny, environment={"XDG_STATE_HOME": str(state)}) as d:
                with d.connect() as c:
                    if moment:
                        texts = [m["content"] for m in history(c, "s")][0::2]
                        assert texts == [str(n) for n in range(len(texts))]
                        assert len(texts) in (least, least + 1)
                        least = len(texts)
                    for _ in range(moment % 4 + 1):  # what was answered as saved is there
                        assert chat(c, str(least), session="s", tokens=2)["saved"] is True
                        least += 1
                    c.send("chat", messages=[user(str(least))], session="s", max_new_tokens=2,
                           seed=1, **NOISE)
                    time.sleep(0.0007 * moment * moment)
                    d.process.kill()
                    d.process.wait()
            names = {p.name for p in (state / "zeph/sessions" / str(os.getuid())).iterdir()}
            assert {n for n in names if not n.startswith("#")} == {"s.session"}
    finally:
        shutil.rmtree(state, ignore_errors=True)


def test_damaged_files_are_set_aside(build, tiny):
    """Each is as if it had never been, is kept, and said once, without a name."""
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            for name in ("head", "body", "cut", "empty", "good", "moved"):
                chat(c, "a", session=name)
        d.stop()
        folder = stored(d)
        flip(folder / "head.session", 3)
        flip(folder / "body.session", -5)
        os.truncate(folder / "cut.session", 200)
        os.truncate(folder / "empty.session", 0)
        (folder / "moved.session").rename(folder / "elsewhere.session")
        (folder / "alien.session").symlink_to("/etc/passwd")
        (folder / "pipe.session").mkdir()
        (folder / "#0123456789abcdef").write_bytes(b"half of a file")
        with restart(build, tiny, d) as again, again.connect() as c:
            assert {r["name"] for r in c.call("session.list")} == {"good", "body", "cut"}
            assert refused(c, "session.get", name="body").startswith("E_NOT_FOUND")
            assert chat(c, "b", session="cut")["saved"] is True
            assert history(c, "cut")[0] == user("b")
            assert {r["name"] for r in c.call("session.list")} == {"good", "cut"}
            assert len(history(c, "good")) == 2
            c.call("session.drop", name="good")
            assert "are damaged and set aside" in again.log()
            assert not any(word in again.log() for word in ("cut", "body", "passwd", "elsewhere"))
        assert {p.name for p in folder.iterdir() if p.name.endswith(".damaged")} == {
            "head.session.damaged", "body.session.damaged", "cut.session.damaged",
            "empty.session.damaged", "elsewhere.session.damaged", "alien.session.damaged",
            "pipe.session.damaged"}
        assert os.readlink(folder / "alien.session.damaged") == "/etc/passwd"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_old_ones_are_swept(build, tiny):
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            for name in ("old", "young"):
                chat(c, "a", session=name)
        d.stop()
        long_ago = time.time() - 31 * 86400
        os.utime(stored(d) / "old.session", (long_ago, long_ago))
        (stored(d) / "old.txt").write_text("not ours")
        os.utime(stored(d) / "old.txt", (long_ago, long_ago))
        with restart(build, tiny, d) as again, again.connect() as c:
            assert [r["name"] for r in c.call("session.list")] == ["young"]
            assert "removed 1 sessions" in again.log()
        assert {p.name for p in stored(d).iterdir()} == {"young.session", "old.txt"}
        # 0 is never
        os.utime(stored(d) / "young.session", (long_ago, long_ago))
        kept = Zephd(build, tiny, config="limits: { session_days = 0; };",
                     environment={"XDG_STATE_HOME": str(d.directory / "state")})
        with kept, kept.connect() as c:
            assert [r["name"] for r in c.call("session.list")] == ["young"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB."""
    if os.getuid() != 0:
        pytest.skip("needs root to mount a small file system")
    state = tmp_path / "small"
    state.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "zeph-test", state],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    yield state
    subprocess.run(["umount", state], check=True)


def test_a_full_disk_costs_no_reply(build, tiny, small_disk):
    """The reply comes and says that it is not saved; room helps."""
    folder = small_disk / "sessions" / "0"
    with Zephd(build, tiny, environment={"STATE_DIRECTORY": str(small_disk)}) as d, \
            d.connect() as c:
        assert chat(c, "first", session="s")["saved"] is True
        ballast = small_disk / "ballast"
        with open(ballast, "wb", buffering=0) as f:
            while room(f):
                pass
        reply = chat(c, "second", session="s")
        assert reply["saved"] is False and reply["text"]
        assert chat(c, "third", session="s")["saved"] is False
        assert c.call("session.fork", **{"from": "s", "to": "t"})["saved"] is False
        assert [m["content"] for m in history(c, "s")][0::2] == ["first", "second", "third"]
        assert d.log().count("sessions are not saved: No space left on device") == 1
        on_disk = (folder / "s.session").read_bytes()
        assert b"first" in on_disk and b"second" not in on_disk  # whole, the last good one
        ballast.unlink()
        assert chat(c, "fourth", session="s")["saved"] is True
        assert d.log().count("sessions are saved again") == 1
        assert sorted(p.name for p in folder.iterdir()) == ["s.session"]
        assert d.stop() == 0
        # what could not be saved before is saved at the end
        assert {p.name for p in folder.iterdir()} == {"s.session", "t.session"}


def test_a_disk_that_is_read_only_costs_no_reply(build, tiny, small_disk):
    with Zephd(build, tiny, environment={"STATE_DIRECTORY": str(small_disk)}) as d, \
            d.connect() as c:
        assert chat(c, "first", session="s")["saved"] is True
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        assert chat(c, "second", session="s")["saved"] is False
        assert chat(c, "new", session="t")["saved"] is False
        assert "sessions are not saved: Read-only file system" in d.log()
        assert refused(c, "session.drop", name="s") == \
            "E_ENGINE: the session's file could not be removed: Read-only file system"
        assert len(history(c, "s")) == 4  # it is still there
        c.call("session.drop", name="t")  # it has no file
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        assert c.call("session.rewind", name="s", turns=1)["saved"] is True
        c.call("session.drop", name="s")
        assert c.call("session.list") == [] and d.stop() == 0


def test_a_disk_that_fails_costs_no_reply(build, tiny, tmp_path, monkeypatch):
    """EIO comes when a file is to be brought onto the disk; the last good one stays."""
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") +
                       ":verify_asan_link_order=0")
    monkeypatch.setenv("LD_PRELOAD", str(build / "tests/fake/fake-disk.so"))
    monkeypatch.setenv("FAKE_DISK", str(fails := tmp_path / "fails"))
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            assert chat(c, "first", session="s")["saved"] is True
            path = stored(d) / "s.session"
            good = path.read_bytes()
            fails.touch()
            for text in ("second", "third"):
                reply = chat(c, text, session="s")
                assert reply["saved"] is False and reply["text"]
            assert chat(c, "a", session="new")["saved"] is False
            assert path.read_bytes() == good
            assert [p.name for p in stored(d).iterdir()] == ["s.session"]  # no leftovers
            assert [m["content"] for m in history(c, "s")][0::2] == ["first", "second", "third"]
            assert d.log().count("sessions are not saved: Input/output error") == 1
            fails.unlink()
            assert chat(c, "fourth", session="s")["saved"] is True
            assert d.log().count("sessions are saved again") == 1
        assert d.stop() == 0
        with restart(build, tiny, d) as again, again.connect() as c:
            assert [m["content"] for m in history(c, "s")][0::2] == [
                "first", "second", "third", "fourth"]
            assert [m["content"] for m in history(c, "new")][0::2] == ["a"]


def test_a_file_that_may_not_grow_costs_no_reply(build, tiny):
    """ulimit -f: a write ends short, and the next one fails."""
    with Zephd(build, tiny) as d, d.connect() as c:
        assert chat(c, "first", session="s")["saved"] is True
        path = stored(d) / "s.session"
        most = path.stat().st_size + len(d.log()) + 200  # the log is a file, too
        subprocess.run(["prlimit", f"--pid={d.process.pid}", f"--fsize={most}:"], check=True)
        assert chat(c, "b" * 1700, session="s")["saved"] is False
        assert len(history(c, "s")) == 4 and path.stat().st_size < most
        assert "sessions are not saved: File too large" in d.log()
        assert [p.name for p in stored(d).iterdir()] == ["s.session"]
        subprocess.run(["prlimit", f"--pid={d.process.pid}", "--fsize=unlimited:"], check=True)
        assert chat(c, "third", session="s")["saved"] is True
        assert path.stat().st_size > 1700 and d.stop() == 0


def test_a_folder_that_goes_is_made_again(build, tiny):
    with Zephd(build, tiny) as d, d.connect() as c:
        assert chat(c, "first", session="s")["saved"] is True
        shutil.rmtree(stored(d).parent)
        assert chat(c, "second", session="s")["saved"] is True
        assert len(history(c, "s")) == 4 and (stored(d) / "s.session").stat().st_mode & 0o777 == 0o600
        assert d.stop() == 0


def room(f):
    try:
        return f.write(bytes(4096))
    except OSError:
        return 0


def test_without_a_state_directory_sessions_last_as_long_as_the_daemon(build, tiny):
    with Zephd(build, tiny, environment={"XDG_STATE_HOME": "", "HOME": ""}) as d, \
            d.connect() as c:
        assert chat(c, "a", session="s")["saved"] is False
        assert chat(c, "b", session="s")["saved"] is False
        assert len(history(c, "s")) == 4
        c.call("session.drop", name="s")
        assert c.call("session.list") == []
        assert d.log().count("sessions are not saved") == 1


def test_a_state_directory_that_cannot_be_used(build, tiny, tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "zeph").write_text("")
    with Zephd(build, tiny, environment={"XDG_STATE_HOME": str(tmp_path)}) as d, \
            d.connect() as c:
        assert chat(c, "a", session="s")["saved"] is False
        assert len(history(c, "s")) == 2


def test_charges_are_zero_when_all_is_over(daemon, client):
    chat(client, "a", session="s")
    with daemon.connect() as other:
        other.send("chat", messages=[user("b")], session="s", max_new_tokens=500, seed=1, **NOISE)
        other.socket.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + 20
    while len(client.call("status")["requests"]["mine"]) and time.monotonic() < end:
        time.sleep(0.02)
    row = next(u for u in client.call("status")["users"] if u["uid"] == os.getuid())
    assert row["running"] == row["queued"] == 0 and row["connections"] == 1


# ---- what is cached ----

PAGE = 16  # tokens; only whole pages are cached


def cached(prompt, reply):
    """Tokens of the next prompt that need not be computed: whole pages of the last one and of its
    reply, whose last token was drawn and never computed."""
    return (prompt + reply - 1) // PAGE * PAGE


@pytest.mark.parametrize("how", ["session", "stateless"])
def test_a_second_turn_costs_the_new_tokens_alone(build, tiny, how):
    with Zephd(build, tiny) as d, d.connect() as c:
        long = "".join(chr(97 + i * i % 26) + " " * (i % 5 == 0) for i in range(2000))
        messages, before = [], None
        named = {"session": "s"} if how == "session" else {}
        for turn, text in enumerate((long, "And then?", "Why?")):
            messages.append(user(text))
            reply = c.call("chat", messages=messages if how == "stateless" else [user(text)],
                           max_new_tokens=37, seed=turn, **NOISE, **named)
            usage = reply["usage"]
            if turn == 0:
                assert 1700 < usage["prompt_tokens"] and usage["cached_tokens"] == 0
            else:
                assert usage["cached_tokens"] == cached(*before)
                assert usage["prompt_tokens"] - usage["cached_tokens"] < 100
            before = usage["prompt_tokens"], len(reply["tokens"])
            messages.append(assistant(reply["text"]))


def test_a_fork_and_what_is_rewound_are_cached_too(build, tiny):
    with Zephd(build, tiny) as d, d.connect() as c:
        first = chat(c, "a" * 400, session="s", tokens=37)
        expected = cached(first["usage"]["prompt_tokens"], 37)
        c.call("session.fork", **{"from": "s", "to": "t"})
        for name in ("s", "t"):
            assert chat(c, "b", session=name)["usage"]["cached_tokens"] >= expected
        c.call("session.rewind", name="s", turns=1)
        assert chat(c, "c", session="s")["usage"]["cached_tokens"] >= expected
        # another user's cache is not used, whatever was said
        if os.getuid() == 0:
            with as_uid(d, 12345) as other:
                assert chat(other, "a" * 400, session="s")["usage"]["cached_tokens"] == 0


def test_after_a_restart_the_cache_is_built_again(build, tiny):
    with Zephd(build, tiny) as d:
        with d.connect() as c:
            chat(c, "a" * 400, session="s", tokens=37)
        d.stop()
        with restart(build, tiny, d) as again, again.connect() as c:
            second = chat(c, "b", session="s", tokens=37)["usage"]
            assert second["cached_tokens"] == 0
            third = chat(c, "c", session="s")["usage"]
            assert third["cached_tokens"] == cached(second["prompt_tokens"], 37)
