"""A study by norm, clips per worker and length of the clips: which rows stand together in it.

Clips of one span that differ in their length differ in their frame rate: the shorter one has every
second frame of the longer one, say. Some classes may be alike at the lower rate. The data set then
knows the greatest accuracy that is possible there, the ceiling.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import (
    FIRST_LABELS_OF_CLIPS,
    clip_text,
    standardizes_weights,
)
from groupnorm.study.results.rows import Row, Study, norm_names, trained_once


class Clip(NamedTuple):
    """A length of the clips: `frames` frames, each `stride` frames of the video after the last."""

    frames: int
    stride: int

    def __str__(self) -> str:
        return clip_text(self._asdict())


class Line(NamedTuple):
    """A norm at one number of clips per worker, or at all of them where it was trained once.

    Attributes:
        batch: clips per worker; None: all of them.
        rows: by the length of the clips, the shortest first.
    """

    norm: str
    batch: int | None
    rows: dict[Clip, Row]


def clip_of(row: Row) -> Clip:
    """The length of a row's clips."""
    return Clip(row.labels["frames"], row.labels["stride"])


def clips_of(rows: Sequence[Row]) -> list[Clip]:
    """Every length of the clips of some rows, the shortest first."""
    return sorted({clip_of(row) for row in rows})


def families(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in parts that are compared within themselves: plain norms, and those with WS.

    Rows that differ in a further label, as in the length of the training, are apart, too.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        further = {k: v for k, v in row.labels.items() if k not in FIRST_LABELS_OF_CLIPS}
        key = json.dumps([standardizes_weights(row.labels["norm"]), further], sort_keys=True)
        found.setdefault(key, []).append(row)
    return list(found.values())


def alike(family: Sequence[Row]) -> list[list[Row]]:
    """The rows of one of the `families` in groups of one length and one number of clips per worker.

    The shortest clips first, and of these the most clips per worker.
    """
    groups: dict[tuple[Clip, int], list[Row]] = {}
    for row in family:
        groups.setdefault((clip_of(row), -row.labels["batch_per_worker"]), []).append(row)
    return [groups[key] for key in sorted(groups)]


def lines_of(family: Sequence[Row]) -> list[Line]:
    """Every norm of one of the `families`, that with the most clips per worker first."""
    found = []
    for norm in norm_names(family):
        of_norm = [row for row in family if row.labels["norm"] == norm]
        clips = clips_of(of_norm)
        if all(norm in trained_once(r for r in of_norm if clip_of(r) == clip) for clip in clips):
            first = {clip_of(row): row for row in reversed(of_norm)}
            found.append(Line(norm, None, {clip: first[clip] for clip in clips}))
            continue
        for batch in sorted({row.labels["batch_per_worker"] for row in of_norm}, reverse=True):
            mine = {clip_of(r): r for r in of_norm if r.labels["batch_per_worker"] == batch}
            found.append(Line(norm, batch, {clip: mine[clip] for clip in sorted(mine)}))
    return found


def longer_clips(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows with longer clips than the shortest, each behind the row of these.

    Both have one norm, one number of clips per worker, and the same further labels.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        same = {k: v for k, v in row.labels.items() if k not in Clip._fields}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(row)
    pairs = []
    for group in groups.values():
        shortest, *longer = sorted(group, key=clip_of)
        pairs += [(shortest, row) for row in longer]
    return pairs


def line_name(study: Study, line: Line) -> str:
    """What a line is called, e.g. "bn, 4 clips per worker"."""
    name = study.called(line.norm)
    return name if line.batch is None else f"{name}, {line.batch} clips per worker"


def ceilings(study: Study, rows: Sequence[Row]) -> dict[Clip, float]:
    """The greatest accuracy that the data set permits, in percent, by the lengths that have one."""
    known = study.manifest["data"].get("ceilings", {})
    every = {clip: known.get(str(clip.stride)) for clip in clips_of(rows)}
    return {clip: ceiling for clip, ceiling in every.items() if ceiling is not None}


def ceiling_note(study: Study, rows: Sequence[Row]) -> str:
    """What the ceilings are, as sentences; empty where no clip has one."""
    name = study.manifest["data"]["name"]
    return " ".join(
        f"In clips of {clip} some classes of {name} are alike, so that no more than "
        f"{decimal_text(ceiling)} % of the videos can be told right on average."
        for clip, ceiling in ceilings(study, rows).items()
    )
