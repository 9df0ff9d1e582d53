"""What converters print and raise."""

import logging
import sys
import warnings

import pytest

from groupnorm.export.runtimes.quiet import first, quiet


def test_converters_are_kept_quiet(capsys):
    with quiet():
        warnings.warn("loud", stacklevel=1)
        sys.stderr.write("a bar")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_the_callers_level_of_logging_is_as_it_was(level, monkeypatch):
    monkeypatch.setattr(logging.root.manager, "disable", level)
    with quiet():
        with quiet():
            assert logging.root.manager.disable == max(level, logging.ERROR)
        assert logging.root.manager.disable == max(level, logging.ERROR)
    assert logging.root.manager.disable == level


def test_an_error_leaves_logging_as_it_was(monkeypatch):
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    with pytest.raises(RuntimeError, match="a step failed"), quiet():
        raise RuntimeError("a step failed")
    assert logging.root.manager.disable == logging.INFO


def test_the_first_error_counts():
    error = RuntimeError("step 3 of 3 failed")
    error.__cause__ = KeyError("no such operator")
    assert first(error) == "'no such operator'"
    assert first(ValueError("\x1b[96m\n  red\x1b[0m\nmore")) == "red"
    assert first(ValueError()) == "no message"
