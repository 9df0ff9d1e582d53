"""garments: scenes as a COCO data set, exact, made once, checked, and safe from other processes."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from groupnorm.data import DataError
from groupnorm.data.sets import coco, fashion_mnist_mini, garments
from groupnorm.data.synthetic.scenes import SceneConfig
from tests.data.sets.scene_sources import cached_sources

SMALL = replace(garments.QUICK, counts=(6, 4))
TEN = replace(garments.STANDARD, counts=(6, 4))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(garments, "load_sources", cached_sources)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names_below(folder):
    return sorted(path.name for path in folder.iterdir())


def test_official_numbers():
    assert garments.QUICK.counts == (3_000, 500)
    assert garments.QUICK.scene == SceneConfig((96, 96), (1, 5), (20, 48))
    assert garments.STANDARD.scene == SceneConfig((128, 128), (1, 6), (16, 64))
    assert garments.QUICK.area_sides == (16, 24)
    assert garments.STANDARD.area_sides == (21, 32)
    assert garments.LARGE.scene == SceneConfig((320, 320), (1, 6), (40, 160))
    assert garments.LARGE.area_sides == (53, 80)


@pytest.mark.parametrize(
    "variant", [garments.QUICK, garments.STANDARD, garments.LARGE], ids=["96", "128", "320"]
)
def test_a_good_part_of_the_garments_is_small_medium_and_large(variant):
    sides = []
    for number, scene in enumerate(garments.scenes(replace(variant, counts=(60, 60)), "val")):
        entry, _ = garments.annotate(scene, number, variant)
        sides += [annotation.area**0.5 for annotation in entry.objects]
    parts = np.histogram(sides, [0, *variant.area_sides, 1000])[0] / len(sides)
    assert parts.min() > 0.2


def test_contents(cache):
    made = garments.load(variant=SMALL)
    assert (made.name, made.version[:2]) == ("garments", f"{garments.VERSION}-")
    assert (len(made.train.images), len(made.test.images)) == (6, 4)
    assert (made.short_side, made.area_sides, made.flip) == (None, (16, 24), True)
    assert made.categories.names == ("tops", "trousers", "dresses", "footwear", "bags")
    folder = cache / "garments-v1"
    assert names_below(folder) == ["SHA256SUMS", "annotations", "train", "val"]
    assert names_below(folder / "val") == [f"00000{k}.jpg" for k in range(1, 5)]
    assert names_below(cache) == [".garments-v1.lock", "garments-v1"], "nothing is left over"


def test_ten_categories():
    made = garments.load(variant=TEN)
    assert made.categories.names == fashion_mnist_mini.CLASS_NAMES
    assert made.categories.supercategories[9] == "footwear"
    assert set(made.categories.supercategories) == set(garments.SUPERCATEGORIES)
    assert (made.train.images[0].height, made.name) == (128, "garments-128")
    assert sorted(sum(garments.SUPERCATEGORIES.values(), ())) == list(range(10))
    for label in range(10):
        name = garments.QUICK.categories.name(garments.QUICK.category(label))
        assert label in garments.SUPERCATEGORIES[name]
        assert TEN.categories.name(TEN.category(label)) == fashion_mnist_mini.CLASS_NAMES[label]


def test_320_pixels(monkeypatch):
    few = replace(garments.LARGE, counts=(2, 1))
    monkeypatch.setattr(garments, "LARGE", few)
    made = garments.load_320()
    assert (made.train.images[0].width, made.name) == (320, "garments-320")
    assert len(made.categories) == 10


def test_annotations_are_what_is_seen_in_the_scenes():
    """Boxes and masks exact; less than a quarter seen is a crowd; nothing seen is left out."""
    variant = replace(SMALL, scene=SceneConfig((96, 96), (5, 5), (40.0, 90.0)), counts=(40, 1))
    made = garments.load(variant=variant)
    crowds = hidden = 0
    for entry, scene in zip(made.train.images, garments.scenes(variant, "train"), strict=True):
        shown = [j for j in range(5) if scene.masks[0, j].any()]
        hidden += 5 - len(shown)
        assert len(entry.annotations) == len(shown)
        for j, annotation in zip(shown, entry.annotations, strict=True):
            mask = scene.masks[0, j]
            assert (annotation.mask(96, 96) == mask).all()
            assert annotation.corners(96, 96) == tuple(scene.boxes[0, j])
            assert annotation.area == mask.sum()
            assert annotation.label == variant.category(int(scene.labels[j]))
            assert annotation.crowd == (mask.sum() / scene.areas[0, j] < 0.25)
            crowds += annotation.crowd
    assert crowds > 3
    assert hidden > 0
    assert f"{crowds} of {200 - hidden} garments are crowd" in made.notes[0]
    assert f"{hidden} more are wholly hidden and left out" in made.notes[0]


def test_images_are_the_scenes_as_jpeg(cache):
    garments.load(variant=SMALL)
    for number, scene in enumerate(garments.scenes(SMALL, "val"), 1):
        with Image.open(cache / "garments-v1" / "val" / f"{number:06}.jpg") as picture:
            assert picture.format == "JPEG"
            error = np.asarray(picture).astype(int) - scene.images[0]
        assert abs(error).mean() < 2


def test_scenes_of_this_version():
    """The recipe is pinned: when this digest changes, raise garments.VERSION."""
    digest = hashlib.sha256()
    for variant in (garments.QUICK, garments.STANDARD):
        for split in ("train", "val"):
            for scene in garments.scenes(replace(variant, counts=(2, 2)), split):
                digest.update(scene.images.tobytes() + scene.masks.tobytes())
                digest.update(scene.labels.tobytes() + scene.areas.tobytes())
    assert digest.hexdigest() == "3cf6ac01e46a424663b8f8dcb9480c2b08fbdac59dfa6bd8e2ea98b8f0bd1a67"


def test_up_to_320_pixels_and_every_number_of_garments():
    variant = replace(TEN, scene=SceneConfig((320, 320), (1, 6), (40, 160)), counts=(12, 1))
    counts = {len(scene.labels) for scene in garments.scenes(variant, "train")}
    assert counts <= set(range(1, 7))
    assert len(counts) > 3
    (scene,) = garments.scenes(variant, "val")
    assert scene.images.shape == (1, 320, 320, 3)


def test_splits_and_variants_are_not_the_same_scenes():
    first = {
        (name, split): next(iter(garments.scenes(variant, split))).images.mean()
        for name, variant in (("quick", SMALL), ("standard", TEN))
        for split in ("train", "val")
    }
    assert len(set(first.values())) == 4


def test_a_coco_data_set_like_any_other(cache):
    """The reader of COCO's own layout reads the folder as it is."""
    made, read = garments.load(variant=SMALL), coco.load(cache / "garments-v1")
    assert read.categories == made.categories
    assert [e.id for e in read.train.images] == [1, 2, 3, 4, 5, 6]
    data = json.loads(made.train.file.read_bytes())
    assert [a["id"] for a in data["annotations"]] == [*range(1, len(data["annotations"]) + 1)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_it(capsys):
    coco = pytest.importorskip("pycocotools.coco")
    made = garments.load(variant=SMALL)
    read = coco.COCO(str(made.train.file))
    capsys.readouterr()
    for entry in made.train.images:
        annotations = read.loadAnns(read.getAnnIds(imgIds=entry.id))
        for theirs, ours in zip(annotations, entry.annotations, strict=True):
            assert (read.annToMask(theirs) == ours.mask(96, 96)).all()


def test_second_load_reads_the_cache(monkeypatch):
    first = garments.load(variant=SMALL)
    monkeypatch.setattr(garments, "write", None)
    assert garments.load(variant=SMALL).version == first.version


@pytest.mark.parametrize(
    "damage", ["changed image", "missing image", "more", "annotations", "no sums", "cut sums"]
)
def test_a_damaged_cache_is_made_again(cache, caplog, damage):
    first = garments.load(variant=SMALL)
    folder = cache / "garments-v1"
    picture, sums = folder / "train" / "000002.jpg", folder / "SHA256SUMS"
    good = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if damage == "changed image":
        picture.write_bytes(good[picture][:-40] + b"?" + good[picture][-39:])
    elif damage == "missing image":
        picture.unlink()
    elif damage == "more":
        (folder / "val" / "000009.jpg").write_bytes(b"")
    elif damage == "annotations":
        path = folder / "annotations" / "instances_val.json"
        path.write_bytes(good[path].replace(b'"iscrowd":0', b'"iscrowd":1', 1))
    elif damage == "no sums":
        sums.unlink()
    else:
        sums.write_bytes(good[sums][:-30])
    with caplog.at_level(logging.WARNING):
        second = garments.load(variant=SMALL)
    assert "is damaged and will be made again" in caplog.text
    assert second.version == first.version
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == good


def test_what_sha256sum_says(cache):
    garments.load(variant=SMALL)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=cache / "garments-v1", check=False,
    )  # fmt: skip
    assert done.returncode == 0


def test_hidden_files_of_others_do_no_harm(cache, caplog):
    garments.load(variant=SMALL)
    (cache / "garments-v1" / ".DS_Store").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        garments.load(variant=SMALL)
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        DataError, match=r"garments cannot be made in .*set GROUPNORM_CACHE to a folder"
    ):
        garments.load(variant=SMALL)


def test_find_makes_nothing(cache, monkeypatch):
    monkeypatch.setattr(garments, "write", None)
    assert "to be made on first use from photographs" in garments.find()
    assert "garments-128-v1, to be made" in garments.find_128()
    assert "garments-320-v1, to be made" in garments.find_320()
    assert not cache.exists()
    (cache / "garments-v1").mkdir(parents=True)
    (cache / "garments-v1" / "SHA256SUMS").write_text("")
    assert garments.find() == str(cache / "garments-v1")


MAKING = """
import sys
from dataclasses import replace
from groupnorm.data.sets import garments
variant = replace(garments.QUICK, counts=(int(sys.argv[1]), 4))
if len(sys.argv) > 2:
    make = garments.write
    def counted(folder, variant):
        print("made", flush=True)
        make(folder, variant)
    garments.write = counted
print(garments.load(variant=variant).version)
"""


def making(count, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", MAKING, str(count), *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_one_of_two_processes_makes_it_and_the_other_waits(cache):
    both = [making(150, "counted") for _ in range(2)]
    said = [process.communicate(timeout=100)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(len(words) for words in said) == [1, 2], "one of them made it"
    assert said[0][-1] == said[1][-1]
    assert names_below(cache) == [".garments-v1.lock", "garments-v1"]


@pytest.mark.slow
def test_after_a_kill_it_is_made_again_and_nothing_is_left_over(cache):
    process = making(3000)
    for _ in range(1000):
        if list(cache.glob(".garments-v1.begun-*/train/000005.jpg")):
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(names_below(cache)) == 2, "a lock file and what was begun"
    assert not (cache / "garments-v1").exists()
    assert len(garments.load(variant=SMALL).train.images) == 6
    assert names_below(cache) == [".garments-v1.lock", "garments-v1"]
