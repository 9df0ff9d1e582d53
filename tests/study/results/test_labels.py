"""Names of norms, and numbers of rows as text."""

import pytest

from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.labels import (
    BATCH_NORM,
    GROUP_NORM,
    estimate_text,
    of_kind,
    read_names,
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


NORMS = ("bn", "gn:groups=8", "gn:groups=8+ws", "gn")


def test_own_names_are_read_after_a_spec_of_the_study():
    texts = ["gn:groups=8=GN (ours)", "bn= batch   norm ", "gn:groups=8+ws=a=b"]
    assert read_names(texts, NORMS) == {
        "gn:groups=8": "GN (ours)", "bn": "batch norm", "gn:groups=8+ws": "a=b",
    }  # fmt: skip
    assert read_names(["gn:groups=32=GN"], NORMS) == {"gn": "GN"}  # another way to write it
    assert read_names([], NORMS) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["gn:groups=4=x"], r"\(bn, gn:groups=8, gn:groups=8\+ws, gn\), got 'gn:groups=4=x'"),
        (["gn:groups=8"], "takes SPEC=NAME"),
        (["bn= "], "'bn= ' has no name after bn="),
        (["bn=a", "bn=b"], "names bn twice, 'a' and 'b'"),
        (["bn=x", "gn=x"], "calls two norms 'x'"),
        (["bn=gn"], "calls two norms 'gn'"),
    ],
)
def test_a_name_that_would_mislead_is_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        read_names(texts, NORMS)


def test_two_norms_may_swap_their_names():
    assert read_names(["bn=gn", "gn=bn"], NORMS) == {"bn": "gn", "gn": "bn"}
