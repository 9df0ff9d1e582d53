"""The checks of arguments that the frameworks share, without any of these."""

import re

import pytest
import torch

from groupnorm.frameworks import arguments
from groupnorm.ops import weight_standardization as ws_in_torch
from groupnorm.ops.group_norm import activations as activations_in_torch

X = (2, 7, 5, 24)


def same_message(ours, theirs):
    """Both raise ValueError in the same words."""
    with pytest.raises(ValueError, match=r".+") as own:
        ours()
    with pytest.raises(ValueError, match=r".+") as other:
        theirs()
    assert str(own.value) == str(other.value)


def test_names_and_numbers_are_pytorchs():
    assert arguments.ACTIVATIONS == activations_in_torch.ACTIVATIONS
    assert arguments.LEAKY_SLOPE == activations_in_torch.LEAKY_SLOPE
    assert arguments.WS_FORMS == ws_in_torch.WS_FORMS


def test_messages_are_pytorchs():
    same_message(
        lambda: arguments.check_activation("swish"),
        lambda: activations_in_torch.check_activation("swish"),
    )
    for form in (("mine", None), ("timm", 2.0), ("bit", 0.0)):
        same_message(
            lambda form=form: arguments.check_form(*form),
            lambda form=form: ws_in_torch.check_form(*form),
        )
    same_message(
        lambda: arguments.check_kernel((1, 1, 1, 1), "float32"),
        lambda: ws_in_torch.check_filters(torch.ones(1, 1, 1, 1)),
    )


@pytest.mark.parametrize("eps", [-1e-5, float("nan"), float("inf"), "1e-5", None, True])
def test_an_eps_is_a_number_of_at_least_0(eps):
    assert arguments.check_eps("eps", 0) == 0.0
    with pytest.raises(ValueError, match="eps must be a number of at least 0, got "):
        arguments.check_eps("eps", eps)


def test_eps_is_the_one_given_or_the_forms():
    assert arguments.check_form("bit", None) == 1e-10
    assert arguments.check_form("bit", 0.5) == 0.5


@pytest.mark.parametrize(("axis", "number"), [(1, 1), (3, 3), (-1, 3), (-3, 1)])
def test_the_axis_counts_from_either_end(axis, number):
    assert arguments.channel_axis(X, axis) == number


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        (X, 0, "axis 0 is the batch axis of x of shape (2, 7, 5, 24); give the axis of"),
        (X, -4, "axis -4 is the batch axis"),
        (X, 4, "axis must be one integer from -4 to 3 for x of shape (2, 7, 5, 24), got 4"),
        (X, [1, 2], "got [1, 2]"),
        (X, 1.0, "got 1.0"),
        (X, True, "got True"),
        ((24,), -1, "x must have a batch axis and a channel axis, got shape (24,)"),
    ],
)
def test_axes_that_do_not_fit(shape, axis, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        arguments.channel_axis(shape, axis)


@pytest.mark.parametrize("groups", [0, -2, 5, 48, 2.0, True, None])
def test_groups_that_do_not_divide(groups):
    message = (
        f"positive multiple of groups, got 24 channels and {groups} groups (x of shape "
        f"{X}, channels on axis 3)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        arguments.group_count(X, 3, groups)


def test_unknown_channels():
    assert arguments.group_count((None, None, 8), 2, 4) == 4
    with pytest.raises(ValueError, match=r"must be known, got x of shape \(2, 7, None\) .* axis 2"):
        arguments.group_count((2, 7, None), 2, 4)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "float8_e5m2"])
def test_dtypes_of_x(dtype):
    with pytest.raises(ValueError, match=rf"bfloat16, float32, float64, got {dtype} of shape \(2,"):
        arguments.check_input(X, dtype)


@pytest.mark.parametrize("x", arguments.FLOATS)
@pytest.mark.parametrize("parameter", [*arguments.FLOATS, "int32"])
def test_dtypes_of_parameters(x, parameter):
    def check():
        arguments.check_parameter("gamma", (24,), parameter, X, x, 3)

    arguments.check_input(X, x)
    if parameter == x or (parameter == "float32" and x in ("float16", "bfloat16")):
        check()
    else:
        with pytest.raises(ValueError, match=f"gamma is {parameter} but x is {x}; they must agree"):
            check()


@pytest.mark.parametrize("shape", [(23,), (1, 24), ()])
def test_shapes_of_parameters(shape):
    message = f"beta must have shape (24,) for x of shape {X} with channels on axis 3, got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        arguments.check_parameter("beta", shape, "float32", X, "float32", 3)


@pytest.mark.parametrize("shape", [(1, 1, 1, 6), (6,), (1, 6)])
def test_filters_of_one_weight(shape):
    with pytest.raises(ValueError, match=re.escape(f"got weights of shape {shape}; leave this")):
        arguments.check_kernel(shape, "float32")


def test_kernels_of_integers():
    arguments.check_kernel((3, 2, 4), "bfloat16")
    with pytest.raises(ValueError, match=r"floating-point numbers, got int32 of shape \(3, 2, 4\)"):
        arguments.check_kernel((3, 2, 4), "int32")
