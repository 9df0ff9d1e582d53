"""scripts/choose_recipe.py: the rule, on errors made up for it."""

import pytest
from choose_recipe import RECIPES, choose, misplaced, ordered_pairs, plan_of, spread


def errors(**by_name):
    return {name: dict(enumerate(values)) for name, values in by_name.items()}


REFERENCE = errors(gn=[20.0, 20.2, 20.1], bn=[25.0, 25.4, 25.2], ws=[20.0, 20.4, 19.9])


def test_only_pairs_that_the_reference_tells_apart_have_an_order():
    assert ordered_pairs(REFERENCE) == [("gn", "bn"), ("ws", "bn")]


def test_the_smallest_spread_among_those_that_keep_the_order():
    steady = errors(gn=[30.0, 30.1, 30.0], bn=[29.0, 29.1, 29.0], ws=[28.0, 28.1, 28.0])
    loose = errors(gn=[30.0, 33.0, 27.0], bn=[39.0, 36.0, 42.0], ws=[28.0, 30.0, 26.0])
    tight = errors(gn=[30.0, 31.0, 29.0], bn=[39.0, 38.0, 40.0], ws=[33.0, 32.0, 34.0])
    pairs = ordered_pairs(REFERENCE)
    assert misplaced(steady, pairs) == [("gn", "bn")]
    assert misplaced(tight, pairs) == []
    assert choose(REFERENCE, {"steady": steady, "loose": loose, "tight": tight}) == "tight"
    assert choose(REFERENCE, {"steady": steady}) is None


def test_spread_is_the_root_of_the_mean_variance():
    assert spread(errors(a=[1.0, 3.0], b=[0.0, 0.0])) == pytest.approx(1.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_five_runs_for_each_seed(recipe):
    plan = plan_of(recipe)
    assert len(plan.cells) == 27
    assert len(plan.configs) == 15
