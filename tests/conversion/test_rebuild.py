"""State dicts of converted networks: into new networks, and those that do not fit."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

from groupnorm.conversion import convert, freeze, rebuild
from tests.conversion.networks import Residual, UNet, small_network, train_statistics

pytestmark = pytest.mark.filterwarnings("ignore:.*converted without data:UserWarning")


def test_a_saved_conversion_is_loaded_into_a_new_network():
    converted, report = convert(small_network(), "gn:groups=8")
    fresh = rebuild(Residual(), report)
    fresh.load_state_dict(converted.state_dict())
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(fresh(x), converted(x))


def test_a_report_that_does_not_fit_is_refused():
    _, report = convert(small_network())
    with pytest.raises(ValueError, match=r"no norm 'stem.1'"):
        rebuild(UNet(), report)
    _, report = convert(train_statistics(nn.Sequential(nn.BatchNorm2d(8))))
    with pytest.raises(ValueError, match="8 channels in the report, 16 in the network"):
        rebuild(nn.Sequential(nn.BatchNorm2d(16)), report)


@pytest.mark.parametrize("make", [lambda m: convert(m)[0], lambda m: rebuild(m, convert(m)[1])])
@pytest.mark.parametrize("strict", [True, False])
def test_an_old_checkpoint_is_refused_by_name_of_what_to_do(make, strict):
    model = small_network()
    converted = make(model)
    wrapped = nn.ModuleDict({"net": pickle.loads(pickle.dumps(converted))})
    for network, prefix in ((converted, ""), (wrapped, "net.")):
        before = copy.deepcopy(network.state_dict())
        old = {prefix + key: value for key, value in model.state_dict().items()}
        with pytest.raises(RuntimeError, match=r"before groupnorm.convert.*3 converted layers"):
            network.load_state_dict(old, strict=strict)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_conversion_to_other_batch_norms_is_rebuilt():
    converted, report = convert(small_network(), "brn")
    fresh = rebuild(Residual(), report).eval()
    fresh.load_state_dict(converted.state_dict())
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(fresh(x), converted.eval()(x))


def test_a_report_of_freezing_is_refused():
    with pytest.raises(ValueError, match="to frozenbn is none of `convert`"):
        rebuild(small_network(), freeze(small_network())[1])


@pytest.mark.parametrize("groups", [7, 0, -2, 64])
@pytest.mark.parametrize("to", ["gn", "bn"])
def test_groups_that_a_file_cannot_have_are_refused(to, groups):
    _, report = convert(small_network(), to)
    layers = [dataclasses.replace(row, groups=groups) for row in report.layers]
    wrong = dataclasses.replace(report, layers=layers)
    if to == "bn" and groups == 0:
        rebuild(small_network(), wrong)
        return
    with pytest.raises(ValueError, match=rf"stem.1: {groups} groups of 32 channels do not go with"):
        rebuild(small_network(), wrong)
