"""zeph and zephctl with a real zephd and a real model: what a person types and what a script reads."""

import json
import os
import signal
import subprocess
import time

import pytest

from zephd import Zephd

pytestmark = pytest.mark.daemon

QUESTION = "Is the sky blue, yes or no."


@pytest.fixture(scope="module")
def daemon(build, model):
    with Zephd(build, model) as d:
        yield d
        assert d.stop() == 0, d.log()


@pytest.fixture
def run(build, daemon):
    """Runs zeph or zephctl against the daemon; the process that has ended."""

    def run(program, *arguments, stdin=None):
        source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run([build / "client" / program, "-S", daemon.socket, *arguments],
                              capture_output=True, text=True, timeout=300, **source)

    return run


def test_a_question_is_answered(run):
    done = run("zeph", "--greedy", QUESTION)
    assert (done.returncode, done.stdout, done.stderr) == (0, "No.\n", "")


def test_stdin_follows_the_words(run):
    asked = "Repeat the following text.\n\n" + QUESTION
    piped = run("zeph", "--greedy", "--json", "Repeat the following text.", stdin=QUESTION)
    assert json.loads(piped.stdout)["text"] == json.loads(
        run("zeph", "--greedy", "--json", asked).stdout)["text"]


def test_json_is_the_result_with_its_receipt(run):
    done = run("zeph", "--json", "-m", "5", "--seed", "7", "Say hello.")
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["usage"]["completion_tokens"] <= 5
    assert answer["receipt"]["seed"] == 7
    assert answer["receipt"]["sampling"]["temperature"] == pytest.approx(0.7)  # as Zephyr's own


def test_stats_go_to_stderr(run):
    done = run("zeph", "--greedy", "--stats", QUESTION)
    assert done.stdout == "No.\n" and "39" in done.stderr  # prompt tokens


def test_a_system_message_changes_the_prompt(run):
    plain = json.loads(run("zeph", "--json", "-m", "1", QUESTION).stdout)
    told = json.loads(run("zeph", "--json", "-m", "1", "-s", "You are a poet.", QUESTION).stdout)
    assert plain["usage"]["prompt_tokens"] != told["usage"]["prompt_tokens"]


def test_raw_text_is_continued(run):
    done = run("zeph", "--raw", "--greedy", "-m", "8", "The capital of France is")
    assert done.returncode == 0 and "Paris" in done.stdout


def test_stop_text(run):
    done = run("zeph", "--raw", "--greedy", "-m", "40", "--stop", "5", "1, 2, 3, 4,")
    assert done.returncode == 0 and "5" not in done.stdout


def test_map_answers_each_line(run):
    done = run("zeph", "--greedy", "-m", "12", "--map", "{}", stdin=f"{QUESTION}\nSay hi.\n")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2 and lines[0] == "No."


@pytest.mark.parametrize("arguments, code, word", [
    (["--top-p", "2", "x"], 4, "E_PARAMS"),
    (["-t", "-1", "x"], 4, "E_PARAMS"),
    (["--raw", "word " * 20000], 4, "E_TOO_LARGE"),
    (["--timeout", "0.05", "--raw", "-m", "2000", "Once upon a time there was"], 6, "E_TIMEOUT"),
    (["--nonsense"], 2, "nonsense"),
])
def test_exit_codes(run, arguments, code, word):
    done = run("zeph", *arguments)
    assert done.returncode == code and word in done.stderr


def test_ctrl_c_frees_the_daemon(build, daemon):
    process = subprocess.Popen([build / "client/zeph", "-S", daemon.socket, "--raw", "-m", "4000",
                                "Once upon a time"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1)
    with daemon.connect() as c:
        before = c.call("status")["requests"]
        assert len(before["mine"]) == 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGINT
        limit = time.monotonic() + 20
        while (after := c.call("status"))["requests"]["mine"] or after["kv"]["used"]:
            assert time.monotonic() < limit
        assert after["requests"]["cancelled"] == before["cancelled"] + 1


def test_zephctl_shows_tokenizes_and_cancels(run, build, daemon):
    assert "ready" in run("zephctl", "status").stdout
    status = json.loads(run("zephctl", "status", "--json").stdout)
    assert status["model"]["architecture"] == "llama" and status["model"]["parameters"] > 100e6
    tokens = run("zephctl", "tokenize", QUESTION)
    with daemon.connect() as c:
        assert [int(t) for t in tokens.stdout.split()] == c.call("tokenize", text=QUESTION)["tokens"]
        number = c.send("complete", prompt="Once upon a time", tag="story", stream=True)
        while not any(name == "token" for name, _ in c.notifications):
            c.notifications.append(c.receive()[1:])
        assert run("zephctl", "cancel", "story").returncode == 0
        assert c.wait(number)["finish"] == "cancelled"


def test_the_hash_of_the_model_is_the_receipts(run, daemon):
    limit = time.monotonic() + 60
    while not (status := json.loads(run("zephctl", "status", "--json").stdout))["model"]["hash"]:
        assert time.monotonic() < limit
        time.sleep(0.1)
    receipt = json.loads(run("zeph", "--json", "-m", "1", "Hi.").stdout)["receipt"]
    assert receipt["model"] == status["model"]["hash"] and len(receipt["model"]) >= 64


def test_zeph_without_a_daemon(build, tmp_path):
    done = subprocess.run([build / "client/zeph", "x"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60,
                          env=dict(os.environ, ZEPH_SOCKET=str(tmp_path / "none"), ZEPH_HOST=""))
    assert done.returncode == 3 and done.stdout == "" and str(tmp_path / "none") in done.stderr
