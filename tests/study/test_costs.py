"""Costs of runs: from the record to the table, tables.csv and the page; older records have none."""

import csv
import io

import pytest

from groupnorm.study.costs import mean_cost, milliseconds, run_cost
from groupnorm.study.report import build_report
from groupnorm.study.report_tables import cost_table, tables_csv
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


def test_table_csv_and_page_show_them(tmp_path):
    add_costs(batch_study(tmp_path, seeds=2))
    study = load_study(tmp_path)
    rows = summarize_study(study)
    header, body = cost_table(rows)
    assert [line[:2] for line in body] == [
        ["bn", "32"], ["bn", "8"], ["bn", "2"],
        ["gn:groups=8", "32, 8, 2 (trained once)"], ["gn:groups=8+ws", "32, 8, 2 (trained once)"],
    ]  # fmt: skip
    line = dict(zip(header, body[0], strict=True))
    assert line["forward, ms/image"] == "2.000"
    assert line["time in norms, %"] == "12.5"
    assert line["peak memory, MiB"] == "48"
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
