"""Folders of detectors that were trained for a step, made by `groupnorm train`."""

import functools
import tempfile
from pathlib import Path

from tests.cli.commands import typed
from tests.data.detection.tiny_garments import FIELDS, tiny_garments


@functools.cache
def tiny_detector(**changes):
    """The folder of a run; one for all tests of a process, which leave it as it is."""
    folder = tempfile.TemporaryDirectory(prefix="detector-")
    _FOLDERS.append(folder)
    fields = {**FIELDS, "steps": 1, "workers": 1, "norms": {}, **changes}
    del fields["norms"]
    given = [f"{key}={value}" for key, value in fields.items()]
    done = typed("train", *given, "--data-root", tiny_garments(), "--out", folder.name)
    assert done.returncode == 0, done.stderr
    return Path(folder.name)


_FOLDERS = []
