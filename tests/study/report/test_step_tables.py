"""The tables of a study of fine-tuning, and the page that they stand on."""

import pytest

from groupnorm.study.report.page import main_table, write_report
from groupnorm.study.report.step_tables import TITLES, step_tables
from tests.study.fake_fine_tuning import fine_tuning_study
from tests.study.fake_store import loaded


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return fine_tuning_study(tmp_path_factory.mktemp("fine-tuning"))


def test_a_line_for_each_arm_and_only_trained_batch_norm_has_one_for_each_size(out):
    results, differences = step_tables(*loaded(out))
    assert {table.name for table in (results, differences)} == set(TITLES)
    wanted = ["arm", "images per worker", "step 100", "step 300", "step 1,000"]
    assert list(results.header) == list(differences.header) == wanted
    names = [tuple(line[:2]) for line in results.body]
    assert names == [
        ("converted", "1, 2, 4"), ("reset GN", "1, 2, 4"), ("frozen BN", "1, 2, 4"),
        ("BN trained", "1"), ("BN trained", "2"), ("BN trained", "4"),
    ]  # fmt: skip
    assert [tuple(line[:2]) for line in differences.body] == names[1:]
    assert all(" ± " in cell for line in results.body for cell in line[2:])
    assert all(" to " in cell for line in differences.body for cell in line[2:])
    assert differences.body[0][4].startswith("-4.0 (")
    for table in (results, differences):
        assert table.caption.endswith(". With running statistics: BN trained")


def test_one_seed_has_no_interval(tmp_path):
    _, differences = step_tables(*loaded(fine_tuning_study(tmp_path, seeds=1)))
    assert all("(one seed, nothing can be told)" in cell
               for line in differences.body for cell in line[2:])  # fmt: skip


def test_no_table_before_a_run_has_finished(tmp_path):
    out = fine_tuning_study(tmp_path)
    for path in out.glob("runs/*/DONE"):
        path.unlink()
    assert step_tables(*loaded(out)) == []


def test_the_main_table_has_what_is_trained_once_in_one_line(out):
    header, body = main_table(out)
    assert header[:2] == ["arm", "images per worker"]
    assert body[0][:2] == ["converted", "1, 2, 4"]
    assert len(body) == 3 + 2 * 3


def test_the_page(out):
    write_report(out)
    page = (out / "report.html").read_text()
    for title in TITLES.values():
        assert f"<h2>{title}</h2>" in page
    assert (out / "figures" / "curves-by-step.svg").exists()
    assert "removed_keys" not in page, "the report of a conversion stays in its file"
    assert 'href="tables.csv"' in page
    assert "Means of such" not in page
