"""What the arms of a study of detectors find on a few test images: which, when, what is kept."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from groupnorm.data.detection import rle
from groupnorm.data.files.decode import UnreadableError
from groupnorm.run import detection, sampled_scenes
from groupnorm.run.detection import read
from groupnorm.study import Plan, execute, run_study, sample_pass
from groupnorm.study.record import CHECKPOINT
from groupnorm.study.results.samples import Samples, joined_samples, runs_of_arms, samples_of
from groupnorm.study.sample_pass import predict_samples
from groupnorm.study.store import (
    Cell,
    StoreError,
    read_cells,
    read_config,
    read_manifest,
    write_samples,
)
from groupnorm.training.metric import BOX_DETECTION
from tests.data.detection.tiny_garments import tiny_garments
from tests.study.fake_store import batch_study
from tests.study.tiny_detectors import tiny_detector

pytestmark = pytest.mark.usefixtures("detectors_on_disk")


@pytest.fixture(autouse=True)
def _untrained(monkeypatch):
    """Scores of a detector after one step are low."""
    monkeypatch.setitem(sample_pass.LOWEST_SCORES, "objects", 0.05)
    monkeypatch.setattr(sample_pass, "IMAGES", 4)


@pytest.fixture
def study(tmp_path):
    """A folder with the runs of two arms, and their cells."""
    cells = []
    for arm, changes in (("gn", {}), ("bn", {"norm": "bn", "model": "retinanet_narrow"})):
        source = tiny_detector(**changes)
        name = read_config(source).run_name()
        shutil.copytree(source, tmp_path / "runs" / name)
        cells.append(Cell({"arm": arm}, 0, name))
    return tmp_path, cells


def predict(study, cells=None):
    out, all_cells = study
    messages = []
    predict_samples(out, all_cells if cells is None else cells, tiny_garments(), messages.append)
    return messages


def test_the_first_test_images_with_their_objects_and_one_run_of_each_arm(study):
    out, cells = study
    assert predict(study) == ["predicting with 2 detectors on 4 test images"]
    found = samples_of(out)
    assert (found.reason, found.left_out) == (None, {})
    assert found.categories == ["tops", "trousers", "dresses", "footwear", "bags"]
    truth = json.loads((tiny_garments() / "annotations" / "instances_val.json").read_text())
    assert [image["image_id"] for image in found.images] == [i["id"] for i in truth["images"][:4]]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    for number, image in enumerate(found.images):
        entry = truth["images"][number]
        with Image.open(tiny_garments() / "val" / entry["file_name"]) as source:
            assert (np.asarray(Image.open(found.path(out, number))) == np.asarray(source)).all()
        wanted = [a for a in truth["annotations"] if a["image_id"] == entry["id"]]
        assert [one["category"] for one in image["truth"]] == [
            names[a["category_id"]] for a in wanted
        ]
        assert [one["crowd"] for one in image["truth"]] == [bool(a["iscrowd"]) for a in wanted]
        for one, annotation in zip(image["truth"], wanted, strict=True):
            x, y, w, h = annotation["bbox"]
            assert one["box"] == pytest.approx([x, y, x + w, y + h])
            runs = rle.parse(one["mask"], image["height"], image["width"])
            assert rle.area(runs) == annotation["area"]
    assert list(found.runs) == [cell.run for cell in cells]
    masked, unmasked = (found.runs[cell.run]["objects"] for cell in cells)
    assert [len(objects) > 0 for objects in masked] == [True] * 4
    assert unmasked == [[]] * 4


def test_a_second_start_does_nothing_and_a_new_arm_is_added(study):
    out, cells = study
    predict(study, cells[:1])
    before = {path: path.read_bytes() for path in (out / "samples").iterdir()}
    assert predict(study, cells[:1]) == []
    assert {path: path.read_bytes() for path in (out / "samples").iterdir()} == before
    (out / "runs" / cells[0].run / CHECKPOINT).unlink()  # it is not needed any more
    assert predict(study) == ["predicting with 1 detector on 4 test images"]
    found = samples_of(out)
    assert list(found.runs) == [cell.run for cell in cells]
    assert found.runs[cells[0].run] == json.loads(before[out / "samples" / "samples.json"])["runs"][
        cells[0].run
    ]  # fmt: skip


def test_with_other_images_all_predict_anew_and_the_old_ones_go(study, monkeypatch):
    out, cells = study
    predict(study, cells[:1])
    monkeypatch.setattr(sample_pass, "IMAGES", 2)
    assert predict(study) == ["predicting with 2 detectors on 2 test images"]
    found = samples_of(out)
    assert [len(run["objects"]) for run in found.runs.values()] == [2, 2]
    assert len(list((out / "samples").glob("*.png"))) == 2


def test_with_another_lowest_score_all_predict_anew(study, monkeypatch):
    out, cells = study
    predict(study, cells[:1])
    assert samples_of(out).lowest_score == 0.05
    monkeypatch.setitem(sample_pass.LOWEST_SCORES, "objects", 0.06)
    assert predict(study) == ["predicting with 2 detectors on 4 test images"]
    found = samples_of(out)
    assert found.lowest_score == 0.06
    shown = [one for image in found.runs[cells[0].run]["objects"] for one in image]
    assert min(one["score"] for one in shown) >= 0.06


def test_what_prevents_a_prediction_is_recorded_and_tried_again(study):
    out, (gn, bn) = study
    checkpoint = out / "runs" / gn.run / CHECKPOINT
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-1])
    messages = predict(study)
    assert len(messages) == 2
    assert messages[1].startswith(f"no predictions of {gn.run} are shown: {checkpoint} ")
    found = samples_of(out)
    assert list(found.runs) == [bn.run]
    assert list(found.left_out) == [gn.run]
    checkpoint.write_bytes(content)
    predict(study)
    found = samples_of(out)
    assert (list(found.runs), found.left_out) == ([gn.run, bn.run], {})


def test_a_file_that_cannot_be_opened_prevents_its_predictions_alone(study, monkeypatch):
    gn, bn = study[1]
    real = sample_pass.read_network

    def forbidden(folder):
        if folder.name == gn.run:
            raise PermissionError(13, "Permission denied", str(folder / CHECKPOINT))
        return real(folder)

    monkeypatch.setattr(sample_pass, "read_network", forbidden)
    predict(study)
    found = samples_of(study[0])
    assert list(found.runs) == [bn.run]
    assert "Permission denied" in found.left_out[gn.run]


def test_a_data_set_that_cannot_be_opened_is_a_reason(study, monkeypatch):
    def forbidden(config, data_root, count):
        raise PermissionError(13, "Permission denied", "scenes")

    monkeypatch.setattr(detection, "samples", forbidden)
    (message, _) = predict(study)
    assert "the test images cannot be used: " in message
    assert "Permission denied" in message


def test_a_run_without_its_configuration_is_left_out(study):
    out, (gn, bn) = study
    (out / "runs" / gn.run / "config.json").unlink()
    predict(study)
    found = samples_of(out)
    assert list(found.runs) == [bn.run]
    assert found.left_out[gn.run].endswith("it has no config.json")
    shutil.rmtree(out / "samples")
    (out / "runs" / bn.run / "config.json").unlink()
    assert predict(study) == ["no predictions are shown: no run has its config.json"]
    assert not (out / "samples").exists()


def test_without_the_data_set_there_is_a_reason(study, tmp_path):
    out, cells = study
    messages = []
    predict_samples(out, cells, tmp_path / "nothing", messages.append)
    found = samples_of(out)
    assert (found.reason, found.runs, found.images) == ("no run could predict", {}, [])
    assert list(found.left_out) == [cell.run for cell in cells]
    assert "the test images cannot be used: " in messages[0]
    predict_samples(out, cells[:1], tmp_path / "nothing", messages.append)
    assert list(samples_of(out).left_out) == [cell.run for cell in cells], "none is forgotten"
    predict(study)
    assert samples_of(out).reason is None


def test_an_image_that_cannot_be_decoded_gives_its_place_to_the_next(study, monkeypatch):
    real = sampled_scenes.read_image

    def without_the_second(split, index, size):
        if index == 1:
            raise UnreadableError("cut off")
        return real(split, index, size)

    monkeypatch.setattr(sampled_scenes, "read_image", without_the_second)
    messages = predict(study)
    found = samples_of(study[0])
    assert [image["image_id"] for image in found.images] == [1, 3, 4, 5]
    assert (found.left_out, found.unreadable) == ({}, {"000002.jpg": "cut off"})
    assert messages[1:] == [
        "the next test image takes the place of 000002.jpg, which cannot be decoded: cut off"
    ]


def test_runs_with_other_test_images_are_left_out(study):
    out, (gn, _) = study
    config = read_config(out / "runs" / gn.run)
    images = sampled_scenes.SampledScenes(config, read(config, tiny_garments()), 1)
    other = config.model_copy(update={"validation_images": 4})
    with pytest.raises(ValueError, match="its test images are others: validation_images is 4, not"):
        images.predict(other, {}, {}, 0.5)


def test_the_run_of_an_arm_is_that_of_its_first_seed_that_has_finished():
    cells = [
        Cell({"arm": "b"}, 1, "b1"), Cell({"arm": "b"}, 0, "b0"), Cell({"arm": "a"}, 0, "a0"),
        Cell({"arm": "a"}, 1, "a1"), Cell({"arm": "c"}, 0, "c0"), Cell({"arm": "d"}, 0, "b0"),
    ]  # fmt: skip
    assert runs_of_arms(cells, lambda name: name not in ("a0", "c0")) == ["b0", "a1"]


def test_a_classifiers_study_has_no_samples(tmp_path):
    batch_study(tmp_path)
    predict_samples(tmp_path, read_cells(read_manifest(tmp_path)), None)
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda value: value.update(format=2), "has format 2"),
        (lambda value: value["images"].pop(), "has another number of images for "),
        (lambda value: value.update(runs={}), "has neither predictions nor a reason"),
        (lambda value: value["images"][0].update(file="../x.png"), "has images.0.file='../x.png'"),
        (lambda value: value["images"][0].update(file="samples.json"), "images.0.file='samples"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(study, damage, words):
    out, _ = study
    predict(study)
    path = out / "samples" / "samples.json"
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(StoreError, match="the command that made the study predicts again") as error:
        samples_of(out)
    assert words in str(error.value)


def two_studies(study, tmp_path):
    out, (gn, bn) = study
    predict(study)
    whole = samples_of(out)
    folders = tmp_path / "first", tmp_path / "second"
    for folder, cell in zip(folders, (gn, bn), strict=True):
        part = replace(whole, runs={cell.run: whole.runs[cell.run]})
        images = {i["file"]: whole.path(out, n).read_bytes() for n, i in enumerate(whole.images)}
        write_samples(folder, part.as_json(), images)
    return whole, folders


def test_joined_studies_with_the_same_images_keep_one_run_of_each_arm(study, tmp_path):
    cells = study[1]
    whole, folders = two_studies(study, tmp_path)
    joined, folder = joined_samples(folders, cells)
    assert (joined, folder) == (whole, folders[0])
    one_arm = [replace(cell, labels={"arm": "x"}, seed=seed) for seed, cell in enumerate(cells)]
    joined, _ = joined_samples(folders, one_arm)
    assert list(joined.runs) == [cells[0].run]
    assert joined_samples([tmp_path / "none"], cells) == (None, tmp_path / "none")


def test_a_run_that_one_joined_study_predicted_is_not_left_out(study, tmp_path):
    (gn, bn) = study[1]
    _, folders = two_studies(study, tmp_path)
    path = folders[0] / "samples" / "samples.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "left_out": {bn.run: "no weights", "c": "cut off"}}))
    joined, _ = joined_samples(folders, [gn, bn])
    assert list(joined.runs) == [gn.run, bn.run]
    assert joined.left_out == {"c": "cut off"}


def test_joined_studies_with_other_lowest_scores_say_so(study, tmp_path):
    _, folders = two_studies(study, tmp_path)
    path = folders[1] / "samples" / "samples.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lowest_score": 0.5}))
    joined, _ = joined_samples(folders, study[1])
    assert joined.reason == "the studies that were joined here have different lowest scores"


def test_joined_studies_with_other_images_say_so(study, tmp_path):
    cells = study[1]
    whole, folders = two_studies(study, tmp_path)
    fewer = [{**run, "objects": run["objects"][:2]} for run in whole.runs.values()]
    part = replace(whole, images=whole.images[:2], runs={cells[1].run: fewer[1]})
    write_samples(folders[1], part.as_json(), {})
    joined, _ = joined_samples(folders, cells)
    reason = "the studies that were joined here predicted on different images"
    assert joined == Samples(reason=reason)


def test_a_study_predicts_after_its_trials(tmp_path, monkeypatch):
    """Its trial is a run that stands in its folder already."""
    monkeypatch.setattr(execute, "run_trials", lambda *_, **__: [])
    monkeypatch.setattr(execute, "build_report", lambda out: out)
    source = tiny_detector()
    config = read_config(source)
    name = config.run_name()
    plan = Plan(
        "norms", "A detector", "fixed-step", "quick", {}, [Cell({"arm": "gn"}, 0, name)],
        {name: config}, "arms", (), untimed="a test", metric=BOX_DETECTION[0],
    )  # fmt: skip
    shutil.copytree(source, tmp_path / "runs" / name)
    console = Console(quiet=True)
    run_study(plan, tmp_path, jobs=1, data_root=tiny_garments(), console=console)
    assert list(samples_of(tmp_path).runs) == [name]
    (tmp_path / "samples" / "samples.json").write_text("{}")
    monkeypatch.setattr(execute, "run_trials", lambda *_, **__: pytest.fail("it trained first"))
    with pytest.raises(StoreError, match=r"samples\.json has format None"):
        run_study(plan, tmp_path, jobs=1, data_root=tiny_garments(), console=console)
