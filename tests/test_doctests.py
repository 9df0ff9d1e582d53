"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import groupnorm

ROOT = Path(groupnorm.__file__).parent
MODULES = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_some_modules_have_examples():
    assert len(MODULES) >= 3
