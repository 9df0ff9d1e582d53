"""Packages for Core ML, which only macOS runs."""

import sys

import pytest

from groupnorm.export.errors import NotRunHereError
from groupnorm.export.runtimes import coreml
from tests.export.networks import convolutional, images

pytest.importorskip("coremltools", reason="coremltools is not installed")


def test_squares_stay_in_float32(tmp_path):
    network, x = convolutional(), images(1, 3, 8, 8)
    coreml.write(network.half(), (x.half(),), tmp_path / "a.mlpackage")
    found = coreml.describe(tmp_path / "a.mlpackage").operators
    assert found["square"] == 2
    assert found["cast"] > 0
    assert coreml.half_squares(tmp_path / "a.mlpackage") == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs it")
def test_elsewhere_it_is_not_run(tmp_path):
    coreml.write(convolutional(), (images(1, 3, 8, 8),), tmp_path / "a.mlpackage")
    with pytest.raises(NotRunHereError, match="Core ML runs on macOS only"):
        coreml.load(tmp_path / "a.mlpackage")
