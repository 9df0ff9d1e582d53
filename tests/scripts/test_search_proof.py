"""scripts/search_proof.py: a search whose end is made up, beside a grid made up for it."""

import json

import pytest
from search_proof import prove, table

from tests.study.fake_search import FINAL, search
from tests.study.fake_store import write_manifest, write_run

EPOCHS = range(1, 43)
GRID = FINAL | {"gn:size=1": 45.0}


def grid(out, searched, final, seeds=3, **other):
    """A finished grid with the configuration of the search, and of each norm so much error."""
    config = json.loads(next((searched / "runs").glob("*/config.json")).read_text())
    cells = []
    for norm, error in final.items():
        labels = {"norm": norm, "division": "groups", "value": 8, "batch_per_worker": 32}
        for seed in range(seeds):
            name = f"{norm}-s{seed}".replace(":", "-").replace("=", "-")
            values = {"val_error": error + 0.3 * seed, "train_error": 1.0}
            rows = [{"epoch": e, "step": 2 * e, **(values if e == 42 else {})} for e in EPOCHS]
            fields = {"norm": norm, "seed": seed, "epochs": 42, "reported_epochs": 1}
            write_run(out, name, config | fields | other, rows)
            cells.append({"labels": labels, "seed": seed, "run": name})
    write_manifest(out, "groups", cells, [])
    return out


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    search(out)
    return out


def test_the_pick_is_read_from_the_search_and_its_error_from_the_grid(searched, tmp_path):
    proof = prove(searched, grid(tmp_path / "grid", searched, GRID))
    assert proof.picked.labels["norm"] == "gn:groups=8"
    assert proof.picked is proof.best
    assert proof.within
    assert proof.cost == pytest.approx(60 / 42)
    assert proof.grid_cost == 30
    assert table([proof])[1][0][2:8] == [
        "gn:groups=8", "27.3 ± 0.3", "gn:groups=8, 27.3 ± 0.3", "gn:groups=8", "27.3 ± 0.3",
        "the same",
    ]  # fmt: skip


@pytest.mark.parametrize(("best", "within"), [(26.8, True), (26.6, False)])
def test_within_is_one_standard_deviation_of_the_best(best, within, searched, tmp_path):
    proof = prove(searched, grid(tmp_path / "grid", searched, GRID | {"gn:size=1": best}))
    assert proof.best.labels["norm"] == "gn:size=1"
    assert proof.best_tried.labels["norm"] == "gn:groups=8"
    assert proof.behind.mean == pytest.approx(27.0 - best)
    assert proof.within is within


def test_other_runs_and_missing_ones_are_refused(searched, tmp_path):
    with pytest.raises(SystemExit, match="differ in \\['base_lr'\\]"):
        prove(searched, grid(tmp_path / "rate", searched, GRID, base_lr=0.5))
    few = {norm: error for norm, error in GRID.items() if norm != "gn:groups=1"}
    with pytest.raises(SystemExit, match="has not trained gn:groups=1"):
        prove(searched, grid(tmp_path / "few", searched, few))
    lacking = grid(tmp_path / "lacking", searched, GRID)
    (lacking / "runs" / "gn-groups-8-s1" / "DONE").unlink()
    with pytest.raises(SystemExit, match="is not finished"):
        prove(searched, lacking)
