"""What a function computes is told from numbers, and what it does not is not said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.export.onnx_file.evaluate import without_warnings
from groupnorm.export.onnx_file.identify import group_norm, identify
from tests.tolerances import FORMULA_64, PRINTED


def function(groups, eps, axis=1, weight=None, bias=None):
    def compute(x):
        y = group_norm(x, groups, eps, axis)
        at = [1] * x.ndim
        at[axis] = -1
        y = y if weight is None else y * weight.reshape(at)
        return y if bias is None else y + bias.reshape(at)

    return compute


def identified(compute, shape, others=()):
    with without_warnings():
        return identify(compute, shape, others)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 5),
    size=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 5), max_size=3),
    batch=st.integers(1, 3),
    eps=st.sampled_from([0.0, 1e-12, 1e-6, 1e-5, 1e-3, 0.1]),
    last=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_group_norm_is_told(groups, size, sizes, batch, eps, last, seed):
    if size * np.prod(sizes, dtype=int) < 4:
        return  # one value for each group is 0, two are 1 and -1, whatever they were
    rng = np.random.default_rng(seed)
    channels = groups * size
    shape = (batch, *sizes, channels) if last else (batch, channels, *sizes)
    axis = len(shape) - 1 if last else 1
    weight, bias = rng.uniform(0.5, 1.5, channels), rng.standard_normal(channels)
    found = identified(function(groups, eps, axis, weight, bias), shape)
    assert found is not None
    if found.axis == axis and found.groups == groups:
        assert found.eps == pytest.approx(eps, rel=PRINTED)
        np.testing.assert_allclose(found.weight, weight, atol=FORMULA_64)
        np.testing.assert_allclose(found.bias, bias, atol=FORMULA_64)
        return
    # where axes have one element other norms give the same numbers
    x = rng.standard_normal(shape)
    again = function(found.groups, found.eps, found.axis, found.weight, found.bias)
    expected = function(groups, eps, axis, weight, bias)(x)
    np.testing.assert_allclose(again(x), expected, atol=PRINTED)


def test_some_channels_may_have_no_scale():
    weight = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.5])
    found = identified(function(2, 1e-5, weight=weight), (2, 8, 5, 5))
    assert (found.groups, found.eps) == (2, 1e-5)
    np.testing.assert_allclose(found.weight, weight, atol=FORMULA_64)


SHAPE = (2, 8, 5, 6)
GROUPED = (2, 2, 4, 5, 6)


def grouped(x):
    return x.reshape(len(x), 2, -1)


def unbiased(x):
    g = grouped(x)
    return ((g - g.mean(2, keepdims=True)) / g.std(2, ddof=1, keepdims=True)).reshape(x.shape)


def of_the_batch(x):
    return (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)


def eps_outside(x):
    g = grouped(x)
    return ((g - g.mean(2, keepdims=True)) / (g.std(2, keepdims=True) + 1e-3)).reshape(x.shape)


def mean_of_absolutes(x):
    d = grouped(x) - grouped(x).mean(2, keepdims=True)
    return (d / np.abs(d).mean(2, keepdims=True)).reshape(x.shape)


NOT_ONE = [
    lambda x: x,
    lambda x: x * 0,
    lambda x: x * np.nan,
    lambda x: np.maximum(group_norm(x, 2, 1e-5, 1), 0),
    lambda x: x + group_norm(x, 2, 1e-5, 1),
    lambda x: group_norm(x, 2, 1e-5, 1).sum(1),
    lambda x: group_norm(x, 2, 1e-5, 1)[:, ::-1] * np.arange(1, 9).reshape(-1, 1, 1),
    lambda x: group_norm(np.sign(x) * x * x, 2, 1e-5, 1),
    lambda x: group_norm(x, 2, 1e-5, 1) * np.arange(6),
    of_the_batch,
    eps_outside,
    mean_of_absolutes,
]


@pytest.mark.parametrize("compute", NOT_ONE)
def test_what_is_none(compute):
    assert identified(compute, SHAPE) is None


def test_sizes_that_change_tell_more():
    """An unbiased variance is a biased one with another scale, which depends on the sizes."""
    assert identified(unbiased, SHAPE).groups == 2
    assert identified(unbiased, SHAPE, ((3, 8, 4, 7),)) is None
    assert identified(function(2, 1e-5), SHAPE, ((3, 8, 4, 7),)).groups == 2
