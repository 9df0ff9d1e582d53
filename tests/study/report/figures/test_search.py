"""The figure of a search: labels that stay apart, lines as far as they were kept."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from groupnorm.study.report.figures.render import render_files
from groupnorm.study.report.figures.search import _changed, search_figure, spread_out
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_search import Trials, search
from tests.tolerances import FORMULA_64


@given(st.lists(st.floats(0, 1), max_size=12))
def test_labels_lie_apart_in_the_order_of_their_lines(places):
    found = spread_out(places, 0.1)
    order = sorted(range(len(places)), key=lambda index: places[index])
    ends = [found[index] for index in order]
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(ends))
    if len(places) <= 10:
        assert all(0.05 - FORMULA_64 <= end <= 0.95 + FORMULA_64 for end in ends)


def test_labels_that_are_apart_stay_where_they_are():
    assert spread_out([0.1, 0.9, 0.5], 0.1) == [0.1, 0.9, 0.5]
    assert spread_out([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


def drawn(panel):
    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    trials = Trials()
    trials.final["gn:groups=8 stage1=gn:groups=16"] = 25.0
    search(out, trials, refine=True)
    study = load_study(out)
    return search_figure(study, summarize_study(study))


def test_every_rule_is_drawn_to_where_it_was_dropped(found):
    first, later, refined = found.panels
    axes = drawn(first)
    lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
    assert len(lines) == 9
    assert {max(line.get_xdata()) for line in lines} == {2}
    crosses = [line for line in axes.lines if line.get_marker() == "X"]
    assert len(crosses) == 6
    texts = {text.get_text() for text in axes.texts}
    assert "gn:groups=8  47.0" in texts
    assert len(texts) == 9
    lines = [line for line in drawn(later).lines if len(line.get_xdata()) > 1]
    assert sorted(max(line.get_xdata()) for line in lines) == [6, 6, 18, 18]
    assert min(lines[0].get_xdata()) == 2
    points = [line for line in drawn(refined).lines if line.get_marker() == "o"]
    assert len(points) == 6


@pytest.mark.slow
def test_it_has_the_width_of_a_column(found):
    assert set(render_files(found, "single")) == {"svg", "pdf", "png"}


@pytest.mark.parametrize(
    ("norm", "label"),
    [
        ("gn:groups=8 stage1=gn:groups=16", "stage1 groups=16"),
        ("gn:groups=8 stage1=gn", "stage1 gn"),
        ("gn:groups=8 stage2=gn:groups=2", "stage1 groups=8"),
    ],
)
def test_an_alternative_is_named_by_the_number_of_its_stage(norm, label):
    assert _changed(norm, "stage1") == label
