"""Constant norms become part of the layers in front, found by what runs."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from groupnorm.conversion import fold, freeze
from groupnorm.conversion.constants.fold import _difference
from groupnorm.layers import BatchNorm, FrozenBatchNorm, WSConv2d
from tests.conversion.networks import Merging, UNet, batch_norms, small_network, train_statistics
from tests.tolerances import FORMULA_64, LAYER


def reasons(report):
    return {layer.name: layer.reason for layer in report.skipped}


def assert_folded(model, x):
    """The norm is gone, and the outputs in double precision are the same; the folded network."""
    model = train_statistics(model).double().eval()
    folded, report = fold(model, x.double())
    assert report.skipped == []
    assert batch_norms(folded) == []
    torch.testing.assert_close(
        folded(x.double()), model(x.double()), rtol=FORMULA_64, atol=FORMULA_64
    )
    return folded


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda b: nn.Conv1d(4, 8, 3, bias=b), nn.BatchNorm1d, (2, 4, 6)),
        (lambda b: nn.Conv2d(4, 8, 3, groups=2, padding=1, bias=b), nn.BatchNorm2d, (2, 4, 6, 6)),
        (lambda b: nn.Conv2d(8, 8, 3, groups=8, bias=b), BatchNorm, (2, 8, 6, 6)),
        (lambda b: nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect", bias=b), FrozenBatchNorm,
         (2, 4, 6, 6)),
        (lambda b: nn.Conv3d(4, 8, 2, bias=b), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
        (lambda b: nn.ConvTranspose1d(4, 8, 3, bias=b), nn.BatchNorm1d, (2, 4, 6)),
        (lambda b: nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2, bias=b), nn.BatchNorm2d,
         (2, 4, 5, 5)),
        (lambda b: nn.ConvTranspose2d(8, 8, 2, groups=8, bias=b), nn.SyncBatchNorm, (2, 8, 5, 5)),
        (lambda b: nn.Linear(4, 8, bias=b), nn.BatchNorm1d, (5, 4)),
    ],
)  # fmt: skip
def test_every_kind_of_layer_takes_up_a_norm(layer, norm, shape, bias):
    layer = layer(bias)
    folded = assert_folded(nn.Sequential(layer, norm(8), nn.ReLU()), torch.randn(shape))
    assert type(folded[0]) is type(layer)
    assert type(folded[1]) is nn.Identity
    assert folded[0].bias.requires_grad


def test_a_norm_without_scale_is_folded():
    assert_folded(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), torch.randn(1, 3, 5, 5)
    )


class Reversed(nn.Module):
    """Defined in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.bn2 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


def test_the_order_of_definition_does_not_matter():
    assert_folded(Reversed(), torch.randn(1, 3, 8, 8))


def test_networks_are_folded():
    assert_folded(small_network(), torch.randn(2, 3, 8, 8))
    assert_folded(UNet(), torch.randn(2, 3, 8, 8))


def test_the_report_says_where_each_norm_went():
    model = small_network().eval()
    folded, report = fold(model, torch.randn(1, 3, 8, 8))
    assert [row.affine for row in report.layers] == [
        "in stem.0", "in blocks.0.conv", "in blocks.1.conv"
    ]  # fmt: skip
    assert report.new_keys == ["stem.0.bias"]
    before, after = set(model.state_dict()), set(folded.state_dict())
    assert before - after == set(report.removed_keys)
    assert after - before == set(report.new_keys)
    assert len(batch_norms(model)) == 3


class Uses(nn.Module):
    """A convolution and a norm, and what else takes the convolution's output."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.bn, self.use = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), use

    def forward(self, x):
        return self.use(self, x)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda m, x: (lambda y: y + m.bn(y))(m.conv(x)), "something else, or a hook, takes"),
        (lambda m, x: m.bn(m.conv(x)) * m.conv.weight.mean(), "something else takes the weights"),
        (lambda m, x: (lambda y: (y, m.bn(y)))(m.conv(x)), "something else, or a hook, takes"),
        (lambda m, x: m.bn(m.conv(x)) + m.conv(x), "something else, or a hook, takes"),
        (lambda m, x: m.bn(m.conv(x) * 2), "no convolution or linear layer makes its input"),
        (lambda m, x: m.bn(torch.relu_(m.conv(x))), "something else, or a hook, takes"),
        (lambda m, x: m.bn(x), "no convolution or linear layer makes its input"),
        (lambda m, x: m.conv(x), "it does not run on the example"),
        (lambda m, x: m.bn(m.conv(x)) + m.bn(x), "no convolution or linear layer makes its input"),
    ],
)
def test_a_norm_stays_where_more_hangs_on_the_convolution(use, reason):
    model = train_statistics(nn.Sequential(Uses(use), nn.Identity()))
    with pytest.raises(ValueError, match=f"0 layers folded. BatchNorm2d: {reason}"):
        fold(model.eval(), lambda m: m[0](torch.randn(1, 3, 4, 4)))


def test_a_convolution_that_runs_twice_before_one_norm_is_folded():
    model = Uses(lambda m, x: m.bn(m.conv(x)) + m.bn(m.conv(2 * x)))
    assert_folded(model, torch.randn(1, 3, 4, 4))


def test_a_norm_behind_two_convolutions_stays():
    model = train_statistics(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    )
    model.append(model[1])
    with pytest.raises(ValueError, match="2 layers make its inputs"):
        fold(model.eval(), torch.randn(1, 3, 4, 4))


def test_a_network_that_asks_for_its_norm_is_noticed():
    """The comparison of outputs is what sees it."""
    model = train_statistics(Uses(lambda m, x: m.bn(m.conv(x)) * hasattr(m.bn, "eps"))).eval()
    before = model.conv.weight.detach().clone()
    with pytest.raises(ValueError, match="does not compute the same: its output differs"):
        fold(model, torch.randn(1, 3, 4, 4))
    assert torch.equal(model.conv.weight, before)
    assert batch_norms(model) == ["bn"]


def parametrized():
    conv = nn.Conv2d(3, 3, 1)
    parametrize.register_parametrization(conv, "weight", nn.Identity())
    return conv


def hooked():
    conv = nn.Conv2d(3, 3, 1)
    conv.register_forward_hook(lambda *_: None)
    return conv


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (lambda: [parametrized(), nn.BatchNorm2d(3)], "the weights of 0 are computed"),
        (lambda: [WSConv2d(3, 3, 2), nn.BatchNorm2d(3)], "0 is a WSConv2d"),
        (lambda: [hooked(), nn.BatchNorm2d(3)], "something else, or a hook, takes"),
        (lambda: [nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3)], "statistics are those of each"),
        (lambda: [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).train()], "is in training mode"),
    ],
)  # fmt: skip
def test_layers_that_cannot_take_up_a_norm(layers, reason):
    model = train_statistics(nn.Sequential(*layers()))
    training = model[1].training and reason == "is in training mode"
    model.eval()
    model[1].train(training)
    with pytest.raises(ValueError, match=reason):
        fold(model, torch.randn(1, 3, 4, 4))


def test_a_hook_that_sees_the_convolutions_output_keeps_the_norm():
    model = train_statistics(
        nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))
    ).eval()
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="something else, or a hook, takes"):
        fold(model, torch.randn(1, 3, 4, 4))


def test_shared_weights_are_not_folded_into():
    model = train_statistics(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    ).eval()
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="another module has the parameters of 0 too"):
        fold(model, torch.randn(1, 3, 4, 4))


def test_linear_layers_over_sequences_are_not_folded_into():
    """Batch norm takes the second axis for channels, a linear layer the last."""
    model = train_statistics(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))).eval()
    with pytest.raises(ValueError, match="are not the outputs of the linear layer"):
        fold(model, torch.randn(2, 6, 4))


def test_a_network_in_training_is_folded_after_freezing():
    model, x = small_network(), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="call eval\\(\\) or freeze first"):
        fold(model, x)
    folded, _ = fold(freeze(model)[0], x)
    assert folded.training
    assert model.training


def test_a_part_is_folded():
    folded, report = fold(small_network().eval(), torch.randn(1, 3, 8, 8), only="stem")
    assert batch_norms(folded) == ["blocks.0.bn", "blocks.1.bn"]
    assert len(report.layers) == 1


def test_half_precision_is_folded():
    model = small_network().to(torch.bfloat16).eval()
    folded, _ = fold(model, torch.randn(1, 3, 8, 8, dtype=torch.bfloat16))
    assert folded.stem[0].bias.dtype == torch.bfloat16


def test_timms_activation_stays():
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_efficientnet")
    folded = assert_folded(model, torch.randn(1, 3, 32, 32))
    acts = [type(m) for m in model.modules() if isinstance(m, nn.SiLU)]
    assert [type(m) for m in folded.modules() if isinstance(m, nn.SiLU)] == acts


class Masked(nn.Module):
    """Logits of which some are forbidden."""

    def forward(self, x):
        return x.masked_fill(x < x.mean(), float("-inf"))


def test_outputs_that_are_infinite_in_the_same_places_are_equal():
    model = train_statistics(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), Masked())).eval()
    x = torch.randn(2, 3, 4, 4)
    folded, _ = fold(model, x)
    assert torch.equal(folded(x).isinf(), model(x).isinf())


@pytest.mark.parametrize("value", [float("-inf"), float("nan"), 1.0])
def test_a_difference_where_values_are_not_finite_is_one(value):
    want = torch.tensor([1.0, float("inf"), float("nan")])
    assert _difference(want, want.clone()) == (0, 1)
    for at in (1, 2):
        got = want.clone()
        got[at] = value
        if not (at == 2 and value != value):
            assert _difference(want, got) == (float("inf"), 1)


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(input=self.conv(input=x))


def test_a_norm_that_is_called_by_name_is_folded():
    model, x = train_statistics(ByName()).eval(), torch.randn(2, 3, 4, 4)
    folded, _ = fold(model, x)
    torch.testing.assert_close(folded(x), model(x), rtol=LAYER, atol=LAYER)


def test_a_network_whose_weights_change_with_its_mode_is_as_it_was():
    model = nn.Sequential(Merging(8, 8), nn.Linear(8, 8), FrozenBatchNorm(8)).train()
    train_statistics(model)
    weight = model[0].weight.detach().clone()
    fold(model, torch.randn(4, 8))
    assert torch.equal(model[0].weight, weight)
    assert not model[0].merged
