"""Copy a study's record into results/.

    python scripts/keep_record.py STUDY_FOLDER NAME

Keeps the store's small files (configurations, environments, metrics). `groupnorm report` rebuilds
the report from them, and scripts/update_readme.py draws the figures that a page shows.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from groupnorm.study.report.page import build_report

RESULTS = Path(__file__).parent.parent / "results"
LEFT_OUT = shutil.ignore_patterns(
    "checkpoint.pt",
    "log.txt",
    ".*",
    "report.html",
    "tables.*",
    "differences.csv",
    "references.bib",
    "figures",
    "tensorboard",
)


def main() -> None:
    """Copy, then build the report from a copy of the copy to prove that it is complete."""
    parser = argparse.ArgumentParser(description="Keep a study's record in results/.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    target = RESULTS / arguments.name
    shutil.copytree(arguments.folder, target, ignore=LEFT_OUT)
    with tempfile.TemporaryDirectory() as scratch:
        build_report(shutil.copytree(target, Path(scratch) / "study"))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
