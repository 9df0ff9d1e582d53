"""Files for ncnn."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.export import prepare
from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes import ncnn
from groupnorm.models import build_model
from tests.export.networks import convolutional, images
from tests.export.programs.test_custom import twice
from tests.tolerances import LAYER

pytest.importorskip("ncnn", reason="ncnn is not installed")
pytest.importorskip("pnnx", reason="pnnx is not installed")


def test_a_network_comes_back_with_one_layer_a_norm(tmp_path):
    network, x = convolutional(), images(1, 3, 8, 8)
    ncnn.write(network, (x,), tmp_path / "a.param", dynamic=((2, 3),))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.param"]
    run = ncnn.load(tmp_path / "a.param")
    for given in (x, images(1, 3, 9, 7)):
        with torch.no_grad():
            np.testing.assert_allclose(run([given.numpy()])[0], network(given), atol=LAYER)
    assert ncnn.describe(tmp_path / "a.param").operators == {
        "Convolution": 2, "GroupNorm": 2, "ReLU": 1,
    }  # fmt: skip


@pytest.mark.parametrize("dynamic", [(), ((2, 3),)], ids=["static", "dynamic"])
def test_a_residual_network_has_one_layer_a_norm(dynamic, tmp_path):
    """Its shortcuts are slices with a step, which pnnx leaves, and channels of zeros."""
    x = images(1, 3, 16, 16)
    model = build_model("resnet8", norm="gn:groups=4+ws", num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network, _ = prepare(model, (x,), "ncnn")
    path = tmp_path / "a.param"
    ncnn.write(network, (x,), path, dynamic=dynamic)
    assert ncnn.describe(path).operators["GroupNorm"] == 7
    for size in [(1, 3, 16, 16), (1, 3, 24, 21)] if dynamic else [(1, 3, 16, 16)]:
        other = images(*size, seed=1)
        with torch.no_grad():
            expected = copy.deepcopy(model).double()(other.double())
        np.testing.assert_allclose(ncnn.load(path)([other.numpy()])[0], expected, atol=LAYER)


class _FromOne(nn.Module):
    def forward(self, x):
        return x[:, :, 1::2]


def test_a_slice_that_does_not_begin_at_0_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"ncnn has no layers for Tensor\.slice"):
        ncnn.write(_FromOne(), (images(1, 3, 8, 8),), tmp_path / "a.param")


def test_several_images_are_refused(tmp_path):
    network, x = convolutional(), images(2, 3, 8, 8)
    with pytest.raises(ExportError, match=r"an ncnn network takes one image: .*\(2, 3, 8, 8\)"):
        ncnn.write(network, (x,), tmp_path / "a.param")
    ncnn.write(network, (x[:1],), tmp_path / "a.param")
    with pytest.raises(ExportError, match=r"ncnn takes one image, got \[\(2, 3, 8, 8\)\]"):
        ncnn.load(tmp_path / "a.param")([x.numpy()])


def test_a_layer_that_ncnn_does_not_know_is_named(tmp_path):
    """pnnx leaves a norm without a bias as it is."""
    with pytest.raises(ExportError, match=r"ncnn has no layers for nn\.GroupNorm"):
        ncnn.write(
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8, bias=False)).eval(),
            (images(1, 3, 8, 8),), tmp_path / "a.param",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_no_model_is_said_so(tmp_path):
    (tmp_path / "a.param").write_bytes(b"no model")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(ExportError, match=r"ncnn cannot load .*a\.param"):
        ncnn.load(tmp_path / "a.param")


def test_a_custom_operator_is_refused_by_name(tmp_path):
    class Own(nn.Module):
        def forward(self, x):
            return twice(x)

    with pytest.raises(ExportError, match=r"1 custom operator, .*: groupnorm_tests::twice\. Write"):
        ncnn.write(Own(), (images(1, 3, 8, 8),), tmp_path / "a.param")
    assert not list(tmp_path.iterdir())
