"""Real processes that share a torch.distributed group, started once and cheaply."""

import datetime
import socket
import traceback

import torch
import torch.distributed as dist

from tests.child import fork_server

START_SECONDS = 120


def in_processes(count, work, *arguments):
    """`work(rank, count, *arguments)` in `count` gloo processes; their results by rank.

    The processes are forked from one that has imported torch and nothing has run in, so that
    eight cost little more than one. An exception in any of them is raised here, with its traceback.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = fork_server()
    queue = context.Queue()
    processes = [
        context.Process(target=_process, args=(rank, count, port, queue, work, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        results = {}
        for _ in processes:
            rank, result, failure = queue.get(timeout=START_SECONDS + 180)
            assert failure is None, f"process {rank} failed:\n{failure}"
            results[rank] = result
        for process in processes:
            process.join(60)
        return [results[rank] for rank in range(count)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _process(rank, count, port, queue, work, arguments):
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count,
            timeout=datetime.timedelta(seconds=START_SECONDS),
        )  # fmt: skip
        result = work(rank, count, *arguments)
        dist.barrier()
        queue.put((rank, _as_arrays(result), None))
        dist.destroy_process_group()
    except Exception:
        queue.put((rank, None, traceback.format_exc()))


def _as_arrays(value):
    """Tensors travel as arrays: sharing memory between processes needs file descriptors."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {key: _as_arrays(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_arrays(each) for each in value]
    return value
