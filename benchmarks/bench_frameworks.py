"""Speed and error of group normalization in Keras (TensorFlow, JAX, torch), JAX and Flax.

    python benchmarks/bench_frameworks.py [--out FILE.json]

Each framework runs in a process of its own, on one core and one thread. Every layer is first
compared with float64 on the same input; then all of a framework's layers take turns in the forward
pass and in forward and backward (gradients of input, scale and shift for a fixed cotangent), in
float32, channels last. It needs

    pip install -e '.[keras,jax]' equinox
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import turns

SHAPES = (((1, 56, 56, 64), 8), ((2, 28, 28, 256), 32), ((4, 56, 56, 256), 32))
MEANS = (0, 10, 100, 1_000, 10_000)
PLACES = ("keras on tensorflow", "keras on jax", "keras on torch", "jax")
OURS = "groupnorm"
GATE = 1e-4  # largest error at mean 0: what fails it is not timed
EPS = 1e-5

Function = Callable[[Any, Any, Any], Any]


def inputs(shape: tuple[int, ...], mean: float = 0.0) -> dict[str, np.ndarray]:
    """x and dy of the shape, scale and shift (C,), in float32."""
    draw = np.random.default_rng(0)
    sizes = {"x": shape, "scale": shape[-1:], "shift": shape[-1:], "dy": shape}
    found = {name: draw.standard_normal(size) for name, size in sizes.items()}
    found["x"] += mean
    return {name: value.astype(np.float32) for name, value in found.items()}


def expected(given: dict[str, np.ndarray], groups: int) -> np.ndarray:
    """The output in float64."""
    x = given["x"].astype(np.float64)
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    var = (centred**2).mean((1, 3), keepdims=True)
    xhat = (centred / np.sqrt(var + EPS)).reshape(x.shape)
    y: np.ndarray = xhat * given["scale"].astype(np.float64) + given["shift"].astype(np.float64)
    return y


def keras_layers(groups: int) -> dict[str, Any]:
    """Keras's own layer and ours, by name."""
    import keras

    from groupnorm.frameworks.keras import GroupNormalization

    return {
        "keras": keras.layers.GroupNormalization(groups, epsilon=EPS),
        OURS: GroupNormalization(groups, epsilon=EPS),
    }


def built(layer: Any, given: dict[str, np.ndarray]) -> Any:
    """A Keras layer with the scale and shift of the input."""
    layer.build(given["x"].shape)
    layer.gamma.assign(given["scale"])
    layer.beta.assign(given["shift"])
    return layer


def on_tensorflow(given: dict[str, np.ndarray], groups: int) -> dict[str, dict[str, Any]]:
    """Calls of each layer, as a graph and compiled by XLA."""
    import tensorflow as tf

    x, dy = tf.constant(given["x"]), tf.constant(given["dy"])
    found: dict[str, dict[str, Any]] = {}
    for name, layer in keras_layers(groups).items():
        built(layer, given)

        def forward(layer: Any = layer) -> Any:
            return layer(x)

        def both(layer: Any = layer) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            weights = [w.value for w in layer.trainable_variables]
            return y, tape.gradient(y, [x, *weights], dy)

        for mode, options in (("tf.function", {}), ("XLA", {"jit_compile": True})):
            calls = {
                "forward": tf.function(forward, **options),
                "forward and backward": tf.function(both, **options),
            }
            found.setdefault(mode, {})[name] = {
                "output": calls["forward"]().numpy(),
                **{key: _waiting(call, _numpy_first) for key, call in calls.items()},
            }
    return found


def on_jax(given: dict[str, np.ndarray], groups: int, functions: dict[str, Function]) -> Any:
    """Calls of each function of x, scale and shift, under `jit`."""
    import jax

    leaves = [jax.numpy.asarray(given[name]) for name in ("x", "scale", "shift")]
    dy = jax.numpy.asarray(given["dy"])
    found = {}
    for name, function in functions.items():
        forward = jax.jit(function)

        def both(x: Any, scale: Any, shift: Any, dy: Any, function: Function = function) -> Any:
            y, back = jax.vjp(function, x, scale, shift)
            return y, back(dy)

        compiled = jax.jit(both)
        found[name] = {
            "output": np.asarray(forward(*leaves)),
            "forward": lambda forward=forward: jax.block_until_ready(forward(*leaves)),
            "forward and backward": lambda compiled=compiled: jax.block_until_ready(
                compiled(*leaves, dy)
            ),
        }
    return {"jit": found}


def keras_on_jax(given: dict[str, np.ndarray], groups: int) -> Any:
    """Keras's layers as functions of their weights."""

    def function(layer: Any) -> Function:
        return lambda x, scale, shift: layer.stateless_call([scale, shift], [], x)[0]

    layers = keras_layers(groups)
    return on_jax(given, groups, {n: function(built(la, given)) for n, la in layers.items()})


def plain_jax(given: dict[str, np.ndarray], groups: int) -> Any:
    """Flax's and Equinox's layers, and ours."""
    import equinox
    import flax.linen
    import jax

    from groupnorm.frameworks.jax import group_norm

    def linen(fast: bool) -> Function:
        layer = flax.linen.GroupNorm(groups, epsilon=EPS, use_fast_variance=fast)
        return lambda x, scale, shift: layer.apply({"params": {"scale": scale, "bias": shift}}, x)

    def from_equinox(x: Any, scale: Any, shift: Any) -> Any:
        layer = equinox.nn.GroupNorm(groups, x.shape[-1], eps=EPS)
        layer = equinox.tree_at(lambda m: (m.weight, m.bias), layer, (scale, shift))
        first = jax.numpy.moveaxis(x, -1, 1)
        return jax.numpy.moveaxis(jax.vmap(layer)(first), 1, -1)

    return on_jax(
        given,
        groups,
        {
            "flax": linen(True),
            "flax, slow variance": linen(False),
            "equinox": from_equinox,
            OURS: lambda x, scale, shift: group_norm(x, groups, scale, shift, EPS),
        },
    )


def on_torch(given: dict[str, np.ndarray], groups: int) -> Any:
    """Keras's layers on the torch backend, without a compiler."""
    import torch

    x, dy = (torch.from_numpy(given[name]) for name in ("x", "dy"))
    found = {}
    for name, layer in keras_layers(groups).items():
        built(layer, given)
        weights = [w.value for w in layer.trainable_variables]

        def forward(layer: Any = layer) -> Any:
            with torch.no_grad():
                return layer(x)

        def both(layer: Any = layer, weights: list[Any] = weights) -> Any:
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(layer(leaf), [leaf, *weights], dy)

        found[name] = {
            "output": forward().numpy(),
            "forward": forward,
            "forward and backward": both,
        }
    return {"eager": found}


def _numpy_first(result: Any) -> None:
    """Wait for a result of TensorFlow: on the CPU a value that can be read is there."""
    first = result[0] if isinstance(result, (list, tuple)) else result
    first.numpy()


def _waiting(call: Callable[[], Any], wait: Callable[[Any], None]) -> Callable[[], None]:
    return lambda: wait(call())


MADE_BY = {
    "keras on tensorflow": on_tensorflow,
    "keras on jax": keras_on_jax,
    "keras on torch": on_torch,
    "jax": plain_jax,
}


def measure(place: str) -> dict[str, Any]:
    """The errors and seconds of one framework, in this process."""
    import torch

    torch.set_num_threads(1)
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for mean in MEANS:
        given = inputs((2, 28, 28, 64), mean)
        for mode, layers in MADE_BY[place](given, 8).items():
            for name, made in layers.items():
                difference = np.abs(made["output"] - expected(given, 8))
                error = float(difference.max()) if np.isfinite(difference).all() else math.inf
                errors.setdefault(mode, {}).setdefault(name, {})[str(mean)] = error
    cells = []
    for shape, groups in SHAPES:
        given = inputs(shape)
        for mode, layers in MADE_BY[place](given, groups).items():
            for name, made in layers.items():
                error = float(np.abs(made["output"] - expected(given, groups)).max())
                if not error < GATE:
                    raise SystemExit(f"{place}, {mode}, {name}: error {error:.2g} at {shape}")
            for what in ("forward", "forward and backward"):
                seconds = turns.on_cpu({name: made[what] for name, made in layers.items()})
                cells.append(
                    {"mode": mode, "shape": list(shape), "groups": groups, "what": what,
                     "seconds": seconds}
                )  # fmt: skip
    return {"errors": errors, "cells": cells}


def child(place: str) -> dict[str, Any]:
    """`measure` in a process of its own on one core."""
    core = max(os.sched_getaffinity(0))
    backend = place.removeprefix("keras on ") if place.startswith("keras") else "jax"
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu",
        "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }  # fmt: skip
    command = [sys.executable, __file__, "--measure", place]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, encoding="utf-8",
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="Group normalization in other frameworks.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", choices=PLACES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    from groupnorm.environment import environment

    found = {}
    for place in PLACES:
        found[place] = child(place)
        for cell in found[place]["cells"]:
            times = ", ".join(f"{n} {s['least'] * 1e3:.3f}" for n, s in cell["seconds"].items())
            print(f"{place}, {cell['mode']}, {cell['shape']}, {cell['what']}: {times} ms")
        for mode, layers in found[place]["errors"].items():
            for name, errors in layers.items():
                print(f"{place}, {mode}, {name}: errors", *(f"{e:.1e}" for e in errors.values()))
    packages = ("keras", "tensorflow-cpu", "jax", "flax", "equinox")
    record = {
        "command": "python benchmarks/bench_frameworks.py",
        "environment": {**environment(), "threads": 1},
        "packages": {name: version(name) for name in packages},
        "frameworks": found,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
