"""The photographs that scikit-image and scikit-learn ship, and their two regions."""

import numpy as np
import pytest

from groupnorm.data import DataError
from groupnorm.data.synthetic import photographs


def test_six_colour_photographs():
    images = photographs.load()
    assert len(images) == len(photographs.find()) == 6
    for image in images:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert min(image.shape[:2]) >= 300
        assert image.std() > 20


def test_regions_share_no_pixel_and_leave_none_out():
    numbered = np.arange(10 * 7 * 3).reshape(10, 7, 3)
    regions = photographs.split(numbered)
    train, test = (set(regions[name].flatten().tolist()) for name in ("train", "test"))
    assert not train & test
    assert train | test == set(range(10 * 7 * 3))
    assert len(train) > len(test)


def test_a_missing_package_is_named(monkeypatch):
    wrong = (("no_such_package", "data/a.png", "0"),)
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", wrong)
    with pytest.raises(DataError, match=r"no_such_package.*pip install 'groupnorm\[study\]'"):
        photographs.find()


def test_a_missing_file_and_a_changed_file_are_named(monkeypatch):
    package, name, digest = photographs.PHOTOGRAPHS[0]
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", ((package, "data/none.png", digest),))
    with pytest.raises(DataError, match=r"none\.png is missing"):
        photographs.load()
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", ((package, name, "0" * 64),))
    with pytest.raises(DataError, match="expected sha256 0000"):
        photographs.load()
