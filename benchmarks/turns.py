"""Timing of variants that take turns in one process, on the CPU and on a GPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ROUNDS = 15
SECONDS_PER_TURN = 0.004
GPU_ROUNDS = 50
CALLS_IN_A_ROW = 30
FLUSHED_BYTES = 2**30  # more than the cache of any GPU; a quarter of a millisecond on an H200

Seconds = dict[str, dict[str, float]]
Variants = dict[str, Callable[[], Any]]


def on_cpu(
    variants: Variants,
    clock: Callable[[], float] = time.perf_counter,
    rounds: int = ROUNDS,
) -> Seconds:
    """Seconds of one call: least, median and quartiles over rounds in which all take turns.

    Args:
        clock: `time.process_time` leaves out the time in which other processes run.
    """
    calls = {}
    for name, call in variants.items():
        call()
        began = clock()
        call()
        calls[name] = max(1, math.ceil(SECONDS_PER_TURN / (clock() - began)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            began = clock()
            for _ in range(calls[name]):
                call()
            seconds[name].append((clock() - began) / calls[name])
    return _summary(seconds)


def on_cuda(variants: Variants) -> Seconds:
    """The same in time of the GPU, by events; its cache is filled with other data before each call.

    Filling it takes longer than launching, so that a call's kernels wait for it, not for Python:
    what is measured is the GPU.
    """
    other = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    for call in variants.values():
        for _ in range(3):
            call()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in variants}
    for _ in range(GPU_ROUNDS):
        for name, call in variants.items():
            begin, end = (_event() for _ in range(2))
            other.zero_()
            begin.record()
            call()
            end.record()
            events[name].append((begin, end))
    torch.cuda.synchronize()
    return _summary(
        {name: [b.elapsed_time(e) / 1e3 for b, e in pairs] for name, pairs in events.items()}
    )


def in_a_row(variants: Variants) -> Seconds:
    """Of calls one after another, nothing between: what launching costs where that is more."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, call in variants.items():
            call()
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(CALLS_IN_A_ROW):
                call()
            torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - began) / CALLS_IN_A_ROW)
    return _summary(seconds)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _summary(seconds: dict[str, list[float]]) -> Seconds:
    result = {}
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"median": middle, "low": low, "high": high, "least": min(values)}
    return result
