"""tests/count-results: the last line of ./check counts what really passed."""

import json
import subprocess
import sys

import pytest

from conftest import REPOSITORY


def count(kind, path):
    done = subprocess.run([sys.executable, REPOSITORY / "tests/count-results", kind, path],
                          stdout=subprocess.PIPE, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def meson(tmp_path, *tests):
    log = tmp_path / "testlog.json"
    log.write_text("".join(
        json.dumps({"name": "t", "result": result, "stdout": output}) + "\n"
        for result, output in tests))
    return count("meson", log)


@pytest.mark.parametrize("result, output, expected", [
    ("OK", "1..2\nok 1 - a\nok 2 - b\n", [2, 0, 0]),
    ("FAIL", "1..2\nok 1 - a\nnot ok 2 - b\n# 1 != 2\n", [1, 1, 0]),
    ("OK", "1..2\nok 1 - a\nnot ok 2 # SKIP b\n", [1, 0, 1]),
    ("OK", "1..2\nok 1 - a\nok 2 # skip no card\n", [1, 0, 1]),
    ("OK", "1..1\nok 1 - a\n1..2\nok 1 - b\nok 2 - c\n", [3, 0, 0]),
    ("OK", "1..1\nok 1 - okra is not ok\n", [1, 0, 0]),
])
def test_each_tap_line_counts(tmp_path, result, output, expected):
    assert meson(tmp_path, (result, output)) == expected


@pytest.mark.parametrize("result, output, expected", [
    ("FAIL", "1..3\nok 1 - a\n", [1, 2, 0]),       # died in the second
    ("ERROR", "1..1\nok 1 - a\n", [1, 1, 0]),      # died, or a sanitizer spoke, after the last
    ("TIMEOUT", "1..3\nok 1 - a\nok 2 - b\n", [2, 1, 0]),
    ("FAIL", "", [0, 1, 0]),                       # did not start
    ("OK", "", [0, 1, 0]),                         # ran nothing
    ("OK", "1..0\n", [0, 1, 0]),
])
def test_a_program_that_ends_early_has_not_passed(tmp_path, result, output, expected):
    assert meson(tmp_path, (result, output)) == expected


def test_programs_add_up(tmp_path):
    assert meson(tmp_path, ("OK", "1..1\nok 1 - a\n"), ("FAIL", "1..1\nnot ok 1 - b\n")) == [1, 1, 0]


def test_a_missing_or_empty_log_is_a_failure(tmp_path):
    assert count("meson", tmp_path / "none.json") == [0, 1, 0]
    assert count("pytest", tmp_path / "none.xml") == [0, 1, 0]
    (tmp_path / "empty").write_text("")
    assert count("meson", tmp_path / "empty") == [0, 1, 0]
    assert count("pytest", tmp_path / "empty") == [0, 1, 0]


def test_pytest_cases_count_once_each(tmp_path):
    module = tmp_path / "test_mixed.py"
    module.write_text("""
import pytest

def test_good(): pass
def test_bad(): assert False
@pytest.mark.skip(reason="no card")
def test_skipped(): pass
@pytest.fixture
def broken(): raise OSError
def test_error(broken): pass
@pytest.mark.parametrize("n", range(3))
def test_many(n): pass
@pytest.fixture
def broken_at_the_end():
    yield
    raise OSError
def test_bad_twice(broken_at_the_end): assert False
""")
    xml = tmp_path / "results.xml"
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                    f"--junit-xml={xml}", module], cwd=tmp_path, stdout=subprocess.DEVNULL,
                   check=False)
    assert count("pytest", xml) == [4, 3, 1]


def test_a_module_that_does_not_load_is_a_failure(tmp_path):
    (tmp_path / "test_broken.py").write_text("import a_module_that_is_not_there\n")
    xml = tmp_path / "results.xml"
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                    f"--junit-xml={xml}", tmp_path], cwd=tmp_path, stdout=subprocess.DEVNULL,
                   check=False)
    assert count("pytest", xml) == [0, 1, 0]
