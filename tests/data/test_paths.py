"""Search order, cache folder, checksums."""

import hashlib
from pathlib import Path

import pytest

from groupnorm.data import DataError
from groupnorm.data.paths import cache_folder, first_match, read_checked, search_folders


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in ("GROUPNORM_DATA", "GROUPNORM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_cache_folder(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "home/.cache/groupnorm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/groupnorm"
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_search_order(monkeypatch, tmp_path):
    known = tmp_path / "known"
    assert search_folders(None, [known]) == [known, Path("data"), cache_folder()]
    monkeypatch.setenv("GROUPNORM_DATA", str(tmp_path / "named"))
    assert search_folders(tmp_path / "root", [known]) == [
        tmp_path / "root",
        tmp_path / "named",
        known,
        Path("data"),
        cache_folder(),
    ]


def test_first_match_takes_the_first_and_lists_all(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders[1:]:
        folder.mkdir()

    def match(folder):
        return folder if folder.is_dir() else None

    assert first_match("toys", folders, match, "Buy some") == folders[1]
    with pytest.raises(DataError) as caught:
        first_match("toys", folders, lambda folder: None, "Buy some")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("toys not found")
    assert [line.strip() for line in lines[1:4]] == [str(folder) for folder in folders]
    assert lines[4] == "Buy some"


def test_read_checked(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(DataError, match=r"cannot read .*file: No such file.*; install it"):
        read_checked(path, "0" * 64, "install it")
    path.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    assert read_checked(path, digest, "install it") == b"content"
    path.write_bytes(b"c0ntent")
    with pytest.raises(DataError, match=rf"file is damaged.*{digest}.*7 bytes.*install it"):
        read_checked(path, digest, "install it")
