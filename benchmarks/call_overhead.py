"""What a call costs beside its arithmetic, ours and PyTorch's."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm import GroupNorm, group_norm

ROUNDS, WARM_CALLS = 31, 50
FUNCTION = "group_norm and ReLU, 2 x 8 x 2 x 2"
LAYER = "layer, 2 x 64 x 8 x 8"

Call = Callable[[], object]


def calls() -> dict[tuple[str, str], dict[str, Call]]:
    """(what, direction) -> the two that are compared."""
    x, weight, bias, grad = (torch.randn(s) for s in ((2, 8, 2, 2), 8, 8, (2, 8, 2, 2)))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]

    def ours() -> Tensor:
        return group_norm(x, 2, weight, bias, activation="relu", backend="native")

    def eager() -> Tensor:
        return F.relu(F.group_norm(x, 2, weight, bias))

    maps, maps_grad = torch.randn(2, 64, 8, 8, requires_grad=True), torch.randn(2, 64, 8, 8)
    found = {}
    for what, inputs, dy, forwards in (
        (FUNCTION, leaves, grad, (ours, eager)),
        (LAYER, [maps], maps_grad, (of_layer(GroupNorm, maps), of_layer(nn.GroupNorm, maps))),
    ):
        for direction, made in (
            ("forward without gradients", without_gradients),
            ("forward", lambda call: call),
            ("forward+backward", lambda call, i=inputs, d=dy: with_backward(call, i, d)),
        ):
            pair = zip(("groupnorm", "eager"), map(made, forwards), strict=True)
            found[what, direction] = dict(pair)
    return found


def of_layer(kind: type[nn.GroupNorm], x: Tensor) -> Callable[[], Tensor]:
    """The call of a layer whose parameters want gradients, as x does."""
    layer = kind(32, 64)
    return lambda: layer(x)


def without_gradients(call: Callable[[], Tensor]) -> Call:
    """The same under `no_grad`."""

    def run() -> Tensor:
        with torch.no_grad():
            return call()

    return run


def with_backward(call: Callable[[], Tensor], inputs: list[Tensor], grad: Tensor) -> Call:
    """The same, and the gradients of the inputs."""
    return lambda: torch.autograd.grad(call(), inputs, grad)


def measure(clock: Callable[[], float] = time.perf_counter) -> list[dict[str, Any]]:
    """Median microseconds of every call, in turns.

    "warm" is one of many calls in a row, "cold" one call after 10 MB went through the caches, as
    between the layers of a network.
    """
    source = torch.randn(1_300_000)
    target = torch.empty_like(source)
    rows, turns = [], []
    for (what, direction), pair in calls().items():
        times: dict[str, dict[str, list[float]]] = {
            s: {n: [] for n in pair} for s in ("warm", "cold")
        }
        rows.append({"what": what, "direction": direction, **times})
        turns += [(call, times["warm"][name], times["cold"][name]) for name, call in pair.items()]
    for _ in range(ROUNDS):
        random.shuffle(turns)
        for call, warm, cold in turns:
            call()
            began = clock()
            for _ in range(WARM_CALLS):
                call()
            warm.append((clock() - began) / WARM_CALLS)
            target.copy_(source)
            target.add_(source)
            began = clock()
            call()
            cold.append(clock() - began)
    for row in rows:
        for state in ("warm", "cold"):
            row[state] = {n: 1e6 * statistics.median(v) for n, v in row[state].items()}  # type: ignore[attr-defined]
    return rows
