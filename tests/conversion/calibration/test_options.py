"""Each option of a conversion with data does what it says, seen through `convert`."""

import math

import pytest
import torch
from torch import nn

import groupnorm
from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.fit import FitLimits
from tests.conversion.networks import small_network, train_statistics
from tests.tolerances import CLEARLY, NETWORK, STEP

QUICK = FitLimits(steps=3)
DATA = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(
    0.3, 1.5, 64
).view(-1, 1, 1, 1)


def convert(model, to="gn:groups=4", **arguments):
    return groupnorm.convert(model, to, **{"data": DATA, "limits": QUICK, **arguments})


def error_on_held_out(converted, model):
    """Of the output, by hand."""
    batches = Batches(DATA, None, torch.device("cpu"))
    pieces = [piece for i, piece in enumerate(batches.pieces) if batches.held_out(i)]
    assert 0.2 < sum(map(len, pieces)) / len(DATA) < 0.3
    converted.eval(), model.eval()
    with torch.no_grad():
        expected, found = (network(torch.cat(pieces)) for network in (model, converted))
    return float((found - expected).square().sum() / (expected - expected.mean(0)).square().sum())


@pytest.mark.parametrize("arguments", [{}, {"finetune_steps": 5}], ids=["fitted", "distilled"])
def test_the_reported_error_is_that_of_the_held_out_samples(arguments):
    model = small_network()
    converted, report = convert(model, **arguments)
    assert report.output_error == pytest.approx(error_on_held_out(converted, model), rel=NETWORK)


def test_a_refit_changes_layers_where_that_is_nearer():
    model = small_network()
    plain, without = convert(model, refit=False)
    refitted, report = convert(model)
    assert [row.refitted for row in without.layers] == [False] * 3
    assert [row.refitted for row in report.layers] == [False, True, True]  # the first sees the same
    assert report.layers[0].error == without.layers[0].error
    assert report.layers[1].error < without.layers[1].error
    for name, changed in (("stem.0", False), ("blocks.1.conv", True)):
        old, *new = (
            network.get_submodule(name).weight.detach() for network in (model, plain, refitted)
        )
        ratios = [(weight / old).flatten(1) for weight in new]  # of a fold: one for each channel
        spread = [float((r.std(1) / r.mean(1).abs()).max()) for r in ratios]
        assert spread[0] < STEP * 100
        assert (spread[1] > CLEARLY) == changed


def test_a_channel_that_rests_on_the_data_is_not_blown_up():
    """It may move on other images: its scale goes by what the norm has stored."""
    model = train_statistics(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    )
    with torch.no_grad():
        model[0].weight[5, :2] = 0
    data = DATA.clone()
    data[:, 2] = 0
    converted, _ = convert(model, "gn:groups=2", data=data, refit=False)
    scale = (converted[0].weight[5, 2] / model[0].weight[5, 2]).abs()
    largest = math.exp(QUICK.scale_limit) / (0.1 * model[1].running_var[5].sqrt())
    assert scale <= largest * (1 + NETWORK)


def test_a_distillation_brings_the_output_nearer():
    model = small_network()
    fitted, before = convert(model)
    distilled, after = convert(model, finetune_steps=50)
    assert before.notes == []
    assert after.notes[0].startswith("Distilled over 50 steps, by the divergence of the logits.")
    assert after.output_error < before.output_error
    assert after.layers == before.layers
    assert not torch.equal(fitted.head.weight, distilled.head.weight)
    assert all(parameter.grad is None for parameter in distilled.parameters())


def test_a_larger_budget_asks_for_more_groups_and_says_why():
    model = small_network()
    chosen = {budget: convert(model, "gn", budget=budget)[1].layers for budget in (1e-6, 0.999)}
    assert [row.groups for row in chosen[0.999]] == [8, 8, 8]  # of 4 channels each
    assert all("the most groups that leave enough channels" in row.note for row in chosen[0.999])
    assert max(row.groups for row in chosen[1e-6]) < 8
    assert all("no number of groups keeps to the error" in row.note for row in chosen[1e-6])


def test_fixed_groups_are_those_asked_for():
    rows = convert(small_network(), "gn:groups=2")[1].layers
    assert [(row.groups, row.note) for row in rows] == [(2, "")] * 3


def test_limits_reach_the_fit():
    rows = convert(small_network(), limits=FitLimits(offset_limit=0, steps=3))[1].layers
    assert [row.offset_share for row in rows] == [0, 0, 0]


def test_progress_is_said_on_standard_error(capsys):
    convert(small_network(), finetune_steps=1)
    assert capsys.readouterr() == ("", "")
    convert(small_network(), progress=True, finetune_steps=1)
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("norm 2 of 3, blocks.0.bn", "the network's output", "distillation, step 1 of 1"):
        assert text in err
