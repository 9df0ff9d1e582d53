"""VGG-16 (Simonyan & Zisserman 2015, arXiv 1409.1556, Table 1 column D) with any norm or none."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import nn

from groupnorm.layers import NormLayer, conv_layer, norm_and_activation
from groupnorm.models.optional import torchvision_models
from groupnorm.models.places import VGG_PLACES, norm_of_place
from groupnorm.spec import NormSpec

# Channels of the 3x3 convolutions, by stage; max pooling with stride 2 ends each stage.
_STAGES = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


def vgg16(
    *,
    norm: str | NormSpec | NormLayer = "gn",
    norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.5,
) -> nn.Module:
    """A `torchvision.models.VGG` with a norm between each convolution and its ReLU, or without.

    Input (N, in_channels, H, W) with H, W >= 32, the paper's 224; output (N, num_classes) logits.
    The paper compares no norm, BN and GN on it (Wu & He 2018, section 4.1, Figure 6).

    The keys of the state dict are those of torchvision's vgg16 with `none` and of its vgg16_bn with
    the norms, so that with `none` and `bn` state dicts load both ways. Torchvision's builder takes
    batch norm or nothing, so that the convolutional part is built here, and with it go the pooling,
    the classifier and the forward pass of torchvision's class. As there, every convolution has a
    bias, also where a norm follows; initialization is its default: He normal (fan-out) for
    convolutions, N(0, 0.01) for linear layers, zero biases. The paper says nothing of the linear
    layers, of dropout and of the biases.

    Args:
        norm: normalization after every convolution, as spec, string, or factory. With `+ws` the
            convolutions are weight-standardized. A norm that brings its own activation, also one
            of the factory, takes the place of ReLU.
        norms: other normalizations of some places: stage1, ... stage5, each up to a max pooling.
        num_classes: number of outputs.
        in_channels: channels of the images.
        dropout: probability after the two hidden linear layers.

    Raises:
        ValueError: an unknown place; `none+nf`, which scales residual branches, of which VGG has
            none.
        ImportError: torchvision is missing.
    """
    features = vgg16_features(norm, in_channels, norms)
    model: nn.Module = torchvision_models().VGG(
        features, num_classes=num_classes, init_weights=False, dropout=dropout
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def vgg16_features(
    norm: str | NormSpec | NormLayer,
    in_channels: int = 3,
    norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
) -> nn.Sequential:
    """The convolutional part, (N, in_channels, H, W) -> (N, 512, H // 32, W // 32).

    Raises:
        ValueError: as `vgg16`.
    """
    norm_of_stage = norm_of_place(norm, norms, VGG_PLACES, "vgg16").values()
    for placed in norm_of_stage:
        if placed.spec.nf:
            raise ValueError(
                f"{placed.spec} scales residual branches, of which vgg16 has none; it goes with "
                "the CIFAR-type ResNets (resnet8, resnet20, ...)"
            )
    relu = functools.partial(nn.ReLU, inplace=True)
    layers: list[nn.Module] = []
    for stage, placed in zip(_STAGES, norm_of_stage, strict=True):
        for channels in stage:
            layers.append(conv_layer(placed)(in_channels, channels, 3, padding=1))
            if not placed.spec.normalizes:
                layers.append(relu())  # vgg16 has no place for a norm in its numbering
            else:
                layers += norm_and_activation(placed, channels, relu)
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
