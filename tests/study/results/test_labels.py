"""Names of norms, and numbers of rows as text."""

import pytest

from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.labels import (
    BATCH_NORM,
    GROUP_NORM,
    estimate_text,
    of_kind,
    short_names,
)


def test_kind_leaves_out_weight_standardization_and_what_is_no_norm():
    norms = ["gn+ws", "<script>", "gn:groups=8", "bn", "syncbn", "gn"]
    assert of_kind(GROUP_NORM, norms) == ["gn:groups=8", "gn"]
    assert of_kind(BATCH_NORM, norms) == ["bn"]


def test_short_names():
    assert short_names(["bn", "gn:groups=8", "gn:groups=8+ws"]) == {
        "bn": "BN", "gn:groups=8": "GN", "gn:groups=8+ws": "GN+WS",
    }  # fmt: skip
    assert short_names(["gn", "gn:groups=8"]) == {"gn": "GN", "gn:groups=8": "gn:groups=8"}
    placed = "gn stage3=ln"
    assert short_names(["bn", placed]) == {"bn": "BN", placed: placed}


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 1, "\u2013"),
        (Estimate(27.64, None, 1), 1, "27.6"),
        (Estimate(27.64, 0.31, 3), 1, "27.6 ± 0.3"),
        (Estimate(27.64, 0.04, 3), 1, "27.6 ± 0.04"),
        (Estimate(27.64, 0.0, 3), 1, "27.6 ± 0.0"),
        (Estimate(27.647, 0.314, 3), 2, "27.65 ± 0.31"),
        (Estimate(40.15, 0.05, 2), 1, "40.2 ± 0.1"),
    ],
)
def test_an_estimate_in_a_cell(value, digits, text):
    assert estimate_text(value, digits) == text
