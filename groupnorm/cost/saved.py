"""Bytes that a forward pass keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class SavedBytes:
    """The storages that autograd saved, each once; `total` is their size in bytes."""

    def __init__(self, held_already: set[int]) -> None:
        self._held_already = held_already
        # The storages themselves are kept, so that no address comes twice.
        self._storages: dict[int, torch.UntypedStorage] = {}

    @property
    def total(self) -> int:
        """Bytes of all storages seen so far."""
        return sum(storage.nbytes() for storage in self._storages.values())

    def release(self) -> None:
        """Forget the storages, which are kept from being freed until then."""
        self._storages.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._held_already:
            self._storages[storage._cdata] = storage
        return tensor


@contextmanager
def counting_saved(model: nn.Module, *inputs: Tensor) -> Iterator[SavedBytes]:
    """Count what autograd saves inside the block; the graph itself is left as it is.

    Not counted are the storages of the model's parameters and buffers and of `inputs`: they are
    there with or without a backward pass.
    """
    tensors = chain(model.parameters(), model.buffers(), inputs)
    saved = SavedBytes({tensor.untyped_storage()._cdata for tensor in tensors})
    with saved_tensors_hooks(saved._pack, lambda tensor: tensor):
        yield saved


def bytes_saved(model: nn.Module, *inputs: Tensor) -> int:
    """Bytes that one forward pass of `model` keeps for the backward pass.

    A storage that several operations save counts once and as a whole: what cannot be freed before
    the backward pass has come by. Running statistics and random generators move as in any forward
    pass.

    Tensors without memory give the number of the device that they stand for: those made in
    `torch._subclasses.FakeTensorMode` for "cpu" give exactly that of the CPU. Tensors on "meta"
    take the ways of a device that has no kernels of its own here, where batch norm keeps a few
    bytes per channel more.

    Args:
        model: in training mode, for the number of a training step.
        inputs: its arguments.
    """
    with counting_saved(model, *inputs) as saved, torch.enable_grad():
        model(*inputs)
        return saved.total
