"""What users may have, see and stop: a class has limits of its own, and those of `limits` where it says
nothing; each sees its own rows, class manage all. Real uids, so most of it needs root."""

import os
import re
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from zephd import Client, Refused, Zephd, as_uid

pytestmark = pytest.mark.daemon
needs_root = pytest.mark.skipif(os.geteuid() != 0,
                                reason="starts clients of other uids: needs root")

PUPIL, TEACHER = 61001, 61002
CONFIG = f"""
limits: {{ queue_per_uid = 3; max_new_tokens = 100; connections_per_uid = 6; sessions_per_uid = 5; }};
classes: {{
    use = {{ queue_per_uid = 1; max_new_tokens = 7; connections_per_uid = 2;
            prompt_tokens_per_uid = 50; sessions_per_uid = 1; session_bytes_per_uid = 2000; }};
    priority = {{ members = ({TEACHER}); queue_per_uid = 2; max_new_tokens = 0; weight = 4; }};
}};
"""
NO_END = [[2, -1e6]]
LONG = dict(prompt=[5, 6, 7], logit_bias=NO_END, seed=1)


@pytest.fixture(scope="module")
def daemon(build, tiny):
    with Zephd(build, tiny, config=CONFIG) as d:
        with d.connect() as c:
            c.call("model.load")
        yield d
        assert d.stop() == 0, d.log()


@pytest.fixture(autouse=True)
def gone(request):
    """The connections of the test before have been given back."""
    if "daemon" not in request.fixturenames:
        return
    with request.getfixturevalue("daemon").connect() as c:
        end = time.monotonic() + 10
        while c.call("status")["connections"] > 1:
            assert time.monotonic() < end


def refused(client, method, **params):
    with pytest.raises(Refused) as e:
        client.call(method, **params)
    return str(e.value)


def limits(client):
    hello = client.call("hello")
    wanted = ("connections", "queue", "max_new_tokens", "queued_tokens", "sessions")
    return hello["class"], [hello["limits"][key] for key in wanted]


@needs_root
def test_hello_tells_the_caller_s_own(daemon):
    with as_uid(daemon, PUPIL) as pupil, as_uid(daemon, TEACHER) as teacher, \
            daemon.connect() as root:
        assert limits(pupil) == ("use", [2, 1, 7, 50, 1])
        assert limits(teacher) == ("priority", [6, 2, 2048, 1048576, 5])  # to the context's end
        assert limits(root) == ("manage", [6, 3, 100, 1048576, 5])


@needs_root
def test_the_queue_is_the_class_s(daemon):
    with as_uid(daemon, PUPIL) as pupil, as_uid(daemon, TEACHER) as teacher:
        for client, uid, most in ((pupil, PUPIL, 1), (teacher, TEACHER, 2)):
            numbers = [client.send("complete", **LONG, tag="t") for _ in range(most + 1)]
            with pytest.raises(Refused) as e:
                client.wait(numbers[-1])
            assert str(e.value) == f"E_BUSY: the queue for uid {uid} is full ({most} of {most})"
            client.call("cancel", tag="t")
            assert all(client.wait(n)["finish"] for n in numbers[:-1])


@needs_root
def test_the_length_of_a_reply_is_the_class_s(daemon):
    with as_uid(daemon, PUPIL) as pupil, as_uid(daemon, TEACHER) as teacher:
        assert refused(pupil, "complete", max_new_tokens=8, **LONG) == \
            "E_PARAMS: max_new_tokens: found 8, wanted at most 7"
        assert len(pupil.call("complete", **LONG)["tokens"]) == 7
        assert len(teacher.call("complete", max_new_tokens=150, **LONG)["tokens"]) == 150
        with daemon.connect() as root:
            assert len(root.call("complete", **LONG)["tokens"]) == 100


@needs_root
def test_connections_are_the_class_s(daemon):
    with as_uid(daemon, PUPIL) as one, as_uid(daemon, PUPIL) as two, \
            as_uid(daemon, PUPIL) as three, as_uid(daemon, TEACHER) as other:
        assert one.call("hello") and two.call("hello")
        assert "E_BUSY: uid 61001 has 2 connections" in three.receive()[2][0]["text"]
        with as_uid(daemon, TEACHER) as second, as_uid(daemon, TEACHER) as third:
            assert other.call("hello") and second.call("hello") and third.call("hello")


@needs_root
def test_sessions_are_the_class_s(daemon):
    def chat(client, session, text="a"):
        return client.call("chat", messages=[{"role": "user", "content": text}], session=session,
                           max_new_tokens=2)

    with as_uid(daemon, PUPIL) as pupil, as_uid(daemon, TEACHER) as teacher:
        for client in (pupil, teacher):
            chat(client, "one")
        assert refused(pupil, "chat", messages=[{"role": "user", "content": "a"}],
                       session="two").startswith("E_BUSY: uid 61001 has 1 sessions")
        assert refused(pupil, "session.fork", **{"from": "one", "to": "two"}).startswith(
            "E_BUSY: uid 61001 has 1 sessions")
        assert chat(teacher, "two", "b" * 1900) and chat(teacher, "two", "c" * 50)
        text = {"role": "user", "content": "b" * 1900}
        assert refused(pupil, "chat", messages=[text], session="one").startswith(
            "E_BUSY: the sessions of uid 61001 have ")


@needs_root
def test_prompt_tokens_are_the_class_s(build, tiny):
    config = f"""limits: {{ prompt_tokens_per_uid = 50; }};
                 classes: {{ priority = {{ members = ({TEACHER}); prompt_tokens_per_uid = 100; }}; }};"""
    long = dict(prompt=[7] * 40, logit_bias=NO_END, tag="t")
    with Zephd(build, tiny, config=config) as d:
        with as_uid(d, PUPIL) as pupil, as_uid(d, TEACHER) as teacher:
            for client, most, limit in ((pupil, 1, 50), (teacher, 2, 100)):
                numbers = [client.send("complete", **long) for _ in range(most + 1)]
                with pytest.raises(Refused, match=f"40 would exceed {limit}"):
                    client.wait(numbers[-1])
                assert client.call("cancel", tag="t") == {"cancelled": most}
                assert [client.wait(n)["finish"] for n in numbers[:-1]] == ["cancelled"] * most


def test_the_use_socket_has_the_limits_of_class_use(build, tiny, tmp_path):
    """The same uid on both sockets; nobody else is needed for that."""
    use = tmp_path / "use.sock"
    config = f'socket: {{ use_path = "{use}"; }}; classes: {{ use = {{ max_new_tokens = 7; }}; }};'
    with Zephd(build, tiny, config=config) as d, d.connect() as c, Client(use) as limited:
        c.call("model.load")
        assert (limits(c)[0], limits(c)[1][2]) == ("manage", 2048)
        assert (limits(limited)[0], limits(limited)[1][2]) == ("use", 7)
        assert len(limited.call("complete", **LONG)["tokens"]) == 7
        assert refused(limited, "complete", max_new_tokens=8, **LONG).startswith("E_PARAMS")


@needs_root
def test_a_reload_takes_a_class_s_limits(build, tiny):
    with Zephd(build, tiny, config="classes: { use = { queue_per_uid = 1; }; };") as d:
        with as_uid(d, PUPIL) as pupil:
            assert limits(pupil)[1][1] == 1
            (d.directory / "zephd.conf").write_text("limits: { queue_per_uid = 9; };"
                                                    "classes: { use = { max_new_tokens = 3; }; };")
            os.kill(d.process.pid, 1)
            end = time.monotonic() + 10
            while limits(pupil)[1][1:3] != [9, 3]:
                assert time.monotonic() < end
                time.sleep(0.02)


@needs_root
def test_the_weight_of_a_class_is_its_part_of_the_turns(build, tiny, monkeypatch):
    """One slot, and while it is taken both users queue four: the one with weight 4 has all its turns
    within the other's first."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    config = f"engine: {{ max_sequences = 1; }}; classes: {{ priority = {{ members = ({TEACHER}); " \
             "weight = 4; }; };"
    with Zephd(build, tiny, config=config) as d, d.connect() as root:
        root.call("model.load")
        root.send("complete", **LONG, tag="first", stream=True)
        while root.receive()[1] != "token":
            pass
        with as_uid(d, PUPIL) as pupil, as_uid(d, TEACHER) as teacher:
            asked = []
            for client in (pupil, teacher) * 4:  # one after the other has come: their order counts
                number = client.send("complete", prompt=[5], max_new_tokens=2, logit_bias=NO_END)
                asked.append((client, number))
                end = time.monotonic() + 10
                while root.call("status")["requests"]["queued"] != len(asked):
                    assert time.monotonic() < end
            assert root.call("cancel", tag="first") == {"cancelled": 1}
            for client, number in asked:
                client.wait(number)
        uids = [int(line.split("of uid ")[1].split(":")[0]) for line in d.log().splitlines()
                if " of uid " in line and ": complete, length" in line]
    assert uids == [PUPIL] + [TEACHER] * 4 + [PUPIL] * 3


# ---- what they see and stop ----

@needs_root
def test_only_an_administrator_stops_another_s_request(daemon):
    with as_uid(daemon, PUPIL) as pupil, as_uid(daemon, TEACHER) as teacher, \
            daemon.connect() as root:
        number = teacher.send("complete", **LONG, tag="t", stream=True)
        while teacher.receive()[1] != "token":
            pass
        assert pupil.call("cancel", tag="t") == {"cancelled": 0}
        assert pupil.call("status")["requests"]["mine"] == []
        rows = root.call("status")["requests"]["mine"]
        assert [(r["uid"], r["tag"], r["phase"]) for r in rows] == [(TEACHER, "t", "generate")]
        assert root.call("cancel", tag="t") == {"cancelled": 1}
        with pytest.raises(Refused) as e:
            teacher.wait(number)
    assert str(e.value) == "E_CANCELLED: cancelled by the administrator (uid 0)"


@needs_root
def test_the_device_s_time_is_each_uid_s_in_status_metrics_and_journal(build, tiny, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    with Zephd(build, tiny) as d, d.connect() as root:
        with as_uid(d, PUPIL) as pupil, as_uid(d, TEACHER) as teacher:
            numbers = [(c, c.send("complete", prompt=[9] * 200, max_new_tokens=n, logit_bias=NO_END))
                       for c, n in ((pupil, 300), (teacher, 100), (teacher, 50))]
            for client, number in numbers:
                client.wait(number)
            rows = {u["uid"]: u for u in root.call("status")["users"]}
            assert pupil.call("status")["users"] == [rows[PUPIL]]
        families = {f.name: f for f in text_string_to_metric_families(root.call("metrics")["text"])}
        metrics = {s.labels["uid"]: s.value for s in families["zeph_device_time_seconds"].samples}
        journal = re.findall(r"request \d+ of uid (\d+): complete, length, 200 prompt tokens "
                             r"\(\d+ cached\), (\d+) new, ([\d.]+) s of the device", d.log())
    assert sorted((int(uid), int(n)) for uid, n, _ in journal) == [
        (PUPIL, 300), (TEACHER, 50), (TEACHER, 100)]
    for uid in (PUPIL, TEACHER):
        seconds = rows[uid]["device_s"]
        assert seconds > 0 and abs(metrics[str(uid)] - seconds) < 1e-5
        assert abs(sum(float(s) for u, _, s in journal if int(u) == uid) - seconds) < 0.002
    assert rows[PUPIL]["completion_tokens"] == 300 and rows[TEACHER]["completion_tokens"] == 150
    assert rows[PUPIL]["device_s"] > rows[TEACHER]["device_s"]


@needs_root
def test_the_overflow_uid_may_be_many_people(build, tiny):
    """Class use whatever the configuration says, and what one connection left no other finds."""
    with Zephd(build, tiny, config="classes: { manage = (65534); };") as d:
        def cached(client):
            return client.call("complete", prompt=[8] * 100, max_new_tokens=1)["usage"][
                "cached_tokens"]

        with as_uid(d, 65534) as one, as_uid(d, 65534) as other:
            assert one.call("hello")["class"] == "use"
            assert [cached(one), cached(one), cached(other), cached(other)] == [0, 96, 0, 96]
