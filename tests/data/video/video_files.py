"""Small real video files of every kind, whose frames tell their numbers."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from groupnorm.data.files.listing import list_files
from groupnorm.data.video.listing import VideoFiles

STEP = 6  # levels of grey from one frame to the next
RATE = 25


def numbered(count, height=32, width=48):
    """uint8 (count, height, width, 3): the left half of frame k is grey, of level 10 + STEP * k.

    The right half is the same texture in all of them, so that encoders see one scene.
    """
    frames = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    frames = frames.repeat(count, 0)
    levels = (10 + STEP * np.arange(count)).astype(np.uint8)
    frames[:, :, : (width + 1) // 2] = levels[:, None, None, None]
    return frames


def number_of(frame):
    """Which frame of `numbered` a decoded one is, whatever part of its left half it shows."""
    return round((float(np.median(frame[:, : frame.shape[1] // 3 + 1])) - 10) / STEP)


def write_video(
    path,
    frames,
    *,
    codec="mpeg4",
    pix_fmt="yuv420p",
    times=None,
    keyframes_every=5,
    b_frames=0,
    rotation=0,
    sound=False,
    **options,
):
    """Write a video file; the ending of its name says which container.

    Args:
        frames: uint8 (T, H, W, 3), or a list of such frames of several sizes.
        times: of the frames in milliseconds; None for a constant rate.
        rotation: in degrees, counterclockwise, by which players are to turn the frames.
        sound: a stream of sound comes before that of the frames.
        options: of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        sounds = container.add_stream("aac", rate=16000) if sound else None
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = pix_fmt, keyframes_every, b_frames
        stream.thread_count = 1
        if codec == "mpeg4":  # the finest, and a new scene is never seen
            stream.codec_context.qmin = stream.codec_context.qmax = 2
            stream.codec_context.options = {"sc_threshold": "1000000000"}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if sounds is not None:
            _write_sound(container, sounds)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path):
    """An mp4 file without a picture."""
    with av.open(str(path), "w") as container:
        _write_sound(container, container.add_stream("aac", rate=16000))
    return path


def _write_sound(container, stream):
    for number in range(4):
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
        frame.pts = 1024 * number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def peak_growth(work):
    """Bytes by which resident memory grew at most while `work()` ran; 0 where nobody can know."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        work()
        return 0
    clear.write_text("5")
    before = _peak()
    work()
    return _peak() - before


def _peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def broken(seed):
    """Bytes that are no video."""
    return b"no video" + bytes([seed])


def mixed_set(root, train=12, test=7, bad_train=(), bad_test=(), short=(), rotated=()):
    """VideoFiles of `numbered` videos of 24 frames, 20 x 28; some of them broken.

    The label is the number modulo 3. Of both splits, those of `short` have 5 frames, and those of
    `rotated` are to be shown turned.
    """
    listings = {}
    for split, count, bad in (("train", train, bad_train), ("test", test, bad_test)):
        listings[split] = []
        for number in range(count):
            path = root / split / f"{number}.mp4"
            if number in bad:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(broken(number))
            else:
                frames = numbered(5 if number in short else 24, 20, 28)
                frames[..., 2] = 20 * number  # blue tells which video
                write_video(path, frames, rotation=90 if number in rotated else 0)
            listings[split].append((str(path), number % 3))
    classes = ["right", "left", "stay"]
    files = list_files("toy", root, listings["train"], listings["test"], classes, kind=VideoFiles)
    return replace(files, flip_labels=(1, 0, 2))
