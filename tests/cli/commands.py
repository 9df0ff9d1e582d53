"""The installed command, as a user types it."""

import shutil
import subprocess
import sys
from pathlib import Path


def command():
    """The installed `groupnorm` command beside this Python, or the one on the path."""
    beside = Path(sys.executable).with_name("groupnorm")
    found = str(beside) if beside.exists() else shutil.which("groupnorm")
    assert found, "install the package first: pip install -e '.[test]'"
    return found


def groupnorm(*arguments, cwd=None, check=True):
    done = subprocess.run(
        [command(), *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=600
    )
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
    return done
