"""A file that promises more samples than it has bytes is refused before FFmpeg makes room."""

from struct import pack

import pytest

from groupnorm.data.files.decode import UnreadableError
from groupnorm.data.video.boxes import check_samples
from groupnorm.data.video.decode import open_video
from tests.data.video.video_files import numbered, peak_growth, write_video


def box(kind, content):
    return pack(">I4s", 8 + len(content), kind) + content


def test_real_files_are_accepted(tmp_path):
    for name, options in (
        ("plain.mp4", {}),
        ("streamed.mp4", {"movflags": "faststart"}),
        ("fragmented.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("video.mkv", {}),
        ("video.avi", {}),
    ):
        check_samples(str(write_video(tmp_path / name, numbered(20), sound=True, **options)))


def test_what_a_small_file_promises_takes_no_memory(tmp_path):
    whole = write_video(tmp_path / "video.mp4", numbered(5)).read_bytes()
    sizes, chunks = whole.index(b"stsz") + 8, whole.index(b"stsc") + 8
    many = 10_000_000  # samples of a thousand bytes, all in one chunk
    lying = bytearray(whole)
    lying[sizes : sizes + 8] = pack(">II", 1000, many)
    lying[chunks : chunks + 16] = pack(">IIII", 1, 1, many, 1)
    (tmp_path / "lying.mp4").write_bytes(lying)

    def refuse():
        with (
            pytest.raises(UnreadableError, match=r"promises 10,000,000 frames or samples in 2,"),
            open_video(str(tmp_path / "lying.mp4")),
        ):
            pass

    assert peak_growth(refuse) < 50e6  # FFmpeg would take 600 MB


SIZES = box(b"stsz", pack(">III", 0, 1, 500))
TREE = box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", SIZES)))))
RUN = box(b"moof", box(b"traf", box(b"trun", pack(">II", 0, 500))))


@pytest.mark.parametrize(
    ("data", "promised"),
    [
        (TREE, 500),
        (RUN, 500),
        (box(b"free", bytes(100)) + TREE, 500),
        (TREE + RUN, 1000),
        (pack(">I4sQ", 1, b"moov", 16 + len(TREE) - 8) + TREE[8:], 500),  # a length of 64 bits
        (pack(">I4s", 0, b"moov") + TREE[8:], 500),  # to the end of the file
        (box(b"free", TREE), 0),
        (TREE[:-20], 0),
        (b"\0\0\0\4moov", 0),
        (b"RIFF", 0),
        (box(b"moov", box(b"moov", b"")) * 50, 0),
    ],
)
def test_boxes(tmp_path, data, promised):
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    if not promised:
        check_samples(str(path))
        return
    with pytest.raises(
        UnreadableError, match=f"promises {promised:,} frames or samples in {len(data)}"
    ):
        check_samples(str(path))
    path.write_bytes(data + bytes(promised))  # as many bytes as samples at least
    check_samples(str(path))
