"""Moments of each sample and channel: against float64, in pieces, far from zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.conversion.calibration.moments import LayerMoments, MomentAccumulator, halves
from tests.tolerances import DOUBLE, FORMULA_64

FIELDS = ("mean_x", "var_x", "mean_y", "var_y", "cov_xy")


def collected(*batches):
    accumulator = MomentAccumulator()
    for x, y in batches:
        accumulator.add(x, y)
    return accumulator.moments()


def by_definition(x, y):
    """In float64, from all positions at once."""
    x, y = (t.double().reshape(*t.shape[:2], -1) for t in (x, y))
    cx, cy = x - x.mean(2, keepdim=True), y - y.mean(2, keepdim=True)
    products = ((cx * cx).mean(2), (cy * cy).mean(2), (cx * cy).mean(2))
    return LayerMoments(x.mean(2), products[0], y.mean(2), products[1], products[2])


def differences(found, expected):
    return [float((getattr(found, f) - getattr(expected, f)).abs().max()) for f in FIELDS]


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 4, 6), (2, 3, 2, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_are_those_of_float64(shape, dtype):
    x, y = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    found = collected((x, y))
    assert found.mean_x.dtype == torch.float64
    assert max(differences(found, by_definition(x, y))) < DOUBLE


def test_means_of_ten_thousand_do_not_cancel():
    """Also where a batch lies elsewhere than the one before it."""
    noise = torch.randn(4, 3, 9, 9)
    x = torch.cat([noise, noise + 1e4, 1e-2 * noise - 1e4])
    y = x + torch.randn_like(x)
    found = collected((x[:4], y[:4]), (x[4:], y[4:]))
    assert max(differences(found, by_definition(x, y))) < FORMULA_64
    row = by_definition(x, y).var_x[-1]
    assert torch.allclose(found.var_x[-1], row, rtol=FORMULA_64)


@pytest.mark.parametrize("shape", [(3, 5, 30_000), (9, 300, 40), (2, 3, 80_000)])
def test_moments_are_taken_in_parts(shape):
    x, y = torch.randn(2, *shape)
    assert max(differences(collected((x, y)), by_definition(x, y))) < DOUBLE


def test_a_channels_last_batch_and_a_part_of_another_tensor():
    x = torch.randn(3, 8, 5, 5)
    y = torch.randn(3, 8, 5, 5)
    strided = x.to(memory_format=torch.channels_last)[:, ::2]
    found = collected((strided, y[:, ::2]))
    assert max(differences(found, by_definition(x[:, ::2], y[:, ::2]))) < DOUBLE


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_batches_of_any_sizes_are_rows_in_order(sizes, channels):
    generator = torch.Generator().manual_seed(sum(sizes))
    x, y = torch.randn(2, sum(sizes) + 1, channels, 3, generator=generator, dtype=torch.float64)
    cut = [*sizes, 1]
    found = collected(*zip(x.split(cut), y.split(cut), strict=True))
    assert found.samples == sum(cut)
    assert max(differences(found, by_definition(x, y))) < DOUBLE


def test_a_norm_that_is_used_twice_gives_rows_twice_and_sizes_may_differ():
    big, small = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)
    found = collected((big, big), (small, small))
    assert (found.samples, found.channels) == (4, 3)
    assert torch.allclose(found.cov_xy, found.var_x)
    assert torch.allclose(found.mean_x[2:], small.double().mean((2, 3)), rtol=FORMULA_64)


def test_memory_does_not_grow_with_the_maps():
    accumulator = MomentAccumulator()
    for _ in range(3):
        accumulator.add(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32))
    held = [t for batch in accumulator._batches for t in vars(batch).values()]
    assert sum(t.untyped_storage().nbytes() for t in held) == 5 * 6 * 3 * 8


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(2, 3, 4), torch.ones(2, 3, 5), "one shape"),
        (torch.ones(4), torch.ones(4), "one shape"),
        (torch.ones(2, 3, 0), torch.ones(2, 3, 0), "no values in a sample"),
        (
            torch.ones(2, 3) * torch.inf,
            torch.ones(2, 3),
            "input of the norm in the converted network has values",
        ),
        (
            torch.ones(2, 3),
            torch.ones(2, 3) * torch.nan,
            "output of the norm in the network has values",
        ),
        (torch.ones(2, 4), torch.ones(2, 4), "earlier batches had 3 channels"),
    ],
)
def test_what_cannot_be_used_is_refused(x, y, message):
    accumulator = MomentAccumulator()
    accumulator.add(torch.ones(1, 3, 2), torch.ones(1, 3, 2))
    with pytest.raises(ValueError, match=message):
        accumulator.add(x, y)
    assert accumulator.moments().samples == 1


def test_no_samples_are_an_error():
    accumulator = MomentAccumulator()
    accumulator.add(torch.ones(0, 3, 2), torch.ones(0, 3, 2))
    with pytest.raises(ValueError, match="no samples"):
        accumulator.moments()


@pytest.mark.parametrize(
    ("shape", "parts"),
    [((), 0), ((3,), 0), ((4,), 2), ((3, 3), 0), ((5, 4), 4), ((2, 8), 2), ((8, 4, 6), 4)],
)
def test_maps_are_cut_along_their_last_two_sides(shape, parts):
    x = torch.arange(int(torch.Size(shape).numel())).reshape(1, 1, *shape)
    found = [x[:, :, *index] for index in halves(shape)]
    assert len(found) == parts
    if parts:
        together = torch.cat([part.flatten() for part in found])
        assert sorted(together.tolist()) == x.flatten().tolist()


def test_rows_of_two_are_joined():
    x, y = torch.randn(2, 7, 3, 4, dtype=torch.float64)
    one = collected((x, y))
    other = collected((x[:4], y[:4])).joined(collected((x[4:], y[4:])))
    assert max(differences(other, one)) == 0
