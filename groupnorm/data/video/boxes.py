"""What the header of an mp4 file promises, before FFmpeg makes room for it.

An mp4 file is a tree of boxes, each a length, a name and a content (ISO/IEC 14496-12, section 4.2).
One number there, the count of the samples, makes FFmpeg take some sixty bytes of memory for each.
FFmpeg finds these counts in boxes of many kinds, so they are looked for everywhere but in the
frames themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from struct import unpack_from
from typing import BinaryIO

from groupnorm.data.files.decode import UnreadableError

_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # where in the content of a box the count is
_COMPRESSED = b"cmov"
_NAMES = re.compile(b"|".join((*_COUNT_AT, _COMPRESSED)))
_BEFORE, _AFTER = 4, 24  # bytes before a name, its length, and from it on, up to the count's end
_BLOCK = 1 << 20


def check_samples(path: str) -> str:
    """Raise UnreadableError when a file promises more samples, of a byte at least, than fit in it.

    One whose header is compressed is refused, too, for what it promises cannot be seen. Files that
    are no mp4 promise nothing.

    Returns:
        The format, by FFmpeg's name, that was taken for the file's: "mov", "matroska" or "avi". It
        is to be opened as that, for FFmpeg might take the bytes that begin an mkv for a box.

    Raises:
        OSError: the file cannot be read.
    """
    size = os.path.getsize(path)
    promised = 0
    with open(path, "rb") as file:
        container = _format(file.read(12))
        if container != "mov":
            return container
        for begin, end in _outside_of_frames(file, size):
            for name, count in _found(file, begin, end):
                if name == _COMPRESSED:
                    raise UnreadableError("its header is compressed")
                promised += count
    if promised > size:
        raise UnreadableError(f"it promises {promised:,} frames or samples in {size:,} bytes")
    return container


def _format(head: bytes) -> str:
    """The format of a file by its first 12 bytes; what begins like no other is an mp4."""
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    return "avi" if (head[:4], head[8:]) == (b"RIFF", b"AVI ") else "mov"


def _outside_of_frames(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Where the boxes at the top begin and end, those of frames (mdat) left out."""
    offset = 0
    while offset + 8 <= size:
        file.seek(offset)
        length, kind, long = unpack_from(">I4sQ", file.read(16).ljust(16, b"\0"))
        least = 8
        if length == 1:
            length, least = long, 16
        end = offset + length if length else size
        if end < offset + least:  # no box: nobody knows what FFmpeg reads from here on
            kind, end = b"", size
        if kind != b"mdat":
            yield offset, min(end, size)
        offset = end


def _found(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Names of boxes that tell how many samples there are, each with its count, in a part."""
    for start in range(begin, end, _BLOCK):
        first = max(start - _BEFORE, 0)
        file.seek(first)
        last = min(start + _BLOCK, end)  # names begin before it
        block = file.read(last + _AFTER - first)
        for match in _NAMES.finditer(block, start - first, last + 3 - first):
            name, place = match[0], match.start()
            content = place + 4
            if place >= _BEFORE and unpack_from(">I", block, place - _BEFORE)[0] == 1:
                content += 8  # a length of 64 bits stands between
            counted = block[content + _COUNT_AT.get(name, 0) :][:4]
            yield name, int.from_bytes(counted, "big") if len(counted) == 4 else 0
