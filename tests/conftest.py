"""What all tests in Python share: where the build and the model are, and the options."""

import os
import pathlib
import signal
import subprocess

import pytest

from zephd import Zephd

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=1,
                     help="chooses the prompts of the live comparisons")


def pytest_configure(config):
    # A run in the background ignores these, and what it starts would, too.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    config.addinivalue_line(
        "markers", "reference: compares with PyTorch and transformers, live (check --reference)")
    config.addinivalue_line(
        "markers", "cuda: looks at the built CUDA modules (check cuda)")
    config.addinivalue_line(
        "markers", "daemon: drives a running zephd; runs under sanitizers too (check asan)")


@pytest.fixture(scope="session")
def seed(request):
    return request.config.getoption("--seed")


@pytest.fixture(scope="session")
def build():
    return pathlib.Path(os.environ.get("ZEPH_BUILD") or REPOSITORY / "build")


@pytest.fixture(scope="session")
def tiny(build, tmp_path_factory):
    """A random model whose replies are noise, which is all that most rules need."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--type", "f32", "--seed",
                    "1", path], check=True)
    return path


@pytest.fixture(scope="module")
def daemon(build, tiny):
    """One for all tests of a file, with no configuration; files that want another say so."""
    with Zephd(build, tiny) as d:
        yield d
        assert d.stop() == 0, d.log()


@pytest.fixture(scope="session")
def model():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(os.environ.get("ZEPH_MODEL") or
                        pathlib.Path(cache) / "zeph/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not path.exists():
        pytest.fail(f"{path} is missing: tests/fetch-model brings it")
    return path
