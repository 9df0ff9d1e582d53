"""Writing videos whose files are the same for the same frames, and lose nothing of them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from groupnorm.data.video.decode import import_av

ENDING = ".mkv"


def encode_video(frames: NDArray[np.uint8], rate: int = 25) -> bytes:
    """A Matroska file of FFV1: RGB without loss, and every frame can be decoded on its own.

    Equal frames give equal bytes with one version of FFmpeg. (libx264 with its default preset gives
    different files of the same frames.)

    Args:
        frames: (T, H, W, 3), RGB.
        rate: frames a second.

    Raises:
        DataError: PyAV is not installed.
    """
    av = import_av()
    buffer = BytesIO()
    # without bitexact Matroska gets a random identifier, and the version of FFmpeg
    options = {"fflags": "+bitexact"}
    with av.open(buffer, "w", format="matroska", container_options=options) as container:
        stream = container.add_stream("ffv1", rate=rate, options={"flags": "+bitexact"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        stream.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()
