"""digits: pixels and split against scikit-learn's own."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from groupnorm.data import DataError
from groupnorm.data.sets import digits


def test_every_digit_once():
    images = digits.load()
    assert images.train_images.shape == (1437, 1, 8, 8)
    assert images.test_images.shape == (360, 1, 8, 8)
    assert (images.flip, images.pad) == (False, 1)
    bunch = load_digits()

    def rows(pixels, labels):
        return sorted(map(tuple, np.column_stack([pixels.reshape(-1, 64), labels]).tolist()))

    ours = rows(
        np.concatenate([images.train_images.numpy(), images.test_images.numpy()]),
        np.concatenate([images.train_labels.numpy(), images.test_labels.numpy()]),
    )
    assert ours == rows(np.floor(bunch.images * 255 / 16 + 0.5).astype(int), bunch.target)


def test_split_is_fixed_and_mixed():
    images = digits.load()
    assert (images.test_labels == digits.load().test_labels).all()
    assert images.test_labels[:12].tolist() == [0, 8, 8, 9, 8, 3, 7, 5, 0, 6, 6, 3]
    assert images.test_labels.bincount().min() >= 25


@pytest.mark.parametrize("attempt", [digits.find, digits.load])
def test_without_scikit_learn(monkeypatch, attempt):
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"scikit-learn.*pip install 'groupnorm\[study\]'"):
        attempt()
