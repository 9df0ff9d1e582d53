"""Video files of every kind: frames by their numbers, and damaged files refused in words."""

import errno
import gc
import os
import sys

import av
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupnorm.data import DataError
from groupnorm.data.files.decode import UnreadableError
from groupnorm.data.video import decode
from groupnorm.data.video.decode import open_video
from tests.data.video.video_files import (
    RATE,
    number_of,
    numbered,
    peak_growth,
    write_sound,
    write_video,
)


def read(path, numbers=None):
    """The frames of these numbers, or all."""
    with open_video(str(path)) as video:
        return list(video.frames(range(video.length) if numbers is None else numbers))


def numbers_in(path, numbers=None):
    return [number_of(frame) for frame in read(path, numbers)]


def put(path, data):
    path.write_bytes(data)
    return path


def flipped(data, first, last, seed):
    """20 bytes from `first` to `last` changed."""
    rng = np.random.default_rng(seed)
    changed = np.frombuffer(data, np.uint8).copy()
    changed[rng.integers(first, last, 20)] ^= rng.integers(1, 256, 20).astype(np.uint8)
    return changed.tobytes()


KINDS = {
    "mp4": {},
    "mkv": {},
    "avi": {},
    "webm": {"codec": "libvpx-vp9"},
    "lossless.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "reordered.mp4": {"b_frames": 2},
    "reordered.mkv": {"b_frames": 2},
    "reordered.avi": {"b_frames": 2},  # a seek leads nowhere: frames are counted from the first on
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_by_number_are_those_of_the_whole_video(tmp_path, kind):
    path = write_video(tmp_path / f"video.{kind}", numbered(20), **KINDS[kind])
    whole = read(path)
    assert [number_of(frame) for frame in whole] == list(range(20))
    assert {(frame.shape, frame.dtype.name) for frame in whole} == {((32, 48, 3), "uint8")}
    with open_video(str(path)) as video:
        assert (video.length, video.rotated) == (20, False)
        for numbers in ([13], [0], [19], [3, 4, 11], [2, 18], range(5, 15, 2), [0, 19]):
            found = list(video.frames(numbers))
            assert len(found) == len(numbers)
            assert all(np.array_equal(f, whole[n]) for f, n in zip(found, numbers, strict=True))


def test_lossless_frames_are_what_was_written(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 10, 3), dtype=np.uint8)
    path = write_video(tmp_path / "video.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    np.testing.assert_array_equal(read(path), frames)


def test_decoding_starts_at_the_keyframe_before_and_skips_what_nobody_wants(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", numbered(40), keyframes_every=5)
    decoded = []

    def note(frame):
        decoded.append(number_of(frame.to_ndarray(format="rgb24")))
        return frame

    monkeypatch.setattr(decode, "_undamaged", note)
    for numbers, expected in (
        ([12], [10, 11, 12]),
        ([1, 4, 6], [0, 1, 2, 3, 4, 5, 6]),  # the next keyframe is on the way
        ([1, 22, 24], [0, 1, 20, 21, 22, 23, 24]),
    ):
        decoded.clear()
        assert numbers_in(path, numbers) == numbers
        assert decoded == expected


def test_one_thread_and_no_messages(tmp_path):
    path = write_video(tmp_path / "video.mp4", numbered(3))
    with open_video(str(path)) as video:
        list(video.frames([2]))
        assert video._stream.codec_context.thread_count == 1
        assert video._stream.codec_context.thread_type.name == "NONE"
    assert av.logging.get_level() is None


def test_a_headers_number_of_frames_is_not_believed(tmp_path):
    path = write_video(tmp_path / "video.mkv", numbered(20))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert len(read(path)) == 20
    whole = write_video(tmp_path / "video.mp4", numbered(20)).read_bytes()
    size = whole.index(b"stts") + 16  # of its one entry: how many frames, and how long each takes
    lying = put(tmp_path / "lying.mp4", whole[:size] + b"\0\0\0\x64" + whole[size + 4 :])
    assert len(read(lying)) == 20


def test_a_frame_rate_that_varies(tmp_path):
    """Times that are multiplied with the mean rate would give other frames."""
    times = np.cumsum([0, *(20 + 40 * (k % 3 == 0) for k in range(29))]).tolist()
    path = write_video(tmp_path / "video.mp4", numbered(30), times=times)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        by_rate = [
            round(float((f.pts - stream.start_time) * stream.time_base * stream.average_rate))
            for f in container.decode(video=0)
        ]
    assert by_rate != list(range(30))
    assert numbers_in(path) == list(range(30))
    assert numbers_in(path, range(10, 28, 2)) == list(range(10, 28, 2))


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_video_cut_without_encoding_it_again(tmp_path, start):
    """What comes before the cut is still in the file, to decode from, and is not shown."""
    whole = write_video(tmp_path / "whole.mp4", numbered(30), keyframes_every=20, b_frames=2)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        for packet in source.demux(old):
            if packet.dts is not None:
                packet.pts -= round(start / old.time_base)
                packet.dts -= round(start / old.time_base)
                packet.stream = new
                target.mux(packet)
    first = {0.0: 0, 0.5: 13}[start]  # at 25 frames a second
    assert RATE == 25
    assert numbers_in(tmp_path / "cut.mp4") == list(range(first, 30))
    assert numbers_in(tmp_path / "cut.mp4", [5]) == [first + 5]


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotated_frames_are_turned_upright(tmp_path, degrees):
    frames = numbered(3)
    frames[:, :8, :12] = 255  # a white corner
    path = write_video(tmp_path / "video.mp4", frames, rotation=degrees)
    corner = {90: (-1, 0), -90: (0, -1), 180: (-1, -1)}[degrees]  # turned counterclockwise
    with open_video(str(path)) as video:
        (frame,) = video.frames([1])
        assert video.rotated
    assert frame.shape == ((48, 32, 3) if abs(degrees) == 90 else (32, 48, 3))
    assert frame[corner].min() > 200
    assert np.abs(np.rot90(frames[1], degrees // 90).astype(int) - frame).mean() < 40


def test_a_rotation_by_no_right_angle_is_refused(tmp_path):
    path = write_video(tmp_path / "video.mp4", numbered(3), rotation=45)
    with pytest.raises(UnreadableError, match="turned by 45 degrees, expected a multiple of 90"):
        read(path)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (31, 47), (1, 40)])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("mpeg4", "yuv420p"), ("ffv1", "bgr0")])
def test_odd_and_tiny_sizes(tmp_path, height, width, codec, pix_fmt):
    frames = numbered(4, height, width)
    path = write_video(tmp_path / "video.mkv", frames, codec=codec, pix_fmt=pix_fmt)
    assert [frame.shape for frame in read(path)] == [(height, width, 3)] * 4
    if codec == "ffv1":
        assert numbers_in(path) == [0, 1, 2, 3]


def test_one_frame(tmp_path):
    assert numbers_in(write_video(tmp_path / "video.mp4", numbered(1))) == [0]


def test_sound_beside_the_picture(tmp_path):
    assert numbers_in(write_video(tmp_path / "video.mp4", numbered(7), sound=True)) == [*range(7)]


@pytest.mark.parametrize(("content", "name"), [("avi", "video.mp4"), ("mp4", "video.avi")])
def test_the_content_counts_and_not_the_ending_of_the_name(tmp_path, content, name):
    other = write_video(tmp_path / f"other.{content}", numbered(7))
    assert numbers_in(other.rename(tmp_path / name)) == [*range(7)]


def damaged(tmp_path):
    """Files that cannot be decoded, and a part of the reason."""
    plain = write_video(tmp_path / "plain.mp4", numbered(40)).read_bytes()
    streamed = write_video(tmp_path / "s.mp4", numbered(40), movflags="faststart").read_bytes()
    avi = write_video(tmp_path / "plain.avi", numbered(40)).read_bytes()
    moov, mdat = streamed.index(b"moov"), streamed.index(b"mdat")
    assert moov < mdat
    return {
        "empty": (b"", "the file is empty"),
        "text": (b"<html>404 Not Found</html>", "InvalidDataError: Invalid data found"),
        "random": (np.random.default_rng(0).bytes(5000), "InvalidDataError: Invalid data found"),
        "half of a file": (plain[: len(plain) // 2], "InvalidDataError: Invalid data found"),
        "70 % of a stream": (streamed[: len(streamed) * 7 // 10], "truncated .* after 25 frames"),
        "half of an avi": (avi[: len(avi) // 2], "truncated or damaged after 6 frames"),
        "flips in the frames": (flipped(streamed, mdat + 4, len(streamed), 0), "frame is damaged"),
        "flips in the header": (flipped(streamed, moov + 4, mdat, 2), "no video stream"),
        "sound alone": (write_sound(tmp_path / "sound.mp4").read_bytes(), "no video stream"),
        "a playlist": (b"#EXTM3U\n#EXTINF:10,\nplain.mp4\n#EXT-X-ENDLIST\n", "Invalid data"),
        "a list of files": (b"ffconcat version 1.0\nfile plain.mp4\n", "Invalid"),
    }


@pytest.mark.parametrize(
    "name",
    ["empty", "text", "random", "half of a file", "70 % of a stream", "half of an avi",
     "flips in the frames", "flips in the header", "sound alone", "a playlist", "a list of files"],
)  # fmt: skip
def test_what_cannot_be_decoded_says_why(tmp_path, name):
    data, message = damaged(tmp_path)[name]
    path = put(tmp_path / "video.mp4", data)
    with pytest.raises(UnreadableError, match=message):
        read(path)


def test_a_truncated_stream_is_refused_whatever_frames_are_wanted(tmp_path):
    data, _ = damaged(tmp_path)["70 % of a stream"]
    path = put(tmp_path / "video.mp4", data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 40  # which it claims still
    with pytest.raises(UnreadableError, match="truncated"), open_video(str(path)):
        pass


def test_an_mkv_that_was_cut_is_a_shorter_video(tmp_path):
    """Nothing in it tells that there was more."""
    whole = write_video(tmp_path / "video.mkv", numbered(40)).read_bytes()
    assert numbers_in(put(tmp_path / "cut.mkv", whole[: len(whole) // 2])) == [*range(15)]


def test_the_cover_of_a_song_is_no_video(tmp_path):
    with av.open(str(tmp_path / "video.mp4"), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableError, match="no video stream"):
        read(tmp_path / "video.mp4")


def test_frames_of_several_sizes_are_refused(tmp_path):
    """Two videos that were joined: the second one's header follows in the stream."""
    first, second = (
        write_video(tmp_path / f"{width}.mkv", numbered(3, 32, width)) for width in (48, 64)
    )
    with av.open(str(tmp_path / "both.mkv"), "w") as target:
        new = None
        for path in (first, second):
            with av.open(str(path)) as source:
                old = source.streams.video[0]
                new = new or target.add_stream_from_template(old)
                for packet in source.demux(old):
                    if packet.dts is not None:
                        shift = 0 if path == first else 1000
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        data = packet if path == first else with_header(packet, old)
                        data.stream = new
                        target.mux(data)
    with pytest.raises(UnreadableError, match="its frames have several sizes"):
        read(tmp_path / "both.mkv")
    assert len(read(tmp_path / "both.mkv", [0, 1])) == 2


def with_header(packet, stream):
    whole = av.Packet(stream.codec_context.extradata + bytes(packet))
    whole.pts, whole.dts, whole.time_base = packet.pts, packet.dts, packet.time_base
    whole.is_keyframe = packet.is_keyframe
    return whole


def test_a_frame_that_is_promised_too_large_is_refused_before_memory_is_taken(tmp_path):
    frames = numbered(3, 300, 400)
    whole = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt="bgr0").read_bytes()
    width, height = whole.index(b"\xb0\x82\x01\x90") + 2, whole.index(b"\xba\x82\x01\x2c") + 2
    large = bytearray(whole)
    large[width : width + 2] = large[height : height + 2] = (9000).to_bytes(2, "big")
    put(tmp_path / "large.mkv", bytes(large))

    def refuse():
        with pytest.raises(UnreadableError, match=r"expected 1 to 33,554,432 in all"):
            read(tmp_path / "large.mkv")

    assert peak_growth(refuse) < 50e6  # a frame would have 324 MB


def test_the_largest_frame_and_the_most_frames(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", numbered(5))
    monkeypatch.setattr(decode, "MOST_FRAMES", 5)
    monkeypatch.setattr(decode, "LARGEST_PIXELS", 48 * 32)
    assert len(read(path)) == 5
    monkeypatch.setattr(decode, "MOST_FRAMES", 4)
    with pytest.raises(UnreadableError, match="more than 4 frames"):
        read(path)
    monkeypatch.setattr(decode, "LARGEST_PIXELS", 48 * 32 - 1)
    with pytest.raises(UnreadableError, match="48 x 32 pixels, expected 1 to 1,535 in all"):
        read(path)


def test_a_ribbon_is_refused(tmp_path):
    path = write_video(tmp_path / "video.mkv", numbered(2, 1, 201), codec="ffv1")
    with pytest.raises(UnreadableError, match="no side over 200 times the other"):
        read(path)


def test_what_cannot_be_opened_is_another_matter(tmp_path):
    with pytest.raises(DataError, match=r"^cannot read .*gone.mp4: No such file or directory$"):
        read(tmp_path / "gone.mp4")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_is_not_waited_for(tmp_path, make):
    make(tmp_path / "video.mp4")
    with pytest.raises(UnreadableError, match="not a regular file"):
        read(tmp_path / "video.mp4")


def test_an_error_of_the_disk_is_an_error_in_words(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = write_video(tmp_path / "video.mp4", numbered(3))
    monkeypatch.setattr(decode, "check_samples", fail)
    with pytest.raises(DataError, match=r"^cannot read .*video.mp4: Input/output error$"):
        read(path)


def test_a_frame_at_a_time_that_no_packet_has_is_not_taken_for_the_next(tmp_path):
    path = write_video(tmp_path / "video.mp4", numbered(10))
    with open_video(str(path)) as video:
        video._times[3] -= 1
        with pytest.raises(UnreadableError, match="frame 3 cannot be decoded"):
            list(video.frames([3]))
        assert [number_of(frame) for frame in video.frames([2, 4])] == [2, 4]


def test_a_path_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "http:" / "video.mp4", numbered(3))
    assert numbers_in("http:/video.mp4") == [0, 1, 2]


def test_without_pyav_it_says_how_to_install_it(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", numbered(3))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"not installed; install it with: pip install 'groupnorm"):
        read(path)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_files_are_closed_also_when_they_are_broken_or_left_in_the_middle(tmp_path):
    good = write_video(tmp_path / "good.mp4", numbered(20))
    broken = [put(tmp_path / f"{n}.mp4", data) for n, (data, _) in damaged(tmp_path).items()]
    reordered = write_video(tmp_path / "r.avi", numbered(20), b_frames=2)
    gc.disable()
    try:
        before = descriptors()
        for path in broken:
            with pytest.raises(UnreadableError):
                read(path)
        for path in (good, reordered):
            with open_video(str(path)) as video:
                frames = video.frames([3, 17])
                next(frames)
            del frames
        assert descriptors() == before
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A file of each container, as bytes."""
    folder = tmp_path_factory.mktemp("samples")
    return {
        kind: write_video(folder / f"v.{kind}", numbered(12), codec=codec).read_bytes()
        for kind, codec in (("mp4", "mpeg4"), ("mkv", "ffv1"), ("avi", "mpeg4"))
    }


def read_or_refuse(path):
    """Read all frames of a file that may be damaged."""
    try:
        with open_video(str(path)) as video:
            for frame in video.frames(range(video.length)):
                assert (frame.ndim, frame.shape[2]) == (3, 3)
    except UnreadableError:
        pass


@st.composite
def damage(draw):
    """Which container, where it is cut, and which of its bytes are changed."""
    share = st.floats(0, 1, exclude_max=True)
    cut = draw(st.one_of(st.just(1.0), share))
    changes = draw(st.lists(st.tuples(share, st.integers(0, 255)), max_size=8))
    return draw(st.sampled_from(["mp4", "mkv", "avi"])), cut, changes


def apply(samples, kind, cut, changes):
    data = bytearray(samples[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    return bytes(data[: int(cut * len(data))])


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage())
def test_no_damage_does_more_than_be_refused(samples, tmp_path, damage):
    read_or_refuse(put(tmp_path / "video.mp4", apply(samples, *damage)))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\0\0\0\x18ftypmp42", b"RIFF", b"\x1aE\xdf\xa3"]),
)
def test_no_bytes_do_more_than_be_refused(tmp_path, rest, head):
    read_or_refuse(put(tmp_path / "video.mp4", head + rest))


@pytest.mark.slow
def test_neither_memory_nor_descriptors_grow(samples, tmp_path):
    """A thousand files, most of them damaged."""
    rng = np.random.default_rng(0)
    process = psutil.Process()
    path = tmp_path / "video.mp4"
    for number in range(1100):
        kind = ("mp4", "mkv", "avi")[number % 3]
        changes = [(rng.random(), int(rng.integers(256))) for _ in range(number % 4 * 3)]
        read_or_refuse(put(path, apply(samples, kind, 1.0 - rng.random() ** 8, changes)))
        if number == 100:
            memory, files = process.memory_info().rss, descriptors()
    assert descriptors() == files
    assert process.memory_info().rss - memory < 20e6
