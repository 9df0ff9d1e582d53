import sys

import pytest

from groupnorm.lazy import lazy


def test_a_module_is_imported_when_its_name_is_used(tmp_path, monkeypatch):
    (tmp_path / "heavy_part.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    load = lazy("package", {"ANSWER": "heavy_part"})
    assert "heavy_part" not in sys.modules
    assert load("ANSWER") == 42
    assert sys.modules.pop("heavy_part")


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'other'"):
        lazy("package", {})("other")
