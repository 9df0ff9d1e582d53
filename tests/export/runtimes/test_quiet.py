"""What converters print and raise."""

import sys
import warnings

from groupnorm.export.runtimes.quiet import first, quiet


def test_converters_are_kept_quiet(capsys):
    with quiet():
        warnings.warn("loud", stacklevel=1)
        sys.stderr.write("a bar")
    assert capsys.readouterr().err == ""


def test_the_first_error_counts():
    error = RuntimeError("step 3 of 3 failed")
    error.__cause__ = KeyError("no such operator")
    assert first(error) == "'no such operator'"
    assert first(ValueError("\x1b[96m\n  red\x1b[0m\nmore")) == "red"
    assert first(ValueError()) == "no message"
