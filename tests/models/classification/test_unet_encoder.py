"""The classifier whose body is the encoder of the small U-Net."""

import pytest
import torch
from torch import nn

from groupnorm.layers import norm_modules
from groupnorm.models import build_model, build_segmentation_model, count_parameters
from groupnorm.models.classification.unet_encoder import UNetEncoder
from groupnorm.spec import KINDS
from tests.tolerances import SAMPLED_HUNDREDS


def test_its_encoder_has_the_keys_and_shapes_of_the_unet():
    model = UNetEncoder(norm="bn", num_classes=3)
    unet = build_segmentation_model("unet_narrow", norm="bn", num_classes=11)
    ours, theirs = (
        {key: value.shape for key, value in m.state_dict().items() if key.startswith("encoder.")}
        for m in (model, unet)
    )
    assert ours == theirs
    assert len(ours) == 8 * (1 + 5), "of each convolution its weight, of each norm its five"
    assert set(model.state_dict()) - set(ours) == {"fc.weight", "fc.bias"}
    unet.load_state_dict({k: v for k, v in model.state_dict().items() if k in ours}, strict=False)
    images = torch.randn(2, 3, 16, 16)
    for one, other in zip(model.eval().encoder(images), unet.eval().encoder(images), strict=True):
        assert torch.equal(one, other)


def test_logits_are_of_the_mean_over_positions():
    model = UNetEncoder(norm="gn", num_classes=4)
    images = torch.randn(2, 3, 16, 24)
    lowest = model.encoder(images)[-1]
    assert lowest.shape == (2, 128, 2, 3)
    torch.testing.assert_close(model(images), model.fc(lowest.mean((2, 3))))


@pytest.mark.parametrize("norm", ["gn:size=8", "gn+ws", "bn+ws", "none+ws", *KINDS])
def test_shapes_and_gradients_for_every_norm(norm):
    model = build_model("unet_encoder", norm=norm, num_classes=4, in_channels=1)
    logits = model(torch.randn(2, 1, 16, 24))
    assert logits.shape == (2, 4)
    logits.backward(torch.randn_like(logits))
    for layer in (model.encoder[0][0], model.encoder[3][3], model.fc):
        assert layer.weight.grad.abs().max() > 0


def test_parameters_and_first_weights():
    model = UNetEncoder(norm="bn")
    assert count_parameters(model) == count_parameters(model.encoder) + 1290
    assert len(norm_modules(model)) == 8
    assert model.encoder[0][0].bias is None
    wanted = pytest.approx((2 / (9 * 128)) ** 0.5, rel=SAMPLED_HUNDREDS)
    assert model.encoder[3][3].weight.std().item() == wanted
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=SAMPLED_HUNDREDS)
    assert model.fc.bias.abs().max() == 0
    assert all(m.bias.abs().max() == 0 for m in UNetEncoder(norm="none").modules()
               if isinstance(m, nn.Conv2d))  # fmt: skip


def test_normalizer_free_blocks_are_not_there():
    with pytest.raises(ValueError, match="needs blocks of another form than unet_encoder has"):
        UNetEncoder(norm="none+nf")
