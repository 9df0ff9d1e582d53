"""Oxford-IIIT Pets by its official split files, as torchvision reads them."""

import pytest
from torchvision.datasets import OxfordIIITPet

from groupnorm import data
from groupnorm.data import DataError
from tests.data.files.image_trees import photo, write

BREEDS = [f"{'Cat' if n % 2 else 'wire_haired_dog'}_{chr(65 + n % 26)}{'x' * (n // 26)}"
          for n in range(37)]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    for split, number in (("trainval", 1), ("test", 200)):
        lines = []
        for label, breed in enumerate(BREEDS):
            lines.append(f"{breed}_{number} {label + 1} {1 + label % 2} {label // 2 + 1}\n")
            write(folder / f"images/{breed}_{number}.jpg", photo(label, (4, 4)))
        write(folder / f"annotations/{split}.txt", "".join(reversed(lines)).encode())
    return tmp_path


def test_like_torchvision(root):
    files = data.load("pets", root)
    assert (files.name, files.num_classes) == ("pets", 37)
    for split, paths, labels in (
        ("trainval", files.train_paths, files.train_labels),
        ("test", files.test_paths, files.test_labels),
    ):
        theirs = OxfordIIITPet(root, split)
        assert paths == tuple(map(str, theirs._images))
        assert labels.tolist() == theirs._labels
        assert list(files.class_names) == theirs.classes


def test_a_byte_order_mark_does_not_matter(root):
    before = data.load("pets", root).version
    for name in ("trainval", "test"):
        split = root / f"oxford-iiit-pet/annotations/{name}.txt"
        split.write_text(split.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert data.load("pets", root).version == before


def test_where_it_is_looked_for(root):
    folder = root / "oxford-iiit-pet"
    assert data.find("pets", root) == data.find("pets", folder) == str(folder)


@pytest.mark.parametrize(
    "line",
    ["../../secret_1 1 1 1", "Abyssinian_100 1 1", "# Image CLASS-ID", "Cat_1 1 3 1", "Cat 1 1 1"],
)
def test_other_lines_are_refused(root, line):
    split = root / "oxford-iiit-pet/annotations/test.txt"
    split.write_text(split.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"test.txt, line 38: expected a line as 'Abyss.*got"):
        data.load("pets", root)


def test_two_names_for_a_class(root):
    split = root / "oxford-iiit-pet/annotations/test.txt"
    split.write_text(split.read_text() + "Other_1 2 1 1\n")
    with pytest.raises(DataError, match="line 38: class 2 is both Cat B and Other"):
        data.load("pets", root)


def test_too_few_classes(root):
    for name in ("trainval", "test"):
        split = root / f"oxford-iiit-pet/annotations/{name}.txt"
        split.write_text("".join(split.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="expected classes 1 to 37, got 36"):
        data.load("pets", root)


def test_missing_image(root):
    path = root / f"oxford-iiit-pet/images/{BREEDS[4]}_1.jpg"
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read {path}: No such file"):
        data.load("pets", root)
