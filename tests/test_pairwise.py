"""The rows of `all_pairs`: complete, few, and always the same."""

from itertools import combinations, product

from tests.pairwise import all_pairs

FACTORS = [range(11), range(4), range(4), "abcdefgh"]


def test_any_two_values_meet():
    rows = all_pairs(FACTORS)
    for i, j in combinations(range(len(FACTORS)), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(FACTORS[i], FACTORS[j]))


def test_the_rows_are_few_and_the_same_every_time():
    rows = all_pairs(FACTORS)
    assert 11 * 8 <= len(rows) <= 1.2 * 11 * 8
    assert len(set(rows)) == len(rows)
    assert rows == all_pairs(FACTORS)
