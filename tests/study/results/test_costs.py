"""Costs of runs: from the record to the table, tables.csv and the page; older records have none."""

import csv
import io
import json

import pytest

from groupnorm.study.report.cost_tables import cost_table, time_table
from groupnorm.study.report.page import build_report
from groupnorm.study.report.tables import run_groups, run_header, tables_csv
from groupnorm.study.results.costs import (
    CostPass,
    how_timed,
    mean_cost,
    milliseconds,
    read_cost_pass,
    run_cost,
    time_spent,
)
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import Record, StoreError
from tests.study.fake_detectors import detector_study
from tests.study.fake_store import add_costs, batch_study, loaded


def test_a_runs_costs_have_their_units(tmp_path):
    add_costs(batch_study(tmp_path, seeds=1))
    study = load_study(tmp_path)
    name = min(study.records)
    found = run_cost(study.records[name], study.cost_pass.times[name])
    assert found == pytest.approx({
        "forward_ms_per_image": 2.0, "backward_ms_per_image": 4.0,
        "saved_bytes_per_image": 1.5 * 2**20, "training_gflops_per_image": 0.242,
        "norm_share": 0.125,
    })  # fmt: skip
    assert milliseconds(found) == pytest.approx(6.0)
    assert milliseconds({"forward_ms_per_image": 1.0}) is None
    assert mean_cost([{"norm_share": 0.1}, {"norm_share": 0.3}, {}]) == {
        "norm_share": pytest.approx(0.2)
    }


def test_the_peak_of_a_whole_process_is_not_shown_as_a_steps_memory(tmp_path):
    """What older records hold."""
    add_costs(batch_study(tmp_path, seeds=1))
    for path in tmp_path.glob("runs/*/metrics.jsonl"):
        path.write_text(path.read_text().replace("step_memory_bytes", "peak_memory_bytes"))
    study = load_study(tmp_path)
    rows = summarize_study(study)
    header, body = cost_table(study, rows)
    assert not [title for title in header if "memory" in title]
    assert {len(line) for line in body} == {len(header)}
    assert {line[-2] for group in run_groups(study, rows) for line in group.seeds} == {"\u2013"}
    csv_rows = list(csv.DictReader(io.StringIO(tables_csv(study, rows))))
    assert {row["step_memory_bytes"] for row in csv_rows} == {""}
    assert "peak_memory_bytes" not in csv_rows[0]


@pytest.fixture
def timed(tmp_path):
    add_costs(batch_study(tmp_path, norms=("bn", "gn:groups=8"), batches=(32, 8), seeds=2))
    return tmp_path


def test_table_and_csv_show_them(timed):
    study = load_study(timed)
    rows = summarize_study(study)
    header, body = cost_table(study, rows)
    assert [line[:2] for line in body] == [
        ["bn", "32"], ["bn", "8"], ["gn:groups=8", "32, 8 (trained once)"],
    ]  # fmt: skip
    line = dict(zip(header, body[0], strict=True))
    assert line["forward, ms/image"] == "2.000"
    assert line["time in norms, %"] == "12.5"
    assert line["memory of a step, MiB"] == "48"
    lines = list(csv.DictReader(io.StringIO(tables_csv(study, rows))))
    assert {row["norm_share"] for row in lines} == {"0.125"}


@pytest.mark.slow
def test_the_page_shows_them(timed):
    page = build_report(timed).read_text()
    assert '<section id="cost">' in page
    assert "medians of 7 rounds in which all configurations took turns" in page
    assert "1 thread, torch 0.0-fake, on a fake processor. Half of each" in page
    assert "within 5.0 % of its median" in page
    assert "training_flops_per_image" not in page
    assert (timed / "figures" / "error-by-cost.svg").exists()


def test_without_times_taken_in_turns_no_time_is_in_any_column(tmp_path):
    """What trials recorded of their own speed while others ran beside them compares nothing."""
    out = batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1)
    add_costs(out, timed=False)
    for path in out.glob("runs/*/env.json"):
        env = json.loads(path.read_text())
        env["cost"]["norm_share"] = 0.3  # as recorded by earlier versions
        path.write_text(json.dumps(env))
    for path in out.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["timing"] |= {"images": 500, "forward_seconds": 1.0, "backward_seconds": 2.0,
                              "data_seconds": 0.25}  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = load_study(out)
    header, body = cost_table(study, summarize_study(study))
    assert header[3:] == [
        "saved for backward, MiB/image", "GFLOPs/image", "memory of a step, MiB",
    ]  # fmt: skip
    assert len(body) == 1
    assert not {"images/s", "seconds"} & set(run_header(study))
    columns = tables_csv(study, summarize_study(study)).splitlines()[0].split(",")
    assert not [name for name in columns if "second" in name or "_ms_" in name or "share" in name]
    page = build_report(out).read_text()
    assert "Times are not compared: this record holds none that were taken in turns." in page
    assert "How fast a run was is not listed: runs share the machine" in page
    assert "ms per image" not in page


def test_older_records_have_no_cost_section(tmp_path):
    batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1)
    study = load_study(tmp_path)
    rows = summarize_study(study)
    assert cost_table(study, rows)[1] == []
    assert "norm_share" not in tables_csv(study, rows)
    page = build_report(tmp_path).read_text()
    assert '<section id="cost">' not in page
    assert "How fast a run was is not listed" in page
    assert not (tmp_path / "figures" / "error-by-cost.svg").exists()


def test_why_there_are_no_times(tmp_path):
    assert read_cost_pass(tmp_path) == CostPass()
    cost = CostPass(reason="the trials ran on the nodes of a cluster")
    (tmp_path / "cost.json").write_text(json.dumps(cost.as_json()))
    assert read_cost_pass(tmp_path) == cost
    assert how_timed(cost).startswith("Times are not compared: the trials ran on the nodes of a c")


TIMED = {
    "runs": ["a"], "forward_ms_per_image": 1, "backward_ms_per_image": 2.0, "spread": 0.1,
    "norm_share": 0.1,
}  # fmt: skip
COST = {"format": 1, "rounds": 5, "configurations": [TIMED], "environment": {}, "reason": None}


def test_times_with_a_byte_order_mark(tmp_path):
    (tmp_path / "cost.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(COST).encode())
    assert read_cost_pass(tmp_path).times == {
        "a": {"forward_ms_per_image": 1, "backward_ms_per_image": 2.0, "norm_share": 0.1}
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"new": 0}, "has the key 'new'"),
        ({"reason": 5}, "has reason=5"),
        ({"rounds": -1}, "has rounds=-1"),
        ({"environment": {"threads": "all"}}, "has environment.threads='all'"),
        ({"configurations": []}, "has neither times nor a reason"),
        ({"configurations": [{"runs": ["a"]}]}, "lacks 'configurations.0.forward_ms_per_image'"),
        *(
            ({"configurations": [{**TIMED, key: value}]}, rf"has configurations\.0\.{key}=")
            for key, value in (
                ("runs", []), ("forward_ms_per_image", -1.0), ("backward_ms_per_image", 1e300),
                ("spread", 1e300), ("norm_share", True), ("norm_share", 1.5),
            )
        ),
    ],
)  # fmt: skip
def test_times_that_cannot_be_are_named_with_the_remedy(tmp_path, changes, words):
    (tmp_path / "cost.json").write_text(json.dumps({**COST, **changes}))
    with pytest.raises(StoreError, match=rf"cost\.json {words}.*Restore it, or delete it"):
        read_cost_pass(tmp_path)


def epoch(seconds, images_per_second, **parts):
    timing = {"seconds": seconds, "images": 100, "images_per_second": images_per_second, **parts}
    return {"timing": timing}


def test_the_time_of_a_run_is_divided_over_all_its_epochs():
    parts = {"data_seconds": 1.0, "forward_seconds": 2.0, "backward_seconds": 3.0}
    rows = [epoch(10.0, 10.0, **parts), epoch(15.0, 10.0, **parts)]
    found = time_spent(Record("a", "finished", None, {}, {}, rows))
    assert found.milliseconds == pytest.approx(100.0)
    assert found.shares == pytest.approx({
        "data": 2 / 25, "forward": 4 / 25, "backward and optimizer": 6 / 25,
        "evaluation and saving": 5 / 25,
    })  # fmt: skip
    older = [*rows, epoch(10.0, 10.0)]
    assert time_spent(Record("a", "finished", None, {}, {}, older)) is None
    rows[0]["timing"]["images_per_second"] = 0.0
    assert time_spent(Record("a", "finished", None, {}, {}, rows)) is None
    assert time_spent(Record("a", "missing", None, {}, {}, [])) is None


def test_a_study_of_arms_says_where_the_time_goes(tmp_path):
    study, rows = loaded(detector_study(tmp_path))
    header, body = time_table(study, rows)
    assert header == [
        "arm", "training, ms/image", "data, %", "forward, %", "backward and optimizer, %",
        "evaluation and saving, %",
    ]  # fmt: skip
    assert body[0] == ["frozen BN", "18.18", "2.9", "28.6", "47.6", "13.4"]
    assert time_table(*loaded(batch_study(tmp_path / "other")))[1] == []
