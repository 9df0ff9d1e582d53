"""run(): from a configuration to metrics; determinism and what it refuses."""

from dataclasses import replace

import pytest
import torch

from groupnorm import data
from groupnorm.data import DataError
from groupnorm.data.memory.augment import augment
from groupnorm.data.validation import hold_out_rows, validation_note
from groupnorm.run import check, run
from groupnorm.training.config import RunConfig
from tests.tolerances import LAYER, NETWORK


def config(**fields):
    defaults = {"model": "resnet8", "width": 0.25, "data": "digits", "epochs": 1, "norm": "bn"}
    return RunConfig(**{**defaults, "workers": 4, "batch_per_worker": 8, **fields})


def without_timing(metrics):
    return [{**row, "timing": None} for row in metrics]


def test_the_same_configuration_gives_the_same_bits():
    first, second = run(config()), run(config())
    assert without_timing(first.metrics) == without_timing(second.metrics)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_torchs_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(config())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("norm", ["gn:groups=4", "ln", "in", "syncbn", "none", "gn:groups=4+ws"])
def test_every_norm_trains(norm):
    metrics = run(config(norm=norm)).metrics
    assert metrics[0]["train_loss"] < 3
    assert (metrics[0]["precise_val_error"] is None) == (norm != "syncbn")


def test_a_batch_independent_norm_does_not_see_the_workers():
    a = run(config(norm="gn:groups=4", workers=4, batch_per_worker=8)).metrics
    b = run(config(norm="gn:groups=4", workers=16, batch_per_worker=2)).metrics
    assert without_timing(a) == without_timing(b)
    c = run(config(norm="bn", workers=16, batch_per_worker=2)).metrics
    assert without_timing(c) != without_timing(run(config()).metrics)


def test_half_precision_and_layouts_train():
    for fields in ({"precision": "bfloat16"}, {"memory_format": "channels_last"}):
        assert run(config(norm="gn:groups=4", **fields)).metrics[0]["train_loss"] < 3


@pytest.mark.slow
def test_compiled_it_computes_the_same_to_rounding():
    """Through the real compiler: tens of seconds."""
    a, b = (
        run(config(steps=2, epochs=None, train_images=64, compile=c)).metrics[0]
        for c in (False, True)
    )
    assert a["train_loss"] == pytest.approx(b["train_loss"], rel=LAYER)
    assert a["val_loss"] == pytest.approx(b["val_loss"], rel=NETWORK)


def test_channels_last_computes_the_same_to_rounding():
    a, b = (
        run(config(steps=3, epochs=None, memory_format=f)) for f in ("contiguous", "channels_last")
    )
    assert a.metrics[0]["train_loss"] == pytest.approx(b.metrics[0]["train_loss"], rel=NETWORK)


def test_fewer_training_images():
    assert run(config(train_images=96)).metrics[0]["step"] == 3
    with pytest.raises(ValueError, match=r"train_images=5000, but digits has 1437"):
        run(config(train_images=5000))


def test_validation_images_are_never_trained_on(monkeypatch):
    """White images are held out; a training or a recomputation of statistics would see them."""
    whole = data.load("digits")
    _, held = hold_out_rows(
        whole.train_labels, torch.arange(1437), 137, "digits", whole.class_names
    )
    pixels = whole.train_images.clone()
    pixels[held] = 255
    monkeypatch.setattr(data, "load", lambda name, root: replace(whole, train_images=pixels))
    seen = []

    def watched(images, **options):
        seen.append(int(images.flatten(1).min(1).values.max()))
        return augment(images, **options)

    monkeypatch.setattr("groupnorm.data.memory.batches.augment", watched)
    told = []
    run(config(validation_images=137), with_cost=False, on_start=told.append)
    assert max(seen) < 255
    assert len(seen) > 1300 // 32  # with those of the statistics
    assert told[0]["data_notes"] == [validation_note(137)]


def test_statistics_are_recomputed_in_reported_epochs_alone():
    fields = {"epochs": 3, "train_images": 64, "reported_epochs": 1, "evaluate_every": 2}
    rows = run(config(**fields), with_cost=False).metrics
    assert "val_error" not in rows[0]
    assert rows[1]["precise_val_error"] is None
    assert 0 <= rows[2]["precise_val_error"] <= 100


def test_sizes_that_make_nothing_smaller_are_said():
    told = []
    few = {"epochs": None, "steps": 2}
    small = config(size_schedule="8:0.3,16:0.6", **few)
    one = run(small, with_cost=False, on_start=told.append).metrics
    assert told[0]["data_notes"] == [
        "size_schedule: images have 8 pixels, so that 8 and 16 pixels leave them as they are"
    ]
    assert without_timing(one) == without_timing(run(config(**few), with_cost=False).metrics)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="unknown normalization 'xn'"):
        config(norm="xn")
    with pytest.raises(ValueError, match="unknown model"):
        check(config(model="resnet9"))
    with pytest.raises(ValueError, match="resnet8 takes images of 8 pixels at least, got 6"):
        check(config(size_schedule="6:0.5"))
    with pytest.raises(DataError, match="unknown data set 'digit'"):
        check(config(data="digit"))
    with pytest.raises(ValueError, match="images of digits have a size of their own; image_size"):
        check(config(image_size=64))
    check(config(data="pets", image_size=64))


def test_the_cost_is_measured_once_when_asked_for_and_changes_nothing():
    told = []
    with_cost = run(config(), on_start=told.append)
    without = run(config(), with_cost=False, on_start=told.append)
    assert told[0]["cost"]["images"] == 32
    assert "cost" not in told[1]
    assert without_timing(with_cost.metrics) == without_timing(without.metrics)


def test_the_probed_convolutions_responses_are_recorded_every_epoch(monkeypatch):
    small = config(epochs=2)
    assert "response_percentiles" not in run(small, with_cost=False).metrics[0]

    def last(name, model):
        return [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)][-1]

    monkeypatch.setattr("groupnorm.run.classification.probe_module", last)
    rows = run(small, with_cost=False).metrics
    assert [list(row["response_percentiles"]) for row in rows] == [["1", "20", "80", "99"]] * 2
    assert rows[0]["response_percentiles"] != rows[1]["response_percentiles"]
