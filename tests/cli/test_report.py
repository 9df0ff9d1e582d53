"""The main table in terminals of every width: a title, and no name and no number cut."""

import io
import json

import pytest
from rich.console import Console

from groupnorm.cli import report as report_command
from groupnorm.cli import terminal
from groupnorm.study.report.page import main_table
from tests.cli.commands import typed
from tests.study.fake_store import batch_study, groups_study


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


def test_a_table_that_just_fits_is_one(tmp_path, monkeypatch):
    folder = groups_study(tmp_path, seeds=1)
    widest = max(map(len, printed(folder, 200, monkeypatch).splitlines()[1:]))
    assert "\u2502 number of groups" in printed(folder, widest, monkeypatch)
    assert "number of groups\n  64: skipped\n" in printed(folder, widest - 1, monkeypatch)


def test_json_has_plain_names_and_every_number(tmp_path, monkeypatch):
    monkeypatch.setattr("groupnorm.study.report.page.build_figures", lambda study, rows: [])
    folder = batch_study(tmp_path, norms=("gn:groups=8", "bn"), batches=(32, 2), seeds=2)
    gn, bn, recomputed = json.loads(typed("report", folder, "--json").stdout)
    assert gn["images per worker"] == "gn:groups=8"
    assert bn["images per worker"] == "bn"
    assert recomputed["images per worker"] == "bn (recomputed statistics)"
    assert gn["32"] == gn["2"]
    assert bn["32"] != bn["2"]
    for row in (gn, bn, recomputed):
        assert all(float(row[batch].split(" ± ")[0]) > 0 for batch in ("32", "2"))
    assert "same" in main_table(folder)[1][0]
