"""What a kept record holds: all that its report is built from, and nothing else."""

import keep_record
import pytest

from groupnorm.study.report.page import report_numbers
from tests.study.fake_conversions import conversion_study
from tests.study.fake_detectors import add_samples, detector_study
from tests.study.fake_search import search
from tests.study.fake_store import add_costs, batch_study, tuned_study, write_run


def names(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def of_detectors(out):
    return add_samples(detector_study(out))


@pytest.mark.parametrize("make", [batch_study, tuned_study, search, of_detectors, conversion_study])
def test_the_record_is_enough_for_the_report_and_has_no_other_run(make, tmp_path):
    study = tmp_path / "study"
    make(study)
    if make is batch_study:
        add_costs(study)
    before = names(study)
    write_run(study, "of-a-command-before", {"norm": "ln"}, [])
    for run in (study / "runs").iterdir():
        (run / "checkpoint.pt").write_bytes(b"large")
        (run / "log.txt").write_text("long")
    for name in ("report.html", "tuning.csv", "tables.csv", ".lock", "tensorboard/x/events"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text("made from the record")
    keep_record.copy_record(study, tmp_path / "kept")
    assert names(tmp_path / "kept") == before - {".lock"}
    assert report_numbers(tmp_path / "kept") == report_numbers(study)
    with pytest.raises(FileExistsError):
        keep_record.copy_record(study, tmp_path / "kept")
