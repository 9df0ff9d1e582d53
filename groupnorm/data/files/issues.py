"""What is wrong with single files of a data set: counted, named, and limited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from groupnorm.data.files.listing import ImageFiles
from groupnorm.data.issues import DataError, Issues, check_share_unreadable, some_files


class FileIssues:
    """The issues of a data set's files that were met so far, and those that are remembered.

    Args:
        files: the data set.
        unreadable: the kinds of files that cannot be decoded: in training, and in evaluation.
        others: further kinds.
        most: the greatest share of the training files, and of the test files, that may be
            unreadable.
    """

    def __init__(
        self, files: ImageFiles, unreadable: tuple[str, str], others: Sequence[str], most: float
    ) -> None:
        self.files, self.unreadable, self.most = files, unreadable, most
        self._found: Issues = {kind: {} for kind in (*unreadable, *others)}

    def found(self) -> Issues:
        """All of them."""
        return {kind: dict(files) for kind, files in self._found.items()}

    def note(self, kind: str, paths: Sequence[str], reasons: Mapping[int, str]) -> None:
        """Add issues of files: index in `paths` -> what is wrong with it.

        Raises:
            DataError: as `remember`.
        """
        if reasons:
            shown = self.files.shown
            self._add({kind: {shown(paths[index]): why for index, why in reasons.items()}})

    def remember(self, issues: Issues) -> None:
        """Add the issues of other processes, or of this run before it was resumed.

        Those of files that have been removed from the data set since then are dropped.

        Raises:
            DataError: more than the share `most` of the training or of the test files cannot be
                decoded, or all test files of a class.
        """
        known = self._found
        new = {name for kind, files in issues.items() for name in files.keys() - known[kind].keys()}
        present = self.files.present(new)
        self._add(
            {
                kind: {name: reason for name, reason in files.items() if name in present}
                for kind, files in issues.items()
            }
        )

    def _add(self, issues: Issues) -> None:
        before = self._unreadable_count()
        for kind, files in issues.items():
            self._found[kind].update(files)
        if self._unreadable_count() > before:
            self._check_unreadable()

    def _unreadable_count(self) -> int:
        return sum(len(self._found[kind]) for kind in self.unreadable)

    def _check_unreadable(self) -> None:
        files = self.files
        splits = (("training", files.train_size), ("test", files.test_size))
        for kind, (split, size) in zip(self.unreadable, splits, strict=True):
            gone = self._found[kind]
            check_share_unreadable(gone, size, split, files.name, self.most, files.noun)
        _, left_out = self.unreadable
        gone = self._found[left_out]
        counts = Counter(self._test_label_of[path] for path in gone)
        for label, count in counts.items():
            if count == int((files.test_labels == label).sum()):
                lost = {
                    path: why for path, why in gone.items() if self._test_label_of[path] == label
                }
                raise DataError(
                    f"none of {count:,} test {files.noun}s of the class {files.class_names[label]} "
                    f"can be decoded: {some_files(lost)}; the data set is damaged: get it again"
                )

    @cached_property
    def _test_label_of(self) -> dict[str, int]:
        labels = self.files.test_labels.tolist()
        return dict(zip(map(self.files.shown, self.files.test_paths), labels, strict=True))
