"""Write the tables of README.md and of pages in docs/ from the records in results/.

    python scripts/update_readme.py [--check]

Their text between `<!-- begin: NAME -->` and `<!-- end: NAME -->` is made from records, and so are
the figures of studies that they show. `--check` writes nothing and fails when a document is not
what the records say.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import choose_recipe
import search_proof

from groupnorm.counts import counted
from groupnorm.export.gate.network import closeness
from groupnorm.export.targets import TARGETS
from groupnorm.files import write_atomic
from groupnorm.study.report.conversion_tables import conversion_tables
from groupnorm.study.report.cost_tables import cost_table
from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.predictions import prediction_sheet
from groupnorm.study.report.figures.render import render_files
from groupnorm.study.report.figures.sheet import Sheet
from groupnorm.study.report.figures.tuning import tuning_figure
from groupnorm.study.report.markup import MarkedTable
from groupnorm.study.report.step_tables import step_tables
from groupnorm.study.report.tables import main_table_of
from groupnorm.study.report.text import describe
from groupnorm.study.report.text.conversions import conversions_text
from groupnorm.study.results.compare import compare_published
from groupnorm.study.results.costs import how_timed
from groupnorm.study.results.differences import (
    difference_header,
    difference_lines,
    differences_of,
)
from groupnorm.study.results.estimates import paired_difference
from groupnorm.study.results.findings import appearances, findings_header, findings_lines
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.rows import (
    Row,
    Study,
    by_runs,
    images_of,
    load_study,
    summarize_study,
)
from groupnorm.study.results.rules import epochs_rule
from groupnorm.study.results.samples import samples_of
from groupnorm.study.results.tuning import Tuning, how_tuned, read_tuning, tuning_table
from groupnorm.study.results.wording import noun

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
KERNELS = ROOT / "docs" / "kernels.md"
NUMERICS = ROOT / "docs" / "numerics.md"
GPU = ROOT / "docs" / "gpu.md"
STUDY = ROOT / "docs" / "study.md"
COST = ROOT / "docs" / "cost.md"
DETECTORS = ROOT / "docs" / "detectors.md"
GROUPS = ROOT / "docs" / "number-of-groups.md"
CONVERSION = ROOT / "docs" / "conversion.md"
FRAMEWORKS = ROOT / "docs" / "frameworks.md"
EXPORT = ROOT / "docs" / "export.md"
WHY = ROOT / "docs" / "why-conversion-loses.md"
RESULTS = ROOT / "results"


@cache
def read_study(folder: Path) -> Study:
    """The study in a folder, read once for all sections."""
    return load_study(folder)


def study_section(pattern: str, caption: str, *, above: str = "") -> str:
    """A figure, the main table, and where the numbers come from; `above` leads to the root."""
    folder = only(pattern)
    study = read_study(folder)
    rows = summarize_study(study)
    inside = above + folder.relative_to(ROOT).as_posix()
    if study.manifest["protocol"] == "paper":
        caption += steps(study)
    found = describe(study, rows)[0]
    table = markdown(*main_table_of(study, rows))
    return "\n".join(
        [
            f"![Error against images per worker]({inside}/figures/error-by-batch.png)",
            "",
            caption,
            "",
            *table,
            "",
            found,
            "",
            source(study, rows, folder.name, inside),
        ]
    )


def with_last_epoch(pattern: str, caption: str) -> str:
    """A study's section for a page in docs/, and its table after the last epoch alone.

    In a short run the error still falls fast during the last five epochs, so that their median is
    mostly the error of an epoch in the middle.
    """
    study = read_study(only(pattern))
    ends = {
        name: replace(record, config={**record.config, "reported_epochs": 1})
        for name, record in study.records.items()
    }
    study = replace(study, records=ends)
    rows = summarize_study(study)
    lines = [
        study_section(pattern, caption, above="../"),
        "",
        "The same after the last epoch:",
        "",
        *markdown(*main_table_of(study, rows)),
    ]
    if any(row.spread is not None for row in rows):
        table = markdown(
            difference_header(study), difference_lines(study, differences_of(study, rows))
        )
        lines += ["", describe(study, rows)[0], "", "Differences after the last epoch:", "", *table]
    return "\n".join(lines)


def tuned_study(pattern: str) -> tuple[Path, Study, list[Row], Tuning]:
    """A tuned study's folder, the study, its rows, and what was tried."""
    folder = only(pattern)
    study = read_study(folder)
    tuning = read_tuning(folder, study)
    if tuning is None:
        raise SystemExit(f"results/{folder.name} is no tuned study")
    return folder, study, summarize_study(study), tuning


def tuned_section(pattern: str, untuned: str | None = None) -> str:
    """A tuned study: what was tried on validation images, and the tables of what was chosen.

    Args:
        untuned: the record of the same study with one value for all; None without a comparison.
    """
    folder, study, rows, tuning = tuned_study(pattern)
    found = describe(study, rows, tuning)[0]
    differences = differences_of(study, rows)
    figure = f"../results/{folder.name}/figures/error-by-{tuning.field}.png"
    return "\n".join(
        [
            f"![Error on the validation images against {tuning.field}]({figure})",
            "",
            *markdown(*tuning_table(tuning)),
            "",
            " ".join(how_tuned(tuning)),
            "",
            "The test images with what was chosen:",
            "",
            *markdown(*main_table_of(study, rows)),
            "",
            found,
            "",
            *markdown(difference_header(study), difference_lines(study, differences)),
            "",
            *_change(rows, untuned),
            source(study, rows, folder.name, f"../results/{folder.name}"),
        ]
    )


def _change(rows: list[Row], untuned: str | None) -> list[str]:
    """What tuning changed, where there is a record without it."""
    if untuned is None:
        return []
    return [
        "What the choice changed, over the same seeds of the record that was not tuned:",
        "",
        *markdown(*tuned_against(rows, summarize_study(read_study(only(untuned))))),
        "",
    ]


def tuned_against(tuned: list[Row], untuned: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and a line for every configuration: its error tuned and not, and the difference."""
    before = {(row.labels["norm"], row.labels["batch_per_worker"]): row for row in untuned}
    header = ["norm", "images per worker", "chosen", "tuned", "not tuned", "difference",
              "95 % interval"]  # fmt: skip
    lines = []
    for same in by_runs(tuned):
        row = same[0]
        other = before[row.labels["norm"], row.labels["batch_per_worker"]]
        found = paired_difference(row.results, other.results)
        if found is None or row.result is None or other.result is None:
            raise SystemExit(f"{row.labels} has no seeds in both records")
        interval = "-" if found.interval is None else "{:.1f} to {:.1f}".format(*found.interval)
        lines.append(
            [
                row.labels["norm"],
                ", ".join(str(one.labels["batch_per_worker"]) for one in same),
                str(row.labels["base_lr"]),
                f"{row.result.mean:.1f}",
                f"{other.result.mean:.1f}",
                str(found.shown),
                interval if found.spread else "the same runs",
            ]
        )
    return header, lines


def steps(study: Study) -> str:
    """How many steps the largest and the smallest batch were trained for, and what follows."""
    taken = {}
    for record in study.records.values():
        images = record.config["workers"] * record.config["batch_per_worker"]
        taken[images // 8] = record.metrics[-1]["step"]
    most, fewest = max(taken), min(taken)
    return (
        f" {taken[most]:,} at {most} images per worker, {taken[fewest]:,} at {fewest}. Rows are to "
        "be compared within a column: at large batches there are few steps, which not every norm "
        "takes equally well; the paper's 100 epochs of ImageNet do not have this problem."
    )


def detection_picture() -> str:
    """The sheet of predictions of the study of detectors, and what was found."""
    return _picture(
        "detection-quick-*",
        "![Test images with what each arm finds]({}/figures/predictions.png)",
        "The first test images, the truth, and what a detector with each norm finds. ",
    )


def video_picture() -> str:
    """The figure of the study of videos, and what was found."""
    picture = "![Accuracy against frames of a clip]({}/figures/accuracy-by-clip.png)"
    return _picture("video-quick-*", picture, "")


def _picture(pattern: str, picture: str, caption: str) -> str:
    """A figure of a study, {} being the folder of its record, and its first finding."""
    folder = only(pattern)
    study = read_study(folder)
    inside = folder.relative_to(ROOT).as_posix()
    found = describe(study, summarize_study(study))[0]
    record = f"Record: [{folder.name}]({inside})."
    return "\n".join([picture.format(inside), "", f"{caption}{found}", record])


def detection_section(pattern: str) -> str:
    """The study of detectors at one scale."""
    return _arms_section(pattern, "![Box AP by arm]({}/figures/box-ap-by-arm.png)", "COCO's AP")


def video_section(pattern: str, whole: bool = True) -> str:
    """The study of video classifiers at one scale; without `whole` its tables are left out."""
    picture = "![Accuracy against frames of a clip]({}/figures/accuracy-by-clip.png)"
    return _arms_section(pattern, picture, "Top-1 accuracy", whole)


def _arms_section(pattern: str, picture: str, measured: str, whole: bool = True) -> str:
    """A study with published findings: its table, text, differences, findings, and the source.

    Args:
        picture: {} is the folder of the record.
        measured: what the metric is called where the source is given.
        whole: with the tables of results and of differences, and the paper's beside them; else with
            the command that writes them.
    """
    folder = only(pattern)
    study = read_study(folder)
    rows = summarize_study(study)
    inside = "../" + folder.relative_to(ROOT).as_posix()
    found = appearances(study, rows)
    differences = differences_of(study, rows)
    record = next(iter(study.records.values()))
    data, env = study.manifest["data"], record.env
    runs = [*study.records.values(), *study.initial.values()]
    seconds = sum(row["timing"]["seconds"] for run in runs for row in run.metrics)
    where = f"{data['test']:,} {images_of(study.records.values())}"
    results = [*markdown(*main_table_of(study, rows)), ""]
    differing = [
        f"Differences of {noun(study.metric)}:",
        "",
        *markdown(difference_header(study), difference_lines(study, differences)),
        "",
    ]
    published = _beside_published(study, rows)
    if not whole:
        results = differing = published = []
    return "\n".join(
        [
            picture.format(inside),
            "",
            *results,
            *describe(study, rows),
            "",
            *differing,
            "Which of the published findings appear at this size, and which do not:",
            "",
            *markdown(findings_header(study), findings_lines(study, found)),
            "",
            *published,
            f"{measured} in percent on the {where} of {data['name']} (version "
            f"{data['version']}), {epochs_rule(study)}. Made by `{study.manifest['command']}` with "
            f"torch {env['torch']} on {env['cpu']}, {env['threads']} thread a trial, two trials at "
            f"a time; the epochs of all {len(runs)} runs, with their evaluation, took "
            f"{seconds / 60:.0f} minutes together. Record: [{folder.name}]({inside})"
            + ("." if whole else f"; `groupnorm report {inside[3:]}` writes all its tables."),
        ]
    )


def _beside_published(study: Study, rows: list[Row]) -> list[str]:
    """Every published table of a study of arms, and the arms that the study has of it."""
    lines = []
    for compared in compare_published(study, rows):
        lines += [compared.words, "", *markdown(compared.header, compared.lines), ""]
    return lines


def source(study: Study, rows: list[Row], name: str, inside: str) -> str:
    """One sentence: command, data, seeds, spread, versions, machine, time."""
    manifest, record = study.manifest, next(iter(study.records.values()))
    env, config = record.env, record.config
    seeds = max(row.asked for row in rows)
    spread = "one seed, so no interval" if seeds == 1 else f"{seeds} seeds, ± sample deviation"
    data = manifest["data"]
    images = config["train_images"] or data["train"]
    return (
        f"Top-1 error in percent, {epochs_rule(study)}, {spread}; "
        f"{config['model']} on {images:,} training and {data['test']:,} test images of "
        f"{data['name']} (version {data['version']}). Made by `{manifest['command']}` with torch "
        f"{env['torch']} on {env['cpu']}, {env['threads']} thread a trial; record: "
        f"[{name}]({inside})."
    )


def speed_section() -> str:
    """The benchmark of the study against a plain script."""
    path = only("bench-study-*") / "bench_study.json"
    inside = path.relative_to(ROOT).as_posix()
    record = json.loads(path.read_text(encoding="utf-8"))
    wall = {key: decimal_text(ratio) for key, ratio in record["wall_ratio"].items()}
    return "\n".join(
        [
            "Against the script one would write (torchvision transforms, DataLoader, `torch.nn` "
            f"norms, one trial after the other), the same grid is done {wall['median']} times "
            f"sooner on {record['cores']} cores (from {wall['min']} to {wall['max']} over "
            f"{len(record['rounds'])} interleaved rounds), with start-up and evaluation, of which "
            "ours does more.",
            "",
            f"`{record['command']}`, torch {record['environment']['torch']}; record: "
            f"[{inside}](../{inside}).",
        ]
    )


def accuracy_sentence() -> str:
    """Error of PyTorch's operator and of ours on data with an offset, for README."""
    path, record = accuracy_record()
    errors = {
        row["name"]: row["output"]
        for row in record["rows"]
        if row["mean"] == 1000 and row["layout"] == "channels_last"
    }
    return (
        "On channels_last input of unit spread around a mean of 1,000, PyTorch's operator for the "
        f"CPU is off by {errors['torch']:.1e}, ours by {errors['groupnorm']:.1e} (largest error; "
        f"[record]({path.relative_to(ROOT).as_posix()}))."
    )


def accuracy_record() -> tuple[Path, dict[str, Any]]:
    """The newest record of errors on data with an offset: its file, and what it holds."""
    path = only("offset-accuracy-*") / "accuracy.json"
    return path, json.loads(path.read_text(encoding="utf-8"))


def accuracy_table(quantity: str) -> str:
    """A quantity of the errors on data with an offset, by mean, layout, PyTorch's and ours."""
    path, record = accuracy_record()
    found: dict[int, list[str]] = {}
    for row in record["rows"]:
        found.setdefault(row["mean"], []).append(f"{row[quantity]:.1e}")
    header = ["mean", "PyTorch, contiguous", "ours, contiguous", "PyTorch, channels_last",
              "ours, channels_last"]  # fmt: skip
    env, folder = record["environment"], path.parent.name
    source = (
        f"`{record['command']}`, torch {env['torch']}, {env['cpu']} ({env['group_norm']}); record: "
        f"[{folder}](../results/{folder})."
    )
    table = markdown(header, [[f"{mean:,}", *texts] for mean, texts in found.items()])
    return "\n".join([*table, "", source])


def operators_record(pattern: str = "bench-ops-*-1-thread-*") -> tuple[Path, dict[str, Any]]:
    """The newest benchmark of the C++ kernels whose name matches: its folder, and what it holds."""
    folder = only(pattern)
    return folder, json.loads((folder / "bench_ops.json").read_text(encoding="utf-8"))


def busier_record() -> tuple[Path, dict[str, Any]]:
    """The same on a machine that others made slower."""
    return operators_record("busier-bench-ops-*-1-thread-*")


SEVEN_RELU = "seven shapes, ReLU"
NEAR = 1.05  # times a target: what two runs differ by
CLOSE = "within 5 %"


def kernels_section() -> str:
    """How fast the C++ kernels are, for README: seven shapes, the slowest cells, a layer's call."""
    folder, record = operators_record()
    found: dict[str, dict[str, str]] = {}
    for line in record["summary"]["speed"]:
        if line["among"] == SEVEN_RELU and line["direction"] != "backward":
            name = f"{line['direction'].replace('+', ' + ')}, {line['dtype']}"
            ratios = f"{line['geometric_mean']:.1f} ({line['default']:.1f})"
            found.setdefault(name, {})[line["layout"]] = ratios
    layouts = list(next(iter(found.values())))
    lines = [[name, *(by[layout] for layout in layouts)] for name, by in found.items()]
    calls = [
        f"{row['warm']['groupnorm']:.1f} microseconds {row['direction'].replace('+', ' + ')} "
        f"(PyTorch {row['warm']['eager']:.1f})"
        for row in record["calls"]
        if row["what"].startswith("layer") and "without" not in row["direction"]
    ]
    env = record["environment"]
    return "\n".join(
        [
            *markdown(["times faster than PyTorch eager and its ReLU", *layouts], lines),
            "",
            "Geometric means over seven shapes from 0.2 to 134 MB, with kept blocks and, in "
            f"brackets, without, in one run. Of {len(record['rows']) // 3} cases the slowest "
            f"{'; '.join(slowest_of(record))}. The call of a layer on 2 x 64 x 8 x 8 takes "
            f"{' and '.join(calls)}. One thread of {env['cpu']}, torch {env['torch']}, "
            f"`{record['command']}`; [record]({folder.relative_to(ROOT).as_posix()}). On "
            "[a busier machine](docs/kernels.md#on-a-busier-machine) of the kind the slowest "
            f"were {' and '.join(slowest_of(busier_record()[1]))}.",
        ]
    )


def slowest_of(record: dict[str, Any]) -> list[str]:
    """The slowest cases with an activation and without one."""
    return [
        f"{with_or_without}: {worst_cell(record['rows'], activation)}"
        for with_or_without, activation in (("with an activation", True), ("without one", False))
    ]


def worst_cell(rows: list[dict[str, Any]], activation: bool) -> str:
    """The least ratio to PyTorch, forward or with backward, and where that is."""
    worst = min(
        (row for row in rows
         if row["direction"] != "backward" and (row["activation"] is not None) == activation),
        key=times_faster,
    )  # fmt: skip
    return f"{times_faster(worst):.2f} times ({where_of(worst)})"


def times_faster(row: dict[str, Any]) -> float:
    """PyTorch's time over ours, of one case of the operators' benchmark."""
    seconds = row["seconds"]
    return float(seconds["eager"]["median"] / seconds["groupnorm"]["median"])


def where_of(row: dict[str, Any]) -> str:
    """Shape, dtype, layout and direction of such a case."""
    place = ", ".join(str(row[key]) for key in ("workload", "dtype", "layout"))
    return f"{place}, {row['direction'].replace('+', ' + ')}"


def kept_sentence() -> str:
    """What keeping blocks is worth beside the kernels, for README."""
    folder, record = training_record()
    kept, kernels = training_gains(record["rows"], "ResNet-18")
    env = record["environment"]
    return (
        "A training step of ResNet-18 (16 images of 64x64, one thread) takes "
        f"{percents(kept)} less time after the call, whichever group norm it has; our kernels in "
        f"place of `torch.nn.GroupNorm` take {percents(kernels)} off it. `{record['command']}`, "
        f"torch {env['torch']}, {env['cpu']}; [record]({folder.relative_to(ROOT).as_posix()})."
    )


def percents(gains: list[float]) -> str:
    """A range of shares, as percent."""
    return f"{100 * min(gains):.0f} to {100 * max(gains):.0f} %"


def training_record() -> tuple[Path, dict[str, Any]]:
    """The newest benchmark of training steps: its folder, and what it holds."""
    folder = only("bench-training-*")
    return folder, json.loads((folder / "bench_training.json").read_text(encoding="utf-8"))


def training_gains(rows: list[dict[str, Any]], network: str) -> tuple[list[float], list[float]]:
    """Shares of a network's step that keeping blocks saves, and that our kernels save."""
    times = {(row["way"], row["layout"], row["memory"]): row["milliseconds"]
             for row in rows if row["network"] == network}  # fmt: skip
    kept = [1 - times[way, layout, "kept"] / times[way, layout, memory]
            for way, layout, memory in times if memory == "default"]  # fmt: skip
    kernels = [1 - times["native", layout, memory] / times[way, layout, memory]
               for way, layout, memory in times if way == "torch"]  # fmt: skip
    return kept, kernels


def speed_of_kernels_section() -> str:
    """The C++ kernels: figure, and times faster than PyTorch beside what was aimed at."""
    folder, record = operators_record()
    inside = "../" + folder.relative_to(ROOT).as_posix()
    lines = [
        [
            f"{line['among']}: {line['direction'].replace('+', ' + ')}, {line['dtype']}, "
            f"{line['layout']}",
            cell(line["geometric_mean"], line["target"], least=True),
            f"{line['default']:.2f}",
            "" if line["over_compile"] is None else f"{line['over_compile']:.2f}",
            f"{cell(line['worst'], line['target_worst'], least=True)}: {line['worst_workload']}",
        ]
        for line in record["summary"]["speed"]
        if line["direction"] != "backward"
    ]
    header = ["times faster than PyTorch eager (aimed at)", "kept blocks", "glibc as it is",
              "than torch.compile", "worst cell"]  # fmt: skip
    return "\n".join(
        [
            f"![Speed of the kernels]({inside}/speed.png)",
            "",
            *markdown(header, lines),
            "",
            f"In all, with the copies and the calls of a layer, {missed(record)}, where the tables "
            "say so.",
            "",
            *_of_operators(folder, record),
        ]
    )


def _of_operators(folder: Path, record: dict[str, Any]) -> list[str]:
    env = record["environment"]
    return [
        f"`{record['command']}`, torch {env['torch']}, {env['cpu']} ({env['group_norm']}); the "
        f"median of {counted(record['repeats'], 'run')}, of glibc as it is and torch.compile one; "
        f"record: [{folder.name}](../results/{folder.name})."
    ]


def copies_section() -> str:
    """Times in copies of the same bytes beside what was aimed at."""
    folder, record = operators_record()
    names = ("in_place", "groupnorm", "groupnorm_default", "eager", "eager_default", "compile")
    lines = [
        [
            f"{line['direction'].replace('+', ' + ')}, {line['dtype']}, {line['layout']}",
            cell(line["kernel"], line["target"]) if "kernel" in line else "",
            f"{line['worst']:.2f}: {line['worst_workload']}" if "kernel" in line else "",
            *(f"{line[name]:.2f}" if line.get(name) is not None else "" for name in names),
        ]
        for line in record["summary"]["copies"]
    ]
    header = ["in copies (aimed at)", "kernel alone", "its worst cell", "kernel, in place",
              "through Python", "the same, glibc as it is", "PyTorch eager",
              "the same, glibc as it is", "torch.compile"]  # fmt: skip
    return "\n".join([*markdown(header, lines), "", *_of_operators(folder, record)])


def threads_section() -> str:
    """Kernels in copies and times faster than PyTorch and its ReLU, on one thread and on two."""
    folder, two = operators_record("bench-ops-*-2-threads-*")
    picture = f"![Speed of the kernels on two threads](../results/{folder.name}/speed.png)"
    table = side_by_side(operators_record()[1], two, ("one thread", "two"))
    below = f"On two threads {slow_cells(two)}"
    return "\n".join([picture, "", *table, "", below, "", *_of_operators(folder, two)])


def slow_cells(record: dict[str, Any]) -> str:
    """Which measurements are slower than they were to be at worst, as the end of a sentence."""
    rows = [row for row in record["rows"] if row["direction"] != "backward"]
    slow = [
        f"{where_of(row)}: {times_faster(row):.2f}"
        for row in rows
        if times_faster(row) < (0.9 if row["activation"] is None else 1.0)
    ]
    return (
        f"{len(slow) or 'none'} of {len(rows)} measurements, forward or forward + backward, "
        f"{'is' if len(slow) == 1 else 'are'} less than 0.9 times as fast as PyTorch without an "
        f"activation, or slower than it with one{': ' if slow else ''}{'; '.join(slow)}."
    )


def busier_section() -> str:
    """The same on one thread of a machine that other work made slower, beside the other record."""
    folder, busier = busier_record()
    _, record = operators_record()
    copies = [
        1e6 * row["seconds"]["copy"]["median"]
        for found in (record, busier)
        for row in found["rows"]
        if (row["workload"], row["dtype"], row["layout"], row["direction"])
        == ("8 x 64 x 56 x 56", "float32", "contiguous", "forward")
    ]
    said = (
        f"A copy of 8 x 64 x 56 x 56 in float32 took {copies[1]:.0f} microseconds there instead of "
        f"{copies[0]:.0f}. There {missed(busier)}; {slow_cells(busier)}"
    )
    table = side_by_side(record, busier, ("above", "busier"))
    return "\n".join([*table, "", said, "", *_of_operators(folder, busier)])


def side_by_side(
    first: dict[str, Any], second: dict[str, Any], titles: tuple[str, str]
) -> list[str]:
    """Two records: kernels in copies, and times faster than PyTorch and its ReLU."""
    found: dict[tuple[str, ...], list[str]] = {}
    for line in second["summary"]["speed"]:
        if line["among"] == SEVEN_RELU:
            found[line["direction"], line["dtype"], line["layout"]] = []
    for key, cells in found.items():
        for quantity, among in (("copies", "seven shapes"), ("speed", SEVEN_RELU)):
            for record in (first, second):
                line = next(
                    line
                    for line in record["summary"][quantity]
                    if line["among"] == among
                    and (line["direction"], line["dtype"], line["layout"]) == key
                )
                value = line.get("kernel" if quantity == "copies" else "geometric_mean")
                cells.append(f"{value:.2f}" if value is not None else "")
    header = ["geometric means of the seven shapes", f"kernel in copies, {titles[0]}", titles[1],
              f"times faster than PyTorch eager and its ReLU, {titles[0]}", titles[1]]  # fmt: skip
    rows = [
        [f"{key[0].replace('+', ' + ')}, {key[1]}, {key[2]}", *cells]
        for key, cells in found.items()
    ]
    return markdown(header, rows)


def cells_section() -> str:
    """Every one of the seven shapes: the kernel alone, through Python, and PyTorch, in copies."""
    _, record = operators_record()
    found: dict[tuple[str, ...], list[str]] = {}
    for row in record["rows"]:
        if row["among"] == "seven shapes" and row["direction"] != "forward+backward":
            copy = row["seconds"]["copy"]["median"]
            key = (row["workload"], row["dtype"], row["layout"])
            start = [f"{1e6 * copy:,.0f}"] if key not in found else []
            found.setdefault(key, []).extend(
                start
                + [f"{row['seconds'][name]['median'] / copy:.2f}"
                   for name in ("kernel", "groupnorm", "eager")]
            )  # fmt: skip
    header = ["shape", "dtype", "layout", "a copy, microseconds"]
    header += [f"{direction}, {who}" for direction in ("forward", "backward")
               for who in ("kernel", "through Python", "PyTorch")]  # fmt: skip
    return "\n".join(markdown(header, [[*key, *cells] for key, cells in found.items()]))


def missed(record: dict[str, Any]) -> str:
    """Which of the targets of a benchmark of the kernels are missed, as a part of a sentence."""
    speed, in_copies = record["summary"]["speed"], record["summary"]["copies"]
    calls = [row for row in record["calls"] if row["what"].startswith("layer")
             and "without" not in row["direction"]]  # fmt: skip
    verdicts = [
        *(verdict(line["kernel"], line["target"]) for line in in_copies if line["target"]),
        *(verdict(line["geometric_mean"], line["target"], least=True)
          for line in speed if line["target"]),
        *(verdict(line["worst"], line["target_worst"], least=True)
          for line in speed if line["target_worst"]),
        *(verdict(row["warm"]["groupnorm"], row["warm"]["eager"]) for row in calls),
    ]  # fmt: skip
    count = {name: verdicts.count(name) for name in ("", CLOSE, "missed")}
    return (
        f"of {len(verdicts)} targets {count['']} are met, {count[CLOSE]} are missed by no more "
        f"than 5 % and {count['missed']} by more"
    )


def verdict(found: float, target: float, least: bool = False) -> str:
    """Nothing where a target is reached, else how it was missed."""
    off = target / found if least else found / target
    return "" if off <= 1 else CLOSE if off <= NEAR else "missed"


def cell(found: float, target: float | None, least: bool = False) -> str:
    """A number, its target, and whether it was missed."""
    if target is None:
        return f"{found:.2f}"
    return f"{found:.2f} ({target:g}) {verdict(found, target, least)}".strip()


def past_cache_section() -> str:
    """How much faster outputs are written past the cache, with what reads them next."""
    folder = only("stores-past-cache-*")
    record = json.loads((folder / "stores_past_cache.json").read_text(encoding="utf-8"))
    rows: dict[str, dict[str, list[float]]] = {}
    sizes = [row["bytes"] for row in record["rows"] if 4 * row["bytes"] >= record["cache_bytes"]]
    for row in record["rows"]:
        if row["bytes"] in sizes:
            activation = ", SiLU" if row["activation"] else ""
            line = rows.setdefault(f"{row['direction']}{activation}, {row['dtype']}", {})
            column = f"{row['layout']}, {counted(row['threads'], 'thread')}"
            line.setdefault(column, []).append(row["times_faster"])
    columns = list(next(iter(rows.values())))
    lines = [
        [name]
        + [
            f"{statistics.geometric_mean(line[column]):.2f} "
            f"({min(line[column]):.2f} to {max(line[column]):.2f})"
            for column in columns
        ]
        for name, line in rows.items()
    ]
    header = [f"times faster past the cache, {min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} MB"]
    env = record["environment"]
    source = (
        f"`{record['command']}`, torch {env['torch']}, {env['cpu']} ({env['group_norm']}), "
        f"{record['cache_bytes'] / 1e6:.1f} MB in the last level; record: "
        f"[{folder.name}](../results/{folder.name})."
    )
    picture = f"![Stores past the cache](../results/{folder.name}/stores_past_cache.png)"
    return "\n".join([picture, "", *markdown(header + columns, lines), "", source])


def memory_section() -> str:
    """What new memory costs, and what takes the cost away."""
    path = only("new-memory-*") / "new_memory.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    columns = {
        "kept": "copy, kept memory",
        "new": "copy, new memory",
        "new_huge_pages": "with huge pages",
        "new_kept_blocks": "with kept blocks",
        "group_norm": "ours",
        "group_norm_kept_blocks": "ours, kept blocks",
        "eager": "PyTorch",
        "eager_kept_blocks": "PyTorch, kept blocks",
    }
    rows = [
        [f"{row['megabytes']:.0f} MB", *(f"{row[name]:.1f}" for name in columns)]
        for row in record["rows"]
    ]
    return "\n".join(markdown(["milliseconds", *columns.values()], rows))


def call_section() -> str:
    """What a call costs beside its arithmetic."""
    folder, record = operators_record()
    lines = [
        [f"{row['what']}: {row['direction'].replace('+', ' + ')}"]
        + [f"{row[state][who]:.1f}" for state in ("warm", "cold") for who in ("groupnorm", "eager")]
        for row in record["calls"]
    ]
    header = ["microseconds", "ours", "PyTorch", "ours, cold", "PyTorch, cold"]
    return "\n".join([*markdown(header, lines), "", *_of_operators(folder, record)])


def training_section() -> str:
    """Milliseconds of training steps, by norm, with kept blocks and without."""
    folder, record = training_record()
    titles = {"torch": "`torch.nn.GroupNorm`", "aten": "`aten`", "native": "C++ kernels"}
    cells = {tuple(row[key] for key in ("network", "layout", "way", "memory")): row
             for row in record["rows"]}  # fmt: skip
    lines = []
    for network, layout, way in dict.fromkeys(key[:3] for key in cells):
        default, kept = (cells[network, layout, way, how] for how in ("default", "kept"))
        less = 1 - kept["milliseconds"] / default["milliseconds"]
        lines.append(
            [
                f"{network}, {layout}, {titles[way]}",
                *(f"{row['milliseconds']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
                  for row in (default, kept)),
                f"{100 * less:.0f} %",
                *(f"{row['faults']:,.0f}" for row in (default, kept)),
            ]
        )  # fmt: skip
    header = ["milliseconds a step", "glibc as it is", "blocks kept", "less", "page faults",
              "page faults, kept"]  # fmt: skip
    env = record["environment"]
    return "\n".join(
        [
            *markdown(header, lines),
            "",
            f"`{record['command']}`, one thread, torch {env['torch']}, {env['cpu']}; record: "
            f"[{folder.name}](../results/{folder.name}).",
        ]
    )


def clips_section() -> str:
    """Norms on clips, and training steps of the video networks, milliseconds."""
    path = only("bench-video-*") / "bench_video.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    inside = path.parent.relative_to(ROOT).as_posix()
    kernels = [row for row in record["rows"] if row["direction"] != "training step"]
    steps = [row for row in record["rows"] if row["direction"] == "training step"]
    environment = record["environment"]
    return "\n".join(
        [
            *markdown(*_least_milliseconds(kernels, "maps", 3)),
            "",
            *markdown(*_least_milliseconds(steps, "clips", 1)),
            "",
            f"`{record['command']}`, one thread, torch {environment['torch']}, "
            f"{environment['cpu']}; record: [{path.parent.name}](../{inside}).",
        ]
    )


def _least_milliseconds(
    rows: list[dict[str, Any]], of: str, places: int
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of rows of a benchmark: each variant's least CPU time."""
    names = list(rows[0]["seconds"])
    header = ["milliseconds", of, "layout and passes", *names]
    lines = [
        [
            row["cell"].replace(" step", ""),
            " x ".join(map(str, row["shape"])),
            f"{row['layout']}, {row['direction'].replace('+', ' + ')}",
            *(f"{row['seconds'][name]['least'] * 1e3:.{places}f}" for name in names),
        ]
        for row in rows
    ]
    return header, lines


def gpu_record() -> tuple[Path, dict[str, Any]]:
    """The newest benchmark of the Triton kernels: its folder, and what it holds."""
    folder = only("bench-ops-h200-*")
    return folder, json.loads((folder / "bench_ops.json").read_text(encoding="utf-8"))


def faster(rows: list[dict[str, Any]], times: str, peer: str) -> list[str]:
    """How many times faster than a peer: geometric mean, least, most, and in how many cells."""
    ratios = [
        row[times][peer]["median"] / row[times]["groupnorm"]["median"]
        for row in rows
        if peer in row[times]
    ]
    won = sum(ratio > 1 for ratio in ratios)
    mean = statistics.geometric_mean(ratios)
    return [
        f"{mean:.2f}",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
        f"{won} of {len(ratios)}",
    ]


def gpu_summary_section() -> str:
    """Times faster than PyTorch eager and the peers, in GPU time and for calls in a row."""
    folder, record = gpu_record()
    peers = {"eager": "PyTorch", "liger": "Liger-Kernel", "flaggems": "FlagGems"}
    lines = []
    for times, what in (("seconds", "GPU time"), ("in_a_row", "calls in a row")):
        for direction in ("forward", "backward", "forward+backward"):
            if times == "seconds" and direction != "forward":
                continue  # the GPU waits for Python: see the text above the table
            rows = [row for row in record["rows"] if row["direction"] == direction]
            for peer, name in peers.items():
                label = f"{direction.replace('+', ' + ')}, {what}, {name}"
                lines.append([label, *faster(rows, times, peer)])
    env = record["environment"]
    header = ["times faster than", "geometric mean", "range", "faster in"]
    return "\n".join(
        [
            *markdown(header, lines),
            "",
            f"`{record['command']}`, {env['gpu']}, torch {env['torch']}, Triton {env['triton']}; "
            f"record: results/{folder.name}/bench_ops.json. Two runs: "
            + "; ".join(f"{name}: {what}" for name, what in record["runs"].items())
            + ".",
        ]
    )


def gpu_cells_section() -> str:
    """Every workload: microseconds of ours and PyTorch's."""
    _, record = gpu_record()
    cells: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in record["rows"]:
        shape = " x ".join(map(str, row["shape"]))
        key = (row["workload"], shape, row["dtype"], row["layout"])
        cells.setdefault(key, {})[row["direction"]] = row

    def pair(row: dict[str, Any], times: str) -> str:
        ours, eager = (1e6 * row[times][name]["median"] for name in ("groupnorm", "eager"))
        return f"{ours:.0f}, {eager:.0f}"

    header = ["workload", "shape", "dtype", "layout", "copy", "forward, GPU", "forward, in a row",
              "forward + backward, in a row"]  # fmt: skip
    lines = [
        [
            *key,
            f"{1e6 * rows['forward']['seconds']['copy']['median']:.0f}",
            pair(rows["forward"], "seconds"),
            pair(rows["forward"], "in_a_row"),
            pair(rows["forward+backward"], "in_a_row"),
        ]
        for key, rows in cells.items()
    ]
    return "\n".join(markdown(header, lines))


def gpu_sections() -> dict[str, str]:
    """Name of each section of docs/gpu.md, and its text."""
    return {"summary": gpu_summary_section(), "cells": gpu_cells_section()}


def only(pattern: str) -> Path:
    """The newest folder of results/ whose name matches."""
    found = sorted(RESULTS.glob(pattern))
    if not found:
        raise SystemExit(f"no record matches results/{pattern}; run the study and put it there")
    return found[-1]


def markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def with_captions(tables: Iterable[MarkedTable]) -> list[str]:
    """Markdown tables of a report, each with its caption below."""
    lines = []
    for table in tables:
        lines += [*markdown(list(table.header), list(map(list, table.body))), ""]
        lines += [f"{table.caption}.", ""]
    return lines


def readme_sections() -> dict[str, str]:
    """Name of each section of README.md, and its text."""
    return {
        "default study": study_section(
            "batch-size-quick-*",
            "Every step sees the same images at the same learning rate; only the number of "
            "images per worker, from which batch norm takes its statistics, changes. A norm that "
            "does not look at other images is trained once:",
        ),
        "detectors": detection_picture(),
        "videos": video_picture(),
        "conversions": conversions_picture(only("convert-full-*")),
        "accuracy": accuracy_sentence(),
        "kept blocks": kept_sentence(),
        "kernels": kernels_section(),
        "export": export_readme_section(),
    }


def kernels_sections() -> dict[str, str]:
    """Name of each section of docs/kernels.md, and its text."""
    return {
        "speed": speed_of_kernels_section(),
        "copies": copies_section(),
        "cells": cells_section(),
        "threads": threads_section(),
        "busier": busier_section(),
        "past cache": past_cache_section(),
        "memory": memory_section(),
        "training": training_section(),
        "call": call_section(),
        "clips": clips_section(),
    }


def numerics_sections() -> dict[str, str]:
    """Name of each section of docs/numerics.md, and its text."""
    return {name: accuracy_table(name) for name in ("output", "dweight")}


def study_sections() -> dict[str, str]:
    """Name of each section of docs/study.md, and its text."""
    return {
        "fixed step": with_last_epoch(
            "batch-size-resnet20-fixed-step-*", "Protocol `fixed-step`, three seeds:"
        ),
        "paper protocol": with_last_epoch(
            "batch-size-resnet20-paper-protocol-*",
            "Protocol `paper`, three seeds. The number of steps changes with the batch:",
        ),
        "all norms": with_last_epoch(
            "all-norms-*", "Every normalization, protocol `fixed-step`, one seed:"
        ),
        "paper protocol, tuned": tuned_section("tuned-batch-size-paper-*"),
        "detectors": detection_section("detection-quick-*"),
        "detectors, standard": detection_section("detection-standard-*"),
        "video": video_section("video-quick-*"),
        "video standard": video_section("video-standard-*", whole=False),
        "video larger": video_section("video-larger-*", whole=False),
        "recipe": recipe_section(),
        "tuned": tuned_section("tuned-batch-size-quick-*", "batch-size-quick-*"),
        "speed": speed_section(),
    }


def groups_sections() -> dict[str, str]:
    """Name of each section of docs/number-of-groups.md, and its text."""
    return {"proof": proof_section()}


def proof_section() -> str:
    """What each recorded search picked beside the full grid of its network, with the figures."""
    folders = [(path, only(path.name.replace("search-", "groups-", 1)))
               for path in sorted(RESULTS.glob("search-*"))]  # fmt: skip
    lines = markdown(*search_proof.table([search_proof.prove(*pair) for pair in folders]))
    for search, grid in folders:
        study = read_study(grid)
        rows = summarize_study(study)
        inside = f"../results/{grid.name}"
        found = read_study(search)
        lines += [
            "",
            f"![Error against groups and channels per group]({inside}/figures/error-by-groups.png)",
            "",
            *markdown(*main_table_of(study, rows)),
            "",
            source(study, rows, grid.name, inside),
            "",
            "The search:",
            "",
            *markdown(*main_table_of(found, summarize_study(found))),
            "",
            " ".join(describe(found, summarize_study(found))[:3])
            + f" Record: [{search.name}](../results/{search.name}).",
        ]
    return "\n".join(lines)


def recipe_section() -> str:
    """The recipe of the quick scale, by the rule of choose_recipe.py."""
    folder = only("recipe-choice-*")
    env = json.loads(next(folder.glob("*/runs/*/env.json")).read_text(encoding="utf-8"))
    return "\n".join(
        [
            choose_recipe.table(choose_recipe.read_errors(folder)),
            "",
            "Top-1 error in percent after the last epoch, three seeds, ± sample deviation. Made by "
            f"`python scripts/choose_recipe.py train FOLDER` with torch {env['torch']} on "
            f"{env['cpu']}; record: [{folder.name}](../results/{folder.name}).",
        ]
    )


def cost_section() -> str:
    """What every normalization costs, beside its error."""
    folder = only("all-norms-*")
    study = read_study(folder)
    rows = summarize_study(study)
    largest = max(row.labels["batch_per_worker"] for row in rows)
    table = cost_table(study, [row for row in rows if row.labels["batch_per_worker"] == largest])
    return "\n".join(
        [
            *markdown(*table),
            "",
            how_timed(study.cost_pass),
            "",
            source(study, rows, folder.name, f"../results/{folder.name}"),
        ]
    )


def cost_sections() -> dict[str, str]:
    """Name of each section of docs/cost.md, and its text."""
    return {"cost": cost_section()}


def detectors_speed_section() -> str:
    """A detector's training step against torchvision's, and where its time goes."""
    path = only("bench-detection-*") / "bench_detection.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    peers = [row for row in record["rows"] if "times_faster" in row]
    ours = {row["case"]: row for row in record["rows"] if "times_faster" not in row}

    def speed(row: dict[str, Any], memory: str) -> str:
        return f"{row[memory]['images_per_second']:.1f}"

    def times(row: dict[str, Any], name: str) -> str:
        found = row[name]
        return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"

    def megabytes(row: dict[str, Any]) -> str:
        return f"{row['new_memory']['step_memory_bytes'] / 1e6:.0f}"

    rows = [
        [
            f"{row['case']}, against {row['side']}",
            speed(ours[row["case"]], "new_memory"),
            speed(row, "new_memory"),
            times(row, "times_faster"),
            speed(ours[row["case"]], "kept_memory"),
            times(row, "times_faster_ours_kept"),
            times(row, "times_faster_both_kept"),
            f"{megabytes(ours[row['case']])}, {megabytes(row)}",
        ]
        for row in peers
    ]
    header = ["images per second of CPU time", "ours", "torchvision", "times faster",
              "ours, kept blocks", "times faster than without", "times faster than with",
              "MB of a step, ours, theirs"]  # fmt: skip
    inside = "../" + path.parent.relative_to(ROOT).as_posix()
    env = record["environment"]
    return "\n".join(
        [
            *markdown(header, rows),
            "",
            "Medians over the rounds, in brackets their quartiles. Where the time of a step of "
            "Mask R-CNN goes, milliseconds per image, ours and torchvision's:",
            "",
            *markdown(*parts_of_a_step(record["rows"])),
            "",
            f"`{record['command']}`, torch {env['torch']}, torchvision {env['torchvision']}, "
            f"{env['cpu']}, one thread; record: [{path.parent.name}]({inside}).",
        ]
    )


def parts_of_a_step(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of where the time of Mask R-CNN goes."""
    columns = [
        row
        for row in rows
        if row["case"].startswith("Mask") and row["side"] in ("groupnorm", "torchvision")
    ]
    images = columns[0]["new_memory"]["images_per_second"]
    images *= columns[0]["new_memory"]["cpu_seconds"]["median"]
    of_each = [
        {part: 1e3 * seconds / images for part, seconds in row["new_memory"]["parts"].items()}
        for row in columns
    ]
    parts = sorted(of_each[0], key=lambda part: -of_each[0][part])
    cases = list(dict.fromkeys(row["case"].removeprefix("Mask R-CNN, ") for row in columns))

    def line(name: str, values: list[float]) -> list[str]:
        pairs = zip(values[::2], values[1::2], strict=True)
        return [name, *(f"{own:.2f}, {other:.2f}" for own, other in pairs)]

    lines = [line(part, [found.get(part, 0.0) for found in of_each]) for part in parts]
    total = line("all", [sum(found.values()) for found in of_each])
    return ["", *cases], [*lines, total]


def padding_section() -> str:
    """How much the padding of a batch moves average precision."""
    path = only("padding-effect-*") / "padding_effect.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    area = record["image_side"] ** 2
    names = {"box_ap": "box AP", "mask_ap": "mask AP"}

    def change(row: dict[str, Any], name: str) -> str:
        found = row[name]
        if "difference" not in found:
            return f"{found['value']:.1f}"
        return f"{found['difference']:+.1f} ± {found['standard_error']:.1f}"

    norms = [run["norms"].get("backbone", run["norm"]) for run in record["runs"]]
    lines = [
        [
            f"{rows[0]['height']} x {rows[0]['width']}",
            f"{100 - 100 * area / (rows[0]['height'] * rows[0]['width']):.0f} %",
            *(change(row, name) for row in rows for name in names),
        ]
        for rows in zip(*(run["rows"] for run in record["runs"]), strict=True)
    ]
    header = ["padded to", "padding", *(f"{norm}, {text}" for norm in norms for text in
                                        names.values())]  # fmt: skip
    inside = "../" + path.parent.relative_to(ROOT).as_posix()
    env = record["environment"]
    return "\n".join(
        [
            *markdown(header, lines),
            "",
            "The first line is AP, the others are differences from it, ± standard error of the "
            "difference over 10 parts of the test images; one seed. "
            f"`{record['command']}`, torch {env['torch']}; record: [{path.parent.name}]({inside}).",
        ]
    )


def detectors_sections() -> dict[str, str]:
    """Name of each section of docs/detectors.md, and its text."""
    return {"padding": padding_section(), "speed": detectors_speed_section()}


def conversion_parts_section() -> str:
    """What signs, scales and offsets in front of a group norm do, norm by norm."""
    path = only("conversion-parts-*") / "conversion_parts.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    rows, shown = record["rows"], record["shown"]
    parts = list(rows[0]["errors"])
    inside = "../" + path.parent.relative_to(ROOT).as_posix()
    env, config = record["environment"], record["config"]

    def line(part: str) -> list[str]:
        errors = [row["errors"][part] for row in rows]
        return [
            part,
            *(f"{statistics.pstdev(shown[part][key]):.3f}" for key in ("mean", "deviation")),
            f"{statistics.median(errors):.4f}",
            f"{max(errors):.4f}",
        ]

    shares = [row["offset_share"] for row in rows]
    header = ["", "mean moves by", "deviation moves by", "median error", "largest error"]
    return "\n".join(
        [
            f"![The mean and the deviation of one group, and the errors of all norms]({inside}/"
            "conversion_parts.png)",
            "",
            *markdown(header, [line(part) for part in parts]),
            "",
            f"A {config['model']} on {config['data']} ({record['test_error']:.1f} % error), "
            f"{record['images']} training images, a quarter of them held out. Each norm alone gets "
            "the trained network's input: at most 8 groups, 4 channels each at least. The first "
            f"two columns are of a group of {shown['channels']} channels of {shown['norm']}, "
            "standard deviations over the held-out images in units of the group's typical "
            f"deviation; errors are relative and squared, over {len(rows)} norms, on held-out "
            f"images. Offsets make {100 * statistics.median(shares):.0f} % of a group's variance "
            f"in the median norm, {100 * max(shares):.0f} % at most. One network; "
            f"`{record['command']}`, {env['cpu']}, torch {env['torch']}; record: "
            f"[{path.parent.name}]({inside}).",
        ]
    )


def why_sections() -> dict[str, str]:
    """Name of each section of docs/why-conversion-loses.md, and its text."""
    return {"conversion-parts": conversion_parts_section()}


def conversion_sections() -> dict[str, str]:
    """Name of each section of docs/conversion.md, and its text."""
    return {
        "published": published_section(),
        "conversions": conversions_section(only("convert-full-*")),
        "fine-tuning": fine_tuning_section("fine-tuning-full-*"),
    }


def published_section() -> str:
    """Conversions of a published network, and what one of a ResNet-50 takes, where measured."""
    folder = only("conversion-published-*")
    inside = f"../results/{folder.name}"
    record = json.loads((folder / "lite0.json").read_text(encoding="utf-8"))
    rows, env = record["trials"], record["environment"]
    lines = [
        f"![Agreement of EfficientNet-Lite0 before and after]({inside}/lite0.png)",
        "",
        *markdown(*lite0_table(rows)),
        "",
        f"EfficientNet-Lite0 with its published ImageNet weights on {record['test_crops']} crops "
        f"of {len(record['test_photographs'])} photographs, ± standard error over the photographs; "
        f"calibrated with crops of {len(record['calibration_photographs'])} others. In brackets "
        f"are the {rows[0]['confident']} crops whose class had a probability above "
        f"{record['confident_above']:g} before. KL is the divergence of the probabilities from "
        "those before; the offset share is the median layer's. One seed; "
        f"`{record['command']}`, {env['cpu']}, one thread, torch {env['torch']}; record: "
        f"[{folder.name}]({inside}).",
    ]
    timed = folder / "resnet50.json"
    if timed.exists():  # it is measured apart, on a machine that does nothing else
        lines += ["", resnet50_sentence(json.loads(timed.read_text(encoding="utf-8")))]
    return "\n".join(lines)


def resnet50_sentence(record: dict[str, Any]) -> str:
    """Seconds and peak memory of one conversion."""
    env, load = record["environment"], record["load_average"]
    beside = f"; the machine had other work (load {load:.1f})" if load > 0.5 else ""
    return (
        f"A ResNet-50 with {record['images']} images of {record['side']} x {record['side']} takes "
        f"{record['seconds']:.0f} seconds with {counted(env['threads'], 'thread')}, "
        f"{record['cpu_seconds']:.0f} of CPU time, and {record['peak_bytes'] / 1e9:.1f} GB at the "
        f"peak, images and network included (`{record['command']}`, {env['cpu']}, torch "
        f"{env['torch']}{beside})."
    )


def lite0_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the conversions of a classifier."""
    header = ["EfficientNet-Lite0", "same class, %", "KL", "offset share",
              "norms with one group", "CPU seconds"]  # fmt: skip
    lines = [
        [
            row["name"],
            f"{row['top1']:.0f} ± {row['top1_standard_error']:.0f} ({row['top1_confident']:.0f})",
            f"{row['kl']:.2f}",
            share_of(row["layers"]),
            f"{sum(layer['groups'] == 1 for layer in row['layers'])} of {len(row['layers'])}",
            f"{row['cpu_seconds']:.0f}" if row.get("images") else "",
        ]
        for row in rows
    ]
    return header, lines


def share_of(layers: list[dict[str, Any]]) -> str:
    """The offset share of the median layer."""
    shares = [layer["offset_share"] for layer in layers if layer["offset_share"] is not None]
    return f"{statistics.median(shares):.2f}" if shares else ""


def conversions_section(folder: Path) -> str:
    """A study of conversions: its figures, its text, its tables, and the source."""
    study = read_study(folder)
    inside = f"../results/{folder.name}"
    env = next(iter(study.records.values())).env
    networks = study.conversions
    seconds = [
        result["seconds"]
        for network in networks
        for one in network.outcomes.values()
        for result in one.results.values()
    ]
    lines = [f"![Kept of the teacher's result]({inside}/figures/kept.png)", ""]
    for paragraph in conversions_text(networks):
        lines += [paragraph, ""]
    lines += with_captions(conversion_tables(networks))
    for name, shown in (("steps", "Fine-tuning"), ("layers", "Error of each layer")):
        lines += [f"![{shown}]({inside}/figures/{name}.png)", ""]
    lines.append(
        f"Made by `{study.manifest['command']}` with torch {env['torch']} on {env['cpu']}; "
        f"converting and fine-tuning took {sum(seconds) / 60:.0f} minutes of one core. Record: "
        f"[{folder.name}]({inside})."
    )
    return "\n".join(lines)


def conversions_picture(folder: Path) -> str:
    """A study of conversions in short: a line for each network, and its first finding."""
    networks = read_study(folder).conversions
    inside = folder.relative_to(ROOT).as_posix()
    table = conversion_tables(networks)[0]
    eight, fitted = (table.header.index(name) for name in ("8 groups", "fitted groups"))
    lines: dict[str, dict[str, list[str]]] = {}
    for row in table.body:
        lines.setdefault(row[0], {})[row[1]] = list(row)
    methods = list(next(iter(lines.values())))
    header = ["kept, in percent", *(f"{method}, 8 groups" for method in methods)]
    body = [
        [network, *(rows[method][eight] for method in methods), rows["fit"][fitted]]
        for network, rows in lines.items()
    ]
    found = f"{conversions_text(networks)[0]} Record: [{folder.name}]({inside})."
    return "\n".join([*markdown([*header, "fit, fitted groups"], body), "", found])


def fine_tuning_section(pattern: str) -> str:
    """The study of converted encoders on another task: its curves, its text and its tables."""
    folder, study, rows, tuning = tuned_study(pattern)
    inside = f"../results/{folder.name}"
    env = next(iter(study.records.values())).env
    lines = [f"![Mean IoU by step]({inside}/figures/curves-by-step.png)", ""]
    for paragraph in describe(study, rows, tuning):
        lines += [paragraph, ""]
    lines += with_captions(step_tables(study, rows))
    lines += [*markdown(*tuning_table(tuning)), "", " ".join(how_tuned(tuning)), ""]
    lines.append(
        f"Made by `{study.manifest['command']}` with torch {env['torch']} on {env['cpu']}. Record: "
        f"[{folder.name}]({inside})."
    )
    return "\n".join(lines)


def frameworks_sections() -> dict[str, str]:
    """Name of each section of docs/frameworks.md, and its text."""
    return {
        "frameworks": frameworks_section(),
        "jax gradients": jax_gradients_section(),
        "keras example": keras_example_section(),
    }


def frameworks_section() -> str:
    """Errors and times of group norm in other frameworks, theirs and ours."""
    folder = only("frameworks-*")
    record = json.loads((folder / "frameworks.json").read_text(encoding="utf-8"))
    found, env = record["frameworks"], record["environment"]
    layers = next(iter(next(iter(found.values()))["errors"].values()))
    header = ["", "layer", *(f"mean {int(mean):,}" for mean in next(iter(layers.values())))]
    errors = [
        [f"{place}, {mode}", name, *(f"{value:.0e}" for value in row.values())]
        for place, one in found.items()
        for mode, layers in one["errors"].items()
        for name, row in layers.items()
    ]
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return "\n".join(
        [
            "The largest error against float64, of (2, 28, 28, 64) in 8 groups, spread 1, by the "
            "mean of the values (inf: not finite):",
            "",
            *markdown(header, errors),
            "",
            "Milliseconds, the least of 15 rounds in which all layers took turns; forward and, "
            "behind the point, forward and backward. The ratio is the geometric mean over the "
            "shapes of a layer's time over that of ours:",
            "",
            *markdown(*framework_times(found)),
            "",
            f"`{record['command']}`, {env['cpu']}, one core, torch {env['torch']}, {packages}; "
            f"record: [{folder.name}](../results/{folder.name}).",
        ]
    )


def framework_times(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and a line for each layer of each framework."""
    both = ("forward", "forward and backward")
    shapes = sorted({tuple(cell["shape"]) for cell in next(iter(found.values()))["cells"]})
    lines = []
    for place, one in found.items():
        for mode in one["errors"]:
            times = {
                (tuple(cell["shape"]), cell["what"]): cell["seconds"]
                for cell in one["cells"]
                if cell["mode"] == mode
            }
            for name in one["errors"][mode]:
                cells = [
                    " · ".join(f"{1e3 * times[shape, what][name]['least']:.2f}" for what in both)
                    for shape in shapes
                ]
                lines.append([f"{place}, {mode}", name, *cells, _ratios(times, shapes, both, name)])
    return ["", "layer", *(" x ".join(map(str, shape)) for shape in shapes), "ratio"], lines


def _ratios(times: Any, shapes: list[Any], both: tuple[str, str], name: str) -> str:
    """How much faster ours is than another layer, forward and with backward; "" for ours."""
    if name == "groupnorm":
        return ""
    ratios = (
        [times[shape, what][name]["least"] / times[shape, what]["groupnorm"]["least"]
         for shape in shapes]
        for what in both
    )  # fmt: skip
    return " · ".join(f"{statistics.geometric_mean(one):.1f}" for one in ratios)


def jax_gradients_section() -> str:
    """Times and memory of ways to the gradient in JAX."""
    folder = only("jax-gradients-*")
    record = json.loads((folder / "gradients.json").read_text(encoding="utf-8"))
    env, network = record["environment"], record["network"]

    def milliseconds(seconds: dict[str, float]) -> str:
        return f"{1e3 * seconds['least']:.2f}"

    shapes = [f"{' x '.join(map(str, cell['shape']))}" for cell in record["cells"]]
    lines = [
        [
            name,
            *(
                " · ".join(milliseconds(cell["seconds"][how][name]) for how in ("jit", "two jits"))
                for cell in record["cells"]
            ),
            f"{1e3 * network['seconds'][name]['least']:.0f} ms, {network['maps'][name]:.0f} maps",
        ]
        for name in network["maps"]
    ]
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return "\n".join(
        [
            *markdown(["", *shapes, f"network of {network['layers']} layers"], lines),
            "",
            "Milliseconds of forward and backward, the least of 15 rounds: in one `jit` and, after "
            "the point, in one `jit` each. The network's convolutions have 3 x 3 kernels and work "
            f"on {' x '.join(map(str, network['shape']))}; its memory is what XLA allocates beside "
            f"the arguments. `{record['command']}`, {env['cpu']}, one core, {packages}; record: "
            f"[{folder.name}](../results/{folder.name}).",
        ]
    )


def keras_example_section() -> str:
    """The example in Keras, and the same in PyTorch."""
    folder = only("keras-example-*")
    keras, torch = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("keras", "pytorch")
    )

    def cell(record: dict[str, Any], norm: str, batch: int) -> str:
        errors = [r["error"] for r in record["rows"] if (r["norm"], r["batch"]) == (norm, batch)]
        return f"{statistics.mean(errors):.1f} ± {statistics.stdev(errors):.1f}"

    norms = list(dict.fromkeys(row["norm"] for row in keras["rows"]))
    lines = [[n, *(cell(one, n, b) for one in (keras, torch) for b in (4, 1))] for n in norms]
    header = ["norm", "Keras, 4 a step", "Keras, 1", "PyTorch, 4 a step", "PyTorch, 1"]
    options = keras["options"]
    minutes = sum(row["seconds"] for row in keras["rows"]) / 60 / options["seeds"]
    return "\n".join(
        [
            *markdown(header, lines),
            "",
            f"Top-1 error in percent on {options['data']}, mean ± deviation over {options['seeds']}"
            f" seeds: a resnet{options['depth']} trained on {options['images']:,} images for "
            f"{options['epochs']} epochs. `{keras['command']}` (Keras {keras['keras']} on "
            f"{keras['backend']}, {minutes:.0f} minutes a seed on one core of "
            f"{torch['environment']['cpu']}, beside other work) and `{torch['command']}`. Both "
            "have the same network, start distributions, images, shifts, mirroring and rates, and "
            f"draw other random numbers. Record: [{folder.name}](../results/{folder.name}).",
        ]
    )


def export_sections() -> dict[str, str]:
    """Name of each section of docs/export.md, and its text."""
    return {"export targets": export_targets_section(), "export matrix": export_matrix_section()}


def export_targets_section() -> str:
    """The table of runtimes."""
    axes = {"any": "any but channels", "positions": "positions", "nothing": "none"}
    lines = [
        [
            target.title,
            "; ".join(f"{dtype}: {', '.join(forms)}" for dtype, forms in target.forms.items()),
            axes[target.dynamic],
            target.why,
        ]
        for target in TARGETS.values()
    ]
    return "\n".join(markdown(["runtime", "forms", "axes that may change", "why"], lines))


def export_records() -> tuple[Path, dict[str, Any]]:
    """The folder of the export matrix, and what it has for each runtime."""
    folder = only("export-matrix-*")
    found = {
        to: json.loads((folder / f"{to}.json").read_text(encoding="utf-8"))
        for to in TARGETS
        if (folder / f"{to}.json").exists()
    }
    return folder, found


def export_readme_section() -> str:
    """Errors of one norm in every runtime, by default and as written here."""
    folder, found = export_records()
    return "\n".join(
        [
            *markdown(*_export_errors(found)),
            "",
            f"{_export_conditions(folder, found)} [docs/export.md](docs/export.md) has the "
            f"networks; record: [{folder.name}](results/{folder.name}).",
        ]
    )


def _export_errors(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    means = next(iter(next(iter(found.values()))["norm"].values()))["errors"]
    header = ["runtime", "group norm as", *(f"mean {int(mean):,}" for mean in means), "ms"]
    lines = []
    for to, one in found.items():
        for how in ("by default", "here"):
            row = one["norm"].get(how)
            if row is None or not row["errors"]:
                continue
            errors = [
                value if isinstance(value, str) else f"{value:.0e}"
                for value in row["errors"].values()
            ]
            name = f"{row['form']}, written here" if how == "here" else _default_name(row)
            lines.append([TARGETS[to].title, name, *errors, f"{row['milliseconds']:.3f}"])
    return header, lines


def _default_name(row: dict[str, Any]) -> str:
    opset = row["options"].get("opset")
    return f"the operator (opset {opset})" if opset else "the operator"


def _export_conditions(folder: Path, found: dict[str, Any]) -> str:
    env = next(iter(found.values()))["environment"]
    return (
        "The largest error against float64 of (1, 64, 28, 28) in 8 groups, spread 1, by the mean "
        f"of the values (inf: not finite), and milliseconds on one thread of {env['cpu']}."
    )


def export_matrix_section() -> str:
    """One norm, whole networks, and half types."""
    folder, found = export_records()
    half = json.loads((folder / "half.json").read_text(encoding="utf-8"))["networks"]
    lines = []
    for to, one in found.items():
        for network, row in one["networks"].items():
            lines.append([TARGETS[to].title, network, *_export_network(row)])
    header = ["runtime", "network", "form", "error", "allowed", "same class", "ms", "by default",
              "PyTorch", "KB", "operators", "delegates"]  # fmt: skip
    versions = "; ".join(
        f"{TARGETS[to].title}: " + ", ".join(f"{k} {v}" for k, v in one["versions"].items())
        for to, one in found.items()
    )
    refused = [
        f"- {TARGETS[to].title}, {network}: {row['refused'].splitlines()[0]}"
        for to, one in found.items()
        for network, row in one["networks"].items()
        if "refused" in row
    ]
    half_lines = [
        [network, dtype, *(v if isinstance(v, str) else f"{v:.1e}" for v in row.values())]
        for network, rows in half.items()
        for dtype, row in rows.items()
    ]
    half_header = ["network", "dtype", *next(iter(next(iter(half.values())).values()))]
    return "\n".join(
        [
            *markdown(*_export_errors(found)),
            "",
            _export_conditions(folder, found),
            "",
            "Whole networks: the largest error of the gate's inputs beside what is allowed there, "
            "on how many images the best class is PyTorch's (of those where it is clear), and "
            "milliseconds of one image, as it is here, as the runtime would have it by default, "
            "and in PyTorch with PyTorch's group norm:",
            "",
            *markdown(header, lines),
            "",
            *(["Refused, each with its reason:", "", *refused, ""] if refused else []),
            "The largest error of the output in PyTorch by dtype, of the network as it is, "
            "prepared in the pooled form, and conditioned on images:",
            "",
            *markdown(half_header, half_lines),
            "",
            f"`scripts/export_matrix.sh`; {versions}. Record: "
            f"[{folder.name}](../results/{folder.name}).",
        ]
    )


def _export_network(row: dict[str, Any]) -> list[str]:
    if "refused" in row:
        return ["refused", *[""] * 9]
    if row["not_run"]:
        return [row["form"], "not run", "", "", "", "", "", f"{row['nbytes'] / 1000:,.0f}",
                str(sum(row["operators"].values())), ""]  # fmt: skip
    worst = max(row["checks"], key=lambda check: closeness(check["error"], check["allowed"]))
    classes, times = row.get("classes"), row["milliseconds"]
    return [
        row["form"],
        f"{worst['error']:.1e}",
        f"{worst['allowed']:.1e}",
        "" if classes is None else f"{classes['clear and same']} of {classes['clear']}",
        *(f"{times[key]:.2f}" if key in times else "" for key in ("here", "by default", "PyTorch")),
        f"{row['nbytes'] / 1000:,.0f}",
        str(sum(row["operators"].values())),
        "" if row["delegates"] is None else str(row["delegates"]),
    ]


def updated(text: str, sections: dict[str, str]) -> str:
    """A document's text with every section made anew."""
    for name, body in sections.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        made = f"{begin}\n{body}\n{end}"
        text, count = re.subn(pattern, lambda _, made=made: made, text, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"a document should have one section {begin} ... {end}, found {count}")
    return text


def draw_figures(text: str) -> None:
    """Draw every figure of a study that a document shows."""
    for name, wanted in re.findall(r"results/([^/)]+)/figures/([\w-]+)\.png", text):
        study = read_study(RESULTS / name)
        rows = summarize_study(study)
        path = RESULTS / name / "figures" / f"{wanted}.png"
        if wanted == Sheet.name:
            sheet = prediction_sheet(RESULTS / name, study, rows, samples_of(RESULTS / name), None)
            if sheet is None:
                raise SystemExit(f"results/{name} has no predictions to draw")
            write_atomic(path, sheet.png)
            continue
        tuning = read_tuning(RESULTS / name, study)
        figures = build_figures(study, rows) + ([tuning_figure(tuning)] if tuning else [])
        figure = next(one for one in figures if one.name == wanted)
        write_atomic(path, render_files(figure)["png"])


def main() -> None:
    """Write the documents, or check them."""
    parser = argparse.ArgumentParser(description="Write the documents' tables from results/.")
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    documents = {
        README: readme_sections,
        KERNELS: kernels_sections,
        NUMERICS: numerics_sections,
        GPU: gpu_sections,
        STUDY: study_sections,
        COST: cost_sections,
        DETECTORS: detectors_sections,
        GROUPS: groups_sections,
        WHY: why_sections,
        CONVERSION: conversion_sections,
        FRAMEWORKS: frameworks_sections,
        EXPORT: export_sections,
    }
    for path, sections in documents.items():
        text = path.read_text(encoding="utf-8")
        made = updated(text, sections())
        if check and made != text:
            sys.exit(f"{path.name} is not what results/ says; run python scripts/update_readme.py")
        if not check:
            path.write_text(made, encoding="utf-8")
            draw_figures(made)


if __name__ == "__main__":
    main()
