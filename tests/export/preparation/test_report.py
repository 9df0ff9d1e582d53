"""The report says what was done, and shows it as text."""

import dataclasses
import json

import pytest

from groupnorm.export.preparation.report import (
    FORM,
    SCALE,
    NormRange,
    PreparedLayer,
    PrepareReport,
)

ROWS = (
    PreparedLayer("", FORM, "GroupNorm to PooledGroupNorm"),
    PreparedLayer("a.norm", SCALE, "scale into b"),
)
RANGES = (NormRange("a.norm", 1234.5, 0.5, 4000.0, 4.0),)


def test_as_text():
    text = str(PrepareReport("ncnn", "plain", ROWS, RANGES))
    assert "prepared for ncnn, group norms in the form 'plain'" in text
    assert "(the network)" in text
    assert "scale into b" in text
    for number in ("1.23e+03", "0.5", "4e+03"):
        assert number in text
    assert "largest |x|" in text
    assert "largest |x|" not in str(PrepareReport("ncnn", "plain", ROWS, None))


def test_by_action_and_as_json():
    report = PrepareReport("ncnn", "plain", ROWS, RANGES)
    assert report.of(SCALE) == {"a.norm": "scale into b"}
    assert json.loads(json.dumps(dataclasses.asdict(report)))["ranges"][0]["layer"] == "a.norm"
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.to = "x"


def test_names_that_are_no_plain_text_are_shown_escaped():
    row = PreparedLayer("a\x1b[31m", FORM, "")
    assert "\x1b" not in str(PrepareReport("ncnn", "plain", (row,), None))
