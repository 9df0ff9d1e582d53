"""Whether a runtime is there, in a version that was tested."""

from importlib.metadata import version

import pytest

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes.installed import installed_versions


def test_versions_are_given():
    found = version("numpy")
    assert installed_versions("NumPy", None, {"numpy": (found,)}) == {"numpy": found}
    major = found.split(".")[0]
    assert installed_versions("NumPy", None, {"numpy": ("0", major)}) == {"numpy": found}


def test_the_beginning_of_a_number_is_not_a_version():
    found = version("numpy")
    with pytest.raises(ExportError, match="was never tested"):
        installed_versions("NumPy", None, {"numpy": (found[:-1],)})


def test_what_is_missing_is_named_with_how_to_get_it():
    with pytest.raises(ExportError, match=r"^Thing is not installed \(no-such is missing\): pip"):
        installed_versions("Thing", "export", {"no-such": ("1",)})
    with pytest.raises(ExportError, match=r"pip install no-such$"):
        installed_versions("Thing", None, {"no-such": ("1",)})
