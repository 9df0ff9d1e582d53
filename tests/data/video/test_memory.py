"""Clips of videos in memory: what a step's clips depend on, and the test clips in order."""

import pytest
import torch

from groupnorm.data.batches import Step
from groupnorm.data.video import memory
from groupnorm.data.video.clips import Sampling
from groupnorm.data.video.memory import VideosInMemory
from tests.data.video.tiny_videos import FLIP_LABELS, RAW, tiny_videos

SAMPLING = Sampling(3, 2)


def batches(data=None, sampling=SAMPLING, test_clips=3, **changes):
    return VideosInMemory(data or tiny_videos(), sampling, test_clips=test_clips, **changes)


def pixels_of(inputs, data):
    """Normalized clips (n, 3, T, H, W) back to uint8 (n, T, H, W, 3)."""
    back = (inputs.movedim(1, 4) * data.std + data.mean) * 255
    return back.round().to(torch.uint8)


def test_clips_follow_the_step_seed_and_the_place():
    found = batches()
    indices = torch.tensor([4, 4, 4, 4, 7, 1])
    (a, labels), (b, _), (c, _) = found.train(
        [Step(3, indices), Step(3, indices), Step(4, indices)]
    )
    assert (a.shape, a.dtype) == ((6, 3, 3, 8, 8), torch.float32)
    assert labels.dtype == torch.int64
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not all(torch.equal(a[0], other) for other in a[1:4])


def test_a_clip_is_frames_of_its_video_flipped_as_a_whole_with_its_label():
    data = tiny_videos()
    seen = set()
    for seed in range(12):
        indices = torch.arange(24)
        ((inputs, labels),) = batches(data).train([Step(seed, indices)])
        for video, clip, label in zip(
            indices, pixels_of(inputs, data), labels.tolist(), strict=True
        ):
            own = int(data.train_labels[video])
            for start in range(RAW - SAMPLING.span + 1):
                whole = data.train_videos[video, start : start + 5 : 2]
                for flipped, expected in ((False, whole), (True, whole.flip(2))):
                    if torch.equal(clip, expected):
                        assert label == (FLIP_LABELS[own] if flipped else own)
                        seen.add((start, flipped))
                        break
    assert seen == {(start, flipped) for start in range(5) for flipped in (False, True)}


def test_without_flipped_labels_nothing_is_flipped():
    data = tiny_videos(flip_labels=None)
    ((inputs, labels),) = batches(data, Sampling(RAW, 1)).train([Step(0, torch.arange(24))])
    assert torch.equal(pixels_of(inputs, data), data.train_videos)
    assert torch.equal(labels, data.train_labels)


def test_the_shorter_clip_has_every_second_frame_of_the_longer_one():
    steps = [Step(5, torch.arange(24))]
    ((short, _),) = batches(sampling=Sampling(4, 2)).train(steps)
    ((long, _),) = batches(sampling=Sampling(8, 1)).train(steps)
    assert torch.equal(short, long[:, :, ::2])


@pytest.mark.parametrize("shares", [1, 2, 3, 6])
def test_shares_of_a_step_are_the_step(shares):
    found = batches()
    steps = [Step(seed, torch.randperm(24)[:12]) for seed in range(3)]
    whole = list(found.train(steps))
    size = 12 // shares
    parts = [list(found.train(steps, slice(i * size, (i + 1) * size))) for i in range(shares)]
    for step, (expected, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step].inputs for part in parts]), expected)
        assert torch.equal(torch.cat([part[step].labels for part in parts]), labels)


def test_test_clips_are_those_of_whole_videos_in_order(monkeypatch):
    monkeypatch.setattr(memory, "TEST_CLIPS", 12)
    data, found = tiny_videos(), batches()
    assert found.starts == [0, 2, 4]
    every = list(found.test())
    assert [len(batch.labels) for batch in every] == [4, 4, 3]
    number = 0
    for batch in every:
        clips = pixels_of(batch.inputs, data)
        for video, middle in enumerate(batch.middle.tolist()):
            own = clips[batch.videos == video]
            for clip, start in zip(own, (0, 2, 4), strict=True):
                assert torch.equal(clip, data.test_videos[number, start : start + 5 : 2])
            assert torch.equal(clips[middle], own[1])
            assert batch.labels[video] == data.test_labels[number]
            number += 1
    assert number == 11
    for count in (2, 3):
        parts = [list(found.test(first, count)) for first in range(count)]
        assert sum(len(part) for part in parts) == 3
        assert torch.equal(parts[1][0].inputs, every[1].inputs)


def test_one_video_at_a_time_where_it_has_more_clips_than_a_batch(monkeypatch):
    monkeypatch.setattr(memory, "TEST_CLIPS", 2)
    assert [len(batch.inputs) for batch in batches().test()] == [3] * 11


def test_notes_say_what_is_less_than_was_asked_for():
    assert batches().notes == ()
    assert batches(test_clips=10).notes == (
        "test_clips=10: a video of 10 frames has 5 clips that differ, each of which counts once",
    )
    short = batches(sampling=Sampling(16, 1), test_clips=1).notes
    assert short == (
        "the videos of columns have 10 frames and a clip takes 16: their last frame is repeated",
    )
    assert batches(sampling=Sampling(5, 2), test_clips=1).notes == ()
    assert batches(sampling=Sampling(4, 3), test_clips=1).notes == (), "its last frame is frame 9"
    (note,) = batches(sampling=Sampling(6, 2), test_clips=1).notes
    assert "a clip takes 11: their last frame is repeated" in note
    data = tiny_videos(ceilings={2: 75.0}, notes=("first",))
    assert batches(data).notes == (
        "first",
        "at stride 2 some classes of columns look alike, so that no accuracy above 75 % can be "
        "expected; the test clips of a video start a multiple of 2 frames apart, so that all of "
        "them together show no more",
    )
    assert batches(data, Sampling(6, 1)).notes == ("first",)
    assert batches(data, test_clips=5).notes[1] == (
        "test_clips=5: a video of 10 frames has 3 clips that differ and start a multiple of 2 "
        "frames apart, each of which counts once"
    )
    assert batches(data, test_clips=5).starts == [0, 2, 4]


def test_limit():
    assert batches(limit=7).train_size == 7
    with pytest.raises(ValueError, match="train_images=25, but columns has 24 training videos"):
        batches(limit=25)
    assert batches().data_issues() == {}
