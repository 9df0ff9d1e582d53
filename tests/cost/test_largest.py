"""The search for the largest size: against counting up, in few looks."""

import random

import pytest

from groupnorm.cost.fit import largest


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_polynomial_in_few_looks(power):
    looked = []

    def memory(n):
        looked.append(n)
        return 1000 + 37 * n**power

    answer = largest(memory, 10**9, start=32, power=power)
    assert 1000 + 37 * answer**power <= 10**9 < 1000 + 37 * (answer + 1) ** power
    assert len(looked) <= 8
    assert len(set(looked)) == len(looked)
    assert {answer, answer + 1} <= set(looked)


def test_any_growing_function():
    generator = random.Random(0)
    for _ in range(300):
        steps = [generator.choice([0, 1, 1, 5, 40, 3000]) for _ in range(200)]
        limit = generator.randrange(1, sum(steps) + 10)

        def memory(n, steps=steps):
            return 3 + sum(steps[:n]) + max(0, n - 200) * 7

        up = 0
        while memory(up + 1) <= limit:
            up += 1
        found = largest(memory, limit, start=generator.choice([1, 7, 500]), power=2)
        assert found == (up or None)


def test_nothing_fits_and_what_does_not_grow():
    assert largest(lambda n: 100 + n, 100, start=32) is None
    with pytest.raises(ValueError, match="does not grow"):
        largest(lambda n: 5, 100)
