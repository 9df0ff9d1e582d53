"""Keeping glibc from giving large blocks back every step, and making it give them back.

By default glibc maps blocks above a threshold afresh and unmaps them when they are freed, so that
every step of a training on the CPU pays for page faults on all its activations again.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = 2**31 - 1 - 4096  # int argument: the largest threshold glibc takes, page aligned
_LARGE = 2**28  # bytes; glibc's own thresholds grow to 32 MB at most


def keep_large_blocks() -> bool:
    """Have glibc keep the memory of large tensors that are freed, for the next ones.

    Call it once at the start of a script, for training or inference on the CPU: no step then pays
    for page faults of its activations again. It raises malloc's mmap and trim thresholds for this
    process, which cannot be undone; the peak of its memory stays reserved. Blocks taken
    by a thread other than the main one may be given back all the same: its heap is at most 64 MB.

    Returns:
        True where glibc obeyed; False on other systems and with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, _KEEP) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))


class _Counts(ctypes.Structure):
    """glibc's `struct mallinfo2`: bytes of its heaps, and those of them that are in use."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def large_blocks_are_kept() -> bool:
    """Whether this process keeps large blocks that are freed, whatever made it do so.

    That is `keep_large_blocks`, or thresholds in the environment when the process started
    (`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_`, or `GLIBC_TUNABLES`). It is found out
    by taking a block of 256 MB, which is not written to, and freeing it; to be called in the main
    thread, since glibc never keeps blocks of this size for others.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    count = getattr(library, "mallinfo2", None)  # glibc 2.33
    if count is None:
        return False
    count.restype = _Counts
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
    before = count()
    block = library.malloc(_LARGE)
    held = count()
    library.free(block)
    in_heap = held.uordblks - before.uordblks >= _LARGE  # not mapped, nor another allocator's
    return bool(in_heap and count().arena >= held.arena)


def release_free_blocks() -> bool:
    """Give the system the memory between blocks in use; True where glibc had any to give.

    Blocks of some tens of megabytes that are freed and taken again in other sizes leave gaps in the
    heap, which glibc keeps.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
