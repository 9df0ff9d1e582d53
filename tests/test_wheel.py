"""What is installed: every file of the package, also where it is not installed editable."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_patterns_of_left_out_files_are_anchored():
    """`results` alone would leave out groupnorm/study/results, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["scikit-build"]["sdist"]["exclude"]
    assert [pattern for pattern in patterns if not pattern.startswith("/")] == []


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    tracked = subprocess.run(
        ["git", "ls-files", "groupnorm"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-Cwheel.cmake=false"]
    done = subprocess.run([*build, "-w", tmp_path, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(tracked.stdout.split()) - names == set()
