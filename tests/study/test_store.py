"""The store: reading what is there, saying clearly what is not."""

import json

import pytest

from groupnorm.study.store import (
    StoreError,
    read_cells,
    read_manifest,
    read_metrics,
    read_record,
    run_folder,
    to_json,
    write_metrics,
)


def test_metrics_round_trip(tmp_path):
    rows = [{"epoch": 1, "val_error": 12.5, "precise_val_error": None}, {"epoch": 2}]
    write_metrics(tmp_path, rows)
    assert read_metrics(tmp_path) == rows
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_not_a_number_is_never_stored(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(tmp_path, [{"val_loss": float("nan")}])
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("files", "status", "reason"),
    [
        ({}, "missing", None),
        ({"metrics.jsonl": '{"epoch": 1}\n'}, "partial", None),
        ({"DONE": '{"status": "finished", "reason": null}'}, "finished", None),
        ({"DONE": '{"status": "diverged", "reason": "loss nan"}'}, "diverged", "loss nan"),
        ({"FAILED": '{"reason": "killed"}', "metrics.jsonl": "{}\n"}, "failed", "killed"),
        (
            {"FAILED": '{"reason": "killed"}', "DONE": '{"status": "finished", "reason": null}'},
            "finished",
            None,
        ),
    ],
)
def test_status_of_a_run(tmp_path, files, status, reason):
    folder = run_folder(tmp_path, "a")
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    record = read_record(tmp_path, "a")
    assert (record.status, record.reason) == (status, reason)


def test_damage_is_named(tmp_path):
    folder = run_folder(tmp_path, "a")
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(StoreError, match=r"metrics\.jsonl line 2 is not JSON"):
        read_record(tmp_path, "a")
    (folder / "metrics.jsonl").unlink()
    (folder / "config.json").write_text("[1]")
    with pytest.raises(StoreError, match=r"config\.json should hold a JSON object"):
        read_record(tmp_path, "a")


def test_manifest(tmp_path):
    with pytest.raises(StoreError, match="holds no study"):
        read_manifest(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="format 99, this version reads 1"):
        read_manifest(tmp_path)
    cells = [{"labels": {"norm": "bn"}, "seed": 0, "run": "x"}]
    (tmp_path / "study.json").write_text(to_json({"format": 1, "cells": cells}))
    (cell,) = read_cells(read_manifest(tmp_path))
    assert (cell.labels, cell.seed, cell.run) == ({"norm": "bn"}, 0, "x")
