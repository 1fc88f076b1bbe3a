"""The prefix cache over the socket: what is reused, by whom, and how it is dropped."""

import random
import subprocess

import pytest

import zephd

pytestmark = pytest.mark.daemon

SYSTEM = "You answer in one short sentence, and you never apologise for anything at all. " * 3


@pytest.fixture(scope="module")
def daemon(build, model, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("prefix") / "system"
    prefix.write_text(SYSTEM + "\n")
    with zephd.Zephd(build, model, "--context", "1024",
                     config=f'model: {{ shared_prefix_file = "{prefix}"; }};') as d:
        yield d


def usage(client, prompt, **options):
    options = {"max_new_tokens": 1, "temperature": 0, **options}
    method = "complete" if isinstance(prompt, (list, str)) else "chat"
    return client.call(method, **({"prompt": prompt} if method == "complete" else prompt), **options)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 32, 33, 500])
def test_a_prompt_sent_again_is_found(daemon, n):
    ids = [(7 * i + n) % 1000 + 100 for i in range(n)]
    with daemon.connect() as c:
        first = usage(c, ids, logprobs=2)
        again = usage(c, ids, logprobs=2)
    assert first["usage"]["cached_tokens"] == 0
    assert again["usage"]["cached_tokens"] == (n - 1) // 16 * 16
    assert again["logprobs"] == first["logprobs"]


def test_the_next_turn_computes_the_new_turn_only(daemon):
    with daemon.connect() as c:
        ids = [(11 * i) % 1000 + 200 for i in range(100)]
        reply = usage(c, ids, max_new_tokens=60, temperature=1, seed=3)
        ids += reply["tokens"]
        whole = usage(c, ids + [300, 301, 302])
        assert whole["usage"]["cached_tokens"] == (len(ids) - 1) // 16 * 16


def test_the_shared_prefix_is_there_for_a_first_request(daemon):
    with daemon.connect() as c:
        shared = c.call("status")["kv"]["shared_tokens"]
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello?"}]
        prompt = c.call("template", messages=messages)["tokens"]
        assert shared % 16 == 0 and len(prompt) - 32 < shared < len(prompt)
        c.call("cache.drop")
        assert usage(c, {"messages": messages})["usage"]["cached_tokens"] == shared


def test_cache_drop_leaves_the_shared_prefix_alone(daemon, build):
    with daemon.connect() as c:
        usage(c, [5] * 100)
        kv = c.call("status")["kv"]
        assert kv["cached"] >= 6 and kv["used"] == kv["shared_tokens"] // 16
        assert c.call("cache.drop", uid=12345) == {"pages": 0, "replies": 0}
        done = subprocess.run([build / "client" / "zephctl", "-S", daemon.socket, "cache", "drop"],
                              capture_output=True, text=True, check=True)
        assert done.stdout == f"dropped {kv['cached']} pages and the ids of 1 replies\n"
        kv = c.call("status")["kv"]
        assert kv["cached"] == 0 and kv["used"] == kv["shared_tokens"] // 16
        assert usage(c, [5] * 100)["usage"]["cached_tokens"] == 0
        with pytest.raises(zephd.Refused, match="E_PARAMS: uid"):
            c.call("cache.drop", uid=-1)


def test_replies_of_the_real_model_are_the_same_in_a_crowd(build, model):
    """Ten at once over a cache for two, of one document's beginnings: each as alone."""
    r = random.Random(3)
    document = [r.randrange(1000, 40000) for _ in range(240)]
    jobs = [{"prompt": document[:r.randrange(1, 240)] + [r.randrange(1000, 40000)],
             "max_new_tokens": r.randrange(1, 24), "seed": i, "logprobs": 1,
             "priority": r.choice(["interactive", "batch"])} for i in range(10)]
    config = "engine: { kv_bytes = 14000000; prefill_tokens = 48; };"  # 38 pages
    with zephd.Zephd(build, model, "--context", "288", config=config) as d, d.connect(300) as c:
        alone = []
        for job in jobs:
            alone.append(c.call("complete", **job))
            c.call("cache.drop")
        for _ in range(2):  # with nothing cached, and with what is left of the first round
            crowd = [c.wait(n) for n in [c.send("complete", **job) for job in jobs]]
            for one, other in zip(alone, crowd):
                assert one["tokens"] == other["tokens"] and one["logprobs"] == other["logprobs"]
                assert one["usage"]["cached_tokens"] == 0
        assert c.call("status")["kv"]["reused_tokens"] > 0
