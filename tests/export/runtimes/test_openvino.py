"""Files for OpenVINO."""

import numpy as np
import pytest
import torch

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes import openvino
from tests.export.networks import convolutional, images
from tests.tolerances import LAYER

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_a_network_comes_back(tmp_path):
    network, x = convolutional(), images(1, 3, 8, 8)
    openvino.write(network, (x,), tmp_path / "a.xml", dynamic=(0, 2, 3))
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
