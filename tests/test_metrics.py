"""Method metrics: OpenMetrics text that the format's own parser takes, counts that are right, and no
row that is somebody else's."""

import json
import multiprocessing
import os
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from zephd import Client, Refused, Zephd

pytestmark = pytest.mark.daemon

NO_END = [[2, -1e6]]  # the tiny model's end token is never drawn
FAMILIES = {
    "zeph_build": "info", "zeph_uptime_seconds": "gauge", "zeph_model_state": "stateset",
    "zeph_model_load_seconds": "gauge", "zeph_connections": "gauge",
    "zeph_device_memory_bytes": "gauge", "zeph_device_used_bytes": "gauge", "zeph_pages": "gauge",
    "zeph_pages_used": "gauge", "zeph_pages_cached": "gauge", "zeph_pages_evicted": "counter",
    "zeph_pages_swapped": "counter", "zeph_pages_restored": "counter",
    "zeph_recomputed_tokens": "counter", "zeph_reply_memory_bytes": "gauge", "zeph_swap_bytes": "gauge", "zeph_preemptions": "counter",
    "zeph_batch_sequences": "histogram", "zeph_requests_running": "gauge",
    "zeph_requests_queued": "gauge", "zeph_requests": "counter", "zeph_tokens": "counter",
    "zeph_device_time_seconds": "counter", "zeph_queue_time_seconds": "histogram",
    "zeph_first_token_seconds": "histogram", "zeph_inter_token_seconds": "histogram"}


def read(client):
    """The families by name, and the samples by name and labels."""
    text = client.call("metrics")["text"]
    assert text.endswith("\n# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {}
    for family in families.values():
        for s in family.samples:
            key = s.name, tuple(sorted(s.labels.items()))
            assert key not in samples
            samples[key] = s.value
    return families, samples


def at(samples, name, **labels):
    return samples.get((name, tuple(sorted(labels.items()))), 0)


def total(samples, name, **labels):
    return sum(v for (n, l), v in samples.items() if n == name and labels.items() <= dict(l).items())


def test_every_family_parses_with_its_type_and_unit(build, tiny):
    with Zephd(build, tiny) as d, d.connect() as c:
        c.call("complete", prompt=[5], max_new_tokens=3, logit_bias=NO_END)
        families, samples = read(c)
        assert {name: family.type for name, family in families.items()} == FAMILIES
        for name, family in families.items():
            assert family.documentation
            for unit in ("seconds", "bytes", "tokens", "sequences"):
                assert (family.unit == unit) == name.endswith("_" + unit)
        status = c.call("status")
        states = ("loading", "ready", "unloaded", "failed")
        assert [at(samples, "zeph_model_state", zeph_model_state=s) for s in states] == [0, 1, 0, 0]
        assert at(samples, "zeph_pages") == status["kv"]["pages"]
        assert at(samples, "zeph_device_memory_bytes") == status["device"]["memory_bytes"]
        assert at(samples, "zeph_device_used_bytes") == status["device"]["used_bytes"]
        assert at(samples, "zeph_connections") == 1
        assert 0 < at(samples, "zeph_model_load_seconds") < at(samples, "zeph_uptime_seconds")
        build_row, = families["zeph_build"].samples
        assert build_row.labels["version"] == status["version"]


def test_counts_are_what_happened(build, tiny):
    uid = str(os.getuid())
    with Zephd(build, tiny) as d, d.connect() as c:
        _, before = read(c)
        c.call("complete", prompt=[5] * 40, max_new_tokens=20, logit_bias=NO_END)
        r = c.call("complete", prompt=[5] * 40, max_new_tokens=8, logit_bias=NO_END)
        assert r["usage"]["cached_tokens"] == 32
        stopped = c.call("complete", prompt=[5], max_new_tokens=9, logit_bias=[[2, 1e6]])
        assert stopped["finish"] == "stop"
        c.call("score", prompt=[5, 6], choices=["a", "b"])
        c.call("tokenize", text="x")
        for params, name in (({"prompt": [5], "top_p": 2}, "E_PARAMS"),
                             ({"prompt": [5] * 100000}, "E_PROTOCOL"),
                             ({"prompt": [5] * 5000}, "E_TOO_LARGE")):
            with d.connect() as other, pytest.raises(Refused, match=name):
                other.call("complete", **params)
        with pytest.raises(Refused, match="E_METHOD"):
            c.call("sing")
        number = c.send("complete", prompt=[5], logit_bias=NO_END, tag="t", max_new_tokens=100000,
                        stream=True)
        while c.receive()[1] != "token":
            pass
        with d.connect() as other:
            assert other.call("cancel", tag="t") == {"cancelled": 1}
        cancelled = c.wait(number)
        assert cancelled["finish"] == "cancelled"
        _, after = read(c)

    def ended(outcome):
        return at(after, "zeph_requests_total", uid=uid, **{"class": "manage"}, outcome=outcome)

    assert [ended(o) for o in ("done", "stop", "length", "cancelled")] == [2, 1, 2, 1]
    assert [ended(o) for o in ("E_PARAMS", "E_PROTOCOL", "E_TOO_LARGE", "E_METHOD", "E_BUSY")] == [
        1, 1, 1, 1, 0]
    assert total(after, "zeph_requests_total", uid="other") == 0
    n = 20 + 8 + 1 + cancelled["usage"]["completion_tokens"]
    assert at(after, "zeph_tokens_total", uid=uid, kind="completion") == n
    assert at(after, "zeph_tokens_total", uid=uid, kind="cached") >= 32
    assert at(after, "zeph_tokens_total", uid=uid, kind="prompt") == 40 + 40 + 1 + 2 + 1
    assert at(after, "zeph_device_time_seconds_total", uid=uid) > 0
    assert at(after, "zeph_queue_time_seconds_count") == 5
    assert at(after, "zeph_first_token_seconds_count") >= 3
    assert at(after, "zeph_inter_token_seconds_count") >= 19 + 7
    steps = at(after, "zeph_batch_sequences_count")
    assert steps >= 20 + 7 and at(after, "zeph_batch_sequences_sum") >= steps
    for name, kind in FAMILIES.items():
        if kind == "histogram":
            assert at(after, name + "_bucket", le="+Inf") == at(after, name + "_count")
        if kind in ("histogram", "counter"):
            for key, value in before.items():
                if key[0].startswith(name) and not key[0].endswith("_sum"):
                    assert after.get(key, 0) >= value


def test_a_batch_of_eight_is_seen_as_one(build, tiny):
    with Zephd(build, tiny) as d, d.connect() as c:
        numbers = [c.send("complete", prompt=[5 + i], max_new_tokens=300, logit_bias=NO_END, seed=i)
                   for i in range(8)]
        for number in numbers:
            c.wait(number)
        _, samples = read(c)
    assert at(samples, "zeph_batch_sequences_bucket", le="8.0") > at(
        samples, "zeph_batch_sequences_bucket", le="4.0")
    assert at(samples, "zeph_batch_sequences_bucket", le="8.0") == at(
        samples, "zeph_batch_sequences_count")


def as_another(uid, path, pipe):
    """A client of the uid asks once and sends its class and the metrics that it sees."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    with Client(path) as c:
        c.call("complete", prompt=[5], max_new_tokens=3, logit_bias=NO_END)
        pipe.send((c.call("hello")["class"], c.call("metrics")["text"]))


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a client of another uid: needs root")
def test_an_ordinary_user_sees_no_uid_and_only_what_is_theirs(build, tiny):
    with Zephd(build, tiny, config="classes: { use = (61001); manage = (0); };") as d:
        d.directory.chmod(0o755)
        d.socket.chmod(0o666)
        with d.connect() as c:
            c.call("complete", prompt=[6] * 7, max_new_tokens=50, logit_bias=NO_END)
            pipe, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("fork").Process(
                target=as_another, args=(61001, d.socket, theirs), daemon=True)
            process.start()
            assert pipe.poll(60)
            class_, text = pipe.recv()
            process.join(10)
            _, rows = read(c)
    mine = {(s.name, tuple(sorted(s.labels.items()))): s.value
            for f in text_string_to_metric_families(text) for s in f.samples}
    assert class_ == "use" and not any("uid" in dict(labels) for _, labels in mine)
    assert at(mine, "zeph_requests_total", **{"class": "use"}, outcome="length") == 1
    assert total(mine, "zeph_requests_total") == 1
    assert at(mine, "zeph_tokens_total", kind="prompt") == 1
    assert at(mine, "zeph_tokens_total", kind="completion") == 3
    assert at(mine, "zeph_first_token_seconds_count") == 1
    assert at(mine, "zeph_inter_token_seconds_count") == 2
    for uid, name in ((61001, "use"), (0, "manage")):
        assert at(rows, "zeph_requests_total", uid=str(uid), outcome="length", **{"class": name}) == 1
    assert at(rows, "zeph_first_token_seconds_count") == 2


def test_zephctl_prints_it(build, tiny):
    with Zephd(build, tiny) as d:
        command = [build / "client/zephctl", "-S", d.socket, "metrics"]
        plain = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        assert plain.startswith("# TYPE zeph_build info\n") and plain.endswith("\n# EOF\n")
        assert list(text_string_to_metric_families(plain))
        told = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
        assert told["text"].endswith("# EOF\n")
