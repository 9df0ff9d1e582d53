"""The memory of a training step, counted on tensors without memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groupnorm.cost.saved import counting_saved

OPTIMIZERS = ("sgd", "adam")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class StepMemory:
    """Bytes of the tensors of a training step; all fields but `gradients` add up to `peak`.

    Attributes:
        weights: parameters, and buffers such as running statistics.
        gradients: one for each parameter, once all are there. At the fullest moment only some may
            be, while what was saved is given back: those count in `transient`.
        optimizer: momentum of SGD, both moments of Adam.
        batch: images and labels.
        saved: what the forward pass and the loss keep for the backward pass.
        transient: what the fullest moment of the step holds beyond the others: outputs that nobody
            keeps, gradients of activations and of parameters, the optimizer's intermediate results.
    """

    weights: int
    gradients: int
    optimizer: int
    batch: int
    saved: int
    transient: int

    @property
    def peak(self) -> int:
        """Bytes at the fullest moment of the step."""
        return self.weights + self.optimizer + self.batch + self.saved + self.transient


class TrainingStep:
    """A training step of a classifier on the CPU whose memory is counted, not taken.

    The step is that of `groupnorm.training.loop` in its steady state: no gradients, forward pass,
    backward pass, optimizer.
    It runs in PyTorch's `FakeTensorMode`, where a tensor has a shape and no memory, and every
    storage counts from its birth to its end. Not counted: workspaces inside an operation, rounding
    and fragmentation by the allocator, the process itself, the data set.

    Args:
        build: makes the model; called where tensors have no memory.
        precision: "float32", or "bfloat16" for automatic mixed precision.
        optimizer: "sgd" (Nesterov momentum and weight decay) or "adam".

    Raises:
        ValueError: unknown precision or optimizer, and what `build` raises.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        *,
        precision: str = "float32",
        optimizer: str = "sgd",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"the precision is {' or '.join(PRECISIONS)}, got {precision!r}")
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"the optimizer is {' or '.join(OPTIMIZERS)}, got {optimizer!r}")
        self._half = precision == "bfloat16"
        self._fake = FakeTensorMode()
        with torch.random.fork_rng(devices=[]), self._fake:
            self._model = build().train()
            self._parameters = list(self._model.parameters())
            self._update = _optimizer(optimizer, self._parameters)
            self._fill_gradients()
            self._update.step()  # makes its state

    def memory(self, image_shape: tuple[int, ...], batch: int) -> StepMemory:
        """Bytes of a step over `batch` images of `image_shape` (C, *).

        Raises:
            ValueError: images that the model does not take.
        """
        with torch.random.fork_rng(devices=[]), self._fake, torch.enable_grad():
            self._update.zero_grad(set_to_none=True)
            given = [torch.empty(batch, *image_shape), torch.empty(batch, dtype=torch.int64)]
            kinds = (
                [*self._parameters, *self._model.buffers()],
                tree_leaves(list(self._update.state.values())),
                given,
            )
            live = _LiveBytes()
            held = [live.add(tensors) for tensors in kinds]
            with live:
                saved = self._run(*given)
            weights, state, both = held
            gradients = sum(p.numel() * p.element_size() for p in self._trained())
            transient = live.peak - sum(held) - saved
        return StepMemory(weights, gradients, state, both, saved, transient)

    def _fill_gradients(self) -> None:
        for parameter in self._trained():
            parameter.grad = torch.zeros_like(parameter)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._parameters if parameter.requires_grad]

    def _run(self, images: Tensor, labels: Tensor) -> int:
        with counting_saved(self._model, images, labels) as saved:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
                loss = F.cross_entropy(self._model(images), labels)
            total = saved.total
            saved.release()
        loss.backward()  # type: ignore[no-untyped-call]
        self._update.step()
        return total


def _optimizer(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters)
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages alive that were given to `add` or made inside the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, values: Iterable[Any]) -> int:
        """Count the storages of the tensors among `values`; the bytes of those that are new."""
        before = self._now
        for value in values:
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return self._now - before

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def end(_: object) -> None:
            del self._alive[key]
            self._now -= size

        self._alive[key] = weakref.ref(storage, end)
        self._now += size
        self.peak = max(self.peak, self._now)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self.add(tree_leaves(output))
        return output
