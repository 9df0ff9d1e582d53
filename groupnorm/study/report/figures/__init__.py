"""The figures of a report: which there are. Every panel is drawn from rows and records alone."""

from __future__ import annotations

from groupnorm.study.report.figures import curves, final
from groupnorm.study.report.figures.clips import (
    clip_batch_figure,
    clip_figure,
    cost_by_clip_figures,
    line_styles,
)
from groupnorm.study.report.figures.conversions import conversion_figures
from groupnorm.study.report.figures.cost import cost_figures
from groupnorm.study.report.figures.precision import precision_figures
from groupnorm.study.report.figures.responses import response_figures
from groupnorm.study.report.figures.search import search_figure
from groupnorm.study.report.figures.style import FigureSpec
from groupnorm.study.results.rows import Row, Study, batch_sizes


def build_figures(study: Study, rows: list[Row]) -> list[FigureSpec]:
    """The figures of a study, in the report's order; the first is the main one."""
    if study.search is not None:
        return [search_figure(study, rows)]
    kind = study.manifest["shows"]
    if kind == "conversions":
        return conversion_figures(study.conversions)
    if kind == "arms":
        return [
            final.arms_figure(study, rows),
            curves.arm_figure(study, rows),
            *precision_figures(study, rows),
            *cost_figures(study, rows),
        ]
    if kind == "fine-tuning":
        return [curves.step_figure(study, rows)]
    if kind == "clips":
        return [
            clip_figure(study, rows),
            clip_batch_figure(study, rows),
            *curves.clip_figures(study, rows, line_styles(rows)),
            *cost_by_clip_figures(study, rows),
        ]
    after = [*response_figures(study, rows), *cost_figures(study, rows)]
    if kind == "groups":
        return [final.groups_figure(study, rows), *curves.group_figures(study, rows), *after]
    batches = batch_sizes(rows)
    figures = [(final.batch_figure if kind == "batch-size" else final.norms_figure)(study, rows)]
    if any(row.precise for row in rows):
        figures.append(final.recomputed_figure(study, rows))
    figures.append(curves.norm_figure(study, rows))
    if len(batches) > 1:
        figures.append(curves.batch_figure(study, rows))
    return [*figures, *after]


__all__ = ["build_figures"]
