"""Figures of another report are removed, and nothing else."""

import pytest

from groupnorm.study.report.written import LIST, figure_list, stale_figures
from groupnorm.study.store import StoreError


def put(out, *names):
    for name in names:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("a figure")


def report(out, names):
    for path in stale_figures(out, names):
        path.unlink()
    (out / LIST).write_text(figure_list(names))


def there(out):
    found = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(name for name in found if name != LIST)


def test_a_figure_that_the_report_no_longer_has_is_removed(tmp_path):
    first = ["report.html", "figures/error-by-norm.svg", "figures/curves-by-norm.png"]
    put(tmp_path, *first, "figures/mine.png", "figures/error-by-batch.svg")
    report(tmp_path, first)
    assert there(tmp_path) == sorted([*first, "figures/mine.png", "figures/error-by-batch.svg"])
    put(tmp_path, "figures/error-by-batch.svg")
    report(tmp_path, ["report.html", "figures/error-by-batch.svg"])
    assert there(tmp_path) == [
        "figures/error-by-batch.svg", "figures/mine.png", "report.html",
    ]  # fmt: skip
    (tmp_path / "figures/error-by-batch.svg").unlink()
    report(tmp_path, ["report.html"])
    assert there(tmp_path) == ["figures/mine.png", "report.html"]


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[1]", '["../study.json"]', '["figures/../study.json"]', '["a.svg"]']
)
def test_a_list_that_was_damaged_removes_nothing(tmp_path, content):
    put(tmp_path, "study.json", "figures/a.svg", "a.svg")
    (tmp_path / LIST).write_text(content)
    with pytest.raises(StoreError, match=r"is not a list of figures\. Delete it"):
        report(tmp_path, [])
    assert there(tmp_path) == ["a.svg", "figures/a.svg", "study.json"]
