"""What results/ holds: records, and the figures that a page shows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDS = re.compile(
    r"mutations-[^/]+/faults\.jsonl|"
    r"(recipe-choice-[^/]+/)?[^/]+/"
    r"([^/]+\.json|samples/(samples\.json|[0-9]+\.png)|"
    r"runs/[^/]+/(config\.json|env\.json|metrics\.jsonl|DONE|trials/[^/]+\.json))"
)
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
FILES = sorted(path for path in (ROOT / "results").rglob("*") if path.is_file())
SHOWN = {
    (page.parent / target).resolve()
    for page in PAGES
    for target in re.findall(r"!\[[^\]]*\]\(([^)#]+)\)", page.read_text())
}


def superfluous(path):
    name = path.relative_to(ROOT / "results").as_posix()
    return not RECORDS.fullmatch(name) and path.resolve() not in SHOWN


def test_every_file_is_a_record_or_is_shown():
    assert [str(path) for path in FILES if superfluous(path)] == []
    assert len([path for path in FILES if path in SHOWN]) >= 5


def test_the_record_of_planted_faults_is_one():
    assert not superfluous(ROOT / "results" / "mutations-cpu-2026-01-01" / "faults.jsonl")


@pytest.mark.parametrize(
    "name", ["report.html", "tables.csv", "figures/curves-by-norm.png", "runs/bn/checkpoint.pt"]
)
def test_what_report_rebuilds_would_be_noticed(name):
    assert superfluous(FILES[0].parent / name)
