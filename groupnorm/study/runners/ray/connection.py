"""Finding, starting and leaving a Ray cluster. Ray is imported when it is connected to."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from groupnorm.study.plan import PlanError
from groupnorm.study.runners.local import available_cores

CONNECT_SECONDS = 20.0
# Connects and leaves; in a process of its own because a connection to what does not answer cannot
# be given up inside the study's process.
PROBE = """
import logging, sys, ray
print("ready", flush=True)  # what comes before is the machine's time, not the cluster's
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
"""


class ClusterError(RuntimeError):
    """The cluster does not answer, was lost, or cannot run the trials."""


@dataclass(frozen=True)
class Cluster:
    """Where trials run as Ray tasks, and what each of them gets.

    Args:
        address: "local" starts a Ray of its own on this machine; "auto" (the one that runs on this
            machine, or RAY_ADDRESS), "HOST:PORT" and "ray://HOST:PORT" join one.
        cpus: CPUs of a trial, which are also its threads.
        gpus: GPUs of a trial; a part of one below 1.

    Raises:
        PlanError: an address of another form, fewer than one CPU, a negative number of GPUs, or
            one such as 1.5.
    """

    address: str = "local"
    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if self.address not in ("local", "auto") and not (host and re.fullmatch("[0-9]+", port)):
            raise PlanError(
                f"--cluster takes local, auto, HOST:PORT or ray://HOST:PORT, got {self.address!r}"
            )
        if self.cpus < 1:
            raise PlanError(f"a trial needs at least 1 CPU, got {self.cpus}")
        whole_or_part = 0 <= self.gpus <= 1 or (self.gpus > 1 and self.gpus % 1 == 0)
        if not whole_or_part:
            raise PlanError(
                f"GPUs of a trial: 0, a part of one such as 0.5, or a whole number, got {self.gpus}"
            )


def check_ray() -> None:
    """Check that Ray is installed, without importing it.

    Raises:
        ClusterError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(
            "trials on a cluster need Ray; install it with: pip install 'groupnorm[cluster]'"
        )


def check_gpus(cluster: Cluster, device: str) -> None:
    """Check that trials on `device` ask for a GPU, and no others.

    Raises:
        PlanError: they do not.
    """
    if device.startswith("cuda") and cluster.gpus == 0:
        raise PlanError(f"device {device!r} on a cluster needs --gpus-per-trial above 0")
    if cluster.gpus > 0 and not device.startswith("cuda"):
        raise PlanError(f"--gpus-per-trial {cluster.gpus:g} needs --device cuda, got {device!r}")


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected; what was started here is stopped, and its files are removed, at the end.

    Raises:
        ClusterError: nothing answers at `address` within CONNECT_SECONDS, or not as it should.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address != "local":
        _check_answers(address)
    import ray

    options: dict[str, Any] = {"address": address}
    scratch = None
    if address == "local":
        scratch = tempfile.mkdtemp(prefix="ray-")  # short: it holds sockets
        options |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "_temp_dir": scratch,
            "_system_config": {"worker_niceness": 0},  # Ray's 15 lets everything else go first
        }
    with _terminate_handler_kept():
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"cannot use the cluster {address!r}: {error}") from error
    # Its lines about lost nodes would stand between the study's own, which say the same.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield ray
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _terminate_handler_kept() -> Iterator[None]:
    """Ray installs its own handler of SIGTERM; the study's stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Raise unless a Ray cluster answers at `address` within CONNECT_SECONDS."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise ClusterError(
                f"no cluster answers at {address}: {error}. Start one there with: "
                "ray start --head --disable-usage-stats"
            ) from None
    with subprocess.Popen(
        [sys.executable, "-c", PROBE, address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as probe:
        assert probe.stdout is not None
        probe.stdout.readline()
        try:
            _, errors = probe.communicate(timeout=CONNECT_SECONDS)
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"no Ray cluster answers at {address} within {CONNECT_SECONDS:.0f} seconds"
            ) from None
        finally:
            probe.kill()
    if probe.returncode != 0:
        lines = errors.strip().splitlines() or ["it ended without a message"]
        raise ClusterError(f"cannot join the cluster {address!r}: {lines[-1]}")


def check_resources(ray: Any, cluster: Cluster) -> str:
    """What the cluster has, in words.

    Raises:
        ClusterError: no node has what one trial asks for.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    has = [(n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)) for n in nodes]
    if not fitting(nodes, cluster):
        listing = "; ".join(f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in has)
        raise ClusterError(
            f"no node of the cluster has {needs(cluster)}, which one trial asks for "
            f"(its nodes: {listing or 'none'}); ask for less with --cpus-per-trial and "
            "--gpus-per-trial, or add a node"
        )
    return (
        f"cluster {cluster.address}: {len(nodes)} node{'s' if len(nodes) != 1 else ''}, "
        f"{sum(c for c, _ in has):g} CPUs, {sum(g for _, g in has):g} GPUs; "
        f"a trial gets {needs(cluster)}"
    )


def fitting(nodes: list[dict[str, Any]], cluster: Cluster) -> bool:
    """Whether any of Ray's `nodes` is alive and has what a trial asks for."""
    return any(
        node["Alive"]
        and node["Resources"].get("CPU", 0) >= cluster.cpus
        and node["Resources"].get("GPU", 0) >= cluster.gpus
        for node in nodes
    )


def needs(cluster: Cluster) -> str:
    """What a trial asks for, in words."""
    cpus = f"{cluster.cpus} CPU{'s' if cluster.cpus != 1 else ''}"
    return f"{cpus} and {cluster.gpus:g} GPU{'s' if cluster.gpus != 1 else ''}"
