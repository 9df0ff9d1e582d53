"""Standardized kernels of Keras are PyTorch's, transposed."""

import numpy as np
import pytest
import torch

keras = pytest.importorskip("keras")

from groupnorm.frameworks.keras import WS_FORMS, standardize  # noqa: E402
from groupnorm.ops import weight_standardization as in_torch  # noqa: E402
from tests.frameworks.keras.gradients import draw, to_numpy, value_and_gradients  # noqa: E402
from tests.tolerances import LAYER  # noqa: E402


@pytest.mark.parametrize("form", ["timm", "bit", "original"])
@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 3, 4, 6), (2, 2, 2, 3, 4)])
def test_standardized_kernels_and_their_gradients_are_pytorchs(form, shape):
    kernel, cotangent = draw(*shape) + 1, draw(*shape, seed=1)
    y, (dkernel,) = value_and_gradients(
        lambda w: standardize(w, form),
        [keras.ops.convert_to_tensor(kernel)],
        keras.ops.convert_to_tensor(cotangent),
    )

    def turned(array):
        return torch.from_numpy(np.moveaxis(array, (-1, -2), (0, 1)).copy()).double()

    w = turned(kernel).requires_grad_()
    true = in_torch.standardize(w, form)
    (gradient,) = torch.autograd.grad(true, w, turned(cotangent))
    np.testing.assert_allclose(turned(to_numpy(y)), true.detach(), rtol=0, atol=LAYER)
    np.testing.assert_allclose(turned(to_numpy(dkernel)), gradient, rtol=0, atol=LAYER)


@pytest.mark.parametrize("form", ["timm", "bit", "original"])
def test_equal_weights_are_standardized_to_zero(form):
    kernel = keras.ops.ones((3, 3, 2, 4))
    y, (gradient,) = value_and_gradients(
        lambda w: standardize(w, form), [kernel], keras.ops.ones_like(kernel)
    )
    assert not to_numpy(y).any()
    assert np.isfinite(to_numpy(gradient)).all()


def test_the_forms_are_pytorchs():
    assert WS_FORMS == in_torch.WS_FORMS


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_a_kernel_of_integers_is_refused(dtype):
    with pytest.raises(ValueError, match=rf"floating-point numbers, got {dtype} of shape \(3, 2,"):
        standardize(keras.ops.ones((3, 2, 4), dtype))


@pytest.mark.parametrize(
    ("shape", "form", "message"),
    [
        ((3, 2, 4), "mine", "unknown form of weight standardization 'mine'; known: timm, bit, ori"),
        ((1, 1, 6), "timm", r"one weight is standardized to 0, got weights of shape \(1, 1, 6\)"),
        ((6,), "timm", r"got weights of shape \(6,\); leave this convolution as it is"),
    ],
)
def test_bad_kernels_and_forms(shape, form, message):
    with pytest.raises(ValueError, match=message):
        standardize(keras.ops.ones(shape), form)
