"""The cases on PyTorch: `groupnorm.group_norm` passes them all, and they tell right from wrong."""

import pytest
import torch

import groupnorm
from tests.frameworks.cases import CASES, OFFSETS, check, errors_of, inputs_of


def computed(case, layer):
    given = inputs_of(case)
    leaves = {k: t.requires_grad_() for k, t in given.items() if k != "dy" and t is not None}
    y = layer(given["x"], given["weight"], given["bias"])
    y.backward(given["dy"])
    found = {"y": y.detach(), "dx": given["x"].grad}
    found |= {f"d{k}": t.grad for k, t in leaves.items() if k != "x"}
    return {name: t.double().numpy() for name, t in found.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pytorch(case):
    check(
        case,
        computed(
            case,
            lambda x, w, b: groupnorm.group_norm(
                x, case.groups, w, b, case.eps, activation=case.activation
            ),
        ),
    )


@pytest.mark.parametrize("case", [case for case in OFFSETS if abs(case.mean) >= 100])
def test_a_variance_of_squares_fails(case):
    """E[x^2] - E[x]^2 in float32, the fast variance of other libraries."""

    def fast(x, w, b):
        grouped = x.view(x.shape[0], case.groups, -1)
        mean = grouped.mean(2, keepdim=True)
        var = (grouped.square().mean(2, keepdim=True) - mean.square()).clamp(min=0)
        xhat = ((grouped - mean) * torch.rsqrt(var + case.eps)).view(x.shape)
        return xhat * w.view(-1, 1, 1) + b.view(-1, 1, 1)

    error, limit = errors_of(case, computed(case, fast))["y"]
    assert error > limit
