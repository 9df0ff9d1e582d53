"""Copy a study's record, without checkpoints, into results/.

    python scripts/keep_record.py STUDY_FOLDER NAME

Keeps the store's small files (configurations, environments, metrics) and the report made from them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from groupnorm.study.report.page import build_report

RESULTS = Path(__file__).parent.parent / "results"
LEFT_OUT = shutil.ignore_patterns("checkpoint.pt", "log.txt", ".lock", ".*")


def main() -> None:
    """Copy, then rebuild the report from the copy to prove that it is complete."""
    parser = argparse.ArgumentParser(description="Keep a study's record in results/.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    target = RESULTS / arguments.name
    shutil.copytree(arguments.folder, target, ignore=LEFT_OUT)
    build_report(target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
