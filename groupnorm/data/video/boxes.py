"""What the header of an mp4 file promises, before FFmpeg makes room for it.

An mp4 file is a tree of boxes, each a length, a name and a content (ISO/IEC 14496-12, section 4.2).
One number there, the count of the samples, makes FFmpeg take some sixty bytes of memory for each.
"""

from __future__ import annotations

import os
from struct import unpack_from

from groupnorm.data.files.decode import UnreadableError

_WITH_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # where in the content of a box the count is


def check_samples(path: str) -> None:
    """Raise UnreadableError when a file promises more samples, of a byte at least, than fit in it.

    Files that are no mp4 promise nothing.
    """
    size = os.path.getsize(path)
    promised = 0
    with open(path, "rb") as file:
        ranges = [(0, size)]
        while ranges:
            offset, end = ranges.pop()
            if offset + 8 > end:
                continue
            file.seek(offset)
            head = file.read(32).ljust(32, b"\0")
            length, kind = unpack_from(">I4s", head)
            content = 8
            if length == 1:
                (length,), content = unpack_from(">Q", head, 8), 16
            elif length == 0:
                length = end - offset
            if length < content:
                continue
            if kind in _COUNT_AT:
                promised += unpack_from(">I", head, content + _COUNT_AT[kind])[0]
            ranges.append((offset + length, end))
            if kind in _WITH_BOXES:
                ranges.append((offset + content, min(offset + length, end)))
    if promised > size:
        raise UnreadableError(f"it promises {promised:,} frames or samples in {size:,} bytes")
