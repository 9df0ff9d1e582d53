"""Files for OpenVINO."""

import numpy as np
import pytest
import torch

from groupnorm.export.errors import ExportError
from groupnorm.export.forms import BlockedGroupNorm
from groupnorm.export.runtimes import openvino
from tests.export.networks import convolutional, form_norm, images
from tests.tolerances import LAYER

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_a_network_comes_back(tmp_path):
    network, x = convolutional(), images(1, 3, 8, 8)
    openvino.write(network, (x,), tmp_path / "a.xml", dynamic=((0, 2, 3),))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    run = openvino.load(tmp_path / "a.xml")
    for given in (x, images(2, 3, 9, 7)):
        with torch.no_grad():
            np.testing.assert_allclose(run([given.numpy()])[0], network(given), atol=LAYER)
    assert openvino.describe(tmp_path / "a.xml").operators["GroupNormalization"] == 2


def test_no_model_is_said_so(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"OpenVINO cannot load .*a\.xml"):
        openvino.load(tmp_path / "a.xml")


def test_blocks_of_maps_of_any_size_can_be_converted(tmp_path):
    """Its converter has no division of sizes by sizes."""
    norm, x = form_norm(BlockedGroupNorm), images(1, 16, 20, 20)
    openvino.write(norm, (x,), tmp_path / "a.xml", dynamic=((2, 3),))
    run = openvino.load(tmp_path / "a.xml")
    for given in (x, images(1, 16, 33, 57)):
        with torch.no_grad():
            np.testing.assert_allclose(run([given.numpy()])[0], norm(given), atol=LAYER)
