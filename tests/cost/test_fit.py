"""What fits: reading a memory, the search for the largest size, and the answers at their edges."""

import random

import pytest
from torch import nn

from groupnorm.cost.fit import fit, fit_clips, largest, parse_memory
from groupnorm.cost.peak import TrainingStep
from groupnorm.models import build_model


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16GiB", 16 * 2**30), ("800MB", 800 * 10**6), ("24 gb", 24 * 10**9), ("1.5KiB", 1536),
     ("2e9B", 2 * 10**9), ("7B", 7), ("1TiB", 2**40)],
)  # fmt: skip
def test_memory_is_read(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["16", " 16 ", "2e9"])
def test_a_memory_without_a_unit_is_an_error(text):
    with pytest.raises(ValueError, match="has no unit; write"):
        parse_memory(text)


@pytest.mark.parametrize("text", ["", "lots", "16 Gi", "-1GB", "0", "1e99GB", "3PB", "nan"])
def test_what_is_no_memory_is_an_error(text):
    with pytest.raises(ValueError, match="memory"):
        parse_memory(text)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_polynomial_in_few_looks(power):
    looked = []

    def memory(n):
        looked.append(n)
        return 1000 + 37 * n**power

    answer = largest(memory, 10**9, start=32, power=power)
    assert 1000 + 37 * answer**power <= 10**9 < 1000 + 37 * (answer + 1) ** power
    assert len(looked) <= 8
    assert len(set(looked)) == len(looked)
    assert {answer, answer + 1} <= set(looked)


def test_any_growing_function():
    generator = random.Random(0)
    for _ in range(300):
        steps = [generator.choice([0, 1, 1, 5, 40, 3000]) for _ in range(200)]
        limit = generator.randrange(1, sum(steps) + 10)

        def memory(n, steps=steps):
            return 3 + sum(steps[:n]) + max(0, n - 200) * 7

        up = 0
        while memory(up + 1) <= limit:
            up += 1
        found = largest(memory, limit, start=generator.choice([1, 7, 500]), power=2)
        assert found == (up or None)


def test_nothing_fits_and_what_does_not_grow():
    assert largest(lambda n: 100 + n, 100, start=32) is None
    with pytest.raises(ValueError, match="does not grow"):
        largest(lambda n: 5, 100)


def plan(norm, limit, **changes):
    step = TrainingStep(lambda: build_model("resnet8", norm=norm, num_classes=10))
    asked = {"channels": 3, "image_size": 32, "batch": 16, "multiple": 8, "smallest": 8}
    return step, fit(step, limit, **(asked | changes))


@pytest.mark.parametrize("norm", ["gn", pytest.param("bn", marks=pytest.mark.slow)])
def test_the_answers_fit_and_the_next_do_not(norm):
    limit = 200 * 2**20
    step, found = plan(norm, limit)
    batch, size = found.largest_batch, found.largest_image_size
    assert step.memory((3, 32, 32), batch).peak <= limit < step.memory((3, 32, 32), batch + 1).peak
    assert step.memory((3, size, size), 16).peak <= limit
    assert step.memory((3, size + 8, size + 8), 16).peak > limit
    assert size % 8 == 0
    more = step.memory((3, 32, 32), 17).saved - step.memory((3, 32, 32), 16).saved
    assert found.saved_per_image == pytest.approx(more, abs=1)


def test_too_little_memory_fits_nothing():
    _, found = plan("gn", 300_000)
    assert found.largest_batch is None
    assert found.largest_image_size is None


def test_images_that_the_model_does_not_take():
    with pytest.raises(ValueError, match="does not take 16 images of 32 x 32 pixels"):
        plan("gn", 10**8, channels=4)


def clips(limit, **changes):
    step = TrainingStep(
        lambda: nn.Sequential(
            nn.Conv3d(3, 4, 3, padding=1),
            nn.Sigmoid(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 10),
        )
    )
    asked = {"channels": 3, "image_size": 16, "frames": 16, "batch": 16, "fewest": 1}
    return step, fit_clips(step, limit, **(asked | changes))


def test_the_longest_clips_fit_and_longer_ones_do_not():
    limit = 20 * 2**20
    step, found = clips(limit)

    def peak(clips, frames):
        return step.memory((3, frames, 16, 16), clips).peak

    assert peak(16, found.most_frames) <= limit < peak(16, found.most_frames + 1)
    assert peak(found.largest_batch, 16) <= limit < peak(found.largest_batch + 1, 16)
    assert found.step == step.memory((3, 16, 16, 16), 16)
    twice = step.memory((3, 32, 16, 16), 16)
    assert twice.saved > 1.9 * found.step.saved, "by the frames, not by the side"


def test_clips_that_are_too_long_or_that_the_network_does_not_take():
    _, found = clips(200_000, frames=1)
    assert (found.most_frames, found.largest_batch) == (None, 12)
    with pytest.raises(ValueError, match="take 16 clips of 16 frames of 16 x 16 pixels"):
        clips(10**8, channels=4)
