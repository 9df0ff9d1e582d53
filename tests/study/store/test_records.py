"""The store: reading what is there, saying clearly what is not."""

import copy
import json
import random
import shutil
from pathlib import Path

import pytest

from groupnorm.study.report.cost_tables import cost_table
from groupnorm.study.report.tables import (
    main_table_of,
    problems,
    run_groups,
    tables_csv,
)
from groupnorm.study.report.text import describe
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import (
    StoreError,
    read_cells,
    read_manifest,
    read_metrics,
    read_record,
    run_folder,
    write_metrics,
)
from tests.study.fake_store import add_to_manifest, batch_study, write_manifest

RESULTS = Path(__file__).parents[3] / "results"


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
        ({"FAILED": '{"reason": "killed"}', "metrics.jsonl": '{"epoch": 1}\n'}, "failed", "killed"),
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


def test_manifest(tmp_path):
    with pytest.raises(StoreError, match="holds no study"):
        read_manifest(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(StoreError, match=r"study\.json is not JSON"):
        read_manifest(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="format 99, this version reads 1"):
        read_manifest(tmp_path)
    cells = [{"labels": {"norm": "bn", "batch_per_worker": 8}, "seed": 0, "run": "x"}]
    write_manifest(tmp_path, "batch-size", cells, [])
    (cell,) = read_cells(read_manifest(tmp_path))
    assert (cell.labels, cell.seed, cell.run) == ({"norm": "bn", "batch_per_worker": 8}, 0, "x")


@pytest.mark.parametrize(
    ("study", "batches", "keys", "shows"),
    [
        ("batch-size", (32, 2), {}, "batch-size"),
        ("batch-size", (32, 32), {}, "norms"),
        ("norms", (), {}, "norms"),
        ("vgg", (32, 2), {"shows": None, "published": None}, "batch-size"),
        ("groups", (32,), {}, "groups"),
        ("cifar-groups", (32,), {"shows": "groups"}, "groups"),
        ("groups", (32,), {"shows": "norms"}, "norms"),
        ("batch-size", (32,), {"shows": "batch-size"}, "batch-size"),
    ],
)
def test_a_manifest_says_what_its_report_shows_also_an_old_one(
    study, batches, keys, shows, tmp_path
):
    extra = {"division": "groups", "value": 1} if shows == "groups" else {}
    cells = [
        {"labels": {"norm": "bn", "batch_per_worker": batch, **extra}, "seed": 0, "run": "x"}
        for batch in batches
    ]
    write_manifest(tmp_path, study, cells, [])
    add_to_manifest(tmp_path, **keys)
    manifest = read_manifest(tmp_path)
    assert (manifest["shows"], manifest["published"]) == (shows, [f"imagenet-{shows}"])
    add_to_manifest(tmp_path, published=["pets-notebook"])
    assert read_manifest(tmp_path)["published"] == ["pets-notebook"]


def test_an_unknown_kind_of_report_is_refused(tmp_path):
    write_manifest(tmp_path, "batch-size", [], [])
    add_to_manifest(tmp_path, shows="curves")
    with pytest.raises(StoreError, match=r"study\.json has shows='curves'"):
        read_manifest(tmp_path)


def test_a_run_is_a_folder_inside_the_study(tmp_path):
    for name in ("../outside", "a/b", "", "..", ".", ".hidden", "a\\b"):
        cell = {"labels": {"norm": "bn", "batch_per_worker": 8}, "seed": 0, "run": name}
        write_manifest(tmp_path, "norms", [cell], [])
        with pytest.raises(StoreError, match=r"has cells\.0\.run="):
            read_manifest(tmp_path)


@pytest.mark.parametrize(
    "out", [path.parent for path in sorted(RESULTS.glob("*/study.json"))], ids=lambda out: out.name
)
def test_every_record_of_the_project_is_read_unchanged(out):
    manifest = read_manifest(out)
    cells = read_cells(manifest)
    assert cells
    end = "partial" if manifest["shows"] == "search" else "finished"  # at its last rung
    for name in {cell.run for cell in cells}:
        record, folder = read_record(out, name), run_folder(out, name)
        assert record.status == end
        assert record.config == json.loads((folder / "config.json").read_text())
        assert record.env == json.loads((folder / "env.json").read_text())
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert record.metrics == [json.loads(line) for line in lines]


def test_a_configuration_of_an_older_version_that_was_changed_is_refused(tmp_path):
    """Its folder's name is a digest of fewer fields than there are today."""
    (folder,) = RESULTS.glob("batch-norm-40-epochs*/runs/bn-2x32-s0-2bd7993edb")
    shutil.copytree(folder, tmp_path / "runs" / folder.name)
    read_record(tmp_path, folder.name)
    path = run_folder(tmp_path, folder.name) / "config.json"
    config = json.loads(path.read_text())
    assert "compile" not in config
    for change in ({"width": 2.0}, {"compile": True}):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(StoreError, match=r"config\.json is not what .* it was changed"):
            read_record(tmp_path, folder.name)


def paths_in(value, path=()):
    """The path of every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from paths_in(item, (*path, key))


def test_what_the_reader_takes_the_report_can_show(tmp_path):
    """Values of another type, and keys that are gone, at random places of every file."""
    draw = random.Random(0)
    out = batch_study(tmp_path / "study", norms=("bn",), batches=(32, 2), seeds=1)
    files = [out / "study.json", *sorted(out.glob("runs/*/*.json"))]
    files += sorted(out.glob("runs/*/metrics.jsonl")) + sorted(out.glob("runs/*/DONE"))
    refused = []
    for _ in range(300):
        path = draw.choice(files)
        text = path.read_text()
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        number = draw.randrange(len(lines))
        value = copy.deepcopy(json.loads(lines[number]))
        *parents, key = draw.choice(list(paths_in(value)))
        holder = value
        for parent in parents:
            holder = holder[parent]
        if draw.random() < 0.2:
            del holder[key]
        else:
            holder[key] = draw.choice([None, True, -1, 0, 3, 2.5, 10**18, "", "x", [], [1], {}])
        lines[number] = json.dumps(value)
        path.write_text("\n".join(lines))
        try:
            study = load_study(out)
        except StoreError as error:
            refused.append((path, str(error)))
        else:
            rows = summarize_study(study)
            main_table_of(study, rows)
            cost_table(study, rows)
            run_groups(study, rows)
            problems(study, rows)
            tables_csv(study, rows)
            describe(study, rows)
        path.write_text(text)
    assert 100 < len(refused) < 290
    for path, message in refused:  # a status that was changed may ask for more of another file
        assert str(path.parent) in message
