"""A test that takes long is named, and in CI an error, unless it is marked slow."""

import subprocess
import sys

import pytest

from tests import cpu_time

TESTS = """
import subprocess, sys, time
import pytest

def burn():
    while time.process_time() < start + 0.3:
        pass

def test_burns():
    global start
    start = time.process_time()
    burn()

def test_burns_in_a_child():
    code = "import time\\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)

@pytest.mark.slow
def test_is_marked():
    test_burns()

def test_waits():
    time.sleep(0.3)
"""


@pytest.fixture
def outcome(pytester, monkeypatch):
    monkeypatch.setattr(cpu_time, "LIMIT", 0.2)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers = slow")
    return lambda *options: pytester.runpytest_inprocess("-p", "tests.cpu_time", *options)


def test_long_tests_are_named(outcome):
    result = outcome()
    result.assert_outcomes(passed=4)
    text = result.stdout.str()
    named = text.partition("above 0.2 s of CPU time")[2]
    assert "::test_burns\n" in named
    assert "::test_burns_in_a_child" in named
    assert "test_is_marked" not in named
    assert "test_waits" not in named


def test_in_ci_they_are_errors(outcome):
    result = outcome("--enforce-cpu-time", "0.2")
    result.assert_outcomes(passed=2, failed=2)
    assert "s of CPU time: mark it slow or make it cheaper" in result.stdout.str()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_child_that_is_still_alive_counts():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    before = cpu_time.cpu_seconds()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "done\n"
        assert cpu_time.cpu_seconds() - before >= 0.25
        child.stdin.write("\n")
