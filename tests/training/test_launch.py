"""What torchrun's environment says, speaking once, being asked to end."""

import signal
import subprocess
import sys
import threading

import pytest
import torch
import torch.distributed as dist

from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.launch import (
    Launch,
    ProcessLostError,
    exit_on_signal,
    find_launch,
    joined,
)

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_alone_without_a_launch(monkeypatch):
    assert find_launch().processes == ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    launch = find_launch()
    assert launch.processes == ALONE
    said = []
    for _ in range(2):
        launch.log_once(lambda: said.append(1))
    assert said == [1, 1]
    before = signal.getsignal(signal.SIGTERM)
    with exit_on_signal(launch, said.append), joined(launch, "cpu", str):
        assert signal.getsignal(signal.SIGTERM) is before
        assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number of processes, got 'two'"),
        ({"WORLD_SIZE": "2"}, "2 processes train together, but RANK is None; .* torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a number of processes, got '0'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, but WORLD_SIZE says that 2 processes"),
    ],
)
def test_an_environment_that_makes_no_sense(monkeypatch, values, message):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        find_launch()


def test_two_processes_meet_and_one_speaks(monkeypatch):
    """Both ends of the launch in one process, on the store that they meet at."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    launches = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        launches.append(find_launch())
    assert [launch.processes for launch in launches] == [Processes(0, 2), Processes(1, 2)]
    assert [launch.local for launch in launches] == [0, 1]
    said = []
    threads = [
        threading.Thread(target=launch.log_once, args=(lambda rank=rank: said.append(rank),))
        for rank, launch in enumerate(launches)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1
    assert [
        launch.common_status(status) for launch, status in zip(launches, (2, 1), strict=True)
    ] == [2, 2]


def test_where_the_store_died_everyone_speaks():
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = dist.TCPStore("127.0.0.1", server.port)
    launch = Launch(Processes(1, 2), 1, store, store.clone())
    del server
    said = []
    launch.log_once(lambda: said.append("lost"))
    assert said == ["lost"]
    assert launch.common_status(2) == 2


def test_every_process_has_a_gpu_of_its_own():
    found = torch.cuda.device_count()
    launch = Launch(Processes(found, found + 2), found)
    assert launch.device("cpu") == "cpu"
    assert Launch().device("cuda") == "cuda"
    assert Launch().device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="'cuda:0' is one GPU for 2 processes"):
        Launch(Processes(0, 2)).device("cuda:0")
    with pytest.raises(RuntimeError, match=f"needs a GPU of its own, torch finds {found};"):
        launch.device("cuda")
    if found:
        assert Launch(Processes(0, 2), 0).device("cuda") == "cuda:0"


@pytest.mark.parametrize("message", ["[../gloo/transport/tcp/pair.cc:547] Connection closed by x"])
def test_what_says_that_a_process_was_lost(message, monkeypatch):
    launch = Launch(Processes(0, 2), 0, dist.HashStore())
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(Processes, "barrier", lambda _: None)
    with (
        pytest.raises(ProcessLostError, match=r"lost \(\[../gloo.*\); all is well"),
        joined(launch, "cpu", lambda: "all is well"),
    ):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match=r"^out of memory$"), joined(launch, "cpu", str):
        raise RuntimeError("out of memory")


STUCK = """
import signal, subprocess, sys, time, threading
import torch.distributed as dist
from groupnorm.training.launch import Launch, exit_on_signal
from groupnorm.training.distributed import Processes

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
reports = store.clone()
launch = Launch(Processes(0, 2), 0, store, reports)
if status := sys.argv[1:]:
    Launch(Processes(1, 2), 1, store, reports.clone()).common_status(int(status[0]))
with exit_on_signal(launch, lambda reason: print(reason, flush=True)):
    signal.signal(signal.SIGCHLD, lambda *_: None)  # as torch's DataLoader does
    subprocess.run(["true"])  # the end of a child ends nothing
    time.sleep(0.2)
    print("ready", flush=True)
    store.get("what nobody sets")  # waits in C++, for minutes
"""


ENDS = """
import atexit
import torch.distributed as dist
from groupnorm.training.launch import Launch
from groupnorm.training.distributed import Processes

atexit.register(print, "Python's own end")
Launch().end(3)
print("alone it goes on")
Launch(Processes(0, 2), 0, dist.HashStore()).end(2)
"""


@pytest.mark.slow
def test_one_of_several_ends_where_it_stands():
    done = subprocess.run([sys.executable, "-c", ENDS], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (2, "alone it goes on\n")


def test_none_leaves_before_all_have_joined(monkeypatch):
    """One that ends while another is still connecting would end that one, too."""
    done = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: done.append("connected"))
    monkeypatch.setattr(Processes, "barrier", lambda _: done.append("waited"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("left"))
    with joined(Launch(Processes(0, 2), 0, dist.HashStore()), "cpu", str):
        done.append("began")
    assert done == ["connected", "waited", "began", "left"]


@pytest.mark.parametrize(
    ("before", "status"), [((), 1), pytest.param(("2",), 2, marks=pytest.mark.slow)]
)
def test_told_to_end_while_waiting_for_the_lost(before, status):
    """It ends as another process has ended before, if one has."""
    command = [sys.executable, "-c", STUCK, *before]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout.readline() == "ready\n"
        one.send_signal(signal.SIGTERM)
        assert "SIGTERM came" in one.stdout.read()
        assert one.wait(10) == status
