"""Files of the store that are damaged: each is named, with the remedy."""

import pytest

from groupnorm.study.store import StoreError, read_record, run_folder


def test_damage_is_named(tmp_path):
    folder = run_folder(tmp_path, "a")
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(StoreError, match=r"metrics\.jsonl line 2 is not JSON"):
        read_record(tmp_path, "a")
    (folder / "metrics.jsonl").unlink()
    (folder / "config.json").write_text("[1]")
    with pytest.raises(StoreError, match=r"config\.json should hold a JSON object"):
        read_record(tmp_path, "a")
