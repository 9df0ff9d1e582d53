"""Files for ncnn."""

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes import ncnn
from tests.export.networks import convolutional, images
from tests.tolerances import LAYER

pytest.importorskip("ncnn", reason="ncnn is not installed")
pytest.importorskip("pnnx", reason="pnnx is not installed")


def test_a_network_comes_back_with_one_layer_a_norm(tmp_path):
    network, x = convolutional(), images(1, 3, 8, 8)
    ncnn.write(network, (x,), tmp_path / "a.param", dynamic=(2, 3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.param"]
    run = ncnn.load(tmp_path / "a.param")
    for given in (x, images(1, 3, 9, 7)):
        with torch.no_grad():
            np.testing.assert_allclose(run([given.numpy()])[0], network(given), atol=LAYER)
    assert ncnn.describe(tmp_path / "a.param").operators == {
        "Convolution": 2, "GroupNorm": 2, "ReLU": 1,
    }  # fmt: skip


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
