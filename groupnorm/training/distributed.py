"""The processes that share a training, and their collective operations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train together; alone by default.

    Attributes:
        rank: 0 to count - 1; the process of rank 0 writes what is kept.
        count: number of processes. More than one have torch.distributed's default group.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True for the one process that writes."""
        return self.rank == 0

    @property
    def backend(self) -> str | None:
        """What the processes talk through, "gloo" or "nccl"; None when there is one."""
        return dist.get_backend() if self.count > 1 else None

    def shard(self, size: int) -> slice:
        """This process's part of `size` things, which `count` divides."""
        part = size // self.count
        return slice(self.rank * part, (self.rank + 1) * part)

    def all_reduce_sum(self, values: Sequence[float], device: torch.device | str) -> list[float]:
        """The sums over all processes, the same in each."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over all processes, in place."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        begin = 0
        for tensor in tensors:
            end = begin + tensor.numel()
            tensor.copy_(flat[begin:end].view_as(tensor))
            begin = end

    def all_gather_union(self, sets: dict[str, set[T]]) -> dict[str, set[T]]:
        """The unions over all processes, the same in each; every process gives the same keys."""
        if self.count == 1:
            return sets
        gathered = self.all_gather(sets)
        return {key: set().union(*(one[key] for one in gathered)) for key in sets}

    def all_gather(self, value: T) -> list[T]:
        """Every process's `value`, by rank, in each; plain values and arrays."""
        if self.count == 1:
            return [value]
        gathered = [value] * self.count
        dist.all_gather_object(gathered, value)
        return gathered

    def broadcast_from_rank0(self, value: T) -> T:
        """The first process's `value`, in each; plain values and bytes."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.all_reduce_sum([0.0], "cuda" if self.backend == "nccl" else "cpu")

    @contextlib.contextmanager
    def rank0_first(self) -> Iterator[None]:
        """The first process goes through the block, then all others, who find what it left."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()


ALONE = Processes()
