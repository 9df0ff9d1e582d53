"""Processes of the cluster tests: one that holds the nodes, one that runs a study on them."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import psutil


def hold_nodes():
    """Start a node; start another at every line (its PYTHONPATH); end when the input closes.

    Every line of output is one node: {"address", "pids"}.
    """
    from ray.cluster_utils import Cluster

    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "worker_niceness": 0,  # as `--cluster local` has it
    }
    cluster = Cluster()
    try:
        node = cluster.add_node(num_cpus=1, include_dashboard=False, _system_config=quick)
        tell_node(cluster, node)
        for line in sys.stdin:
            killed = {n for n in cluster.worker_nodes if not n.remaining_processes_alive()}
            cluster.worker_nodes -= killed  # or it would wait for them
            node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": line.strip()})
            cluster.wait_for_nodes()
            tell_node(cluster, node)
    finally:
        cluster.shutdown()


def tell_node(cluster, node):
    pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
    say({"address": cluster.address, "pids": pids})


def run_study():
    """Run the configurations of the JSON on standard input; one line of output for every event."""
    from groupnorm.study.runners.ray.cluster import run_trials_on_cluster
    from groupnorm.study.runners.ray.connection import Cluster, ClusterError
    from groupnorm.training.config import RunConfig

    given = json.load(sys.stdin)
    runs = [RunConfig(**fields) for fields in given["configs"]]
    try:
        records = run_trials_on_cluster(
            Path(given["out"]),
            {run.run_name(): run for run in runs},
            Teller(),
            cluster=Cluster(given["address"]),
        )
    except ClusterError as error:
        tell("error", "", str(error))
    else:
        tell("records", "", [record.status for record in records])


def tell(*event):
    say(event)


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


class Teller:
    def started(self, name, config):
        tell("started", name)

    def stepped(self, name, step, total):
        pass

    def epoch(self, name, metrics):
        tell("epoch", name, metrics["epoch"])

    def ended(self, name, status, reason):
        tell("ended", name, status, reason)

    def moved(self, name, reason):
        tell("moved", name, reason)

    def message(self, text):
        tell("message", "", text)


def family(pids):
    """The processes and all that descend from them."""
    found = []
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            found += [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def trials_of(pids):
    """Names of the runs whose trials descend from the processes of a node."""
    names = set()
    for process in family(pids):
        with contextlib.suppress(OSError):
            output = Path(f"/proc/{process.pid}/fd/1").readlink()
            if output.name == "log.txt":
                names.add(output.parent.name)
    return names


def kill_node(pids):
    """SIGKILL to everything that runs on a node."""
    for process in family(pids):
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    {"nodes": hold_nodes, "study": run_study}[sys.argv[1]]()
