"""The sheet of predictions: which images and runs, and what is said where something is missing."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from groupnorm.study.report.figures.predictions import prediction_sheet
from groupnorm.study.report.tables import not_predicted
from groupnorm.study.results.samples import Samples, samples_of
from groupnorm.study.store import StoreError
from tests.data.files.image_trees import encoded, photo, png_of_size
from tests.study.fake_detectors import DETECTORS, add_samples, detector_study
from tests.study.fake_store import loaded
from tests.tolerances import HUNDREDTH

CELL = 288


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    out = add_samples(detector_study(tmp_path_factory.mktemp("detectors")), count=8)
    return (out, *loaded(out))


def pixels(sheet):
    return np.asarray(Image.open(io.BytesIO(sheet.png)))


def test_a_column_for_the_truth_and_each_arm_and_a_row_for_each_image(detectors):
    out, study, rows = detectors
    sheet = prediction_sheet(out, study, rows, samples_of(out), None)
    picture = pixels(sheet)
    height, width, _ = picture.shape
    assert sheet.columns == 1 + len(DETECTORS)
    assert width == sheet.columns * (CELL + 8) - 8
    assert height > 6 * (CELL * 24 // 32)
    assert sheet.caption.startswith("The first 6 test images of the 8 that were kept: the truth,")
    assert sheet.alt.endswith("truth, frozen BN, BN trained at 2, GN, GN+WS, GN+WS, from scratch, "
                              "BN at 2, from scratch")  # fmt: skip
    with Image.open(io.BytesIO(sheet.png)) as file:
        assert round(file.info["dpi"][0]) == 300
    last_row = picture[-CELL * 24 // 32 :]
    truth, found = last_row[:, :CELL], last_row[:, CELL + 8 : 2 * CELL + 8]
    assert (truth != truth[0, 0]).any(), "the object of the truth"
    assert (found == found[0, 0]).all(), "in which the arm found nothing"
    first_row = picture[-height + height // 8 : height // 4, CELL + 8 : 2 * CELL + 8]
    assert len(np.unique(first_row.reshape(-1, 3), axis=0)) > 2, "what it found in the first image"


def test_the_same_records_give_the_same_bytes_and_a_column_says_its_width(detectors):
    out, study, rows = detectors
    samples = samples_of(out)
    first = prediction_sheet(out, study, rows[:1], samples, "single")
    assert first == prediction_sheet(out, study, rows[:1], samples, "single")
    with Image.open(io.BytesIO(first.png)) as file:
        assert file.width / file.info["dpi"][0] == pytest.approx(3.3, abs=HUNDREDTH)


def test_a_crowd_is_named_and_a_large_image_shrinks_to_its_column(tmp_path):
    out = add_samples(detector_study(tmp_path), count=1, height=300, width=900)
    study, rows = loaded(out)
    before = pixels(prediction_sheet(out, study, rows[:1], samples_of(out), None))
    assert before.shape[1] == 2 * CELL + 8
    path = out / "samples/samples.json"
    content = json.loads(path.read_text())
    content["images"][0]["truth"][0]["crowd"] = True
    path.write_text(json.dumps(content))
    after = pixels(prediction_sheet(out, study, rows[:1], samples_of(out), None))
    assert (before != after).any()


def test_without_predictions_there_is_no_sheet_and_the_reason_is_a_problem(detectors):
    out, study, rows = detectors
    assert prediction_sheet(out, study, rows, None, None) is None
    gone = Samples(reason="out of memory")
    assert prediction_sheet(out, study, rows, gone, None) is None
    assert not_predicted(study, rows, gone) == [
        ["predictions", "no predictions on test images", "out of memory"]
    ]
    some = Samples(left_out={"arm1-s0": "the checkpoint is missing"},
                   runs={"arm0-s0": {"objects": [], "not_finite": 2}})  # fmt: skip
    assert not_predicted(study, rows, some) == [
        ["frozen BN", "left out of the predictions",
         "2 detections of arm0-s0 had a value that is not a number"],
        ["BN trained at 2", "no predictions on test images", "arm1-s0: the checkpoint is missing"],
    ]  # fmt: skip
    assert not_predicted(study, rows, samples_of(out)) == []
    one = Samples(unreadable={"2.jpg": "cut off"})
    assert not_predicted(study, rows, one) == [
        ["predictions", "unreadable images", "2.jpg, whose place the next one takes: cut off"]
    ]


def with_long_text():
    about = PngInfo()
    about.add_text("Comment", "x" * (1 << 21), zip=True)
    return encoded(photo(size=(32, 24)), "PNG", pnginfo=about)


IMAGES = {
    "text": (b"no image", "not an image in"),
    "bomb": (png_of_size(20_000, 20_000), "DecompressionBombError"),
    "long text chunk": (with_long_text(), "Decompressed data too large"),
    "EPS": (encoded(photo(size=(32, 24)), "EPS"), "not an image in"),
    "size": (encoded(photo(size=(33, 24)), "PNG"), "has 24 x 33 pixels, expected 24 x 32"),
}


@pytest.mark.parametrize("damage", [*IMAGES, "missing", "mask"])
def test_what_cannot_be_drawn_names_the_file_and_what_to_do(tmp_path, damage):
    out = add_samples(detector_study(tmp_path))
    study, rows = loaded(out)
    samples = samples_of(out)
    if damage in IMAGES:
        data, named = IMAGES[damage]
        (out / "samples/1.png").write_bytes(data)
    elif damage == "missing":
        (out / "samples/1.png").unlink()
        named = "1.png cannot be shown: cannot read"
    else:
        samples.images[0]["truth"][0]["mask"]["counts"] = "9"
        named = "samples.json has"
    with pytest.raises(StoreError, match="the command of the study makes it again") as error:
        prediction_sheet(out, study, rows, samples, None)
    assert named in str(error.value)
