"""Percentiles of the responses of one convolution."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.data import InMemory
from groupnorm.models import build_model
from groupnorm.training.evaluation.probe import percentiles, probe_module
from groupnorm.training.tasks.classification import Classification
from tests.tolerances import FORMULA_64, STEP
from tests.training.tasks.test_classification import CONFIG, DATA


class Convolved(nn.Module):
    """One convolution, a norm and a mean: two logits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.outputs = []

    def forward(self, x):
        self.outputs.append(self.conv(x))
        return self.norm(self.outputs[-1]).mean((2, 3))


class SmallTestBatches(InMemory):
    """Test images in two batches."""

    def test(self, rank=0, count=1):
        for images, labels in super().test(rank, count):
            yield from zip(images.split(6), labels.split(6), strict=True)


def test_percentiles_of_the_probed_module_are_numpys_on_the_first_test_batch():
    torch.manual_seed(0)
    model = Convolved()
    task = Classification(CONFIG, SmallTestBatches(DATA), None, probed=model.conv)
    found = task.evaluate(model, reported=False)["response_percentiles"]
    first, second = model.outputs[-2:]
    assert (len(first), len(second)) == (6, 4)
    expected = np.percentile(first.detach().double().numpy(), [1, 20, 80, 99])
    assert list(found) == ["1", "20", "80", "99"]
    np.testing.assert_allclose(list(found.values()), expected, rtol=STEP)


def test_the_hook_is_gone_after_the_evaluation_also_when_it_fails():
    model = Convolved()
    task = Classification(CONFIG, InMemory(DATA), None, probed=model.conv)
    task.evaluate(model, reported=False)
    assert not model.conv._forward_hooks
    model.norm = None
    with pytest.raises(TypeError):
        task.evaluate(model, reported=False)
    assert not model.conv._forward_hooks


def test_recomputed_statistics_leave_the_percentiles_alone():
    @contextmanager
    def recompute(model, batches):
        with torch.no_grad():
            model.conv.weight.mul_(2)
        yield

    torch.manual_seed(0)
    model = Convolved()
    task = Classification(CONFIG, InMemory(DATA), recompute, probed=model.conv)
    found = task.evaluate(model, reported=True)["response_percentiles"]
    assert found == percentiles(model.outputs[0]) != percentiles(model.outputs[1])


@pytest.mark.parametrize("count", [1, 2, 101, 1000])
def test_percentiles_interpolate_as_numpys(count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    expected = np.percentile(values.double().numpy(), [1, 20, 80, 99])
    np.testing.assert_allclose(list(percentiles(values).values()), expected, rtol=FORMULA_64)
    assert percentiles(values.bfloat16().reshape(1, count)).keys() == percentiles(values).keys()


def test_what_is_not_finite_has_no_percentiles():
    for bad in (float("nan"), float("inf"), float("-inf")):
        assert percentiles(torch.tensor([1.0, bad, 2.0])) is None
    assert percentiles(torch.zeros(0)) is None


@pytest.mark.parametrize("norm", ["none", "bn", "gn+ws"])
def test_the_probed_convolution_is_vggs_last_before_its_norm(norm):
    with torch.device("meta"):
        model = build_model("vgg16", norm=norm, num_classes=10)
    probed = probe_module("vgg16", model)
    features = list(model.features)
    offset = next(i for i, module in enumerate(features) if module is probed)
    assert (probed.kernel_size, probed.out_channels) == ((3, 3), 512)
    assert not any(isinstance(module, torch.nn.Conv2d) for module in features[offset + 1 :])
    with torch.device("meta"):
        other = build_model("resnet8", norm=norm, num_classes=10)
    assert probe_module("resnet8", other) is None
