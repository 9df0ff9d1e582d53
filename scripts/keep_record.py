"""Copy a study's record into results/.

    python scripts/keep_record.py STUDY_FOLDER NAME

Keeps the store's small files (configurations, environments, metrics, sampled predictions, trials of
conversions) of the runs that the study shows, chose by or started from. `groupnorm report` rebuilds
the report from them, and scripts/update_readme.py draws the figures that a page shows.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from groupnorm.study.join import RECORD_FILES
from groupnorm.study.report.page import build_report
from groupnorm.study.results.conversions import trial_files
from groupnorm.study.store import (
    COST_FILE,
    INITIAL_FILE,
    SAMPLES_FILE,
    read_manifest,
    read_record,
    read_starts,
    run_folder,
)

RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    """Copy, then build the report from a copy of the copy to prove that it is complete."""
    parser = argparse.ArgumentParser(description="Keep a study's record in results/.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    target = RESULTS / arguments.name
    copy_record(arguments.folder, target)
    with tempfile.TemporaryDirectory() as scratch:
        build_report(shutil.copytree(target, Path(scratch) / "study"))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


def copy_record(study: Path, target: Path) -> None:
    """Copy what the report of a study is built from to `target`, which must not exist."""
    manifest = read_manifest(study)
    cells = [*manifest["cells"], *(manifest.get("tuning") or {"cells": []})["cells"]]
    target.mkdir(parents=True)
    for name in ("study.json", COST_FILE, INITIAL_FILE):
        _copy_file(study / name, target / name)
    for path in (study / SAMPLES_FILE).parent.glob("*"):
        _copy_file(path, (target / SAMPLES_FILE).with_name(path.name))
    shown = {cell["run"]: read_record(study, cell["run"]) for cell in cells}
    for run in shown | read_starts(study, shown):
        for name in RECORD_FILES:
            _copy_file(run_folder(study, run) / name, run_folder(target, run) / name)
    for path in trial_files(study, manifest):
        _copy_file(path, target / path.relative_to(study))


def _copy_file(path: Path, target: Path) -> None:
    if path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


if __name__ == "__main__":
    main()
