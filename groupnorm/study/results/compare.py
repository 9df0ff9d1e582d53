"""What a study measured beside what was published: finding the number, the rows of the section."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from groupnorm.spec import NormSpec, NormSpecError
from groupnorm.study.metrics import titles_of
from groupnorm.study.results.clips import Clip, clip_of, clips_of
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import (
    NOTHING,
    estimate_text,
    label_cells,
    label_text,
    row_text,
)
from groupnorm.study.results.published import (
    Published,
    PublishedValue,
    has_arms,
    has_clips,
    load,
    published_clips,
    published_text,
    results_by_arm,
    values,
)
from groupnorm.study.results.rows import (
    ONCE,
    Row,
    Study,
    batch_sizes,
    by_runs,
    norm_names,
    trained,
    trained_once,
)
from groupnorm.study.results.wording import unit_in_full
from groupnorm.study.store import StoreError
from groupnorm.training.metric import Metric

COMPARISON_HEADER = ["configuration", "measured", "published", "source"]
_AS_GROUPS = {"ln": "gn:groups=1", "in": "gn:size=1"}


@dataclass(frozen=True)
class PublishedComparison:
    """One published table beside a study.

    Attributes:
        table: the table.
        words: its title, setting and note, and what may be compared.
        lines: [configuration, measured, published, source] for each configuration the table has
            a number of the study's metric for; empty when there is none. Of a table of arms all
            its lines.
        header: what stands above them.
    """

    table: Published
    words: str
    lines: list[list[str]]
    header: list[str]


def find(
    table: Published,
    *,
    model: str | None = None,
    norm: str,
    batch_per_worker: int | None = None,
    division: str | None = None,
    value: int | None = None,
) -> PublishedValue | None:
    """The table's number for a configuration, whatever the table's form.

    What either side leaves open (None) fits everything. A norm is found under its own spec, layer
    and instance norm also as the group norms they are; failing that, without `division`, under the
    only spec of its kind ("gn:groups=8" under "gn"), which the answer's `norm` then tells. Where
    several runs are listed, the answer is their mean and spread.

    Args:
        model: counts only in a table that lists models.
        batch_per_worker: as in the study's labels.
        division: "groups" or "size", with `value`, in a study of group divisions.

    Returns:
        None when the table has no such number.
    """
    candidates = [
        found
        for found in values(table)
        if (table.model is not None or model is None or same_name(found.model, model))
        and (None in (found.batch_per_worker, batch_per_worker)
             or found.batch_per_worker == batch_per_worker)
    ]  # fmt: skip
    if division is not None:
        divided = [v for v in candidates if (v.division, v.value) == (division, value)]
        return _mean(divided or [v for v in candidates if v.division is None and v.norm == norm])
    spec = match(norm, [found.norm for found in candidates])
    return _mean([found for found in candidates if found.norm == spec])


def match(norm: str, others: Iterable[str]) -> str | None:
    """The spec among `others` that stands for `norm`: the same, else the only one of its kind."""
    known = dict.fromkeys(others)
    for same in (norm, _AS_GROUPS.get(norm)):
        if same in known:
            return same
    kind = _kind(norm)
    alike = [other for other in known if kind is not None and _kind(other) == kind]
    return alike[0] if len(alike) == 1 else None


def same_name(a: str | None, b: str | None) -> bool:
    """Whether two names of models or data sets are one, as "ResNet-50" and "resnet50"."""
    return a is not None and b is not None and _plain(a) == _plain(b)


def compares_in_size(table: Published, study: Study) -> bool:
    """Whether table and study share models and data: more than directions compare then.

    A table may name several models, with "and" between; one that lists them in `data` fits a study
    of one.
    """
    models, data = trained(study)
    named = models[:1] if table.model is None else table.model.split(" and ")
    same_models = sorted(map(_plain, named)) == sorted(map(_plain, models))
    return bool(models) and same_models and same_name(table.dataset, data)


def compare_published(study: Study, rows: Sequence[Row]) -> list[PublishedComparison]:
    """Every published table of a study with the rows it has numbers for, in the manifest's order.

    A table at one batch size stands beside the rows of that size; where the study has none, beside
    those of its largest, and the published number then says at which size it was measured. A table
    of arms is there as it was published; arms of the study that are called the same stand in it. A
    table of clips is there with every row of the study; where both have as many lengths of clips,
    the shortest of both stand in one line, and so on.
    """
    found = []
    for table in compared_tables(study.manifest):
        header, lines = COMPARISON_HEADER, _lines(table, study, rows)
        if study.axis != "norm" and has_arms(table):
            header, lines = _arm_lines(table, study, rows)
        if study.of_clips and has_clips(table):
            header, lines = _clip_lines(table, study, rows)
        found.append(PublishedComparison(table, _words(table, study), lines, header))
    return found


def compared_tables(manifest: dict[str, Any]) -> list[Published]:
    """The published tables to put beside a study, in the manifest's order.

    Raises:
        StoreError: the manifest names a table that does not exist.
    """
    try:
        return [load(name) for name in manifest["published"]]
    except ValueError as error:
        raise StoreError(f"study.json: {error}") from None


def first_table(study: Study, fits: Callable[[Published], bool]) -> Published | None:
    """The first of the study's published tables, when it has the form and the metric asked for."""
    for table in compared_tables(study.manifest)[:1]:
        if table.unit == unit_in_full(study.metric) and fits(table):
            return table
    return None


def _lines(table: Published, study: Study, rows: Sequence[Row]) -> list[list[str]]:
    if study.axis != "norm" or table.unit != unit_in_full(study.metric):
        return []
    sizes = set(batch_sizes(rows))
    stand_in = max(sizes, default=None)
    published = {found.batch_per_worker for found in values(table)}
    only = next(iter(published)) if len(published) == 1 else None
    once = trained_once(rows)
    lines = []
    for row in rows:
        batch = row.labels["batch_per_worker"]
        if len(published) == 1 and only not in sizes:
            if batch != stand_in:
                continue
            batch = only
        found = find(
            table,
            model=_model(study, row),
            norm=row.labels["norm"],
            batch_per_worker=batch,
            division=row.labels.get("division"),
            value=row.labels.get("value"),
        )
        if found:
            labels = {**row.labels, "norm": study.called(row.labels["norm"])}
            name = label_text(labels, study.manifest.get("tuned_over"))
            if row.labels["norm"] in once:
                name += f" {ONCE}"
            lines.append([name, _measured(row), _published(found, row), str(table.source)])
    return lines


def _arm_lines(
    table: Published, study: Study, rows: Sequence[Row]
) -> tuple[list[str], list[list[str]]]:
    """A line for each published arm; where one is an arm of the study, its results before it."""
    published = results_by_arm(table)
    names = list(dict.fromkeys(name for results in published.values() for name in results))
    known = {metric.name: metric for metric in (study.metric, *study.further)}
    titles = titles_of(study.records)
    measured = {arm: row for arm in published if (row := _only_row(rows, arm))}
    header, shown = ["arm"], []
    for name in names:
        title = titles.get(name, name.replace("_", " "))
        for where in ("here", "published") if measured and name in known else ("published",):
            header.append(f"{title}, {where}" if measured else title)
            shown.append((name, where))
    lines = []
    for arm, results in published.items():
        row = measured.get(arm)
        cells = [
            _result_cell(row, study, known.get(name)) if where == "here"
            else _number(results.get(name))
            for name, where in shown
        ]  # fmt: skip
        lines.append([arm, *cells])
    return header, lines


def _clip_lines(
    table: Published, study: Study, rows: Sequence[Row]
) -> tuple[list[str], list[list[str]]]:
    """A line for each published result with the row that stands for it, then the other rows."""
    published = published_clips(table)
    ours = clips_of(rows)
    theirs = sorted({Clip(found.frames, found.stride) for found in published})
    here = dict(zip(theirs, ours, strict=True)) if len(theirs) == len(ours) else {}
    known = [one for one in (study.metric, *study.further) if one.name in table.data]
    header = ["norm", "frames", "clips per worker"]
    header += [f"{metric.title}, {where}" for metric in known for where in ("here", "published")]
    lines, used = [], []
    for found in published:
        clip = Clip(found.frames, found.stride)
        norm = match(found.norm, norm_names(rows))
        wanted = (norm, found.batch_per_worker, here.get(clip, clip))
        row = next((one for one in rows if _place(one) == wanted), None)
        frames = str(found.frames)
        if row is not None and clip_of(row) != clip:
            frames = f"{row.labels['frames']} here, {frames} published"
        cells = [
            text
            for metric in known
            for text in (_result_cell(row, study, metric), _number(found.results.get(metric.name)))
        ]
        name = study.called(row.labels["norm"]) if row else found.norm
        lines.append([name, frames, str(found.batch_per_worker), *cells])
        used += [] if row is None else [row.runs]
    for same in by_runs(row for row in rows if row.runs not in used):
        cells = [text for one in known for text in (_result_cell(same[0], study, one), NOTHING)]
        name, _, batches, *_ = label_cells(study, same)
        lines.append([name, str(same[0].labels["frames"]), batches, *cells])
    return header, lines


def _place(row: Row) -> tuple[str, int, Clip]:
    return row.labels["norm"], row.labels["batch_per_worker"], clip_of(row)


def _number(result: float | None) -> str:
    return NOTHING if result is None else published_text(result)


def _only_row(rows: Sequence[Row], arm: str) -> Row | None:
    """The row of an arm, unless other labels make several of it."""
    found = [row for row in rows if row.labels["arm"] == arm]
    return found[0] if len(found) == 1 else None


def _result_cell(row: Row | None, study: Study, metric: Metric | None) -> str:
    if row is None or metric is None:
        return NOTHING
    return row_text(row, row.result if metric == study.metric else row.further_result(metric))


def _measured(row: Row) -> str:
    if row.result is None:
        return row_text(row, None)
    text = estimate_text(row.result, 2)
    if row.status != "finished":
        text += f" ({row.asked - row.finished} of {row.asked} not finished)"
    return text + (f"; recomputed {estimate_text(row.precise, 2)}" if row.precise else "")


def _published(found: PublishedValue, row: Row) -> str:
    text = published_text(found.result)
    if found.spread is not None:
        text += f" ± {decimal_text(found.spread, 2)}"
    other = [] if found.norm == row.labels["norm"] or found.division else [found.norm]
    if found.batch_per_worker not in (None, row.labels["batch_per_worker"]):
        other.append(f"{found.batch_per_worker} images per worker")
    return f"{text} ({', '.join(other)})" if other else text


def _words(table: Published, study: Study) -> str:
    models, data = trained(study)
    text = f"{table.title} ({table.source}): {table.setting}. {table.note}".rstrip()
    if compares_in_size(table, study):
        return f"{text} Model and data are those of this study; the recipes may still differ."
    return (
        f"{text} This study trained {', '.join(models) or 'a model'} on {data}: only the "
        "direction of differences compares."
    )


def _mean(found: list[PublishedValue]) -> PublishedValue | None:
    if len(found) < 2:
        return found[0] if found else None
    results = [one.result for one in found]
    first = found[0]
    return PublishedValue(
        first.norm, fmean(results), stdev(results), first.model, first.batch_per_worker,
        first.division, first.value,
    )  # fmt: skip


def _model(study: Study, row: Row) -> str | None:
    configs = (study.records[name].config for name in row.runs)
    return next((config["model"] for config in configs if "model" in config), None)


def _kind(norm: str) -> tuple[Any, ...] | None:
    try:
        spec = NormSpec.parse(norm)
    except NormSpecError:
        return None
    return spec.kind, spec.affine, spec.ws, spec.nf


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
