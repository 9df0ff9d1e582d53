"""What a worker process makes of one video: clips, replacements, what is short or turned."""

import os
import pickle
from dataclasses import replace

import pytest
import torch

from groupnorm.data.files.decode import UnreadableError
from groupnorm.data.files.transforms import draws_of
from groupnorm.data.video import workers
from groupnorm.data.video.clips import Sampling, evaluation_starts, random_start
from groupnorm.data.video.transforms import (
    Crop,
    CropSizes,
    Draws,
    evaluation_crops,
    training_crop,
)
from groupnorm.data.video.workers import EvaluationClips, Example, TrainClips, read_clips
from tests.data.video.video_files import mixed_set, number_of, numbered, write_video

SAMPLING = Sampling(frames=4, stride=2)
SIZES = CropSizes(crop=16, shortest=16, longest=20, evaluation=18)
WHOLE = Crop(20, 28, 0, 0, 16, flip=False)


@pytest.fixture
def files(tmp_path):
    return mixed_set(tmp_path, bad_train=(3, 4), bad_test=(1,), short=(5, 6), rotated=(2,))


def shown(clip):
    """Which frames of a `numbered` video a clip (T, S, S, 3) has; its blue is the video's."""
    return [number_of(frame[..., :2].numpy()) for frame in clip]


def one_clip(path, start, crop):
    return read_clips(path, SAMPLING, lambda length: [start], lambda *size: [crop]).clips


def drawn(seed, position):
    with draws_of(seed, position):
        return Draws(*torch.rand(5, dtype=torch.float64).tolist())


def test_frames_of_a_clip(tmp_path):
    path = str(write_video(tmp_path / "video.mp4", numbered(24, 20, 28)))
    made = read_clips(path, SAMPLING, lambda length: [0, length - 8], lambda *size: [WHOLE] * 2)
    assert (made.clips.shape, made.clips.dtype) == ((4, 4, 16, 16, 3), torch.uint8)
    assert [shown(clip) for clip in made.clips] == [[0, 2, 4, 6]] * 2 + [[16, 18, 20, 22]] * 2
    assert (made.starts, made.flipped, made.short, made.rotated) == (2, False, "", False)


@pytest.mark.parametrize(
    ("length", "short", "frames"),
    [(7, "", [0, 2, 4, 6]), (6, "6 frames of 7", [0, 2, 4, 5]), (1, "1 frames of 7", [0] * 4)],
)
def test_a_short_video_repeats_its_last_frame_and_says_so(tmp_path, length, short, frames):
    path = str(write_video(tmp_path / "video.mp4", numbered(length, 20, 28)))
    made = read_clips(path, SAMPLING, lambda length: [0], lambda *size: [WHOLE])
    assert made.short == short
    assert shown(made.clips[0]) == frames


def test_a_training_clip_follows_from_seed_and_position(files):
    clips = TrainClips(files, SAMPLING, SIZES)
    for seed, position in ((0, 0), (0, 1), (7, 3)):
        made = clips[Example(seed, position, 0)]
        draws = drawn(seed, position)
        crop = training_crop(20, 28, SIZES, draws, flip=True)
        start = random_start(draws.start, 24, SAMPLING)
        assert torch.equal(made.clips, one_clip(files.train_paths[0], start, crop))
        assert made.label == (1 if draws.flip < 0.5 else 0)
        assert (made.unreadable, made.short, made.rotated, made.failure) == ({}, {}, {}, "")


def test_half_of_the_clips_are_flipped_and_their_labels_with_them(files):
    clips = TrainClips(files, SAMPLING, SIZES)
    labels = [clips[Example(seed, 0, 0)].label for seed in range(40)]
    assert 10 < labels.count(1) < 30
    assert {clips[Example(seed, 0, 2)].label for seed in range(10)} == {2}
    for seed in range(6):
        clip = clips[Example(seed, 0, 0)].clips[0].float()
        grey_left = clip[:, :, :3, :2].std() < clip[:, :, -3:, :2].std()  # the right is a texture
        assert grey_left == (labels[seed] == 0)


def test_without_labels_of_flips_nothing_is_flipped(tmp_path):
    files = replace(mixed_set(tmp_path, train=3, test=3), flip_labels=None)
    clips = TrainClips(files, SAMPLING, SIZES)
    assert {clips[Example(seed, 0, 0)].label for seed in range(10)} == {0}


def test_a_broken_training_video_is_replaced_by_the_next_of_its_class(files):
    clips = TrainClips(files, SAMPLING, SIZES)
    made = clips[Example(1, 0, 3)]
    assert made.unreadable == {3: "InvalidDataError: Invalid data found when processing input"}
    assert torch.equal(made.clips, clips[Example(1, 0, 6)].clips)
    assert made.short == {6: "5 frames of 7"}
    assert clips[Example(1, 0, 2)].rotated == {2: "turned upright"}


def test_a_class_of_which_nothing_can_be_read(tmp_path):
    files = mixed_set(tmp_path, train=6, bad_train=(1, 4))
    made = TrainClips(files, SAMPLING, SIZES)[Example(0, 0, 1)]
    assert made.failure.startswith("none of 2 training videos of the class left can be decoded, th")


def test_test_clips_at_equal_distances_with_their_crops(files):
    made = EvaluationClips(files, SAMPLING, SIZES, clips=5, crops=3)[0]
    starts = evaluation_starts(24, SAMPLING, 5)
    assert starts == [0, 4, 8, 12, 16]
    expected = read_clips(
        files.test_paths[0],
        SAMPLING,
        lambda length: starts,
        lambda height, width: evaluation_crops(height, width, SIZES, 3),
    )
    assert torch.equal(made.clips, expected.clips)
    assert (len(made.clips), made.middle, made.label) == (15, 2 * 3 + 1, 0)
    one = EvaluationClips(files, SAMPLING, SIZES, clips=1, crops=1)[0]
    assert (len(one.clips), one.middle) == (1, 0)
    assert torch.equal(one.clips[0], made.clips[made.middle])


def test_a_test_video_with_few_starts_gives_few_clips(files):
    made = EvaluationClips(files, SAMPLING, SIZES, clips=10, crops=1)[5]
    assert (len(made.clips), made.middle, made.short) == (1, 0, {5: "5 frames of 7"})


def test_a_broken_test_video_gives_none(files):
    made = EvaluationClips(files, SAMPLING, SIZES, clips=5, crops=1)[1]
    assert len(made.clips) == 0
    assert list(made.unreadable) == [1]
    assert made.failure == ""


@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_file_that_went_away_is_a_failure(tmp_path, files, kind):
    os.unlink(tmp_path / kind / "2.mp4")
    made = (
        TrainClips(files, SAMPLING, SIZES)[Example(0, 0, 2)]
        if kind == "train"
        else EvaluationClips(files, SAMPLING, SIZES, 5, 1)[2]
    )
    assert made.failure == f"cannot read {tmp_path}/{kind}/2.mp4: No such file or directory"


def test_each_frame_is_decoded_once_for_all_clips(tmp_path, monkeypatch):
    path = str(write_video(tmp_path / "video.mp4", numbered(24, 20, 28)))
    cut = []
    cut_out = workers.cut_out
    monkeypatch.setattr(workers, "cut_out", lambda *args: cut.append(1) or cut_out(*args))
    read_clips(path, SAMPLING, lambda length: [0, 2, 4], lambda *size: [WHOLE])
    assert len(cut) == len({0, 2, 4, 6, 8, 10})


def test_damage_inside_of_a_clip_makes_the_video_unreadable(tmp_path):
    path = write_video(tmp_path / "video.mp4", numbered(24, 20, 28))
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 3
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(UnreadableError):
        read_clips(str(path), Sampling(24, 1), lambda length: [0], lambda *size: [WHOLE])


def test_they_travel_to_processes_that_are_not_forked(files):
    here = TrainClips(files, SAMPLING, SIZES)
    there = pickle.loads(pickle.dumps(here))
    assert torch.equal(there[Example(0, 0, 1)].clips, here[Example(0, 0, 1)].clips)
