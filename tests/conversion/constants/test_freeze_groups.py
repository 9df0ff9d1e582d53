"""Group norms become constants, and what that loses is measured."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from groupnorm.conversion import fold, freeze_groups
from groupnorm.conversion.finite import NotFiniteError
from groupnorm.layers import FrozenBatchNorm, GroupNorm, GroupNormAct
from tests.conversion.networks import Merging, batch_norms
from tests.tolerances import FORMULA_64, LAYER


def batches(count=3, images=4, channels=8):
    return [torch.randn(images, channels, 5, 5, dtype=torch.float64) * 2 + 1 for _ in range(count)]


def test_each_channel_has_the_line_of_least_squares():
    model = nn.Sequential(GroupNorm(2, 8)).double()
    with torch.no_grad():
        model[0].weight.uniform_(0.5, 2)
        model[0].bias.normal_()
    data = batches()
    frozen, report = freeze_groups(model, data)
    x = torch.cat(data)
    y = model(x).detach()
    left = 0
    for c in range(8):
        a = torch.stack([x[:, c].flatten(), torch.ones(x[:, c].numel(), dtype=x.dtype)], 1)
        line = torch.linalg.lstsq(a, y[:, c].flatten()[:, None]).solution
        want = (a @ line).view(x[:, c].shape)
        torch.testing.assert_close(frozen(x)[:, c], want, rtol=FORMULA_64, atol=FORMULA_64)
        left += float((want - y[:, c]).square().sum())
    about = float((y - y.mean((0, 2, 3), keepdim=True)).square().sum())
    assert report.layers[0].error == pytest.approx(left / about, rel=FORMULA_64)
    assert type(frozen[0]) is FrozenBatchNorm


def test_the_error_of_the_output_is_over_the_variance_of_each_channel():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), GroupNorm(2, 8), nn.ReLU()).double().train()
    data = batches()
    frozen, report = freeze_groups(model, data)
    with torch.no_grad():
        want, got = model(torch.cat(data)), frozen(torch.cat(data))
    about = want - want.mean((0, 2, 3), keepdim=True)
    error = float((got - want).square().sum() / about.square().sum())
    assert report.output_error == pytest.approx(error, rel=FORMULA_64)
    assert 0 < error < 0.5
    assert f"calibration output error {error:.2g}" in str(report)
    assert model.training


def test_statistics_that_do_not_vary_lose_nothing():
    image = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    model = nn.Sequential(GroupNorm(1, 8), nn.ReLU()).double()
    frozen, report = freeze_groups(model, [image, image])
    assert report.layers[0].error < FORMULA_64
    torch.testing.assert_close(frozen(image), model(image), rtol=LAYER, atol=LAYER)


def test_what_is_frozen_folds():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8), nn.ReLU()).eval()
    data = [batch.float() for batch in batches()]
    frozen, _ = freeze_groups(model, data)
    folded, _ = fold(frozen, data[0])
    assert batch_norms(folded) == []
    torch.testing.assert_close(folded(data[0]), frozen(data[0]), rtol=LAYER, atol=LAYER)


def test_timms_activation_stays():
    timm = pytest.importorskip("timm")
    model = nn.Sequential(timm.layers.GroupNormAct(8, 2)).eval()
    frozen, report = freeze_groups(model, [torch.randn(2, 8, 4, 4)])
    assert type(frozen[0].act) is nn.ReLU
    assert frozen(torch.randn(2, 8, 4, 4)).min() == 0
    assert 0 < report.layers[0].error < 0.5


def test_what_cannot_be_frozen_is_named():
    model = nn.ModuleList([GroupNorm(2, 8), GroupNorm(2, 8), GroupNormAct(2, 8), nn.BatchNorm2d(8)])
    _, report = freeze_groups(model, [torch.randn(2, 8, 4, 4)], forward=lambda m, x: m[0](x))
    assert [row.name for row in report.layers] == ["0"]
    assert {row.name: row.reason for row in report.skipped} == {
        "1": "it does not run on the batches",
        "2": "its activation is part of its kernel",
        "3": "has stored statistics; freeze makes it constant",
    }
    with pytest.raises(ValueError, match="0 layers changed"):
        freeze_groups(nn.Sequential(nn.BatchNorm2d(8)), [torch.randn(2, 8, 4, 4)])


def test_batches_are_needed_twice():
    model = nn.Sequential(GroupNorm(2, 8))
    with pytest.raises(TypeError, match="gone through twice"):
        freeze_groups(model, iter([torch.randn(2, 8, 4, 4)]))
    with pytest.raises(ValueError, match="no batches"):
        freeze_groups(model, [])


def test_batches_are_taken_as_data_loaders_yield_them():
    model = nn.Sequential(GroupNorm(2, 8), nn.ReLU()).double()
    images = torch.cat(batches())
    _, want = freeze_groups(model, images.split(4))
    for data in (
        DataLoader(TensorDataset(images), batch_size=4),
        DataLoader(TensorDataset(images, torch.zeros(12)), batch_size=4),
    ):
        assert freeze_groups(model, data)[1] == want
    named = [{"images": x} for x in images.split(4)]

    def forward(model, batch):
        return model(batch["images"])

    assert freeze_groups(model, named, forward=forward)[1] == want
    for wrong, found in (
        (named, "dict"),
        ([[list(images)]], "list of list"),
        ([()], "empty tuple"),
    ):
        with pytest.raises(TypeError, match=rf"got .*{found}; forward=lambda model, batch"):
            freeze_groups(model, wrong)


def test_a_tensor_is_no_batches():
    """Its rows would be images (C, H, W), which a norm of H channels takes."""
    model = nn.Sequential(nn.Conv2d(16, 16, 1), GroupNorm(2, 16))
    with pytest.raises(TypeError, match=r"one tensor \(4, 16, 16, 16\)"):
        freeze_groups(model, torch.randn(4, 16, 16, 16))


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = GroupNorm(2, 8)

    def forward(self, x):
        return self.norm(input=x)


def test_a_norm_that_is_called_by_name_is_fitted():
    data = batches()
    model = ByName().double()
    _, report = freeze_groups(model, data)
    assert report.layers[0].error == freeze_groups(model.norm, data)[1].layers[0].error


@pytest.mark.parametrize("merged", [False, True])
def test_a_network_whose_weights_change_with_its_mode_is_as_it_was(merged):
    model = nn.Sequential(Merging(8, 8), GroupNorm(2, 8)).train(not merged)
    state = copy.deepcopy(model.state_dict())
    frozen, report = freeze_groups(model, [torch.randn(16, 8)])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model[0].merged == frozen[0].merged == merged
    assert 0 < report.output_error < 1
    x = torch.randn(4, 8)
    for one in (model, frozen):
        torch.testing.assert_close(one.train()[0](x), one.eval()[0](x), rtol=LAYER, atol=LAYER)


class Broken(nn.Module):
    """Infinite for what has a sample of equal values, as black images."""

    def forward(self, x):
        return x / x.std((1, 2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("layers", "what"),
    [((GroupNorm(2, 8), Broken()), "1"), ((Broken(), GroupNorm(2, 8)), "0")],
)
def test_values_that_are_not_finite_are_an_error_that_names_the_first_layer(layers, what):
    words = rf"the output of {what} \(Broken\) in the network .* first for sample 4 of the data"
    with pytest.raises(NotFiniteError, match=words) as raised:
        freeze_groups(nn.Sequential(*layers), [torch.randn(2, 8, 4, 4), images()])
    assert raised.value.sample == 4


@pytest.mark.parametrize("layers", [(GroupNorm(2, 8), Broken()), (Broken(), GroupNorm(2, 8))])
def test_the_sample_named_is_one_of_the_batches_that_were_not_finite(layers):
    class Shuffled:
        """Other samples before the black image each time that it is gone through."""

        passes = 0

        def __iter__(self):
            self.passes += 1
            yield torch.randn(self.passes, 8, 4, 4)
            yield images()

        def __getitem__(self, index):
            raise IndexError

    data = Shuffled()
    with pytest.raises(NotFiniteError) as raised:
        freeze_groups(nn.Sequential(*layers), data)
    assert raised.value.sample == data.passes + 2


def test_values_that_are_too_large_to_square_are_said_to_be():
    data = [torch.randn(2, 8, 4, 4).double(), 1e200 * torch.randn(2, 8, 4, 4).double()]
    with pytest.raises(NotFiniteError, match="too large to square, in batch 1 of the data"):
        freeze_groups(nn.Sequential(GroupNorm(2, 8)).double(), data)


def images():
    """A batch with labels, whose image at 2 is black."""
    x = torch.randn(3, 8, 4, 4)
    x[2] = 0
    return x, torch.zeros(3)


def test_an_output_without_floating_point_values_is_an_error():
    class Classes(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    with pytest.raises(ValueError, match="no output of floating-point values"):
        freeze_groups(nn.Sequential(GroupNorm(2, 8), Classes()), [torch.randn(2, 8, 4, 4)])
