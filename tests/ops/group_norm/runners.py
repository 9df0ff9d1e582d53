"""The backends that the tests run: the C++ kernels once for every instruction set, and Triton's
kernels once with the sizes of their blocks and twice with small ones and nothing kept on chip: then
a tile is split, or passed over twice by one program."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest
import torch

from groupnorm.ops.group_norm import triton
from groupnorm.ops.group_norm.backends import BACKENDS
from groupnorm.ops.group_norm.native import launch
from groupnorm.ops.group_norm.triton import plan
from groupnorm.ops.group_norm.triton.plan import Limits, Tiling, power_of_two, tiling

NATIVE = tuple(f"native/{name}" for name in launch.instruction_sets())
TRITON = () if triton.why_off else ("triton/as it is", "triton/split", "triton/looped")
DEVICE = "cpu" if triton.interpreted else "cuda"  # where Triton's kernels run
GPU = [] if DEVICE == "cpu" else [pytest.mark.gpu]
OTHERS = tuple(name for name in BACKENDS if name not in ("native", "triton"))
RUNNERS = (*OTHERS, *NATIVE, *TRITON)
# As parameters of the fixture `backend`: interpreted kernels with small blocks take seconds.
ON_CPU = [*OTHERS, *NATIVE]
WHOLE_TILES = [pytest.param(name, marks=GPU) for name in TRITON[:1]]
SMALL_TILES = [pytest.param(name, marks=[*GPU, pytest.mark.slow]) for name in TRITON[1:]]
WHOLE_TILES_SLOWLY = [
    pytest.param(name, marks=[*GPU, pytest.mark.slow]) for name in TRITON[:1]
]  # a large tensor
USUAL = [*ON_CPU, *WHOLE_TILES]
on_cpu = pytest.mark.parametrize("backend", ON_CPU, indirect=True)
with_small_tiles = pytest.mark.parametrize("backend", [*USUAL, *SMALL_TILES], indirect=True)
# Nothing is kept on chip, and a split has a few blocks.
SPLIT = replace(
    plan.LIMITS,
    resident_forward=0,
    resident_backward=0,
    row_bytes=16,
    row_channels=32,
    partials=512,
    blocks_per_split=2,
)
LOOPED = replace(SPLIT, programs_per_processor=0, blocks_per_split=10**9)
_LIMITS = {"as it is": plan.LIMITS, "split": SPLIT, "looped": LOOPED}


def small_tiles(
    channels: int, groups: int, positions: int, element_size: int, channels_last: bool,
    resident: int, limits: Limits,
) -> Tiling:  # fmt: skip
    """A tile in four blocks or so, however small it is."""
    row = max(power_of_two(positions) // 2, 1)
    block = max(power_of_two(channels // groups * positions) // 4, row)
    if channels_last:
        block = power_of_two(min(channels, limits.row_channels)) * max(row // 2, 1)
    limits = replace(limits, block=block, row=row)
    return tiling(channels, groups, positions, element_size, channels_last, resident, limits)


def device_of(backend: str) -> str:
    """Where a backend is tested."""
    return DEVICE if backend == "triton" else "cpu"


@contextmanager
def running(runner: str) -> Iterator[str]:
    """Choose the instruction set or sizes of a name in RUNNERS; gives the backend's name."""
    backend, _, variant = runner.partition("/")
    choosing = {"native": _instruction_set, "triton": _triton}.get(backend)
    if choosing is None:
        yield backend
        return
    with choosing(variant):
        yield backend


@contextmanager
def _instruction_set(name: str) -> Iterator[None]:
    kernels = launch._kernels
    before = kernels.instruction_set()
    kernels.set_instruction_set(name)
    try:
        yield
    finally:
        kernels.set_instruction_set(before)


@contextmanager
def _triton(variant: str) -> Iterator[None]:
    """With NaN in all new memory."""
    cut = tiling if variant == "as it is" else small_tiles
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        with (
            mock.patch.object(plan, "LIMITS", _LIMITS[variant]),
            mock.patch.object(plan, "tiling", cut),
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
