"""The cases that every implementation is tried on, and what it must give for each.

A case is written in the order of PyTorch, (N, C, *); an implementation that wants channels last
moves the axis itself. Expected are the results of the reference in float64, on the inputs as they
are after rounding to the case's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from groupnorm.ops.group_norm.activations import ACTIVATIONS
from tests.ops.group_norm.comparing import expected, largest
from tests.tolerances import bound

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One input, one layer and one cotangent.

    Attributes:
        shape: (N, C, *).
        groups: G.
        mean: of the values, whose deviation is 1.
        values: "random", "constant" (the mean + 1/3 everywhere) or "outlier" (one value of 1e4).
        affine: "both", "scale" or "none".
        activation: a name of `groupnorm.group_norm`'s, or None.
        dtype: of the input, the cotangent and, if nothing else is said, the parameters.
        parameters: their dtype, where it is another one.
        eps: of the layer.
    """

    shape: tuple[int, ...] = (2, 24, 7, 5)
    groups: int = 6
    mean: float = 0.0
    values: str = "random"
    affine: str = "both"
    activation: str | None = None
    dtype: str = "float32"
    parameters: str | None = None
    eps: float = 1e-5

    @property
    def name(self) -> str:
        """What differs from the plain case."""
        differs = [
            f"{key}={getattr(self, key)}"
            for key, field in type(self).__dataclass_fields__.items()
            if getattr(self, key) != field.default
        ]
        return " ".join(differs).replace(", ", "x") or "plain"


OFFSETS = [Case(mean=mean) for mean in (0.0, 10.0, 100.0, 1e3, 1e4, -1e4)]
CASES = [
    *OFFSETS,
    *[Case(values=values, mean=mean) for values in ("constant", "outlier") for mean in (0.0, 1e4)],
    *[Case(shape=(3, 12), groups=groups) for groups in (1, 3, 12)],
    *[Case(shape=shape, groups=4) for shape in ((2, 8, 9), (2, 8, 3, 4, 5), (1, 8, 1, 1))],
    *[Case(groups=groups) for groups in (1, 3, 24)],
    *[Case(affine=affine, mean=10.0) for affine in ("scale", "none")],
    *[Case(activation=activation) for activation in ACTIVATIONS],
    *[
        Case(dtype=dtype, mean=mean, activation=activation)
        for dtype in ("float16", "bfloat16")
        for mean, activation in ((0.0, None), (10.0, "silu"))
    ],
    *[
        Case(dtype=dtype, parameters="float32", mean=mean, activation=activation, affine=affine)
        for dtype in ("float16", "bfloat16")
        for mean, activation, affine in ((0.0, None, "both"), (10.0, "silu", "scale"))
    ],
    *[Case(eps=eps, shape=(2, 8, 5, 5), groups=2) for eps in (1e-3, 1e-6)],
]


def inputs_of(case: Case, seed: int = 0) -> dict[str, torch.Tensor | None]:
    """x and dy of the case's shape, weight and bias (C,) or None, each in its dtype."""
    g = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    x = case.mean + draw(*case.shape)
    if case.values == "constant":
        x = torch.full(case.shape, case.mean + 1 / 3, dtype=torch.float64)
    elif case.values == "outlier":
        x.flatten()[0] += 1e4
    channels = case.shape[1]
    weight = draw(channels) if case.affine != "none" else None
    bias = draw(channels) if case.affine == "both" else None
    found = {"x": x, "weight": weight, "bias": bias, "dy": draw(*case.shape)}
    return {
        key: None if t is None else t.to(DTYPES[dtype_of(case, key)]) for key, t in found.items()
    }


def dtype_of(case: Case, name: str) -> str:
    """Of an input or a result: that of the parameters for these and their gradients."""
    own = name.removeprefix("d") in ("weight", "bias")
    return (case.parameters or case.dtype) if own else case.dtype


def check(case: Case, found: dict[str, Any], seed: int = 0) -> None:
    """Assert that results are the reference's, within the bounds of tests/tolerances.py.

    Args:
        case: what was computed.
        found: arrays `y`, `dx`, `dweight`, `dbias` in the order of PyTorch, as numbers that numpy
            holds (bfloat16 as float32); None, or no such key, where there is no parameter.
        seed: as in `inputs_of`.
    """
    errors = errors_of(case, found, seed)
    for name, (error, limit) in errors.items():
        assert error <= limit, f"{case.name}: {name}: error {error:.3g}, allowed {limit:.3g}"


def errors_of(case: Case, found: dict[str, Any], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Largest absolute error and bound of each result; see `check`."""
    given = inputs_of(case, seed)
    truth, scales, m = expected(
        given["x"], case.groups, given["weight"], given["bias"], None, given["dy"], case.eps,
        case.activation,
    )  # fmt: skip
    wanted = ["y", "dx"]
    wanted += ["dweight"] * (given["weight"] is not None) + ["dbias"] * (given["bias"] is not None)
    rows = {}
    for name in wanted:
        value = torch.from_numpy(np.asarray(found[name], np.float64))
        assert value.shape == truth[name].shape, f"{case.name}: {name} has {tuple(value.shape)}"
        error = largest(value - truth[name]) if bool(value.isfinite().all()) else float("inf")
        dtype = DTYPES[dtype_of(case, name)]
        rows[name] = (error, bound(dtype, m, scales[name], largest(truth[name])))
    return rows
