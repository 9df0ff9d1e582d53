"""Batches of image files: the same for any number of processes, and whatever goes wrong."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.batches import Batches, Step
from groupnorm.data.files.batches import FromFiles
from tests.data.files.image_trees import mixed_set

SIZE = 16
BROKEN_TRAIN, BROKEN_TEST, GREY = (3, 4, 11), (0, 5), (1, 2, 6)


@pytest.fixture
def files(tmp_path):
    return mixed_set(tmp_path, broken_train=BROKEN_TRAIN, broken_test=BROKEN_TEST, grey=GREY)


def batches(files, processes=0, batch=3, max_unreadable=0.5):
    return FromFiles(files, SIZE, batch, processes, "cpu", max_unreadable)


def epoch(steps=3, images=4, seed=0):
    """Steps whose seeds and orders differ."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    return [Step(10**18 + 7 * seed + n, order[n * images : (n + 1) * images]) for n in range(steps)]


def same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def counts(made):
    return {what: len(names) for what, names in made.data_issues().items()}


def test_it_is_batches(files):
    made: Batches = batches(files)
    assert (made.name, made.version) == ("toy", files.version)
    assert (made.num_classes, made.channels) == (3, 3)
    assert (made.train_size, made.test_size) == (12, 7)


def test_training_batches(files):
    made = list(batches(files).train(epoch()))
    for (images, labels), step in zip(made, epoch(), strict=True):
        assert (images.shape, images.dtype) == ((4, 3, SIZE, SIZE), torch.float32)
        assert labels.tolist() == [i % 3 for i in step.indices.tolist()]
    replaced = [[{3: 6, 4: 7, 11: 2}.get(i, i) for i in s.indices.tolist()] for s in epoch()]
    steps = [Step(s.seed, torch.tensor(i)) for s, i in zip(epoch(), replaced, strict=True)]
    assert same(made, batches(files).train(steps))
    assert not same(made, batches(files).train([Step(s.seed + 1, s.indices) for s in epoch()]))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_number_of_processes_changes_nothing(files, processes):
    alone, several = batches(files), batches(files, processes)
    for seed in (0, 1):
        assert same(alone.train(epoch(seed=seed)), several.train(epoch(seed=seed)))
    assert same(alone.test(), several.test())
    assert alone.data_issues() == several.data_issues()


@pytest.mark.parametrize("processes", [0, 2])
def test_an_epoch_resumed_in_the_middle_is_the_same(files, processes):
    made = batches(files, processes)
    steps = epoch(steps=6, images=2)
    straight = list(made.train(steps))
    for k in range(7):
        assert same(straight[k:], made.train(steps[k:]))


@pytest.mark.parametrize("processes", [0, 2])
def test_shares_of_several_processes_make_the_whole(files, processes):
    made = batches(files, processes)
    whole = list(made.train(epoch()))
    for shares in ([slice(0, 1), slice(1, 4)], [slice(0, 2), slice(2, 4), slice(4, 9)]):
        parts = [list(made.train(epoch(), rows)) for rows in shares]
        joined = [
            (torch.cat([p[0] for p in step]), torch.cat([p[1] for p in step]))
            for step in zip(*parts, strict=True)
        ]
        assert same(whole, joined)
    every_second = list(made.train(epoch(), slice(1, None, 2)))
    assert same([(i[1::2], n[1::2]) for i, n in whole], every_second)


@pytest.mark.parametrize("processes", [0, 2])
def test_test_batches(files, processes):
    made = batches(files, processes)
    labels = [n.tolist() for _, n in made.test()]
    assert labels == [[1, 2], [0, 1], [0]]
    everything = list(made.test())
    assert same(everything[::2], made.test(0, 2))
    assert same(everything[1::2], made.test(1, 2))
    assert list(made.test(9, 2)) == []


def test_a_test_batch_of_which_nothing_remains_is_left_out(tmp_path):
    made = batches(mixed_set(tmp_path, broken_test=(3, 4, 5)))
    assert [n.tolist() for _, n in made.test()] == [[0, 1, 2], [0]]
    assert list(made.test(1, 3)) == []


@pytest.mark.parametrize("processes", [0, 2])
def test_counts_are_of_distinct_files_given_out(files, processes):
    made = batches(files, processes)
    nothing = {"replaced_images": 0, "left_out_images": 0, "converted_images": 0}
    assert counts(made) == nothing
    for _ in range(2):
        list(made.train(epoch()))
        assert counts(made) == {**nothing, "replaced_images": 3, "converted_images": 3}
    list(made.test())
    assert counts(made) == {"replaced_images": 3, "left_out_images": 2, "converted_images": 6}


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_read_ahead_is_not_counted(files, processes):
    made = batches(files, processes)
    running = made.train([Step(0, torch.tensor([i])) for i in (0, 1, 3, 4, 6)])
    next(running)
    next(running)
    time.sleep(0.3)
    assert counts(made)["replaced_images"] == 0
    next(running)
    assert made.data_issues()["replaced_images"].keys() == {"train/3.jpg"}
    running.close()


@pytest.mark.parametrize("processes", [0, 1])
def test_torchs_generator_is_left_alone(files, processes):
    made = batches(files, processes)
    before = torch.get_rng_state()
    list(made.train(epoch()))
    list(made.test())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("processes", [0, 2])
def test_nothing_can_be_read(tmp_path, processes):
    files = mixed_set(tmp_path, broken_train=range(12), broken_test=range(7))
    made = batches(files, processes, max_unreadable=1.0)
    with pytest.raises(DataError, match=r"^none of 4 training images of the class a .*train/0.jpg"):
        list(made.train([Step(0, torch.tensor([0]))]))
    with pytest.raises(DataError, match=r"^none of 2 test images of the class b .*test/1.jpg \(OS"):
        list(made.test())


def test_issues_are_named(files):
    made = batches(files)
    list(made.train(epoch()))
    list(made.test())
    issues = made.data_issues()
    assert sorted(issues["replaced_images"]) == ["train/11.jpg", "train/3.jpg", "train/4.jpg"]
    assert sorted(issues["left_out_images"]) == ["test/0.jpg", "test/5.jpg"]
    assert set(issues["replaced_images"].values()) == {"OSError: Truncated File Read"}


def test_too_many_unreadable_images_are_an_error(tmp_path):
    files = mixed_set(tmp_path, train=20, broken_train=(3,), test=9, broken_test=(4,))
    step = [Step(0, torch.arange(20))]
    with pytest.raises(
        DataError,
        match=r"^1 of the 20 training images of toy cannot be decoded, which is more than 1 %: "
        r"train/3.jpg \(OSError: Trunc.*remove them \(a study then needs a new --out\).*"
        "max_unreadable=SHARE",
    ):
        list(FromFiles(files, SIZE, 3, 0, "cpu").train(step))
    list(batches(files, max_unreadable=0.05).train(step))  # not more than that
    with pytest.raises(DataError, match=r"^1 of the 9 test images .* more than 11 %: test/4.jpg"):
        list(batches(files, max_unreadable=0.11).test())
    list(batches(files, max_unreadable=0.12).test())


def test_issues_of_several_processes_count_together(files):
    made = batches(files, max_unreadable=0.3)
    list(made.train([Step(0, torch.tensor([3, 4]))]))
    others = {"replaced_images": {"train/3.jpg": "empty", "train/9.jpg": "empty"}}
    made.remember(others)
    assert len(made.data_issues()["replaced_images"]) == 3
    with pytest.raises(DataError, match="4 of the 12 training images"):
        made.remember({"replaced_images": {"train/10.jpg": "empty"}})
    made = batches(files, max_unreadable=1.0)
    list(made.test())
    with pytest.raises(DataError, match="none of 2 test images of the class c can be decoded: tes"):
        made.remember({"left_out_images": {"test/2.jpg": "empty"}})


def test_removed_images_are_no_longer_remembered(files):
    """The message about too many unreadable images advises to remove them."""
    made = batches(files)
    list(made.train(epoch()))
    list(made.test())
    left = replace(
        files,
        train_paths=files.train_paths[:11],
        train_labels=files.train_labels[:11],
        test_paths=files.test_paths[1:],
        test_labels=files.test_labels[1:],
    )
    resumed = batches(left, max_unreadable=0.2)
    resumed.remember(made.data_issues())
    assert {kind: sorted(names) for kind, names in resumed.data_issues().items()} == {
        "replaced_images": ["train/3.jpg", "train/4.jpg"],
        "left_out_images": ["test/5.jpg"],
        "converted_images": sorted(made.data_issues()["converted_images"]),
    }


@pytest.mark.parametrize("processes", [0, 2])
def test_a_missing_file_is_an_error_in_words(files, tmp_path, processes):
    (tmp_path / "train/7.jpg").unlink()
    with pytest.raises(DataError, match=r"^cannot read .*train/7.jpg: No such file or directory$"):
        list(batches(files, processes).train(epoch()))


@pytest.mark.parametrize("indices", [[0, 12], [-1]])
def test_indices_out_of_range(files, indices):
    with pytest.raises(ValueError, match="expected indices from 0 to 11, got"):
        list(batches(files).train([Step(0, torch.tensor(indices))]))


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"processes": -1}])
def test_wrong_arguments(files, wrong):
    with pytest.raises(ValueError, match="expected image_size and batch of at least 1"):
        batches(files, **wrong)


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


def test_two_at_a_time(files):
    """Evaluation on training images while an epoch is under way."""
    made = batches(files, 1)
    running = made.train(epoch())
    first = next(running)
    assert same(made.train(epoch(seed=1)), batches(files).train(epoch(seed=1)))
    assert same([first, *running], batches(files).train(epoch()))


def drain_while_killing(running, before):
    for _ in running:
        for pid in children() - before:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def test_a_killed_process_is_an_error_in_words(files):
    """Torch may tell it from a signal handler, wherever the main process is at that moment."""
    before = children()
    running = batches(files, 2).train(epoch() * 30)
    with pytest.raises(RuntimeError, match=r"process that decodes files was killed|killed by"):
        drain_while_killing(running, before)


@pytest.mark.slow
def test_nothing_is_said_at_exit_when_an_epoch_is_left_in_the_middle(files, tmp_path):
    script = f"""
import torch
from groupnorm.data.batches import Step
from groupnorm.data.files.batches import FromFiles
from tests.data.files.image_trees import mixed_set
files = mixed_set(__import__("pathlib").Path({str(tmp_path / "again")!r}))
running = FromFiles(files, 16, 3, 2, "cpu").train([Step(0, torch.arange(4))] * 50)
print(next(running)[1].tolist())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2, 0]\n", "")
