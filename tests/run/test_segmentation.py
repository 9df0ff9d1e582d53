"""How a network that labels every pixel is set up: data, network, cost, where weights come from."""

import pytest
import torch

from groupnorm.data import DataError, catalog
from groupnorm.models import build_segmentation_model
from groupnorm.run import check, config_class, run
from groupnorm.run.segmentation import build, first_step, load, notes, warm_start
from groupnorm.training.config import RunConfig
from groupnorm.training.warm_start import WarmStartError, load_weights
from tests.data.segmentation import tiny_maps
from tests.tolerances import NETWORK

FIELDS = {
    "task": "segmentation", "data": "shapes", "norm": "bn", "workers": 2, "batch_per_worker": 4,
    "base_lr": 1.6, "steps": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _by_name(monkeypatch):
    monkeypatch.setitem(catalog._SEGMENTATION_SETS, "shapes", tiny_maps.ENTRY)
    monkeypatch.setitem(catalog._SEGMENTATION_SETS, "others", tiny_maps.ENTRY)


def config(**changes):
    fields = {**FIELDS, **changes}
    return config_class(fields)(**fields)


def without_timing(metrics):
    return [{**row, "timing": None} for row in metrics]


def test_the_same_configuration_gives_the_same_bits():
    first, second = (run(config(), with_cost=False) for _ in range(2))
    assert without_timing(first.metrics) == without_timing(second.metrics)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changes",
    [
        *({"norm": norm} for norm in ("gn:size=8", "gn:size=8+ws", "syncbn", "brn", "none")),
        {"precision": "bfloat16"},
        {"memory_format": "channels_last", "norms": {"decoder": "gn:groups=4"}},
        {"batch_per_worker": 2, "workers": 4, "accumulate": 2},
    ],
    ids=str,
)
def test_every_norm_and_precision_trains(changes):
    env, made = {}, config(**changes)
    result = run(made, on_start=env.update)
    (*_, last) = result.metrics
    assert result.status == "finished"
    assert 0 < last["train_loss"] < 3
    assert 0 < last["val_loss"] < 20
    fresh = build(made, load(made, "cpu", None), "cpu")
    weights = dict(fresh.named_parameters())
    assert {name for name, weight in result.model.named_parameters()
            if torch.equal(weight, weights[name])} == set(), "every weight has moved"  # fmt: skip
    assert (last["precise_val_mean_iou"] is not None) == made.uses_batch_statistics
    assert env["metrics"][0]["name"] == "val_mean_iou"
    assert env["cost"]["images"] == made.step_images // made.accumulate
    assert env["cost"]["image_shape"] == [3, 16, 16]
    assert env["data_version"] == "1"
    assert "data_notes" not in env


@pytest.mark.slow
def test_it_learns():
    """A network that takes everything for background has an IoU of 25 %."""
    made = config(steps=90, schedule="cosine", base_lr=3.2, warmup_steps=10, evaluate_every=30)
    last = run(made, with_cost=False).metrics[-1]
    assert last["val_mean_iou"] > 60
    assert last["class_iou"]["frame"] > 30
    assert last["precise_val_mean_iou"] > 60


def test_a_batch_independent_norm_does_not_see_the_workers():
    a, b = (
        run(config(norm="gn:size=8", workers=w, batch_per_worker=8 // w), with_cost=False).metrics
        for w in (1, 4)
    )
    assert without_timing(a) == without_timing(b)


def test_channels_last_computes_the_same_to_rounding():
    formats = ("contiguous", "channels_last")
    a, b = (run(config(memory_format=name), with_cost=False).metrics[-1] for name in formats)
    assert a["train_loss"] == pytest.approx(b["train_loss"], rel=NETWORK)


def test_held_out_images_take_the_place_of_the_test_images():
    data = load(config(validation_images=8, train_images=10), "cpu", None)
    assert (data.train_size, data.test_size) == (10, 8)
    with pytest.raises(ValueError, match="=20 and validation_images=8, but shapes has 24 training"):
        load(config(validation_images=8, train_images=20), "cpu", None)


def test_classes_that_no_test_pixel_has_are_noted_and_left_out(monkeypatch):
    env = {}
    more = tiny_maps.tiny_maps(class_names=(*tiny_maps.CLASSES, "star", "moon"))
    monkeypatch.setattr(tiny_maps, "load", lambda root: more)
    result = run(config(steps=1), with_cost=False, on_start=env.update)
    assert env["data_notes"] == [
        "no test pixel is of star, moon: mean IoU is that of the other 3 classes"
    ]
    found = result.metrics[-1]["class_iou"]
    assert found["star"] is found["moon"] is None
    there = [found[name] for name in tiny_maps.CLASSES]
    assert result.metrics[-1]["val_mean_iou"] == pytest.approx(sum(there) / 3)
    held = config(validation_images=2)
    assert notes(held, load(held, "cpu", None))[0].startswith("no validation pixel is of star")


def test_the_cost_is_of_a_pass():
    made = config(accumulate=2, memory_format="channels_last")
    data = load(made, "cpu", None)
    step = first_step(made, data, build(made, data, "cpu"))
    assert step.images.shape == (4, 3, 16, 16)
    assert step.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "resnet20"}, "unknown network for segmentation 'resnet20'; known: unet_narrow"),
        ({"data": "digits"}, "unknown segmentation data set 'digits'; known: garments-masks"),
        ({"norms": {"stem": "ln"}}, "unet_narrow has no place 'stem'; its places: encoder, decod"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(fields, told):
    with pytest.raises((ValueError, DataError), match=told):
        check(config(**fields))


def taken(made, weights, other):
    """What becomes of a model's weights, whose run's identity is `other`; also the new network."""
    model = build(made, load(made, "cpu", None), "cpu")
    return load_weights(model, weights.state_dict(), warm_start(made, model, other)), model


def test_weights_of_another_run_but_not_its_last_layer_where_the_data_differ():
    first = build_segmentation_model("unet_narrow", norm="bn", num_classes=3)
    same, model = taken(config(), first, config().identity())
    assert same["left_out"] == same["fresh"] == []
    assert torch.equal(model.logits.weight, first.logits.weight)
    other, model = taken(config(seed=1), first, config(data="others").identity())
    assert other["left_out"] == other["fresh"] == ["logits.weight", "logits.bias"]
    assert not torch.equal(model.logits.weight, first.logits.weight)
    assert torch.equal(model.upsample[0].weight, first.upsample[0].weight)


def test_weights_that_do_not_fit():
    other = RunConfig(model="resnet20", norm="bn", epochs=1).identity()
    with pytest.raises(WarmStartError, match="they are of resnet20, it takes those of unet_narrow"):
        warm_start(config(), torch.nn.Linear(1, 1), other)
    with pytest.raises(WarmStartError, match="trained with gn; with bn"):
        warm_start(config(), torch.nn.Linear(1, 1), config(norm="gn").identity())
