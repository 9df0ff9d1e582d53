"""The cost of a training step of a model, measured on a copy of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from groupnorm.cost.flops import counting_flops
from groupnorm.cost.saved import counting_saved
from groupnorm.cost.timing import NormTimes, mean_output, timed_step

SECONDS = 0.3
"""Steps are timed until they have taken so long."""
_STEPS = 20


def measure_cost(
    model: nn.Module, images: Tensor, *, precision: str = "float32", seconds: float = SECONDS
) -> dict[str, Any]:
    """Memory, arithmetic and the norms' share of the time of a model's training step.

    A copy of the model is run in training mode: one step that counts, then steps that are timed.
    The model, its running statistics and gradients, and torch's random generators are left as they
    were. Of a compiled or DDP-wrapped model the plain module is taken, so that the shares are those
    of eager execution.

    Args:
        model: takes the images alone and gives one tensor.
        images: (N, C, H, W), on the model's device and in the memory format of training; with
            `batch_per_worker` in the model's batch norms, a multiple of it.
        precision: "float32", or "bfloat16" for automatic mixed precision, as in `RunConfig`.
        seconds: for the timed steps; at least one is taken and at most 20 are.

    Returns:
        Values ready for JSON: those of `count_cost`; `norm_share` of the time of forward and
        backward together, `norm_share_forward` and `norm_share_backward` of each, between 0 and 1
        (`NormTimes`); `timed_steps`. The optimizer and the data are in none of them.

    Raises:
        ValueError: unknown precision.
    """
    counted = count_cost(model, images, precision=precision)
    with copied(model, images.device) as trial, NormTimes(trial, images.device) as times:
        ends = time.perf_counter() + seconds
        steps = 0
        while steps < 1 or (time.perf_counter() < ends and steps < _STEPS):
            timed_step(trial, images, precision, times)
            steps += 1
    return {**counted, **times.shares(), "timed_steps": steps}


def count_cost(model: nn.Module, images: Tensor, *, precision: str = "float32") -> dict[str, Any]:
    """Memory and arithmetic of a model's training step, which do not depend on the machine's load.

    The arguments are those of `measure_cost`, and the model is left as it was.

    Returns:
        Values ready for JSON: `images` (N) and `image_shape`; `saved_bytes_per_image`, what the
        forward pass keeps for the backward pass (`bytes_saved`) over N; `flops_per_image` of the
        forward pass and `training_flops_per_image` of forward and backward (`count_flops`).

    Raises:
        ValueError: unknown precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is float32 or bfloat16, got {precision!r}")
    with copied(model, images.device) as trial, counting_flops() as counter:
        with counting_saved(trial, images) as saved:
            loss = mean_output(trial, images, precision)
        saved_bytes, flops = saved.total, counter.get_total_flops()
        saved.release()
        loss.backward()  # type: ignore[no-untyped-call]
        training_flops = counter.get_total_flops()
    count = len(images)
    return {
        "images": count,
        "image_shape": list(images.shape[1:]),
        "saved_bytes_per_image": saved_bytes / count,
        "flops_per_image": flops / count,
        "training_flops_per_image": training_flops / count,
    }


@contextmanager
def copied(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """A copy of a model for steps inside the block; torch's random generators stay as they were."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        trial = copy.deepcopy(plain_module(model)).train()
        trial.zero_grad(set_to_none=True)
        yield trial


def plain_module(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of `torch.compile` and distributed training."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
