"""Files of an export are put in their place together."""

import os
import signal
import subprocess
import sys

import pytest

from groupnorm.export.errors import ExportError
from groupnorm.export.paths import check_paths, digest_of, files_of, put_in_place
from groupnorm.export.report import report_path
from groupnorm.export.targets import TARGETS

OPENVINO = TARGETS["openvino"]


@pytest.fixture
def made(tmp_path):
    """A network's files, where they were written."""
    folder = tmp_path / "made"
    folder.mkdir()
    for one in (*files_of(folder / "a.xml", OPENVINO), report_path(folder / "a.xml")):
        one.write_text("new", encoding="utf-8")
    return folder / "a.xml"


@pytest.mark.parametrize("there", [True, False])
def test_the_file_to_open_goes_first_and_comes_last(made, tmp_path, monkeypatch, there):
    """So whenever the process is killed, what can be opened has its own weights and report."""
    path = tmp_path / "a.xml"
    names = ["a.bin", "a.xml", "a.xml.report.json"]
    if there:
        for name in names:
            (tmp_path / name).write_text("old", encoding="utf-8")
    replace, openable = os.replace, []

    def noted(source, to):
        replace(source, to)
        contents = {(tmp_path / n).read_text() for n in names if (tmp_path / n).exists()}
        openable.append(contents if path.exists() else None)

    monkeypatch.setattr(os, "replace", noted)
    put_in_place(made, path, OPENVINO, tmp_path / "before")
    assert openable == [None] * (5 if there else 2) + [{"new"}]
    assert {(tmp_path / name).read_text() for name in names} == {"new"}


KILLED = """
import os, signal, sys
from pathlib import Path
from groupnorm.export.paths import put_in_place
from groupnorm.export.targets import TARGETS

folder, last = Path(sys.argv[1]), int(sys.argv[2])
replace, moves = os.replace, []

def killed(source, to):
    if len(moves) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    moves.append(to)
    replace(source, to)

os.replace = killed
put_in_place(folder / "made" / "a.xml", folder / "a.xml", TARGETS["openvino"], folder / "before")
"""


@pytest.mark.slow
@pytest.mark.parametrize("last", range(6))
def test_what_a_killed_process_leaves_is_never_half_of_each(made, tmp_path, last):
    names = ["a.bin", "a.xml", "a.xml.report.json"]
    for name in names:
        (tmp_path / name).write_text("old", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(last)], check=False)
    assert done.returncode == -signal.SIGKILL
    if (tmp_path / "a.xml").exists():
        assert {(tmp_path / name).read_text() for name in names} == {"old"}
    for name in names:  # what a second export has written
        (made.parent / name).write_text("new", encoding="utf-8")
    put_in_place(made, tmp_path / "a.xml", OPENVINO, tmp_path / "again")
    assert {(tmp_path / name).read_text() for name in names} == {"new"}


def test_a_folder_in_the_place_of_weights_or_report_is_refused(tmp_path):
    for name in ("a.bin", "a.xml.report.json"):
        (tmp_path / name).mkdir()
        with pytest.raises(ExportError, match=f"{name} is a folder, which OpenVINO does not write"):
            check_paths(tmp_path / "a.xml", OPENVINO)
        (tmp_path / name).rmdir()
    check_paths(tmp_path / "a.xml", OPENVINO)


def test_the_digest_of_a_folder_is_that_of_names_and_contents(tmp_path):
    digests = set()
    for folder, name, text in (("a", "x", "1"), ("b", "y", "1"), ("c", "x", "2")):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / name).write_text(text, encoding="utf-8")
        digests.add(digest_of(tmp_path / folder))
    assert len(digests) == 3
    (tmp_path / "a").rename(tmp_path / "d")
    assert digest_of(tmp_path / "d") in digests
