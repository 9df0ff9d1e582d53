"""Curves: lines over the epochs that were evaluated."""

import json

import matplotlib.pyplot as plt
import pytest

from groupnorm.study.report.figures.curves import (
    Series,
    _limits,
    batch_figure,
    norm_figure,
    step_figure,
)
from groupnorm.study.report.figures.style import BLACK, Style
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import Record
from tests.study.fake_fine_tuning import STEPS, fine_tuning_study
from tests.study.fake_store import BOX_AP, ERROR, batch_study, configured, loaded


@pytest.fixture
def every_second(tmp_path):
    """A study whose runs were evaluated after epochs 2, 4, 6 and 8 of 8."""
    out = batch_study(tmp_path, norms=("bn",), batches=(32, 2), seeds=2)
    for path in out.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows[::2]:
            for key in ("val_loss", "val_error", "precise_val_error"):
                del row[key]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_study(out)


def test_a_line_goes_through_the_evaluated_epochs_without_a_gap(every_second):
    figure, axes = plt.subplots()
    (panel,) = batch_figure(every_second, summarize_study(every_second)).panels
    panel.draw(axes)
    lines = [line for line in axes.lines if len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in lines] == [[2, 4, 6, 8]] * 2
    assert all(0 < error < 100 for line in lines for error in line.get_ydata())
    plt.close(figure)


@pytest.mark.parametrize(
    ("held_out", "pattern", "name"),
    [(None, "*", "test error"), (100, "*", "validation error"),
     (100, "bn*", "test or validation error")],
)  # fmt: skip
def test_curves_name_the_images_of_the_evaluation(tmp_path, held_out, pattern, name):
    study = load_study(batch_study(tmp_path, norms=("bn", "gn"), batches=(32,), seeds=1))
    study = configured(study, pattern, validation_images=held_out)
    by_norm = norm_figure(study, summarize_study(study))
    of = name.removesuffix(" error")
    assert by_norm.title == f"Training and {of} curves per norm"
    assert by_norm.panels[1].alt == f"{name.capitalize()} against epoch, 32 images per worker"
    by_batch = batch_figure(study, summarize_study(study))
    assert by_batch.caption.startswith(f"{name.capitalize()} against epoch")
    assert by_batch.panels[0].alt == f"{of.capitalize()} curves of bn"
    figure, axes = plt.subplots()
    by_norm.panels[1].draw(axes)
    assert axes.get_ylabel() == f"{name} (%)"
    plt.close(figure)


def test_the_first_tenth_of_the_epochs_does_not_stretch_the_axis():
    """Of 20 epochs the first two, whichever were evaluated."""
    rows = [{"epoch": epoch, "val_error": 90.0 if epoch == 2 else 20.0} for epoch in (2, 10, 20)]
    record = Record("run", "finished", None, {}, {}, rows)
    low, high = _limits(ERROR, [Series("bn", [record], Style(BLACK))], ("val_error",))
    assert 19 < low < 20 < high < 21


def test_the_first_epochs_of_a_metric_that_rises_do_not_stretch_it_either():
    rows = [{"epoch": epoch, "box_ap": 2.0 if epoch == 2 else 30.0} for epoch in (2, 10, 20)]
    record = Record("run", "finished", None, {}, {}, rows)
    low, high = _limits(BOX_AP, [Series("bn", [record], Style(BLACK))], ("box_ap",))
    assert 29 < low < 30 < high < 31


def test_arms_against_the_step_have_a_panel_for_each_number_of_images(tmp_path):
    figure = step_figure(*loaded(fine_tuning_study(tmp_path)))
    assert len(figure.panels) == figure.columns == 3
    assert "in every panel: converted, reset GN, frozen BN." in figure.caption
    limits = set()
    for panel in figure.panels:
        drawn, axes = plt.subplots()
        panel.draw(axes)
        assert [line.get_label() for line in axes.lines] == [
            "converted", "reset GN", "frozen BN", "BN trained",
        ]  # fmt: skip
        assert all(tuple(line.get_xdata()) == STEPS for line in axes.lines)
        assert axes.get_xlabel() == "step"
        low, high = axes.get_ylim()
        assert all(low < value < high for line in axes.lines for value in line.get_ydata())
        limits.add((low, high))
        plt.close(drawn)
    assert len(limits) == 1, "panels have one axis"
