"""Ways to the gradient of group norm with SiLU in JAX: milliseconds, and memory in a network.

    python benchmarks/bench_jax_gradients.py [--out FILE.json]

All take turns on one core and one thread, in float32, channels last, with memory that is kept from
call to call, after their gradients have been compared: the rule of
`groupnorm.frameworks.jax.group_norm`, the same without recomputing (`jax.checkpoint`),
`custom_vjp`, autodiff of the same formula, and flax. "jit" has forward and backward in one compiled
function; "two jits" has them in one each, as a step by hand does. The network is 8 convolutions of
3 x 3, each with norm and SiLU. It needs

    pip install -e '.[jax]'
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

# one thread; JAX reads this when it is loaded
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import turns
from jax import Array

from groupnorm.environment import environment
from groupnorm.frameworks.jax.activations import activate
from groupnorm.memory import keep_large_blocks

# by name: the package's attribute of this name is the function
own = import_module("groupnorm.frameworks.jax.group_norm")

SHAPES = (((1, 56, 56, 64), 8), ((2, 28, 28, 256), 32), ((4, 56, 56, 256), 32))
NETWORK, NETWORK_GROUPS, LAYERS = (4, 56, 56, 32), 8, 8
EPS, ACTIVATION = 1e-5, "silu"
GATE = 1e-3  # largest difference of gradients, relative to the largest gradient

Norm = Callable[[Array, Array, Array, int], Array]


def formula(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """What the rule differentiates by hand, for autodiff."""
    axis = x.ndim - 1
    statistics = own._statistics(x, groups, EPS, axis)
    return activate(own._pre_activation(x, scale, bias, None, statistics, axis), ACTIVATION)


def rule(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """The package's function."""
    return own.group_norm(x, groups, scale, bias, EPS, ACTIVATION)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def keeping(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """The rule, whose linear part is not recomputed."""
    return formula(x, scale, bias, groups)


@keeping.defjvp  # type: ignore[untyped-decorator]
def _keeping(groups: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    axis = primals[0].ndim - 1
    statistics = own._statistics(primals[0], groups, EPS, axis)
    z = own._pre_activation(*primals, None, statistics, axis)
    return activate(z, ACTIVATION), linear(primals, statistics, tangents, groups)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def by_vjp(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """The transposed linear part as a `custom_vjp`, which keeps x and the statistics."""
    return formula(x, scale, bias, groups)


def _by_vjp_forward(x: Array, scale: Array, bias: Array, groups: int) -> Any:
    statistics = own._statistics(x, groups, EPS, x.ndim - 1)
    return formula(x, scale, bias, groups), ((x, scale, bias), statistics)


def _by_vjp_backward(groups: int, kept: Any, dy: Array) -> Any:
    primals, statistics = kept
    transposed = jax.linear_transpose(
        lambda *tangents: linear(primals, statistics, tangents, groups), *primals
    )
    return transposed(dy)


by_vjp.defvjp(_by_vjp_forward, _by_vjp_backward)


def linear(primals: Any, statistics: Any, tangents: Any, groups: int) -> Array:
    """The tangent of the output."""
    return own._tangent(
        (*primals, None), statistics, (*tangents, None), groups, ACTIVATION, primals[0].ndim - 1
    )


def of_flax(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """`flax.linen.GroupNorm` as it is by default, then SiLU."""
    layer = flax.linen.GroupNorm(groups, epsilon=EPS)
    return jax.nn.silu(layer.apply({"params": {"scale": scale, "bias": bias}}, x))


WAYS: dict[str, Norm] = {
    "this rule": rule,
    "without jax.checkpoint": keeping,
    "custom_vjp": by_vjp,
    "autodiff": formula,
    "flax": of_flax,
}


def numbers(*shape: int, seed: int) -> Array:
    """Normal numbers in float32."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def check(gradients: dict[str, Any]) -> None:
    """End the program unless all ways give the same gradients."""
    expected = jax.tree.leaves(gradients["autodiff"])
    for name, found in gradients.items():
        for a, b in zip(jax.tree.leaves(found), expected, strict=True):
            error = float(jnp.abs(a - b).max() / jnp.abs(b).max())
            if not error < GATE:
                raise SystemExit(f"{name}: gradients differ by {error:.2g}")


def _forward_and_back(
    way: Norm, x: Array, scale: Array, bias: Array, groups: int
) -> tuple[Array, Any]:
    y, back = jax.vjp(lambda x, scale, bias: way(x, scale, bias, groups), x, scale, bias)
    return y, back


def _waiting(function: Callable[..., Any], *arguments: Any) -> None:
    jax.block_until_ready(function(*arguments))


def _one_then_other(
    forward: Callable[..., Any], backward: Callable[..., Any], leaves: tuple[Array, ...], dy: Array
) -> None:
    _, kept = forward(*leaves)
    jax.block_until_ready(backward(kept, dy))


def layer_cell(shape: tuple[int, ...], groups: int) -> dict[str, Any]:
    """Seconds of forward and backward of one layer."""
    leaves = (
        numbers(*shape, seed=0), numbers(shape[-1], seed=1), numbers(shape[-1], seed=2)
    )  # fmt: skip
    dy = numbers(*shape, seed=3)
    cell: dict[str, Any] = {"shape": list(shape), "groups": groups, "seconds": {}}
    one: turns.Variants = {}
    two: turns.Variants = {}
    found = {}
    for name, way in WAYS.items():

        def both(x: Array, scale: Array, bias: Array, dy: Array, way: Norm = way) -> Any:
            y, back = _forward_and_back(way, x, scale, bias, groups)
            return y, back(dy)

        trees: list[Any] = []

        def forward(
            x: Array, scale: Array, bias: Array, way: Norm = way, trees: list[Any] = trees
        ) -> Any:
            y, back = _forward_and_back(way, x, scale, bias, groups)
            kept, tree = jax.tree.flatten(back)
            trees.append(tree)
            return y, kept

        def backward(kept: list[Array], dy: Array, trees: list[Any] = trees) -> Any:
            return jax.tree.unflatten(trees[0], kept)(dy)

        compiled = jax.jit(both)
        found[name] = compiled(*leaves, dy)[1]
        one[name] = partial(_waiting, compiled, *leaves, dy)
        two[name] = partial(_one_then_other, jax.jit(forward), jax.jit(backward), leaves, dy)
    check(found)
    cell["seconds"] = {"jit": turns.on_cpu(one), "two jits": turns.on_cpu(two)}
    return cell


def network_cell() -> dict[str, Any]:
    """Seconds of the gradient of a network, and what it needs beside its arguments."""
    channels = NETWORK[-1]
    x = numbers(*NETWORK, seed=0)
    kernels = [numbers(3, 3, channels, channels, seed=i) / 17 for i in range(LAYERS)]
    scales = [numbers(channels, seed=20 + i) for i in range(LAYERS)]
    biases = [numbers(channels, seed=40 + i) for i in range(LAYERS)]
    calls: turns.Variants = {}
    kept, found = {}, {}
    for name, way in WAYS.items():

        def loss(parameters: Any, x: Array, way: Norm = way) -> Array:
            for kernel, scale, bias in zip(*parameters, strict=True):
                x = jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = way(x, scale, bias, NETWORK_GROUPS)
            return (x * x).mean()

        compiled = jax.jit(jax.grad(loss)).lower((kernels, scales, biases), x).compile()
        found[name] = compiled((kernels, scales, biases), x)
        kept[name] = compiled.memory_analysis().temp_size_in_bytes / x.nbytes
        calls[name] = partial(_waiting, compiled, (kernels, scales, biases), x)
    check(found)
    return {"shape": list(NETWORK), "layers": LAYERS, "maps": kept, "seconds": turns.on_cpu(calls)}


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="Gradients of group norm with SiLU in JAX.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if not keep_large_blocks():
        raise SystemExit("memory cannot be kept here: page faults would be timed, not gradients")
    cells = [layer_cell(shape, groups) for shape, groups in SHAPES]
    network = network_cell()
    for name in WAYS:
        times = ", ".join(
            f"{c['seconds']['jit'][name]['least'] * 1e3:.2f} "
            f"({c['seconds']['two jits'][name]['least'] * 1e3:.2f})"
            for c in cells
        )
        print(
            f"{name}: {times} ms; network {network['seconds'][name]['least'] * 1e3:.1f} ms and "
            f"{network['maps'][name]:.0f} maps"
        )
    if arguments.out:
        record = {
            "command": "python benchmarks/bench_jax_gradients.py",
            "environment": {**environment(), "threads": 1},
            "packages": {name: version(name) for name in ("jax", "flax")},
            "cells": cells,
            "network": network,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
