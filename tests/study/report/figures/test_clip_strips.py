"""The sheet of clips: frames, truth and predictions, and what is said of a damaged folder."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from groupnorm.study.report.figures.clip_strips import clip_sheet
from groupnorm.study.report.tables import not_predicted
from groupnorm.study.results.samples import Samples, samples_of
from groupnorm.study.store import StoreError
from tests.study.fake_clips import add_clip_samples, clip_study
from tests.study.fake_store import loaded
from tests.tolerances import HUNDREDTH

FRAME, SPACE = 80, 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    out = add_clip_samples(clip_study(tmp_path_factory.mktemp("clips"), seeds=2))
    return (out, *loaded(out))


def pixels(sheet):
    return np.asarray(Image.open(io.BytesIO(sheet.png)))


def test_frames_in_two_rows_and_a_column_for_each_norm_and_batch(clips):
    out, study, rows = clips
    sheet = clip_sheet(out, study, rows, samples_of(out), None)
    picture = pixels(sheet)
    assert sheet.name == "predictions"
    assert sheet.alt.endswith(
        "truth, gn:size=8, bn, 8 clips per worker, bn, 4 clips per worker, bn, 2 clips per worker"
    )
    assert sheet.caption.startswith(
        "The first 6 test videos of the 8 that were kept: 16 frames of the middle clip"
    )
    last = picture[-(2 * FRAME + SPACE) :, : 8 * (FRAME + SPACE) - SPACE]
    with Image.open(samples_of(out).path(out, 5)) as file:
        stored = np.asarray(file)
    for number in range(16):
        y, x = (number // 8) * (FRAME + SPACE), (number % 8) * (FRAME + SPACE)
        shown = last[y : y + FRAME : 5, x : x + FRAME : 5]
        assert (shown == stored[:, 16 * number : 16 * (number + 1)]).all()


def test_a_wrong_class_has_another_colour(clips):
    out, study, rows = clips
    samples = samples_of(out)
    wrong = (np.array([0xA3, 0x38, 0]), "wrong")
    before = pixels(clip_sheet(out, study, rows, samples, None))
    for run in samples.runs.values():
        for found, image in zip(run["objects"], samples.images, strict=True):
            found[0]["category"] = image["truth"]
    after = pixels(clip_sheet(out, study, rows, samples, None))
    assert (before == wrong[0]).all(-1).any()
    assert not (after == wrong[0]).all(-1).any()


def test_the_same_records_give_the_same_bytes_and_a_column_says_its_width(clips):
    out, study, rows = clips
    first = clip_sheet(out, study, rows, samples_of(out), "double")
    assert first == clip_sheet(out, study, rows, samples_of(out), "double")
    with Image.open(io.BytesIO(first.png)) as file:
        assert file.width / file.info["dpi"][0] == pytest.approx(6.9, abs=HUNDREDTH)


def test_without_predictions_there_is_no_sheet_and_the_reason_is_a_problem(clips):
    out, study, rows = clips
    assert clip_sheet(out, study, rows, None, None) is None
    gone = Samples(0.0, reason="out of memory", content="clips", unreadable={"3": "cut off"})
    assert clip_sheet(out, study, rows, gone, None) is None
    assert not_predicted(study, rows, gone) == [
        ["predictions", "no predictions on test videos", "out of memory"],
        ["predictions", "unreadable videos", "3, whose place the next one takes: cut off"],
    ]


def test_a_run_without_a_prediction_has_a_dash_and_is_a_problem(clips):
    out, study, rows = clips
    samples = samples_of(out)
    run = "bn-16f-n4-s0"
    samples.left_out[run] = "the checkpoint is missing"
    del samples.runs[run]
    samples.runs["bn-8f-n2-s0"]["objects"][0] = []
    samples.runs["bn-8f-n2-s0"]["not_finite"] = 1
    assert clip_sheet(out, study, rows, samples, None).columns == 9
    assert [line[1:] for line in not_predicted(study, rows, samples)] == [
        ["left out of the predictions",
         "1 prediction of bn-8f-n2-s0 had a value that is not a number"],
        ["no predictions on test videos", f"{run}: the checkpoint is missing"],
    ]  # fmt: skip


def put(name, value):
    def change(content):
        content["images"][0][name] = value

    return change


DAMAGES = {
    "another size": (put("height", 15), "has 16 x 256 pixels, expected 15 x 256"),
    "other frames": (put("frames", 15), "has 16 x 256 pixels, expected 16 x 240"),
    "too many frames": (put("frames", 65), "has images.0.frames=65"),
    "unknown truth": (put("truth", "dance"), "has 'dance', which is none of its categories"),
    "a path": (put("file", "../0.png"), "has images.0.file='../0.png'"),
    "unknown class": (
        lambda content: next(iter(content["runs"].values()))["objects"][0][0].update(category="x"),
        "has 'x', which is none of its categories",
    ),
    "two classes": (
        lambda content: next(iter(content["runs"].values()))["objects"].__setitem__(
            0, [{"category": "right", "score": 0.5}] * 2
        ),
        "objects.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named_with_what_to_do(tmp_path, damage):
    out = add_clip_samples(clip_study(tmp_path, ("bn",), seeds=1), count=1)
    path = out / "samples/samples.json"
    content = json.loads(path.read_text())
    change, words = DAMAGES[damage]
    change(content)
    path.write_text(json.dumps(content))
    study, rows = loaded(out)
    with pytest.raises(StoreError, match=r"it again from the checkpoints|predicts again") as error:
        clip_sheet(out, study, rows, samples_of(out), None)
    assert words in str(error.value)
