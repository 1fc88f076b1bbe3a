"""README's examples work as they stand."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import REPOSITORY
from zephd import Zephd

pytestmark = pytest.mark.daemon


def blocks(language):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, language
    return found


@pytest.fixture(scope="module")
def zephd(build, model):
    with Zephd(build, model) as daemon:
        yield daemon


@pytest.fixture
def environment(build, zephd):
    return dict(os.environ, ZEPH_SOCKET=str(zephd.socket),
                PATH=f"{build / 'client'}:{os.environ['PATH']}")


def test_python(environment):
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], env=environment, check=True,
                              capture_output=True, text=True, timeout=300)
        reply, usage = done.stdout.strip().splitlines()
        assert reply.startswith(("No", "Yes")) and "'completion_tokens':" in usage


@pytest.mark.skipif(not shutil.which("nvim"), reason="no Neovim here")
def test_neovim(environment, tmp_path):
    for block in blocks("vim"):
        script = tmp_path / "example.vim"
        script.write_text(block + "quit\n")
        done = subprocess.run(["nvim", "--headless", "--clean", "-S", script], env=environment,
                              check=True, capture_output=True, text=True, timeout=300)
        assert "Smollm2" in done.stdout + done.stderr
        assert "Error" not in done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("nvim"), reason="no Neovim here")
def test_neovim_shows_an_errors_text(environment, tmp_path):
    script = tmp_path / "error.vim"
    script.write_text("let zeph = sockconnect('pipe', $ZEPH_SOCKET, {'rpc': v:true})\n"
                      "try\n"
                      "  call rpcrequest(zeph, 'complete', {'prompt': 'x', 'top_p': 2})\n"
                      "catch\n"
                      "  echo v:exception\n"
                      "endtry\n"
                      "echo rpcrequest(zeph, 'status').state\n"
                      "quit\n")
    done = subprocess.run(["nvim", "--headless", "--clean", "-S", script], env=environment,
                          check=True, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert "E_PARAMS: top_p: " in said and "ready" in said


def test_shell(environment):
    for block in blocks("sh"):
        done = subprocess.run(["sh", "-c", block], env=environment, check=True,
                              capture_output=True, text=True, timeout=300,
                              stdin=subprocess.DEVNULL)
        assert done.stdout.startswith("it says: ")


def test_configuration(build, tmp_path, model):
    for block in blocks("libconfig"):
        conf = tmp_path / "zephd.conf"
        conf.write_text(block.replace("/var/lib/zeph-models/model.gguf", str(model)))
        conf.chmod(0o600)
        subprocess.run([build / "daemon/zephd", "--config", conf, "--check-config"], check=True,
                       timeout=60)
