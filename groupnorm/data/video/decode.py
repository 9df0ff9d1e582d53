"""Video files, decoded without trust: their frames by number, RGB and upright.

PyAV decodes, which is FFmpeg's libraries. A frame's number is its place, by time, among the packets
of the video stream: headers may promise another count of frames, and where the frame rate varies a
time says nothing about a number. Each file has one decoding thread, for worker processes are what
runs in parallel. FFmpeg's messages stay off, as they are: turning them on can stop its threads.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groupnorm.counts import counted
from groupnorm.data.files.decode import UnreadableError, check_size
from groupnorm.data.files.processes import memory_is_limited
from groupnorm.data.issues import DataError
from groupnorm.data.video.boxes import check_samples

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

LARGEST_PIXELS = 1 << 25  # of a frame; one of 8K video has 33 million
MOST_FRAMES = 1 << 17  # an hour at 30 frames a second
# The demuxers of mp4, of mkv and webm, and of avi. No others: some open addresses or other files.
_OF_CONTAINERS = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": "file"}
_OF_CODECS = {"max_pixels": str(LARGEST_PIXELS)}

Frame = NDArray[np.uint8]
"""(H, W, 3), RGB."""


@contextmanager
def open_video(path: str) -> Iterator[Video]:
    """Open a video file, which is closed at the end of the `with` block.

    Raises:
        UnreadableError: no regular file; empty, truncated or damaged; no mp4, mkv, webm or avi by
            its content; no video stream, or no decoder for it; too large or too many frames.
        DataError: the file cannot be opened, or PyAV is not installed.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for another process
            raise UnreadableError("not a regular file")
        if not found.st_size:
            raise UnreadableError("the file is empty")
        file_format = check_samples(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    with _container(path, file_format) as container:
        yield Video(path, file_format, container)


def import_av() -> ModuleType:
    """PyAV.

    Raises:
        DataError: it is not installed; the message says how to install it.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise DataError(
            "video files are read and written with PyAV, which is not installed; install it with: "
            "pip install 'groupnorm[video]'"
        ) from None
    return av


class Video:
    """An open video.

    Attributes:
        length: the number of its frames.
        rotated: whether a frame given out so far is stored in another orientation than it is shown.
    """

    def __init__(self, path: str, file_format: str, container: InputContainer) -> None:
        self.rotated = False
        self._path, self._format, self._container = path, file_format, container
        self._converter = _converter()
        self._shape: tuple[int, ...] | None = None
        with _refusing():
            self._stream = _video_stream(container)
            times, keyframes = _index(container, self._stream)
        self.length = len(times)
        self._times = sorted(time for time in times if time is not None)
        # where frames have no times of their own, they are counted from the first on
        self._can_seek = len(set(self._times)) == self.length
        known = (bisect_left(self._times, time) for time in keyframes if self._can_seek)
        self._keyframes = sorted({0, *known})

    def frames(self, numbers: Sequence[int]) -> Iterator[Frame]:
        """Frames by their numbers, from 0 to `length` - 1, ascending and distinct.

        Raises:
            UnreadableError: a frame on the way is damaged or missing, has another size than those
                before it, or is to be turned by no multiple of 90 degrees.
        """
        for run in self._runs(numbers):
            decoded = self._decoded(run[0])
            for number in run:
                with _refusing():
                    pixels = self._upright(_find(number, decoded))
                yield pixels

    def _runs(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """`numbers` in parts, cut where a keyframe lies between that need not be decoded, too."""
        run: list[int] = []
        for number in numbers:
            if run and self._keyframe_before(number) > self._keyframe_after(run[-1]):
                yield run
                run = []
            run.append(number)
        if run:
            yield run

    def _keyframe_before(self, number: int) -> int:
        """The last keyframe that is not after a frame."""
        return self._keyframes[bisect_right(self._keyframes, number) - 1]

    def _keyframe_after(self, number: int) -> int:
        """The first keyframe after a frame, or the number of frames."""
        later = bisect_right(self._keyframes, number)
        return self._keyframes[later] if later < len(self._keyframes) else self.length

    def _decoded(self, first: int) -> Iterator[tuple[int, VideoFrame]]:
        """Numbers and frames from the last keyframe before `first` on."""
        keyframe = self._keyframe_before(first)
        packets = self._packets_from(keyframe)
        if packets is None:
            yield from self._decoded_in_order()
            return
        for frame in _decode(packets, self._stream):
            if frame.pts is None or frame.pts < self._times[keyframe]:
                continue
            number = bisect_left(self._times, frame.pts)
            if self._times[number : number + 1] == [frame.pts]:  # else no packet is of this frame
                yield number, _undamaged(frame)

    def _packets_from(self, keyframe: int) -> Iterator[Packet[VideoStream]] | None:
        """The packets from a keyframe, or from one before it, on; None where no seeking helps."""
        import av

        if not self._can_seek:
            return None
        try:
            self._container.seek(self._times[keyframe], stream=self._stream)
        except av.FFmpegError:
            return None
        packets = self._container.demux(self._stream)
        landed = next(packets, None)
        if landed is None or landed.pts is None or landed.pts > self._times[keyframe]:
            return None
        return chain([landed], packets)

    def _decoded_in_order(self) -> Iterator[tuple[int, VideoFrame]]:
        """Numbers and frames from the first on. The file is opened anew and sought no more."""
        self._can_seek = False
        with _container(self._path, self._format) as container:
            stream = _video_stream(container)
            for number, frame in enumerate(_decode(container.demux(stream), stream)):
                yield number, _undamaged(frame)

    def _upright(self, frame: VideoFrame) -> Frame:
        converted = self._converter.reformat(frame, format="rgb24", threads=1)
        pixels = np.asarray(converted.to_ndarray(), np.uint8)
        turns, rest = divmod(frame.rotation, 90)
        if rest:
            raise UnreadableError(
                f"to be turned by {frame.rotation} degrees, expected a multiple of 90"
            )
        if turns:
            pixels = np.rot90(pixels, turns)  # counterclockwise, as the rotation
            self.rotated = True
        if self._shape not in (None, pixels.shape):
            raise UnreadableError("its frames have several sizes")
        self._shape = pixels.shape
        return pixels


def _converter() -> VideoReformatter:
    """One for all frames: each that is made sets up FFmpeg's scaling anew."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()


def _find(number: int, decoded: Iterator[tuple[int, VideoFrame]]) -> VideoFrame:
    for other, frame in decoded:
        if other == number:
            return frame
        if other > number:
            break
    raise UnreadableError(f"frame {number} cannot be decoded")


def _undamaged(frame: VideoFrame) -> VideoFrame:
    if frame.is_corrupt:
        raise UnreadableError("a frame is damaged")
    return frame


def _decode(packets: Iterable[Packet[VideoStream]], stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in packets:
        if packet.size:  # one without data would end the decoding
            yield from stream.decode(packet)
    yield from stream.decode(None)


@contextmanager
def _container(path: str, file_format: str) -> Iterator[InputContainer]:
    av = import_av()
    with _refusing():
        container = av.open(
            f"file:{path}",  # or a path with a colon would be the address of something else
            mode="r",
            format=file_format,
            options=_OF_CODECS,
            container_options=_OF_CONTAINERS,
            metadata_errors="replace",
        )
    with container:
        yield container


def _video_stream(container: InputContainer) -> VideoStream:
    """The first video stream, ready to be decoded by one thread. The cover of a song is none."""
    from av.stream import Disposition

    streams = container.streams.video
    stream = next((s for s in streams if not s.disposition & Disposition.attached_pic), None)
    if stream is None:
        raise UnreadableError("no video stream")
    if stream.codec_context is None:
        raise UnreadableError("no decoder for its video stream")
    check_size(stream.width, stream.height, LARGEST_PIXELS)
    stream.thread_type, stream.thread_count = "NONE", 1
    stream.codec_context.options = _OF_CODECS
    return stream


def _index(container: InputContainer, stream: VideoStream) -> tuple[list[int | None], list[int]]:
    """The time of every packet that is shown, None for one without; and those of the keyframes."""
    times: list[int | None] = []
    keyframes = []
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if packet.is_corrupt:
            raise UnreadableError(f"truncated or damaged after {counted(len(times), 'frame')}")
        if len(times) == MOST_FRAMES:
            raise UnreadableError(f"more than {MOST_FRAMES:,} frames")
        times.append(packet.pts)
        if packet.is_keyframe and packet.pts is not None:
            keyframes.append(packet.pts)
    if not times:
        raise UnreadableError("no frames")
    return times, keyframes


@contextmanager
def _refusing() -> Iterator[None]:
    """What is raised while a file is decoded becomes an UnreadableError."""
    av = import_av()
    try:
        yield
    except UnreadableError:
        raise
    except av.FFmpegError as error:  # also for memory that a damaged file asks for
        raise UnreadableError(f"{type(error).__name__}: {error.strerror}") from error
    except MemoryError as error:
        if not memory_is_limited():
            raise
        raise UnreadableError("it takes more memory than a file may") from error
    except Exception as error:  # a damaged file can raise nearly anything
        raise UnreadableError(f"{type(error).__name__}: {error}") from error
