"""The data of a conversion: batches in pieces, and how the network is called with them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from groupnorm.conversion.example import Forward, input_of, run_batch

PIECE = 16
"""Samples that go through a network at a time, where a batch can be cut."""
_PIECES = 8  # at least, where there are as many samples
_EVERY = 4  # one piece in so many is held out

_TENSOR = object()  # stands for a tensor among the constants of a call


class Batches:
    """All batches of the data, cut into pieces where each is one tensor of samples.

    Args:
        data: a tensor (N, *), or any iterable of batches, which is gone through once.
        forward: as in `run_batch`.
        device: where the pieces go when they run.
        seed: of the order in which a data loader without a generator of its own shuffles.

    Attributes:
        pieces: what `run` takes.
        device: where they run.
        direct: whether the network is called with a piece and nothing else is done.

    Raises:
        TypeError: data or a batch of it is none of these.
        ValueError: there are no batches, or only one that cannot be cut.
    """

    def __init__(
        self, data: Any, forward: Forward | None, device: torch.device, seed: int = 0
    ) -> None:
        self._forward, self.device, self.direct = forward, device, forward is None
        if isinstance(data, str | os.PathLike):
            raise TypeError(
                "data takes batches; groupnorm.data.folder_images(folder) gives those of a folder"
            )
        if isinstance(data, Tensor):
            data = [data]
        elif not isinstance(data, Iterable):
            raise TypeError(
                f"data must be a tensor or an iterable of batches, got {type(data).__name__}"
            )
        with torch.random.fork_rng(devices=()):  # a data loader draws its order from it
            torch.default_generator.manual_seed(seed)
            batches = [batch if forward is not None else input_of(batch) for batch in data]
        sizes = [len(b) if isinstance(b, Tensor) and b.dim() else 0 for b in batches]
        if not batches or (forward is None and not sum(sizes)):
            raise ValueError("data has no samples")
        size = max(min(PIECE, sum(sizes) // _PIECES), 1)
        self.pieces: list[Any] = []
        for batch in batches:
            whole = forward is not None or not isinstance(batch, Tensor)
            self.pieces += (
                [batch] if whole else [part for part in torch.split(batch, size) if len(part)]
            )
        if len(self.pieces) < 2:
            raise ValueError(
                "data has one batch alone, none to hold out: give two batches or more"
                if forward is not None
                else "data has one sample alone: give more"
            )

    def __len__(self) -> int:
        """The number of pieces."""
        return len(self.pieces)

    @property
    def fitted(self) -> int:
        """The number of pieces that are not held out."""
        return sum(not self.held_out(i) for i in range(len(self)))

    def held_out(self, index: int) -> bool:
        """Whether nothing is fitted to a piece: a quarter of them, spread over all."""
        return _is_held_out(index, len(self.pieces))

    def run(self, model: nn.Module, index: int) -> Any:
        """The model's output on a piece.

        Raises:
            ValueError: the model does not run on it.
        """
        return self.run_on(model, self.pieces[index])

    def example(self, model: nn.Module) -> Any:
        """The model's output on one or two samples, or on a piece that cannot be cut."""
        piece = self.pieces[0]
        return self.run_on(model, piece[:2] if self._forward is None else piece)

    def draws(self, samples: int, generator: torch.Generator) -> Iterator[Any]:
        """Endlessly pieces of so many samples, all of them in one random order after another.

        Where samples cannot be cut or joined, the pieces as they are. Nothing of what is held out.
        """
        own = [piece for i, piece in enumerate(self.pieces) if not self.held_out(i)]
        shapes = {piece.shape[1:] if isinstance(piece, Tensor) else None for piece in own}
        if self._forward is None and len(shapes) == 1:
            own = [piece[i : i + 1] for piece in own for i in range(len(piece))]
        else:
            samples = 1
        while True:
            order = torch.randperm(len(own), generator=generator)
            for chosen in torch.split(order, samples):
                parts = [own[i] for i in chosen]
                yield parts[0] if len(parts) == 1 else torch.cat(parts)

    def run_on(self, model: nn.Module, piece: Any) -> Any:
        """The model's output on a copy of a piece, for a network may change its input in place.

        Raises:
            ValueError: as `run`.
        """
        piece = tree_map(self._copy, piece)
        return run_batch(model, piece, self._forward)

    def _copy(self, value: Any) -> Any:
        return value.to(self.device, copy=True) if isinstance(value, Tensor) else value


def fewest_samples(fitted: int) -> int:
    """The fewest samples of which `fitted` are left beside those held out.

    Args:
        fitted: so few that each sample is a piece.
    """
    return next(
        count
        for count in itertools.count(fitted + 1)  # one at least is held out
        if sum(not _is_held_out(i, count) for i in range(count)) >= fitted
    )


def _is_held_out(index: int, pieces: int) -> bool:
    return index % _EVERY == min(_EVERY, pieces) // 2


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a network.

    Attributes:
        tensors: in the order in which they stand in the arguments.
        constants: the leaves of the arguments, with a mark where a tensor stands.
        spec: of args and kwargs.
    """

    tensors: list[Tensor]
    constants: list[Any]
    spec: TreeSpec

    def like(self, other: Call) -> bool:
        """Whether the calls differ in their tensors alone."""
        return self.spec == other.spec and bool(self.constants == other.constants)

    def arguments(self, tensors: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """args and kwargs of a call like this one with other tensors."""
        index: Iterator[int] = iter(range(len(self.tensors)))
        leaves = [tensors[next(index)] if one is _TENSOR else one for one in self.constants]
        args, kwargs = tree_unflatten(leaves, self.spec)
        return args, kwargs


class _Called(BaseException):  # passes by the handlers of whoever calls the network
    """The network was called."""


def call_of(model: nn.Module, run: Callable[[nn.Module], Any]) -> Call | None:
    """The arguments with which `run` calls a network, which does not run.

    None where it does not call the network as a whole.
    """
    calls: list[Any] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))
        raise _Called

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run(model)
    except _Called:
        leaves, spec = tree_flatten(calls[0])
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return Call(tensors, [_TENSOR if isinstance(x, Tensor) else x for x in leaves], spec)
    finally:
        handle.remove()
    return None
