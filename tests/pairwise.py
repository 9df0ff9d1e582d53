"""All pairs in place of all combinations: most faults need at most two values to come together."""

from itertools import combinations


def all_pairs(factors):
    """Rows of one value from each factor, in which any two values of two factors meet.

    Args:
        factors: a list of lists of values.
    """
    sizes = [range(len(factor)) for factor in factors]
    missing = {
        ((i, a), (j, b))
        for i, j in combinations(range(len(factors)), 2)
        for a in sizes[i]
        for b in sizes[j]
    }
    rows = []
    while missing:
        row = dict(min(missing))
        for i in sorted(set(range(len(factors))) - set(row)):
            row[i] = max(sizes[i], key=lambda a: len(missing & _pairs({**row, i: a})))
        missing -= _pairs(row)
        rows.append(tuple(factors[i][row[i]] for i in range(len(factors))))
    return rows


def _pairs(row):
    return set(combinations(sorted(row.items()), 2))
