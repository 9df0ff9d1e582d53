"""Addresses that do not answer and wishes that do not fit, in words and in time."""

import importlib.util
import socket
import time

import pytest

from groupnorm.study.plan import PlanError
from groupnorm.study.runners.ray.connection import (
    Cluster,
    ClusterError,
    check_gpus,
    check_ray,
    check_resources,
    connected,
)


def node(cpus, gpus=0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}}


class FakeNodes:
    """Ray's list of nodes, made up: this machine has no GPUs to show."""

    def __init__(self, *nodes):
        self.nodes = lambda: list(nodes)


def test_wishes_are_checked():
    for wish, told in (
        ({"cpus": 0}, "at least 1 CPU"),
        ({"gpus": -1}, "got -1"),
        ({"gpus": 1.5}, "got 1.5"),
    ):
        with pytest.raises(PlanError, match=told):
            Cluster(**wish)
    with pytest.raises(PlanError, match="needs --gpus-per-trial"):
        check_gpus(Cluster(), "cuda")
    with pytest.raises(PlanError, match="needs --device cuda"):
        check_gpus(Cluster(gpus=1), "cpu")
    check_gpus(Cluster(gpus=0.5), "cuda")


def test_one_node_must_hold_a_whole_trial():
    two = FakeNodes(node(2), node(2, gpus=1))
    assert check_resources(two, Cluster(cpus=2, gpus=0.5)) == (
        "cluster local: 2 nodes, 4 CPUs, 1 GPUs; a trial gets 2 CPUs and 0.5 GPUs"
    )
    for wish in (Cluster(cpus=4), Cluster(gpus=2)):
        with pytest.raises(ClusterError, match="no node of the cluster has"):
            check_resources(two, wish)
    with pytest.raises(ClusterError, match="1 CPU and 0 GPUs"):
        check_resources(FakeNodes(node(2, alive=False)), Cluster())


@pytest.mark.parametrize("address", ["somewhere", "host:", ":1", "ray://host", "1.2.3.4:x"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(PlanError, match="--cluster takes local, auto"):
        Cluster(address)


def test_an_address_where_nothing_listens():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no cluster answers at"), connected(address):
            pass


@pytest.mark.slow
def test_an_address_where_something_else_listens_is_given_up_in_time():
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no Ray cluster answers"), connected(address):
            pass
    assert time.monotonic() - began < 60  # its import of Ray comes on top


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    check_ray()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"pip install 'groupnorm\[cluster\]'"):
        check_ray()
