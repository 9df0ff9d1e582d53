"""The figure of responses: four curves a norm, means over seeds, only where they were recorded."""

import json
from statistics import fmean

import pytest
from matplotlib.figure import Figure

from groupnorm.study.report.figures.responses import percentile_curves, response_figures
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_store import add_responses, batch_study, spoil


def figures(out):
    study = load_study(out)
    return response_figures(study, summarize_study(study))


def test_no_figure_without_recorded_responses(tmp_path):
    assert figures(batch_study(tmp_path, seeds=1)) == []


def test_a_panel_per_norm_with_four_curves_over_epochs_on_one_axis(tmp_path):
    out = add_responses(batch_study(tmp_path, ("none", "bn", "gn"), (32,), 2, "norms"))
    (figure,) = figures(out)
    assert figure.title == "conv5_3 responses"
    drawn = []
    for panel in figure.panels:
        ax = Figure().add_subplot()
        panel.draw(ax)
        drawn.append(ax)
    assert [ax.get_title() for ax in drawn] == [
        f"{norm}, 32 images per worker" for norm in ("none", "bn", "gn")
    ]
    lines = {line.get_label(): line for line in drawn[0].get_lines()}
    assert list(lines) == ["99%", "80%", "20%", "1%"]
    assert list(lines["1%"].get_xdata()) == list(range(1, 9))
    assert lines["1%"].get_ydata() == pytest.approx([-3 * (1 + 0.3 * e) for e in range(1, 9)])
    assert len({ax.get_ylim() for ax in drawn}) == 1


def test_curves_are_means_over_finished_seeds_at_epochs_all_have(tmp_path):
    out = add_responses(batch_study(tmp_path, ("bn",), (32,), 3, "norms"))
    path = out / "runs/bn-n32-s1/metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["response_percentiles"] = None
    rows[1]["response_percentiles"]["99"] = 100.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spoil(out / "runs/bn-n32-s2", "diverged", epochs=3)
    study = load_study(out)
    curves = percentile_curves(study, list(study.records.values()))
    assert list(curves) == ["1", "20", "80", "99"]
    assert list(curves["99"]) == list(range(2, 9))
    assert curves["99"][2] == pytest.approx(fmean([100.0, 2.5 * 1.04]))


def test_only_the_largest_batch_is_drawn(tmp_path):
    (figure,) = figures(add_responses(batch_study(tmp_path, ("bn",), (8, 32), 1)))
    (panel,) = figure.panels
    ax = Figure().add_subplot()
    panel.draw(ax)
    assert ax.get_title() == "bn, 32 images per worker"
