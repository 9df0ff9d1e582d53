"""What a study's report shows: its kind, and the published tables that stand beside it.

Records from before a manifest said so are read as their reports were then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from groupnorm.study.results import published
from groupnorm.study.results.published import Published
from groupnorm.study.results.rows import Study
from groupnorm.study.store import StoreError

# Each kind of report, and the published table beside it unless a manifest names others.
KINDS = {
    "batch-size": "imagenet-batch-size",
    "norms": "imagenet-norms",
    "groups": "imagenet-groups",
}


def report_kind(manifest: dict[str, Any]) -> str:
    """The kind of report: "batch-size", "norms" or "groups".

    Without a word in the manifest: "groups" for the study of that name, else "batch-size" when the
    cells have several batches per worker.

    Raises:
        StoreError: the manifest names a kind that does not exist.
    """
    kind = manifest.get("shows")
    if kind is not None:
        if kind not in KINDS:
            raise StoreError(f"study.json shows {kind!r}; known kinds: {', '.join(KINDS)}")
        return str(kind)
    if manifest["study"] == "groups":
        return "groups"
    batches = {cell["labels"]["batch_per_worker"] for cell in manifest["cells"]}
    return "batch-size" if len(batches) > 1 else "norms"


def compared_tables(manifest: dict[str, Any]) -> list[Published]:
    """The published tables to put beside a study, in the manifest's order.

    Raises:
        StoreError: the manifest names a table that does not exist.
    """
    names = manifest.get("published")
    if names is None:
        names = [KINDS[report_kind(manifest)]]
    try:
        return [published.load(name) for name in names]
    except ValueError as error:
        raise StoreError(f"study.json: {error}") from None


def first_table(study: Study, fits: Callable[[Published], bool]) -> Published | None:
    """The first of the study's published tables, when it has the form asked for."""
    tables = compared_tables(study.manifest)
    return tables[0] if tables and fits(tables[0]) else None
