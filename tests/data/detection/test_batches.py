"""Batches of images with objects: the same for any number of processes, whatever goes wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.batches import Step, epoch_steps
from groupnorm.data.detection.batches import AnnotatedBatches
from groupnorm.data.detection.targets import DetectionBatch, DetectionBatches
from tests.data.detection.coco_files import annotation, data, detection_set, image, many
from tests.data.files.image_trees import BROKEN, photo


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return detection_set(tmp_path_factory.mktemp("toy"), train=many(20))


def steps_of(batches, epoch=1, size=4, per_worker=2):
    return epoch_steps(batches.order(3, epoch, per_worker), size, 3, epoch)


def same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        len(a.images) == len(b.images)
        and all(map(torch.equal, a.images, b.images))
        and all(map(same_target, a.targets, b.targets))
        for a, b in zip(first, second, strict=True)
    )


def same_target(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        for key in a
    )


def test_it_is_batches(toy):
    batches: DetectionBatches = AnnotatedBatches(toy)
    assert (batches.name, batches.version) == ("toy", "1")
    assert (batches.num_classes, batches.channels) == (2, 3)
    assert (batches.train_size, batches.test_size) == (13, 5)
    assert batches.categories.names == ("shirt", "bag")


def test_training_batches(toy):
    batches = AnnotatedBatches(toy)
    for step, batch in zip(steps_of(batches), batches.train(steps_of(batches)), strict=True):
        assert len(batch.images) == len(batch.targets) == len(step.indices) == 4
        wide = [made.shape[2] > made.shape[1] for made in batch.images]
        assert wide[0] == wide[1]
        assert wide[2] == wide[3]
        for made, target in zip(batch.images, batch.targets, strict=True):
            assert made.dtype == torch.float32
            assert 0 <= made.min() < made.max() <= 1
            assert len(target["boxes"]) == (target["image_id"] - 100) % 3 > 0
            assert target["masks"].shape[1:] == made.shape[1:]


def test_half_of_the_images_are_mirrored(toy):
    batches = AnnotatedBatches(toy, in_memory=True)
    (once,) = AnnotatedBatches(toy).train(all_once(toy))
    plain = {target["image_id"]: target for target in once.targets}
    steps = [Step(seed, torch.arange(13)) for seed in range(40)]
    turned = [
        not torch.equal(target["boxes"], plain[target["image_id"]]["boxes"])
        for batch in batches.train(steps)
        for target in batch.targets
    ]
    share = np.mean(turned)
    assert min(share, 1 - share) > 0.4, "one of the two is the image as it is"
    still = AnnotatedBatches(replace(toy, flip=False))
    first = [Step(seed, torch.tensor([0])) for seed in range(9)]
    boxes = [batch.targets[0]["boxes"] for batch in still.train(first)]
    assert all(torch.equal(boxes[0], other) for other in boxes)


def all_once(toy):
    return [Step(0, torch.arange(len(toy.train.with_objects)))]


@pytest.mark.parametrize("in_memory", [False, True])
def test_epochs_differ_and_follow_from_the_seed(toy, in_memory):
    one, other = AnnotatedBatches(toy), AnnotatedBatches(toy, in_memory=in_memory)
    assert same(one.train(steps_of(one)), other.train(steps_of(other)))
    assert not same(one.train(steps_of(one)), other.train(steps_of(other, epoch=2)))
    assert same(one.test(), other.test())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("processes", [0, 1])
def test_on_a_gpu_they_are_the_same(toy, processes):
    there = AnnotatedBatches(toy, device="cuda", processes=processes)
    back = [
        DetectionBatch(
            [made.cpu() for made in batch.images],
            [{k: v.cpu() if hasattr(v, "cpu") else v for k, v in t.items()} for t in batch.targets],
        )
        for batch in there.test()
    ]
    assert same(AnnotatedBatches(toy).test(), back)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_number_of_processes_changes_nothing(toy, processes):
    alone, several = AnnotatedBatches(toy), AnnotatedBatches(toy, processes=processes)
    assert same(alone.train(steps_of(alone)), several.train(steps_of(alone)))
    assert same(alone.test(), several.test())
    assert alone.data_issues() == several.data_issues()


def test_an_epoch_resumed_in_the_middle_is_the_same(toy):
    batches = AnnotatedBatches(toy)
    steps = steps_of(batches, size=2)
    straight = list(batches.train(steps))
    for k in range(len(steps) + 1):
        assert same(straight[k:], batches.train(steps[k:]))


def test_shares_of_several_processes_make_the_whole(toy):
    batches = AnnotatedBatches(toy)
    steps = steps_of(batches)
    whole = list(batches.train(steps))
    first, second = (list(batches.train(steps, slice(k, k + 2))) for k in (0, 2))
    for batch, a, b in zip(whole, first, second, strict=True):
        joined = type(batch)(a.images + b.images, a.targets + b.targets)
        assert same([batch], [joined])


def test_test_batches_are_shared(toy):
    batches = AnnotatedBatches(toy, test_batch=2)
    every = [[t["image_id"] for t in b.targets] for b in batches.test()]
    assert every == [[100, 101], [102, 103], [104]]
    shares = [[[t["image_id"] for t in b.targets] for b in batches.test(k, 2)] for k in (0, 1)]
    assert shares == [every[::2], every[1::2]]
    empty = next(iter(AnnotatedBatches(toy).test()))
    assert empty.targets[0]["boxes"].shape == (0, 4), "images without objects are tested"


def test_images_are_resized(tmp_path):
    batches = AnnotatedBatches(detection_set(tmp_path, short_side=60, long_side=1333))
    for batch in batches.test():
        assert min(batch.images[0].shape[1:]) == 60
        assert batch.targets[0]["original_size"] in ((30, 40), (40, 30))


def broken_set(tmp_path):
    """Training images 102 and 104 and test image 101 are unreadable; 105 and 103 are grey."""
    train = many(9)
    train["annotations"].append(
        annotation(70, 107, segmentation=[[99, 99, 120, 99, 120, 110]], bbox=[1, 1, 9, 9])
    )
    return detection_set(
        tmp_path,
        train=train,
        train2017_pictures={
            "102.jpg": b"",
            "104.jpg": photo(1, (41, 30)),
            "105.jpg": photo(2, (30, 40)).convert("L"),
        },
        val2017_pictures={"101.jpg": BROKEN, "103.jpg": photo(3).convert("L")},
    )


def test_unreadable_images_are_replaced_or_left_out_and_named(tmp_path):
    toy = broken_set(tmp_path)
    batches = AnnotatedBatches(toy, max_unreadable=0.5)
    (batch,) = batches.train(all_once(toy))
    assert [t["image_id"] for t in batch.targets] == [101, 105, 107, 105, 107, 108]
    tested = [t["image_id"] for b in batches.test() for t in b.targets]
    assert tested == [100, 102, 103, 104]
    assert batches.data_issues() == {
        "replaced_images": {
            "train2017/102.jpg": "the file is empty",
            "train2017/104.jpg": "the file has 41 x 30 pixels, instances_train2017.json says "
            "40 x 30",
        },
        "left_out_images": {"val2017/101.jpg": "OSError: Truncated File Read"},
        "converted_images": {"train2017/105.jpg": "not RGB", "val2017/103.jpg": "not RGB"},
        "left_out_objects": {
            "instances_train2017.json: annotation 70": "its mask is empty",
        },
    }
    again = AnnotatedBatches(toy, max_unreadable=0.5, in_memory=True)
    assert same([batch], again.train(all_once(toy)))
    assert same(batches.test(), again.test())
    assert again.data_issues() == batches.data_issues()


def test_too_many_unreadable_images(tmp_path):
    toy = broken_set(tmp_path)
    with pytest.raises(DataError, match=r"2 of the 6 training images of toy .* more than 20 %"):
        list(AnnotatedBatches(toy, max_unreadable=0.2).train(all_once(toy)))
    with pytest.raises(DataError, match=r"1 of the 5 test images of toy cannot be decoded"):
        list(AnnotatedBatches(toy, max_unreadable=0.1).test())


def test_issues_of_others_are_remembered(tmp_path):
    toy = broken_set(tmp_path)
    one, other = AnnotatedBatches(toy, max_unreadable=0.5), AnnotatedBatches(toy)
    list(one.train(all_once(toy)))
    other.max_unreadable = 0.5
    other.remember(one.data_issues())
    assert other.data_issues() == one.data_issues()
    with pytest.raises(DataError, match="2 of the 6 training images"):
        AnnotatedBatches(toy).remember(one.data_issues())


@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_no_image_can_be_read(tmp_path, processes):
    toy = detection_set(tmp_path, train2017_pictures={f"{k}.jpg": BROKEN for k in range(100, 108)})
    batches = AnnotatedBatches(toy, max_unreadable=1.0, processes=processes)
    with pytest.raises(DataError, match=r"101\.jpg and the training images after it cannot be dec"):
        list(batches.train([Step(0, torch.tensor([0]))]))


def test_a_file_that_has_gone(tmp_path):
    toy = detection_set(tmp_path)
    (tmp_path / "train2017" / "101.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot read .*101\.jpg: No such file"):
        list(AnnotatedBatches(toy).train([Step(0, torch.tensor([0]))]))


def test_an_image_of_which_all_boxes_are_left_out_is_not_trained_on(tmp_path):
    train = data([annotation(1), annotation(2, 2, bbox=[1, 1, 0, 5])], [image(1), image(2)])
    batches = AnnotatedBatches(detection_set(tmp_path, train=train))
    assert batches.train_size == 1
    (batch,) = batches.train([Step(0, torch.tensor([0]))])
    assert batch.targets[0]["image_id"] == 1


def test_notes_are_those_of_data_and_splits(tmp_path):
    train = data([annotation(), annotation(2, 99)], [image()])
    toy = detection_set(tmp_path, train=train, notes=("a note",))
    notes = AnnotatedBatches(toy).notes
    assert notes[0] == "a note"
    assert "of images that are not listed: 2" in notes[1]


@pytest.mark.parametrize("changes", [{"test_batch": 0}, {"processes": -1}])
def test_impossible_settings(toy, changes):
    with pytest.raises(ValueError, match="expected test_batch of at least 1 and processes"):
        AnnotatedBatches(toy, **changes)


@pytest.mark.parametrize("index", [-1, 13])
def test_examples_that_are_not_there(toy, index):
    with pytest.raises(ValueError, match="expected indices from 0 to 12"):
        list(AnnotatedBatches(toy).train([Step(0, torch.tensor([index]))]))
