"""Numbers as text: the one place where the package rounds what it prints.

What is rounded is the decimal number that a reader sees, half away from zero: 40.15 becomes 40.2
and 48.45 becomes 48.5, although the floats of both lie beside the tie. Formats such as `.1f` round
the binary number instead, one of these two up and the other down.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

_EXACT = Context(prec=400)  # a float has up to 309 digits before the point


def rounded(value: float | Decimal, digits: int) -> Decimal:
    """A finite `value` with `digits` decimals; of the float's digits the first 12 count.

    The digits beyond are the noise of sums and divisions, which must not decide a tie.
    """
    return Decimal(f"{value:.12g}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP, _EXACT)


def decimal_text(value: float | Decimal, digits: int = 1) -> str:
    """`value` with `digits` decimals and commas between thousands, e.g. "40.2" or "1,024.0"."""
    if not math.isfinite(value):
        return str(value)
    return plain_text(rounded(value, digits))


def seconds_text(seconds: float, digits: int = 0) -> str:
    """Seconds with so many decimals; "less than 1 s" where nothing would be left of them."""
    if not rounded(seconds, digits):
        return f"less than {plain_text(Decimal(1).scaleb(-digits))} s"
    return f"{decimal_text(seconds, digits)} s"


def plain_text(number: Decimal) -> str:
    """`number` with the decimals that it has, e.g. "40.2"."""
    return f"{abs(number) if number == 0 else number:,f}"  # no "-0.0"
