"""The report of a conversion as a table and as a file."""

import json

import pytest
import rich
from torch import nn

from groupnorm.conversion import ConversionReport, convert, preview
from tests.conversion.networks import small_network, train_statistics


@pytest.fixture
def report():
    model = small_network()
    model.stem[1].reset_running_stats()
    return preview(model, "gn:groups=8")


def test_the_table_names_what_was_converted_and_what_was_left(report):
    text = str(report)
    assert text.startswith("2 layers to gn:groups=8, 1 left as they are\n")
    row = next(line for line in text.splitlines() if line.startswith("blocks.0.bn"))
    assert row.split()[:6] == ["blocks.0.bn", "BatchNorm2d", "GroupNorm", "32", "8", "0.001"]
    assert "1 x BatchNorm2d: its statistics are 0 and 1: never trained (stem.1)" in text


def test_a_terminal_shows_the_same_table(report, capsys):
    rich.print(report)
    shown = capsys.readouterr().out
    assert "2 layers to gn:groups=8" in shown
    assert "never trained" in shown


def test_names_cannot_steer_a_terminal():
    model = nn.Sequential()
    model.add_module("\x1b[2J", train_statistics(nn.BatchNorm2d(32)))
    assert "\x1b" not in str(preview(model))


def test_a_report_is_saved_and_read(report, tmp_path):
    report.save(tmp_path / "report.json")
    assert ConversionReport.load(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "expected an object, got list"),
        (b"\xff\x00", "holds no report of a conversion"),
        (b"{}", "has version 2, got None"),
    ],
)
def test_another_file_is_no_report(content, message, tmp_path):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ConversionReport.load(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("to"), "expected the fields"),
        (lambda v: v.update(extra=1), "expected the fields"),
        (lambda v: v.update(new_keys=[3]), "new_keys has a value that does not fit"),
        (lambda v: v.update(layers=["x"]), "expected an object, got str"),
        (lambda v: v["layers"][0].update(groups=True), "groups has a value that does not fit"),
        (lambda v: v["skipped"][0].pop("reason"), "expected the fields"),
    ],
)
def test_fields_that_do_not_fit_are_named(change, message, report, tmp_path):
    values = report.to_dict()
    change(values)
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        ConversionReport.load(tmp_path / "report.json")


@pytest.mark.filterwarnings("ignore:.*converted without data:UserWarning")
def test_keys_that_come_and_go_are_listed():
    model = train_statistics(nn.Sequential(nn.BatchNorm2d(32, affine=False)))
    report = convert(model)[1]
    assert report.new_keys == ["0.weight", "0.bias"]
    assert report.removed_keys == ["0.running_mean", "0.running_var", "0.num_batches_tracked"]
