"""Rounding: decimal, half away from zero, whatever the float behind the number."""

import math
from decimal import Decimal
from statistics import fmean

import pytest

from groupnorm.study.results.format import decimal_text, rounded, seconds_text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (40.15, 1, "40.2"),
        (48.45, 1, "48.5"),
        (0.25, 1, "0.3"),
        (-0.25, 1, "-0.3"),
        (-0.04, 1, "0.0"),
        (0.0, 1, "0.0"),
        (1.005, 2, "1.01"),
        (62.5, 0, "63"),
        (78042, 0, "78,042"),
        (1234567.25, 1, "1,234,567.3"),
        (fmean([40.1, 40.2]), 1, "40.2"),
        (0.1 + 0.2 - 0.25, 1, "0.1"),
        (1e-9, 2, "0.00"),
        (math.nan, 1, "nan"),
        (math.inf, 1, "inf"),
        (Decimal("0.15"), 1, "0.2"),
        (1e27, 1, "1" + 9 * ",000" + ".0"),
        (-1.7e308, 0, "-170" + 102 * ",000"),
    ],
)
def test_a_number_in_print(value, digits, text):
    assert decimal_text(value, digits) == text


def test_a_tie_in_hundredths_always_rounds_up():
    """All errors that fall between two tenths, as `.1f` rounds about half of them down."""
    ties = [(10 * n + 5) / 100 for n in range(1000)]
    assert all(rounded(tie, 1) == Decimal(n + 1) / 10 for n, tie in enumerate(ties))
    assert any(f"{tie:.1f}" != decimal_text(tie) for tie in ties)


def test_no_time_is_shown_as_0_seconds():
    assert [seconds_text(s) for s in (0.0, 0.3, 0.5, 75.4)] == [
        "less than 1 s", "less than 1 s", "1 s", "75 s",
    ]  # fmt: skip
    assert [seconds_text(s, 1) for s in (0.01, 0.3)] == ["less than 0.1 s", "0.3 s"]
