"""Worker processes that make batches, in order; an error in one of them becomes a DataError."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from groupnorm.data.issues import DataError


class AnyBatch(Protocol):
    """A batch from a worker process."""

    @property
    def failure(self) -> str:
        """The message of a DataError, or nothing.

        Raised in a worker process, it would arrive as a traceback.
        """
        ...


B = TypeVar("B", bound=AnyBatch)
AHEAD = 1 << 30
"""Bytes of batches that are made ahead at most, or one batch of one process."""
ROOM = 4 << 30
"""Bytes of address space that a process may take to decode a file, besides what it makes of it."""
_COPIES = 4  # of a batch while it is made
_limits: list[int] = []  # on the memory of this process, set here


def in_processes(
    examples: Dataset[B],
    parts: Iterable[Any],
    processes: int,
    device: str,
    largest: int | None = None,
) -> Generator[B, None, None]:
    """What `examples` makes of each part, in order.

    Args:
        parts: read ahead by a few for each worker process.
        processes: worker processes; 0 makes the batches in this process.
        device: where they will go; for "cuda" their tensors lie in pinned memory.
        largest: bytes of a batch at most. Then no more are made ahead than `AHEAD` holds, by fewer
            processes if need be, and a worker process whose file asks for far more memory does not
            get it (on Linux; this process has no such limit, with `processes` 0 either). None for
            batches that are small, of files that are small.

    Raises:
        DataError: a batch's failure, or a worker process was killed.
    """
    prefetch = 2
    prepare: Callable[[int], None] | None = None
    if largest is not None:
        ahead = max(1, AHEAD // max(1, largest))
        processes = min(processes, ahead)
        prefetch = min(prefetch, ahead // max(1, processes))
        prepare = functools.partial(_limit_memory, ROOM + _COPIES * largest)
    loader = DataLoader(
        examples,
        sampler=parts,
        batch_size=None,  # a part is a batch already
        collate_fn=_unchanged,
        num_workers=processes,
        prefetch_factor=prefetch if processes else None,
        worker_init_fn=prepare,
        pin_memory=device.startswith("cuda"),
        generator=torch.Generator(),  # its own, or it would draw from torch's
    )
    batch: B
    try:
        for batch in loader:
            if batch.failure:
                raise DataError(batch.failure)
            yield batch
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            f"a process that decodes files was killed: {error}. Where memory was short, take "
            "fewer processes or smaller batches"
        ) from error


def _limit_memory(room: int, worker: int) -> None:
    """Let this process take `room` bytes of address space more than it has, where that is known."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return
    import resource  # which Windows does not have

    limit = int(status.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE") + room
    lower, upper = resource.getrlimit(resource.RLIMIT_AS)
    if all(other == resource.RLIM_INFINITY or limit < other for other in (lower, upper)):
        resource.setrlimit(resource.RLIMIT_AS, (limit, upper))
        _limits.append(limit)


def memory_is_limited() -> bool:
    """True in a worker process that gets no more memory than its files should need."""
    return bool(_limits)


def _unchanged(batch: Any) -> Any:
    return batch
