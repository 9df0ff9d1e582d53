"""Networks for tests of what is done to them before an export."""

from __future__ import annotations

import torch
from torch import nn

from groupnorm.export.preparation import prepare
from tests.tolerances import FORMULA_64


def random_affine(model):
    """Give norms scales, shifts and statistics unlike the initial ones; the model, in eval mode."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        own |= dict(module.named_buffers(recurse=False))
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            continue
        for key, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.5, 0.5),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 2.0),
        ):
            if key in own and own[key].dim() == 1:
                with torch.no_grad():
                    values = torch.rand(own[key].shape, generator=generator)
                    own[key].copy_(values * (high - low) + low)
    return model.eval()


def offset_network(offset, groups=8, channels=32):
    """Two convolutions with group norms, whose biases are far above the spread of their outputs."""
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.SiLU(),
    )  # fmt: skip
    for layer in (model[0], model[3]):
        nn.init.constant_(layer.bias, offset)
    return random_affine(model)


def actions(report, layer):
    """What was done to one layer, in order."""
    return [row.action for row in report.rows if row.layer == layer]


def assert_prepared(model, example, inputs=None, **options):
    """Prepare a network in float64; the outputs are the same on other inputs too, to rounding."""
    model = model.double().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    options = {"form": "pooled", **options}
    network, report = prepare(model, example.double(), "onnxruntime", **options)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    other = torch.randn_like(example) if inputs is None else inputs
    for x in (example.double(), 3 * other.double() + 1):
        want, got = model(x).detach(), network(x).detach()
        scale = float(want.abs().max())
        torch.testing.assert_close(got, want, rtol=0, atol=FORMULA_64 * max(scale, 1.0))
    return network, report
