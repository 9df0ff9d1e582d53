"""Which frames make a clip, and what a set of videos accepts."""

import itertools

import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.video.clips import (
    Sampling,
    count_starts,
    evaluation_starts,
    frame_numbers,
    random_start,
)
from tests.data.video.tiny_videos import CLASSES, tiny_videos


@pytest.mark.parametrize("length", [5, 63, 64, 65, 250])
@pytest.mark.parametrize(("short", "long"), [((32, 2), (64, 1)), ((8, 2), (16, 1))])
def test_both_clip_lengths_have_the_same_starts_and_frames(short, long, length):
    """The longer clip of the paper adds the frames between those of the shorter one."""
    short, long = Sampling(*short), Sampling(*long)
    assert short.span == long.span
    assert count_starts(length, short) == count_starts(length, long)
    assert evaluation_starts(length, short, 10) == evaluation_starts(length, long, 10)
    for share in (0.0, 0.4, 0.999):
        start = random_start(share, length, short)
        assert start == random_start(share, length, long)
        assert frame_numbers(start, short, length) == frame_numbers(start, long, length)[::2]


def test_a_short_video_repeats_its_last_frame():
    assert frame_numbers(0, Sampling(6, 2), 7) == [0, 2, 4, 6, 6, 6]
    assert frame_numbers(0, Sampling(3, 1), 1) == [0, 0, 0]
    assert count_starts(7, Sampling(6, 2)) == 1
    assert random_start(0.99, 7, Sampling(6, 2)) == 0
    assert evaluation_starts(7, Sampling(6, 2), 10) == [0]


def test_every_start_is_equally_likely_and_none_leaves_the_video():
    sampling = Sampling(4, 2)
    starts = [random_start(k / 300, 10, sampling) for k in range(300)]
    assert [starts.count(start) for start in range(3)] == [100, 100, 100]
    assert max(frame_numbers(2, sampling, 10)) <= 9
    assert random_start(1 - 1e-17, 10, sampling) == 2, "a share rounded to 1"


@pytest.mark.parametrize(
    ("length", "clips", "expected"),
    [
        (20, 1, [2]),
        (20, 2, [0, 4]),
        (20, 3, [0, 2, 4]),
        (20, 5, [0, 1, 2, 3, 4]),
        (20, 10, [0, 1, 2, 3, 4]),
        (106, 10, list(range(0, 91, 10))),
        (16, 10, [0]),
    ],
)
def test_test_clips_lie_at_equal_distances_each_once(length, clips, expected):
    assert evaluation_starts(length, Sampling(16, 1), clips) == expected


@pytest.mark.parametrize("length", [16, 17, 19, 20, 21, 106])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("clips", [1, 2, 3, 5, 10])
def test_test_clips_of_one_phase_start_a_multiple_of_the_stride_from_the_middle_one(
    length, stride, clips
):
    sampling = Sampling(4, stride)
    last = count_starts(length, sampling) - 1
    starts = evaluation_starts(length, sampling, clips, every=stride)
    possible = [start for start in range(last + 1) if (start - last // 2) % stride == 0]
    assert starts == sorted(set(starts)), "each once"
    assert set(starts) <= set(possible)
    if clips == 1:
        assert starts == [last // 2]
        return
    assert (starts[0], starts[-1]) == (possible[0], possible[-1])
    assert len(starts) == min(clips, len(possible))
    gaps = {after - before for before, after in itertools.pairwise(starts)}
    assert max(gaps, default=0) - min(gaps, default=0) <= stride, "equal to the nearest start"


def test_test_clips_of_a_set_have_one_phase_where_their_stride_has_a_ceiling():
    data = tiny_videos(ceilings={2: 75.0})
    for sampling, expected in (
        (Sampling(3, 2), [0, 2, 4]),
        (Sampling(4, 2), [1]),
        (Sampling(6, 1), [0, 1, 2, 3, 4]),
        (Sampling(2, 3), [0, 1, 2, 3, 4]),
    ):
        assert data.test_starts(sampling, 10) == expected
    assert tiny_videos().test_starts(Sampling(3, 2), 10) == [0, 1, 2, 3, 4]


def test_a_sets_sizes_and_statistics():
    data = tiny_videos()
    pixels = data.train_videos.double() / 255
    torch.testing.assert_close(data.mean, pixels.mean((0, 1, 2, 3)).float())
    torch.testing.assert_close(data.std, pixels.std((0, 1, 2, 3), correction=0).float())
    assert (data.num_classes, data.train_size, data.test_size, data.frames) == (4, 24, 11, 10)


def test_held_out_videos_are_the_last_of_each_class():
    data = tiny_videos()
    held = data.hold_out(8)
    assert (held.train_size, held.test_size) == (16, 8)
    assert torch.equal(held.test_videos, data.train_videos[16:])
    assert held.test_labels.bincount().tolist() == [2, 2, 2, 2]
    assert "8 validation videos, held out of the training videos" in held.notes[-1]
    assert data.hold_out(None) is data
    with pytest.raises(ValueError, match="validation_images=3 is less than one for each of the 4"):
        data.hold_out(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_videos": torch.zeros(24, 10, 8, 8, 3)}, "train: expected contiguous uint8"),
        ({"train_videos": torch.zeros(24, 8, 8, 3, dtype=torch.uint8)}, "expected contiguous"),
        (
            {"train_videos": torch.zeros(24, 3, 10, 8, 8, dtype=torch.uint8).movedim(1, 4)},
            "contiguous",
        ),
        (
            {"test_videos": torch.zeros(11, 9, 8, 8, 3, dtype=torch.uint8)},
            r"test: .*the same in both splits and at least one, got \(11, 9, 8, 8, 3\)",
        ),
        ({"train_videos": torch.zeros(24, 10, 8, 8, 1, dtype=torch.uint8)}, r"\(F, H, W, 3\)"),
        ({"test_videos": torch.zeros(0, 10, 8, 8, 3, dtype=torch.uint8)}, "at least one"),
        ({"test_labels": torch.tensor([0, 1])}, "test: expected 11 int64 labels"),
        ({"train_labels": torch.full((24,), 4)}, "labels from 0 to 3, got 4 to 4"),
        ({"train_labels": torch.full((24,), -1)}, "got -1 to -1"),
        ({"flip_labels": (1, 2, 0, 3)}, "the one that gives it back"),
        ({"flip_labels": (1, 0, 2)}, "each of 4 classes"),
        ({"flip_labels": (1, 0, 2, 4)}, "each of 4 classes"),
    ],
)
def test_wrong_sets_are_refused(changes, message):
    assert len(CLASSES) == 4
    with pytest.raises(DataError, match=message):
        tiny_videos(**changes)
