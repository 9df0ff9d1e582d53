"""The number of groups: which are tried, what is allowed, what is spent, and the reasons."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupnorm.conversion.calibration.fit import FitLimits, fit_layer, relative_error
from groupnorm.conversion.calibration.group_rule import (
    ERROR_BUDGET,
    ErrorBudget,
    candidate_groups,
    choose_groups,
    norm_weights,
)
from tests.conversion.calibration.layers import moments_of, random_layer, split
from tests.tolerances import FORMULA_64

QUICK = FitLimits(steps=5)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (256, [32, 16, 8, 4, 2, 1]),
        (64, [16, 8, 4, 2, 1]),
        (24, [4, 2, 1]),
        (72, [8, 4, 2, 1]),
        (97, [1]),
        (3, [1]),
    ],
)
def test_candidates_divide_and_leave_four_channels(channels, expected):
    assert candidate_groups(channels) == expected


def test_candidates_have_limits():
    assert candidate_groups(64, min_channels=16) == [4, 2, 1]
    assert candidate_groups(8, min_channels=1) == [8, 4, 2, 1]


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=60), st.floats(0.01, 0.5))
def test_what_keeps_to_the_allowance_keeps_to_the_budget(wanted, total):
    """The product over the norms, whatever each of them needs."""
    weights = [1 + (i % 3) for i in range(len(wanted))]
    budget = ErrorBudget(weights, total)
    survival = 1.0
    for error, weight in zip(wanted, weights, strict=True):
        spent = min(error, budget.allowance())
        budget.spend(spent)
        survival *= 1 - weight * spent
    assert survival >= 1 - total - FORMULA_64
    assert budget.left == pytest.approx(1 - (1 - total) / survival, abs=FORMULA_64)


def test_the_budget_that_nobody_names():
    assert ErrorBudget([1.0]).left == pytest.approx(ERROR_BUDGET)


def test_equal_shares_use_the_budget_up():
    budget = ErrorBudget([1.0] * 50, 0.1)
    for _ in range(50):
        budget.spend(budget.allowance())
    assert budget.left == pytest.approx(0, abs=FORMULA_64)
    with pytest.raises(ValueError, match="every norm"):
        budget.allowance()
    with pytest.raises(ValueError, match="every norm"):
        budget.spend(0.1)


def test_what_is_saved_goes_to_later_norms_and_what_is_overspent_is_taken_from_them():
    saving, equal, wasting = (ErrorBudget([1.0] * 10, 0.1) for _ in range(3))
    saving.spend(0.0)
    equal.spend(equal.allowance())
    wasting.spend(0.05)
    assert saving.allowance() > equal.allowance() > wasting.allowance() > 0
    wasting.spend(0.5)
    assert wasting.allowance() == 0
    assert wasting.left < 0


def test_a_heavier_norm_is_allowed_less():
    light, heavy = ErrorBudget([1.0, 1.0], 0.1), ErrorBudget([4.0, 1.0], 0.1)
    assert heavy.allowance() == pytest.approx(light.allowance() / 4)


@pytest.mark.parametrize(("total", "weights"), [(0.0, [1.0]), (1.0, [1.0]), (0.1, [1.0, 0.0])])
def test_budgets_that_mean_nothing_are_refused(total, weights):
    with pytest.raises(ValueError, match="must"):
        ErrorBudget(weights, total)


def test_narrow_linear_bottlenecks_weigh_more():
    weights = norm_weights([64, 16, 16, 4, 256], [False, True, False, True, True])
    assert weights == [1.0, 4.0, 1.0, 4.0, 1.0]
    assert norm_weights([64, 128], [True, False]) == [math.sqrt(2), 1.0]


def test_a_large_budget_takes_the_most_groups_and_a_small_one_fewer():
    moments = moments_of(*random_layer(samples=40, channels=32))
    choices = [
        choose_groups(*split(moments), ErrorBudget([1.0], b), limits=QUICK) for b in (0.9, 1e-6)
    ]
    large, small = choices
    assert large.fit.groups == 8
    assert "the most groups" in large.reason
    assert small.fit.groups < 8
    assert small.error < large.error
    assert small.added > small.allowed
    assert "no number of groups keeps" in small.reason


def test_the_first_that_keeps_to_the_budget_is_taken():
    moments = moments_of(*random_layer(samples=40, channels=32))
    fitting, held_out = split(moments)
    errors = {
        groups: relative_error(fit_layer(fitting, groups, limits=QUICK), held_out)
        for groups in (8, 4, 2, 1)
    }
    assert errors[4] < errors[8]
    choice = choose_groups(
        *split(moments), ErrorBudget([1.0], (errors[4] + errors[8]) / 2), limits=QUICK
    )
    assert choice.fit.groups == 4
    assert choice.error == errors[4]
    assert "8 groups would lose too much" in choice.reason
    assert torch.equal(choice.fit.weight, fit_layer(fitting, 4, limits=QUICK).weight)


def test_a_choice_spends_what_it_adds_and_not_what_it_inherits():
    x, y = random_layer(samples=40, channels=8)
    y = y + 3 * torch.randn(y.shape, dtype=torch.float64) * y.std((0, 2)).view(-1, 1)
    budget = ErrorBudget([1.0, 1.0], 0.8)
    before = budget.left
    choice = choose_groups(*split(moments_of(x, y)), budget, limits=QUICK)
    assert choice.inherited > choice.allowed > choice.added
    assert "the most groups" in choice.reason
    assert choice.added == pytest.approx(choice.error - choice.inherited)
    assert budget.left == pytest.approx(1 - (1 - before) / (1 - choice.added))


def test_few_samples_choose_nothing():
    with pytest.raises(ValueError, match="8 samples or more besides those held out, got 7"):
        choose_groups(*split(moments_of(*random_layer(samples=9))), ErrorBudget([1.0], 0.1))
