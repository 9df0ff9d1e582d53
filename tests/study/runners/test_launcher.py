"""Trials as processes: what each reports, how each ends, and that none outlives the study.

Most tests have a server whose jobs do what a line of Python says, without torch.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from groupnorm.study.runners import launcher
from groupnorm.study.runners.launcher import LaunchedTrial, Launcher
from tests.study.runners.test_local import configs, run, trials_of, wait_for

# `device` of a job is the line of Python that it runs.
SERVER = """
import os, signal, sys, time
from groupnorm.study.runners import worker
def work(job, send):
    exec(job["device"])
worker.work, worker.PRELOAD = work, ()
worker.main()
"""


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """Launches a line of Python as the trial of a name."""
    monkeypatch.setattr(launcher, "COMMAND", (sys.executable, "-c", SERVER))

    def launch_in(starter, code, name="x"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        return starter.launch(folder, device=code, data_root=None, stop_epoch=None)

    return launch_in


def ended(trial):
    return list(trial.events()), trial.why_unfinished()


def log(tmp_path, name="x"):
    return (tmp_path / "runs" / name / "log.txt").read_text()


def test_what_a_trial_reports_and_how_it_ends(launch, tmp_path):
    with Launcher(3) as starter:
        trial = launch(starter, "send('step', step=1, total=2); print('hello')")
        events, reason = ended(trial)
        assert events == [{"event": "step", "step": 1, "total": 2}]
        assert reason == "its process ended with exit status 0; see log.txt in its folder"
        assert ended(launch(starter, "raise ValueError('bad')"))[1] == "ValueError: bad"
        threads = "send('step', threads=[os.environ['OMP_NUM_THREADS'], job['threads']])"
        assert ended(launch(starter, threads))[0][0]["threads"] == ["3", 3]
        reason = ended(launch(starter, "open('/nowhere')"))[1]
        assert reason == "/nowhere: No such file or directory"
        assert ended(launch(starter, "os._exit(7)"))[1].startswith("its process ended with exit st")
    assert "hello" in log(tmp_path)
    assert "Traceback" in log(tmp_path)
    assert "ValueError: bad" in log(tmp_path)


def test_a_killed_trial_costs_only_itself(launch, tmp_path):
    with Launcher(1) as starter:
        long = launch(starter, "time.sleep(600)", "long")
        cut = launch(starter, "send('step'); time.sleep(600)", "killed")
        events = cut.events()
        assert next(events) == {"event": "step"}
        server = starter.server.pid
        os.kill(trials_of(tmp_path)["killed"], signal.SIGKILL)
        assert list(events) == []
        assert cut.why_unfinished().startswith("its process was killed by signal 9 (by hand")
        assert set(trials_of(tmp_path)) == {"long"}
        assert ended(launch(starter, "send('step')", "next"))[0] == [{"event": "step"}]
        assert starter.server.pid == server
        assert zombies(server) == []
    assert ended(long)[0] == []
    assert trials_of(tmp_path) == {}


def zombies(parent):
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    states = [Path(f"/proc/{c}/stat").read_text().rpartition(")")[2].split()[0] for c in children]
    return [state for state in states if state == "Z"]


def test_a_lost_server_takes_its_trials_along_and_is_started_again(launch, tmp_path):
    with Launcher(1) as starter:
        trial = launch(starter, "send('step'); time.sleep(600)")
        events = trial.events()
        next(events)
        pid = trials_of(tmp_path)["x"]
        starter.server.kill()
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        assert list(events) == []
        assert trial.why_unfinished().startswith("the process that starts the trials was killed")
        assert ended(launch(starter, "send('step')"))[0] == [{"event": "step"}]


def test_a_server_that_cannot_start_is_a_reason(launch, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "COMMAND", (sys.executable, "-c", "import no_such_module"))
    with Launcher(1) as starter:
        reason = ended(launch(starter, ""))[1]
        assert reason == (
            "the process that starts the trials ended with exit status 1; see log.txt in its folder"
        )
        assert "no_such_module" in log(tmp_path)
        assert "ended with exit status 1" in ended(launch(starter, ""))[1]


def test_no_trial_outlives_the_process_that_launched_it(launch, tmp_path):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path\n"
        "from groupnorm.study.runners import launcher\n"
        "launcher.COMMAND = (sys.executable, '-c', sys.argv[2])\n"
        "starter = launcher.Launcher(1)\n"
        "trial = starter.launch(Path(sys.argv[1]), device=\"send('step'); "
        'time.sleep(600)", data_root=None, stop_epoch=None)\n'
        "for event in trial.events(): print(event, flush=True)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "runs" / "x", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline()
        assert set(trials_of(tmp_path)) == {"x"}
        server = children_of(parent.pid)
        parent.kill()
    wait_for(lambda: not trials_of(tmp_path))
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in server))


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_trial_that_cannot_be_started_costs_only_itself(launch, monkeypatch):
    no_second = (
        "import itertools\n"
        "count, real = itertools.count(1), os.fork\n"
        "def fork():\n"
        "    if next(count) == 2: raise OSError(11, 'no processes left')\n"
        "    return real()\n"
        "os.fork = fork\n"
        "worker.main()"
    )
    server = SERVER.replace("worker.main()", no_second)
    monkeypatch.setattr(launcher, "COMMAND", (sys.executable, "-c", server))
    with Launcher(1) as starter:
        first = launch(starter, "time.sleep(1); send('step')")
        assert ended(launch(starter, "send('step')"))[1] == "no processes left"
        assert ended(launch(starter, "send('step')"))[0] == [{"event": "step"}]
        assert ended(first)[0] == [{"event": "step"}]


@pytest.mark.parametrize("stop", [True, False])
def test_the_first_failure_may_end_the_others(launch, tmp_path, stop):
    runs = configs({"seed": 0}, {"seed": 1}, {"seed": 2})
    code = "os._exit(3) if '-s0-' in job['folder'] else time.sleep(600 if {stop} else 0)"
    records, log = run(
        tmp_path, runs, jobs=2, device=code.format(stop=stop), stop_at_first_failure=stop
    )
    assert log.count("started") == (2 if stop else 3)
    assert [r.status for r in records] == ["failed", *(["missing"] * 2 if stop else ["failed"] * 2)]
    assert trials_of(tmp_path) == {}


def test_a_line_that_was_cut_loses_neither_the_next_one_nor_the_end():
    ours, theirs = socket.socketpair()
    server = SimpleNamespace(wait=lambda: 0)
    trial = LaunchedTrial(ours.makefile("r", encoding="utf-8"), server)
    ours.close()
    for line in ({"event": "step"}, {"event": "exit", "code": -11}):
        theirs.sendall(b'{"event": "ep\n' + json.dumps(line).encode() + b"\n")
    theirs.close()
    assert ended(trial) == ([{"event": "step"}], "its process was killed by signal 11")


def test_a_process_that_a_trial_leaves_behind_does_not_delay_its_end():
    ours, theirs = socket.socketpair()
    trial = LaunchedTrial(ours.makefile("r", encoding="utf-8"), SimpleNamespace(wait=lambda: 0))
    ours.close()
    trial.stream.buffer.raw._sock.settimeout(5)  # which is an error while `theirs` is open
    theirs.sendall(b'{"event": "step"}\n{"event": "exit", "code": 3}\n')
    events, reason = ended(trial)
    assert (events, reason[:38]) == ([{"event": "step"}], "its process ended with exit status 3; ")
    theirs.close()


@pytest.mark.slow
def test_started_afresh_a_trial_ends_with_the_same_bits(tmp_path, monkeypatch):
    """Where the system has no safe fork; and both ends as an uninterrupted study."""
    runs = configs({"seed": 0}, {"seed": 1})
    forked, _ = run(tmp_path / "forked", runs)
    monkeypatch.setattr(launcher, "FORKS", False)
    spawned, _ = run(tmp_path / "spawned", runs)
    assert [untimed(r) for r in spawned] == [untimed(r) for r in forked]
    assert [r.status for r in spawned] == ["finished", "finished"]


def untimed(record):
    return [{**row, "timing": None} for row in record.metrics]


@pytest.mark.slow
def test_the_server_is_fit_to_be_forked():
    """One thread, no parallel region and no GPU so far: a child may do all of that anew."""
    code = (
        "import importlib, os, torch\n"
        "from groupnorm.study.runners.worker import PRELOAD\n"
        "[importlib.import_module(name) for name in PRELOAD]\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
        "if not os.fork():\n"
        "    torch.set_num_threads(2)\n"
        "    torch.randn(400, 400) @ torch.randn(400, 400)\n"
        "    os._exit(torch.cuda._is_in_bad_fork())  # as after torch.cuda.is_available()\n"
        "assert os.wait()[1] == 0\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)
