"""Packed weights that zephd keeps for its next start: made once, taken while the model is the same,
worth nothing to the reply."""

import os
import subprocess
import time

import pytest

from zephd import Zephd

pytestmark = pytest.mark.daemon

KEPT, TAKEN = "the packed weights are kept for the next load", "taken as they had been packed"
ASK = dict(prompt=[1, 5, 300, 7, 20], max_new_tokens=6, seed=3, temperature=1.0, logprobs=3,
           logit_bias=[[2, -1e6]])


@pytest.fixture(scope="module")
def large(build, tmp_path_factory):
    """Large enough to be kept: quantised, for that is kept on every kernel and file system."""
    path = tmp_path_factory.mktemp("model") / "large.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "smollm2-135m", "--type", "bf16",
                    "--seed", "1", path], check=True)
    return path


@pytest.fixture
def start(build, large, tmp_path):
    """Starts zephd on it, with one cache for all starts of a test."""
    def starts(*options, config="", model=large, environment=None):
        config = f'model: {{ quantize = "q4_0"; {config} }};'
        return Zephd(build, model, "--device", "cpu", *options, config=config, seconds=300,
                     environment={"XDG_CACHE_HOME": str(tmp_path / "cache"),
                                  **(environment or {})})
    return starts


@pytest.fixture
def slow_disk(build):
    return {"FAKE_DISK_SLOW": "1", "LD_PRELOAD": str(build / "tests/fake/fake-disk.so"),
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}


def says(daemon, text, seconds=120):
    end = time.monotonic() + seconds
    while text not in daemon.log():
        assert time.monotonic() < end and daemon.process.poll() is None, daemon.log()
        time.sleep(0.02)


def kept_files(tmp_path):
    folder = tmp_path / "cache/zeph/packed"
    return sorted(os.listdir(folder)) if folder.exists() else []


def reply(client):
    r = client.call("complete", **ASK)
    return r["tokens"], r["logprobs"]


def test_the_second_start_takes_what_the_first_has_packed(start, large, tmp_path):
    with start() as d, d.connect() as c:
        first = reply(c)
        says(d, KEPT)
        assert TAKEN not in d.log()
        name, = kept_files(tmp_path)
        status = os.stat(tmp_path / "cache/zeph/packed" / name)
        assert status.st_mode & 0o7777 == 0o600
        assert os.stat(tmp_path / "cache/zeph/packed").st_mode & 0o7777 == 0o700
        assert str(os.stat(large).st_ino) in name and "q4_0" in name
        assert d.stop() == 0
    with start() as d, d.connect() as c:
        assert reply(c) == first
        assert TAKEN in d.log()
        c.call("model.unload")
        c.call("model.load")
        assert reply(c) == first
        assert d.log().count(TAKEN) == 2 and KEPT not in d.log()
        assert d.stop() == 0
    after = os.stat(tmp_path / "cache/zeph/packed" / name)
    assert after.st_ino == status.st_ino


def test_an_unload_does_not_wait_for_what_is_being_kept(start, slow_disk, tmp_path):
    with start(environment=slow_disk) as d, d.connect() as c:
        c.call("model.load")
        end = time.monotonic() + 60
        while not any(name.endswith(".new") for name in kept_files(tmp_path)):
            assert time.monotonic() < end, d.log()
        assert c.call("model.unload") == {"state": "unloaded"}
        assert kept_files(tmp_path) == []
        assert KEPT not in d.log() and "not kept" not in d.log()
        c.call("model.load")
        assert TAKEN not in d.log()
        assert reply(c)
        assert d.stop() == 0
    assert kept_files(tmp_path) == []


def test_a_model_that_has_changed_is_packed_anew(start, build, large, tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(large.read_bytes())
    with start(model=model) as d:
        says(d, KEPT)
    os.utime(model, ns=(10**18, 10**18))
    with start(model=model) as d:
        says(d, KEPT)
        assert TAKEN not in d.log()
    with start(model=model) as d, d.connect() as c:
        c.call("model.load")
        assert TAKEN in d.log()
    model.unlink()
    assert len(kept_files(tmp_path)) == 1
    with start() as d:
        says(d, KEPT)
    assert [str(os.stat(large).st_ino) in name for name in kept_files(tmp_path)] == [True]


def test_nothing_is_kept_where_the_configuration_says_so(start, tmp_path):
    with start() as d:
        says(d, KEPT)
    with start(config="keep_packed = false;") as d, d.connect() as c:
        c.call("model.load")
        assert TAKEN not in d.log()
    assert len(kept_files(tmp_path)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
def test_a_small_disk_keeps_nothing_and_says_so(start, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "none", cache], check=True)
    try:
        with start() as d, d.connect() as c:
            says(d, "the packed weights are not kept for the next load: ")
            assert "GB wanted, and as much to stay free" in d.log()
            assert reply(c)
            assert kept_files(tmp_path) == []
            assert d.stop() == 0
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_disk_that_fails_keeps_nothing_and_says_so(start, build, tmp_path):
    fails = tmp_path / "fails"
    fails.touch()
    sanitizers = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    with start(environment={"FAKE_DISK": str(fails), "ASAN_OPTIONS": sanitizers,
                            "LD_PRELOAD": str(build / "tests/fake/fake-disk.so")}) as d, \
            d.connect() as c:
        says(d, "the packed weights are not kept for the next load: Input/output error")
        assert reply(c)
        assert kept_files(tmp_path) == []


def test_a_file_that_is_damaged_costs_nothing(start, tmp_path):
    with start() as d, d.connect() as c:
        first = reply(c)
        says(d, KEPT)
    path = tmp_path / "cache/zeph/packed" / kept_files(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    with start() as d, d.connect() as c:
        assert reply(c) == first
        assert TAKEN not in d.log()
        says(d, KEPT)  # and is made anew
    with start() as d, d.connect() as c:
        assert reply(c) == first
        assert TAKEN in d.log()
