"""Which figures a study has, and that they draw the rows' numbers and nothing else."""

import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.final import arms_figure, bars
from groupnorm.study.report.figures.render import COLUMN_WIDTHS, figure_style, lay_out
from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.rows import (
    batch_sizes,
    load_study,
    norm_names,
    subject,
    summarize_study,
)
from tests.study.fake_detectors import DETECTORS, Arm, detector_study
from tests.study.fake_store import (
    BOX_AP,
    ERROR,
    batch_study,
    configured,
    groups_study,
    loaded,
    spoil,
)
from tests.tolerances import HUNDREDTH


def build(out):
    study = load_study(out)
    rows = summarize_study(study)
    return {figure.name: figure for figure in build_figures(study, rows)}, rows


def axes_of(panel):
    ax = Figure().add_subplot()
    panel.draw(ax)
    return ax


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (
            lambda out: batch_study(out, seeds=1),
            ["error-by-batch", "running-and-recomputed", "curves-by-norm", "curves-by-batch"],
        ),
        (
            lambda out: batch_study(out, ("gn", "ln"), (32,), 1, "norms"),
            ["error-by-norm", "curves-by-norm"],
        ),
        (lambda out: groups_study(out, seeds=1), ["error-by-groups", "curves-by-groups"]),
    ],
)
def test_each_study_has_its_figures(tmp_path, make, names):
    figures, _ = build(make(tmp_path))
    assert list(figures) == names


def test_the_main_figure_draws_means_largest_batch_left(tmp_path):
    figures, rows = build(batch_study(tmp_path))
    ax = axes_of(figures["error-by-batch"].panels[0])
    bn = lines_of(ax)["bn"]
    assert list(bn.get_xdata()) == [32, 8, 2]
    assert list(bn.get_ydata()) == [r.mean for r in rows if r.labels["norm"] == "bn"]
    left, right = ax.get_xlim()
    assert left > right
    assert (ax.get_xscale(), [t.get_text() for t in ax.get_xticklabels()]) == (
        "log", ["32", "8", "2"],
    )  # fmt: skip


def test_a_norm_trained_once_is_a_line_without_markers_and_said_to_be(tmp_path):
    figures, rows = build(batch_study(tmp_path, norms=("bn", "gn")))
    main = figures["error-by-batch"]
    lines = lines_of(axes_of(main.panels[0]))
    assert lines["bn"].get_marker() == "o"
    assert lines["gn"].get_marker() in ("", "None")
    assert list(lines["gn"].get_ydata()) == [rows[-1].mean] * 3
    assert "without markers: trained once" in lines
    assert "A line without markers is a norm that was trained once" in main.caption
    caption = figures["curves-by-norm"].caption
    assert "Trained once, with the same lines at every batch size: gn." in caption
    figures, _ = build(batch_study(tmp_path / "bn", norms=("bn",)))
    assert "trained once" not in figures["error-by-batch"].caption


def test_a_norm_trained_once_that_lacks_seeds_is_marked_once(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn"), seeds=2)
    spoil(out / "runs/gn-n32-s0", "failed")
    figures, _ = build(out)
    ax = axes_of(figures["error-by-batch"].panels[0])
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[32]]
    spoil(out / "runs/gn-n32-s1", "failed")
    figures, _ = build(out)
    assert texts_of(axes_of(figures["error-by-batch"].panels[0])).count("failed") == 1


def test_recomputed_statistics_of_a_norm_trained_once_are_drawn_once(tmp_path):
    out = batch_study(tmp_path, norms=("bn",))
    manifest = json.loads((out / "study.json").read_text())
    for cell in manifest["cells"]:
        cell["run"] = f"bn-n32-s{cell['seed']}"
    (out / "study.json").write_text(json.dumps(manifest))
    figures, rows = build(out)
    (panel,) = figures["running-and-recomputed"].panels
    ax = axes_of(panel)
    drawn = {c.get_label(): list(c.lines[0].get_ydata()) for c in ax.containers}
    assert drawn["running statistics"] == [rows[0].mean]
    assert drawn["recomputed statistics"] == [rows[0].precise_mean]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["every N"]


def test_the_band_is_the_interval_of_each_mean_and_absent_with_one_seed(tmp_path):
    figures, rows = build(batch_study(tmp_path / "a", norms=("gn",), batches=(32, 2)))
    (band,) = axes_of(figures["error-by-batch"].panels[0]).collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx(rows[0].result.interval)
    caption = figures["error-by-batch"].caption
    assert "The band is the 95 % interval of the mean (Student's t, 3 seeds)." in caption
    assert "not by an overlap" in caption
    figures, _ = build(batch_study(tmp_path / "b", seeds=1))
    assert not axes_of(figures["error-by-batch"].panels[0]).collections
    assert "no interval to draw" in figures["error-by-batch"].caption


def test_the_caption_says_what_the_error_is(tmp_path):
    study = load_study(batch_study(tmp_path, norms=("bn", "gn"), batches=(32, 2), seeds=2))
    rows = summarize_study(study)
    for figure in build_figures(study, rows)[:2]:
        assert figure.caption.startswith("Top-1 error (median of the last 5 epochs) ")
    study = configured(study, reported_epochs=1, validation_images=500)
    for figure in build_figures(study, rows)[:2]:
        assert figure.caption.startswith("Top-1 error on 500 validation images (last epoch)")


def test_a_mean_of_a_single_seed_beside_others_has_no_interval_and_is_said_so(tmp_path):
    out = batch_study(tmp_path, norms=("bn",), batches=(32, 8, 2))
    for seed in (0, 1):
        spoil(out / f"runs/bn-n2-s{seed}", "diverged")
    figures, rows = build(out)
    (band,) = axes_of(figures["error-by-batch"].panels[0]).collections
    points = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {y for x, y in points if x == 2} == {rows[-1].mean}
    caption = figures["error-by-batch"].caption
    assert "(Student's t, 1 to 3 seeds)" in caption
    assert "A single seed has no interval." in caption


def test_what_is_drawn_of_an_interval_ends_where_errors_do():
    low, high = bars(
        ERROR, [Estimate(5.0, 9.0, 2), Estimate(95.0, 9.0, 2), Estimate(50.0, None, 1)]
    )
    assert (low[0], high[1]) == (5.0, 5.0)
    assert (low[2], high[2]) == (0.0, 0.0)
    assert low[1] == high[0] == pytest.approx(12.7062 * 9 / 2**0.5, abs=HUNDREDTH)
    assert bars(ERROR, [Estimate(5.0, None, 1), None]) is None
    low, _ = bars(BOX_AP, [Estimate(5.0, 9.0, 2)])
    assert low[0] > 5.0, "nothing says where this metric ends"


def test_both_panels_have_the_same_axis_labels(tmp_path):
    figures, _ = build(batch_study(tmp_path / "a", seeds=1))
    labels = [(ax.get_xlabel(), ax.get_ylabel())
              for ax in map(axes_of, figures["error-by-batch"].panels)]  # fmt: skip
    assert labels == [("images per worker (N)", "top-1 error (%)")] * 2
    figures, _ = build(groups_study(tmp_path / "b", seeds=1))
    axes = [axes_of(panel) for panel in figures["error-by-groups"].panels]
    assert [ax.get_xlabel() for ax in axes[:2]] == [ax.get_xlabel() for ax in axes[2:]]
    assert {ax.get_ylabel() for ax in axes} == {"top-1 error (%)"}


def test_norms_at_another_batch_size_than_the_papers_are_said_to_be(tmp_path):
    out = batch_study(tmp_path, ("bn", "gn"), (2,), 1, "norms")
    figures, _ = build(out)
    figure = figures["error-by-norm"]
    ours, paper = map(axes_of, figure.panels)
    assert ours.get_title().endswith("\n2 images per worker")
    assert paper.get_title().endswith("ResNet-50 on ImageNet\n32 images per worker")
    assert ours.get_xlabel() == paper.get_xlabel()
    assert "per norm at 2 images per worker" in figure.caption
    assert "These were measured at 32 images per worker, not at 2." in figure.caption
    figures, _ = build(batch_study(tmp_path / "same", ("bn", "gn"), (32,), 1, "norms"))
    assert "were measured at" not in figures["error-by-norm"].caption


def test_the_papers_panel_holds_the_papers_numbers_and_says_so(tmp_path):
    figures, _ = build(batch_study(tmp_path, seeds=1))
    ours, paper = figures["error-by-batch"].panels
    ax = axes_of(paper)
    assert [list(line.get_ydata()) for line in ax.get_lines()] == [
        [23.6, 23.7, 24.8, 27.3, 34.7], [24.1, 24.2, 24.0, 24.2, 24.1],
    ]  # fmt: skip
    assert ax.get_title() == "Wu & He 2018, Table 2\nResNet-50 on ImageNet"
    assert "Wu & He 2018, Table 2" in paper.alt
    assert paper.width < ours.width


@pytest.mark.parametrize("status", ["diverged", "failed", "missing", "partial"])
def test_a_cell_without_a_number_is_marked_above_the_data_and_breaks_the_line(tmp_path, status):
    out = batch_study(tmp_path, batches=(32, 8, 2), seeds=1)
    spoil(out / "runs/bn-n8-s0", status, "because")
    figures, rows = build(out)
    ax = axes_of(figures["error-by-batch"].panels[0])
    assert status in texts_of(ax)
    (mark,) = [text for text in ax.texts if text.get_text() == status]
    assert mark.xy[0] == 8
    assert max(row.mean for row in rows if row.mean) < mark.xy[1] < ax.get_ylim()[1]
    values = lines_of(ax)["bn"].get_ydata()
    assert values[1] != values[1]


def test_a_mean_that_lacks_a_seed_has_a_hollow_marker(tmp_path):
    out = batch_study(tmp_path)
    spoil(out / "runs/bn-n8-s0", "diverged")
    figures, _ = build(out)
    ax = axes_of(figures["error-by-batch"].panels[0])
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[8]]
    assert "hollow marker" in figures["error-by-batch"].caption


def test_running_and_recomputed_stand_side_by_side(tmp_path):
    figures, rows = build(batch_study(tmp_path))
    (panel,) = figures["running-and-recomputed"].panels
    ax = axes_of(panel)
    drawn = {c.get_label(): list(c.lines[0].get_ydata()) for c in ax.containers}
    mine = [row for row in rows if row.labels["norm"] == "bn"]
    assert drawn["running statistics"] == [row.mean for row in mine]
    assert drawn["recomputed statistics"] == [row.precise_mean for row in mine]
    assert "gn:groups=8, for comparison" in lines_of(ax)


def test_running_and_recomputed_at_one_batch_size_go_by_norm(tmp_path):
    figures, _ = build(batch_study(tmp_path, ("bn", "bn+ws", "gn"), (32,), 2, "norms"))
    (panel,) = figures["running-and-recomputed"].panels
    assert [t.get_text() for t in axes_of(panel).get_xticklabels()] == ["bn", "bn+ws"]


def test_curves_are_means_over_seeds(tmp_path):
    out = batch_study(tmp_path, batches=(32, 2))
    figures, _ = build(out)
    panels = figures["curves-by-norm"].panels
    assert [panel.alt for panel in panels] == [
        f"{what} error against epoch, {batch} images per worker"
        for batch in (32, 2)
        for what in ("Training", "Test")
    ]
    study = load_study(out)
    line = lines_of(axes_of(panels[1]))["bn"]
    first = [study.records[f"bn-n32-s{seed}"].metrics[0]["val_error"] for seed in range(3)]
    assert line.get_ydata()[0] == pytest.approx(sum(first) / 3)
    assert list(line.get_xdata()) == list(range(1, 9))


def test_a_curve_of_one_epoch_is_a_marker(tmp_path):
    out = batch_study(tmp_path, batches=(32,))
    study = load_study(out)
    for record in study.records.values():
        del record.metrics[1:]
    figures = {f.name: f for f in build_figures(study, summarize_study(study))}
    axes = axes_of(figures["curves-by-norm"].panels[1])
    assert {line.get_marker() for line in lines_of(axes).values()} == {"o"}
    assert [tick for tick in axes.get_xticks() if tick % 1] == []


def test_curves_by_batch_have_a_line_per_batch_and_one_for_a_shared_run(tmp_path):
    figures, _ = build(batch_study(tmp_path, norms=("bn", "gn"), seeds=1))
    bn, gn = (axes_of(panel) for panel in figures["curves-by-batch"].panels)
    assert list(lines_of(bn)) == ["N = 32", "N = 8", "N = 2"]
    assert list(lines_of(gn)) == ["every N"]
    assert "gn (trained once)" in figures["curves-by-batch"].panels[1].alt


def test_a_diverged_run_is_drawn_to_its_end_with_a_cross(tmp_path):
    out = batch_study(tmp_path, seeds=1)
    spoil(out / "runs/bn-n2-s0", "diverged", epochs=3)
    figures, _ = build(out)
    ax = axes_of(figures["curves-by-batch"].panels[0])
    crosses = [line for line in ax.get_lines() if line.get_marker() == "X"]
    assert [list(line.get_xdata()) for line in crosses] == [[3]]


def test_the_groups_figure_draws_both_divisions_beside_the_papers(tmp_path):
    figures, rows = build(groups_study(tmp_path))
    groups, size, paper_groups, paper_size = (
        axes_of(panel) for panel in figures["error-by-groups"].panels
    )
    for ax, division in ((groups, "groups"), (size, "size")):
        mine = [row for row in rows if row.labels["division"] == division]
        assert list(ax.get_lines()[0].get_ydata()) == [row.mean for row in mine]
    assert groups.get_ylim() == size.get_ylim()
    assert groups.get_xticklabels()[-1].get_text() == "1\n(LN)"
    assert size.get_xticklabels()[-1].get_text() == "1\n(IN)"
    assert list(paper_groups.get_lines()[0].get_ydata())[1] == 24.1
    assert list(paper_size.get_lines()[0].get_ydata())[-1] == 28.4


def test_names_and_sizes_of_a_study(tmp_path):
    out = batch_study(tmp_path, norms=("gn", "bn"), batches=(2, 32), seeds=1)
    _, rows = build(out)
    assert norm_names(rows) == ["gn", "bn"]
    assert batch_sizes(rows) == [32, 2]
    assert subject(load_study(out)) == "resnet8 on digits"


def test_own_names_are_in_legends_titles_and_captions_and_change_no_colour(tmp_path):
    study = load_study(batch_study(tmp_path, norms=("bn", "gn:groups=8"), seeds=1))
    rows = summarize_study(study)
    named = replace(study, names={"gn:groups=8": "GN (ours)", "bn": "batch norm"})
    main, recomputed, by_norm, by_batch = build_figures(named, rows)
    assert list(lines_of(axes_of(main.panels[0])))[:2] == ["batch norm", "GN (ours)"]
    assert axes_of(recomputed.panels[0]).get_title() == "batch norm"
    assert "GN (ours), for comparison" in lines_of(axes_of(recomputed.panels[0]))
    assert list(lines_of(axes_of(by_norm.panels[0]))) == ["batch norm", "GN (ours)"]
    assert "at every batch size: GN (ours)." in by_norm.caption
    assert axes_of(by_batch.panels[1]).get_title() == "GN (ours) (trained once)"
    plain = lines_of(axes_of(build_figures(study, rows)[0].panels[0]))
    assert lines_of(axes_of(main.panels[0]))["GN (ours)"].get_color() == (
        plain["gn:groups=8"].get_color()
    )
    text = str(
        [[f.caption, *(panel.alt for panel in f.panels)] for f in build_figures(named, rows)]
    )
    assert "gn:groups=8" not in text


def test_own_names_are_on_the_axis_of_norms(tmp_path):
    study = load_study(batch_study(tmp_path, ("bn", "gn"), (32,), 1, "norms"))
    named = replace(study, names={"gn": "GN (ours)"})
    panel = build_figures(named, summarize_study(study))[0].panels[0]
    assert {t.get_text() for t in axes_of(panel).get_yticklabels()} == {"bn", "GN (ours)"}


def test_numbers_of_arms_stay_off_the_axis_in_one_column_of_a_paper(tmp_path):
    arms = {**DETECTORS, "an arm whose name is long": Arm(5.0, "bn", seeds=1)}
    study, rows = loaded(detector_study(tmp_path, arms))
    (panel,) = arms_figure(study, rows).panels
    with figure_style("f", "single"):
        figure = lay_out([[panel]], [1.0], [panel.height], COLUMN_WIDTHS["single"])
        (ax,) = figure.axes
        boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == len(arms)
    assert ax.bbox.x0 < min(box.x0 for box in boxes)
    assert max(box.x1 for box in boxes) < ax.bbox.x1
