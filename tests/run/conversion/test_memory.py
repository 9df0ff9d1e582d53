"""The memory that images of a conversion need, and what is free."""

import pytest

from groupnorm.run.conversion import memory
from groupnorm.run.conversion.memory import _free_memory, check_memory


def test_images_that_do_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr(memory, "_free_memory", lambda: 1_000_000_000)
    check_memory(100, 512)
    with pytest.raises(
        ValueError,
        match=r"1,000 images of 512 x 512 pixels take 3\.1 GB once decoded, and about 1\.0 GB",
    ):
        check_memory(1000, 512)
    with pytest.raises(ValueError, match="of 1 to 4,096 pixels a side, got a size of 5,000"):
        check_memory(1, 5000)


def test_what_is_free_of_a_containers_limit(tmp_path):
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert _free_memory(machine, tmp_path) == 5120
    for name, text in (
        ("max", "9000"),
        ("current", "8000"),
        ("stat", "anon 1\ninactive_file 200\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    assert _free_memory(machine, tmp_path) == 1200
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_memory(machine, tmp_path) == 5120
    assert _free_memory(tmp_path / "none", tmp_path) is None
