"""A file that promises more samples than it has bytes is refused before FFmpeg makes room."""

import zlib
from struct import pack, unpack

import av
import pytest

from groupnorm.data.files.decode import UnreadableError
from groupnorm.data.video import boxes, decode
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
COMPACT = box(b"stz2", pack(">III", 0, 8, 500))
TREE = box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", SIZES)))))
RUN = box(b"moof", box(b"traf", box(b"trun", pack(">II", 0, 500))))
MANY = 1 << 20


@pytest.mark.parametrize(
    ("data", "promised"),
    [
        (TREE, 500),
        (RUN, 500),
        (box(b"free", bytes(100)) + TREE, 500),
        (TREE + RUN, 1000),
        (TREE * 2 + box(b"moov", COMPACT), 1500),
        (pack(">I4sQ", 1, b"moov", 16 + len(TREE) - 8) + TREE[8:], 500),  # a length of 64 bits
        (box(b"moov", pack(">I4sQ", 1, b"stsz", 28) + SIZES[8:]), 500),
        (pack(">I4s", 0, b"moov") + TREE[8:], 500),  # to the end of the file
        (pack(">I4s", 9999, b"moov") + TREE[8:], 500),  # beyond the end
        *((box(b"moov", box(name, b"1234" + SIZES)), 500) for name in
          (b"dinf", b"edts", b"mvex", b"udta", b"sinf", b"meta", b"stsd", b"none")),
        (SIZES, 500),
        (box(b"free", b"1234" + TREE), 500),  # FFmpeg finds such a header
        (box(b"hoov", TREE), 500),
        (box(b"mdat", TREE) + RUN, 500),  # what stands among the frames does not count
        (pack(">I4s", 3, b"mdat") + TREE, 500),  # no box
        (pack(">I4sQ", 1, b"mdat", 8) + TREE, 500),
        (box(b"mdat", TREE), 0),
        (pack(">I4sQ", 1, b"mdat", 1 << 63) + TREE, 0),
        (TREE[:-20], 0),
        (b"\0\0\0\4moov", 0),
        (b"RIFF", 0),
        (b"RIFF\0\0\0\0AVI " + TREE, 0),
        (b"RIFFmoov----" + TREE, 500),
        (box(b"moov", box(b"moov", b"")) * 50, 0),
    ],
)  # fmt: skip
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
    path.write_bytes(data + box(b"mdat", bytes(promised)))  # as many bytes as samples at least
    check_samples(str(path))


@pytest.mark.parametrize("shift", range(-30, 3))
def test_a_count_on_the_border_of_two_blocks_is_seen_once(tmp_path, shift, monkeypatch):
    monkeypatch.setattr(boxes, "_BLOCK", 256)
    path = tmp_path / "video.mp4"
    long = pack(">I4sQ", 1, b"stsz", 28) + SIZES[8:]
    path.write_bytes(box(b"udta", bytes(256 - 8 + shift) + long + bytes(150)))
    with pytest.raises(UnreadableError, match="promises 500 frames"):
        check_samples(str(path))


HIDING = ["trak", "minf", "dinf", "edts", "udta", "free"]


@pytest.mark.parametrize("place", HIDING)
def test_a_promise_in_whatever_box_of_a_real_file_is_seen(tmp_path, place):
    """The sample table of a file that can be decoded, moved into another box."""
    whole = write_video(tmp_path / "video.mp4", numbered(5)).read_bytes()
    lying = bytearray(whole)
    sizes = whole.index(b"stsz")
    lying[sizes + 8 : sizes + 16] = pack(">II", 1000, MANY)
    table = whole.index(b"stbl")
    lying[table : table + 4] = place.encode()
    path = tmp_path / "lying.mp4"
    path.write_bytes(lying)
    with pytest.raises(UnreadableError, match="promises 1,048,576 frames"), open_video(str(path)):
        pass


@pytest.mark.parametrize("name", [b"moov", b"free"])
def test_a_compressed_header_is_refused(tmp_path, name):
    whole = write_video(tmp_path / "video.mp4", numbered(5)).read_bytes()
    header = whole.index(b"moov") - 4
    packed = zlib.compress(whole[header:])
    size = pack(">I", len(whole) - header)
    inner = box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", size + packed))
    path = tmp_path / "packed.mp4"
    path.write_bytes(whole[:header] + box(name, inner))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 5, "FFmpeg reads it"
    with pytest.raises(UnreadableError, match="its header is compressed"), open_video(str(path)):
        pass


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.avi"])
def test_a_file_is_opened_as_what_it_was_taken_for(tmp_path, name):
    path = write_video(tmp_path / name, numbered(4))
    taken = check_samples(str(path))
    assert taken == {"mp4": "mov", "mkv": "matroska", "avi": "avi"}[path.suffix[1:]]
    with open_video(str(path)) as video:
        assert video.length == 4


def test_an_mp4_that_begins_like_an_mkv_is_not_opened_as_an_mp4(tmp_path):
    path = write_video(tmp_path / "video.mp4", numbered(4))
    data = path.read_bytes()
    begin = data.index(b"moov") - 4
    end = begin + unpack(">I", data[begin : begin + 4])[0]
    path.write_bytes(b"\x1a\x45\xdf\xa3" + data[begin + 4 : end] + data[begin:])
    with decode._container(str(path), None) as container:
        assert container.format.name.startswith("mov"), "this is what FFmpeg takes it for"
    with pytest.raises(UnreadableError, match="Invalid data"), open_video(str(path)):
        pass
