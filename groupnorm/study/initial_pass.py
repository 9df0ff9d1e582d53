"""The pass of a search that looks at untrained networks: two numbers for each, in a second or two.

The backward gain is the factor by which the gradient's norm grows from one normalized layer to the
one before, on average over the network; near 1 nothing explodes or vanishes. The noise of the
statistics is how much the logarithm of a group's standard deviation varies between images, in the
layer where it varies most: groups of few values have noisy statistics. Neither tells which network
will learn best; what lies far off can be left out without training it
(`results.halving.unusual`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.counts import counted
from groupnorm.data import Batches
from groupnorm.data.batches import Step
from groupnorm.files import write_atomic
from groupnorm.run.classification import build, load
from groupnorm.study.results.format import seconds_text
from groupnorm.study.store import FORMAT, INITIAL_FILE, read_initial, to_json
from groupnorm.training.config import RunConfig

IMAGES = 32
_SMALLEST_GAIN = 1e-9


def look_at_initial(out: Path, configs: Mapping[str, RunConfig], data_root: Path | None) -> str:
    """Measure untrained networks and write `initial.json`; a line that says so.

    What is there for the same runs stays.

    Args:
        configs: group-normalized runs on the same data, by name.

    Raises:
        DataError: the data set is missing or damaged.
        StoreError: an `initial.json` that is there is damaged.
    """
    found = read_initial(out)
    if found is None or found["runs"].keys() != configs.keys():
        begun = time.perf_counter()
        batches = load(next(iter(configs.values())), "cpu", data_root)
        runs = {name: measure(config, batches) for name, config in configs.items()}
        seconds = round(time.perf_counter() - begun, 3)
        found = {"format": FORMAT, "images": IMAGES, "seconds": seconds, "runs": runs}
        write_atomic(out / INITIAL_FILE, to_json(found))
    networks = counted(len(configs), "untrained network")
    return f"{networks} measured in {seconds_text(found['seconds'])}"


def measure(config: RunConfig, batches: Batches) -> dict[str, Any]:
    """`gain` and `noise` of a network before its first step.

    gamma is 1 in every norm, also where training begins with 0 and nothing would flow. `noise` is
    None where a group has a single value.
    """
    model = build(config.model_copy(update={"zero_gamma": False}), batches, "cpu")
    count = min(IMAGES, batches.train_size)
    step = Step(config.seed, torch.arange(count))
    images, labels = next(iter(batches.train([step])))
    noises: list[float] = []
    gradients: dict[int, float] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        assert isinstance(layer, nn.GroupNorm)
        (x,) = inputs
        number = len(noises)
        noises.append(_noise(x.detach(), layer.num_groups, layer.eps))
        x.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradients.update({number: gradient.norm().item()})
        )

    layers = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    for layer in layers:
        layer.register_forward_hook(watch)
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    last = len(layers) - 1
    gain = 1.0  # with a single layer there is none for the gradient to grow to
    if last:
        gain = (gradients[0] / gradients[last]) ** (1 / last) if gradients[last] else 0.0
    noise = max(noises)
    return {
        "norm": config.norm_text,
        "gain": max(gain, _SMALLEST_GAIN) if math.isfinite(gain) else 1 / _SMALLEST_GAIN,
        "noise": noise if math.isfinite(noise) else None,
    }


def _noise(x: Tensor, num_groups: int, eps: float) -> float:
    """The standard deviation over images of log std of a group, averaged over the groups."""
    values = x.double().reshape(len(x), num_groups, -1)
    if values.shape[2] == 1:
        return math.inf
    logarithm = 0.5 * (values.var(dim=2, unbiased=False) + eps).log()
    return float(logarithm.std(dim=0).mean())
