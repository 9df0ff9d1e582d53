"""The study of a user's own network: its record, its report, and what it refuses."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from groupnorm.study.conversions import own_study
from groupnorm.study.conversions.job import run_trials_of
from groupnorm.study.conversions.own_network import OwnTeacher, read_own_network
from groupnorm.study.conversions.own_study import convert_own
from groupnorm.study.conversions.trial import NetworkTrials, Trial
from groupnorm.study.plan import PlanError
from groupnorm.study.report.page import report_numbers
from groupnorm.study.store import run_folder
from tests.data.files.image_trees import encoded, photo
from tests.study.conversions.own import own_network


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Makes or goes on with a study in this process."""
    monkeypatch.chdir(tmp_path)

    def here(out, cells, trials, **_):
        for cell in cells:
            run_trials_of(
                run_folder(out, cell.run), trials[cell.labels["network"]].trials, threads=1,
                device="cpu", data_root=None, on_trial=lambda trial, reason: None,
            )  # fmt: skip
        return 0

    monkeypatch.setattr(own_study, "convert_teachers", here)

    asked = own_network(tmp_path)

    def convert(**changes):
        console = Console(file=io.StringIO(), width=200)
        page, _ = convert_own(
            replace(asked, **changes), few, tmp_path / "out", command="made up", jobs=1,
            device="cpu", console=console,
        )  # fmt: skip
        return page, console.file.getvalue()

    return convert


def few(images):
    to = "gn:groups=2"
    return NetworkTrials(
        (Trial("teacher"), Trial("reset", to), Trial("data-free", to), Trial("fit", to, 1, images))
    )


@pytest.mark.slow
def test_a_study_with_its_report(study, tmp_path):
    page, _ = study()
    text = page.read_text()
    assert "Conversions of mine_for_tests:make" in text
    assert "calibrated with 16 images of the folder" in text
    assert "only 8 images are held out" in text
    assert "Every run" not in text
    numbers = report_numbers(tmp_path / "out")["trials"]
    assert [n["method"] for n in numbers] == ["teacher", "reset", "data-free", "fit"]
    assert all(n["layers_converted"] == 2 for n in numbers[1:])
    assert all(n["reason"] is None for n in numbers)
    with pytest.raises(PlanError, match="holds another study"):
        study(size=20)  # another network in the same folder


def test_images_that_cannot_be_decoded_are_named(study, tmp_path):
    broken = sorted((tmp_path / "photos" / "cat").iterdir())[0]
    broken.write_bytes(b"no image")
    page, said = study()
    assert broken.name in said
    record = read_own_network(run_folder(tmp_path / "out", "network"))
    for found in (said, page.read_text(), " ".join(record.notes)):
        assert "left out: 1 image that cannot be decoded" in found


def test_a_study_does_not_go_on_with_other_images(study, tmp_path):
    study()
    study()  # with the same ones it does
    new = tmp_path / "photos" / "cat" / "00.jpg"
    new.write_bytes(encoded(photo(99), "PNG"))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")}
    with pytest.raises(ValueError, match=r"gives other images than when .* or begin another study"):
        study()
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")} == before
    record = read_own_network(run_folder(tmp_path / "out", "network"))
    with pytest.raises(ValueError, match="gives other images"):  # in the process of the trials
        OwnTeacher(record.asked, "cpu", record.digest)
    new.unlink()
    study()
