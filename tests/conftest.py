"""What all tests in Python share: where the build and the model are, and the options."""

import os
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=1,
                     help="chooses the prompts of the live comparisons")


def pytest_configure(config):
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
def model():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(os.environ.get("ZEPH_MODEL") or
                        pathlib.Path(cache) / "zeph/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not path.exists():
        pytest.fail(f"{path} is missing: tests/fetch-model brings it")
    return path
