"""SegmentationConfig: the learning rate, the hash that names a run, and what it refuses."""

import pytest
from pydantic import ValidationError

from groupnorm.training.config import RunConfig, SegmentationConfig


def test_the_learning_rate_follows_the_images():
    for images in (32, 4, 1):
        config = SegmentationConfig(epochs=1, batch_per_worker=images)
        assert config.learning_rate == pytest.approx(0.1 * images / 32)


def test_every_field_changes_the_hash():
    start = SegmentationConfig(steps=3)
    changes = {
        "model": "x", "norm": "bn", "norms": {"decoder": "none"}, "data": "y", "train_images": 5,
        "validation_images": 5, "batch_per_worker": 4, "drops": (0.5,), "decay_norms": False,
        "seed": 1, "init": "gn-1x256-s0-52d863f086", "reported_epochs": 2, "base_lr": 0.2,
        "memory_format": "channels_last", "clip_norm": 1.0, "precision": "bfloat16",
    }  # fmt: skip
    names = {SegmentationConfig(**{"steps": 3, k: v}).digest() for k, v in changes.items()}
    assert len(names | {start.digest()}) == len(changes) + 1
    unreadable = SegmentationConfig(steps=3, max_unreadable=0.5)
    assert unreadable.digest() == start.digest()


def test_what_becomes_of_the_norms_changes_the_hash():
    kinds = ("keep", "convert", "reset")
    init = "bn-1x32-s0-52d863f086"
    made = [SegmentationConfig(steps=3, init=init, init_norms=kind) for kind in kinds]
    assert len({config.digest() for config in made}) == 3
    assert made[0].digest() == SegmentationConfig(steps=3, init=init).digest()
    assert [config.converted_part for config in made] == [None, "encoder", None]


def test_the_limit_of_offsets_changes_the_hash_and_is_about_a_conversion():
    fields = {"steps": 3, "init": "bn-1x32-s0-52d863f086"}
    limits = {None: {}, 0.0: {"init_offset_limit": 0}, 1.0: {"init_offset_limit": 1}}
    made = [SegmentationConfig(init_norms="convert", **fields, **more) for more in limits.values()]
    assert [config.init_offset_limit for config in made] == list(limits)
    assert len({config.digest() for config in made}) == 3
    for kind in ("keep", "reset"):
        with pytest.raises(ValidationError, match="give init_norms=convert, or leave init_offset"):
            SegmentationConfig(init_norms=kind, init_offset_limit=0, **fields)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        SegmentationConfig(init_norms="convert", init_offset_limit=-1, **fields)


@pytest.mark.parametrize("kind", ["convert", "reset"])
def test_norms_become_something_only_where_training_starts_from_a_run(kind):
    with pytest.raises(ValidationError, match=f"init_norms={kind} is about .* give init, or leave"):
        SegmentationConfig(steps=1, init_norms=kind)


@pytest.mark.parametrize("norm", ["bn", "frozenbn", "gn+ws", "none", "gn:affine=false"])
def test_a_converted_encoder_has_group_norm(norm):
    fields = {"steps": 1, "init": "bn-1x32-s0-52d863f086", "init_norms": "convert"}
    told = r"norms.encoder must be gn, ln or in, with scale and shift and without ws, got "
    with pytest.raises(ValidationError, match=told):
        SegmentationConfig(norm=norm, **fields)
    SegmentationConfig(norm=norm, norms={"encoder": "gn:groups=8"}, **fields)


def test_a_number_of_groups_is_not_taken_for_none():
    """A run with 32 groups would have the name of one that lets the conversion choose."""
    fields = {"steps": 1, "init": "bn-1x32-s0-52d863f086", "init_norms": "convert"}
    told = "init_norms=convert chooses the number of groups for gn.* give another number than 32"
    with pytest.raises(ValidationError, match=told):
        SegmentationConfig(norms={"encoder": "gn:groups=32"}, **fields)
    for norm in ("gn", "ln", "in", "gn:size=4", "gn:groups=8", "gn:groups=auto"):
        made = SegmentationConfig(norms={"encoder": norm}, **fields)
        again = SegmentationConfig(**made.model_dump())
        assert made.encoder_norm.has_own_groups == (norm != "gn")
        assert again.encoder_norm.has_own_groups == made.encoder_norm.has_own_groups


def test_a_run_keeps_its_name():
    """As recorded: a new field must not change it."""
    assert SegmentationConfig(norm="bn", epochs=4).run_name() == "bn-8x32-s0-993512c886"


def test_a_run_of_another_task_has_another_name():
    """Also where all fields are given alike."""
    fields = {"steps": 3, "model": "x", "data": "y", "norm": "gn", "workers": 1}
    assert SegmentationConfig(**fields).digest() != RunConfig(**fields).digest()
    assert SegmentationConfig(steps=3).identity()["task"] == "segmentation"


def test_workers_count_for_batch_statistics_alone():
    for norm, same in (("gn", True), ("bn", False)):
        one, other = (
            SegmentationConfig(norm=norm, steps=1, workers=w, batch_per_worker=n)
            for w, n in ((8, 2), (4, 4))
        )
        assert (one.digest() == other.digest()) == same


def test_round_trip_through_json():
    config = SegmentationConfig(norm="bn+ws", norms={"encoder": "gn"}, steps=5)
    assert SegmentationConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"batch_per_worker": 0}, "greater than or equal to 1"),
        ({"task": "detection"}, "'segmentation'"),
        ({"width": 0.5}, "Extra inputs"),
        ({"image_size": 48}, "Extra inputs"),
        ({"epochs": 1}, "exactly one"),
    ],
)
def test_what_is_refused(fields, told):
    with pytest.raises(ValidationError, match=told):
        SegmentationConfig(**{"steps": 1, **fields})
