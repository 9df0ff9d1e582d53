"""The data sets by name."""

import subprocess
import sys

import pytest

from groupnorm import data
from groupnorm.data import DataError
from groupnorm.data.sets import fashion_mnist


def test_names():
    assert data.NAMES == (
        "digits",
        "fashion-mnist-mini",
        "fashion-scenes",
        "garments-crops",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "imagenet",
        "imagefolder",
        "pets",
        "photo-patches",
    )
    assert data.DETECTION_NAMES == ("garments", "garments-128", "garments-320", "coco")
    assert data.SEGMENTATION_NAMES == ("garments-masks",)
    assert data.DEFAULT == "fashion-scenes"
    assert data.DEFAULT in data.NAMES


@pytest.mark.parametrize("name", ["digits", "fashion-mnist-mini"])
def test_load_and_find(name):
    images = data.load(name)
    assert isinstance(images, data.ImageSet)
    assert images.name == name
    assert isinstance(data.find(name), str)


@pytest.mark.parametrize("attempt", [data.load, data.find])
def test_unknown_name(attempt):
    with pytest.raises(
        data.DataError, match=r"unknown data set 'mnist'; known: digits, .*cifar100, .*pets"
    ):
        attempt("mnist")


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "fashion-mnist", "imagenet", "imagefolder", "pets"]
)
@pytest.mark.parametrize("attempt", [data.load, data.find])
def test_missing_files(monkeypatch, tmp_path, attempt, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROUPNORM_DATA", raising=False)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "_DEBIAN", tmp_path / "debian")
    with pytest.raises(
        data.DataError, match=rf"(?s)^{name} \(.*looked in.*root.*cache.*Get it with"
    ):
        attempt(name, tmp_path / "root")


@pytest.mark.parametrize("attempt", [data.load_detection, data.find])
def test_missing_coco(monkeypatch, tmp_path, attempt):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROUPNORM_DATA", raising=False)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(data.DataError, match=r"(?s)^coco \(.*looked in.*root.*cache.*Get it with"):
        attempt("coco", tmp_path / "root")


def test_sets_of_one_kind_are_not_loaded_as_the_other():
    with pytest.raises(DataError, match=r"detection data set 'digits'; known: garments, .*coco"):
        data.load_detection("digits")
    with pytest.raises(DataError, match=r"segmentation data set 'garments'; known: garments-masks"):
        data.load_segmentation("garments")
    with pytest.raises(DataError, match=r"unknown data set 'garments'"):
        data.load("garments")


@pytest.mark.slow
def test_the_modules_of_the_sets_load_no_image_library():
    code = "import sys; from groupnorm.data.sets import cifar, digits, fashion_scenes, pets\n"
    code += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "groupnorm.data.sets.fashion_scenes" in loaded
    assert not loaded & {"torchvision", "PIL", "sklearn", "skimage", "scipy"}


def test_the_name_of_a_folder_gets_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my cats").mkdir()
    for name, quoted in (("my cats", "'my cats'"), ("no/such", "no/such")):
        with pytest.raises(DataError) as caught:
            data.load(name)
        assert str(caught.value).endswith(
            f"A folder of images is --data imagefolder --data-root {quoted} (groupnorm train: "
            f"data=imagefolder --data-root {quoted})"
        )
    for name in ("cats", "", "c" * 300, "c\0"):
        with pytest.raises(DataError, match=r"^unknown data set") as caught:
            data.load(name)
        assert "imagefolder --data-root" not in str(caught.value)
