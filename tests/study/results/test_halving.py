"""Successive halving over tables of errors: budgets, what is kept, ties, refinement, discarding."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupnorm.study.results.halving import (
    climb,
    coordinate_steps,
    cost,
    first_epochs,
    least_epochs,
    reported_epochs,
    rung_epochs,
    unusual,
)
from tests.study.fake_store import BOX_AP, ERROR
from tests.tolerances import FORMULA_64

EPOCHS = (2, 6, 18)
errors = st.one_of(st.floats(0, 100), st.just(math.inf))
tables = st.lists(st.tuples(errors, errors, errors), min_size=1, max_size=12).map(
    lambda rows: {f"rule {n}": dict(zip(EPOCHS, row, strict=True)) for n, row in enumerate(rows)}
)


def error_of(table, known=lambda name, epochs: True):
    return lambda name, epochs: table[name][epochs] if known(name, epochs) else None


@given(st.integers(1, 10_000))
def test_the_last_rung_fits_into_its_share_of_the_schedule_and_no_longer_one_does(full):
    first = first_epochs(full)
    assert 9 * first <= 0.43 * full + FORMULA_64
    assert 9 * (first + 1) > 0.43 * full
    assert (first == 0) == (full < least_epochs())


def test_the_shortest_schedule():
    assert (least_epochs(), first_epochs(20), first_epochs(21)) == (21, 0, 1)
    assert [first_epochs(full) for full in (41, 42, 100)] == [1, 2, 4]


@given(st.integers(1, 50))
def test_ten_candidates_cost_31_times_the_first_rung(first):
    assert cost(10, first, seeds=2) == 31 * first
    assert rung_epochs(first) == (first, 3 * first, 9 * first)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_an_error_is_the_median_over_half_of_the_first_rung(first, last):
    assert reported_epochs(first) == last


@given(tables)
def test_no_epoch_is_trained_twice_and_the_budget_holds(table):
    """Whatever the errors, what is trained sums to what `cost` says, or less where some diverge."""
    trained = dict.fromkeys(table, 0)
    rungs = climb(list(table), EPOCHS, error_of(table), ERROR)
    for rung in rungs:
        for name in rung.asked:
            assert trained[name] < rung.epochs
            trained[name] = rung.epochs
    spent = sum(trained.values()) + (EPOCHS[-1] if len(rungs) == 3 else 0)
    assert spent <= cost(len(table), EPOCHS[0], seeds=2)
    if all(math.isfinite(error) for row in table.values() for error in row.values()):
        assert spent == cost(len(table), EPOCHS[0], seeds=2)


@given(tables)
def test_each_rung_keeps_the_best_and_what_is_dropped_stays_dropped(table):
    rungs = climb(list(table), EPOCHS, error_of(table), ERROR)
    asked = tuple(table)
    for number, rung in enumerate(rungs):
        assert rung.asked == asked
        finite = [name for name in asked if math.isfinite(table[name][rung.epochs])]
        assert len(rung.kept) == min(3 if number == 0 else 1, len(finite))
        for kept in rung.kept:
            for dropped in rung.dropped:
                assert table[kept][rung.epochs] <= table[dropped][rung.epochs] + FORMULA_64
        assert sorted((*rung.kept, *rung.dropped)) == sorted(asked)
        asked = tuple(name for name in asked if name in rung.kept)
    assert len(rungs) == 3 or not rungs[-1].kept


@given(tables, st.data())
def test_a_rung_waits_for_its_last_error(table, data):
    """Nothing is kept or dropped by a part of a rung, and nothing is asked beyond it."""
    whole = climb(list(table), EPOCHS, error_of(table), ERROR)
    number = data.draw(st.integers(0, len(whole) - 1))
    missing = data.draw(st.sampled_from(whole[number].asked))
    end = EPOCHS[number]
    part = climb(
        list(table),
        EPOCHS,
        error_of(table, lambda n, e: e < end or (e == end and n != missing)),
        ERROR,
    )
    assert part[:-1] == whole[:number]
    assert part[-1].asked == whole[number].asked
    assert not part[-1].complete
    assert part[-1].kept == part[-1].dropped == ()


@given(tables)
def test_a_metric_that_is_better_the_higher_it_is_keeps_what_its_mirror_image_keeps(table):
    mirrored = {name: {e: -v for e, v in by.items()} for name, by in table.items()}
    rungs = climb(list(table), EPOCHS, error_of(table), ERROR)
    others = climb(list(table), EPOCHS, error_of(mirrored), BOX_AP)
    assert [(rung.asked, rung.kept) for rung in others] == [(r.asked, r.kept) for r in rungs]


@given(st.permutations([f"rule {n}" for n in range(6)]))
def test_ties_go_to_what_is_named_first(names):
    table = {name: dict.fromkeys(EPOCHS, 30.0) for name in names}
    rungs = climb(names, EPOCHS, error_of(table), ERROR)
    assert rungs[0].kept == tuple(names[:3])
    assert rungs[-1].kept == (names[0],)


def test_what_diverged_is_never_kept():
    table = {"a": dict.fromkeys(EPOCHS, math.inf), "b": dict.fromkeys(EPOCHS, 90.0)}
    rungs = climb(["a", "b"], EPOCHS, error_of(table), ERROR)
    assert rungs[0].kept == ("b",)
    assert rungs[0].spread == 0.0
    gone = climb(["a"], EPOCHS, error_of(table), ERROR)
    assert [rung.kept for rung in gone] == [()]
    assert gone[0].complete


def test_the_spread_is_that_of_what_did_not_diverge():
    row = {"a": 31.5, "b": math.inf, "c": 30.25}
    (rung,) = climb(list(row), EPOCHS[:1], lambda name, epochs: row[name], ERROR)
    assert rung.spread == 1.25


def test_steps_take_what_is_better_and_go_on_from_there():
    table = {
        "8": 30.0, "8 a=16": 29.0, "8 a=4": 31.0, "8 a=16 b=16": 29.0, "8 a=16 b=4": 33.0,
        "8 a=16 c=16": 28.0, "8 a=16 c=4": 28.5,
    }  # fmt: skip

    def alternatives(part, now):
        return [f"{now} {part}=16", f"{now} {part}=4"]

    steps = coordinate_steps("8", "abc", alternatives, 18, lambda name, epochs: table[name], ERROR)
    assert [step.before for step in steps] == ["8", "8 a=16", "8 a=16"]
    assert [step.best for step in steps] == ["8 a=16", "8 a=16", "8 a=16 c=16"]
    del table["8 a=16 b=4"]
    part = coordinate_steps(
        "8", "abc", alternatives, 18, lambda name, epochs: table.get(name), ERROR
    )
    assert part[:1] == steps[:1]
    assert (part[1].best, part[1].results) == (None, {"8 a=16 b=16": 29.0})
    assert len(part) == 2


def test_steps_go_up_where_higher_is_better():
    table = {"8": 30.0, "8 a=16": 29.0, "8 a=4": 31.0}
    (step,) = coordinate_steps(
        "8", "a", lambda *_: ["8 a=16", "8 a=4"], 18, lambda name, epochs: table[name], BOX_AP
    )
    assert step.best == "8 a=4"


def test_a_part_without_alternatives_and_one_that_diverged_change_nothing():
    (step,) = coordinate_steps("8", "a", lambda *_: [], 18, lambda name, epochs: 30.0, ERROR)
    assert step.best == "8"
    errors = {"8": 30.0, "16": math.inf}
    (step,) = coordinate_steps(
        "8", "a", lambda *_: ["16"], 18, lambda name, epochs: errors[name], ERROR
    )
    assert step.best == "8"


looks = st.lists(
    st.tuples(st.floats(1e-9, 1e9), st.one_of(st.floats(0, 10), st.just(math.inf))), max_size=12
).map(lambda values: {str(n): value for n, value in enumerate(values)})


@given(looks)
def test_a_look_at_untrained_networks_leaves_four_and_discards_the_farthest(measured):
    gone = unusual(measured)
    assert len(measured) - len(gone) >= min(4, len(measured))

    def far(name):
        gain, noise = measured[name]
        return max(abs(math.log(gain)), noise)

    for name in gone:
        assert far(name) > math.log(2)
        assert gone[name]
        assert all(far(name) >= far(other) for other in measured.keys() - gone.keys())


def test_reasons_have_the_numbers():
    usual = {str(n): (1.2, 0.1) for n in range(4)}
    gone = unusual({**usual, "a": (2.5, 0.1), "b": (1.0, 1.0), "c": (1.0, math.inf)})
    assert gone == {
        "a": "the gradient grows by a factor of 2.50 a layer, outside 0.50 to 2.00",
        "b": "a group's standard deviation varies between images by a factor of 2.72 in some "
        "layer, above 2.00",
        "c": "a group has a single value in some layer",
    }
    assert unusual(usual) == {}


def test_what_the_order_alone_decided_is_named():
    def tied(*errors):
        table = {
            name: dict.fromkeys(EPOCHS, error) for name, error in zip("abcde", errors, strict=True)
        }
        return climb(list(table), EPOCHS, error_of(table), ERROR)[0].tied

    assert tied(1.0, 2.0, 3.0, 4.0, 5.0) == ()
    assert tied(1.0, 1.0, 1.0, 4.0, 5.0) == ()  # all of them were kept
    assert tied(3.0, 1.0, 2.0, 3.0, 5.0) == ("a", "d")
    assert tied(*[9.0] * 5) == tuple("abcde")
    assert tied(*[math.inf] * 5) == ()
    assert tied(9.0, 9.0, 9.0, math.inf, math.inf) == ()


def test_nothing_is_tied_while_an_error_is_missing():
    table = {name: dict.fromkeys(EPOCHS, 9.0) for name in "abcde"}
    (rung,) = climb(list(table), EPOCHS, error_of(table, lambda name, epochs: name != "c"), ERROR)
    assert (rung.kept, rung.tied) == ((), ())


def test_errors_that_differ_in_their_last_bits_are_equal():
    """(0.1 + 0.2) / 0.3 is not 1 in binary: of two such errors the first candidate counts."""
    table = {name: dict.fromkeys(EPOCHS, 30.0) for name in "abcd"}
    table["d"] = dict.fromkeys(EPOCHS, 100 * (0.1 + 0.2) - 1e-13)
    rung = climb(list(table), EPOCHS, error_of(table), ERROR)[0]
    assert rung.results["d"] < 30.0
    assert rung.kept == ("a", "b", "c")
    assert rung.tied == tuple("abcd")
