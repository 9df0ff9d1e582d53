"""DetectionConfig: the published recipe, the hash that names a run, and what it refuses."""

import pytest
from pydantic import ValidationError

from groupnorm.training.config import DetectionConfig, RunConfig
from groupnorm.training.schedules import lr_factor


def test_the_published_recipe():
    """Detectron's GN baselines: 0.02 for 8 x 2 images, 500 steps from a third, two drops."""
    config = DetectionConfig(steps=90_000)
    assert (config.step_images, config.learning_rate) == (16, 0.02)
    assert DetectionConfig(steps=1, batch_per_worker=1).learning_rate == pytest.approx(0.01)
    assert (config.decay_norms, config.nesterov, config.weight_decay) == (False, False, 1e-4)

    def rate(step, of=config, steps=90_000):
        return of.learning_rate * lr_factor(
            of.schedule, step, steps, of.warmup_steps,
            warmup_from=of.warmup_from, drops=of.drops,
        )  # fmt: skip

    assert rate(0) == pytest.approx(0.02 / 3)
    assert [rate(s) for s in (500, 59_999, 60_000, 79_999, 80_000)] == pytest.approx(
        [0.02, 0.02, 0.002, 0.002, 0.0002]
    )
    longest = DetectionConfig(steps=270_000, drops=(7 / 9, 25 / 27))
    at = [rate(s, longest, 270_000) for s in (209_999, 210_000, 249_999, 250_000)]
    assert at == pytest.approx([0.02, 0.002, 0.002, 0.0002])


def test_every_field_changes_the_hash():
    start = DetectionConfig(steps=3)
    changes = {
        "model": "retinanet_narrow", "norm": "bn", "norms": {"fpn": "none"}, "box_head": "4conv1fc",
        "head_init": "he", "freeze_at": 2, "data": "coco", "short_side": 64, "long_side": 200,
        "train_images": 5, "validation_images": 5, "workers": 4, "batch_per_worker": 1,
        "drops": (0.5,), "warmup_steps": 50, "warmup_from": 0.0, "clip_norm": 10.0, "seed": 1,
        "init": "gn-1x256-s0-52d863f086", "reported_epochs": 2, "precision": "bfloat16",
    }  # fmt: skip
    names = {DetectionConfig(**{"steps": 3, key: value}).digest() for key, value in changes.items()}
    assert len(names | {start.digest()}) == len(changes) + 1


def test_a_run_of_another_task_has_another_name():
    """Also where all fields are given alike."""
    fields = {"steps": 3, "model": "x", "data": "y", "norm": "gn", "workers": 1}
    assert DetectionConfig(**fields).digest() != RunConfig(**fields).digest()
    assert DetectionConfig(steps=3).identity()["task"] == "detection"


def test_workers_count_for_every_norm():
    """Losses are means over a worker's own regions: another split is another run."""
    one, other = (
        DetectionConfig(norm="gn", steps=1, workers=w, batch_per_worker=n)
        for w, n in ((8, 1), (4, 2))
    )
    assert one.digest() != other.digest()
    with pytest.raises(ValueError, match=r"8 workers cannot be divided among 3 processes.*a mean"):
        one.check_processes(3)
    with pytest.raises(ValidationError, match="accumulate=8 does not divide the 4 workers"):
        DetectionConfig(norm="gn", steps=1, workers=4, batch_per_worker=2, accumulate=8)


def test_round_trip_through_json():
    config = DetectionConfig(norm="frozenbn+ws", norms={"fpn": "gn"}, steps=5, drops=(2 / 3, 8 / 9))
    assert DetectionConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"compile": True}, "detectors are not compiled"),
        ({"box_head": "3fc"}, "'2fc' or '4conv1fc'"),
        ({"short_side": 8}, "greater than or equal to 32"),
        ({"freeze_at": -1}, "greater than or equal to 0"),
        ({"task": "classification"}, "'detection'"),
    ],
)
def test_what_is_refused(fields, told):
    with pytest.raises(ValidationError, match=told):
        DetectionConfig(**{"steps": 1, **fields})
