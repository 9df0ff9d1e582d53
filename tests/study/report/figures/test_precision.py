"""Precision against recall: the mean curve of each arm, in a panel for each metric."""

import json

import pytest
from matplotlib.figure import Figure

from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.precision import precision_figures
from tests.study.fake_detectors import DETECTORS, aps_of, curve_of, detector_study
from tests.study.fake_store import arms_study, loaded, spoil


def drawn(panel):
    axes = Figure().add_subplot()
    panel.draw(axes)
    return {line.get_label(): line for line in axes.get_lines()}


def test_a_line_is_the_mean_over_seeds_at_every_recall(tmp_path):
    study, rows = loaded(detector_study(tmp_path))
    (figure,) = precision_figures(study, rows)
    assert figure.name == "precision-recall"
    assert figure.caption.endswith(
        "The mean height of a curve is the metric above its panel after the last epoch. Beyond the "
        "largest recall that any category reaches, a curve lies on the axis."
    )
    assert [panel.alt.rpartition(": ")[2] for panel in figure.panels] == [
        "box AP50", "box AP75", "mask AP50", "mask AP75",
    ]  # fmt: skip
    lines = drawn(figure.panels[1])
    assert list(lines) == list(DETECTORS)
    line = lines["frozen BN"]
    assert (line.get_xdata()[0], line.get_xdata()[37], line.get_xdata()[-1]) == (0, 37, 100)
    finals = list(rows[0].results.values())
    curves = [curve_of(aps_of(final)["box_ap75"]) for final in finals]
    assert line.get_ydata()[37] == pytest.approx((curves[0][37] + curves[1][37]) / 2)
    assert figure.name in [one.name for one in build_figures(study, rows)]


def test_a_run_that_has_not_finished_has_no_part_in_it(tmp_path):
    out = detector_study(tmp_path)
    spoil(out / "runs/arm0-s1", "diverged", "loss nan")
    study, rows = loaded(out)
    line = drawn(precision_figures(study, rows)[0].panels[0])["frozen BN"]
    (final,) = rows[0].results.values()
    assert line.get_ydata()[50] == pytest.approx(curve_of(aps_of(final)["box_ap50"])[50])


def test_records_without_curves_have_no_figure(tmp_path):
    study, rows = loaded(arms_study(tmp_path))
    assert precision_figures(study, rows) == []


def test_a_curve_without_objects_is_left_out(tmp_path):
    out = detector_study(tmp_path)
    for path in out.glob("runs/*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if "precision_at_recall" in lines[-1]:
            lines[-1]["precision_at_recall"]["mask_ap75"] = [None] * 101
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (figure,) = precision_figures(*loaded(out))
    assert len(figure.panels) == 3
