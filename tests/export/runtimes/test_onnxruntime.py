"""Files for ONNX Runtime."""

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes import onnxruntime
from tests.export.networks import images
from tests.export.programs.test_custom import twice
from tests.tolerances import LAYER

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def test_a_network_comes_back(tmp_path):
    network, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), images(2, 3, 8, 8)
    onnxruntime.write(network, (x,), tmp_path / "a.onnx", dynamic=((0,),))
    run = onnxruntime.load(tmp_path / "a.onnx")
    for given in (x, images(5, 3, 8, 8)):
        with torch.no_grad():
            np.testing.assert_allclose(run([given.numpy()])[0], network(given), atol=LAYER)
    assert onnxruntime.describe(tmp_path / "a.onnx").operators == {"Conv": 1, "Relu": 1}


def test_a_custom_operator_is_refused_by_name(tmp_path):
    class Own(nn.Module):
        def forward(self, x):
            return twice(x)

    with pytest.raises(ExportError, match=r"1 custom operator, .*: groupnorm_tests::twice\. Write"):
        onnxruntime.write(Own(), (images(1, 3),), tmp_path / "a.onnx")


def test_no_model_is_said_so(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot load .*a\.onnx"):
        onnxruntime.load(tmp_path / "a.onnx")
