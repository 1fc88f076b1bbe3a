"""zephd's configuration: what is wrong is named with file and line, and nothing is guessed."""

import os
import subprocess

import pytest

pytestmark = pytest.mark.daemon


@pytest.fixture
def check(build, tmp_path):
    """Runs --check-config on a text; the process that has ended."""

    def run(text, mode=0o600, **files):
        for name, content in files.items():
            (tmp_path / name).write_text(content)
            (tmp_path / name).chmod(0o600)
        conf = tmp_path / "zephd.conf"
        conf.write_text(text)
        conf.chmod(mode)
        return subprocess.run([build / "daemon/zephd", "--config", conf, "--check-config"],
                              capture_output=True, text=True, timeout=60)

    return run


def test_an_empty_file_is_good(check):
    done = check("")
    assert done.returncode == 0 and done.stdout.endswith("zephd.conf: good\n")


def test_all_groups(check):
    done = check("""
        socket: { path = "/run/zeph/zeph.sock"; use_path = "/run/zeph/use.sock"; mode = "0660"; };
        model: { path = "/m.gguf"; template = "zephyr"; sliding_window = 4096; context = 0; };
        engine: { device = "cpu"; activations = "exact"; kv_type = "f16"; threads = 2;
                  kv_bytes = 5000000000L; prefill_tokens = 256; max_sequences = 8; };
        limits: { frame_bytes = 4096; reply_bytes = 4096; stall_seconds = 5; };
        defaults: { temperature = 1; top_p = 0.5; do_sample = false; };  # 1: an int is a number
        classes: { use = (1000, "gid:100", "root"); manage = [];
                   priority = { members = (1000); queue_per_uid = 4; connections_per_uid = 3;
                                bytes_per_uid = 1048576; prompt_tokens_per_uid = 5;
                                max_new_tokens = 0; sessions_per_uid = 0;
                                session_bytes_per_uid = 1024; weight = 100; }; };
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line, words", [
    ("engin: { };", ["engin", "unknown group", "engine"]),
    ("engine: { thread = 1; };", ["unknown key engine.thread"]),
    ("engine: { threads = \"2\"; };", ["engine.threads", "text", "an integer"]),
    ("engine: { threads = 2.5; };", ["engine.threads", "fraction", "an integer"]),
    ("engine: { threads = -1; };", ["engine.threads", "-1", "0 to 1024"]),
    ("engine: { kv_bytes = 5000000000; };", ["5000000000", "L"]),
    ("engine: { device = \"gpu\"; };", ["engine.device", "gpu", "cuda"]),
    ("engine: { activations = \"slow\"; };", ["engine.activations", "slow", "exact"]),
    ("model: { path = \"\"; };", ["model.path", "empty"]),
    ("model: { path = 5; };", ["model.path", "an integer", "text"]),
    ("socket: { mode = \"0999\"; };", ["socket.mode", "0999"]),
    ("socket: { mode = 0660; };", ["socket.mode", "0660"]),
    ("defaults: { top_p = 1.5; };", ["defaults.top_p", "1.5"]),
    ("defaults: { do_sample = 1; };", ["defaults.do_sample", "true or false"]),
    ("classes: { use = 1000; };", ["classes.use", "a list"]),
    ("classes: { use = [\"no such group\"]; };", ["no such group"]),
    ("classes: { use = [\"gid:x\"]; };", ["gid:x", "no gid"]),
    ("classes: { use = [-1]; };", ["-1", "no uid"]),
    ("classes: { use = { member = (1000); }; };", ["unknown key classes.use.member"]),
    ("classes: { use = { frame_bytes = 4096; }; };", ["unknown key classes.use.frame_bytes"]),
    ("classes: { priority = { queue_per_uid = 0; }; };",
     ["classes.priority.queue_per_uid", "0", "1 to 65536"]),
    ("classes: { manage = { weight = 2.5; }; };",
     ["classes.manage.weight", "fraction", "an integer"]),
    ("classes: { manage = { members = { }; }; };",
     ["classes.manage.members", "a group", "wanted a list"]),
    ("classes: { use = { members = (\"no such group\"); }; };", ["no such group"]),
    ("classes: { queue_per_uid = 1; };", ["unknown key classes.queue_per_uid"]),
    ("classes: { weight = 1; };", ["unknown key classes.weight"]),
    ("limits: { weight = 1; };", ["unknown key limits.weight"]),
    ("model: { shared_prefix_file = \"none\"; };", ["model.shared_prefix_file", "none"]),
    ("model: { shared_prefix_file = \".\"; };", ["model.shared_prefix_file", "regular"]),
    ("model: { shared_prefix_file = \"/dev/null\"; };", ["/dev/null", "regular"]),
    ("limits: { frame_bytes = 1; };", ["limits.frame_bytes", "1", "4096"]),
    ("limits: 5;", ["limits", "a group"]),
    ("limits: { connections = ; };", ["syntax error"]),
    ("@include \"missing.conf\"", ["missing.conf"]),
])
def test_what_is_wrong_is_named_with_file_and_line(check, line, words):
    done = check(f"# one\n\n{line}\n")
    assert done.returncode == 78
    assert "zephd.conf:3: " in done.stderr, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_an_included_file_is_named_with_its_own_line(check):
    done = check('engine: { threads = 1; };\n@include "more"\n', more="\nlimits: { nonsense = 1; };\n")
    assert done.returncode == 78
    assert "more:2: " in done.stderr and "limits.nonsense" in done.stderr


def test_a_file_that_includes_itself_is_told(check):
    done = check('@include "zephd.conf"\n')
    assert done.returncode == 78 and "zephd.conf:1: " in done.stderr


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(check, mode):
    done = check("", mode)
    assert done.returncode == 78 and "zephd.conf" in done.stderr and "writ" in done.stderr


def test_an_included_file_that_others_may_write_is_refused(check, tmp_path):
    (tmp_path / "loose").write_text("")
    (tmp_path / "loose").chmod(0o666)
    done = check('@include "loose"\n')
    assert done.returncode == 78 and "loose" in done.stderr and "writ" in done.stderr


def test_the_file_of_the_shared_prefix(check, tmp_path):
    line = 'model: { shared_prefix_file = "prefix"; };'
    assert check(line, prefix="You are terse.\n").returncode == 0
    for text, words in (("", "is empty"), ("\n", "is empty"), ("a\0b", "a zero byte")):
        done = check(line, prefix=text)
        assert done.returncode == 78 and "zephd.conf:1: " in done.stderr and words in done.stderr
    done = check('model: { shared_prefix = "x"; shared_prefix_file = "prefix"; };', prefix="x")
    assert done.returncode == 78 and "model.shared_prefix_file: it is given" in done.stderr
    (tmp_path / "prefix").chmod(0o666)
    (tmp_path / "zephd.conf").write_text(line)
    done = check(line)
    assert done.returncode == 78 and "others can write" in done.stderr


def test_a_missing_file_that_was_named_is_an_error(build, tmp_path):
    done = subprocess.run([build / "daemon/zephd", "--config", tmp_path / "none", "--check-config"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 78 and str(tmp_path / "none") in done.stderr


def test_no_file_is_needed(build, tmp_path):
    done = subprocess.run([build / "daemon/zephd", "--check-config"], capture_output=True, text=True,
                          timeout=60, env=dict(os.environ, CONFIGURATION_DIRECTORY=str(tmp_path)))
    assert done.returncode == 0 and done.stdout == "no configuration file: good\n"


@pytest.mark.parametrize("options, word", [
    (["--threads", "x"], "x"), (["--threads", "-1"], "-1"), (["--device", "gpu"], "gpu"),
    (["--context", "99999999999"], "99999999999"), (["--nonsense"], "nonsense"), (["word"], "word"),
    (["--model"], "model"),
])
def test_usage_errors_exit_2_with_a_sentence(build, options, word):
    done = subprocess.run([build / "daemon/zephd", *options], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 2 and word in done.stderr
