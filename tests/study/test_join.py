"""Joined studies: one folder that is a study, from several of the same experiment."""

import json
import shutil

import pytest

from groupnorm.experiments.conversion import Grid
from groupnorm.study.join import join_studies
from groupnorm.study.results.rows import load_study, summarize
from groupnorm.study.results.samples import samples_of
from groupnorm.study.store import StoreError, read_manifest
from tests.study.fake_conversions import NETWORKS, conversion_study, spoil_trial
from tests.study.fake_detectors import DETECTORS, Arm, add_samples, detector_study
from tests.study.fake_search import search as fake_search
from tests.study.fake_store import (
    add_costs,
    add_to_manifest,
    batch_study,
    groups_study,
    spoil,
    tuned_study,
)

COMMAND = "groupnorm report a b --out joined"
RESNET, _ = NETWORKS


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def two(tmp_path):
    """One seed of two norms, and three seeds of one of these and a third."""
    a = batch_study(tmp_path / "a", norms=("bn", "gn"), seeds=1)
    b = batch_study(tmp_path / "b", norms=("bn", "ln"), batches=(32, 2), seeds=3)
    return a, b


def test_the_rows_are_those_of_all_studies(two, tmp_path):
    out = tmp_path / "joined"
    join_studies(two, out, COMMAND)
    rows = {(r.labels["norm"], r.labels["batch_per_worker"]): r for r in summarize(out)}
    assert list(rows) == [
        ("bn", 32), ("bn", 8), ("bn", 2), ("gn", 32), ("gn", 8), ("gn", 2), ("ln", 32), ("ln", 2),
    ]  # fmt: skip
    assert [rows["bn", size].finished for size in (32, 8, 2)] == [3, 1, 3]
    for folder in two:
        for row in summarize(folder):
            joined = rows[row.labels["norm"], row.labels["batch_per_worker"]]
            assert row.results.items() <= joined.results.items()
    manifest = read_manifest(out)
    assert [line["folder"] for line in manifest["joined"]] == [str(folder) for folder in two]
    assert manifest["command"] == COMMAND


def test_the_same_studies_give_the_same_bytes_and_no_checkpoint(two, tmp_path):
    for checkpoint in tmp_path.glob("*/runs/*"):
        (checkpoint / "checkpoint.pt").write_bytes(b"large")
    join_studies(two, tmp_path / "joined", COMMAND)
    first = contents(tmp_path / "joined")
    assert not any(name.endswith("checkpoint.pt") for name in first)
    join_studies(two, tmp_path / "joined", COMMAND)
    assert contents(tmp_path / "joined") == first
    join_studies(two, tmp_path / "again", COMMAND)
    assert contents(tmp_path / "again") == first


def test_a_run_of_two_records_is_an_error_that_names_both(two, tmp_path):
    run = next((two[1] / "runs").glob("bn-n32-s0"))
    spoil(run, "failed", "out of memory")
    with pytest.raises(StoreError) as error:
        join_studies(two, tmp_path / "joined", COMMAND)
    assert str(error.value) == (
        f"the run bn-n32-s0 is in {two[0]} (finished) and in {two[1]} (failed) with another "
        "metrics.jsonl and DONE and FAILED; leave one of the two studies out"
    )
    assert not (tmp_path / "joined").exists()


def test_the_same_result_at_other_times_on_another_machine_is_one_run(two, tmp_path):
    run = next((two[1] / "runs").glob("bn-n32-s0"))
    (run / "env.json").write_text('{"cpu": "another"}')
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["timing"]["images_per_second"] *= 2
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    join_studies(two, tmp_path / "joined", COMMAND)
    first = (two[0] / "runs/bn-n32-s0/env.json").read_bytes()
    assert (tmp_path / "joined/runs/bn-n32-s0/env.json").read_bytes() == first
    lines[0]["val_error"] += 1
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StoreError, match=r"with another metrics\.jsonl; leave"):
        join_studies(two, tmp_path / "joined", COMMAND)


def test_a_run_that_one_study_has_not_begun_is_that_of_the_other(two, tmp_path):
    spoil(next((two[0] / "runs").glob("bn-n32-s0")), "missing")
    join_studies(two, tmp_path / "joined", COMMAND)
    assert summarize(tmp_path / "joined")[0].finished == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "norms"}, "they differ: experiment batch-size and norms$"),
        ({"protocol": "paper"}, "they differ: protocol fixed-step and paper$"),
        ({"data": {"name": "cifar10"}}, "they differ: data name digits, .* and name cifar10$"),
    ],
)
def test_studies_of_different_things_are_not_joined(two, tmp_path, changes, message):
    add_to_manifest(two[1], **changes)
    with pytest.raises(StoreError, match=message):
        join_studies(two, tmp_path / "joined", COMMAND)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("base_lr", 0.4, "they differ: base_lr 0.1 and 0.4$"),
        ("model", "resnet20", 'they differ: model "resnet8" and "resnet20"$'),
        ("workers", 1, "they differ: images of a step 64 and 2, 32$"),
    ],
)
def test_other_recipes_are_never_mixed(two, tmp_path, field, value, message):
    for path in two[1].glob("runs/*/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(StoreError, match=message):
        join_studies(two, tmp_path / "joined", COMMAND)


def test_a_cell_with_two_runs_is_an_error(two, tmp_path):
    cells = json.loads((two[1] / "study.json").read_text())["cells"]
    cells[0]["run"] = cells[-1]["run"]
    add_to_manifest(two[1], cells=cells)
    message = (
        r"bn, 32 images per worker, seed 0, is another run in .*a \(bn-n32-s0\) than in .*b \("
    )
    with pytest.raises(StoreError, match=message):
        join_studies(two, tmp_path / "joined", COMMAND)


def test_where_the_joined_study_may_be(two, tmp_path):
    for studies, out, named in (
        (two, two[1], two[1]), ((two[0], two[0]), tmp_path / "joined", two[0]),
    ):  # fmt: skip
        with pytest.raises(StoreError, match=f"{named} is named twice: the studies to join and"):
            join_studies(studies, out, COMMAND)
    third = groups_study(tmp_path / "groups")
    with pytest.raises(StoreError, match="groups holds a study of its own; choose another --out"):
        join_studies(two, third, COMMAND)


@pytest.mark.parametrize(("make", "key"), [(tuned_study, "tuning"), (fake_search, "search")])
def test_tuned_studies_and_searches_are_not_joined(two, tmp_path, make, key):
    make(tmp_path / "c")
    message = f"c cannot be joined with others: its {key} belongs to its own runs"
    for studies in ([two[0], tmp_path / "c"], [tmp_path / "c", two[0]]):
        with pytest.raises(StoreError, match=message):
            join_studies(studies, tmp_path / "joined", COMMAND)
    assert not (tmp_path / "joined").exists()


def test_joined_studies_can_be_joined_and_say_where_all_is_from(two, tmp_path):
    join_studies(two, tmp_path / "joined", COMMAND)
    third = batch_study(tmp_path / "c", norms=("in",), batches=(2,), seeds=1)
    join_studies([tmp_path / "joined", third], tmp_path / "all", COMMAND)
    shutil.rmtree(tmp_path / "joined")
    manifest = read_manifest(tmp_path / "all")
    assert [line["folder"] for line in manifest["joined"]] == [*map(str, two), str(third)]
    assert len(summarize(tmp_path / "all")) == 9


def test_times_of_different_studies_are_not_compared(two, tmp_path):
    for folder in two:
        add_costs(folder)
    # the counts differ by the run's place in its folder
    shutil.rmtree(two[1] / "runs")
    shutil.copytree(two[0] / "runs", two[1] / "runs")
    (two[1] / "study.json").write_bytes((two[0] / "study.json").read_bytes())
    join_studies(two, tmp_path / "joined", COMMAND)
    costs = json.loads((tmp_path / "joined" / "cost.json").read_text())
    assert costs["configurations"] == []
    assert "timed apart" in costs["reason"]


def test_what_runs_start_from_comes_with_them_and_each_finding_once(tmp_path):
    findings = [{"statement": s, "source": "", "better": {"arm": "GN"}, "worse": {"arm": "LN"}}
                for s in ("GN is above LN", "LN is below GN")]  # fmt: skip
    arms = {"frozen BN": Arm(31.4, "bn")}
    a = detector_study(tmp_path / "a", arms, findings=findings[:1])
    b = detector_study(tmp_path / "b", arms, findings=findings)
    join_studies((a, b), tmp_path / "joined", COMMAND)
    study = load_study(tmp_path / "joined")
    assert [record.status for record in study.initial.values()] == ["finished"]
    assert study.manifest["findings"] == findings


@pytest.fixture
def detectors(tmp_path):
    """Two studies of two arms each, one of them in both."""
    names = list(DETECTORS)
    arms = ({name: DETECTORS[name] for name in chosen} for chosen in (names[:2], names[:2][::-1]))
    folders = [detector_study(tmp_path / name, made) for name, made in zip("ab", arms, strict=True)]
    for name in ("arm0-s0", "arm0-s1", "arm1-s0", "arm1-s1"):
        shutil.rmtree(tmp_path / "b" / "runs" / name)
        shutil.copytree(tmp_path / "a" / "runs" / name, tmp_path / "b" / "runs" / name)
    manifest = (tmp_path / "a" / "study.json").read_text()
    (tmp_path / "b" / "study.json").write_text(manifest)
    return folders


def test_predictions_on_the_same_images_are_joined_and_others_left_out_in_words(
    detectors, tmp_path
):
    a, b = detectors
    out = tmp_path / "joined"
    join_studies([a, b], out, COMMAND)
    assert not (out / "samples").exists()
    add_samples(b)
    join_studies([a, b], out, COMMAND)
    assert samples_of(out) == samples_of(b)
    images = {path.name: path.read_bytes() for path in (b / "samples").glob("*.png")}
    assert {path.name: path.read_bytes() for path in (out / "samples").glob("*.png")} == images
    add_samples(a, count=3)
    join_studies([a, b], out, COMMAND)
    assert samples_of(out).reason == (
        "the studies that were joined here predicted on different images"
    )
    for folder in (a, b):
        shutil.rmtree(folder / "samples")
    join_studies([a, b], out, COMMAND)
    assert samples_of(out).reason == "the studies that were joined here have none"
    assert [path.name for path in (out / "samples").iterdir()] == ["samples.json"]


@pytest.fixture
def converted(tmp_path):
    """Two studies of conversions, the second with one network of the first and another seed."""
    few = Grid(("gn:groups=8",), ("gn:groups=8",), 16, (), (100,), (1e-3,))
    a = conversion_study(tmp_path / "a", seeds=1, grid=few)
    b = conversion_study(tmp_path / "b", networks={RESNET: 80.0}, grid=few)
    return a, b


def test_trials_of_conversions_are_joined(converted, tmp_path):
    out = tmp_path / "joined"
    join_studies(converted, out, COMMAND)
    first, second = load_study(out).conversions
    assert (first.name, first.teacher.seeds, second.teacher.seeds) == (RESNET, (0, 1), (0,))
    assert all(len(one.results) == len(one.seeds) for one in first.outcomes.values())
    (before,) = load_study(converted[1]).conversions
    assert {t: one.scores for t, one in first.outcomes.items()} == {
        t: one.scores for t, one in before.outcomes.items()
    }
    again = contents(out)
    join_studies(converted, out, COMMAND)
    assert contents(out) == again


def test_a_trial_that_failed_in_one_study_is_taken_from_the_other(converted, tmp_path):
    spoil_trial(converted[0])
    join_studies(converted, tmp_path / "joined", COMMAND)
    first, _ = load_study(tmp_path / "joined").conversions
    assert not any(one.failures for one in first.outcomes.values())


def test_a_trial_with_another_result_is_refused(converted, tmp_path):
    path = next(converted[0].glob("runs/network0-s0/trials/fit-gn-groups-8-*"))
    record = json.loads(path.read_text())
    record["result"]["seconds"] = 99.0
    path.write_text(json.dumps(record))
    join_studies(converted, tmp_path / "joined", COMMAND)
    record["result"]["value"] += 1.0
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match="are of one trial and have different results") as caught:
        join_studies(converted, tmp_path / "joined", COMMAND)
    assert str(path) in str(caught.value)
