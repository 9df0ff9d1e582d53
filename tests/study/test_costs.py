"""Costs of runs: from the record to the table, tables.csv and the page; older records have none."""

import csv
import io

import pytest

from groupnorm.study.costs import mean_cost, milliseconds, run_cost
from groupnorm.study.report import build_report
from groupnorm.study.report_tables import cost_table, run_groups, tables_csv
from groupnorm.study.statistics import load_study, summarize_study
from tests.study.fake_store import add_costs, batch_study


def test_a_runs_costs_have_their_units(tmp_path):
    add_costs(batch_study(tmp_path, seeds=1))
    first = load_study(tmp_path).records[min(load_study(tmp_path).records)]
    assert run_cost(first) == pytest.approx({
        "forward_ms_per_image": 2.0, "backward_ms_per_image": 4.0, "data_ms_per_image": 0.5,
        "saved_bytes_per_image": 1.5 * 2**20, "training_gflops_per_image": 0.242,
        "norm_share": 0.125,
    })  # fmt: skip
    assert milliseconds(run_cost(first)) == pytest.approx(6.5)
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
    header, body = cost_table(rows)
    assert not [title for title in header if "memory" in title]
    assert {len(line) for line in body} == {len(header)}
    assert {line[-2] for group in run_groups(study, rows) for line in group.seeds} == {"\u2013"}
    csv_rows = list(csv.DictReader(io.StringIO(tables_csv(study, rows))))
    assert {row["step_memory_bytes"] for row in csv_rows} == {""}
    assert "peak_memory_bytes" not in csv_rows[0]


def test_table_csv_and_page_show_them(tmp_path):
    add_costs(batch_study(tmp_path, seeds=2))
    study = load_study(tmp_path)
    rows = summarize_study(study)
    header, body = cost_table(rows)
    assert len(body) == len(rows)
    line = dict(zip(header, body[0], strict=True))
    assert line["forward, ms/image"] == "2.000"
    assert line["time in norms, %"] == "12.5"
    assert line["memory of a step, MiB"] == "48"
    lines = list(csv.DictReader(io.StringIO(tables_csv(study, rows))))
    assert {row["norm_share"] for row in lines} == {"0.125"}
    page = build_report(tmp_path).read_text()
    assert '<section id="cost">' in page
    assert "training_flops_per_image" not in page
    assert (tmp_path / "figures" / "error-by-cost.svg").exists()


def test_older_records_have_no_cost_section(tmp_path):
    batch_study(tmp_path, seeds=1)
    study = load_study(tmp_path)
    rows = summarize_study(study)
    assert cost_table(rows)[1] == []
    assert "norm_share" not in tables_csv(study, rows)
    assert '<section id="cost">' not in build_report(tmp_path).read_text()
    assert not (tmp_path / "figures" / "error-by-cost.svg").exists()
