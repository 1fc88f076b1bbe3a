"""./quickstart: with everything there it answers within seconds, and stdout is the answer alone."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import REPOSITORY


def environment(tmp_path):
    return dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path), ZEPH_SOCKET=str(tmp_path / "other"))


def test_a_second_run_answers_within_seconds(tmp_path):
    run = [REPOSITORY / "quickstart", "Is the sky blue, yes or no."]
    subprocess.run(run, check=True, capture_output=True, env=environment(tmp_path))
    start = time.monotonic()
    done = subprocess.run(run, check=True, capture_output=True, text=True,
                          env=environment(tmp_path))
    assert time.monotonic() - start < 15  # about one second on a quiet machine
    assert done.stdout.strip()
    assert done.stdout == done.stdout.strip() + "\n"
    assert done.stdout.lower().startswith(("no", "yes"))
    assert "asking: Is the sky blue" in done.stderr
    assert os.listdir(tmp_path) == []


def test_the_daemon_goes_when_quickstart_is_stopped(tmp_path):
    """SIGTERM while zephd answers: nothing of it stays behind."""
    with subprocess.Popen([REPOSITORY / "quickstart", "Tell me a very long story."],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment(tmp_path), start_new_session=True) as process:
        for line in process.stderr:
            if "asking" in line:
                break
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) != 0
    deadline = time.monotonic() + 10
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.fixture
def bare(tmp_path):
    """A PATH with a few tools and nothing of Debian's packaging, nor sudo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "id", "mktemp", "rm", "tail", "cat", "dirname", "grep", "sort",
                 "true"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def install(folder):
    return subprocess.run([REPOSITORY / "tests/install-packages", "build"], capture_output=True,
                          text=True, check=False, env={"PATH": str(folder)})


def script(folder, name, body):
    (folder / name).write_text("#!/usr/bin/env bash\n" + body)
    (folder / name).chmod(0o755)


def debian(folder, without=""):
    script(folder, "dpkg", "echo amd64\n")
    script(folder, "dpkg-query", f'[ "$3" != "{without}" ] || exit 1\necho amd64 installed\n')


def test_another_system_is_told_the_packages(bare):
    done = install(bare)
    assert done.returncode == 1
    assert "not a Debian system" in done.stderr and "libmsgpack-dev" in done.stderr


def test_without_root_and_sudo_the_missing_packages_are_named(bare):
    debian(bare, without="libconfig-dev")
    script(bare, "apt-get", "exit 1\n")
    (bare / "id").unlink()
    script(bare, "id", "echo 1000\n")
    done = install(bare)
    assert done.returncode == 1
    assert "libconfig-dev" in done.stderr and "libmsgpack-dev" not in done.stderr
    assert "sudo" in done.stderr


def test_with_everything_installed_neither_root_nor_apt_is_needed(bare):
    debian(bare)
    script(bare, "apt-get", "echo apt-get was called >&2\nexit 1\n")
    (bare / "id").unlink()
    script(bare, "id", "echo 1000\n")
    done = install(bare)
    assert (done.returncode, done.stderr) == (0, "")


def test_only_what_is_missing_is_installed_through_sudo(bare, tmp_path):
    log = tmp_path / "log"
    debian(bare, without="libconfig-dev")
    script(bare, "apt-get", f'echo "$@" >>{log}\n')
    script(bare, "sudo", '[ "$1" != -n ] || shift\nexec "$@"\n')
    (bare / "id").unlink()
    script(bare, "id", "echo 1000\n")
    done = install(bare)
    assert done.returncode == 0, done.stderr
    update, installed = log.read_text().splitlines()
    assert update.endswith(" update")
    assert installed.endswith("install -y --no-install-recommends libconfig-dev")
