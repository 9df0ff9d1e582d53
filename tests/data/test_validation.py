"""Images held out of the training images: which, how many of each class, and what is refused."""

import pytest
import torch

from groupnorm import data
from groupnorm.data import ImageSet
from groupnorm.data.validation import hold_out_rows

CLASSES = ("a", "b", "c")


def divided(labels, count, candidates=None):
    labels = torch.tensor(labels)
    rows = torch.tensor(range(len(labels)) if candidates is None else candidates)
    kept, held = hold_out_rows(labels, rows, count, "tiny", CLASSES)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    return held.tolist()


def test_they_are_the_last_of_each_class():
    assert divided([0, 1, 2] * 4, 3) == [9, 10, 11]
    assert divided([0] * 4 + [1] * 4 + [2] * 4, 6) == [2, 3, 6, 7, 10, 11]
    assert divided([0, 1, 2] * 2, 3, candidates=[5, 4, 3, 2, 1, 0]) == [0, 1, 2]


def test_each_class_gives_its_share_and_at_least_one():
    labels = [0] * 60 + [1] * 30 + [2] * 2
    held = torch.tensor(labels)[divided(labels, 9)]
    assert held.bincount().tolist() == [5, 3, 1]


def test_a_class_that_is_not_there_gives_nothing():
    assert divided([0, 2, 0, 2], 2) == [2, 3]


@pytest.mark.parametrize(
    ("labels", "count", "candidates", "told"),
    [
        ([0, 1, 2], 4, None, "validation_images=4, but 3 images of tiny can be held out"),
        ([0, 1, 2] * 3, 2, None, "validation_images=2 is less than one for each of the 3 classes"),
        ([0, 0, 1, 1, 2], 3, None, "the class c of tiny has 1 training images, of which 1 would"),
        ([0, 1] * 4 + [2, 2], 3, range(8), "the class c .* of which 0 would be held out"),
    ],
)
def test_what_cannot_be_held_out(labels, count, candidates, told):
    with pytest.raises(ValueError, match=told):
        divided(labels, count, candidates)


def numbered(size=20, sources=None):
    """Images whose pixels are their row, the test images' 255."""
    rows = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return ImageSet(
        name="tiny", version="1", train_images=rows.contiguous(),
        train_labels=torch.arange(size) % 2, test_images=torch.full_like(rows[:6], 255),
        test_labels=torch.arange(6) % 2, class_names=("a", "b"), flip=True, pad=1,
        sources=sources,
    )  # fmt: skip


def test_they_take_the_place_of_the_test_images_in_memory():
    held = numbered().hold_out(6)
    assert held.test_images[:, 0, 0, 0].tolist() == list(range(14, 20))
    assert held.train_images[:, 0, 0, 0].tolist() == list(range(14))
    assert held.train_labels.tolist() == [0, 1] * 7
    assert held.test_labels.tolist() == [0, 1] * 3
    assert torch.allclose(held.mean, torch.tensor([6.5 / 255]))  # of what stays
    assert "6 validation images, held out of the training images, not on the" in held.notes[0]
    assert numbered().hold_out(None).notes == ()


def test_none_of_them_shares_its_source_with_an_image_that_is_trained_on():
    """Rows 16 to 19 are made of the same as rows 0 to 3."""
    held = numbered(sources=torch.arange(20) % 16).hold_out(4)
    assert held.test_images[:, 0, 0, 0].tolist() == [12, 13, 14, 15]
    assert not set(held.sources.tolist()) & {12, 13, 14, 15}


def test_image_files_are_held_out_at_random_and_alike_each_time():
    files = data.load("photo-patches")
    held, again = files.hold_out(12), files.hold_out(12)
    assert held.test_paths == again.test_paths
    assert held.test_labels.bincount().tolist() == [2] * 6
    assert sorted(held.train_paths + held.test_paths) == sorted(files.train_paths)
    label_of = dict(zip(files.train_paths, files.train_labels.tolist(), strict=True))
    for split in ("train", "test"):
        paths, labels = getattr(held, f"{split}_paths"), getattr(held, f"{split}_labels")
        assert [label_of[path] for path in paths] == labels.tolist()
    last = [files.train_paths[i] for i in range(72) if i % 12 >= 10]
    assert set(held.test_paths) != set(last)
    assert held.version == files.version
    assert "12 validation images, held out" in held.notes[-1]
