"""Keeping glibc from giving large blocks back every step, and making it give them back.

By default glibc maps blocks above a threshold afresh and unmaps them when they are freed, so that
every step of a training on the CPU pays for page faults on all its activations again.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = 2**31 - 1 - 4096  # int argument: the largest threshold glibc takes, page aligned


def keep_large_blocks() -> bool:
    """Raise malloc's mmap and trim thresholds for this process; True where glibc obeyed."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, _KEEP) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))


def release_free_blocks() -> bool:
    """Give the system the memory between blocks in use; True where glibc had any to give.

    Blocks of some tens of megabytes that are freed and taken again in other sizes leave gaps in the
    heap, which glibc keeps.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
