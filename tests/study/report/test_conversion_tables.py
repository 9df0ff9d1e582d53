"""The tables of a study of conversions, and what its report has for programs."""

import csv
import io
from dataclasses import replace

import pytest

from groupnorm.study.conversions.trial import FITTED, Trial
from groupnorm.study.report.conversion_tables import (
    conversion_problems,
    conversion_tables,
    trial_text,
    trials_csv,
)
from groupnorm.study.report.page import main_metric, main_table, report_numbers, write_report
from groupnorm.study.results.labels import NOTHING
from groupnorm.study.results.rows import load_study
from tests.study.fake_conversions import (
    FIT,
    GRID,
    NETWORKS,
    conversion_study,
    fake_result,
    skip_layer,
    spoil_trial,
)
from tests.tolerances import MADE_UP

RESNET, MOBILENET = NETWORKS


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return conversion_study(tmp_path_factory.mktemp("conversions"))


@pytest.fixture(scope="module")
def networks(study):
    return load_study(study).conversions


def test_the_main_table_has_methods_by_groups(study):
    header, body = main_table(study)
    assert header == [
        "network", "method", "1 group", "8 groups", "one-channel groups", "up to 32 groups",
        "fitted groups",
    ]  # fmt: skip
    assert len(body) == 2 * 5
    assert body[0][:3] == [RESNET, "reset", "12.3 ± 0.4"]
    assert body[4] == [
        RESNET, "fit", "98.0 ± 0.01", "98.0 ± 0.01", "90.0 ± 0.04", "98.0 ± 0.01",
        "99.0 ± 0.00",
    ]  # fmt: skip
    assert body[0][-1] == NOTHING
    assert main_metric(study) == "percent kept"


def test_the_other_tables(networks):
    _, fits, parts, images, steps = conversion_tables(networks)
    assert [table.name for table in (fits, parts, images, steps)] == [
        "fits", "parts", "images", "steps"
    ]  # fmt: skip
    assert fits.body[0][:6] == [
        RESNET, "accuracy", "80.3 ± 0.4", "79.5", "2 x 4, 1 x 8", "0.25"
    ]  # fmt: skip
    assert fits.body[0][6:8] == ["99.0 ± 0.00 (99)", "98.0 ± 0.01 (97)"]
    assert [line[1] for line in parts.body] == [
        "the whole", "without signs", "without scales", "without offsets", "offsets up to 1",
        "without descent", "without refit", "least squares",
    ]  # fmt: skip
    assert parts.body[1][4] == "-1.6"
    assert images.header == ["network", "4 images", "16 images"]
    assert steps.header[3:] == ["0 steps", "10 steps", "100 steps"]
    lines = {line[1]: line for line in steps.body if line[0] == RESNET}
    assert lines["fit, fitted groups, distillation"][2] == "0.001"
    assert lines["frozen BN, labels"][3] == "80.3 ± 0.4"
    assert lines["GN from scratch, 8 groups, labels"][3] == NOTHING


def test_one_seed_has_no_interval(tmp_path):
    networks = load_study(conversion_study(tmp_path, seeds=1)).conversions
    assert ", one seed" in conversion_tables(networks)[0].caption


def test_failed_missing_and_skipped_are_counted_and_named(tmp_path):
    out = conversion_study(tmp_path)
    spoil_trial(out)
    skip_layer(out, Trial("fit", "gn:groups=1", 1, 16))
    reset = next((out / "runs" / "network1-s0" / "trials").glob("reset-gn-groups-8-*"))
    reset.unlink()
    networks = load_study(out).conversions
    assert conversion_problems(networks) == [
        [f"{RESNET}, seed 0: fit, 8 groups, 16 images", "failed trial", "ValueError: made up"],
        [
            f"{RESNET}: head.norm", "skipped layer",
            "BatchNorm1d: one value per channel (in 1 trial)",
        ],
        [MOBILENET, "missing", "1 trial of it were not done; the same command does them"],
    ]  # fmt: skip
    cells = {tuple(line[:2]): line for line in conversion_tables(networks)[0].body}
    assert cells[RESNET, "fit"][3] == "98.0 (1 of 2 failed)"
    assert cells[MOBILENET, "reset"][3] == "12.6 (1 of 2 missing)"


def test_a_study_without_any_trial_has_a_report(tmp_path):
    out = conversion_study(tmp_path)
    for path in out.glob("runs/*/trials/*.json"):
        path.unlink()
    write_report(out)
    page = (out / "report.html").read_text()
    assert "The fit has no result yet." in page
    assert "missing" in page


def test_a_network_with_fewer_aims_has_the_same_columns(networks):
    (first, *rest), asked = networks, {FITTED: 99.0}
    table = conversion_tables([replace(first, aims=asked | {FIT.to: 97.0}),
                               *(replace(one, aims=asked) for one in rest)])[1]  # fmt: skip
    assert {len(line) for line in table.body} == {len(table.header)}
    assert table.body[0][-2] == "98.0 ± 0.01 (97)"
    assert table.body[1][-2] == "98.0 ± 0.01"


def test_every_number_is_there_for_programs(study, networks):
    numbers = report_numbers(study)["trials"]
    assert len(numbers) == sum(2 * len(network.outcomes) for network in networks)
    one = next(n for n in numbers if n["method"] == "fit" and n["to"] == FIT.to and not n["steps"])
    assert (one["network"], one["seed"], one["layers_converted"]) == (RESNET, 0, 3)
    assert one["score_percent"] == pytest.approx(
        100 - fake_result(FIT, 80.0, 0)["value"], abs=MADE_UP
    )
    rows = list(csv.DictReader(io.StringIO(trials_csv(networks))))
    assert len(rows) == len(numbers)
    assert rows[0]["method"] == "teacher"


def test_a_trial_in_words():
    trial = Trial("fit", "gn:size=1", 1, 128, 100, "labels", 1e-3)
    assert (
        trial_text(trial)
        == "fit, one-channel groups, 128 images, 100 steps to labels at rate 0.001"
    )
    assert trial_text(Trial("teacher")) == "the teacher as it is"
    assert GRID.images == 16


@pytest.mark.slow
def test_a_report_has_its_files_and_says_so(study):
    written = {str(path.relative_to(study)) for path in write_report(study)}
    assert {"report.html", "tables.md", "tables.tex", "trials.csv"} <= written
    assert {f"figures/{name}.svg" for name in ("kept", "steps", "layers")} <= written
    page = (study / "report.html").read_text()
    for text in ("The fit without one of its parts", "Number of calibration images", "trials.csv"):
        assert text in page
    assert "None: all 4 runs finished" in page
