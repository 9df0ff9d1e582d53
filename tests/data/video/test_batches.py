"""Batches of clips from files: the same for any number of processes, and whatever goes wrong."""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from struct import pack

import numpy as np
import pytest
import torch

from groupnorm.data import DataError, VideoBatches
from groupnorm.data.batches import Step
from groupnorm.data.files import processes as in_workers
from groupnorm.data.video import decode
from groupnorm.data.video.batches import FromVideoFiles
from groupnorm.data.video.clips import Sampling
from groupnorm.data.video.transforms import CropSizes
from groupnorm.data.video.workers import EvaluationClips, Example, TrainClips
from tests.data.video.video_files import mixed_set, numbered, write_video
from tests.tolerances import LAYER

SAMPLING = Sampling(frames=3, stride=2)
SIZES = CropSizes(crop=12, shortest=12, longest=16, evaluation=14)
BAD_TRAIN, BAD_TEST, SHORT, ROTATED = (3, 4, 11), (0, 5), (6,), (2,)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return mixed_set(
        tmp_path_factory.mktemp("videos"),
        bad_train=BAD_TRAIN, bad_test=BAD_TEST, short=SHORT, rotated=ROTATED,
    )  # fmt: skip


def batches(files, processes=0, **options):
    options = {"test_clips": 3, "test_batch": 3, "max_unreadable": 0.5, **options}
    return FromVideoFiles(files, SAMPLING, SIZES, processes=processes, **options)


def epoch(steps=3, videos=4, seed=0):
    """Steps whose seeds and orders differ."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    return [Step(10**18 + 7 * seed + n, order[n * videos : (n + 1) * videos]) for n in range(steps)]


def same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def named(made):
    return {kind: sorted(found) for kind, found in made.data_issues().items()}


def test_it_is_batches_of_videos(files):
    made: VideoBatches = batches(files)
    assert (made.name, made.version, made.notes) == ("toy", files.version, files.notes)
    assert (made.num_classes, made.class_names) == (3, ("right", "left", "stay"))
    assert (made.train_size, made.test_size, made.image_size) == (12, 7, 12)


def test_training_clips_are_those_of_the_workers_normalized(files):
    clips = TrainClips(files, SAMPLING, SIZES)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for (inputs, labels), step in zip(batches(files).train(epoch()), epoch(), strict=True):
        assert (inputs.shape, inputs.dtype) == ((4, 3, 3, 12, 12), torch.float32)
        assert labels.dtype == torch.int64
        for position, index in enumerate(step.indices.tolist()):
            expected = clips[Example(step.seed, position, index)]
            assert labels[position] == expected.label
            pixels = expected.clips[0].permute(3, 0, 1, 2) / 255
            for channel in range(3):
                wanted = (pixels[channel] - mean[channel]) / std[channel]
                torch.testing.assert_close(inputs[position, channel], wanted)


def test_a_set_has_a_mean_and_a_standard_deviation_of_its_own(files):
    own = replace(files, mean=(0.5, 0.25, 0.0), std=(1.0, 0.5, 0.25))
    (ours,), (theirs,) = (batches(f).train(epoch(steps=1)) for f in (own, files))
    for channel, (mean, std) in enumerate(((0.5, 1.0), (0.25, 0.5), (0.0, 0.25))):
        theirs_mean, theirs_std = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))[channel]
        pixels = theirs.inputs[:, channel] * theirs_std + theirs_mean
        torch.testing.assert_close(ours.inputs[:, channel], (pixels - mean) / std)


def test_the_number_of_processes_changes_nothing(files):
    alone, several = batches(files), batches(files, 2)
    for seed in (0, 1):
        assert same(alone.train(epoch(seed=seed)), several.train(epoch(seed=seed)))
    assert same(alone.test(), several.test())
    assert alone.data_issues() == several.data_issues()


@pytest.mark.parametrize("processes", [0, 2])
def test_an_epoch_resumed_in_the_middle_is_the_same(files, processes):
    made = batches(files, processes)
    steps = epoch(steps=4, videos=3)
    straight = list(made.train(steps))
    for k in (1, 4):
        assert same(straight[k:], made.train(steps[k:]))


def test_shares_of_several_processes_make_the_whole(files):
    made = batches(files)
    whole = list(made.train(epoch()))
    for shares in ([slice(0, 1), slice(1, 4)], [slice(0, 2), slice(2, 4), slice(4, 9)]):
        parts = [list(made.train(epoch(), rows)) for rows in shares]
        joined = [
            tuple(torch.cat([part[k] for part in step]) for k in (0, 1))
            for step in zip(*parts, strict=True)
        ]
        assert same(whole, joined)


def test_test_clips_of_whole_videos(files):
    clips = EvaluationClips(files, SAMPLING, SIZES, 3, 1)
    first, second, third = batches(files).test()
    assert [batch.labels.tolist() for batch in (first, second, third)] == [[1, 2], [0, 1], [0]]
    assert first.videos.tolist() == [0, 0, 0, 1, 1, 1]
    assert first.middle.tolist() == [1, 4]
    assert first.inputs.shape == (6, 3, 3, 12, 12)
    assert (third.videos.tolist(), third.middle.tolist()) == ([0], [0])  # of the short one
    expected = torch.cat([clips[1].clips, clips[2].clips])
    pixels = first.inputs[:, 0] * 0.229 + 0.485
    torch.testing.assert_close(pixels, expected[..., 0] / 255, atol=LAYER, rtol=0)
    (crops,) = batches(files, test_crops=3, test_batch=7, test_clips=2).test()
    assert crops.videos.tolist() == [k for k in range(4) for _ in range(6)] + [4] * 3
    assert crops.middle.tolist() == [4, 10, 16, 22, 25]


@pytest.mark.parametrize("processes", [0, 2])
def test_test_batches_of_several_processes(files, processes):
    made = batches(files, processes)
    everything = list(made.test())
    assert same(everything[::2], made.test(0, 2))
    assert same(everything[1::2], made.test(1, 2))
    assert list(made.test(9, 2)) == []


def test_a_test_batch_of_which_nothing_remains_is_left_out(files):
    made = batches(files, test_batch=1)
    assert [batch.labels.tolist() for batch in made.test()] == [[1], [2], [0], [1], [0]]


@pytest.mark.parametrize("processes", [0, 2])
def test_issues_are_named_and_counted_once(files, processes):
    made = batches(files, processes)
    kinds = ("replaced_videos", "left_out_videos", "short_videos", "rotated_videos")
    assert made.data_issues() == {kind: {} for kind in kinds}
    for _ in range(2):
        list(made.train(epoch()))
        assert named(made) == {
            "replaced_videos": ["train/11.mp4", "train/3.mp4", "train/4.mp4"],
            "left_out_videos": [],
            "short_videos": [],
            "rotated_videos": ["train/2.mp4"],
        }
    list(made.test())
    found = named(made)
    assert found["left_out_videos"] == ["test/0.mp4", "test/5.mp4"]
    assert found["rotated_videos"] == ["test/2.mp4", "train/2.mp4"]
    reason = "InvalidDataError: Invalid data found when processing input"
    assert set(made.data_issues()["replaced_videos"].values()) == {reason}


def test_short_videos_are_named(files):
    made = FromVideoFiles(files, Sampling(6, 1), SIZES, max_unreadable=0.5)
    list(made.test())
    assert made.data_issues()["short_videos"] == {"test/6.mp4": "5 frames of 6"}


def test_what_is_read_ahead_is_not_counted(files):
    made = batches(files, 2)
    running = made.train([Step(0, torch.tensor([i])) for i in (0, 1, 3, 4, 6)])
    next(running)
    next(running)
    time.sleep(0.3)
    assert made.data_issues()["replaced_videos"] == {}
    next(running)
    assert made.data_issues()["replaced_videos"].keys() == {"train/3.mp4"}
    running.close()


def test_too_many_unreadable_videos_are_an_error(files):
    with pytest.raises(
        DataError,
        match=r"^\d of the 12 training videos of toy cannot be decoded, which is more than 1 %: "
        r"train/.*Invalid data.*max_unreadable=SHARE",
    ):
        list(batches(files, max_unreadable=0.01).train(epoch()))
    list(batches(files, max_unreadable=0.25).train(epoch()))  # not more than that
    with pytest.raises(DataError, match=r"^2 of the 7 test videos .* more than 20 %: test/0.mp4"):
        list(batches(files, max_unreadable=0.2).test())


def test_issues_of_several_processes_count_together(files):
    made = batches(files, max_unreadable=0.3)
    list(made.train([Step(0, torch.tensor([3, 4]))]))
    made.remember({"replaced_videos": {"train/3.mp4": "empty", "train/9.mp4": "empty"}})
    assert len(made.data_issues()["replaced_videos"]) == 3
    made.remember({"short_videos": {"train/10.mp4": "5 frames of 7", "train/gone.mp4": "as well"}})
    assert made.data_issues()["short_videos"] == {"train/10.mp4": "5 frames of 7"}
    with pytest.raises(DataError, match="4 of the 12 training videos"):
        made.remember({"replaced_videos": {"train/10.mp4": "empty"}})
    made = batches(files, max_unreadable=1.0)
    list(made.test())
    with pytest.raises(
        DataError, match="none of 2 test videos of the class stay can be decoded: t"
    ):
        made.remember({"left_out_videos": {"test/2.mp4": "empty"}})


@pytest.mark.parametrize("processes", [0, 2])
def test_a_missing_file_is_an_error_in_words(tmp_path, processes):
    files = mixed_set(tmp_path, train=3, test=3)
    (tmp_path / "train/2.mp4").unlink()
    with pytest.raises(DataError, match=r"^cannot read .*train/2.mp4: No such file or directory$"):
        list(batches(files, processes).train([Step(0, torch.arange(3))]))


@pytest.mark.parametrize("indices", [[0, 12], [-1]])
def test_indices_out_of_range(files, indices):
    with pytest.raises(ValueError, match="expected indices from 0 to 11, got"):
        list(batches(files).train([Step(0, torch.tensor(indices))]))


@pytest.mark.parametrize(
    "wrong", [{"test_clips": 0}, {"test_crops": 2}, {"test_batch": 0}, {"processes": -1}]
)
def test_wrong_arguments(files, wrong):
    with pytest.raises(
        ValueError, match="expected test_clips and test_batch of at least 1, an odd"
    ):
        batches(files, **wrong)


def test_without_pyav_it_says_how_to_install_it(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"install it with: pip install 'groupnorm\[video\]'"):
        batches(files)


@pytest.mark.parametrize("processes", [0, 1])
def test_torchs_generator_is_left_alone(files, processes):
    made = batches(files, processes)
    before = torch.get_rng_state()
    list(made.train(epoch(steps=1)))
    list(made.test())
    assert torch.equal(torch.get_rng_state(), before)


def children():
    return {child.pid for child in multiprocessing.active_children()}


def test_dropped_in_the_middle_leaves_no_process(files):
    before = children()
    running = batches(files, 2).train(epoch(steps=3) * 20)
    next(running)
    assert len(children() - before) == 2
    running.close()
    deadline = time.monotonic() + 20
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children() - before


def drain_while_killing(running, before):
    for _ in running:
        for pid in children() - before:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def test_a_killed_process_is_an_error_in_words(files):
    before = children()
    running = batches(files, 2).train(epoch() * 30)
    with pytest.raises(RuntimeError, match=r"process that decodes .* was killed|killed by"):
        drain_while_killing(running, before)


def test_a_process_does_not_get_the_memory_that_a_file_asks_for(tmp_path, monkeypatch):
    """The header promises 60 million frames, of 24 bytes each in memory, far more than what this
    process has freed and not given back; what checks the header before is taken away."""
    files = mixed_set(tmp_path, train=6, test=3)
    path = tmp_path / "train/1.mp4"
    lying = bytearray(path.read_bytes())
    sizes, chunks, many = lying.index(b"stsz") + 8, lying.index(b"stsc") + 8, 60_000_000
    lying[sizes : sizes + 8] = pack(">II", 1000, many)
    lying[chunks : chunks + 16] = pack(">IIII", 1, 1, many, 1)
    path.write_bytes(lying)
    monkeypatch.setattr(decode, "check_samples", lambda path: "mov")
    monkeypatch.setattr(in_workers, "ROOM", 100 << 20)
    made = batches(files, 1)
    ((_, labels),) = made.train([Step(0, torch.tensor([1, 0]))])
    assert len(labels) == 2
    ((name, reason),) = made.data_issues()["replaced_videos"].items()
    assert name == "train/1.mp4"
    assert "truncated" not in reason, "its 60 million frames were looked for"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_takes_more_memory_than_a_process_gets_is_replaced(
    tmp_path, monkeypatch, workers
):
    """By Python's own error, not FFmpeg's. A process without a limit is short of memory itself."""
    files = mixed_set(tmp_path, train=6, test=3)
    index = decode._index

    def greedy(container, stream):
        if container.name.endswith("train/1.mp4"):
            np.empty(1 << 33 if workers else 1 << 60, np.uint8)  # more than a heap has free
        return index(container, stream)

    monkeypatch.setattr(decode, "_index", greedy)
    monkeypatch.setattr(in_workers, "ROOM", 100 << 20)
    made = batches(files, workers)
    if not workers:
        with pytest.raises(MemoryError):
            list(made.train([Step(0, torch.tensor([1, 0]))]))
        return
    ((_, labels),) = made.train([Step(0, torch.tensor([1, 0]))])
    assert len(labels) == 2
    assert made.data_issues()["replaced_videos"] == {
        "train/1.mp4": "it takes more memory than a file may"
    }


@pytest.mark.slow
def test_frames_of_4k_fit_into_the_memory_of_a_process(tmp_path):
    files = mixed_set(tmp_path, train=3, test=3)
    for number in range(3):
        write_video(tmp_path / f"train/{number}.mp4", numbered(6, 2160, 3840))
    made = batches(files, 1)
    ((inputs, _),) = made.train([Step(0, torch.arange(3))])
    assert len(inputs) == 3
    assert made.data_issues()["replaced_videos"] == {}
