"""The figure of error against cost: its points are the rows' numbers."""

import json

import pytest
from matplotlib.figure import Figure

from groupnorm.study.report.cost_tables import cost_table
from groupnorm.study.report.figures.cost import cost_figures
from groupnorm.study.results.costs import milliseconds
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_store import add_costs, batch_study, groups_study


def spread_of_one(out, spread):
    cost = json.loads((out / "cost.json").read_text())
    for line in cost["configurations"]:
        line["spread"] = 0.05
    cost["configurations"][0]["spread"] = spread
    (out / "cost.json").write_text(json.dumps(cost))


def test_one_marker_for_each_norm_at_the_largest_batch(tmp_path):
    add_costs(batch_study(tmp_path))
    spread_of_one(tmp_path, 0.2)
    study = load_study(tmp_path)
    rows = summarize_study(study)
    (figure,) = cost_figures(study, rows)
    here = [row for row in rows if row.labels["batch_per_worker"] == 32]
    for panel, cost in zip(
        figure.panels,
        (lambda r: milliseconds(r.cost), lambda r: r.cost["saved_bytes_per_image"] / 2**20),
        strict=True,
    ):
        axes = Figure().add_subplot()
        panel.draw(axes)
        drawn = [tuple(map(float, c.lines[0].get_xydata()[0])) for c in axes.containers]
        bars = [c for c in axes.containers if c.has_xerr]
        assert len(bars) == (len(here) if panel is figure.panels[0] else 0)
        for row, bar in zip(here, bars, strict=False):
            (left, _), (right, _) = bar.lines[2][0].get_segments()[0]
            spread = max(study.cost_pass.spreads[name] for name in row.runs)
            assert (right - left) / 2 == pytest.approx(spread * cost(row))
            assert right < axes.get_xlim()[1]
        assert drawn == [(cost(row), row.mean) for row in here]
        assert axes.get_legend_handles_labels()[1] == [row.labels["norm"] for row in here]


def test_without_costs_there_is_none(tmp_path):
    study = load_study(batch_study(tmp_path / "a", seeds=1))
    assert cost_figures(study, []) == []
    assert cost_figures(study, summarize_study(study)) == []
    add_costs(groups_study(tmp_path / "b", seeds=1))
    study = load_study(tmp_path / "b")
    assert len(cost_figures(study, summarize_study(study))) == 1


def test_without_times_taken_in_turns_no_time_is_drawn_and_the_caption_says_why(tmp_path):
    add_costs(batch_study(tmp_path), timed=False)
    study = load_study(tmp_path)
    (figure,) = cost_figures(study, summarize_study(study))
    assert [panel.alt for panel in figure.panels] == ["Error against memory saved per image"]
    assert "Times are not compared: this record holds none" in figure.caption


def test_times_that_differ_less_than_their_spread_are_in_no_panel_and_no_table(tmp_path):
    add_costs(batch_study(tmp_path, norms=("bn",), batches=(32,)))
    for spread, panels in ((0.25, 2), (2.573, 1)):
        spread_of_one(tmp_path, spread)
        study = load_study(tmp_path)
        rows = summarize_study(study)
        (figure,) = cost_figures(study, rows)
        assert len(figure.panels) == panels
        header = " ".join(cost_table(study, rows)[0])
        assert ("ms/image" in header) == ("time in norms" in header) == (panels == 2)
    assert "rounds of one configuration lie within 257.3 % of its median" in figure.caption
