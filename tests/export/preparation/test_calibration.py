"""What calibration takes, and what is measured on it."""

import pytest
import torch
from torch import nn

from groupnorm.conversion.example import run
from groupnorm.export.errors import ExportError
from groupnorm.export.preparation.calibration import PIECE, calibration_batches, measure_inputs
from tests.tolerances import DOUBLE


def test_a_tensor_is_cut_into_pieces():
    x = torch.randn(2 * PIECE + 1, 3)
    batches = calibration_batches(x, x[:1])
    assert [len(batch) for batch in batches] == [PIECE, PIECE, 1]
    assert torch.equal(torch.cat(batches), x)


def test_batches_as_data_loaders_yield_them():
    x, labels = torch.randn(4, 3), torch.zeros(4)
    for batch in (x, [x, labels], (x, labels)):
        (found,) = calibration_batches([batch], x)
        assert found is x
    (found,) = calibration_batches(iter([x]), (x,))
    assert found is x


class TwoInputs(nn.Module):
    def forward(self, x, t):
        return x + t


def test_batches_of_a_network_with_several_inputs():
    x, t = torch.randn(4, 3), torch.tensor(2.0)
    (found,) = calibration_batches([[x, t, "label"]], (x, t))
    assert torch.equal(run(TwoInputs(), found), x + t)
    with pytest.raises(TypeError, match="the example has 2 arguments"):
        calibration_batches([x], (x, t))


def test_lists_of_images_and_callables():
    x = torch.randn(3, 4)
    assert calibration_batches([([x, x], "boxes"), [x]], [x]) == [[x, x], [x]]

    def call(model):
        return model(x)

    assert calibration_batches([call], call) == [call]


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ("folder", TypeError, "folder_images"),
        (3, TypeError, "got int"),
        (["a"], TypeError, "got str"),
        ([], ValueError, "no images"),
        (torch.zeros(0, 3), ValueError, "no images"),
        (torch.zeros(()), TypeError, "got one number"),
    ],
)
def test_what_is_no_calibration(calibration, error, message):
    with pytest.raises(error, match=message):
        calibration_batches(calibration, torch.zeros(1, 3))


def test_the_measures_are_those_of_their_definition():
    norm = nn.GroupNorm(2, 4, eps=0.5).double()
    first, second = torch.randn(3, 4, 5).double() + 2, torch.randn(2, 4, 7).double() * 3
    found = measure_inputs(nn.Sequential(norm), {"0": norm}, [first, second], None, {})["0"]
    both = [x.reshape(len(x), 2, -1) for x in (first, second)]
    means = torch.cat([x.mean(2) for x in both])
    variances = torch.cat([x.var(2, correction=0) for x in both])
    assert found.samples == 5
    torch.testing.assert_close(found.means, means.sum(0), rtol=DOUBLE, atol=DOUBLE)
    torch.testing.assert_close(found.variances, variances.sum(0), rtol=DOUBLE, atol=DOUBLE)
    offset = (means.abs() / (variances + 0.5).sqrt()).max()
    assert found.offset == pytest.approx(float(offset), rel=DOUBLE)
    assert found.largest == max(float(first.abs().max()), float(second.abs().max()))
    assert not norm._forward_pre_hooks


def test_an_eps_for_each_group():
    norm = nn.GroupNorm(2, 4).double()
    eps = torch.tensor([1.0, 100.0]).double()
    x = torch.ones(1, 4, 3).double()
    found = measure_inputs(nn.Sequential(norm), {"0": norm}, [x], None, {norm: eps})["0"]
    assert found.offset == 1.0


def test_values_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Identity(), nn.GroupNorm(2, 4))
    x = torch.ones(1, 4, 3)
    x[0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match="the input of 1 has values that are infinite or NaN"):
        measure_inputs(model, {"1": model[1]}, [x], None, {})
    assert not model[1]._forward_pre_hooks


def test_what_does_not_run_is_not_there():
    model = nn.ModuleDict({"a": nn.GroupNorm(1, 4), "b": nn.GroupNorm(1, 4)})
    x = torch.randn(1, 4, 3)
    found = measure_inputs(model, dict(model.items()), [lambda m: m["a"](x)], None, {})
    assert set(found) == {"a"}
