"""The backends that the tests run: the C++ kernels once for every instruction set, and Triton's
kernels once with the sizes of their tiles and once with tiny ones, which split everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from groupnorm.ops import backend_triton, native_launch, triton_plan
from groupnorm.ops.backends import BACKENDS
from groupnorm.ops.triton_plan import Limits

NATIVE = tuple(f"native/{name}" for name in native_launch.instruction_sets())
TRITON = () if backend_triton.why_off else ("triton/as it is", "triton/split")
OTHERS = tuple(name for name in BACKENDS if name not in ("native", "triton"))
RUNNERS = (*OTHERS, *NATIVE, *TRITON)
SPLIT = Limits(
    resident_forward=0,
    resident_backward=0,
    tile=256,
    row=64,
    row_bytes=16,
    row_channels=32,
    partials=512,
    tiles_per_split=4,
    programs_per_processor=12,
)


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
    kernels = native_launch._kernels
    before = kernels.instruction_set()
    kernels.set_instruction_set(name)
    try:
        yield
    finally:
        kernels.set_instruction_set(before)


@contextmanager
def _triton(variant: str) -> Iterator[None]:
    """With NaN in all new memory, and rounding as on a GPU where Triton is interpreted."""
    limits = SPLIT if variant == "split" else triton_plan.LIMITS
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        with mock.patch.object(triton_plan, "LIMITS", limits), _rounding():
            yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _rounding() -> Iterator[None]:
    """To bfloat16 Triton's interpreter cuts off; a GPU rounds to the nearest number."""
    if not backend_triton.interpreted:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast = InterpreterBuilder.cast_impl

    def rounding(self, source, target):
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            rounded = torch.as_tensor(source.data).bfloat16().view(torch.uint16)
            return TensorHandle(rounded.numpy(), target.scalar)
        return cast(self, source, target)

    # `create_fp_trunc` and the others look `cast_impl` up when they are called.
    with mock.patch.object(InterpreterBuilder, "cast_impl", rounding):
        yield
