"""Videos that are written without loss, the same for the same frames."""

import hashlib
import sys

import numpy as np
import pytest

from groupnorm.data import DataError
from groupnorm.data.video.writer import encode_video

av = pytest.importorskip("av")
from groupnorm.data.video.decode import open_video  # noqa: E402


def noise(count, height, width):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(20, 16, 16), (3, 24, 40), (1, 17, 9)], ids=str)
def test_what_is_decoded_is_what_was_encoded(tmp_path, shape):
    frames = noise(*shape)
    path = tmp_path / "video.mkv"
    path.write_bytes(encode_video(frames))
    with open_video(str(path)) as video:
        assert video.length == shape[0]
        assert (np.stack(list(video.frames(range(shape[0])))) == frames).all()
    with open_video(str(path)) as video:  # every frame on its own
        assert (next(video.frames([shape[0] - 1])) == frames[-1]).all()


def test_the_same_frames_give_the_same_bytes():
    frames = noise(20, 16, 16)
    digests = {hashlib.sha256(encode_video(frames)).hexdigest() for _ in range(6)}
    assert len(digests) == 1
    frames[7, 3, 3, 1] ^= 1
    assert hashlib.sha256(encode_video(frames)).hexdigest() not in digests


def test_frames_that_are_no_contiguous_array():
    frames = noise(20, 16, 16)
    assert encode_video(frames[::-1, :, ::-1]) == encode_video(frames[::-1, :, ::-1].copy())


def test_without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"PyAV.*pip install 'groupnorm\[video\]'"):
        encode_video(noise(1, 4, 4))
