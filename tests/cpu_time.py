"""How much CPU time each test takes, its child processes included.

A test that is not marked `slow` should take at most LIMIT seconds: those above are listed at the
end. With `--enforce-cpu-time SECONDS` those above that many fail: CI allows twice the limit, for
its machines differ in speed.
"""

import os
from pathlib import Path

import pytest

LIMIT = 3.0
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """CPU time of this process and all its descendants, those still alive included."""
    return sum(os.times()[:4]) + sum(map(_of_process, _children("self")))


def _children(process) -> list[str]:
    try:
        return [
            child
            for task in Path(f"/proc/{process}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has ended, or the system has no /proc
        return []


def _of_process(process: str) -> float:
    """Of a live process and its descendants; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own = sum(map(int, fields[11:15])) / TICKS  # utime, stime, cutime, cstime
    return own + sum(map(_of_process, _children(process)))


def pytest_addoption(parser):
    parser.addoption(
        "--enforce-cpu-time",
        type=float,
        metavar="SECONDS",
        help="a test above so much CPU time that is not marked slow fails",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = cpu_seconds()
    result = yield
    seconds = cpu_seconds() - before
    item.user_properties.append(("cpu_seconds", seconds))
    most = item.config.getoption("enforce_cpu_time")
    if most is not None and seconds > most and "slow" not in item.keywords:
        pytest.fail(f"{seconds:.1f} s of CPU time: mark it slow or make it cheaper", pytrace=False)
    return result


def _too_long(seconds, keywords) -> bool:
    return seconds > LIMIT and "slow" not in keywords


def pytest_terminal_summary(terminalreporter):
    reports = [r for key in ("passed", "failed") for r in terminalreporter.getreports(key)]
    took = [(dict(r.user_properties).get("cpu_seconds", 0.0), r) for r in reports]
    above = [(seconds, r.nodeid) for seconds, r in took if _too_long(seconds, r.keywords)]
    if above:
        terminalreporter.section(f"not marked slow, above {LIMIT:g} s of CPU time")
    for seconds, name in sorted(above, reverse=True):
        terminalreporter.line(f"{seconds:6.1f} s  {name}")
