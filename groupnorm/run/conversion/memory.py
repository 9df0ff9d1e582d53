"""Whether images that are decoded fit in memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from groupnorm.counts import counted

LARGEST_SIZE = 4096
"""Side of the images in pixels."""


def check_memory(images: int, size: int) -> None:
    """Check that so many images (3, S, S) of single precision fit in the memory that is free.

    That is an estimate for the images alone. What the network and its conversion take is not known
    before and not counted, and other processes may take what is free.

    Raises:
        ValueError: they do not, or the size is below 1 or above `LARGEST_SIZE`.
    """
    if not 1 <= size <= LARGEST_SIZE:
        raise ValueError(
            f"expected images of 1 to {LARGEST_SIZE:,} pixels a side, got a size of {size:,}"
        )
    needed, free = images * 3 * size**2 * 4, _free_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"{counted(images, 'image')} of {size:,} x {size:,} pixels take {needed / 1e9:.1f} GB "
            f"once decoded, and about {free / 1e9:.1f} GB of memory are free, which the network "
            "and its conversion need, too: take smaller ones or fewer"
        )


def _free_memory(
    machine: Path = Path("/proc/meminfo"), container: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that Linux says are available, or that are left of a container's limit, if fewer.

    Cached files count as free where Linux can drop them. None where neither is known.
    """
    found = []
    with suppress(OSError):
        found.append(_field(machine, "MemAvailable:") << 10)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit, used = (
            int((container / name).read_text(encoding="ascii"))
            for name in ("memory.max", "memory.current")
        )
        dropped = _field(container / "memory.stat", "inactive_file")
        found.append(max(limit - max(used - dropped, 0), 0))
    return min(found, default=None)


def _field(path: Path, name: str) -> int:
    """A number of a file with lines of a name and a number; 0 where the name is not there."""
    lines = map(str.split, path.read_text(encoding="ascii").splitlines())
    return next((int(line[1]) for line in lines if line[0] == name), 0)
