"""The report of a study of arms: box AP, higher is better, two seeds, three arms."""

import csv
import io
import json
import re

import pytest

from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.page import _page, main_metric, report_numbers, write_report
from groupnorm.study.report.tables import (
    main_table_of,
    main_title_of,
    problems,
    run_groups,
    run_header,
    tables_csv,
)
from groupnorm.study.report.text import describe
from groupnorm.study.report.unrounded import differences_csv, study_numbers
from groupnorm.study.results.differences import (
    difference_header,
    difference_lines,
    differences_of,
    how_compared,
)
from tests.study.fake_detectors import add_samples, detector_study
from tests.study.fake_store import (
    ARMS,
    add_costs,
    add_to_manifest,
    arms_study,
    loaded,
    spoil,
)

FROZEN, BEST, SCRATCH = ARMS


def test_a_line_for_each_arm_and_a_column_for_each_metric(arms):
    study, rows = arms
    assert main_table_of(study, rows) == (
        ["arm", "box AP", "mask AP"],
        [
            [FROZEN, "31.6 ± 0.3", "26.9 ± 0.2"],
            [BEST, "33.2 ± 0.2", "28.2 ± 0.2"],
            [SCRATCH, "6.5 ± 0.1", "5.5 ± 0.1"],
        ],
    )
    assert main_title_of(study, rows) == (
        "Box AP, mask AP: resnet8 on digits, last epoch of 5, mean ± standard deviation over "
        "2 seeds"
    )


def test_recomputed_statistics_have_a_line_of_their_own(tmp_path):
    """It follows that of its arm; a metric that was not recomputed has a dash there."""
    out = arms_study(tmp_path)
    for path in out.glob("runs/arm0-*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1]["precise_box_ap"] = lines[-1]["box_ap"] + 1.0
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    study, rows = loaded(out)
    lines = main_table_of(study, rows)[1]
    assert lines[:2] == [
        [FROZEN, "31.6 ± 0.3", "26.9 ± 0.2"],
        [f"{FROZEN} (recomputed statistics)", "32.6 ± 0.3", "\u2013"],
    ]
    assert [line[0] for line in lines[2:]] == [BEST, SCRATCH]
    rows[0].further["precise_mask_ap"] = {0: 28.0, 1: 28.0}
    assert main_table_of(study, rows)[1][1][2] == "28.0 ± 0.0"


def test_differences_are_against_the_first_arm_over_paired_seeds(arms):
    study, rows = arms
    found = differences_of(study, rows)
    lines = [dict(zip(difference_header(study), line, strict=True))
             for line in difference_lines(study, found)]  # fmt: skip
    assert [list(line) for line in lines[:1]] == [
        ["arm", "against", "difference", "95 % interval", "pairs of seeds", "verdict"]
    ]
    assert [(line["arm"], line["against"], line["verdict"]) for line in lines] == [
        (BEST, FROZEN, "higher box AP"), (SCRATCH, FROZEN, "lower box AP"),
    ]  # fmt: skip
    assert (lines[0]["difference"], lines[0]["95 % interval"]) == ("1.6", "0.7 to 2.5")
    assert how_compared(study, found) == (
        "Above 0 the arm has a higher box AP than what it stands against. Each arm stands against "
        "the first one."
    )


def test_what_has_no_result_is_named(tmp_path):
    arms_study(tmp_path)
    for seed in range(2):
        spoil(tmp_path / f"runs/arm0-s{seed}", "diverged", "loss nan")
    study, rows = loaded(tmp_path)
    text = describe(study, rows)
    assert text[0].startswith(f"{BEST} is 26.7 points better than {SCRATCH} in box AP")
    assert any(f"Without a result: {FROZEN} (diverged)." in paragraph for paragraph in text)
    assert main_table_of(study, rows)[1][0] == [FROZEN, "diverged", "diverged"]
    assert problems(study, rows)[0][:2] == [FROZEN, "diverged"]
    assert {line[-1] for line in difference_lines(study, differences_of(study, rows))} == {
        f"no result: {FROZEN} diverged"
    }


def label_detectors(out):
    """An arm whose name ends in a blank is RetinaNet's, any other Mask R-CNN's."""
    path = out / "study.json"
    manifest = json.loads(path.read_text())
    for cell in manifest["cells"]:
        arm = cell["labels"]["arm"]
        detector = "RetinaNet" if arm.endswith(" ") else "Mask R-CNN"
        cell["labels"] = {"arm": arm.strip(), "detector": detector}
    path.write_text(json.dumps(manifest))


def test_arms_are_compared_where_their_other_labels_agree(tmp_path):
    out = arms_study(tmp_path, arms={"bn": 20.0, "gn": 22.0, "bn ": 30.0, "gn ": 29.0})
    label_detectors(out)
    study, rows = loaded(out)
    assert main_table_of(study, rows)[0] == ["arm", "detector", "box AP", "mask AP"]
    found = differences_of(study, rows)
    assert [line[:4] for line in difference_lines(study, found)] == [
        ["gn", "bn", "Mask R-CNN", "2.0"], ["gn", "bn", "RetinaNet", "-1.0"],
    ]  # fmt: skip
    assert how_compared(study, found).endswith("against the first one with the same detector.")
    first, *others = describe(study, rows)
    assert first.startswith("gn (Mask R-CNN) is 2.0 points better than bn (Mask R-CNN) in")
    assert any("bn (RetinaNet) is 1.0 points better than gn (RetinaNet)" in one for one in others)
    assert [d["detector"] for d in study_numbers(study, rows)["differences"]] == 2 * [
        "Mask R-CNN", "RetinaNet",
    ]  # fmt: skip


def test_a_metric_that_some_arms_lack_is_compared_where_it_is(tmp_path):
    """No line says of arms without masks that they differ in none; one of many says it lacks it."""
    out = arms_study(tmp_path, arms={"bn": 20.0, "gn": 22.0, "bn ": 30.0, "gn ": 29.0, "ln": 9.0})
    label_detectors(out)
    for number in (2, 3, 4):
        for path in out.glob(f"runs/arm{number}-*/metrics.jsonl"):
            path.write_text(path.read_text().replace('"mask_ap"', '"other"'))
    study, rows = loaded(out)
    (mask_ap,) = study.further
    found = [(one.name, one.verdict) for one in differences_of(study, rows, mask_ap)]
    assert found == [
        ("gn", "higher mask AP"),
        ("ln", "no mask AP is measured: ln"),
    ]
    for seed in range(2):
        for number in (2, 3):
            spoil(out / f"runs/arm{number}-s{seed}", "diverged", "loss nan")
    lines = differences_of(*loaded(out), mask_ap)
    assert lines[-1].verdict == "no result: gn diverged, bn diverged"


def test_every_run_has_every_metric_and_no_empty_column(arms):
    study, rows = arms
    header = run_header(study)
    assert header == [
        "arm", "box AP: mean ± spread", "seed", "status", "box AP", "mask AP", "memory of a step",
        "parameters",
    ]  # fmt: skip
    group = run_groups(study, rows)[1]
    assert group.shared == [BEST, "33.20 ± 0.18"]
    assert group.seeds[0][:4] == ["0", "finished", "33.07", "28.11"]
    assert len(group.shared) + len(group.seeds[0]) == len(header)


def test_numbers_for_programs(arms):
    study, rows = arms
    found = json.loads(json.dumps(study_numbers(study, rows), allow_nan=False))
    assert found["unit"] == "box AP"
    assert (found["metric"]["better"], found["also"][0]["name"]) == ("higher", "mask_ap")
    row = found["rows"][1]
    assert list(row) == [
        "arm", "status", "reason", "seeds_asked", "seeds_finished", "evaluated_on", "box_ap",
        "box_ap_spread", "box_ap_low", "box_ap_high", "recomputed_box_ap",
        "recomputed_box_ap_spread", "recomputed_box_ap_low", "recomputed_box_ap_high", "mask_ap",
        "mask_ap_spread", "mask_ap_low", "mask_ap_high", "seeds",
    ]  # fmt: skip
    assert row["box_ap"] == pytest.approx(33.2)
    assert row["seeds"][0] == {
        "seed": 0, "box_ap": pytest.approx(33.07), "recomputed_box_ap": None,
        "mask_ap": pytest.approx(0.85 * 33.07),
    }  # fmt: skip
    assert [(d["metric"], d["arm"], d["against"], d["told_apart"])
            for d in found["differences"]] == [
        ("box_ap", BEST, FROZEN, True), ("box_ap", SCRATCH, FROZEN, True),
        ("mask_ap", BEST, FROZEN, True), ("mask_ap", SCRATCH, FROZEN, True),
    ]  # fmt: skip
    header, *lines = differences_csv(study, rows).splitlines()
    assert header.startswith("arm,recomputed,against,difference,standard_error,low,high,")
    assert [line.rpartition(",")[2] for line in lines] == ["box_ap"] * 2 + ["mask_ap"] * 2
    line = next(csv.DictReader(io.StringIO(tables_csv(study, rows))))
    assert float(line["box_ap"]) == pytest.approx(31.4)
    assert float(line["mask_ap"]) == pytest.approx(0.85 * 31.4)
    assert float(line["box_ap_mean"]) == pytest.approx(31.6)
    assert not [name for name in line if "error" in name]


def test_figures_have_the_best_arm_at_the_top_and_its_curve(arms):
    study, rows = arms
    final, curves = build_figures(study, rows)
    assert [f.name for f in (final, curves)] == ["box-ap-by-arm", "curves-by-arm"]
    assert "best at the top. Bars are the 95 % intervals of the means" in final.caption
    axes = drawn(final.panels[0])
    assert [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()] == [
        SCRATCH, FROZEN, BEST,
    ]  # fmt: skip
    assert axes.get_xlabel() == "box AP"
    (panel,) = curves.panels
    axes = drawn(panel)
    assert axes.get_ylabel() == "test box AP"
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines[BEST].get_xdata()) == [1, 2, 3, 4, 5]
    assert lines[BEST].get_ydata()[-1] == pytest.approx(33.2)


def drawn(panel):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


def test_costs_stand_beside_the_metric(tmp_path):
    study, rows = loaded(arms_study(tmp_path))
    add_costs(tmp_path)
    study, rows = loaded(tmp_path)
    figure = build_figures(study, rows)[-1]
    assert figure.name == "box-ap-by-cost"
    assert "what an arm costs: upper left is better." in figure.caption


def test_the_runs_that_arms_start_from_have_their_problems_and_settings(tmp_path):
    """They stand beside those of the arms, named by their own data set."""
    study, rows = loaded(detector_study(tmp_path))
    name, start = next(iter(study.initial.items()))
    start.env["data_notes"] = ["2 files have no class"]
    start.metrics[-1]["image_counts"] = {"replaced_images": 3}
    start.config["base_lr"] = 0.12345
    assert problems(study, rows) == [
        ["digits", "data", "2 files have no class"],
        [
            "digits", "unreadable files",
            "files that cannot be decoded: 3 training images replaced by others of the same "
            f"class; named in runs/{name}/unreadable.json",
        ],
    ]  # fmt: skip
    text = _page(study, rows, None, [], "", "", None, None)
    _, of_arms, of_starts = re.split("<h3>Configuration of the runs.*</h3>", text)
    assert "0.12345" in of_starts
    assert "0.12345" not in of_arms
    study, rows = loaded(arms_study(tmp_path / "scratch"))
    assert "others start from" not in _page(study, rows, None, [], "", "", None, None)


@pytest.mark.slow
def test_the_whole_report(tmp_path):
    out = arms_study(tmp_path)
    page, *files = write_report(out, labels=[f"{BEST}=Ours"])
    text = page.read_text()
    assert "<h2>Box AP</h2>" in text
    assert "<h2>Differences in points</h2>" in text
    assert f"&#34;Ours&#34; is {BEST}" in text
    for word in ("error", "images per worker", "batch norm"):
        assert word not in re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", text, flags=re.DOTALL)
    assert (
        (out / "tables.md")
        .read_text()
        .startswith("| arm | box AP | mask AP |\n| --- | ---: | ---: |\n| frozenbn, fine-tuned |")
    )
    assert r"\label{tab:box-ap}" in (out / "tables.tex").read_text()
    assert {path.suffix for path in files if path.stem == "box-ap-by-arm"} == {
        ".svg", ".pdf", ".png",
    }  # fmt: skip
    assert report_numbers(out)["rows"][0]["arm"] == FROZEN
    assert main_metric(out) == "box AP"


@pytest.mark.slow
def test_the_whole_report_of_detectors(tmp_path):
    """Every section is there; the same records give the same bytes."""
    finding = {"statement": "GN is above frozen BN", "source": "Table 4",
               "better": {"arm": "GN"}, "worse": {"arm": "frozen BN"}}  # fmt: skip
    out = add_samples(detector_study(tmp_path / "a", findings=[finding]))
    add_to_manifest(out, published=["coco-c4"])
    page, *files = write_report(out)
    text = page.read_text()
    for words in (
        "<h2>Which published findings appear</h2>", "<summary>The same of mask AP</summary>",
        "<h2>Precision against recall</h2>", "<h2>Predictions on test images</h2>",
        "<h2>Where the time goes</h2>", "box AP, published", "pretraining: top-1 error (%)",
        'src="data:image/png;base64,',
    ):  # fmt: skip
        assert words in text, words
    assert {path.name for path in files if path.stem == "predictions"} == {"predictions.png"}
    line = next(csv.DictReader(io.StringIO((out / "differences.csv").read_text())))
    assert (line["parts"], line["parts_told_apart"], line["metric"]) == ("10", "yes", "box_ap")
    before = {path: path.read_bytes() for path in (page, *files)}
    write_report(out)
    assert {path: path.read_bytes() for path in before} == before
