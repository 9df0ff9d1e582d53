"""The small U-Net."""

import pytest
import torch
from torch import nn

from groupnorm.cost import count_flops
from groupnorm.layers import GroupNorm, WSConv2d, WSConvTranspose2d, norm_layer, norm_modules
from groupnorm.models import build_segmentation_model, count_parameters
from groupnorm.models.segmentation.unet import UNet
from groupnorm.spec import KINDS
from tests.tolerances import SAMPLED


def test_levels():
    with torch.device("meta"):
        model = UNet(num_classes=5)
        maps = []
        for level in (*model.encoder, *model.decoder):
            level.register_forward_hook(lambda _m, _g, output: maps.append(tuple(output.shape)))
        assert model(torch.empty(2, 3, 48, 64)).shape == (2, 5, 48, 64)
    assert maps == [
        (2, 16, 48, 64), (2, 32, 24, 32), (2, 64, 12, 16), (2, 128, 6, 8),
        (2, 64, 12, 16), (2, 32, 24, 32), (2, 16, 48, 64),
    ]  # fmt: skip


def test_parameters_and_arithmetic():
    with torch.device("meta"):
        model = UNet(norm="bn")
        flops = count_flops(model, torch.empty(1, 3, 48, 48)).forward
    assert count_parameters(model) == 482_907
    assert flops == 2 * 81_911_808
    assert len(norm_modules(model)) == 14


def test_the_maps_of_a_level_reach_the_decoder():
    """Without what comes from below, the logits still see the image."""
    model = UNet(norm="gn")
    with torch.no_grad():
        for upsample in model.upsample:
            upsample.weight.zero_()
    a, b = torch.randn(2, 1, 3, 16, 16)
    assert not torch.equal(model(a), model(b))
    inputs = []
    model.decoder[2].register_forward_hook(lambda _m, given, _o: inputs.append(given[0]))
    model(a)
    assert torch.equal(inputs[0][:, :16], model.encoder[0](a))
    assert (inputs[0][:, 16:] == 0).all()


@pytest.mark.parametrize("norm", ["gn:size=8", "gn+ws", "bn+ws", "none+ws", *KINDS])
def test_shapes_and_gradients_for_every_norm(norm):
    model = UNet(norm=norm, num_classes=4, in_channels=1)
    logits = model(torch.randn(2, 1, 16, 24))
    assert logits.shape == (2, 4, 16, 24)
    logits.backward(torch.randn_like(logits))
    for layer in (model.encoder[0][0], model.encoder[3][3], model.upsample[0], model.logits):
        assert layer.weight.grad.abs().max() > 0


def test_each_place_has_its_norm():
    norms = {"encoder": "gn:groups=2", "decoder": "gn:groups=4+ws"}
    model = build_segmentation_model("unet_narrow", norm="ln", norms=norms, num_classes=3)
    for part, groups in ((model.encoder, 2), (model.decoder, 4)):
        found = [m.num_groups for m in part.modules() if isinstance(m, GroupNorm)]
        assert found == [groups] * (8 if groups == 2 else 6)
    standardized = [m for m in model.modules() if isinstance(m, WSConv2d | WSConvTranspose2d)]
    assert len(standardized) == 9
    assert not any(isinstance(m, WSConv2d) for m in model.encoder.modules())


def test_first_weights():
    model = UNet(norm="none")
    lowest = model.encoder[3][3].weight
    assert lowest.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=SAMPLED)
    assert model.upsample[0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=SAMPLED)
    assert model(torch.randn(1, 3, 16, 16)).abs().max() < 1
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 18
    assert all(m.bias.abs().max() == 0 for m in convolutions)


def test_only_what_a_norm_follows_has_no_bias():
    model = UNet(norm="bn")
    biased = [n for n, m in model.named_modules() if getattr(m, "bias", None) is not None]
    assert [name for name in biased if "coder" not in name] == [
        "upsample.0", "upsample.1", "upsample.2", "logits",
    ]  # fmt: skip
    assert model.encoder[0][0].bias is None


def test_statistics_are_of_a_workers_images():
    model = UNet(norm=norm_layer("bn", batch_per_worker=2)).double()
    alone = UNet(norm="bn").double()
    alone.load_state_dict(model.state_dict())
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    expected = torch.cat([alone(part) for part in x.split(2)])
    torch.testing.assert_close(model(x), expected)


def test_channels_last_stays():
    model = UNet(norm="gn").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert model(x).is_contiguous(memory_format=torch.channels_last)


def test_normalizer_free_blocks_are_not_there():
    with pytest.raises(ValueError, match="needs blocks of another form than unet_narrow has"):
        UNet(norm="none+nf")
