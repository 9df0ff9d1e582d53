"""What batches have reached of a network: held in memory, in half precision, then in files."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from groupnorm.files import first_line

MEMORY = 600_000_000
"""Bytes of values that are held in memory."""
_HALF = (1e-3, 6e4)  # largest values that float16 holds with its full precision


@dataclass
class _Slot:
    """One value: its parts, what they were, and where they are.

    Attributes:
        leaves: None while they are in the file.
        dtypes: of each leaf as it was given; None for what is no tensor.
        devices: as `dtypes`.
        spec: of the value.
        file: that holds the leaves.
        size: bytes in memory.
    """

    leaves: list[Any] | None
    dtypes: list[torch.dtype | None]
    devices: list[torch.device | None]
    spec: TreeSpec
    file: Path | None
    size: int


class States:
    """Values by key: nests of lists, tuples and dicts with tensors.

    Up to `memory` bytes stay in memory, the rest goes to files of a temporary folder (in TMPDIR,
    where that is set), which is gone on leaving the context, also after Ctrl-C; only a process that
    is killed leaves it. Tensors are not copied while they stay in memory.

    Args:
        memory: in bytes.

    Attributes:
        halved: whether any value was held in float16.
        on_disk: the most bytes that were in files at a time.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._slots: dict[Hashable, _Slot] = {}
        self._used = 0
        self._written = 0
        self._count = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.halved = False
        self.on_disk = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Hold no values any more, in memory or in files."""
        self._slots.clear()
        self._used = self._written = 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be held in memory."""
        return size <= self._memory

    def put(self, key: Hashable, value: Any, *, half: bool = False) -> None:
        """Hold a value.

        Args:
            key: a new one.
            value: what is held.
            half: float32 tensors in float16, unless their largest value is out of its range.

        Raises:
            RuntimeError: a file cannot be written.
        """
        leaves, spec = tree_flatten(value)
        tensors = [leaf if isinstance(leaf, Tensor) else None for leaf in leaves]
        dtypes = [None if t is None else t.dtype for t in tensors]
        devices = [None if t is None else t.device for t in tensors]
        held = [
            leaf if t is None else self._held(t, half)
            for leaf, t in zip(leaves, tensors, strict=True)
        ]
        slot = _Slot(held, dtypes, devices, spec, None, bytes_of(held))
        if self._used + slot.size > self._memory:
            self._write(slot)
        else:
            self._used += slot.size
        self._slots[key] = slot

    def get(self, key: Hashable) -> Any:
        """A value, which stays held: it must not be changed."""
        slot = self._slots[key]
        leaves = slot.leaves
        if leaves is None:
            assert slot.file is not None
            leaves = torch.load(slot.file, weights_only=True)
        return tree_unflatten(
            [
                leaf if dtype is None else leaf.to(device=device, dtype=dtype)
                for leaf, dtype, device in zip(leaves, slot.dtypes, slot.devices, strict=True)
            ],
            slot.spec,
        )

    def take(self, key: Hashable) -> Any:
        """A value, which is held no more."""
        value = self.get(key)
        slot = self._slots.pop(key)
        if slot.file is None:
            self._used -= slot.size
        else:
            slot.file.unlink()
            self._written -= slot.size
        return value

    def _held(self, tensor: Tensor, half: bool) -> Tensor:
        tensor = tensor.detach().cpu()
        if not half or tensor.dtype != torch.float32 or tensor.numel() == 0:
            return tensor
        largest = float(tensor.abs().max())
        if largest != 0 and not _HALF[0] <= largest <= _HALF[1]:
            return tensor
        self.halved = True
        return tensor.half()

    def _write(self, slot: _Slot) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="groupnorm-")
        self._count += 1
        slot.file = Path(self._folder.name) / f"{self._count}.pt"
        leaves = slot.leaves
        assert leaves is not None
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        try:
            torch.save(copies, slot.file)
        except (OSError, RuntimeError) as error:  # PyTorch's own about a full disk is the second
            raise RuntimeError(
                f"values between the layers cannot be written to {self._folder.name}: "
                f"{first_line(error)}. Set TMPDIR to a folder of a disk with more space, or give "
                "fewer or smaller inputs"
            ) from error
        slot.leaves = None
        self._written += slot.size
        self.on_disk = max(self.on_disk, self._written)


def bytes_of(value: Any) -> int:
    """Bytes of the tensors in a nest of lists, tuples and dicts."""
    return sum(leaf.nbytes for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor))
