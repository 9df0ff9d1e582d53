"""The figure of error against cost: its points are the rows' numbers."""

from matplotlib.figure import Figure

from groupnorm.study.cost_figure import cost_figures
from groupnorm.study.costs import milliseconds
from groupnorm.study.statistics import load_study, summarize_study
from tests.study.fake_store import add_costs, batch_study, groups_study


def test_one_marker_for_each_norm_at_the_largest_batch(tmp_path):
    add_costs(batch_study(tmp_path))
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
    assert [panel.alt for panel in figure.panels] == [
        "Validation error against memory saved per image"
    ]
    assert "Times are not compared: this record holds none" in figure.caption
