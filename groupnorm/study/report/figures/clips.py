"""The figures of a study by norm, clips per worker and length of the clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from groupnorm.study.report.figures.final import (
    BARS,
    bars,
    interval_words,
    limits_of,
    mark_missing,
    measured,
)
from groupnorm.study.report.figures.published import clip_panel, described
from groupnorm.study.report.figures.style import (
    DASHES,
    GREY,
    FigureSpec,
    Panel,
    Style,
    log_axis,
    norm_styles,
)
from groupnorm.study.results.clips import (
    Clip,
    ceilings,
    clip_of,
    clips_of,
    families,
    line_name,
    lines_of,
)
from groupnorm.study.results.compare import first_table
from groupnorm.study.results.costs import how_timed, milliseconds
from groupnorm.study.results.labels import varied_labels
from groupnorm.study.results.published import has_clips
from groupnorm.study.results.rows import Row, Study, batch_sizes, norm_names, subject
from groupnorm.study.results.wording import axis_label, capital, noun, slug

CLIPS_LABEL = "clips per worker (N)"
_LIGHTER = (0.0, 0.4, 0.65, 0.8)  # shares of white, for fewer and fewer clips per worker
_APART = 0.06  # of the distance of two lengths, between two lines


def clip_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Results against the length of the clips, a line for each norm and clips per worker."""
    metric, styles, found = study.metric, line_styles(rows), ceilings(study, rows)
    what, limits = capital(noun(metric)), _limits(study, rows)
    panels = [
        Panel(
            _by_length(study, family, styles, found, _title(study, rows, family), limits),
            f"{what} against the length of the clips, {subject(study)}",
        )
        for family in families(rows)
    ]
    caption = (
        f"{measured(study)} against the length of the clips, all of which have one span of "
        f"the video. {interval_words(study, rows, BARS)}"
    )
    if found:
        caption += f" {_ceiling_words(found)}"
    if table := first_table(study, has_clips):
        caption += f" The small panel holds {described(table)} on its own axes."
        panels.append(clip_panel(table, metric))
    title = f"{what} against the length of the clips"
    return FigureSpec(f"{slug(metric)}-by-clip", title, caption, panels)


def clip_batch_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Results against clips per worker, a line for each norm and length of the clips."""
    metric, found = study.metric, ceilings(study, rows)
    what, limits = capital(noun(metric)), _limits(study, rows)
    panels = [
        Panel(
            _by_batch(study, rows, family, found, _title(study, rows, family), limits),
            f"{what} against clips per worker, {subject(study)}",
        )
        for family in families(rows)
    ]
    caption = (
        f"{measured(study)} against clips per worker; the largest batch is on the left. "
        f"Shorter clips are dashed. {interval_words(study, rows, BARS)}"
    )
    if found:
        caption += f" {_ceiling_words(found)}"
    title = f"{what} against clips per worker"
    return FigureSpec(f"{slug(metric)}-by-batch", title, caption, panels)


def cost_by_clip_figures(study: Study, rows: list[Row]) -> list[FigureSpec]:
    """Memory of a training step and time of a clip against frames; none where neither is known."""
    axes: tuple[tuple[str, str, str, Callable[[Row], float | None]], ...] = (
        ("memory", "memory of a training step (MiB)",
         "what a training step takes in memory on top of what is there before it, the largest of "
         "all epochs and seeds", _memory),
        ("time", "both passes (ms per clip)",
         "the time of forward and backward pass for one clip",
         lambda row: milliseconds(row.cost)),
    )  # fmt: skip
    shown = [axis for axis in axes if any(axis[-1](row) is not None for row in rows)]
    if not shown:
        return []
    panels = [
        Panel(
            _against_frames(study, rows, label, value),
            f"{capital(label)} against the frames of a clip, {subject(study)}",
        )
        for _, label, _, value in shown
    ]
    caption = (
        f"{capital(', and '.join(words for _, _, words, _ in shown))}, against the frames of a "
        "clip. Of several numbers of clips per worker the largest value is shown. "
        f"{how_timed(study.cost_pass)}"
    )
    title = f"{capital(' and '.join(name for name, *_ in shown))} against frames"
    return [FigureSpec("cost-by-clip", title, caption, panels)]


def line_styles(rows: Sequence[Row]) -> dict[tuple[str, int | None], Style]:
    """The look of every line: that of its norm, lighter and dashed for fewer clips per worker."""
    of_norm = norm_styles(norm_names(rows))
    sizes, found = batch_sizes(rows), {}
    for family in families(rows):
        for line in lines_of(family):
            place = 0 if line.batch is None else sizes.index(line.batch)
            style = of_norm[line.norm]
            share, dashes = _LIGHTER[min(place, len(_LIGHTER) - 1)], DASHES[place % len(DASHES)]
            red, green, blue = (one + share * (1 - one) for one in to_rgb(style.color))
            color = to_hex((red, green, blue))
            found[line.norm, line.batch] = Style(color, style.marker, dashes)
    return found


def _title(study: Study, rows: Sequence[Row], family: Sequence[Row]) -> str:
    """Above a panel: what was trained, and where there are several families, the norms of it."""
    title = f"This study: {subject(study)}"
    if len(family) == len(rows):
        return title
    names = [study.called(norm) for norm in norm_names(family)]
    names += [str(family[0].labels.get(name, "")) for name in varied_labels(study)]
    return f"{title}\n{', '.join(filter(None, names))}"


def _limits(study: Study, rows: Sequence[Row]) -> tuple[float, float] | None:
    """Those of the axis of results, the same in all panels of a study."""
    return limits_of(study.metric, [row.result for row in rows], *ceilings(study, rows).values())


def _ceiling_words(found: Mapping[Clip, float]) -> str:
    clips = ", ".join(f"{clip}: {ceiling:g} %" for clip, ceiling in found.items())
    return f"The grey line is the greatest accuracy that the classes permit on average ({clips})."


def _by_length(
    study: Study,
    family: Sequence[Row],
    styles: Mapping[tuple[str, int | None], Style],
    found: Mapping[Clip, float],
    title: str,
    limits: tuple[float, float] | None,
) -> Callable[[Axes], None]:
    clips, lines = clips_of(family), lines_of(family)

    def draw(ax: Axes) -> None:
        bad: list[tuple[float, Style, str]] = []
        for number, line in enumerate(lines):
            style = styles[line.norm, line.batch]
            shift = _APART * (number - (len(lines) - 1) / 2)
            points = [(clips.index(clip) + shift, row) for clip, row in line.rows.items()]
            bad += _draw_line(ax, study, points, style, line_name(study, line))
        for clip, ceiling in found.items():
            if clip in clips:
                place = clips.index(clip)
                ax.plot([place - 0.22, place + 0.22], [ceiling, ceiling], "-", color=GREY, lw=1.2,
                        label=_ceiling_name(clip))  # fmt: skip
        mark_missing(ax, bad)
        ax.set_xticks(range(len(clips)), [f"{c.frames}\n(stride {c.stride})" for c in clips])
        ax.set_xlim(-0.5, len(clips) - 0.5)
        ax.grid(visible=False, axis="x")
        ax.set_xlabel("frames of a clip")
        ax.set_ylabel(axis_label(study.metric, study.metric.title))
        ax.set_ylim(limits)
        ax.set_title(title)

    return draw


def _by_batch(
    study: Study,
    rows: Sequence[Row],
    family: Sequence[Row],
    found: Mapping[Clip, float],
    title: str,
    limits: tuple[float, float] | None,
) -> Callable[[Axes], None]:
    styles, sizes, clips = norm_styles(norm_names(rows)), batch_sizes(family), clips_of(rows)

    def draw(ax: Axes) -> None:
        log_axis(ax, sizes, CLIPS_LABEL)
        bad: list[tuple[float, Style, str]] = []
        for clip in reversed(clips):
            for norm in norm_names(family):
                mine = [r for r in family if r.labels["norm"] == norm and clip_of(r) == clip]
                mine.sort(key=lambda row: -row.labels["batch_per_worker"])
                points = [(float(row.labels["batch_per_worker"]), row) for row in mine]
                dashes = DASHES[(len(clips) - 1 - clips.index(clip)) % len(DASHES)]
                style = replace(styles[norm], dashes=dashes)
                bad += _draw_line(ax, study, points, style, f"{study.called(norm)}, {clip}")
        for clip, ceiling in found.items():
            ax.plot(sizes, [ceiling] * len(sizes), "-", color=GREY, lw=1.2,
                    label=_ceiling_name(clip))  # fmt: skip
        mark_missing(ax, bad)
        ax.set_ylabel(axis_label(study.metric, study.metric.title))
        ax.set_ylim(limits)
        ax.set_title(title)

    return draw


def _draw_line(
    ax: Axes, study: Study, points: Sequence[tuple[float, Row]], style: Style, label: str
) -> list[tuple[float, Style, str]]:
    """A line with the intervals of its means; returns what has none, for `mark_missing`.

    A hollow marker is a mean that some seeds are missing from.
    """
    means = [row.mean if row.mean is not None else math.nan for _, row in points]
    xs = [x for x, _ in points]
    ax.errorbar(xs, means, yerr=bars(study.metric, [row.result for _, row in points]),
                color=style.color, marker=style.marker, ls=style.dashes, lw=1.5, ms=5.5,
                capsize=2.5, elinewidth=1.1, label=label)  # fmt: skip
    for x, row in points:
        if row.mean is not None and row.status != "finished":
            ax.plot(x, row.mean, marker=style.marker, color=style.color, mfc="white")
    return [(x, style, row.status) for x, row in points if row.result is None]


def _ceiling_name(clip: Clip) -> str:
    return f"ceiling of {clip}"


def _memory(row: Row) -> float | None:
    return None if row.step_memory_bytes is None else row.step_memory_bytes / 2**20


def _against_frames(
    study: Study, rows: Sequence[Row], label: str, value: Callable[[Row], float | None]
) -> Callable[[Axes], None]:
    styles, clips = norm_styles(norm_names(rows)), clips_of(rows)

    def draw(ax: Axes) -> None:
        for norm in norm_names(rows):
            mine = [row for row in rows if row.labels["norm"] == norm]
            here = {
                clip: [v for row in mine if clip_of(row) == clip and (v := value(row))]
                for clip in clips
            }
            points = [(clip.frames, max(values)) for clip, values in here.items() if values]
            if points:
                ax.plot(*zip(*points, strict=True), color=styles[norm].color,
                        marker=styles[norm].marker, ls=styles[norm].dashes,
                        label=study.called(norm))  # fmt: skip
        ax.set_xticks([clip.frames for clip in clips])
        ax.set_xlim(0, 1.1 * clips[-1].frames)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("frames of a clip")
        ax.set_ylabel(label)
        ax.set_title(f"This study: {subject(study)}")

    return draw
