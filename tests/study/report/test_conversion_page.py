"""The page that a conversion leaves."""

from dataclasses import replace

import pytest

from groupnorm.conversion import ConversionReport
from groupnorm.run.conversion.comparison import Comparison
from groupnorm.study.report import conversion_page
from groupnorm.study.report.conversion_page import (
    comparison_notes,
    comparison_rows,
    conversion_files,
)

FOUND = Comparison(
    images=64, agreement=0.984375, scores=(1000,), accuracy=(0.75, 0.734375),
    output_error=0.0123, largest_difference=1.5, largest_output=20.25, milliseconds=(1.234, 1.4),
    parameters=(1000, 1064), buffers=(130, 0),
)  # fmt: skip
REPORT = ConversionReport("gn", [], [], [], [], None)


def test_rows_have_before_and_after():
    assert comparison_rows(FOUND) == [
        ("same largest of 1,000 outputs (N, 1000)", "100.0 %", "98.4 %"),
        ("accuracy (top-1)", "75.0 %", "73.4 %"),
        ("held-out output error", "0", "0.012"),
        ("largest difference, of values up to 20.2", "0", "1.5"),
        ("time per image, fastest batch", "1.23 ms", "1.40 ms"),
        ("parameters", "1,000", "1,064"),
        ("values in buffers", "130", "0"),
    ]


def test_what_was_not_measured_has_no_row_and_a_note():
    maps = replace(FOUND, agreement=None, accuracy=None)
    assert comparison_rows(maps)[0][0] == "held-out output error"
    assert "The output is neither a tensor (N, K)" in comparison_notes(maps)[-1]
    assert "--network MODULE:FUNCTION can name" in comparison_notes(maps)[-1]
    boxes = replace(maps, output_error=None, largest_difference=None, largest_output=None)
    assert comparison_rows(boxes)[0][0] == "time per image, fastest batch"
    assert "cannot be compared value by value" in comparison_notes(boxes)[1]


def test_maps_agree_by_position():
    maps = replace(FOUND, scores=(8, 2, 3))
    assert comparison_rows(maps)[0] == (
        "same largest of 8 channels at each position (N, 8, 2, 3)",
        "100.0 %",
        "98.4 %",
    )
    assert "the network gives a class at every pixel" in comparison_notes(maps)[-1]


def test_the_page_marks_nothing_that_a_user_typed(monkeypatch):
    monkeypatch.setattr(conversion_page, "render_files", lambda _: {"svg": b"drawn"})
    about = {"network": "<b>a_net_</b>\x1b[1m", "images": "fötos"}
    files = conversion_files(REPORT, FOUND, about, ["import torch", "model = net()"])
    assert files["layers.svg"] == b"drawn"
    page = files["report.md"].decode()
    assert "- network: \\<b>a\\_net\\_\\</b>\\\\x1b[1m\n- images: fötos\n" in page
    assert "| same largest of 1,000 outputs (N, 1000) | 100.0 % | 98.4 % |" in page
    assert "```python\nimport torch\nmodel = net()\n```" in page


@pytest.mark.parametrize("note", comparison_notes(FOUND))
def test_notes_are_sentences(note):
    assert note.endswith(".")
