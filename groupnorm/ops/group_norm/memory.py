"""Which tensors are plain memory, and where that memory lies: what a kernel may read by address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Everything else is work for PyTorch's dispatcher before any kernel may run: a wrapper subclass
# (Python), a negated view (Negative), zeros without memory (ZeroTensor), vmap, functionalization,
# sparse layouts, other devices.
_OF_PLAIN_MEMORY = {
    "CPU", "CUDA", "ADInplaceOrView", "AutogradCPU", "AutogradCUDA", "AutocastCPU", "AutocastCUDA",
}  # fmt: skip


class _PlainKeys(dict[int, bool]):
    """Whether a set of dispatch keys, by its number, is that of plain memory."""

    def __missing__(self, number: int) -> bool:
        keys = str(torch._C.DispatchKeySet.from_raw_repr(number))
        names = keys.removeprefix("DispatchKeySet(").removesuffix(")").split(", ")
        self[number] = found = set(names) <= _OF_PLAIN_MEMORY
        return found


_PLAIN = _PlainKeys()
_keys = torch._C._dispatch_keys


def looks_plain(*tensors: Tensor | None) -> bool:
    """Whether a kernel may try: quick, and right but for tensors without memory."""
    for tensor in tensors:
        if tensor is not None and (type(tensor) not in _CLASSES or tensor.is_neg()):
            return False
    return True


_CLASSES = {Tensor, torch.nn.Parameter}


def all_plain(*tensors: Tensor | None) -> bool:
    """Whether every tensor is nothing but strided memory on the CPU or a CUDA device.

    It takes that from the dispatch keys, the state that decides whether PyTorch itself would hand
    the tensor to a kernel as it is. Tangents of forward-mode differentiation and freed memory do
    not show there. None counts as plain.
    """
    return all(tensor is None or _PLAIN[_keys(tensor).raw_repr()] for tensor in tensors)


def is_wrapper(tensor: Tensor) -> bool:
    """Whether the tensor is of a class that takes over every operation (`__torch_dispatch__`)."""
    return _keys(tensor).has(torch._C.DispatchKey.Python)


def transformed() -> bool:
    """Inside `torch.func`, forward-mode differentiation or `torch.jit.trace`, all of which need to
    see operations that they know."""
    return (
        forward_ad._current_level >= 0
        or torch._C._functorch.maybe_current_level() is not None
        or torch._C._get_tracing_state() is not None
    )


def unobserved() -> bool:
    """Whether neither of those nor a mode that sees every operation (`TorchDispatchMode`) is there.

    Short, because every call asks it.
    """
    return (
        _level() is None
        and not _dispatch_modes()
        and forward_ad._current_level < 0
        and _tracing_state() is None
    )


_level = torch._C._functorch.maybe_current_level
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state


def traced() -> bool:
    """Inside `torch.jit.trace`."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


@contextmanager
def untraced() -> Iterator[None]:
    """For checks inside `torch.jit.trace`: the numbers of shapes are plain numbers.

    Outside of it they are tensors, so that a trace takes other shapes, and it warns where one of
    them decides what is computed.
    """
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def shape_of(tensor: Tensor) -> torch.Size:
    """The shape in plain numbers, also inside `torch.jit.trace`: see `untraced`."""
    if not traced():
        return tensor.shape
    with untraced():
        return tensor.shape


def check_memory(*tensors: Tensor | None) -> None:
    """Check that all memory of each plain tensor is there, whatever its strides.

    Many of PyTorch's own operations do not look, and end the process.

    Raises:
        RuntimeError: it is not.
    """
    for tensor in tensors:
        if tensor is None or not all_plain(tensor) or tensor.numel() == 0:
            continue
        begin, end = extent(tensor)
        offset = tensor.storage_offset() * tensor.element_size()
        if not begin or tensor.untyped_storage().nbytes() < offset + end - begin:
            raise RuntimeError(_no_memory(tensor))


def extent(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the first byte of a plain tensor and of the one after its last."""
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        strides = zip(tensor.shape, tensor.stride(), strict=True)
        count = 1 + sum((size - 1) * stride for size, stride in strides)
    begin = tensor.data_ptr()
    return begin, begin + count * tensor.element_size()


def _no_memory(tensor: Tensor) -> str:
    return (
        f"a tensor of shape {tuple(tensor.shape)} has no memory, or too little: its storage was "
        "freed or shrunk (untyped_storage().resize_()), or was never allocated. Restore the "
        "storage before the tensor is used"
    )
