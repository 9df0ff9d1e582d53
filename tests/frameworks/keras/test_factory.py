"""The strings of NormSpec as layers of Keras."""

import pytest

keras = pytest.importorskip("keras")

from groupnorm.frameworks.keras import WSConv1D, WSConv2D, conv_layer, norm_layer  # noqa: E402
from groupnorm.spec import NormSpecError  # noqa: E402


@pytest.mark.parametrize(("spec", "channels", "groups"), [
    ("gn", 48, 24), ("gn:groups=16", 48, 16), ("gn:size=16", 48, 3), ("gn:groups=auto", 48, 12),
    ("ln", 48, 1), ("in", 48, 48),
])  # fmt: skip
def test_specs_have_the_groups_of_pytorch(spec, channels, groups):
    assert norm_layer(spec)(channels).groups == groups


def test_batch_norm_has_pytorchs_settings():
    layer = norm_layer("bn")(8)
    assert isinstance(layer, keras.layers.BatchNormalization)
    assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)


@pytest.mark.parametrize("spec", ["syncbn", "brn", "frn", "evonorm_s0", "none+nf", "ln2d"])
def test_specs_without_a_layer_are_refused(spec):
    with pytest.raises(ValueError, match="no layer in Keras; those that have are gn, ln, in, bn"):
        norm_layer(spec)
    with pytest.raises(ValueError, match="no layer in Keras"):
        conv_layer(spec)


def test_a_spec_that_cannot_be_read_says_what_normspec_says():
    with pytest.raises(NormSpecError, match="unknown normalization 'groupnorm'"):
        norm_layer("groupnorm")


def test_standardized_convolutions_go_with_ws():
    assert conv_layer("gn+ws") is WSConv2D
    assert conv_layer("gn+ws", dims=1) is WSConv1D
    assert conv_layer("gn", dims=3) is keras.layers.Conv3D
    with pytest.raises(ValueError, match="dims=4"):
        conv_layer("gn", dims=4)
