"""What a worker process makes of its shard: replacements, omissions, conversions."""

import os
import pickle

import pytest
import torch

from groupnorm.data.files import workers as examples
from groupnorm.data.files.decode import read_rgb
from groupnorm.data.files.transforms import draws_of, evaluation_transform, train_transform
from groupnorm.data.files.workers import EvaluationExamples, Shard, TrainExamples
from tests.data.files.image_trees import mixed_set

SIZE = 16


def whole(seed, indices):
    return Shard(seed, range(len(indices)), indices)


def test_training_images_and_labels(tmp_path):
    files = mixed_set(tmp_path)
    made = TrainExamples(files, SIZE)[Shard(9, [3, 0], [5, 2])]
    assert (made.images.shape, made.images.is_contiguous()) == ((2, 3, SIZE, SIZE), True)
    assert made.labels.tolist() == [2, 2]
    assert (made.unreadable, made.converted, made.failure) == ({}, [], "")
    for image, place, index in zip(made.images, (3, 0), (5, 2), strict=True):
        with draws_of(9, place):
            expected = train_transform(SIZE)(read_rgb(files.train_paths[index])[0])
        assert torch.equal(image, expected)


def test_the_same_example_twice_in_a_step_is_augmented_twice(tmp_path):
    made = TrainExamples(mixed_set(tmp_path), SIZE)[whole(0, [4, 4])]
    assert not torch.equal(*made.images)


def test_broken_training_images_are_replaced_by_the_next_of_their_class(tmp_path):
    files = mixed_set(tmp_path, train=9, broken_train=(2, 3, 5, 6), grey=(0,))
    made = TrainExamples(files, SIZE)[whole(1, [2, 1, 5, 3])]
    assert made.labels.tolist() == [2, 1, 2, 0]
    assert list(made.unreadable) == [2, 5, 3, 6]
    assert made.unreadable[2] == "OSError: Truncated File Read"
    assert made.converted == [0]
    replacing = TrainExamples(files, SIZE)[whole(1, [8, 1, 8, 0])]  # after the last, the first
    assert torch.equal(made.images, replacing.images)


def test_a_class_of_which_nothing_can_be_read(tmp_path):
    files = mixed_set(tmp_path, train=6, broken_train=(1, 4))
    failure = TrainExamples(files, SIZE)[whole(0, [0, 1])].failure
    assert failure.startswith(
        f"none of 2 training images of the class b can be decoded, the first {files.train_paths[1]}"
    )


def test_too_many_broken_one_after_another(tmp_path, monkeypatch):
    files = mixed_set(tmp_path, train=12, broken_train=(1, 4, 7))
    monkeypatch.setattr(examples, "MOST_UNREADABLE", 4)
    assert list(TrainExamples(files, SIZE)[whole(0, [1])].unreadable) == [1, 4, 7]
    monkeypatch.setattr(examples, "MOST_UNREADABLE", 3)
    failure = TrainExamples(files, SIZE)[whole(0, [0, 1])].failure
    assert failure.startswith("none of 3 training images of the class b can be decoded")


@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_file_that_went_away_is_a_failure(tmp_path, kind):
    files = mixed_set(tmp_path)
    os.unlink(tmp_path / kind / "2.jpg")
    made = (
        TrainExamples(files, SIZE)[whole(0, [1, 2])]
        if kind == "train"
        else EvaluationExamples(files, SIZE)[[1, 2]]
    )
    assert made.failure == f"cannot read {tmp_path}/{kind}/2.jpg: No such file or directory"


def test_test_images_are_left_out(tmp_path):
    files = mixed_set(tmp_path, broken_test=(1, 4, 5), grey=(2,))
    made = EvaluationExamples(files, SIZE)[range(4)]
    assert made.labels.tolist() == [0, 2, 0]
    assert (list(made.unreadable), made.converted) == ([1], [2])
    expected = evaluation_transform(SIZE)(read_rgb(files.test_paths[3])[0])
    assert torch.equal(made.images[2], expected)
    nothing = EvaluationExamples(files, SIZE)[[4, 5]]
    assert nothing.images.shape == (0, 3, SIZE, SIZE)
    assert nothing.labels.dtype == torch.int64


def test_they_travel_to_processes_that_are_not_forked(tmp_path):
    there = pickle.loads(pickle.dumps(TrainExamples(mixed_set(tmp_path), SIZE)))
    here = TrainExamples(mixed_set(tmp_path), SIZE)
    assert torch.equal(there[whole(0, [1])].images, here[whole(0, [1])].images)
