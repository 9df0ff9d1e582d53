"""Worker processes that make batches, in order; an error in one of them becomes a DataError."""

from __future__ import annotations

from collections.abc import Generator, Iterable
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


def in_processes(
    examples: Dataset[B], parts: Iterable[Any], processes: int, device: str
) -> Generator[B, None, None]:
    """What `examples` makes of each part, in order.

    Args:
        parts: read ahead by a few for each worker process.
        processes: worker processes; 0 makes the batches in this process.
        device: where they will go; for "cuda" their tensors lie in pinned memory.

    Raises:
        DataError: a batch's failure, or a worker process was killed.
    """
    loader = DataLoader(
        examples,
        sampler=parts,
        batch_size=None,  # a part is a batch already
        collate_fn=_unchanged,
        num_workers=processes,
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
            f"a process that decodes images was killed: {error}. Where memory was short, take "
            "fewer processes or smaller batches"
        ) from error


def _unchanged(batch: Any) -> Any:
    return batch
