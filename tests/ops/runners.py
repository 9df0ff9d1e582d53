"""The backends that the tests run: the C++ kernels once for every instruction set."""

from collections.abc import Iterator
from contextlib import contextmanager

from groupnorm.ops import native_launch
from groupnorm.ops.backends import BACKENDS

NATIVE = tuple(f"native/{name}" for name in native_launch.instruction_sets())
RUNNERS = (*(name for name in BACKENDS if name != "native"), *NATIVE)


@contextmanager
def running(runner: str) -> Iterator[str]:
    """Choose the instruction set of a name in RUNNERS; gives the backend's name."""
    backend, _, instruction_set = runner.partition("/")
    kernels = native_launch._kernels
    if not instruction_set:
        yield backend
        return
    before = kernels.instruction_set()
    kernels.set_instruction_set(instruction_set)
    try:
        yield backend
    finally:
        kernels.set_instruction_set(before)
