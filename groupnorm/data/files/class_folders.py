"""Class folders: which files below `train/<class>/` are images or videos, and of which class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from groupnorm.counts import counted
from groupnorm.data.files.listing import Listing
from groupnorm.data.issues import DataError, first_few


class FileKind(NamedTuple):
    """What the files of a data set are: a noun for one of them, and how their names end."""

    noun: str
    endings: tuple[str, ...]


# torchvision's list
IMAGES = FileKind(
    "image", (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
)
VIDEOS = FileKind("video", (".mp4", ".mkv", ".avi", ".webm"))
_SYSTEM_NAMES = frozenset(
    [
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "__macosx",
        "desktop.ini",
        "lost+found",
        "system volume information",
        "thumbs.db",
    ]
)


@dataclass(frozen=True)
class ClassFolders:
    """The files of one split that are of a kind, images or videos.

    Attributes:
        folder: holds a folder for each class.
        kind: of the files.
        classes: their names, sorted.
        listing: path and label of every file, by class and path.
        outside: files that lie in `folder` itself, outside of the class folders.
        endings: how many files of other kinds there are, by the ending of their name.
        real_folders: path of every folder with files -> its real path.
        links: path of every file that is a symbolic link -> its real path.
    """

    folder: Path
    kind: FileKind = IMAGES
    classes: list[str] = field(default_factory=list)
    listing: list[tuple[str, int]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    real_folders: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What is left out, in sentences."""
        notes = []
        if self.outside:
            notes.append(
                f"left out: {counted(len(self.outside), self.kind.noun)} in {self.folder} itself, "
                "outside of the class folders"
            )
        if self.endings:
            notes.append(
                f"left out because of the ending of the name: "
                f"{counted(self.endings.total(), 'file')} in {self.folder} "
                f"({_counts(self.endings)})"
            )
        return notes


def is_hidden(name: str) -> bool:
    """Whether a name is a hidden file's, or one that operating systems leave behind."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def as_utf8(name: str) -> str:
    """A file's name as a UTF-8 locale has it, whatever the locale is."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, without what is hidden.

    Raises:
        DataError: `folder` cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def list_splits(
    train: Path, test: Path, kind: FileKind = IMAGES
) -> tuple[ClassFolders, ClassFolders]:
    """The class folders of both splits.

    What counts as a file of the kind follows from the ending of its name. Hidden files and the
    files and folders of operating systems are neither such files nor classes. Links are followed.

    Raises:
        DataError: no class folders, a class without files of the kind, an unreadable folder; a
            folder that is met twice by way of a link; a file that is linked into two classes or
            splits.
    """
    met = {os.path.realpath(train): str(train)}
    _meet(str(test), met)
    both = list_classes(train, met, kind), list_classes(test, met, kind)
    _check_linked_files(both)
    return both


def list_classes(
    folder: Path, met: dict[str, str] | None = None, kind: FileKind = IMAGES
) -> ClassFolders:
    """The class folders of one split; see `list_splits`.

    Args:
        met: real path -> path of the folders met before, to which those of this split are added.
    """
    met = {os.path.realpath(folder): str(folder)} if met is None else met
    found = ClassFolders(folder, kind)
    try:
        names = []
        for entry in _entries(str(folder)):
            if entry.is_dir():
                names.append(entry.name)
            elif entry.name.lower().endswith(kind.endings):
                found.outside.append(entry.path)
        for label, name in enumerate(names):
            _list_class(found, name, label, met)
    except OSError as error:
        raise DataError(f"cannot list the {kind.noun}s in {folder}: {error}") from error
    if not names:
        files = counted(len(found.outside), kind.noun)
        inside = f", but {files} in it directly" if found.outside else ""
        raise DataError(
            f"{folder} has no class folders{inside}. Expected {folder.name}/<class>/*, a folder of "
            f"{kind.noun}s for each class"
        )
    return found


def list_below(folder: Path, kind: FileKind = IMAGES) -> tuple[list[str], list[str]]:
    """The paths of the files of a kind anywhere below a folder, and notes on what is left out.

    Files and links are treated as in `list_splits`; the paths are sorted, folder by folder.

    Raises:
        DataError: there are none, an unreadable folder, or a folder that is met twice by way of a
            link.
    """
    found = ClassFolders(folder, kind)
    try:
        paths = _list_files(found, str(folder), {})
    except OSError as error:
        raise DataError(f"cannot list the {kind.noun}s in {folder}: {error.strerror}") from error
    return paths, found.notes()


def match_classes(train: ClassFolders, test: ClassFolders) -> tuple[Listing, list[str]]:
    """The test files with the labels of `train`, and a note where they lack some classes.

    Raises:
        DataError: `test` has a class that `train` has not.
    """
    extra = sorted(set(test.classes) - set(train.classes))
    missing = sorted(set(train.classes) - set(test.classes))
    if extra:
        raise DataError(
            f"{test.folder} has classes that {train.folder} has not: {first_few(extra)}. Only in "
            f"the latter: {first_few(missing) or 'none'}"
        )
    label_of = {name: label for label, name in enumerate(train.classes)}
    listing = [(path, label_of[test.classes[label]]) for path, label in test.listing]
    if not missing:
        return listing, []
    return listing, [
        f"{test.folder} has {test.kind.noun}s of {len(test.classes):,} of the "
        f"{len(train.classes):,} classes; the error is over those, without {first_few(missing)}"
    ]


def _list_class(found: ClassFolders, name: str, label: int, met: dict[str, str]) -> None:
    paths = _list_files(found, os.path.join(found.folder, name), met)
    found.classes.append(as_utf8(name))
    found.listing.extend((path, label) for path in paths)


def _list_files(found: ClassFolders, top: str, met: dict[str, str]) -> list[str]:
    """The paths of the files below a folder; DataError where there are none."""
    waiting = [top]
    files: dict[str, list[str]] = {}
    endings: Counter[str] = Counter()
    while waiting:
        folder = waiting.pop()
        found.real_folders[folder] = _meet(folder, met)
        for entry in _entries(folder):
            if entry.is_dir():
                waiting.append(entry.path)
            elif entry.name.lower().endswith(found.kind.endings):
                files.setdefault(folder, []).append(entry.path)
                if entry.is_symlink():
                    found.links[entry.path] = os.path.realpath(entry.path)
            else:
                endings[os.path.splitext(entry.name)[1].lower() or "none"] += 1
    if not files:
        others = f", but {counted(endings.total(), 'file')} ({_counts(endings)})" if endings else ""
        raise DataError(
            f"no {found.kind.noun}s in {top}{others}. The names of "
            f"{found.kind.noun}s end in {', '.join(found.kind.endings)}"
        )
    found.endings.update(endings)
    return [path for folder in sorted(files, key=os.fsencode) for path in files[folder]]


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, in the order of the names, without what is hidden."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
    yield from sorted(visible, key=lambda entry: os.fsencode(entry.name))


def _meet(folder: str, met: dict[str, str]) -> str:
    """Enter a folder in `met`; its real path. DataError when it was met, or holds a split."""
    real = os.path.realpath(folder)
    if real in met:
        raise DataError(
            f"{met[real]} and {folder} are the same folder, {real}: what it holds would be there "
            "twice, or with two labels. Remove the link"
        )
    if os.path.islink(folder):
        below = os.path.join(real, "")
        inside = next((path for other, path in met.items() if other.startswith(below)), None)
        if inside is not None:
            raise DataError(
                f"{folder} is a link to {real}, which holds {inside} itself. Remove the link"
            )
    met[real] = folder
    return real


def _check_linked_files(splits: Sequence[ClassFolders]) -> None:
    """Raise DataError when a file has two labels, or is in both splits, by way of a link."""
    if not any(split.links for split in splits):
        return
    met: dict[str, tuple[Path, str, str]] = {}
    for split in splits:
        for path, label in split.listing:
            folder, name = os.path.split(path)
            real = split.links.get(path) or os.path.join(split.real_folders[folder], name)
            where = (split.folder, split.classes[label])
            *before, first = met.setdefault(real, (*where, path))
            if tuple(before) != where:
                raise DataError(
                    f"{first} and {path} are the same file, {real}, in two classes or splits. "
                    "Remove one of them"
                )


def _counts(endings: Counter[str]) -> str:
    named = [f"{ending} {count:,}" for ending, count in endings.most_common(5)]
    rest = endings.total() - sum(count for _, count in endings.most_common(5))
    return ", ".join([*named, *([f"others {rest:,}"] if rest else [])])
