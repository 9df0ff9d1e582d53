"""How an image classifier is set up: data, network, and where its weights come from."""

import pytest
import torch

from groupnorm import data
from groupnorm.data.memory.augment import normalize
from groupnorm.run import run
from groupnorm.run.classification import build, load, warm_start
from groupnorm.training.warm_start import load_weights
from tests.run.test_train import config


def test_held_out_images_take_the_place_of_the_test_images():
    whole = data.load("digits")
    batches = load(config(validation_images=137), "cpu", None)
    assert (batches.train_size, batches.test_size) == (1300, 137)
    held = whole.hold_out(137)
    seen = torch.cat([images for images, _ in batches.test()])
    assert torch.equal(seen, normalize(held.test_images, held.mean, held.std))
    rows = {tuple(image.flatten().tolist()) for image in whole.train_images}
    assert all(tuple(image.flatten().tolist()) in rows for image in held.test_images)
    again = load(config(validation_images=137, norm="ln", seed=3), "cpu", None)
    assert torch.equal(torch.cat([images for images, _ in again.test()]), seen)


def test_image_files_are_held_out_before_a_sample_is_taken():
    files = config(data="photo-patches", validation_images=12, train_images=30)
    batches = load(files, "cpu", None)
    assert (batches.train_size, batches.test_size) == (30, 12)
    assert not set(batches.files.train_paths) & set(batches.files.test_paths)
    assert set(batches.files.test_paths) < set(data.load("photo-patches").train_paths)


def test_zero_gamma_decides_the_first_weights():
    batches = load(config(), "cpu", None)
    for zero in (True, False):
        block = build(config(zero_gamma=zero), batches, "cpu").stages[1][0]
        assert (block.norm2.weight == (0 if zero else 1)).all()


def test_more_training_images_than_are_left():
    with pytest.raises(ValueError, match="train_images=1400 and validation_images=100, but digits"):
        run(config(train_images=1400, validation_images=100))


def test_the_classifier_of_other_data_stays_as_it_was():
    first = build(config(), load(config(), "cpu", None), "cpu")
    grey = config(data="fashion-mnist-mini", seed=1)
    model = build(grey, load(grey, "cpu", None), "cpu")
    before = model.linear.weight.clone()
    found = load_weights(model, first.state_dict(), warm_start(grey, model, config().identity()))
    assert found["left_out"] == found["fresh"] == ["linear.weight", "linear.bias"]
    assert torch.equal(model.linear.weight, before)
    assert torch.equal(model.conv1.weight, first.conv1.weight)


def test_the_classifier_of_the_same_data_is_taken():
    first = build(config(), load(config(), "cpu", None), "cpu")
    tuned = config(norm="frozenbn", seed=1)
    model = build(tuned, load(tuned, "cpu", None), "cpu")
    found = load_weights(model, first.state_dict(), warm_start(tuned, model, config().identity()))
    assert found["left_out"] == found["fresh"] == []
    assert torch.equal(model.linear.weight, first.linear.weight)
