"""Learning-rate schedules as functions of progress."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupnorm.training.schedules import full_size_steps, image_size, lr_factor
from tests.tolerances import COSINE_END, ONE_STEP


def test_the_papers_drops_at_epochs_30_60_and_90_of_100():
    factors = [lr_factor("step", epoch, 100) for epoch in range(100)]
    expected = [1.0] * 30 + [0.1] * 30 + [0.01] * 30 + [0.001] * 10
    assert factors == pytest.approx(expected)


def test_cosine_begins_at_one_and_ends_near_zero():
    assert lr_factor("cosine", 0, 1000) == 1
    assert lr_factor("cosine", 500, 1000) == pytest.approx(0.5)
    assert 0 < lr_factor("cosine", 999, 1000) < COSINE_END


def test_warmup_is_linear_and_ends():
    factors = [lr_factor("step", step, 100, warmup_steps=4) for step in range(5)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_a_warmup_begins_at_its_start_in_the_first_step():
    """500 steps from 1/3, as detectors have it."""
    factors = [lr_factor("step", n, 9000, 500, warmup_from=1 / 3) for n in (0, 250, 500, 501)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert factors[0] == 1 / 3


def test_drops_of_a_detectors_schedule():
    """90,000 steps with drops after 60,000 and 80,000."""
    at = [0, 59_999, 60_000, 79_999, 80_000, 89_999]
    factors = [lr_factor("step", step, 90_000, drops=(2 / 3, 8 / 9)) for step in at]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@given(
    st.sampled_from(["step", "cosine"]),
    st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
)
def test_the_factor_lies_between_zero_and_one_and_never_rises(schedule, place):
    step, total = place
    factor = lr_factor(schedule, step, total)
    assert 0 < factor <= 1
    if step:
        assert factor <= lr_factor(schedule, step - 1, total)


def test_unknown_schedule_raises():
    with pytest.raises(ValueError, match=r"poly.*step, cosine"):
        lr_factor("poly", 0, 10)


def test_images_grow_by_share_of_the_steps():
    sizes = [image_size(((16, 0.3), (24, 0.7)), step / 10) for step in range(10)]
    assert sizes == [16] * 3 + [24] * 4 + [None] * 3
    assert image_size((), 0) is None


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_steps_by_pixels_are_the_sum_over_the_steps_sizes(place):
    steps, total = place
    for schedule in ((), ((16, 0.3), (24, 0.7)), ((16, 0.25), (48, 0.5))):
        sizes = [image_size(schedule, step / total) or 32 for step in range(steps)]
        pixels = sum(min(size, 32) ** 2 for size in sizes)
        found = full_size_steps(schedule, 32, steps, total)
        assert found == pytest.approx(pixels / 32**2, abs=ONE_STEP)


def test_steps_by_pixels():
    schedule = ((16, 0.3), (24, 0.7))
    found = [full_size_steps(schedule, 32, steps, 10) for steps in (0, 3, 7, 10)]
    assert found == [0.0, 0.75, 3.0, 6.0]
    assert full_size_steps((), 32, 7, 10) == 7.0
