"""The main table in terminals of every width: a title, and no name and no number cut."""

import io
import json

import pytest
from rich.console import Console

from groupnorm.cli import report as report_command
from groupnorm.cli import terminal
from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.page import main_table, report_numbers
from tests.cli.commands import typed
from tests.study.fake_store import add_to_manifest, batch_study, groups_study, tuned_study


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    norms = ("bn", "gn:groups=8+ws", "evonorm_s0:groups=8")
    return batch_study(tmp_path_factory.mktemp("s"), norms=norms, batches=(32, 16, 8, 4, 2))


def printed(folder, width, monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for module in (report_command, terminal):
        monkeypatch.setattr(module, "console", console)
    report_command.print_main_table(folder)
    return stream.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 90, 120, 200])
def test_every_name_and_number_is_whole(out, width, monkeypatch):
    text = printed(out, width, monkeypatch)
    assert text.startswith("Top-1 error in percent: resnet8 on digits, median of the last 5 of 8 e")
    assert "\u2026" not in text
    header, rows = main_table(out)
    lines = text.splitlines()
    for name, *cells in rows:
        if width < 120:
            first = lines.index(name) + 1
            wanted = [f"  {n}: {cell}" for n, cell in zip(header[1:], cells, strict=True)]
            assert lines[first : first + len(cells)] == wanted
        else:
            assert [name, *cells] in [
                [cell.strip() for cell in line.split("\u2502")[1:-1]] for line in lines
            ]
    assert ("images per worker: error" in lines) == (width < 120)


def test_a_table_of_which_nothing_is_decided_is_said_to_be_empty(tmp_path, monkeypatch):
    folder = add_to_manifest(tuned_study(tmp_path), cells=[])
    assert printed(folder, 200, monkeypatch).startswith("the table is empty as yet: runs that")


def test_a_table_that_just_fits_is_one(tmp_path, monkeypatch):
    folder = groups_study(tmp_path, seeds=1)
    widest = max(map(len, printed(folder, 200, monkeypatch).splitlines()[1:]))
    assert "\u2502 number of groups" in printed(folder, widest, monkeypatch)
    assert "number of groups\n  64: skipped\n" in printed(folder, widest - 1, monkeypatch)


def test_json_is_that_of_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("groupnorm.study.report.page.build_figures", lambda study, rows: [])
    folder = batch_study(tmp_path, norms=("gn:groups=8", "bn"), batches=(32, 2), seeds=2)
    printed = json.loads(typed("report", folder, "--json").stdout)
    assert printed == json.loads(json.dumps(report_numbers(folder)))


@pytest.mark.slow
def test_studies_are_joined_and_the_folder_is_a_study(tmp_path):
    for name, norms in (("a", ("bn",)), ("b", ("gn:groups=8",))):
        batch_study(tmp_path / name, norms=norms, batches=(32, 2), seeds=2)
    done = typed("report", "a", "b", "--out", "d", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gn:groups=8" in done.stdout
    page = (tmp_path / "d" / "report.html").read_bytes()
    assert b"Joined from" in page
    assert b"groupnorm report a b --out d" in page
    again = typed("report", "d", cwd=tmp_path)
    assert again.stdout == done.stdout
    assert (tmp_path / "d" / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "several studies are joined in a folder; name it with --out"),
        (["a", "--out", "d"], "--out joins several studies; name them, or leave --out out"),
        (["a", "none", "--out", "d"], "none holds no study"),
    ],
)
def test_what_cannot_be_joined(arguments, message, tmp_path):
    batch_study(tmp_path / "a", norms=("bn",), batches=(32,), seeds=1)
    done = typed("report", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "d").exists()


def test_the_command_says_which_files_it_wrote_and_uses_own_names(tmp_path, monkeypatch):
    def one_figure(study, rows):
        return build_figures(study, rows)[:1]

    monkeypatch.setattr("groupnorm.study.report.page.build_figures", one_figure)
    folder = batch_study(tmp_path, norms=("gn:groups=8", "bn"), batches=(32,), seeds=1)
    label = "gn:groups=8=GN (ours)"
    lines = typed("report", folder, "--column", "single", "--label", label).stdout.splitlines()
    assert lines[-2] == f"report: {folder}/report.html"
    assert lines[-1] == (
        "with it: tables.{csv,md,tex}, differences.csv, references.bib, "
        "figures/error-by-norm.{svg,pdf,png}"
    )
    assert any("GN (ours)" in line for line in lines)
    assert b'width="237.6pt"' in (folder / "figures/error-by-norm.svg").read_bytes()
    rows = json.loads(typed("report", folder, "--label", label, "--json").stdout)
    assert "GN (ours)" not in str(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "gn=GN"), "a norm of this study (gn:groups=8, bn), got 'gn=GN'"),
        (("--column", "triple"), "for '--column': 'triple' is not one of 'single', 'double'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_words(tmp_path, options, message):
    folder = batch_study(tmp_path, norms=("gn:groups=8", "bn"), batches=(32,), seeds=1)
    done = typed("report", folder, *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("\u2502", " ").split())
    assert "Traceback" not in done.stderr
    assert not (folder / "report.html").exists()
