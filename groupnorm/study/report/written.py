"""Which figures a report has written, so that the next one removes those that it does not have.

A study that grows or changes has other figures than before, and so has a folder that another
version wrote. Files that no report has written stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from groupnorm.study.store import StoreError

LIST = "figures/.written.json"
_FIGURE = re.compile(r"figures/[\w-]+(\.[\w-]+)*\.(svg|pdf|png)")


def figure_list(names: Iterable[str]) -> str:
    """The text of `LIST`: the figures among the files that a report writes."""
    return json.dumps(_figures(names), indent=2) + "\n"


def stale_figures(out: Path, names: Iterable[str]) -> list[Path]:
    """The figures that a report wrote into `out` before and that are not among `names`.

    Args:
        names: what the report writes now, from `out` on.

    Raises:
        StoreError: the list of what was written before is damaged.
    """
    stale = sorted(set(_written_before(out)).difference(_figures(names)))
    return [out / name for name in stale if (out / name).is_file()]


def _figures(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if _FIGURE.fullmatch(name))


def _written_before(out: Path) -> list[str]:
    path = out / LIST
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_bytes())
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(
        isinstance(name, str) and _FIGURE.fullmatch(name) for name in names
    ):
        raise StoreError(
            f"{path} is not a list of figures. Delete it: figures of earlier reports then stay"
        )
    return names
