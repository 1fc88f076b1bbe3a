"""The GPU suite and its bundle, as far as a machine without a card goes: on the fake cards of
tests/fake, the suite runs its stages, counts, reports, sees a failure and keeps its time; the bundle
brings every library that it needs. What a stage finds on a card only a card can tell."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bundle(build, tmp_path_factory):
    if not shutil.which("patchelf"):
        pytest.fail("patchelf is missing: tests/install-packages tests")
    folder = tmp_path_factory.mktemp("bundle")
    modules = folder / "modules"
    modules.mkdir()
    shutil.copy2(build / "tests/fake/fake-cuda.so", modules / "zeph-cuda13.so")
    made = subprocess.run([REPOSITORY / "tests/gpu/bundle", "--build", build, "--modules", modules,
                           folder / "zeph-gpu"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert re.search(r": \d+ bytes, 1 modules, at most GLIBC_2\.\d+$", made.stdout.strip())
    return folder / "zeph-gpu"


def suite(folder, out, *options, environment=None, seconds=120):
    """Exit status, what it printed, and its report: run as on a machine that has nothing of ours."""
    run = subprocess.run(
        [folder / "tests/gpu/run", "--shape", "tiny", "--out", out, *options],
        capture_output=True, text=True, timeout=seconds,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "FAKE_CUDA_VERSION": "13000",
             "LD_LIBRARY_PATH": os.environ["ZEPH_FAKE"],
             "FAKE_CARDS": "Fake 1:90:16000000000:8000000000", **(environment or {})})
    reports = list(out.glob("*.json"))
    return run, json.loads(reports[0].read_text()) if reports else None


@pytest.fixture(autouse=True)
def fake(build, monkeypatch):
    monkeypatch.setenv("ZEPH_FAKE", str((build / "tests/fake").resolve()))


def test_every_library_is_beside_the_programs(bundle):
    programs = [p for p in (bundle / "build").rglob("*") if p.is_file() and p.suffix != ".so"]
    assert len(programs) == 8
    inside = str(bundle.resolve() / "lib")
    for program in programs:
        lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True,
                               env={"PATH": "/usr/bin:/bin"}).stdout.splitlines()
        for line in lines:
            name, _, where = (word.strip() for word in line.partition("=>"))
            if not where or re.match(r"lib(c|m|dl|rt|pthread|resolv)\.so\.", name):
                continue
            assert os.path.realpath(where.split()[0]).startswith(inside), line


def test_the_stages_run_and_the_report_says_what_was_there(bundle, tmp_path):
    run, found = suite(bundle, tmp_path, "--stage", "tokens", "--stage", "speed", "--stage",
                       "socket", "--stage", "sanitize")
    assert run.returncode == 0, run.stdout + run.stderr
    passed, failed, skipped = map(int, re.fullmatch(
        r"(\d+) passed, (\d+) failed, (\d+) skipped", run.stdout.splitlines()[-1]).groups())
    assert (passed, failed, skipped) == (found["passed"], found["failed"], found["skipped"])
    assert failed == 0 and passed > 30
    assert [s["name"] for s in found["stages"]] == ["tokens", "speed", "socket", "sanitize"]
    assert found["commit"] == (bundle / "COMMIT").read_text().strip()
    assert found["card"] == "Fake 1" and found["sm"] == "sm_90" and found["real"] is False
    markdown = next(tmp_path.glob("*.md"))
    assert markdown.stem == f"{found['commit']}-fake-1"
    assert "**No real card was here**" in markdown.read_text()
    speed = found["stages"][1]["tables"]
    assert [t["title"].split(",")[0] for t in speed] == [
        "bf16", "q8_0", "q4_k_m", "Prompts with engine.exact = false", "q8_0"]
    assert [row[0] for row in speed[0]["rows"]] == ["pp16", "pp40", "tg4", "tg4@d20", "b2"]


def test_a_lost_card_fails_the_stage_and_the_next_goes_on(bundle, tmp_path):
    run, found = suite(bundle, tmp_path, "--stage", "speed", "--stage", "sanitize",
                       environment={"ZEPH_FAULT": "sticky:30"})
    assert run.returncode == 1
    assert re.fullmatch(r"0 passed, 1 failed, 1 skipped", run.stdout.splitlines()[-1])
    assert "illegal memory access" in found["stages"][0]["checks"][0]["detail"]
    assert found["stages"][1]["skipped"]


def test_a_stage_that_hangs_is_cut(bundle, tmp_path):
    run, found = suite(bundle, tmp_path, "--stage", "speed", "--seconds", "3",
                       environment={"ZEPH_FAULT": "hang:30"})
    assert run.returncode == 1 and found["failed"] == 1
    assert "all done in 3 s" in found["stages"][0]["checks"][0]["name"]
    assert "cut short: zeph-bench" in found["stages"][0]["checks"][0]["detail"]


def test_no_card_is_one_sentence(bundle, tmp_path):
    run, found = suite(bundle, tmp_path, environment={"FAKE_CARDS": ""})
    assert run.returncode == 1 and found is None
    assert "there is no NVIDIA card in this machine" in run.stderr
    assert run.stdout.splitlines()[-1] == "0 passed, 1 failed"


@pytest.mark.cuda
def test_the_stages_pass_on_the_shim(build, tmp_path):
    """Not a card, but the backend's own code: that the suite asks the right things of it."""
    run = subprocess.run(
        [REPOSITORY / "tests/gpu/run", "--shape", "tiny", "--build", build, "--out", tmp_path,
         "--stage", "tokens", "--stage", "speed", "--stage", "socket"],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "ZEPH_CUDA_MODULE": str((build / "tests/shim/shim-cuda.so").resolve()),
             "LD_LIBRARY_PATH": str((build / "tests/shim").resolve())})
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.fullmatch(r"54 passed, 0 failed", run.stdout.splitlines()[-1])
