"""The figures of a study of clips draw its rows, the ceilings, and the paper's numbers."""

import json

import pytest
from matplotlib.figure import Figure

from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.clips import line_styles
from groupnorm.study.results.clips import lines_of
from tests.study.fake_clips import clip_study
from tests.study.fake_store import add_costs, add_to_manifest, loaded, spoil


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    out = add_times(clip_study(tmp_path_factory.mktemp("clips")))
    study, rows = loaded(out)
    return study, rows, {figure.name: figure for figure in build_figures(study, rows)}


def add_times(out):
    add_costs(out)
    path = out / "cost.json"
    path.write_text(path.read_text().replace('"spread": 0.', '"spread": 0.0'))
    return out


def axes_of(panel):
    ax = Figure().add_subplot()
    panel.draw(ax)
    return ax


def drawn(ax):
    """Positions and values of what has a name in the legend."""
    found = {}
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        line = handle.lines[0] if hasattr(handle, "lines") else handle
        found[label] = list(line.get_xdata()), list(line.get_ydata())
    return found


def test_the_figures_in_their_order(clips):
    assert list(clips[2]) == [
        "accuracy-by-clip", "accuracy-by-batch", "cost-by-clip",
    ]  # fmt: skip


def test_curves_need_runs_of_five_epochs(tmp_path):
    norms = ("gn:size=8", "bn", "bn+ws")
    study, rows = loaded(clip_study(tmp_path, norms, seeds=1, batches=(8,), epochs=5))
    curves = next(one for one in build_figures(study, rows) if one.name == "curves-by-clip")
    titles = [axes_of(panel).get_title() for panel in curves.panels]
    lengths = ("clips of 8 frames at stride 2", "clips of 16 frames at stride 1")
    assert titles == [
        f"{names}, {clips}"
        for names in ("gn:size=8, bn", "bn+ws") for clips in lengths for _ in ("train", "test")
    ]  # fmt: skip
    for record in study.records.values():  # the test after the last epoch alone
        record.metrics[:-1] = [{**row, "val_accuracy": None} for row in record.metrics[:-1]]
    curves = next(one for one in build_figures(study, rows) if one.name == "curves-by-clip")
    assert {axes_of(panel).get_ylabel() for panel in curves.panels} == {"training accuracy (%)"}


def test_accuracy_against_frames_has_a_line_for_each_norm_and_batch(clips):
    _, rows, figures = clips
    figure = figures["accuracy-by-clip"]
    ours, paper = figure.panels
    ax = axes_of(ours)
    found = drawn(ax)
    names = ["gn:size=8", *(f"bn, {batch} clips per worker" for batch in (8, 4, 2))]
    assert set(found) == {*names, "ceiling of 8 frames at stride 2"}
    places = []
    for name, line in zip(names, lines_of(rows), strict=True):
        xs, ys = found[name]
        assert ys == [row.mean for row in line.rows.values()]
        assert [round(x) for x in xs] == [0, 1]
        places.append(xs[0])
    assert places == sorted(places), "side by side"
    assert len(ax.containers) == 4, "each with its intervals"
    low, high = lines_of(rows)[1].rows[16, 1].result.interval
    bars = ax.containers[1].lines[2][0].get_segments()[1]
    assert [y for _, y in bars] == pytest.approx([low, high])
    assert found["ceiling of 8 frames at stride 2"][1] == [90.0, 90.0]
    assert "8 frames at stride 2: 90 %" in figure.caption
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8\n(stride 2)", "16\n(stride 1)"]
    assert [t.get_text() for t in axes_of(paper).texts] == [
        "BN, N = 8", "BN, N = 4", "GN, N = 8", "GN, N = 4",
    ]  # fmt: skip


def test_accuracy_against_clips_per_worker_has_a_line_for_each_norm_and_length(clips):
    _, rows, figures = clips
    found = drawn(axes_of(figures["accuracy-by-batch"].panels[0]))
    for norm in ("gn:size=8", "bn"):
        for frames, stride in ((16, 1), (8, 2)):
            xs, ys = found[f"{norm}, {frames} frames at stride {stride}"]
            mine = [r for r in rows if (r.labels["norm"], r.labels["frames"]) == (norm, frames)]
            assert (xs, ys) == ([8.0, 4.0, 2.0], [row.mean for row in mine])
    assert found["ceiling of 8 frames at stride 2"] == ([8, 4, 2], [90.0] * 3)


def test_clips_of_the_same_frames_at_two_strides_have_both_their_costs(tmp_path):
    out = clip_study(tmp_path, ("bn",), seeds=1, batches=(8,))
    cells = json.loads((out / "study.json").read_text())["cells"]
    for cell in cells:
        cell["labels"]["frames"] = 8
    add_to_manifest(out, cells=cells)
    figure = next(one for one in build_figures(*loaded(out)) if one.name == "cost-by-clip")
    xs, ys = drawn(axes_of(figure.panels[0]))["bn"]
    assert xs == [8, 8]
    assert sorted(ys) == [2_200_000 * frames / 2**20 for frames in (8, 16)]


def test_without_times_the_memory_stands_alone(tmp_path):
    figure = build_figures(*loaded(clip_study(tmp_path, ("bn",), seeds=1)))[-1]
    assert (figure.title, len(figure.panels)) == ("Memory against frames", 1)
    assert "time of forward" not in figure.caption


def test_memory_and_time_against_frames_for_each_norm(clips):
    _, _, figures = clips
    memory, time = figures["cost-by-clip"].panels
    found = drawn(axes_of(memory))
    assert found == {
        "gn:size=8": ([8, 16], [2_000_000 * frames / 2**20 for frames in (8, 16)]),
        "bn": ([8, 16], [2_200_000 * frames / 2**20 for frames in (8, 16)]),
    }
    assert set(drawn(axes_of(time))) == {"gn:size=8", "bn"}
    assert axes_of(time).get_ylabel() == "both passes (ms per clip)"


def test_norms_with_weight_standardization_have_a_panel_and_looks_of_their_own(tmp_path):
    norms = ("gn:size=8", "bn", "gn:size=8+ws", "bn+ws")
    study, rows = loaded(clip_study(tmp_path, norms, seeds=1))
    by_clip, by_batch, *_ = build_figures(study, rows)
    assert len(by_clip.panels) == 3
    assert len(by_batch.panels) == 2
    assert axes_of(by_clip.panels[1]).get_title().endswith("\ngn:size=8+ws, bn+ws")
    for figure in (by_clip, by_batch):
        limits = {axes_of(panel).get_ylim() for panel in figure.panels[:2]}
        assert len(limits) == 1, "panels of one study have one axis"
        low, high = limits.pop()
        assert all(low < end < high for row in rows for end in (row.mean, 90.0))
    looks = [(style.color, style.dashes) for style in line_styles(rows).values()]
    assert len(set(looks)) == len(looks) == 8


def test_what_has_no_result_is_marked(tmp_path):
    out = clip_study(tmp_path, seeds=1)
    spoil(out / "runs/bn-16f-n2-s0", "diverged", "loss is not finite")
    study, rows = loaded(out)
    for figure in build_figures(study, rows)[:2]:
        words = [text.get_text() for text in axes_of(figure.panels[0]).texts]
        assert words == ["\u00d7", "diverged"]
        assert "there is no interval to draw" in figure.caption


def test_without_ceilings_and_published_numbers_nothing_is_said_of_them(tmp_path):
    data = {"name": "videos", "train": 2, "test": 2, "classes": 2}
    study, rows = loaded(clip_study(tmp_path, seeds=1, published=[], data=data))
    figure = build_figures(study, rows)[0]
    assert len(figure.panels) == 1
    assert "grey line" not in figure.caption
    assert not any(name.startswith("ceiling") for name in drawn(axes_of(figure.panels[0])))
