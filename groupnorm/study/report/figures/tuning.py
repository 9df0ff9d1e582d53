"""The figure of a tuned study: results on validation images against the values tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from groupnorm.study.report.figures.final import mark_missing
from groupnorm.study.report.figures.style import (
    MARKERS,
    FigureSpec,
    Panel,
    Style,
    norm_styles,
    sequence_colors,
    with_margin,
)
from groupnorm.study.results.labels import row_name
from groupnorm.study.results.published import DIVISIONS
from groupnorm.study.results.rows import Row, batch_sizes
from groupnorm.study.results.tuning import Tuning
from groupnorm.study.results.wording import axis_label, capital, noun, per_worker, slug

FIELD_WORDS = {
    "base_lr": "learning rate",
    "weight_decay": "weight decay",
    "warmup_epochs": "epochs of warm-up",
    "momentum": "momentum",
}


def tuning_figure(tuning: Tuning) -> FigureSpec:
    """Results against the values tried, a panel for each batch size or way of dividing.

    A panel has a line for each norm, or for each division; all have the same axis of results, and
    a ring is around the value chosen.
    """
    words = FIELD_WORDS.get(tuning.field, tuning.field)
    images = "test images" if tuning.validation_images is None else "validation images"
    metric, shows = tuning.study.metric, tuning.study.manifest["shows"]
    what = capital(noun(metric))
    grouped = {"groups": _by_division, "arms": _by_arm}.get(shows, _by_batch)(tuning)
    panels = []
    for title, lines in grouped.items():
        draw = _drawer(tuning, lines, title, axis_label(metric, f"{noun(metric)} on {images}"))
        panels.append(Panel(draw, f"{what} on {images} against {words}, {title}"))
    points = (
        "each point the mean of its seeds"
        if tuning.validation_images is None
        else "one run a point"
    )
    caption = (
        f"{what} on {images} against the {words} ({tuning.field}), {points}. A ring is around the "
        f"value chosen. Where lines cross, the order of the {tuning.study.axis}s depends on the "
        f"{words}."
    )
    if shows == "groups":
        caption = caption.replace("order of the norms", "best division")
    return FigureSpec(f"{slug(metric)}-by-{tuning.field}", f"{what} by {words}", caption, panels)


Lines = list[tuple[str, Style, list[Row]]]


def _by_batch(tuning: Tuning) -> dict[str, Lines]:
    axis, sizes = tuning.study.axis, batch_sizes(tuning.rows)
    if tuning.study.of_fine_tuning:  # whose figures begin with the fewest
        sizes.reverse()
    names = list(dict.fromkeys(row.labels[axis] for row in tuning.rows))
    styles = norm_styles(names)
    return {
        per_worker(batch): [
            (tuning.study.called(name), styles[name], mine)
            for name in names
            if (mine := _rows(tuning, **{axis: name}, batch_per_worker=batch))
        ]
        for batch in sizes
    }


def _by_arm(tuning: Tuning) -> dict[str, Lines]:
    styles = norm_styles(row.labels["arm"] for row in tuning.rows)
    named: dict[str, list[Row]] = {}
    for row in tuning.rows:
        named.setdefault(row_name(tuning.study, row), []).append(row)
    lines = [(name, styles[rows[0].labels["arm"]], rows) for name, rows in named.items()]
    return {"every arm": lines}


def _by_division(tuning: Tuning) -> dict[str, Lines]:
    found: dict[str, Lines] = {}
    for division, words in DIVISIONS.items():
        mine = [row for row in tuning.rows if row.labels["division"] == division]
        values = sorted({row.labels["value"] for row in mine}, reverse=True)
        colors = sequence_colors(len(values))
        if mine:
            found[f"by {words}"] = [
                (str(value), Style(color, MARKERS[index % len(MARKERS)]), rows)
                for index, (value, color) in enumerate(zip(values, colors, strict=True))
                if (rows := _rows(tuning, division=division, value=value))
            ]
    return found


def _rows(tuning: Tuning, **labels: Any) -> list[Row]:
    return [r for r in tuning.rows if all(r.labels[k] == v for k, v in labels.items())]


def _drawer(tuning: Tuning, lines: Lines, title: str, label: str) -> Callable[[Axes], None]:
    """The values stand side by side, whatever their distance: they are usually multiples."""
    places = {value: place for place, value in enumerate(tuning.values)}
    limits = with_margin(row.mean for row in tuning.rows if row.mean is not None)

    def draw(ax: Axes) -> None:
        bad: list[tuple[float, Style, str]] = []
        for name, style, rows in lines:
            points = {places[row.labels[tuning.field]]: row for row in rows}
            line = [(place, row.result.mean) for place, row in sorted(points.items()) if row.result]
            ax.plot([x for x, _ in line], [y for _, y in line], color=style.color,
                    marker=style.marker, ls=style.dashes, label=name)  # fmt: skip
            for place, row in points.items():
                if row.mean is None:
                    bad.append((place, style, row.status))
                elif row in tuning.chosen:
                    ax.plot(place, row.mean, "o", ms=12, mfc="none", mec=style.color, mew=1.4)
        ax.set_xticks(range(len(places)), [str(value) for value in places])
        ax.set_xlim(-0.5, len(places) - 0.5)
        if limits is not None:
            ax.set_ylim(limits)
        mark_missing(ax, bad)
        ax.set_xlabel(f"{FIELD_WORDS.get(tuning.field, tuning.field)} ({tuning.field})")
        ax.set_ylabel(label)
        ax.set_title(title)

    return draw
