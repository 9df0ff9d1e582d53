"""VideoConfig: the published recipe, the hash that names a run, and what it refuses."""

import pytest
from pydantic import ValidationError

from groupnorm.training.config import RunConfig, VideoConfig
from groupnorm.training.schedules import lr_factor


def test_the_published_recipe():
    """The non-local networks' baseline: 0.01 for 8 x 8 clips, two drops in 400,000 steps."""
    config = VideoConfig(steps=400_000)
    assert (config.step_images, config.learning_rate) == (64, 0.01)
    assert VideoConfig(steps=1, batch_per_worker=4).learning_rate == pytest.approx(0.005)
    assert (config.decay_norms, config.nesterov, config.weight_decay) == (False, True, 1e-4)
    rates = [
        config.learning_rate * lr_factor(config.schedule, step, 400_000, drops=config.drops)
        for step in (0, 149_999, 150_000, 299_999, 300_000)
    ]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


def test_every_field_changes_the_hash():
    start = VideoConfig(steps=3)
    changes = {
        "model": "i3d_resnet50", "norm": "bn", "norms": {"stem": "none"}, "data": "kinetics",
        "frames": 8, "stride": 2, "centre_time": True, "test_clips": 5, "test_crops": 3,
        "image_size": 224, "train_images": 5, "validation_images": 5, "batch_per_worker": 4,
        "drops": (0.5,), "decay_norms": True, "seed": 1, "init": "gn-1x256-s0-52d863f086",
        "reported_epochs": 2, "memory_format": "channels_last",
    }  # fmt: skip
    names = {VideoConfig(**{"steps": 3, key: value}).digest() for key, value in changes.items()}
    assert len(names | {start.digest()}) == len(changes) + 1


def test_a_run_of_another_task_has_another_name():
    """Also where all fields are given alike."""
    fields = {"steps": 3, "model": "x", "data": "y", "norm": "gn", "workers": 1}
    assert VideoConfig(**fields).digest() != RunConfig(**fields).digest()
    assert VideoConfig(steps=3).identity()["task"] == "video"


def test_workers_count_for_batch_statistics_alone():
    for norm, same in (("gn", True), ("bn", False)):
        one, other = (
            VideoConfig(norm=norm, steps=1, workers=w, batch_per_worker=n)
            for w, n in ((8, 2), (4, 4))
        )
        assert (one.digest() == other.digest()) == same


def test_round_trip_through_json():
    config = VideoConfig(norm="bn+ws", norms={"stem": "gn"}, steps=5, drops=(0.375, 0.75))
    assert VideoConfig.model_validate_json(config.model_dump_json()) == config
    assert VideoConfig(steps="5", frames="8", test_crops="3").test_crops == 3


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"frames": 0}, "greater than or equal to 1"),
        ({"stride": 5000}, "less than or equal to 4096"),
        ({"test_crops": 2}, "expected 1 or 3 crops, got 2"),
        ({"test_clips": 0}, "greater than or equal to 1"),
        ({"image_size": 8}, "greater than or equal to 32"),
        ({"task": "detection"}, "'video'"),
        ({"shortcut": "B"}, "Extra inputs"),
    ],
)
def test_what_is_refused(fields, told):
    with pytest.raises(ValidationError, match=told):
        VideoConfig(**{"steps": 1, **fields})
