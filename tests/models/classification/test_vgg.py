"""VGG-16 against torchvision's, with batch norm and without, and with every norm."""

import pytest
import torch
import torchvision
from torch import nn

from groupnorm.models import build_model, count_parameters, vgg16
from groupnorm.models.classification.vgg import vgg16_features
from groupnorm.spec import KINDS
from tests.tolerances import SAMPLED, WHOLE_NETWORK_64


def theirs(norm, **options):
    build = torchvision.models.vgg16 if norm == "none" else torchvision.models.vgg16_bn
    return build(init_weights=False, **options)


@pytest.mark.parametrize(("norm", "parameters"), [("none", 138_357_544), ("bn", 138_365_992)])
def test_parameters_and_keys_are_torchvisions(norm, parameters):
    with torch.device("meta"):
        model, reference = vgg16(norm=norm), theirs(norm)
    assert count_parameters(model) == parameters  # as torchvision's weights list them
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in reference.state_dict().items()}
    model.load_state_dict(reference.state_dict())
    reference.load_state_dict(model.state_dict())


@pytest.mark.parametrize("norm", ["none", "bn"])
def test_features_equal_torchvisions_with_the_same_weights(norm):
    """In training, with gradients; the classifier behind them is torchvision's own."""
    with torch.device("meta"):
        reference = theirs(norm).features
    reference = reference.to_empty(device="cpu").double()
    for name, value in reference.state_dict().items():
        if value.dim() > 1:
            nn.init.kaiming_normal_(value)
        elif value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5) if "bias" not in name else nn.init.normal_(value)
        else:
            value.zero_()
    model = vgg16_features(norm).double()
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    cotangent = torch.randn(2, 512, 2, 2, dtype=torch.float64)
    found = []
    for network in (model, reference):
        image = x.clone().requires_grad_()
        y = network(image)
        weights = [image, network[0].weight, network[-3 if norm == "none" else -4].weight]
        found.append([y, *torch.autograd.grad(y, weights, cotangent)])
    torch.testing.assert_close(found[0], found[1], **WHOLE_NETWORK_64)
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), reference.eval()(x))


def test_a_small_one_from_images_to_logits():
    model = vgg16(norm="gn", num_classes=3, in_channels=1)
    logits = model(torch.randn(2, 1, 40, 33))
    assert logits.shape == (2, 3)
    logits.backward(torch.randn(2, 3))
    assert all(p.grad is not None for p in model.parameters())
    last = model.features[40]
    assert last.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=SAMPLED)
    for layer in (model.classifier[0], model.classifier[6]):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=SAMPLED)
    biased = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(biased) == 16  # the layers that give the network its name
    assert not any(m.bias.any() for m in biased)


@pytest.mark.parametrize("norm", ["gn:affine=false", "gn+ws", "none+ws", *KINDS])
def test_every_norm(norm):
    features = vgg16_features(norm, 1)
    convolutions = [m for m in features if isinstance(m, nn.Conv2d)]
    assert all(hasattr(m, "standardized_weight") == norm.endswith("+ws") for m in convolutions)
    y = features(torch.randn(2, 1, 32, 32))
    assert y.shape == (2, 512, 1, 1)
    y.backward(torch.randn(2, 512, 1, 1))
    assert convolutions[0].weight.grad.abs().max() > 0


def test_normalizer_free_raises():
    with pytest.raises(ValueError, match=r"none\+nf scales residual branches, of which vgg16 has"):
        build_model("vgg16", norm="none+nf", num_classes=3)
