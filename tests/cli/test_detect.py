"""groupnorm detect: a trained detector from its run's folder, on images of any kind."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from groupnorm.cli import detect as command
from groupnorm.data.detection import rle
from groupnorm.run.detector import Found, TrainedDetector
from groupnorm.study.record import CHECKPOINT
from tests.cli.commands import groupnorm, typed
from tests.data.detection.tiny_garments import tiny_garments
from tests.data.files.image_trees import photo
from tests.study.tiny_detectors import tiny_detector
from tests.tolerances import FOUR_DIGITS, HUNDREDTH

pytestmark = pytest.mark.usefixtures("detectors_on_disk")
FEW = ["--threshold", "0.05"]


@pytest.fixture
def scene(tmp_path):
    """A test image of the data set, of which nothing else is there."""
    return shutil.copy(tiny_garments() / "val" / "000001.jpg", tmp_path / "scene.jpg")


@pytest.fixture
def run(tmp_path):
    """A copy of a detector's folder, to be damaged."""
    return shutil.copytree(tiny_detector(), tmp_path / "run")


def found_in(*images, run=None, options=FEW):
    done = typed("detect", run or tiny_detector(), *images, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def edit(path, **keys):
    value = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({key: v for key, v in value.items() if v is not None}))


def enlarge(run, side):
    """What would have each image resized to more than memory holds."""
    built_for = json.loads((run / "env.json").read_text())["built_for"]
    edit(run / "env.json", built_for={**built_for, side: 10**6})


def test_what_is_found_is_listed_and_drawn(scene, tmp_path):
    done = typed("detect", tiny_detector(), scene.name, *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *table, drawn = done.stdout.splitlines()
    assert first.startswith("run gn-groups-8-1x2-s0-")
    assert first.endswith(": mask_rcnn_narrow with gn:groups=8")
    assert "scene.jpg" in "".join(table)
    assert drawn == "drawn: 1 image in detections"
    with Image.open(tmp_path / "detections" / "scene.png") as drawing:
        assert drawing.size == (512, 512)
        plain = Image.open(scene).resize((512, 512), Image.Resampling.NEAREST)
        assert (np.asarray(drawing) != np.asarray(plain)).any()


def test_json_has_objects_in_pixels_of_the_image(scene, tmp_path):
    large = str(tmp_path / "large.png")
    Image.open(scene).resize((256, 192)).save(large)
    found = found_in(scene, large)
    assert found["norm"] == "gn:groups=8"
    assert found["categories"] == ["tops", "trousers", "dresses", "footwear", "bags"]
    assert found["unreadable"] == {}
    small, wide = found["images"]
    assert (wide["image"], wide["width"], wide["height"]) == (large, 256, 192)
    for image in (small, wide):
        scores = [one["score"] for one in image["objects"]]
        assert scores
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= 0.05
        for one in image["objects"]:
            x0, y0, x1, y1 = one["box"]
            assert 0 <= x0 < x1 <= image["width"]
            assert 0 <= y0 < y1 <= image["height"]
            assert one["category"] in found["categories"]
            rle.parse(one["mask"], image["height"], image["width"])
    assert max(one["box"][2] for one in wide["objects"]) > 128
    assert not (tmp_path / "detections").exists()


def test_it_finds_what_training_evaluated(scene):
    """The same detections as the task's own evaluation of the same image makes."""
    from groupnorm.run import setup_of
    from groupnorm.study.trained import read_trained

    trained = read_trained(tiny_detector())
    setup = setup_of(trained.config)
    data = setup.load(trained.config, "cpu", tiny_garments())
    model = setup.build(trained.config, data, "cpu")
    model.load_state_dict(trained.weights)
    images, _ = next(iter(data.test()))
    (output,) = model.eval()(images[:1])
    (image,) = found_in(scene)["images"]
    assert [one["score"] for one in image["objects"]] == pytest.approx(
        output["scores"].tolist(), abs=FOUR_DIGITS
    )
    boxes = np.array([one["box"] for one in image["objects"]])
    assert np.abs(boxes - output["boxes"].detach().numpy()).max() < HUNDREDTH


def test_a_run_by_its_checkpoint_and_an_image_without_objects(scene, tmp_path):
    checkpoint = tiny_detector(norm="bn", model="retinanet_narrow") / CHECKPOINT
    found = found_in(scene, run=checkpoint, options=["--threshold", "0"])
    assert (found["model"], found["norm"]) == ("retinanet_narrow", "bn")
    assert [image["objects"] for image in found["images"]] == [[]]
    done = typed("detect", checkpoint, scene, "--out", tmp_path / "out")
    assert "nothing found" in done.stdout
    assert (tmp_path / "out" / "scene.png").exists()


def test_images_of_every_kind_and_size(tmp_path):
    images = {
        "grey.png": photo().convert("L"),
        "cmyk.jpg": photo().convert("CMYK"),
        "palette.gif": photo().convert("P"),
        "alpha.webp": photo().convert("RGBA"),
        "one.png": photo(size=(1, 1)),
        "long.png": photo(size=(400, 3)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    found = found_in(*(tmp_path / name for name in images))
    sizes = [(image["width"], image["height"]) for image in found["images"]]
    assert sizes == [image.size for image in images.values()]


def test_a_rotation_in_exif_is_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(size=(40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    done = typed("detect", tiny_detector(), tmp_path / "turned.jpg", "--json")
    note = f"note: {tmp_path / 'turned.jpg'} is used as it is stored; its EXIF says to turn it\n"
    assert done.stderr == note
    assert json.loads(done.stdout)["images"][0]["width"] == 40


def test_unreadable_images_are_named_and_the_others_go_on(scene, tmp_path):
    bad = {"empty.jpg": b"", "text.png": b"no image", "bomb.png": None, "cut.jpg": b""}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content or b"")
    Image.new("1", (60_000, 2_000)).save(tmp_path / "bomb.png")
    with open(scene, "rb") as file:
        (tmp_path / "cut.jpg").write_bytes(file.read()[:700])
    given = [*(tmp_path / name for name in bad), tmp_path / "missing.jpg", tmp_path]
    done = typed("detect", tiny_detector(), *given, scene, "--json")
    assert done.returncode == 2
    *named, last = done.stderr.splitlines()
    assert last == "error: 6 of 7 images could not be read"
    assert [str(path) in line for path, line in zip(given, named, strict=True)] == [True] * 6
    assert "the file is empty" in named[0]
    assert "60000 x 2000 pixels" in named[2]
    assert "No such file" in named[4]
    found = json.loads(done.stdout)
    assert [image["image"] for image in found["images"]] == [str(scene)]
    assert list(found["unreadable"]) == [str(path) for path in given]
    done = typed("detect", tiny_detector(), tmp_path / "empty.jpg", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_that_is_named_twice_counts_twice(tmp_path):
    done = typed("detect", tiny_detector(), *[tmp_path / "none.jpg"] * 2)
    assert done.stderr.splitlines()[-1] == "error: 2 of 2 images could not be read"


def test_what_is_not_a_number_is_noted(scene, monkeypatch):
    monkeypatch.setattr(TrainedDetector, "find", lambda *_: Found([], 2))
    done = typed("detect", tiny_detector(), scene, "--json")
    assert done.stderr == (
        f"note: {scene}: 2 detections whose score or box is not a number are left out\n"
    )


def test_drawings_overwrite_no_input_and_no_other_file(scene, tmp_path):
    """Two inputs of one name, an input in the folder of the drawings, and a foreign file there."""
    (tmp_path / "other").mkdir()
    inputs = [scene, tmp_path / "other" / "scene.jpg", tmp_path / "Scene.png"]
    for path in inputs[1:]:
        photo().save(path)
    photo().save(tmp_path / "scene-2.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    names = []
    for _ in range(2):  # a second time the drawings are replaced
        done = typed("detect", tiny_detector(), *inputs, "--out", tmp_path)
        assert done.returncode == 0, done.stderr
        assert {path: path.read_bytes() for path in before} == before
        names.append(sorted(path.name for path in set(tmp_path.glob("*.png")) - set(before)))
    assert names[0] == names[1] == ["Scene-2.png", "scene-3.png", "scene.png"]


def test_a_drawing_that_is_an_input_stays_as_it_is(scene, tmp_path):
    out = tmp_path / "out"
    assert typed("detect", tiny_detector(), scene, "--out", out).returncode == 0
    before = (out / "scene.png").read_bytes()
    done = typed("detect", tiny_detector(), out / "scene.png", "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["scene-2.png", "scene.png"]
    assert (out / "scene.png").read_bytes() == before


def test_a_name_as_long_as_names_can_be(scene, tmp_path):
    long = tmp_path / f"{'ü' * 125}.jpg"
    shutil.copy(scene, long)
    assert typed("detect", tiny_detector(), long, "--out", tmp_path / "out").returncode == 0
    (drawing,) = (tmp_path / "out").iterdir()
    assert drawing.name.startswith("ü" * 99)


@pytest.mark.parametrize(
    ("threshold", "words"),
    [("1.5", "it takes a number from 0 to 1, got 1.5"), ("x", "it takes a number, got 'x'"),
     ("nan", "it takes a number from 0 to 1, got nan")],
)  # fmt: skip
def test_a_threshold_that_is_none(scene, threshold, words):
    done = typed("detect", tiny_detector(), scene, "--threshold", threshold)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_threshold_leaves_out_what_is_below(scene):
    scores = [one["score"] for one in found_in(scene)["images"][0]["objects"]]
    middle = scores[len(scores) // 2] + 1e-3
    (image,) = found_in(scene, options=["--threshold", str(middle)])["images"]
    assert [one["score"] for one in image["objects"]] == [s for s in scores if s >= middle]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: shutil.rmtree(run), "there is no "),
        (lambda run: (run / "config.json").unlink(), "is no run's folder: it has no config.json"),
        (lambda run: (run / CHECKPOINT).unlink(), "has no checkpoint.pt, which holds the weights"),
        (lambda run: (run / CHECKPOINT).write_bytes(b"x" * 200), "does not end with a digest"),
        (lambda run: edit(run / "env.json", built_for=None), "delete it and DONE beside it and"),
        (lambda run: (run / "env.json").unlink(), "does not say what the network was built for"),
        (lambda run: edit(run / "env.json", built_for={"categories": []}), "env.json has built_f"),
        (lambda run: enlarge(run, "canvas"), "env.json has built_for.canvas=1000000"),
        (lambda run: enlarge(run, "short_side"), "env.json has built_for.short_side=1000000"),
        (lambda run: enlarge(run, "long_side"), "env.json has built_for.long_side=1000000"),
        (lambda run: edit(run / "config.json", norm="bn"), "belongs to run "),
        (lambda run: edit(run / "config.json", task="pose"), "has an unknown task 'pose'"),
    ],
)  # fmt: skip
def test_a_folder_that_holds_no_whole_run(run, scene, damage, words):
    damage(run)
    done = typed("detect", run, scene)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run.parent / "detections").exists()


def test_what_is_no_runs_folder(scene, run):
    (run.parent / "study.json").write_text("{}")
    assert "name the folder of one of its runs" in typed("detect", run.parent, scene).stderr
    assert "is a file; expected the folder of a run" in typed("detect", scene, scene).stderr


def test_other_categories_than_the_weights_have(run, scene):
    built_for = json.loads((run / "env.json").read_text())["built_for"]
    edit(run / "env.json", built_for={**built_for, "categories": ["a", "b"]})
    done = typed("detect", run, scene)
    assert done.returncode == 2
    assert "do not fit mask_rcnn_narrow with 2 categories: " in done.stderr


def test_a_classifier_is_refused_in_words(scene, tmp_path):
    few = ["data=digits", "norm=gn:groups=4", "model=resnet8", "width=0.25", "steps=1",
           "workers=1", "batch_per_worker=8", "train_images=16"]  # fmt: skip
    assert typed("train", *few, "--out", tmp_path / "run").returncode == 0
    done = typed("detect", tmp_path / "run", scene)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path / 'run'} holds a run of classification (resnet8 on digits), which is "
        "used with its data set; expected one of groupnorm train task=detection\n"
    )


def test_a_gpu_that_is_not_there(scene, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = typed("detect", tiny_detector(), scene, "--device", "cuda")
    assert done.returncode == 2
    told = "error: device 'cuda' was asked for, but torch finds no CUDA device; use cpu, or "
    assert done.stderr.startswith(told)


def test_a_run_that_has_not_finished_is_used_and_named(run, scene):
    (run / "DONE").unlink()
    done = typed("detect", run, scene, "--json")
    assert done.returncode == 0
    assert done.stderr == (
        "note: the run has not finished (partial); its weights are those of its last checkpoint\n"
    )


def test_a_run_of_an_earlier_version_that_went_on_with_this_one(run, scene):
    """What it was built for stands with what else changed."""
    env = json.loads((run / "env.json").read_text())
    edit(run / "env.json", built_for=None, continued_with={"built_for": env["built_for"]})
    assert typed("detect", run, scene, "--json").returncode == 0


@pytest.mark.slow
def test_the_record_of_an_earlier_version_is_mended_as_the_message_says(run, scene):
    """env.json and DONE are deleted, and the command of the run is repeated: it trains nothing."""
    config = json.loads((run / "config.json").read_text())
    before = (run / CHECKPOINT).read_bytes()
    edit(run / "env.json", built_for=None)
    assert typed("detect", run, scene).returncode == 2
    for name in ("env.json", "DONE"):
        (run / name).unlink()
    again = run.parent / "again.json"
    again.write_text(json.dumps(config))
    done = typed("train", "--config", again, "--data-root", tiny_garments(), "--out", run)
    assert done.returncode == 0, done.stderr
    assert (run / CHECKPOINT).read_bytes() == before
    assert typed("detect", run, scene, "--json").returncode == 0


def test_a_bar_appears_where_it_takes_long_on_a_terminal(monkeypatch):
    from rich.console import Console

    shown = []
    for seconds, terminal in ((-1.0, True), (60.0, True), (-1.0, False)):
        console = Console(force_terminal=terminal, width=80, record=True, file=_Nowhere())
        monkeypatch.setattr(command, "errors", console)
        monkeypatch.setattr(command, "_SECONDS", seconds)
        with command._progress(3) as advance:
            advance()
            advance()
        shown.append("2/3" in console.export_text())
    assert shown == [True, False, False]


class _Nowhere:
    def write(self, text):
        pass

    def flush(self):
        pass


@pytest.mark.slow
def test_the_installed_command_without_the_data_set(scene, tmp_path, monkeypatch):
    """A copied folder, in a process of its own that finds no data."""
    folder = shutil.copytree(tiny_detector(), tmp_path / "elsewhere")
    for name in ("GROUPNORM_DATA", "GROUPNORM_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    groupnorm("detect", folder, scene, "--out", tmp_path / "out", cwd=tmp_path)
    assert (tmp_path / "out" / "scene.png").exists()
    assert not (tmp_path / "nothing").exists()
